"""Many kernels at once: every notebook starts, none waits for ever."""

import json
import os
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from faults import processes_of
from ledger import Promise
from toy_project import build

pytestmark = [
    pytest.mark.slow,
    pytest.mark.promise(
        "parallel-start",
        "Notebooks that start at the same time all start: none loses its kernel, none hangs.",
        "notebooks started 24 at a time: 24 as whole runs of one `reproduce`, the rest in the process in which papermill runs "
        "a notebook of such a run (`python -m sheaf.artifact.execute`), which leaves out the reading of libraries around it",
    ),
]
AT_ONCE = 24
LIMIT = 300  # seconds for a notebook of one cell: one that hangs is over it
PAPER = """
[paper]
id = "{id}"
title = "Starts"
authors = ["A. Toy"]
venue = "Toys"
year = 2024
summary = "Starts and ends."
[[notebook]]
name = "01_only"
title = "Starts"
timeout = 300
[profiles.smoke]
[profiles.laptop]
"""
OPEN = """from sheaf import Study
study = Study("{id}", notebook="01_only", profile=profile, seed=seed, results_dir=results_dir)"""


@pytest.mark.skipif(os.environ.get("SHEAF_PROVE") != "1", reason="takes a minute; make prove runs it")
def test_whole_runs_at_the_same_time(promise: Promise, tmp_path: Path) -> None:
    toy = build(tmp_path / "project")
    papers = [f"start_{k}" for k in range(AT_ONCE)]
    for paper in papers:
        toy.notebook(paper, "01_only", OPEN.format(id=paper), "study.verdicts()")
        (toy.root / "notebooks" / paper / "paper.toml").write_text(PAPER.format(id=paper))
    done = toy.sheaf("reproduce", "--profile", "smoke", "--jobs", str(AT_ONCE), *papers, timeout=1200)
    assert done.returncode == 0, (done.stdout + done.stderr)[-600:]
    for paper in papers:
        promise.trial(toy.done(paper, "01_only").is_file(), f"{paper} did not complete")
    assert not processes_of(toy.root), "a process is left"


def test_kernels_at_the_same_time(promise: Promise, tmp_path: Path) -> None:
    toy = build(tmp_path / "project")
    notebook = toy.notebook("toy_b", "01_only", "print('seed', seed)")
    sockets = Path(tempfile.mkdtemp(prefix="starts-"))  # short: the path of a socket is limited

    def start(number: int) -> str:
        """Empty when the notebook ran with its own parameters, else what became of it."""
        work = tmp_path / f"start-{number}"
        work.mkdir()
        order = {
            "notebook": str(notebook), "output": str(work / "executed.ipynb"), "outcome": str(work / "outcome.json"),
            "cwd": str(notebook.parent), "sockets": str(sockets / str(number)), "parameters": {"seed": number},
        }  # fmt: skip
        (sockets / str(number)).mkdir()
        (work / "job.json").write_text(json.dumps(order))
        quiet = {"IPYTHONDIR": str(work / "ipython"), "JUPYTER_RUNTIME_DIR": str(work / "runtime")}
        try:
            done = subprocess.run(
                ["nice", *toy.command()[:1], "-m", "sheaf.artifact.execute", str(work / "job.json")], cwd=toy.root,
                env=toy.env(**quiet), capture_output=True, text=True, timeout=LIMIT,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return f"not over after {LIMIT} s"
        ran = (work / "executed.ipynb").is_file() and f"seed {number}\\n" in (work / "executed.ipynb").read_text()
        return "" if ran and done.returncode == 0 else (done.stdout + done.stderr)[-300:]

    number = promise.size(full=500 - AT_ONCE, fast=AT_ONCE // 2)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for k, problem in enumerate(pool.map(start, range(number))):
            promise.trial(not problem, f"start {k}: {problem}")
    promise.figures["at a time"] = AT_ONCE
    shutil.rmtree(sockets)
