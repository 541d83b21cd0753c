"""What ``make report`` writes: an index per set of profiles, a page per paper and profile, per executed notebook, of promises."""

import hashlib
import re
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from sheaf.artifact.paths import notebook_path as source_path
from sheaf.artifact.paths import project_root
from sheaf.artifact.record import atomic_write
from sheaf.artifact.report.files import Preview, href, preview, svg_size
from sheaf.artifact.report.notebook import notebook_body
from sheaf.artifact.report.page import LIMIT, TEMPLATES, render
from sheaf.artifact.report.pictures import board_svg
from sheaf.artifact.report.promises import NAME, promises_page, promises_words
from sheaf.artifact.report.text import duration, markdown, when
from sheaf.artifact.report.view import SCRATCH, Made, NotebookRun, Row, Run, board, results_base
from sheaf.artifact.spec import PROFILES
from sheaf.artifact.verdict import VERDICTS

__all__ = ["build", "scoreboard_markdown", "scoreboard_svg", "update_readme"]

KEPT = tuple(p for p in PROFILES if p not in SCRATCH)
ARXIV = re.compile(r"\d{4}\.\d{4,5}(?:v\d+)?|[a-z-]+(?:\.[A-Z]{2})?/\d{7}")  # other text is shown, not linked
BEGIN, END = "<!-- scoreboard -->", "<!-- /scoreboard -->"


@dataclass(frozen=True)
class Shown:
    """A table or figure ready for the template: addresses relative to the page, and the tops of its CSV files."""

    made: Made
    file: str = ""
    published_file: str = ""
    measured: Preview | None = None
    published: Preview | None = None
    problem: str = ""
    size: tuple[int, int] | None = None


def _write(path: Path, content: bytes) -> None:
    """Written only when it differs, so that an unchanged page keeps its time and is no change to commit."""
    if not path.is_file() or path.read_bytes() != content:
        atomic_write(path, content)


def _page_of(run: Run, out: Path) -> Path:
    return out / run.profile / f"{run.paper}.html"


def _notebook_page(run: Run, name: str, out: Path) -> Path:
    return out / run.profile / run.paper / "notebooks" / f"{name}.html"


def _shown(made: Made, page: Path, rows: int) -> Shown:
    if made.file is None:
        return Shown(made, problem=made.problem)
    if made.kind != "table":
        return Shown(made, file=href(made.file, page), size=svg_size(made.file))
    try:
        published = preview(made.published_file, rows) if made.published_file else None
        measured = preview(made.file, rows)
    except ValueError as error:
        return Shown(made, problem=f"not shown: {error}")
    other = href(made.published_file, page) if made.published_file else ""
    return Shown(made, href(made.file, page), other, measured, published)


@dataclass(frozen=True)
class Linked:
    """A notebook run with the addresses of its page and of its file; ``page`` is empty when it could not be shown."""

    run: NotebookRun
    page: str = ""
    file: str = ""
    problem: str = ""


