"""Processes of a run, found by the marker they inherit in their environment, and how they are ended.

A process group is not enough: Jupyter starts its kernel in a session of its own, and so does torchrun with its workers.
An environment variable passes to all of them, and survives the death of every parent between.
"""

import ctypes
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

__all__ = ["JOB", "RUN", "end_marked", "identity", "is_alive", "marked", "none_left_behind"]

RUN = "SHEAF_RUN"  # one launcher's run: set by the launcher for everything below it
JOB = "SHEAF_JOB"  # one notebook's run: set by the watchdog for the notebook's processes, not for itself


def marked(variable: str, value: str) -> list[psutil.Process]:
    """Living processes whose environment holds ``variable=value``, this process left out."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            mine = process.pid != os.getpid() and process.environ().get(variable) == value
            if mine and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def end_marked(variable: str, value: str, grace: float = 0.0) -> int:
    """End every process that carries a marker: SIGTERM and ``grace`` seconds first when asked, then SIGKILL.

    Returns:
        How many processes were found.
    """
    found = marked(variable, value)
    seen = {process.pid for process in found}
    if grace > 0:
        for process in found:
            with suppress(psutil.Error):
                process.terminate()
        psutil.wait_procs(found, timeout=grace)
        found = marked(variable, value)
    for _ in range(50):  # a process may be starting another while it is being killed: look again until none is left
        if not found:
            break
        for process in found:
            seen.add(process.pid)
            with suppress(psutil.Error):
                process.kill()
        time.sleep(0.05)
        found = marked(variable, value)
    return len(seen)


def _below() -> set[psutil.Process]:
    """Descendants of this process."""
    found = set()
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):  # it ended meanwhile
            if process.status() != psutil.STATUS_ZOMBIE:
                found.add(process)
    return found


@contextmanager
def none_left_behind() -> Iterator[None]:
    """Whatever the block started is gone when it ends, also what took off its marker and lost its parents.

    On Linux this process becomes the parent of such orphans, so that they can be found.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
    before = _below()
    try:
        yield
    finally:
        for _ in range(50):
            left = _below() - before
            if not left:
                break
            for process in left:
                with suppress(psutil.Error):
                    process.kill()
            time.sleep(0.05)


def _started(pid: int) -> str:
    """When a process began, in ticks since the machine did: unlike a time of day it stays when the clock is set."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[19].decode()
    except (OSError, IndexError):
        return f"{psutil.Process(pid).create_time():.2f}"


def identity(pid: int | None = None) -> str:
    """``pid:start``, which unlike a pid alone is never reused."""
    process = psutil.Process(pid)
    return f"{process.pid}:{_started(process.pid)}"


def is_alive(who: str) -> bool:
    """True while the very process that `identity` named runs."""
    pid, _, _ = who.partition(":")
    try:
        return psutil.Process(int(pid)).status() != psutil.STATUS_ZOMBIE and identity(int(pid)) == who
    except (psutil.Error, ValueError):
        return False
