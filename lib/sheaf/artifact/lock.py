"""One run at a time in a checkout, and what a run that died left behind."""

import contextlib
import fcntl
import json
import os
import re
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from sheaf.artifact.paths import results_dir, state_dir
from sheaf.artifact.processes import RUN, end_marked

__all__ = ["BusyError", "run_lock"]


class BusyError(RuntimeError):
    """Another run is at work in this checkout; the message says which and how to wait for it."""


def _busy(owner: dict[str, str]) -> BusyError:
    pid = owner.get("pid", "?")
    return BusyError(
        f"another run is at work in this checkout (process {pid} since {owner.get('started', '?')}: {owner.get('what', '?')}); "
        f"wait for it with `tail --pid={pid} -f /dev/null`, or stop it with `kill {pid}`, then call this again"
    )


def _read(text: str) -> dict[str, str]:
    try:
        found = json.loads(text)
    except ValueError:  # empty after a clean end, or cut short by a crash while it was written
        return {}
    return found if isinstance(found, dict) else {}


def _clear(owner: dict[str, str], root: Path) -> None:
    """End what a dead run left running, here and on a cluster, and drop its half-made state."""
    if run := owner.get("run"):
        if ended := end_marked(RUN, run, grace=2):
            print(f"sheaf: the run of {owner.get('started')} was killed; ended {ended} processes it left behind")
        log = state_dir(root) / "logs" / "snakemake.log"
        if owner.get("executor") == "slurm" and log.is_file() and shutil.which("scancel"):
            for job in re.findall(r"SLURM run ID: (\S+)", log.read_text(encoding="utf-8", errors="replace")):
                subprocess.run(["scancel", "--me", f"--name={job}"], check=False, timeout=60)
        _sweep(root)
    shutil.rmtree(state_dir(root) / "work", ignore_errors=True)


def _sweep(root: Path) -> None:
    """Take away what a killed run or job was still writing: temporary names beside results and state, its kernels' sockets."""
    for order in (state_dir(root) / "work").rglob("job.json"):
        sockets = Path(_read(order.read_text(encoding="utf-8")).get("sockets", ""))
        if sockets.name.startswith("sheaf-"):
            shutil.rmtree(sockets, ignore_errors=True)
    ours = [state_dir(root) / name for name in ("done", "failed", "manifests")]  # not the caches, others may write there
    for left in [*state_dir(root).glob(".*.tmp"), *(f for d in [results_dir("", "", root), *ours] for f in d.rglob(".*"))]:
        if left.suffix == ".tmp" or left.name.startswith(".probe"):
            left.unlink(missing_ok=True)


@contextlib.contextmanager
def run_lock(root: Path, what: str, executor: str = "local") -> Iterator[str]:
    """Hold the checkout for one run; the lock ends with the process, however that ends.

    Args:
        what: shown to whoever is refused meanwhile.

    Yields:
        The run's id, which its processes carry in ``SHEAF_RUN``.

    Raises:
        BusyError: another run holds it.
    """
    path = state_dir(root) / "lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        file.seek(0)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            for _ in range(20):  # the owner may hold it for a moment before it has written who it is
                if owner := _read(path.read_text(encoding="utf-8")):
                    break
                time.sleep(0.05)
            raise _busy(owner) from None
        _clear(_read(file.read()), root)
        run = uuid.uuid4().hex
        owner = {"pid": str(os.getpid()), "run": run, "started": datetime.now().isoformat(" ", "seconds"), "what": what}
        file.truncate(0)
        file.write(json.dumps(owner | {"executor": executor}))
        file.flush()
        try:
            yield run
        finally:
            with contextlib.suppress(OSError):  # a full or read-only disk has been reported by now
                _sweep(root)  # after a job that was killed while its run went on
            file.truncate(0)
