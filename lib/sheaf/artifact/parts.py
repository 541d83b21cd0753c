"""Records as their readers rely on them: of the known shape, naming files of their own folder only, joined from sound parts."""

from pathlib import Path
from typing import Any

from sheaf.artifact import record
from sheaf.artifact.paths import project_root, results_dir
from sheaf.artifact.record import RecordError
from sheaf.artifact.spec import Paper, load_paper

__all__ = ["damaged_parts", "inside", "join", "read"]


def read(file: Path) -> dict[str, Any]:
    """A record or part that holds ``entries`` and ``notebooks``.

    Raises:
        RecordError: it cannot be read, was changed after it was written, or has another shape.
    """
    found = record.load(file)
    if not all(isinstance(found.get(key), dict) for key in ("entries", "notebooks")):
        raise RecordError(f"{file.name}: entries or notebooks are not there; delete it and run the notebook again")
    return found


def inside(folder: Path, name: object) -> Path | None:
    """The file ``name`` of ``folder``; None when it is no file there, lies elsewhere or is reached through a link out."""
    if not isinstance(name, str) or not name or "\0" in name:
        return None
    try:
        path = (folder / name).resolve()
        return path if path.is_relative_to(folder.resolve()) and path.is_file() else None
    except (OSError, RuntimeError, ValueError):  # a name too long, a link to itself, half a character
        return None


def damaged_parts(folder: Path, spec: Paper | None = None) -> list[str]:
    """What is wrong with the parts in a results folder, a sentence each, named from that folder.

    Args:
        spec: the paper, whose notebooks' parts have to hold a run of them.
    """
    listed = {n.name for n in spec.notebooks} if spec else set()
    found = []
    for file in sorted(folder.glob("records/*.json")):
        try:
            if file.stem not in read(file)["notebooks"] and file.stem in listed:
                raise RecordError(f"{file.name}: has no run of {file.stem}; delete it and run the notebook again")
        except RecordError as error:
            found.append(f"records/{error}")
    return found


def join(paper: str, profile: str, root: Path | None = None) -> Path:
    """Join the parts of all notebooks into ``record.json``, after every part was seen to be sound.

    Raises:
        RecordError: a part cannot be trusted; the message names its file from the root.
        SpecError: paper.toml is not valid.
    """
    root = root or project_root()
    folder = results_dir(profile, paper, root)
    if damaged := damaged_parts(folder, load_paper(paper, root)):
        shown = folder.relative_to(root).as_posix() if folder.is_relative_to(root) else folder.name
        raise RecordError(f"{shown}/{damaged[0]}")
    return record.merge(paper, profile, root)
