"""`make reproduce` as a user meets it: what reruns and why, what survives a kill, what is refused."""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
from toy_project import Toy

from sheaf.artifact.processes import RUN, marked

pytestmark = pytest.mark.slow
WAIT = "import pathlib, time\npathlib.Path('started').touch()\nwhile not pathlib.Path('go').exists():\n    time.sleep(0.1)"


def stamps(toy: Toy) -> dict[str, int]:
    return {str(p): p.stat().st_mtime_ns for p in (toy.root / "results").rglob("*") if p.is_file()}


def ran(toy: Toy, before: dict[str, int]) -> set[str]:
    """Notebooks whose stored copies were written since."""
    copies = (toy.root / "results").rglob("notebooks/*.ipynb")
    return {f"{p.parent.parent.name}/{p.stem}" for p in copies if p.stat().st_mtime_ns != before.get(str(p))}


def waiting(toy: Toy, paper: str, name: str) -> tuple[Path, Path]:
    """Make a notebook wait for a file; returns (sign that it waits, file that lets it go on)."""
    toy.good(paper, name, WAIT)
    folder = toy.root / "notebooks" / paper
    return folder / "started", folder / "go"


def test_first_run_makes_everything(reproduced: Toy) -> None:
    toy = reproduced
    assert sorted(p.name for p in (toy.results("toy_a") / "tables").iterdir()) == ["T01.csv", "T02.csv"]
    record = json.loads((toy.results("toy_a") / "record.json").read_text())
    assert record["entries"]["C01"]["verdict"] == "reproduced"
    assert (toy.root / "results" / "smoke" / "index.html").is_file()
    assert (toy.root / ".sheaf" / "logs" / "smoke" / "toy_a" / "01_first.log").stat().st_size > 0


def test_second_run_and_cosmetic_edits_do_nothing(reproduced: Toy) -> None:
    toy, before = reproduced, stamps(reproduced)
    done = toy.reproduce()
    assert done.returncode == 0
    assert "nothing to run, all 3 notebooks are up to date" in done.stdout
    for path in [*toy.root.rglob("*.py"), *toy.root.rglob("*.ipynb"), *toy.root.rglob("*.toml"), *toy.root.rglob("*.csv")]:
        if "results" not in path.relative_to(toy.root).parts:
            os.utime(path)
    toy.module("toy_a", "shared", '"""Shared, said better."""\n\ndef unit():\n    # the one\n    return (\n        1\n    )\n')
    done = toy.reproduce()
    assert "nothing to run" in done.stdout
    assert stamps(toy) == before


def test_a_library_change_reruns_its_dependants_and_says_why(reproduced: Toy) -> None:
    toy, before = reproduced, stamps(reproduced)
    toy.module("toy_a", "shared", '"""Shared."""\n\n\ndef unit():\n    """One."""\n    return 3\n')
    reason = "lib/sheaf/toy_a/shared.py changed: unit"
    assert reason in toy.sheaf("why", "toy_a/01_first", "--profile", "smoke").stdout
    assert reason in toy.sheaf("status", "--profile", "smoke").stdout
    dry = toy.reproduce("--dry-run")
    assert f"toy_a/01_first would run: {reason}" in dry.stdout
    assert stamps(toy) == before
    done = toy.reproduce()
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"toy_a/01_first runs: {reason}" in done.stdout
    assert "1 of 3 notebooks to run, 2 up to date" in done.stdout
    assert ran(toy, before) == {"toy_a/01_first"}
    assert (toy.results("toy_a") / "tables" / "T01.csv").read_text() == "count\n6\n"


def test_damaged_results_state_and_force_rerun(reproduced: Toy) -> None:
    toy, before = reproduced, stamps(reproduced)
    (toy.results("toy_b") / "tables" / "T01.csv").write_text("count\n99\n")
    (toy.results("toy_a") / "tables" / "T02.csv").unlink()
    toy.done("toy_a", "01_first").write_text("{")
    why = toy.reproduce("--dry-run").stdout
    assert "results/smoke/toy_b/tables/T01.csv was changed after the run" in why
    assert "results/smoke/toy_a/tables/T02.csv is missing" in why
    assert "toy_a/01_first would run: it has not been run to its end here" in why
    done = toy.reproduce("--papers", "toy_b")
    assert done.returncode == 0, done.stdout + done.stderr
    assert ran(toy, before) == {"toy_b/01_only"}, "PAPERS limits what runs"
    assert "99" not in (toy.results("toy_b") / "tables" / "T01.csv").read_text()
    assert "toy_b/01_only would run: FORCE is set" in toy.reproduce("toy_b", "--force", "1", "--dry-run").stdout


