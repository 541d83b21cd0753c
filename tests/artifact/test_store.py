"""Storing outputs: the same bytes twice, nothing of this machine, what nbval ignores is kept, failures change nothing."""

import base64
import io
import json
import shutil
from pathlib import Path

import nbformat
import numpy as np
import psutil
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

from sheaf.artifact import outputs
from sheaf.artifact.scrub import notebook_leaks
from sheaf.artifact.spec import SpecError
from sheaf.artifact.store import PICTURE_LIMIT, normalise, store

TOML = """
profiles.smoke = {}
profiles.laptop = {}
[paper]
id = "toy"
title = "A toy"
authors = ["A. Author"]
venue = "Nowhere"
year = 2020
summary = "Nothing."
[[notebook]]
name = "01_a"
title = "First"
[[notebook]]
name = "02_b"
title = "Second"
"""
PARAMETERS = new_code_cell('profile = "smoke"\nseed = 0\nresults_dir = None', metadata={"tags": ["parameters"]})
SHOW = (
    "import base64, os\nfrom IPython.display import Image, display\nfrom pathlib import Path\n"
    "print('at', os.environ['SHEAF_RESULTS'], Path.cwd(), os.environ.get('SHEAF_DATA'), os.environ.get('MY_API_KEY'))\n"
    "folder = Path(os.environ['SHEAF_ROOT'], os.environ['SHEAF_RESULTS'])\nfolder.mkdir(parents=True)\n"
    "_ = (folder / 'made').write_text('x')\ndisplay(Image(data=Path('picture.png').read_bytes()))\nobject()"
)


def png(color: int, size: int = 8, text: str | None = None) -> bytes:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    if text:
        info.add_text("Software", text)
    out = io.BytesIO()
    Image.new("RGB", (size, size), (color, 0, 0)).save(out, "PNG", pnginfo=info)
    return out.getvalue()


def write(path: Path, *cells: nbformat.NotebookNode) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=[new_markdown_cell("# Toy"), PARAMETERS, *cells]), path)


