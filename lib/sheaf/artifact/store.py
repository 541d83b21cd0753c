"""Run notebooks at the smoke profile and store their outputs in them: what a reader sees, and what nbval compares."""

import base64
import io
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import nbformat
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode
from PIL import Image

from sheaf.artifact.inventory import require_intact
from sheaf.artifact.outputs import is_compared
from sheaf.artifact.paths import paper_ids, project_root
from sheaf.artifact.record import atomic_write
from sheaf.artifact.sandbox import Sandbox, sandbox
from sheaf.artifact.scrub import scrub_notebook, scrub_text
from sheaf.artifact.spec import SpecError, load_paper

__all__ = ["Stored", "normalise", "store", "stored_notebooks"]

PICTURE_LIMIT = 200_000  # bytes of a stored PNG
_CELL_METADATA = ("tags", "jupyter", "slideshow")  # the rest says when and where a cell ran
_KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
_LANGUAGE = {"file_extension": ".py", "mimetype": "text/x-python", "name": "python", "pygments_lexer": "ipython3"}
_ADDRESS = re.compile(r"(?<= at )0x[0-9a-f]{8,16}(?=>)")


@dataclass(frozen=True)
class Stored:
    """What became of one notebook: its file relative to the root, and why when it failed."""

    file: str
    status: Literal["unchanged", "written", "failed"]
    why: str = ""


def stored_notebooks(root: Path, paper: str | None = None) -> list[Path]:
    """The notebooks of one paper in reading order, or the tour and those of all papers.

    Raises:
        SpecError: unknown paper, or a paper.toml that is not valid.
    """
    folder = root / "notebooks"
    papers = [paper] if paper else paper_ids(root)
    series = [folder / p / f"{n.name}.ipynb" for p in papers for n in load_paper(p, root).notebooks]
    return series if paper else [*sorted(folder.glob("*.ipynb")), *series]


def store(
    paper: str | None = None, notebooks: list[str] | None = None, root: Path | None = None, *, refresh: bool = False,
    timeout: int = 300,
) -> list[Stored]:  # fmt: skip
    """Execute notebooks as nbval will and write what they show back into them.

    A second run of unchanged notebooks writes the same bytes. Outputs that are not compared (timings, pictures) are kept
    from the last time when the sources and every compared output are the same, unless ``refresh``. A notebook that
    raises keeps the outputs it had.

    Args:
        paper: folder name under ``notebooks/``; default all papers and the tour.
        notebooks: names (file stems) to restrict to.
        timeout: seconds a cell may take.

    Raises:
        SpecError: unknown paper or notebook, or a paper.toml that is not valid.
        ValueError: a paper's shipped data is damaged.
    """
    root = root or project_root()
    files = stored_notebooks(root, paper)
    if notebooks:
        if unknown := sorted(set(notebooks) - {f.stem for f in files}):
            raise SpecError(f"no notebook {', '.join(unknown)}; use one of {', '.join(f.stem for f in files)}")
        files = [f for f in files if f.stem in notebooks]
    for folder in sorted({file.parent.name for file in files}):
        require_intact(folder, root)
    return [_store_one(file, root, refresh, timeout) for file in files]


def _store_one(file: Path, root: Path, refresh: bool, timeout: int) -> Stored:
    name = file.relative_to(root).as_posix()
    try:
        before = file.read_text(encoding="utf-8")
        old = nbformat.reads(before, as_version=4)
    except OSError as error:
        return Stored(name, "failed", f"cannot be read ({error.strerror}); paper.toml lists it, so add or restore it")
    except ValueError as error:
        return Stored(name, "failed", f"not a notebook ({error}); restore it")
    new = nbformat.reads(before, as_version=4)
    _name_cells(new)
    with sandbox(root) as place:
        try:
            _execute(new, file.parent, place, timeout)
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
            return Stored(name, "failed", scrub_text(f"{type(error).__name__}: {error}".strip(), root))
        new = normalise(new, root, place.results)
    if not refresh:
        _keep_incomparable(normalise(old, root), new)
    after = nbformat.writes(new, indent=1).rstrip("\n") + "\n"
    if after == before:
        return Stored(name, "unchanged")
    atomic_write(file, after)
    return Stored(name, "written")