def test_a_notebook_that_raises_stops_neither_the_others_nor_the_report(toy: Toy) -> None:
    toy.notebook("toy_a", "01_first", "def deep():\n    return {}['no such key']\n\ndeep()")
    done = toy.reproduce("--jobs", "2")
    assert done.returncode == 1
    assert "✘ toy_a/01_first failed: cell 3 (In [3]) raised KeyError: 'no such key'" in done.stdout
    assert "----> 4 deep()" in done.stdout, "the traceback is shown in full"
    assert "return {}['no such key']" in done.stdout
    assert "toy_a/02_second was skipped: toy_a/01_first comes before it and failed" in done.stdout
    assert toy.done("toy_b", "01_only").is_file()
    assert (toy.root / "results" / "smoke" / "index.html").is_file()
    assert "failed last time: cell 3" in toy.sheaf("status", "--profile", "smoke").stdout
    toy.good("toy_a", "01_first")
    again = toy.reproduce("--jobs", "2")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "2 of 3 notebooks to run" in again.stdout


def test_kill_9_in_the_middle_then_the_same_command(toy: Toy) -> None:
    started, go = waiting(toy, "toy_a", "02_second")
    launcher = toy.start("reproduce", "--profile", "smoke", "--jobs", "1", "toy_a")
    toy.wait_for(started)
    run = json.loads((toy.root / ".sheaf" / "lock").read_text())["run"]
    first = toy.results("toy_a") / "notebooks" / "01_first.ipynb"
    stamp = first.stat().st_mtime_ns
    assert marked(RUN, run)
    launcher.send_signal(signal.SIGKILL)
    launcher.communicate()
    go.touch()
    done = toy.reproduce("toy_a")
    assert done.returncode == 0, done.stdout + done.stderr
    assert marked(RUN, run) == [], "nothing of the killed run is left"
    assert "1 of 2 notebooks to run, 1 up to date" in done.stdout
    assert first.stat().st_mtime_ns == stamp, "a finished notebook is not run again"
    assert toy.done("toy_a", "02_second").is_file()


def test_orphans_of_a_killed_run_end_by_themselves(toy: Toy) -> None:
    started, _ = waiting(toy, "toy_b", "01_only")
    launcher = toy.start("reproduce", "--profile", "smoke", "toy_b")
    toy.wait_for(started)
    run = json.loads((toy.root / ".sheaf" / "lock").read_text())["run"]
    launcher.kill()
    launcher.communicate()
    left = marked(RUN, run)
    for process in left:
        process.wait(timeout=60)
    assert marked(RUN, run) == []


def test_two_runs_at_once_and_ctrl_c(toy: Toy) -> None:
    started, go = waiting(toy, "toy_b", "01_only")
    launcher = toy.start("reproduce", "--profile", "smoke", "toy_b")
    toy.wait_for(started)
    for command in (["reproduce", "--profile", "smoke"], ["run", "toy_a", "01_first", "--profile", "smoke"]):
        second = toy.sheaf(*command)
        assert second.returncode == 75
        assert f"process {launcher.pid} since" in second.stderr
        assert "wait for it with" in second.stderr
    run = json.loads((toy.root / ".sheaf" / "lock").read_text())["run"]
    os.killpg(launcher.pid, signal.SIGINT)
    out, _ = launcher.communicate(timeout=60)
    assert launcher.returncode == 130, out
    assert "call the same command to go on" in out
    assert "Traceback" not in out
    assert marked(RUN, run) == []
    assert [p for p in (toy.root / "results").rglob("*") if p.is_file()] == [], "nothing half-made under a final name"
    go.touch()
    done = toy.reproduce("toy_b")
    assert done.returncode == 0, done.stdout + done.stderr


def test_kernels_are_built_first_and_a_missing_compiler_is_no_failure(toy: Toy) -> None:
    package = toy.root / "kernels" / "sheaf_kernels"
    (package / "adder").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "adder" / "__init__.py").write_text("def add(a, b):\n    return a + b\n")
    (package / "build.py").write_text(
        "import pathlib, shutil\nprint('building' if shutil.which('g++') else 'no compiler: references are used')\n"
        "pathlib.Path('built').touch()\n"
    )
    toy.paper("toy_b", ["01_only"], extra='kernels = ["adder"]')
    toy.good("toy_b", "01_only", "import pathlib\nassert pathlib.Path('../../built').is_file()")
    empty = toy.root / "bin"
    empty.mkdir()
    for name in ("bash", "sh", "git", "env", "which"):
        if found := shutil.which(name):
            (empty / name).symlink_to(found)
    done = toy.reproduce("toy_b", PATH=str(empty))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no compiler" in (toy.root / ".sheaf" / "logs" / "kernels.log").read_text()
    why = toy.sheaf("why", "toy_b", "--profile", "smoke").stdout
    if shutil.which("c++"):
        assert "compiler: none -> " in why, "with a compiler the kernels can be measured"
