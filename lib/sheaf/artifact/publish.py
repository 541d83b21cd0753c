"""From an executed notebook and its staged files to stored results: complete, clean, and all of them or none."""

import json
import os
import re
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sheaf.artifact.manifest import cell_source, read_notebook
from sheaf.artifact.parts import inside, read
from sheaf.artifact.record import file_digest
from sheaf.artifact.scrub import find_leaks, scrub_notebook, secret_settings

__all__ = ["Position", "PublishError", "check_complete", "clean_notebook", "current_cell", "probe_writable", "publish"]

OURS = {"injected-parameters", "papermill-error-cell-tag"}  # cells that papermill adds; a reader does not count them
_TEXT = {".csv", ".json", ".svg", ".txt", ".html", ".md"}
_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


class PublishError(RuntimeError):
    """A run whose results must not replace the earlier ones; the message says why in one sentence."""


@dataclass(frozen=True)
class Position:
    """Where in a notebook something happened: the cell's number as a reader counts, and its prompt number."""

    number: int
    prompt: int | None

    def __str__(self) -> str:
        return f"cell {self.number}" + (f" (In [{self.prompt}])" if self.prompt else "")


@dataclass(frozen=True)
class Job:
    """One notebook run as `publish` needs to know it."""

    paper: str
    notebook: str
    staged: Path
    target: Path
    shown: str  # the target as stored files name it
    root: Path
    replace: dict[str, str] = field(default_factory=dict)  # texts of this run -> what stored files say instead


def _tags(cell: dict[str, Any]) -> set[str]:
    return set(cell.get("metadata", {}).get("tags", []))


def current_cell(executed: Path, running: int | None = None) -> Position | None:
    """The cell that raised, else cell ``running`` of the executed copy (from 1); None when it cannot be told."""
    try:
        cells = read_notebook(executed)["cells"]
    except (OSError, ValueError):  # killed while it was being written
        return None
    number = 0
    for place, cell in enumerate((c for c in cells if "papermill-error-cell-tag" not in _tags(c)), 1):
        number += not _tags(cell) & OURS
        if _raised(cell) or (place == running and not any(_raised(c) for c in cells)):
            return Position(number, cell.get("execution_count"))
    return None


def _raised(cell: dict[str, Any]) -> bool:
    return cell.get("metadata", {}).get("papermill", {}).get("exception") is True


def last_executed(executed: Path) -> Position | None:
    """The last code cell that was given a prompt number."""
    number, found = 0, None
    for cell in read_notebook(executed)["cells"]:
        number += not _tags(cell) & OURS
        if cell.get("execution_count") and not _tags(cell) & OURS:
            found = Position(number, cell["execution_count"])
    return found


def _exited(executed: Path) -> Position | None:
    """The cell that called ``sys.exit``, which papermill takes for a good end."""
    number = 0
    for cell in read_notebook(executed)["cells"]:
        number += not _tags(cell) & OURS
        if any(o.get("output_type") == "error" and o.get("ename") == "SystemExit" for o in cell.get("outputs", [])):
            return Position(number, cell.get("execution_count"))
    return None


def check_complete(executed: Path, staged: Path, paper: str, notebook: str) -> None:
    """A notebook that ran is not yet a notebook that finished.

    Raises:
        PublishError: the closing cell did not print its line, or this run wrote no record.
    """
    code = [cell for cell in read_notebook(executed)["cells"] if cell.get("cell_type") == "code" and cell_source(cell).strip()]
    if exited := _exited(executed):
        raise PublishError(f"ended without completing ({exited} called sys.exit): no cell may, the last one included")
    printed = "".join(
        "".join(output.get("text", "")) for output in (code[-1].get("outputs", []) if code else [])
        if output.get("output_type") == "stream"
    )  # fmt: skip
    wrote = (staged / "records" / f"{notebook}.json").is_file()
    if f"sheaf: {paper}/{notebook} complete: " not in printed or not wrote:
        last = last_executed(executed)
        raise PublishError(
            f"ended without completing ({last or 'no cell'} was the last to run): study.verdicts() must run in the last "
            "cell, and no cell may call sys.exit"
        )


def clean_notebook(nb: dict[str, Any], job: Job) -> dict[str, Any]:
    """An executed notebook without this machine's paths and secrets, without clock times and papermill's own marks."""
    nb = json.loads(_replaced(json.dumps(nb), job.replace))
    nb["cells"] = [cell for cell in nb["cells"] if "papermill-error-cell-tag" not in _tags(cell)]
    nb.get("metadata", {}).pop("papermill", None)
    for cell in nb["cells"]:
        if "injected-parameters" in _tags(cell) and "id" in cell:
            cell["id"] = "injected-parameters"  # papermill draws a new one in every run
        for key in ("papermill", "execution", "collapsed"):
            cell.get("metadata", {}).pop(key, None)
    return dict(scrub_notebook(nb, job.root))


