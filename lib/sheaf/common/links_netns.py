"""Shaped links made by the Linux kernel: a network namespace per rank, rates by tc, delay by netem or in user space.

The default is the in-process emulation of :mod:`sheaf.common.links`. This one sends real packets through a kernel queue
of the wanted rate, so headers and TCP's own behaviour are in the measurement. It needs Linux, ``ip``, ``tc``,
``unshare`` and ``nsenter``, and user namespaces (or root). Kernels without the netem queue delay no packets: then
:attr:`NamespaceNetwork.remaining` holds the delays for :class:`~sheaf.common.links.EmulatedGroup` to add.
"""

import contextlib
import select
import shutil
import subprocess
import sys
from dataclasses import dataclass
from types import TracebackType

import numpy as np

from sheaf.common.launch import Hosts
from sheaf.common.link_table import LinkTable

__all__ = ["NamespaceNetwork", "NamespacesUnavailable", "Support", "probe"]

_TOOLS = ("ip", "tc", "unshare", "nsenter")
_HOLD = "86400"  # seconds a namespace lives at most; it goes with its holder
_START = 20.0  # seconds a holder may take to enter its namespace, on a busy machine too


class NamespacesUnavailable(RuntimeError):
    """Namespaces or rate limits cannot be had on this machine; the sentence says what is missing."""


@dataclass(frozen=True)
class Support:
    """What this machine can do; ``why`` says what stands in the way when ``rate`` is False."""

    rate: bool
    netem: bool
    why: str = ""


def probe() -> Support:
    """Try a namespace with a shaped interface, and netem in it; nothing of it stays."""
    try:
        with NamespaceNetwork(LinkTable.uniform(2, 0.0, 1e6)) as network:
            return Support(rate=True, netem=network.has_netem)
    except NamespacesUnavailable as error:
        return Support(rate=False, netem=False, why=str(error))


class NamespaceNetwork:
    """A bridge and one namespace per rank inside a namespace of its own; use as a context manager.

    Every rank's interface has an HTB class per peer with that link's rate. Hand :attr:`hosts` to
    :func:`sheaf.common.launch.launch` and :attr:`remaining` to the workers' ``EmulatedGroup(..., delay_first=True)``.

    Args:
        links: delay and bandwidth per ordered pair; network cards are not supported.

    Raises:
        ValueError: a table with network cards, or of more than 200 ranks.
        NamespacesUnavailable: on entry, when this machine cannot do it.
    """

    def __init__(self, links: LinkTable) -> None:
        if links.nic is not None:
            raise ValueError("namespaces shape pairs of ranks, not shared network cards; leave machine and nic out")
        if links.size > 200:
            raise ValueError(f"at most 200 ranks fit into one bridge's addresses; got {links.size}")
        self.links, self.has_netem = links, False
        self._outer: subprocess.Popen[bytes] | None = None
        self._inner: list[subprocess.Popen[bytes]] = []

    @property
    def hosts(self) -> Hosts:
        """Where each rank runs."""
        prefixes = tuple(("nsenter", "-t", str(p.pid), "-U", "-n", "--preserve-credentials") for p in self._inner)
        return Hosts(prefixes, _address(0), "eth0")

    @property
    def remaining(self) -> LinkTable:
        """What the kernel leaves to be emulated: the delays without netem, nothing with it; rates never."""
        delay = np.zeros_like(self.links.delay) if self.has_netem else self.links.delay
        return LinkTable(delay, np.full_like(self.links.bandwidth, np.inf))

    def __enter__(self) -> "NamespaceNetwork":
        if not sys.platform.startswith("linux"):
            raise NamespacesUnavailable(f"network namespaces exist on Linux only, this is {sys.platform}")
        if missing := [tool for tool in _TOOLS if shutil.which(tool) is None]:
            raise NamespacesUnavailable(f"network namespaces need {', '.join(missing)}: install iproute2 and util-linux")
        try:
            self._build()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._close()

    def _build(self) -> None:
        self._outer = self._hold(["unshare", "--user", "--map-root-user", "--net"])
        inside = ("nsenter", "-t", str(self._outer.pid), "-U", "-n", "--preserve-credentials")
        _run(*inside, "ip", "link", "add", "bridge0", "type", "bridge")
        _run(*inside, "ip", "link", "set", "bridge0", "up")
        for rank in range(self.links.size):
            holder = self._hold([*inside, "unshare", "--net"])
            self._inner.append(holder)
            _run(*inside, "ip", "link", "add", f"port{rank}", "type", "veth", "peer", "name", "eth0", "netns", str(holder.pid))
            _run(*inside, "ip", "link", "set", f"port{rank}", "master", "bridge0", "up")
        for rank, prefix in enumerate(self.hosts.prefixes):
            _run(*prefix, "ip", "link", "set", "lo", "up")
            _run(*prefix, "ip", "address", "add", f"{_address(rank)}/24", "dev", "eth0")
            _run(*prefix, "ip", "link", "set", "eth0", "up")
            self._shape(rank, prefix)

    def _shape(self, rank: int, prefix: tuple[str, ...]) -> None:
        _run(*prefix, "tc", "qdisc", "add", "dev", "eth0", "root", "handle", "1:", "htb")  # no default: the rest is free
        for peer in range(self.links.size):
            if peer == rank or not np.isfinite(self.links.bandwidth[rank, peer]):
                continue
            rate, name = f"{self.links.bandwidth[rank, peer]:.0f}bit", f"1:{peer + 16:x}"
            # a burst of a few packets: a larger one would let whole messages pass for nothing
            _run(*prefix, "tc", "class", "add", "dev", "eth0", "parent", "1:", "classid", name, "htb", "rate", rate,
                 "burst", "16k", "cburst", "16k", "quantum", "6000")
            _run(*prefix, "tc", "filter", "add", "dev", "eth0", "protocol", "ip", "parent", "1:", "prio", "1", "u32",
                 "match", "ip", "dst", f"{_address(peer)}/32", "flowid", name)
            delay = ("delay", f"{self.links.delay[rank, peer] * 1e6:.0f}us", "limit", "100000")
            with contextlib.suppress(NamespacesUnavailable):  # small kernels lack it; .remaining then holds the delays
                _run(*prefix, "tc", "qdisc", "add", "dev", "eth0", "parent", name, "netem", *delay)
                self.has_netem = True

    def _hold(self, command: list[str]) -> subprocess.Popen[bytes]:
        """Start a process that does nothing in a new network namespace, and wait until it says that it is in there.

        It speaks only after ``unshare`` has written the user map too: whoever enters between the two has no rights there.
        """
        holder = subprocess.Popen([*command, "sh", "-c", f"echo ready; exec sleep {_HOLD}"], stdin=subprocess.DEVNULL,
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert holder.stdout is not None  # for the type checker: it is a pipe
        speaks, _, _ = select.select([holder.stdout], [], [], _START)
        if speaks and holder.stdout.readline():
            return holder
        holder.kill()
        _, said = holder.communicate()
        raise NamespacesUnavailable("this system refuses network namespaces "
                                    f"({said.decode(errors='replace').strip() or 'no reason given'}); run as root, or allow "
                                    "unprivileged user namespaces")

    def _close(self) -> None:
        for holder in [*self._inner, *([self._outer] if self._outer else [])]:
            holder.kill()
            holder.communicate()
        self._inner, self._outer = [], None


def _address(rank: int) -> str:
    return f"10.77.0.{rank + 1}"


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        words = command[command.index("--preserve-credentials") + 1 :]
        raise NamespacesUnavailable(f"`{' '.join(words)}` failed in a network namespace: {done.stderr.strip()}")
