"""Emulated network links between processes of one machine: messages leave at link bandwidth and arrive after a delay.

What is emulated. Every ordered pair of ranks has a link with a bandwidth and a one-way delay. A message waits until its
link is free, occupies it for ``bits / bandwidth``, and may be read ``delay`` later. The sender computes that arrival
time on the machine's monotonic clock, which all its processes share, and sends it along with the payload through gloo;
the receiver holds the payload until then. So a process that waits costs nothing, and the times do not depend on how
fast the real transport is, as long as it is faster than the emulated one (``traffic()["late"]``: seconds it was not).
Links are full duplex and independent, unless ranks share a network card: then what leaves a machine also passes its
card, first come, first served.

What is not. No congestion control, loss, jitter, packet headers or slow start; a link shares its rate with nothing but
the card; only the sending card is a bottleneck, not the receiving one; send buffers are unbounded. gloo's own
collectives are not shaped: use :meth:`EmulatedGroup.all_reduce` and :meth:`EmulatedGroup.barrier`.
"""

import itertools
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from sheaf.common.launch import Emit, Hosts, launch, run_worker
from sheaf.common.link_table import LinkClock, LinkTable, Passage

__all__ = ["EmulatedGroup", "LinkCheck", "LinkClock", "LinkTable", "Passage", "measure_link"]

_HEADER = 32  # bytes before the payload: arrival stamp, sequence number, payload bytes, unused; keeps 16-byte alignment
_WARM_TAG = 1 << 21


@dataclass
class _Send:
    """A message on its way. ``left`` is when its link has carried it; :meth:`wait` returns then."""

    posted: Future[dist.Work]
    staged: torch.Tensor
    left: float

    def wait(self) -> None:
        self.posted.result().wait()
        _sleep_until(self.left)


@dataclass
class _Receive:
    group: "EmulatedGroup"
    work: dist.Work
    staged: torch.Tensor
    into: torch.Tensor
    src: int
    key: tuple[int, int]

    def wait(self) -> torch.Tensor:
        """Block until the message has arrived, by the emulated clock; returns the tensor it was read into.

        Raises:
            RuntimeError: messages of one (source, tag) came out of order, or with another size than asked for.
        """
        asked = time.monotonic()
        self.work.wait()
        came = time.monotonic()
        stamp, sequence, nbytes, _ = self.staged[:_HEADER].view(torch.float64).tolist()
        group = self.group
        expected = group._received.get(self.key, 0)
        if int(sequence) != expected or int(nbytes) != self.staged.numel() - _HEADER:
            raise RuntimeError(
                f"message from rank {self.src}, tag {self.key[1]}: got number {int(sequence)} of {int(nbytes)} bytes, "
                f"expected number {expected} of {self.staged.numel() - _HEADER} bytes")
        group._received[self.key] = expected + 1
        group._late[self.src] += max(0.0, came - max(asked, stamp)) if stamp else 0.0
        _sleep_until(stamp)
        self.into.copy_(self.staged[_HEADER:].view(self.into.dtype).view(self.into.shape))
        return self.into