def load(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose first notebook was stored; its second raises and held outputs before."""
    root = tmp_path_factory.mktemp("it's a project")
    (root / "pyproject.toml").write_text("")
    folder = root / "notebooks" / "toy"
    folder.mkdir(parents=True)
    (folder / "paper.toml").write_text(TOML)
    (folder / "picture.png").write_bytes(png(10))
    clock = new_code_cell("import time\ntime.time()", metadata={"tags": ["nbval-ignore-output"], "collapsed": True})
    write(folder / "01_a.ipynb", new_code_cell(SHOW), clock, new_code_cell("1.5;"), new_code_cell(""))
    raising = new_code_cell("1 / 0", outputs=[new_output("stream", name="stdout", text="earlier\n")], execution_count=1)
    write(folder / "02_b.ipynb", raising)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHEAF_DATA", str(root))
        patch.setenv("MY_API_KEY", "never-to-be-seen")
        done = store("toy", root=root)
    assert [d.status for d in done] == ["written", "failed"]
    assert "ZeroDivisionError" in done[1].why
    return root


@pytest.fixture
def project(stored: Path, tmp_path: Path) -> Path:
    shutil.copytree(stored, tmp_path / "copy")
    return tmp_path / "copy"


def test_what_is_stored_can_be_compared_and_names_no_machine(stored: Path) -> None:
    nb = load(stored / "notebooks" / "toy" / "01_a.ipynb")
    assert outputs.problems(nb) == []
    assert notebook_leaks(nb, stored) == []
    assert nb.cells[2].outputs[0].text == "at results <project>/notebooks/toy None None\n"
    assert set(nb.cells[2].outputs[1].data) == {"text/plain", "image/png"}
    assert nb.cells[4].outputs[0].data["text/plain"] == "1.5"  # nbval shows it too, semicolon or not


def test_metadata_says_nothing_of_when_and_where(stored: Path) -> None:
    nb = load(stored / "notebooks" / "toy" / "01_a.ipynb")
    assert set(nb.metadata) == {"kernelspec", "language_info"}
    assert nb.metadata.kernelspec.name == "python3"
    assert nb.metadata.language_info.name == "python"
    assert "version" not in nb.metadata.language_info
    assert [dict(c.metadata) for c in nb.cells[1:4]] == [{"tags": ["parameters"]}, {}, {"tags": ["nbval-ignore-output"]}]
    assert [c.execution_count for c in nb.cells if c.cell_type == "code"] == [1, 2, 3, 4, None]


def test_results_are_untouched_and_nothing_is_left(stored: Path) -> None:
    assert not (stored / "results").exists()
    assert not list((stored / ".sheaf").rglob("made"))


def test_a_failure_keeps_the_earlier_outputs(stored: Path) -> None:
    nb = load(stored / "notebooks" / "toy" / "02_b.ipynb")
    assert nb.cells[2].outputs[0].text == "earlier\n"


def test_a_second_run_writes_the_same_bytes(project: Path) -> None:
    file = project / "notebooks" / "toy" / "01_a.ipynb"
    before = file.read_bytes()
    assert [d.status for d in store("toy", ["01_a"], project)] == ["unchanged"]
    assert file.read_bytes() == before


def test_what_is_ignored_is_kept_until_asked_or_until_something_changed(project: Path) -> None:
    file = project / "notebooks" / "toy" / "01_a.ipynb"
    first = load(file)
    (project / "notebooks" / "toy" / "picture.png").write_bytes(png(10, text="another encoder"))
    assert store("toy", ["01_a"], project)[0].status == "unchanged"  # the same pixels
    (project / "notebooks" / "toy" / "picture.png").write_bytes(png(99))
    assert store("toy", ["01_a"], project)[0].status == "written"
    second = load(file)
    assert second.cells[2].outputs != first.cells[2].outputs
    assert second.cells[3].outputs == first.cells[3].outputs  # a time that nobody compares
    assert store("toy", ["01_a"], project, refresh=True)[0].status == "written"
    assert load(file).cells[3].outputs != first.cells[3].outputs
    assert [c.id for c in load(file).cells] == [c.id for c in first.cells]


@pytest.mark.parametrize(("paper", "notebook"), [("other", None), ("toy", "09_z")])
def test_unknown_names_are_refused_with_the_known_ones(project: Path, paper: str, notebook: str | None) -> None:
    with pytest.raises(SpecError, match=r"toy|01_a"):
        store(paper, [notebook] if notebook else None, project)


def test_a_missing_or_damaged_notebook_is_reported(project: Path) -> None:
    folder = project / "notebooks" / "toy"
    (folder / "01_a.ipynb").unlink()
    (folder / "02_b.ipynb").write_text("{")
    done = store("toy", root=project)
    assert [(d.status, d.file) for d in done] == [("failed", f"notebooks/toy/{n}.ipynb") for n in ("01_a", "02_b")]
    assert str(project) not in done[0].why + done[1].why
    assert (folder / "02_b.ipynb").read_text() == "{"


def test_large_pictures_are_made_small_enough_to_page_through() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (900, 1400, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(noise).save(out, "PNG")
    data = {"image/png": base64.b64encode(out.getvalue()).decode()}
    nb = new_notebook(cells=[new_code_cell("x", outputs=[new_output("display_data", data=data)])])
    small = base64.b64decode(normalise(nb, Path("nowhere")).cells[0].outputs[0].data["image/png"])
    assert len(small) <= PICTURE_LIMIT < len(out.getvalue())
    assert Image.open(io.BytesIO(small)).width >= 300


def test_normalise_takes_out_paths_secrets_and_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_TOKEN", "canary-value-123")
    text = f"{tmp_path}/lib/x.py {Path.home()}/y canary-value-123 .sheaf/nbval/0123456789ab/T1.csv\n"
    traceback = [f"\x1b[32m{tmp_path}/lib/x.py\x1b[39m", "canary-value-123"]
    cell = new_code_cell(
        f"open('{tmp_path}/z')",
        outputs=[
            new_output("stream", name="stdout", text=text),
            new_output("error", ename="E", evalue="canary-value-123", traceback=traceback),
            new_output("display_data", data={"text/html": f"<b>{tmp_path}</b>", "application/json": {"at": [str(tmp_path)]}}),
        ],
        metadata={"execution": {"iopub.execute_input": "2020"}, "papermill": {"duration": 1}, "tags": ["x"]},
    )
    run = {"input_path": str(tmp_path), "parameters": {"key": "canary-value-123"}}
    nb = new_notebook(cells=[cell], metadata={"papermill": run})
    clean = json.dumps(normalise(nb, tmp_path, ".sheaf/nbval/0123456789ab"))
    for leak in (str(tmp_path), "canary-value-123", str(Path.home()) + "/y", "papermill", "iopub", "0123456789ab"):
        assert leak not in clean
    assert "<project>/lib/x.py ~/y <redacted> results/T1.csv" in clean
    assert nb.cells[0].outputs[0].text == text, "the notebook given is left as it was"


def test_older_notebooks_get_ids_by_position(project: Path) -> None:
    file = project / "notebooks" / "toy" / "01_a.ipynb"
    nb = json.loads(file.read_text())
    nb["nbformat_minor"] = 4
    nb["cells"] = [{k: v for k, v in c.items() if k != "id"} for c in nb["cells"][:2]]
    file.write_text(json.dumps(nb))
    store("toy", ["01_a"], project)
    assert [c.id for c in load(file).cells] == ["cell-01", "cell-02"]
    assert load(file).nbformat_minor >= 5


def test_processes_that_a_notebook_leaves_are_ended(project: Path) -> None:
    """A launcher that outlives its cell, as torchrun does when the cell is interrupted, in a session of its own."""
    start = (
        "import subprocess, sys\nfrom pathlib import Path\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(300)'], start_new_session=True)\n"
        "_ = Path('pid').write_text(str(child.pid))\nprint('started')"
    )
    write(project / "notebooks" / "toy" / "01_a.ipynb", new_code_cell(start))
    assert store("toy", ["01_a"], project)[0].status == "written"
    child = int((project / "notebooks" / "toy" / "pid").read_text())
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE
