"""``sheaf data``: is the data that ships intact, and which data that does not ship is present."""

import sys
from pathlib import Path

from sheaf.artifact.paths import paper_ids
from sheaf.artifact.record import file_digest
from sheaf.artifact.spec import load_paper
from sheaf.common.data import external_dir

__all__ = ["damaged", "show"]

SUMS = "SHA256SUMS"


def damaged(folder: Path) -> list[str]:
    """Files of a data folder that differ from its ``SHA256SUMS``, are missing, or are not listed there.

    Raises:
        ValueError: the list has a line that is not ``<digest>  <file>``.
    """
    listed: dict[str, str] = {}
    try:
        lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
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
    return sorted(wrong + [f"{name} is not listed" for name in present if name not in listed])


def show(root: Path) -> int:
    """Print one line per data folder; exit code 1 when shipped data is damaged. Absent external data is no failure."""
    problems = 0
    for sums in sorted((root / "data").glob(f"*/{SUMS}")):
        folder = sums.parent
        wrong = damaged(folder)
        problems += len(wrong)
        files = sum(p.is_file() for p in folder.rglob("*")) - 1
        print(f"data/{folder.name}: {files} files, " + ("intact" if not wrong else f"{len(wrong)} not as shipped"))
        for name in wrong:
            shown = "".join(c if c.isprintable() else "�" for c in name)  # names of a downloaded list go to a terminal
            print(f"sheaf: data/{folder.name}/{shown}; restore it with `git checkout data/{folder.name}`", file=sys.stderr)
    for paper in paper_ids(root):
        for name in load_paper(paper, root).paper.external:
            state = "present" if external_dir(name) else "absent; see data/README.md for its origin, and SHEAF_DATA"
            print(f"external {name} ({paper}): {state}")
    return 1 if problems else 0