class EmulatedGroup:
    """Point-to-point messages and the collectives built on them, over emulated links; one object per process.

    Args:
        links: a row and column per rank of ``group``; None sends at the speed of the real transport.
        group: an initialised gloo process group; the default one when None.
        nic_file: a path common to the processes of the group; needed when ``links`` has network cards.
        delay_first: for a transport that shapes the rate itself: hold each message back by its delay, then hand it over;
            the order of a constant delay and a queue does not matter. ``links`` must leave the bandwidth infinite.

    Raises:
        ValueError: a link table of another size than the group, cards without ``nic_file``, or ``delay_first`` with
            a finite bandwidth.
    """

    def __init__(
        self, links: LinkTable | None, group: dist.ProcessGroup | None = None, nic_file: Path | None = None, *,
        delay_first: bool = False,
    ) -> None:
        self.rank, self.size, self.links, self._group = dist.get_rank(group), dist.get_world_size(group), links, group
        if links is not None and links.size != self.size:
            raise ValueError(f"the link table is for {links.size} ranks, the group has {self.size}")
        if links is not None and links.nic is not None and nic_file is None:
            raise ValueError("ranks that share network cards need nic_file, a path that all of them can open")
        if delay_first and (links is None or not np.isinf(links.bandwidth).all()):
            raise ValueError("delay_first is for a transport with rates of its own: give links of infinite bandwidth")
        self._outbox = _Outbox() if delay_first else None
        self._clock = LinkClock(links, nic_file) if links is not None else None
        self._sent: dict[tuple[int, int], int] = {}
        self._received: dict[tuple[int, int], int] = {}
        self._pending: list[_Send] = []
        self._bytes, self._messages = np.zeros(self.size, dtype=np.int64), np.zeros(self.size, dtype=np.int64)
        self._seconds, self._late = np.zeros(self.size), np.zeros(self.size)

    def isend(self, tensor: torch.Tensor, dst: int, tag: int = 0) -> _Send:
        """Hand ``tensor`` (any shape, dtype and device) to the link towards ``dst``; it may be reused at once."""
        payload = tensor.detach().to("cpu").contiguous().view(-1).view(torch.uint8)
        nbytes, key = payload.numel(), (dst, tag)
        number = self._sent.get(key, 0)
        self._sent[key] = number + 1
        now = time.monotonic()
        passage = self._clock.send(self.rank, dst, nbytes, now) if self._clock else Passage(now, now, 0.0)
        staged = torch.empty(_HEADER + nbytes, dtype=torch.uint8)
        stamp = 0.0 if self._outbox else passage.arrives
        header = torch.tensor([stamp, number, nbytes, 0], dtype=torch.float64)
        staged[:_HEADER].view(torch.float64).copy_(header)
        staged[_HEADER:].copy_(payload)
        self._bytes[dst] += nbytes
        self._messages[dst] += 1
        self._seconds[dst] += passage.left - passage.start
        handle = _Send(Future(), staged, passage.left)

        def post() -> None:
            handle.posted.set_result(_posted(dist.isend(staged, self._global(dst), group=self._group, tag=tag)))

        if self._outbox:
            self._outbox.put(passage.arrives, post)
        else:
            post()
        self._pending.append(handle)
        return handle

    def irecv(self, tensor: torch.Tensor, src: int, tag: int = 0) -> _Receive:
        """Expect a message of ``tensor``'s shape and dtype from ``src``; ``wait()`` fills and returns ``tensor``.

        Post it early, so that the real transport runs behind the emulated one.
        """
        staged = torch.empty(_HEADER + tensor.numel() * tensor.element_size(), dtype=torch.uint8)
        work = _posted(dist.irecv(staged, self._global(src), group=self._group, tag=tag))
        return _Receive(self, work, staged, tensor, src, (src, tag))

    def all_reduce(self, tensor: torch.Tensor, ranks: Sequence[int] | None = None, *, mean: bool = False,
                   tag: int = 1 << 20) -> torch.Tensor:
        """Sum (or mean) of a contiguous ``tensor`` over ``ranks``, in place, by a sharded parameter server.

        Each member owns 1/D of the elements: all others send it their part, it adds the parts in the order of ``ranks``
        and sends the result back: two messages of 1/D in each direction between any two members (arXiv 2206.01288).
        All members end with identical bits. Every rank of ``ranks`` must call with the same arguments.
        """
        members = list(range(self.size)) if ranks is None else list(ranks)
        if self.rank not in members:
            raise ValueError(f"rank {self.rank} is not among {members}; only members call all_reduce")
        shards = tensor.view(-1).tensor_split(len(members))
        mine = members.index(self.rank)
        peers = [(i, r) for i, r in enumerate(members) if r != self.rank]
        parts = {i: self.irecv(torch.empty_like(shards[mine]), r, tag) for i, r in peers}
        results = [self.irecv(shards[i], r, tag + 1) for i, r in peers]
        for i, r in peers:
            self.isend(shards[i], r, tag)
        total = torch.zeros_like(shards[mine])
        for i in range(len(members)):
            total += shards[mine] if i == mine else parts[i].wait()
        if mean:
            total /= len(members)
        shards[mine].copy_(total)
        for _, r in peers:
            self.isend(total, r, tag + 1)
        for result in results:
            result.wait()
        return tensor

    def barrier(self) -> None:
        """Every rank tells every other that it is here, over the links: leave when the last such note has arrived."""
        here = self._exchange(time.monotonic())
        self.flush()
        if self.links is not None:
            _sleep_until(float((here + self.links.delay[:, self.rank]).max()))

    def align(self, margin: float = 0.005) -> float:
        """Not part of the emulated network: all ranks leave at one moment, which is returned (``time.monotonic()``)."""
        start = float(self._exchange(time.monotonic()).max()) + margin
        _sleep_until(start)
        return start

    def warm_up(self, nbytes: int = 1 << 20) -> None:
        """Not part of the emulated network: exchange ``nbytes`` with every rank, so that no connection is new later."""
        out, came = torch.zeros(nbytes, dtype=torch.uint8), torch.empty(self.size, nbytes, dtype=torch.uint8)
        peers = [self._global(r) for r in range(self.size) if r != self.rank]
        works = [_posted(dist.irecv(came[i], p, group=self._group, tag=_WARM_TAG)) for i, p in enumerate(peers)]
        works += [_posted(dist.isend(out, p, group=self._group, tag=_WARM_TAG)) for p in peers]
        for work in works:
            work.wait()

    def flush(self) -> None:
        """Wait until the real transport has taken every message sent so far."""
        for handle in self._pending:
            handle.posted.result().wait()
        self._pending.clear()

    def traffic(self) -> dict[str, list[float] | list[int]]:
        """Per peer: bytes and messages sent to it, seconds its link was busy, and seconds lost to the real transport.

        ``late`` is how long this rank waited beyond the emulated arrival of messages from that peer; it has to be small
        against the time measured, otherwise the machine is too slow or too busy for these links.
        """
        return {"bytes": self._bytes.tolist(), "messages": self._messages.tolist(), "busy": self._seconds.tolist(),
                "late": self._late.tolist()}

    def _exchange(self, value: float) -> np.ndarray:
        out = torch.empty(self.size, dtype=torch.float64)
        dist.all_gather(list(out.split(1)), torch.tensor([value], dtype=torch.float64), group=self._group)
        return out.numpy()

    def _global(self, rank: int) -> int:
        return rank if self._group is None else dist.get_global_rank(self._group, rank)


