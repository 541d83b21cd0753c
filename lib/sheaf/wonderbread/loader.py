"""A demonstration folder of the paper's data set, read as untrusted input."""

import csv
import io
import os
import stat
from pathlib import Path, PurePosixPath
from typing import Any

from sheaf.wonderbread.trace import Demo, TraceError, is_demo_name, parse_trace, task_of_name

__all__ = ["LIMITS", "broken_pictures", "demo_folders", "is_ignored", "load_demo", "read_ranks", "read_regular"]

MB = 1_000_000
LIMITS = {  # bytes; a published trace of 71 states with its html stays below a third of this
    "trace": 256 * MB, "sop": 1 * MB, "screenshot": 32 * MB, "video": 512 * MB, "rankings": 16 * MB,
}  # fmt: skip
PNG = b"\x89PNG\r\n\x1a\n"


def is_ignored(file_name: str) -> bool:
    """Whether the format says to pass over a file: first versions of traces, marked ``[raw]`` or ``[gt]``."""
    return file_name.startswith(("[raw]", "[gt]", "."))


def read_regular(folder: Path, name: str, limit: int) -> bytes:
    """A regular file directly in ``folder``, at most ``limit`` bytes.

    Raises:
        TraceError: a path in place of a name, a link, something not a plain file, or a file over the limit.
        FileNotFoundError: no such file.
    """
    if not name or name in (".", "..") or "\0" in name or PurePosixPath(name).name != name or "\\" in name:
        raise TraceError(f"{name[:80]!r} is not a plain file name; a demonstration's files lie in its own folder")
    try:
        handle = os.open(folder / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise FileNotFoundError(f"{folder.name}/{name} is missing") from None
    except OSError as error:
        raise TraceError(f"{folder.name}/{name} cannot be read as a plain file ({error.strerror})") from None
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise TraceError(f"{folder.name}/{name} is not a plain file")
        if status.st_size > limit:
            raise TraceError(f"{folder.name}/{name} has {status.st_size:,} bytes; at most {limit:,} are read")
        with os.fdopen(handle, "rb", closefd=False) as file:
            data = file.read(limit + 1)
    finally:
        os.close(handle)
    if len(data) > limit:
        raise TraceError(f"{folder.name}/{name} grew beyond {limit:,} bytes while it was read")
    return data


def demo_folders(folder: Path) -> list[Path]:
    """The demonstration folders directly in ``folder``, by name; links are passed over.

    Raises:
        FileNotFoundError: ``folder`` is not a folder.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder.name!r} is not a folder; name the one that holds the demonstrations")
    return sorted(p for p in folder.iterdir() if is_demo_name(p.name) and p.is_dir() and not p.is_symlink())


def load_demo(folder: Path, rank: int | None = None) -> Demo:
    """The demonstration in a folder named ``<task_id> @ YYYY-MM-DD-HH-MM-SS``.

    Missing procedure texts, screenshots and video are tolerated, as is a folder name the trace does not repeat.
    ``rank`` (from the data set's ranking table) goes before one stored in the trace.

    Raises:
        FileNotFoundError: the folder or its trace is missing.
        TraceError: the trace is malformed, belongs to another task, or a file is a link, too large, or outside.
    """
    name = folder.name
    if folder.is_symlink():
        raise TraceError(f"{name[:80]!r} is a link; demonstrations are real folders")
    try:
        task_id = task_of_name(name)
    except ValueError as error:
        raise TraceError(str(error)) from None
    if not folder.is_dir():
        raise FileNotFoundError(f"no demonstration folder {name!r}")
    try:
        trace = parse_trace(read_regular(folder, f"{name}.json", LIMITS["trace"]))
    except TraceError as error:
        raise TraceError(f"{name}: {error}") from None
    task = trace.webarena
    if (stated := task.get("task_id", task_id)) != task_id:
        raise TraceError(f"{name}: field webarena.task_id is {stated!r:.40}, the folder's name says {task_id}")
    sites = task.get("sites")
    stored_rank = task.get("rank")
    return Demo(
        name=name,
        task_id=task_id,
        site=sites[0] if isinstance(sites, list) and sites and isinstance(sites[0], str) else "",
        intent=_text(task.get("intent")),
        trace=trace,
        sop=_optional_text(folder, f"SOP - {name}.txt"),
        original_sop=_optional_text(folder, f"[orig] SOP - {name}.txt"),
        folder=folder,
        rank=rank if rank is not None else stored_rank if isinstance(stored_rank, int) and stored_rank > 0 else None,
        completed=done if isinstance(done := task.get("completed"), bool) else None,
        template=_text(task.get("template", task.get("intent_template_id"))),
        policy=_text(task.get("policy")),
    )


def read_ranks(folder: Path) -> dict[str, int]:
    """Rank of each demonstration by name, from the ``df_rankings.csv`` beside them; empty without one.

    Raises:
        TraceError: the table lacks its columns ``rank`` and ``folder_name``, or a rank is no positive integer.
    """
    try:
        text = read_regular(folder, "df_rankings.csv", LIMITS["rankings"]).decode("utf-8-sig")
    except FileNotFoundError:
        return {}
    except UnicodeDecodeError:
        raise TraceError("df_rankings.csv is not UTF-8 text") from None
    ranks: dict[str, int] = {}
    try:
        for line, row in enumerate(csv.DictReader(io.StringIO(text)), start=2):
            name, rank = row.get("folder_name"), row.get("rank")
            if not name or not rank or not rank.isdecimal() or len(rank) > 4 or int(rank) < 1:
                raise TraceError(f"df_rankings.csv, line {line}: it needs the columns rank (1, 2, …) and folder_name")
            ranks[name] = int(rank)
    except csv.Error as error:
        raise TraceError(f"df_rankings.csv is not a table ({error})") from None
    return ranks


def broken_pictures(demo: Demo) -> list[str]:
    """What is wrong with a demonstration's screenshots: one sentence each; empty when every state has a sound PNG."""
    problems = []
    if demo.folder is None:
        return ["it has no folder, so no screenshots"]
    pictures = demo.folder / "screenshots"
    if pictures.is_symlink():
        return ["screenshots is a link; it must be a real folder"]
    for k, state in enumerate(demo.states):
        stored = (state.data.path_to_screenshot or "").replace("\\", "/")
        base = PurePosixPath(stored).name
        if not base:
            problems.append(f"state {k} names no screenshot")
            continue
        try:
            data = read_regular(pictures, base, LIMITS["screenshot"])
        except FileNotFoundError:
            problems.append(f"state {k}: screenshots/{base[:80]} is missing")
        except TraceError as error:
            problems.append(f"state {k}: {error}")
        else:
            if not data.startswith(PNG) or not data.rstrip(b"\0").endswith(b"IEND\xaeB`\x82"):
                problems.append(f"state {k}: screenshots/{base[:80]} is not a whole PNG")
    return problems


def _text(value: Any) -> str:
    return value if isinstance(value, str) else str(value) if isinstance(value, int) and abs(value) < 10**12 else ""


def _optional_text(folder: Path, name: str) -> str | None:
    try:
        data = read_regular(folder, name, LIMITS["sop"])
    except FileNotFoundError:
        return None
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError:
        raise TraceError(f"{folder.name}: {name} is not UTF-8 text") from None
