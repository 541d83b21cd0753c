"""Where a number came from: code, machine, packages, settings, cost, data. Nothing that names a person or a path."""

import os
import platform
import resource
import subprocess
import sys
import time
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from sheaf.artifact.record import file_digest
from sheaf.common.data import external_dir

__all__ = ["Clock", "provenance"]

PACKAGES = ("torch", "numpy", "scipy", "pandas", "matplotlib", "networkx", "ortools", "pymetis", "triton", "playwright")
CODE = ("lib", "kernels", "notebooks", "data", "pyproject.toml", "constraints.txt")
EXTERNAL_LIMIT = 1 << 28  # bytes of external data hashed per folder; beyond it only names and sizes are kept


class Clock:
    """Wall and CPU time since it was made, in seconds; CPU time includes child processes that have ended."""

    def __init__(self) -> None:
        self.started = datetime.now(UTC).isoformat(timespec="seconds")
        self._wall, self._cpu = time.perf_counter(), self._cpu_now()

    @staticmethod
    def _cpu_now() -> float:
        used = os.times()
        return used.user + used.system + used.children_user + used.children_system

    def spent(self) -> dict[str, Any]:
        peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        return {
            "started": self.started,
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "wall_s": round(time.perf_counter() - self._wall, 2),
            "cpu_s": round(self._cpu_now() - self._cpu, 2),
            "peak_mb": round(peak / 1024),
        }


def _git(root: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _torch_facts() -> dict[str, Any]:
    torch = sys.modules.get("torch")  # only when the notebook used it; importing it here would cost seconds
    if torch is None:
        return {"gpu": None, "threads": None}
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
    return {"gpu": gpu, "threads": torch.get_num_threads()}


def _data_digests(root: Path, paper: str, external: list[str]) -> dict[str, str]:
    found = {}
    shipped = root / "data" / paper
    for file in sorted(shipped.rglob("*")) if shipped.is_dir() else []:
        if file.is_file():
            found[f"data/{paper}/{file.relative_to(shipped).as_posix()}"] = file_digest(file)
    for name in external:
        folder = external_dir(name)
        if folder is None:
            continue
        files = sorted(f for f in folder.rglob("*") if f.is_file())
        small = sum(f.stat().st_size for f in files) <= EXTERNAL_LIMIT
        for file in files:
            key = f"external/{name}/{file.relative_to(folder).as_posix()}"
            found[key] = file_digest(file) if small else f"{file.stat().st_size} bytes"
    return found


def provenance(
    root: Path, paper: str, seed: int, settings: dict[str, Any], clock: Clock, external: list[str]
) -> dict[str, Any]:
    """Everything a reader needs to know about how one notebook's numbers came to be."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    changed = _git(root, "status", "--porcelain", "--", *CODE)
    return {
        "commit": _git(root, "rev-parse", "HEAD") or os.environ.get("SHEAF_COMMIT"),  # a copy without history can be told
        "dirty": None if changed is None else bool(changed),
        "packages": versions,
        "python": platform.python_version(),
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        **_torch_facts(),
        "seed": seed,
        "settings": settings,
        "data": _data_digests(root, paper, external),
        **clock.spent(),
    }
