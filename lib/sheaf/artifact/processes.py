"""Processes of a run, found by the marker they inherit in their environment, and how they are ended.

A process group is not enough: Jupyter starts its kernel in a session of its own, and so does torchrun with its workers.
An environment variable passes to all of them, and survives the death of every parent between.
"""

import os
import time
from contextlib import suppress

import psutil

__all__ = ["JOB", "RUN", "end_marked", "identity", "is_alive", "marked"]

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


def identity(pid: int | None = None) -> str:
    """``pid:start time``, which unlike a pid alone is never reused."""
    process = psutil.Process(pid)
    return f"{process.pid}:{process.create_time():.2f}"


def is_alive(who: str) -> bool:
    """True while the very process that `identity` named runs."""
    pid, _, _ = who.partition(":")
    try:
        return psutil.Process(int(pid)).status() != psutil.STATUS_ZOMBIE and identity(int(pid)) == who
    except (psutil.Error, ValueError):
        return False
