"""Is the data that ships intact, which nothing runs without, and which data that does not ship is present (``sheaf data``)."""

import sys
from pathlib import Path

from sheaf.artifact.paths import paper_ids
from sheaf.artifact.record import file_digest
from sheaf.artifact.spec import load_paper
from sheaf.common.data import external_dir

__all__ = ["damaged", "require_intact", "show"]

SUMS = "SHA256SUMS"


def damaged(folder: Path) -> list[str]:
    """Files of a data folder that differ from its ``SHA256SUMS``, are missing, or are not listed there and not hidden.

    Raises:
        ValueError: the list has a line that is not ``<digest>  <file>``.
    """
    listed: dict[str, str] = {}
    try:
        lines = (folder / SUMS).read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError:
        raise ValueError(f"data/{folder.name}/{SUMS}: not UTF-8 text; write it anew with sha256sum") from None
    for number, line in enumerate(lines, 1):
        digest, _, name = line.partition("  ")
        if len(digest) != 64 or not name:
            raise ValueError(f"data/{folder.name}/{SUMS}, line {number}: not '<digest>  <file>'; write it anew with sha256sum")
        listed[name.removeprefix("./")] = digest
    present = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file() and p.name != SUMS}
    wrong = [f"{name} is missing" for name in listed if name not in present]
    wrong += [f"{name} differs" for name in listed if name in present and file_digest(present[name]) != listed[name]]
    shown = [name for name in present if not any(part.startswith(".") for part in name.split("/"))]
    return sorted(wrong + [f"{name} is not listed" for name in shown if name not in listed])


def _shown(folder: Path, problem: str) -> str:
    """A problem with the name of its file from the root; names of a downloaded list go to a terminal."""
    return f"data/{folder.name}/" + "".join(c if c.isprintable() else "�" for c in problem)


def require_intact(paper: str, root: Path) -> None:
    """Refuse to go on with shipped data that is not as its ``SHA256SUMS`` says; without such a list nothing is checked.

    Raises:
        ValueError: a file differs, is missing or is not listed, or the list cannot be read.
    """
    folder = root / "data" / paper
    if not (folder / SUMS).is_file() or not (wrong := damaged(folder)):
        return
    more = f" (and {len(wrong) - 1} more; `make data` lists them)" if len(wrong) > 1 else ""
    raise ValueError(
        f"{_shown(folder, wrong[0])}{more}; restore it with `git checkout data/{paper}`, or write {SUMS} anew with sha256sum "
        "if the change is meant"
    )


def show(root: Path) -> int:
    """Print one line per data folder; exit code 1 when shipped data is damaged. Absent external data is no failure."""
    problems = 0
    for folder in sorted(p for p in (root / "data").glob("*/") if p.name != "external"):
        wrong = damaged(folder) if (folder / SUMS).is_file() else [f"{SUMS} is missing"]
        problems += len(wrong)
        files = sum(p.is_file() and p.name != SUMS for p in folder.rglob("*"))
        print(f"data/{folder.name}: {files} files, " + ("intact" if not wrong else f"{len(wrong)} not as shipped"))
        for name in wrong:
            print(f"sheaf: {_shown(folder, name)}; restore it with `git checkout data/{folder.name}`", file=sys.stderr)
    for paper in paper_ids(root):
        for name in load_paper(paper, root).paper.external:
            state = "present" if external_dir(name) else "absent; see data/README.md for its origin, and SHEAF_DATA"
            print(f"external {name} ({paper}): {state}")
    return 1 if problems else 0
