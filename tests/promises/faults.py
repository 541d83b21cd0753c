"""Runs that are broken off or starved on purpose, and what has to be the same after them as without them."""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import psutil

from sheaf.artifact.record import digest

INJECT = Path(__file__).parent / "inject"
STATE = (".sheaf", ".snakemake", "results")  # what a run writes below its root
OF_THIS_RUN = {"started", "finished", "wall_s", "cpu_s", "peak_mb"}  # facts of a record that no rerun repeats
PASSING = [("work",), ("logs",), ("heartbeat",), ("cache",)]  # of .sheaf: read by nobody after a crash


def injected(root: Path, log: Path, kind: str, at: int = 0) -> dict[str, str]:
    """Variables under which every process of a run does ``kind`` at its file operation number ``at``.

    ``kind`` is "copy" (keep the tree as it is at each operation below ``log``.d), "kill-run" (SIGKILL for all), "kill-self"
    (for the one process) or the name of an error that stays from then on, such as "ENOSPC".
    """
    paths = [INJECT, root / "lib", root / "kernels"]
    fault = {"FAULT_ROOT": str(root), "FAULT_LOG": str(log), "FAULT_KIND": kind, "FAULT_AT": str(at)}
    return {"PYTHONPATH": os.pathsep.join(map(str, paths))} | fault


def operations(log: Path) -> int:
    """How many file operations a run made."""
    return log.stat().st_size if log.is_file() else 0


def told(log: Path) -> dict[int, str]:
    """Operation number -> which process did what."""
    lines = (line.split(" ", 1) for line in Path(f"{log}.txt").read_text().splitlines())
    return {int(number): what for number, what in lines}


def put_back(saved: Path, root: Path) -> None:
    """Make what a run writes below ``root`` what it is in ``saved``."""
    for name in STATE:
        shutil.rmtree(root / name, ignore_errors=True)
        if (saved / name).is_dir():
            shutil.copytree(saved / name, root / name, symlinks=True)


def distinct(copies: Path) -> list[Path]:
    """The kept trees that differ in what a later run could read, in the order they were made."""
    seen: dict[str, Path] = {}
    for tree in sorted(copies.iterdir()):
        total = hashlib.sha256()
        for file in sorted(tree.rglob("*")):
            name = file.relative_to(tree)
            if name.parts[0] == ".snakemake" or (name.parts[0] == ".sheaf" and name.parts[1:2] in PASSING):
                continue
            named = "" if file.suffix == ".tmp" else name.as_posix()  # the names of temporary files are drawn
            total.update(f"{named}\0{file.read_bytes() if file.is_file() else 'folder'}\0".encode())
        seen.setdefault(total.hexdigest(), tree)
    return list(seen.values())


def _stable(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _stable(v) for k, v in value.items() if k not in OF_THIS_RUN and k != "digest"}
    return value


def contents(root: Path) -> dict[str, bytes]:
    """Every stored file but the report's pages, which show times: tables, figures and executed notebooks byte for byte,
    records without the facts that no rerun repeats.

    Raises:
        ValueError: a record that is not whole.
    """
    found = {}
    for file in sorted((root / "results").rglob("*")):
        if not file.is_file() or file.suffix == ".html" or file.name == "scoreboard.svg":
            continue
        try:
            body = file.read_bytes()
        except FileNotFoundError:  # a temporary name, of a run that is being killed
            continue
        if file.suffix == ".json":
            record = json.loads(body)
            if record.get("digest") != digest(record):
                raise ValueError(f"{file.name} is not what was written")
            body = json.dumps(_stable(record), sort_keys=True).encode()
        found[file.relative_to(root / "results").as_posix()] = body
    return found


def differences(found: dict[str, bytes], wanted: dict[str, bytes]) -> list[str]:
    """Names of files that are missing, left over or not the same."""
    return sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))


def torn(root: Path, *whole: dict[str, bytes]) -> list[str]:
    """Files under a final name that are none of the whole ones (before or after a run), or pages that end half-way.

    Raises:
        ValueError: a record that is not whole.
    """
    pages = [p for p in (root / "results").rglob("*.html") if not p.name.startswith(".") and b"</html>" not in p.read_bytes()]
    named = {name: body for name, body in contents(root).items() if not Path(name).name.startswith(".")}
    files = [name for name, body in named.items() if all(body != state.get(name) for state in whole)]
    return [*files, *(page.name for page in pages)]


def finished(root: Path) -> dict[str, bytes]:
    """The done files that can be read: jobs that must not be done again."""
    found = {}
    for file in sorted((root / ".sheaf" / "done").rglob("*.json")):
        body = file.read_bytes()
        try:
            json.loads(body)
        except ValueError:
            continue
        found[file.relative_to(root).as_posix()] = body
    return found


def processes_of(root: Path) -> list[psutil.Process]:
    """Living processes that a run below ``root`` started: they name it in their environment, command or working folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
                continue
            named = [*process.environ().values(), *process.cmdline(), process.cwd()]
        except (psutil.Error, OSError):
            continue
        if any(str(root) in text for text in named):
            found.append(process)
    return found
