"""Tables of network links, and the clock that says when each link is busy and when a message arrives."""

import fcntl
import mmap
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

__all__ = ["HasLinks", "LinkClock", "LinkTable", "Passage"]


class HasLinks(Protocol):
    """Anything with delays in seconds and bandwidths in Gbit/s, [N, N] each."""

    delay: np.ndarray
    bandwidth: np.ndarray


@dataclass(frozen=True, eq=False)
class LinkTable:
    """Delay and bandwidth of every ordered pair of ranks.

    Attributes:
        delay: [N, N] one-way seconds; row = sender. The diagonal is not used.
        bandwidth: [N, N] bit/s; infinity means a free link. The diagonal is not used.
        machine: the machine of each rank, for ranks that share a network card; None when none do.
        nic: bit/s of each machine's card, which all traffic to other machines passes; None when it never limits.

    Raises:
        ValueError: shapes that do not agree, negative or non-finite delays, bandwidths that are not positive.
    """

    delay: np.ndarray
    bandwidth: np.ndarray
    machine: tuple[int, ...] | None = None
    nic: float | None = None

    def __post_init__(self) -> None:
        delay, bandwidth = np.array(self.delay, dtype=float), np.array(self.bandwidth, dtype=float)
        if delay.ndim != 2 or delay.shape[0] != delay.shape[1] or delay.shape != bandwidth.shape:
            raise ValueError(f"delay and bandwidth must be [N, N] alike; got {delay.shape} and {bandwidth.shape}")
        np.fill_diagonal(delay, 0.0)
        np.fill_diagonal(bandwidth, np.inf)
        if not np.isfinite(delay).all() or (delay < 0).any():
            raise ValueError("every delay must be a finite number of seconds, 0 or more")
        if np.isnan(bandwidth).any() or (bandwidth <= 0).any():
            raise ValueError("every bandwidth must be above 0 bit/s; leave a link out by giving it a tiny bandwidth")
        if (self.machine is None) != (self.nic is None):
            raise ValueError("give machine and nic together, or neither")
        if self.machine is not None and (len(self.machine) != len(delay) or not self.nic or self.nic <= 0):
            raise ValueError(f"machine needs one entry per rank ({len(delay)}) and nic must be above 0 bit/s")
        delay.flags.writeable = bandwidth.flags.writeable = False
        object.__setattr__(self, "delay", delay)
        object.__setattr__(self, "bandwidth", bandwidth)

    @property
    def size(self) -> int:
        """Number of ranks."""
        return len(self.delay)

    @classmethod
    def uniform(cls, size: int, delay: float, bandwidth: float) -> "LinkTable":
        """The same delay (s) and bandwidth (bit/s) between any two ranks."""
        return cls(np.full((size, size), delay), np.full((size, size), bandwidth))

    @classmethod
    def of_regions(
        cls, regions: Sequence[Any], inside: tuple[float, float], across: tuple[float, float],
    ) -> "LinkTable":
        """One (delay s, bandwidth bit/s) between ranks of one region, another between regions; a label per rank."""
        label = np.asarray(regions)
        same = label[:, None] == label[None, :]
        return cls(np.where(same, inside[0], across[0]), np.where(same, inside[1], across[1]))

    @classmethod
    def from_network(cls, network: HasLinks) -> "LinkTable":
        """The links of an object with ``delay`` in seconds and ``bandwidth`` in Gbit/s."""
        return cls(network.delay, np.asarray(network.bandwidth) * 1e9)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; an infinite bandwidth becomes None."""
        bandwidth = [[None if np.isinf(b) else float(b) for b in row] for row in self.bandwidth]
        return {"delay": self.delay.tolist(), "bandwidth": bandwidth,
                "machine": list(self.machine) if self.machine is not None else None, "nic": self.nic}

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> "LinkTable":
        """The inverse of :meth:`to_dict`."""
        bandwidth = np.array([[np.inf if b is None else b for b in row] for row in plain["bandwidth"]])
        machine = tuple(plain["machine"]) if plain.get("machine") is not None else None
        return cls(np.array(plain["delay"]), bandwidth, machine, plain.get("nic"))


class Passage(NamedTuple):
    """When a message enters its link, has left the sender, and may be read; seconds on the clock of ``now``."""

    start: float
    left: float
    arrives: float


class LinkClock:
    """Until when each link is busy. The live group and any model of it share this rule, which reads no clock itself."""

    def __init__(self, links: LinkTable, nic_file: Path | None = None) -> None:
        """``nic_file``: shared by the processes of a group, needed when their ranks share network cards."""
        self.links = links
        self._busy = np.zeros((links.size, links.size))
        cards = max(links.machine) + 1 if links.machine is not None else 0
        self._cards = _SharedBusy(nic_file, cards) if nic_file and cards else _Busy(cards)

    def send(self, src: int, dst: int, nbytes: int, now: float) -> Passage:
        """Book a message of ``nbytes`` from ``src`` to ``dst`` handed over at ``now``."""
        table, enters, through = self.links, now, now
        if table.machine is not None and table.nic is not None and table.machine[src] != table.machine[dst]:
            enters, through = self._cards.reserve(table.machine[src], nbytes * 8 / table.nic, now)
        start = max(enters, self._busy[src, dst])
        left = float(max(start + nbytes * 8 / table.bandwidth[src, dst], through))
        self._busy[src, dst] = left
        return Passage(float(start), left, left + float(table.delay[src, dst]))


class _Busy:
    """Busy-until times of the network cards, kept in this process."""

    def __init__(self, cards: int) -> None:
        self._until = [0.0] * cards

    def reserve(self, card: int, seconds: float, now: float) -> tuple[float, float]:
        start = max(now, self._until[card])
        self._until[card] = start + seconds
        return start, start + seconds


class _SharedBusy:
    """The same, in a file that all processes of the group map; a file lock makes a reservation atomic."""

    def __init__(self, path: Path, cards: int) -> None:
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        if os.fstat(self._handle).st_size < 8 * cards:
            os.ftruncate(self._handle, 8 * cards)
        self._map = mmap.mmap(self._handle, 8 * cards)
        self._until = np.frombuffer(self._map, dtype=np.float64)

    def reserve(self, card: int, seconds: float, now: float) -> tuple[float, float]:
        fcntl.flock(self._handle, fcntl.LOCK_EX)
        try:
            start = max(now, float(self._until[card]))
            self._until[card] = start + seconds
        finally:
            fcntl.flock(self._handle, fcntl.LOCK_UN)
        return start, start + seconds
