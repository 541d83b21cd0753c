"""What the project stores agrees with itself: papers, notebooks and records, in the form that 'make store' writes."""

from pathlib import Path

import nbformat
import pytest

from sheaf.artifact.check import check
from sheaf.artifact.store import normalise, stored_notebooks

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = [f for f in stored_notebooks(ROOT) if f.is_file()]
SIZE = 2_000_000  # bytes; GitHub shows no larger notebook


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_papers_notebooks_and_records_agree() -> None:
    found = check(ROOT)
    assert not found, "\n".join(map(str, found))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_a_notebook_is_stored_as_make_store_writes_it(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    nb = nbformat.reads(text, as_version=4)
    nbformat.validate(nb)
    assert nbformat.writes(normalise(nb, ROOT), indent=1).rstrip("\n") + "\n" == text, f"run: make store; {name(path)}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_a_notebook_reads_well(path: Path) -> None:
    nb = nbformat.read(path, as_version=4)
    assert path.stat().st_size <= SIZE
    first = nb.cells[0]
    assert first.cell_type == "markdown" and first.source.startswith("# "), "the first cell is a title"
    headings = [line for cell in nb.cells if cell.cell_type == "markdown" for line in cell.source.splitlines()]
    assert sum(line.startswith("# ") for line in headings) == 1, "one title, then ## and ###"
