"""The page of promises: what was done to break each, how often, and how often it broke."""

from pathlib import Path

from sheaf.artifact.promises import PromisesError, PromisesRecord, load_promises
from sheaf.artifact.report.page import render
from sheaf.artifact.report.text import number, provenance

__all__ = ["NAME", "promises_page", "promises_words"]

NAME = "promises.html"
FACTS = ("commit", "uncommitted changes", "started", "finished", "wall time, s", "CPU", "cores", "Python", "packages")


def _read(root: Path) -> tuple[PromisesRecord | None, str]:
    """The record, or what is wrong with it; neither when promises were never tried here."""
    try:
        return load_promises(root), ""
    except PromisesError as error:
        return None, str(error)


def promises_words(root: Path) -> str:
    """What the index says beside its link to the page; empty when there is no page."""
    record, problem = _read(root)
    if record is None:
        return "record damaged" if problem else ""
    return f"{record.kept} of {len(record.promises)} kept, {record.failed:,} of {record.tried:,} trials failed"


def promises_page(root: Path, index: str) -> bytes | None:
    """The page as HTML; None when promises were never tried here. ``index`` is the address of the score board."""
    record, problem = _read(root)
    if record is None and not problem:
        return None
    rows, facts = [], []
    if record is not None:
        for promise in record.promises:
            figures = [(name, value if isinstance(value, str) else number(value)) for name, value in promise.figures.items()]
            rows.append({"promise": promise, "figures": figures})
        facts = [(name, said) for name, said in provenance(record.provenance.model_dump()) if name in FACTS]
    return render("promises.html.j2", record=record, rows=rows, problem=problem, index=index, facts=facts)
