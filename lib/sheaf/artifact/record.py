"""Records: what a run made of each entry of paper.toml. Written whole or not at all, checked when read."""

import hashlib
import json
import math
import os
import tempfile
from pathlib import Path
from typing import Any

from sheaf.artifact.paths import results_dir
from sheaf.artifact.spec import load_paper

__all__ = ["FORMAT", "RecordError", "atomic_write", "digest", "file_digest", "load", "merge", "plain", "write_part"]

FORMAT = 1


class RecordError(ValueError):
    """A record that cannot be trusted; the message names the file and the fix."""


def atomic_write(path: Path, content: bytes | str) -> None:
    """Write to a temporary name beside ``path``, flush to disk, rename: a kill leaves the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def plain(value: Any) -> Any:
    """JSON-ready copy: numpy scalars and arrays become numbers and lists; numbers that are not finite become text."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(v) for v in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)


def digest(record: dict[str, Any]) -> str:
    """SHA-256 of a record without its own digest, over sorted keys."""
    body = {k: v for k, v in record.items() if k != "digest"}
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(path: Path, record: dict[str, Any]) -> None:
    body = plain({k: v for k, v in record.items() if k != "digest"})
    body["digest"] = digest(body)
    atomic_write(path, json.dumps(body, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def write_part(
    folder: Path, paper: str, profile: str, notebook: str, entries: dict[str, Any], provenance: dict[str, Any]
) -> Path:
    """Write ``records/<notebook>.json``, the part of the record that one notebook run made."""
    path = folder / "records" / f"{notebook}.json"
    made = {"provenance": provenance, "file": f"notebooks/{notebook}.ipynb"}
    _write(
        path, {"format": FORMAT, "paper": paper, "profile": profile, "entries": entries, "notebooks": {notebook: made}}
    )
    return path


def load(path: Path) -> dict[str, Any]:
    """Read a record or part.

    Raises:
        RecordError: unreadable, of another format, or not what was written.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RecordError(
            f"{path.name}: cannot be read ({type(error).__name__}); delete it and run the notebook again"
        ) from None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise RecordError(f"{path.name}: not a record of format {FORMAT}; delete it and run the notebook again")
    if found.get("digest") != digest(found):
        raise RecordError(f"{path.name}: changed after it was written; delete it and run the notebook again")
    return found


def merge(paper: str, profile: str, root: Path | None = None) -> Path:
    """Join the parts of all notebooks into ``record.json``; entries of notebooks not run yet are listed as missing.

    Raises:
        RecordError: a part cannot be trusted.
        SpecError: paper.toml is not valid.
    """
    spec = load_paper(paper, root)
    folder = results_dir(profile, paper, root)
    entries: dict[str, Any] = {}
    notebooks: dict[str, Any] = {}
    for notebook in spec.notebooks:
        part_file = folder / "records" / f"{notebook.name}.json"
        made: dict[str, Any] = {}
        if part_file.is_file():
            part = load(part_file)
            made, notebooks[notebook.name] = part["entries"], part["notebooks"][notebook.name]
        for kind, entry in spec.entries(notebook.name):
            described = {
                "kind": kind,
                "notebook": notebook.name,
                "where": entry.where,
                "title": getattr(entry, "title", ""),
            }
            entries[entry.id] = made.get(entry.id) or described | {"missing": "its notebook has not been run"}
    path = folder / "record.json"
    _write(path, {"format": FORMAT, "paper": paper, "profile": profile, "entries": entries, "notebooks": notebooks})
    return path