class _Outbox:
    """A thread that posts messages at their time."""

    def __init__(self) -> None:
        self._queue: queue.PriorityQueue[tuple[float, int, Callable[[], None]]] = queue.PriorityQueue()
        self._count = itertools.count()  # first come, first served at equal times
        threading.Thread(target=self._run, daemon=True).start()

    def put(self, due: float, post: Callable[[], None]) -> None:
        self._queue.put((due, next(self._count), post))

    def _run(self) -> None:
        while True:
            item = self._queue.get()
            if (left := item[0] - time.monotonic()) > 0:
                self._queue.put(item)  # a message due earlier may still come
                time.sleep(min(left, 5e-4))
            else:
                item[2]()


def _posted(work: dist.Work | None) -> dist.Work:
    """Torch returns None to a process outside the group."""
    if work is None:
        raise RuntimeError("this process is not a member of the group it sends in")
    return work


def _sleep_until(moment: float) -> None:
    while (left := moment - time.monotonic()) > 0:
        time.sleep(left)


@dataclass(frozen=True)
class LinkCheck:
    """One timed message over one emulated link: seconds measured and by arithmetic, ``delay + bits / bandwidth``."""

    nbytes: int
    delay: float
    bandwidth: float
    measured: float
    ideal: float


def measure_link(
    nbytes: int = 10_000_000, bandwidth: float = 100e6, delay: float = 0.02, *, repetitions: int = 3,
    timeout: float = 120.0, hosts: Hosts | None = None, emulated: LinkTable | None = None,
) -> list[LinkCheck]:
    """Send a message over an emulated link between two processes and time it: is the emulation accurate here?

    10 MB over 100 Mbit/s take 0.8 s plus the delay.

    Args:
        hosts, emulated: places of the two processes that shape traffic themselves, and what is left to emulate there
            (:mod:`sheaf.common.links_netns`).

    Raises:
        LaunchError: the two processes failed or took longer than ``timeout`` seconds.
    """
    table = emulated or LinkTable.uniform(2, delay, bandwidth)
    payload = {"nbytes": nbytes, "links": table.to_dict(), "repetitions": repetitions, "shaped": emulated is not None}
    found = launch("sheaf.common.links", payload, processes=2, timeout=timeout, hosts=hosts)
    return [LinkCheck(nbytes, delay, bandwidth, r["seconds"], delay + nbytes * 8 / bandwidth) for r in found]


def _measure(payload: dict[str, Any], folder: Path, emit: Emit) -> None:
    group = EmulatedGroup(LinkTable.from_dict(payload["links"]), delay_first=payload["shaped"])
    data = torch.zeros(payload["nbytes"], dtype=torch.uint8)
    group.warm_up()
    for _ in range(payload["repetitions"]):
        receive = group.irecv(data, 0) if group.rank == 1 else None
        start = group.align()
        if receive is None:
            group.isend(data, 1)
        else:
            receive.wait()
            emit({"seconds": time.monotonic() - start})
    group.flush()


if __name__ == "__main__":
    run_worker(_measure)