def _replaced(text: str, replace: dict[str, str]) -> str:
    for old, new in replace.items():
        text = text.replace(old, new)
    return text


def plain_text(text: str) -> str:
    """Terminal colours taken out."""
    return _ANSI.sub("", text)


def dump_notebook(nb: dict[str, Any]) -> str:
    return json.dumps(nb, indent=1, ensure_ascii=False) + "\n"


def _refuse_leaks(staged: Path, files: list[str], root: Path) -> None:
    """Tables, figures and records are never rewritten (their digests are recorded), so a leak in one stops the run."""
    for name in files:
        if Path(name).suffix in _TEXT:
            leaks = find_leaks((staged / name).read_text(encoding="utf-8", errors="replace"), root)
            if bad := [leak for leak in leaks if leak.startswith("a secret") or str(root) in leak]:
                raise PublishError(f"{name} holds {bad[0]}; take it out of what the notebook stores")
        if name.startswith("records/"):
            for made in read(staged / name)["notebooks"].values():
                if named := secret_settings(made["provenance"]["settings"]):
                    raise PublishError(f"the setting {named[0]} is named like a secret; pass secrets in the environment only")


def _superseded(job: Job, new: set[str]) -> list[Path]:
    """Files that the previous run of this notebook stored and this one did not."""
    part = job.target / "records" / f"{job.notebook}.json"
    try:
        entries = read(part)["entries"].values() if part.is_file() else []
    except ValueError:  # a damaged record names nothing that could be trusted; it is about to be replaced
        return []
    named = {str(e[key]) for e in entries if isinstance(e, dict) for key in ("file", "published_file") if e.get(key)}
    return [file for name in named - new if (file := inside(job.target, name))]


def _explain(error: OSError, shown: str) -> PublishError:
    cause = error.strerror or error
    return PublishError(f"cannot write {shown}: {cause}; make room or make it writable. Earlier results are intact")


def probe_writable(target: Path, shown: str, room: int = 65536) -> None:
    """See that ``room`` bytes can be written in a folder before hours are spent on what could not be stored.

    Raises:
        PublishError: the folder cannot be made, is read-only or full.
    """
    try:
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=target, prefix=".probe") as file:
            file.write(b"\0" * room)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise _explain(error, shown) from None


def publish(job: Job, executed: Path) -> dict[str, str]:
    """Move a complete run's files to where results are kept: first copies under temporary names, then the renames.

    Returns:
        stored name relative to the results folder -> SHA-256.

    Raises:
        PublishError: incomplete, a secret or machine path in a stored file, or no room; earlier results are untouched.
    """
    check_complete(executed, job.staged, job.paper, job.notebook)
    files = sorted(p.relative_to(job.staged).as_posix() for p in job.staged.rglob("*") if p.is_file())
    _refuse_leaks(job.staged, files, job.root)
    copy = job.staged / "notebooks" / f"{job.notebook}.ipynb"
    copy.parent.mkdir(exist_ok=True)
    copy.write_text(dump_notebook(clean_notebook(read_notebook(executed), job)), encoding="utf-8")
    last = [f"notebooks/{job.notebook}.ipynb", f"records/{job.notebook}.json"]  # a record never precedes what it names
    names = [n for n in files if n not in last] + last
    temporary: dict[str, Path] = {}
    old = _superseded(job, set(names))
    try:
        for name in names:
            place = (job.target / name).parent
            place.mkdir(parents=True, exist_ok=True)
            handle, temp = tempfile.mkstemp(dir=place, prefix=".new-", suffix=".tmp")
            temporary[name] = Path(temp)
            with os.fdopen(handle, "wb") as out, (job.staged / name).open("rb") as source:
                shutil.copyfileobj(source, out)
                out.flush()
                os.fsync(out.fileno())
            temporary[name].chmod(0o644)
        for name in names:
            temporary.pop(name).replace(job.target / name)
    except OSError as error:
        raise _explain(error, job.shown) from None
    finally:
        for temp_path in temporary.values():
            temp_path.unlink(missing_ok=True)
    for path in old:
        path.unlink(missing_ok=True)
    return {name: file_digest(job.target / name) for name in sorted(names)}
