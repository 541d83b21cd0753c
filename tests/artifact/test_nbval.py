"""The notebook policy: a changed stored number fails, pictures and ignored outputs do not, the sanitiser hides nothing.

One pytest run over a folder of small notebooks, each honest or doctored in one way; the tests read its outcomes.
"""

import base64
import os
import re
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import nbformat
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nbformat.v4 import new_code_cell, new_notebook, new_output
from nbval.plugin import get_sanitize_patterns

REPO = Path(__file__).resolve().parents[2]
SANITISER = REPO / "tests" / "nbval_sanitize.cfg"
TIMEOUT = 60
TINY_PNG = base64.b64encode(b"\x89PNG not this one").decode()

SHOW_TABLE = "from IPython.display import HTML, display\ndisplay(HTML('<table><tr><td>4.8</td></tr></table>'))"
SHOW_PNG = "from IPython.display import Image, display\nimport base64\ndisplay(Image(data=b'\\x89PNG\\r\\n\\x1a\\n' + bytes(20)))"
SHOW_SVG = "from IPython.display import SVG, display\ndisplay(SVG('<svg xmlns=\"http://www.w3.org/2000/svg\"/>'))"
ADDRESS = "class Thing: pass\nprint(Thing())"
SURROUNDINGS = (
    "import os, pathlib\nplace = os.environ['SHEAF_RESULTS']\n"
    "print(place, os.environ.get('SHEAF_DATA'), os.environ.get('OPENAI_API_KEY'), os.environ['OMP_NUM_THREADS'])\n"
    "folder = pathlib.Path(os.environ['SHEAF_ROOT']) / place\nfolder.mkdir(parents=True)\n_ = (folder / 'x').write_text('x')"
)


def said(text: str) -> list[Any]:
    return [new_output("stream", name="stdout", text=text)]


def shown(**data: str) -> list[Any]:
    named = {"plain": "text/plain", "html": "text/html", "png": "image/png", "svg": "image/svg+xml"}
    return [new_output("display_data", data={named[k]: v for k, v in data.items()})]


def cell(source: str, outputs: list[Any], count: int | None = 1, tags: tuple[str, ...] = ()) -> Any:
    return new_code_cell(source, outputs=outputs, execution_count=count, metadata={"tags": list(tags)} if tags else {})