def _notebook(run: Run, notebook: NotebookRun, siblings: dict[str, Path], root: Path, out: Path) -> Linked:
    page = _page_of(run, out)
    if notebook.file is None:
        return Linked(notebook, problem="its executed notebook is not in the results folder" if notebook.facts else "")
    target = _notebook_page(run, notebook.name, out)
    file = href(notebook.file, page)
    source = source_path(run.paper, notebook.name, root)
    parts = [notebook.file.read_bytes(), repr((sorted(siblings), run.title, notebook.title)).encode(), _renderer()]
    key = hashlib.sha256(b"\0".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()
    if target.is_file() and key.encode() in target.open("rb").read(1024):
        return Linked(notebook, href(target, page), file)
    try:
        body = notebook_body(notebook.file, source, target, siblings, LIMIT - 100_000)
    except ValueError as error:
        return Linked(notebook, file=file, problem=str(error))
    names = list(siblings.values())
    at = names.index(target)
    _write(target, render(
        "notebook.html.j2", key=key, run=run, notebook=notebook, body=body, file=href(notebook.file, target),
        up=href(page, target), before=href(names[at - 1], target) if at else "",
        after=href(names[at + 1], target) if at + 1 < len(names) else "",
    ))  # fmt: skip
    return Linked(notebook, href(target, page), file)


def _renderer() -> bytes:
    """What a notebook's page depends on besides the notebook; a change of it makes every page anew."""
    here = Path(__file__).parent
    code = [here / name for name in ("build.py", "notebook.py", "formula.py", "page.py")]
    files = [*code, *(TEMPLATES / name for name in ("base.html.j2", "notebook.html.j2", "notebook.css", "report.css"))]
    versions = [metadata.version(name) for name in ("nbconvert", "bleach", "matplotlib", "Pygments")]
    return b"\0".join(file.read_bytes() for file in files) + repr(versions).encode()


def _paper_page(run: Run, others: tuple[Run, ...], root: Path, out: Path) -> None:
    page = _page_of(run, out)
    siblings = {f"{n.name}.ipynb": _notebook_page(run, n.name, out) for n in run.notebooks if n.file}
    notebooks = [_notebook(run, notebook, siblings, root, out) for notebook in run.notebooks]
    links = {n.run.name: n.page for n in notebooks}
    profiles = [(r.profile, href(_page_of(r, out), page)) for r in others if r.profile != run.profile]
    index = _index_file(run.profile, out)
    for rows in (20, 8, 3, 0):  # a page of many wide tables shows fewer rows of each
        shown = [_shown(made, page, rows) for made in run.made]
        html = render(
            "paper.html.j2", run=run, tables=[s for s in shown if s.made.kind == "table" and s.file],
            figures=[s for s in shown if s.made.kind == "figure" and s.file],
            absent=[s for s in shown if not s.file], notebooks=notebooks, links=links, profiles=profiles,
            index=href(index, page), arxiv_ok=bool(run.spec and ARXIV.fullmatch(run.spec.paper.arxiv or "")),
        )  # fmt: skip
        if len(html) <= LIMIT:
            break
    _write(page, html)


def _index_file(profile: str, out: Path) -> Path:
    return out / profile / "index.html" if profile in SCRATCH else out / "index.html"


def _index(rows: list[Row], page: Path, out: Path, scratch: str, promises: str = "") -> None:
    links = {(run.paper, run.profile): href(_page_of(run, out), page) for row in rows for run in row.runs}
    entries: list[dict[str, Any]] = []
    for run in (run for row in rows for run in row.runs):
        link = links[run.paper, run.profile]
        entries += [{"run": run, "entry": claim, "link": link} for claim in run.claims]
        entries += [{"run": run, "entry": made, "link": link} for made in run.made]
    papers = [row.paper for row in rows if row.runs]
    profiles = [p for p in PROFILES if any(run.profile == p for row in rows for run in row.runs)]
    for length in (240, 80, 0):  # characters of a statement; none at all when even that is too long
        html = render(
            "index.html.j2", rows=rows, links=links, entries=entries if length else [], length=length, papers=papers,
            profiles=profiles, scratch=scratch, promises=promises,
        )  # fmt: skip
        if len(html) <= LIMIT:
            break
    _write(page, html)


def _promises(root: Path, index: Path, out: Path) -> None:
    page = out / NAME
    html = promises_page(root, href(index, page))
    if html is None:
        page.unlink(missing_ok=True)  # of a record that is gone
    else:
        _write(page, html)


def build(root: Path | None = None, out: Path | None = None) -> Path:
    """Write the report and give the path of its index.

    ``<out>/index.html`` shows every profile that is kept in the repository; smoke runs have ``<out>/smoke/index.html``
    to themselves. Beside them: ``promises.html`` where promises were tried, ``<profile>/<paper>.html``,
    ``<profile>/<paper>/notebooks/<notebook>.html`` and ``scoreboard.svg``. The same records give the same bytes, and a
    page that would not change is not written.

    Args:
        root: the project; default the one around the working directory.
        out: where the pages go; default beside the results they show.
    """
    root = root or project_root()
    out = out or results_base(root)
    kept, scratch = board(root, KEPT), board(root, SCRATCH)
    for rows in (kept, scratch):
        for row in rows:
            for run in row.runs:
                _paper_page(run, row.runs, root, out)
    index = _index_file(KEPT[0], out)
    _promises(root, index, out)
    _index(kept, index, out, scratch="", promises=promises_words(root))
    if any(row.runs for row in scratch):
        _index(scratch, _index_file(SCRATCH[0], out), out, scratch=SCRATCH[0])
    _write(out / "scoreboard.svg", board_svg(kept).encode())
    return index


def scoreboard_svg(root: Path | None = None) -> str:
    """The score board as an SVG picture; ``build`` writes it to ``results/scoreboard.svg``."""
    return board_svg(board(root, KEPT))


def scoreboard_markdown(root: Path | None = None) -> str:
    """The score board as a Markdown table, one line per paper and profile; papers without a run say "not yet"."""
    head = ["paper", "profile", "tables", "figures", *VERDICTS, "run", "time"]
    lines = [f"| {' | '.join(head)} |", "|---|---|" + "---:|" * (2 + len(VERDICTS)) + "---|---:|"]
    for row in board(root, KEPT):
        for run in row.runs:
            link = f"[{markdown(row.title)}](results/{run.profile}/{run.paper}.html)"
            if run.damaged:
                cells = [link, run.profile, "record damaged: run it again", *[""] * (len(VERDICTS) + 3)]
            else:
                made = ["{} of {}".format(*run.tally(kind)) for kind in ("table", "figure")]
                counts = [str(run.counts[v] or "–") for v in VERDICTS]
                cells = [link, run.profile, *made, *counts, when(run.finished)[:10], duration(run.total("wall_s"))]
            lines.append(f"| {' | '.join(cells)} |")
        if not row.runs:
            cells = [markdown(row.title or row.paper), "not yet", *[""] * (len(VERDICTS) + 4)]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def update_readme(root: Path | None = None) -> bool:
    """Put the score table between its two marks in README.md; says whether that changed anything.

    A project without a README.md has nothing to update.

    Raises:
        ValueError: README.md lacks the marks, or has them in the wrong order.
    """
    file = (root or project_root()) / "README.md"
    if not file.is_file():
        return False
    before = file.read_text(encoding="utf-8")
    start, stop = before.find(BEGIN), before.find(END)
    if start < 0 or stop < start:
        raise ValueError(f"README.md has no place for the score board; add the lines {BEGIN} and {END}")
    after = f"{before[: start + len(BEGIN)]}\n{scoreboard_markdown(root)}{before[stop:]}"
    if after == before:
        return False
    atomic_write(file, after)
    return True