class _Client(NotebookClient):
    """Runs cells as nbval does: in the sandbox, and outside the history, where a semicolon does not hide a value."""

    def __init__(self, nb: NotebookNode, place: Sandbox, **options: Any) -> None:
        super().__init__(nb, **options)
        self._place = place

    def create_kernel_manager(self) -> AsyncKernelManager:
        self.km = AsyncKernelManager(kernel_name="python3", **self._place.manager)
        return self.km

    async def async_execute_cell(
        self, cell: NotebookNode, cell_index: int, execution_count: int | None = None, store_history: bool = False
    ) -> NotebookNode:
        return await super().async_execute_cell(cell, cell_index, execution_count, store_history=False)


def _execute(nb: NotebookNode, folder: Path, place: Sandbox, timeout: int) -> None:
    where = {"metadata": {"path": str(folder)}}
    client = _Client(nb, place, timeout=timeout, record_timing=False, resources=where, coalesce_streams=True)
    # what a child of the kernel writes is captured; the copy that would go to this terminal is not scrubbed by anybody
    client.execute(env=place.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _name_cells(nb: NotebookNode) -> None:
    """Give cells of an older notebook ids by position; ids that are there stay."""
    nb.nbformat_minor = max(nb.nbformat_minor, 5)
    taken = {cell.get("id") for cell in nb.cells}
    for number, cell in enumerate(nb.cells, 1):
        if not cell.get("id"):
            cell["id"] = next(name for name in (f"cell-{number:02d}", f"cell-{number:02d}-b") if name not in taken)


def normalise(nb: NotebookNode, root: Path, results: str = "") -> NotebookNode:
    """A copy without what differs between runs and machines: times, versions, paths, secrets, run-away pictures.

    Args:
        results: the throw-away results folder of the run, named ``results`` in the copy.
    """
    nb = scrub_notebook(nb, root)
    nb.metadata = NotebookNode(kernelspec=NotebookNode(_KERNEL), language_info=NotebookNode(_LANGUAGE))
    count = 0
    for cell in nb.cells:
        cell.metadata = NotebookNode({k: v for k, v in cell.metadata.items() if k in _CELL_METADATA})
        if cell.cell_type != "code":
            continue
        ran = bool(cell.source.strip())
        count += ran
        cell.execution_count = count if ran else None
        for output in cell.outputs:
            if "execution_count" in output:
                output.execution_count = cell.execution_count
            for holder, key in [(output, "text")] + [(output.get("data", {}), mime) for mime in output.get("data", {})]:
                if key == "image/png":
                    holder[key] = _small_png(holder[key])
                elif isinstance(holder.get(key), str):
                    holder[key] = holder[key].replace(results, "results") if results else holder[key]
    return nb


def _small_png(encoded: str) -> str:
    """The picture in at most about 200 kB: fewer colours first, then fewer pixels."""
    data = base64.b64decode(encoded)
    width = 1200
    while len(data) > PICTURE_LIMIT and width >= 300:
        picture: Any = Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB")
        picture.thumbnail((width, width))
        small = io.BytesIO()
        picture.quantize(128).save(small, "PNG", optimize=True)
        data, width = small.getvalue(), width * 3 // 4
    return base64.b64encode(data).decode("ascii")


def _keep_incomparable(old: NotebookNode, new: NotebookNode) -> None:
    """Put back the old ignored outputs and equal pictures when nothing that is compared has changed."""
    if [c.source for c in old.cells] != [c.source for c in new.cells]:
        return
    pairs = [(a, b) for a, b in zip(old.cells, new.cells, strict=True) if a.cell_type == b.cell_type == "code"]
    if any(_shape(a) != _shape(b) or (is_compared(b) and _text(a) != _text(b)) for a, b in pairs):
        return
    for a, b in pairs:
        if not is_compared(b) or _pixels(a) == _pixels(b):
            b.outputs = a.outputs


def _shape(cell: NotebookNode) -> list[Any]:
    return [(o.output_type, o.get("name"), sorted(o.get("data", {}))) for o in cell.outputs]


def _text(cell: NotebookNode) -> list[str]:
    """What nbval compares: streams and data other than pictures, addresses in reprs left out."""
    found = []
    for output in cell.outputs:
        data = {k: v for k, v in output.get("data", {}).items() if not k.startswith("image/")}
        found += [_ADDRESS.sub("ADDRESS", str(v)) for v in (output.get("text"), *(data[k] for k in sorted(data)))]
    return found


def _pixels(cell: NotebookNode) -> list[bytes]:
    """The decoded pictures: two files of the same pixels are the same picture."""
    encoded = [o.data["image/png"] for o in cell.outputs if "image/png" in o.get("data", {})]
    return [Image.open(io.BytesIO(base64.b64decode(e))).convert("RGBA").tobytes() for e in encoded]