OK = cell("print('the mean is', 1.25)", said("the mean is 1.25\n"))
HTML = "<IPython.core.display.HTML object>"
IMAGE = "<IPython.core.display.Image object>"
IGNORED = ("nbval-ignore-output",)
# name -> (its cells, what is expected to be reported; None when it has to pass)
NOTEBOOKS: dict[str, tuple[list[Any], str | None]] = {
    "honest": ([OK, cell("0.1 + 0.2", [new_output("execute_result", data={"text/plain": "0.30000000000000004"})])], None),
    "other_last_digit": ([cell("print('the mean is', 1.25)", said("the mean is 1.26\n"))], "differ"),
    "other_sign": ([cell("print('change', -0.5)", said("change 0.5\n"))], "differ"),
    "other_verdict": ([cell("print('✘ not reproduced')", said("✔ reproduced\n"))], "differ"),
    "other_table": ([OK, cell(SHOW_TABLE, shown(plain=HTML, html="<table><tr><td>4.9</td></tr></table>"))], "differ"),
    "same_table": ([OK, cell(SHOW_TABLE, shown(plain=HTML, html="<table><tr><td>4.8</td></tr></table>"))], None),
    "output_gone": ([OK, cell("x = 1", said("the mean is 1.25\n"))], "differ"),
    "output_new": ([OK, cell("print('surprise')", [])], "differ"),
    "other_picture": ([OK, cell(SHOW_PNG, shown(plain=IMAGE, png=TINY_PNG))], None),
    "picture_gone": ([OK, cell("x = 1", shown(plain=IMAGE, png=TINY_PNG))], "differ"),
    "other_svg": ([OK, cell(SHOW_SVG, shown(plain="<IPython.core.display.SVG object>", svg="<svg><g/></svg>"))], None),
    "ignored": ([OK, cell("import time\nprint(time.time())", said("17\n"), tags=IGNORED)], None),
    "semicolon": ([OK, cell("1.5;", [new_output("execute_result", data={"text/plain": "1.5"})])], None),
    "address": ([OK, cell(ADDRESS, said("<__main__.Thing object at 0x7f0000000000>\n"))], None),
    "address_of_another": ([OK, cell(ADDRESS, said("<__main__.Other object at 0x7f0000000000>\n"))], "differ"),
    "hexadecimal_result": ([OK, cell("print('crc at 0x7f0000000001')", said("crc at 0x7f0000000002\n"))], "differ"),
    "number_beside_a_path": (
        [OK, cell("print('.sheaf/nbval/0123456789ab 3.5')", said(".sheaf/nbval/ba9876543210 4.5\n"))], "differ",
    ),
    "number_as_folder": ([OK, cell("print('.sheaf/nbval/3.5')", said(".sheaf/nbval/4.5\n"))], "differ"),
    "surroundings": ([OK, cell(SURROUNDINGS, said("results None None 1\n"))], None),
    "never_run": ([OK, cell("print('never compared')", [], count=None)], "never run"),
    "no_outputs": ([cell("x = 1", [])], "no stored outputs"),
    "mostly_ignored": ([OK, *[cell("print(1)", said("1\n"), tags=IGNORED)] * 2], "2 of 3 cells with outputs are ignored"),
    "only_pictures": ([cell(SHOW_PNG, [new_output("display_data", data={"image/png": TINY_PNG})])], "only pictures"),
    "traceback": ([OK, cell("1 / 0", [new_output("error", ename="ZeroDivisionError", evalue="", traceback=[])])], "traceback"),
    "raises": ([OK, cell("1 / 0", said("\n"))], "ZeroDivisionError"),
    "dies": ([OK, cell("import os\nos._exit(0)", said("\n"))], "the kernel died"),
}  # fmt: skip


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Name of each notebook -> what nbval reported of it, empty when it passed."""
    root = tmp_path_factory.mktemp("project with a space")
    (root / "pyproject.toml").write_text("")
    folder = root / "notebooks" / "toy"
    folder.mkdir(parents=True)
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}, "language_info": {"name": "python"}}
    for name, (cells, _) in NOTEBOOKS.items():
        cells = [nbformat.from_dict({**c, "id": f"c{k}"}) for k, c in enumerate(cells)]
        nbformat.write(new_notebook(cells=cells, metadata=kernel), folder / f"{name}.ipynb")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("SHEAF_", "PYTEST_"))}
    ours = {"PYTHONPATH": str(REPO / "lib"), "SHEAF_DATA": str(root), "OPENAI_API_KEY": "never-to-be-seen"}
    started = time.monotonic()
    subprocess.run(
        [
            sys.executable, "-m", "pytest", "-p", "sheaf.artifact.nbval_plugin", "--nbval", "--nbval-sanitize-with",
            str(SANITISER), "--nbval-cell-timeout", str(TIMEOUT), "-n", "2", "--dist", "loadscope",
            "--junitxml", str(root / "report.xml"), "-q", "-p", "no:cacheprovider", "notebooks",
        ],
        cwd=root, env=kept | ours, capture_output=True, timeout=280,
    )  # fmt: skip
    found = {"_seconds": str(time.monotonic() - started), "_left": " ".join(p.name for p in root.glob(".sheaf/nbval/*"))}
    found["_results"] = " ".join(p.name for p in root.glob("results"))
    for case in ET.parse(root / "report.xml").iter("testcase"):
        name = re.split(r"[/.]", case.get("classname", "").removesuffix(".ipynb").removesuffix(".Cell"))[-1]
        found[name] = found.get(name, "") + "".join(part.text or "" for part in case if part.tag in ("failure", "error"))
    return found


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_what_fails_and_what_does_not(name: str, outcomes: dict[str, str]) -> None:
    expected = NOTEBOOKS[name][1]
    assert name in outcomes, f"{name} was not run; nbval reported on {sorted(outcomes)}"
    if expected is None:
        assert outcomes[name] == ""
    else:
        assert expected in outcomes[name]


def test_a_dead_kernel_does_not_wait_for_its_time_limit(outcomes: dict[str, str]) -> None:
    assert "died" in outcomes["dies"]
    assert "imeout" not in outcomes["dies"]


def test_nothing_is_left_and_results_are_untouched(outcomes: dict[str, str]) -> None:
    assert outcomes["_left"] == ""
    assert outcomes["_results"] == ""


def sanitise(text: str) -> str:
    for pattern, replacement in get_sanitize_patterns(SANITISER.read_text()):
        text = re.sub(pattern, replacement, text)
    return text


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(st.floats(allow_nan=True), st.integers()),
    st.sampled_from(["{}", "{:.4g}", "{:e}", "{:+.1f}", "{:g} s", "{:g} ms", "took {:g} s", "{:g}%", "in [{:g}, 9]", "at {:g}"]),
    st.sampled_from(["{}", "measured {}", "<td>{}</td>", "a/{}/b", "results/{}", "tables/T{}.csv", "speedup at {}>", "{}>"]),
)  # fmt: skip
def test_the_sanitiser_leaves_every_number_alone(value: float, number: str, place: str) -> None:
    text = place.format(number.format(value))
    assert sanitise(text) == text


def test_the_sanitiser_is_read_as_written() -> None:
    text = SANITISER.read_text()
    assert len(get_sanitize_patterns(text)) == text.count("\nregex: ") == text.count("\nreplace: ") > 0


def test_the_sanitiser_takes_out_what_it_is_for() -> None:
    assert sanitise("wrote .sheaf/nbval/0123456789ab/smoke/x.csv") == "wrote results/smoke/x.csv"
    assert sanitise("<object at 0x7fee898d2ef0>") == "<object at ADDRESS>"
    assert sanitise("/var/tmp/ipykernel_12/3456.py:3: Warning") == "<cell>:3: Warning"
