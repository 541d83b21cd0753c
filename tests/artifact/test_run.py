"""One notebook, run and watched: every way to end other than well is a failure that leaves earlier results alone."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from toy_project import Toy

from sheaf.artifact.processes import JOB, end_marked, identity, is_alive, marked, none_left_behind
from sheaf.artifact.run import check_parameters

SPARE = "print('before')"


def failure(toy: Toy, paper: str = "toy_b", name: str = "01_only") -> dict:
    return json.loads((toy.root / ".sheaf" / "failed" / "smoke" / paper / f"{name}.json").read_text())


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.slow
def test_a_good_notebook_is_stored_whole(toy: Toy) -> None:
    toy.good("toy_b", "01_only", "%matplotlib inline\nprint(profile, seed, results_dir)")
    done = toy.sheaf("run", "toy_b", "01_only", "--profile", "smoke", "--seed", "3")
    assert done.returncode == 0, done.stdout + done.stderr
    stored = contents(toy.results("toy_b"))
    assert set(stored) == {"tables/T01.csv", "notebooks/01_only.ipynb", "records/01_only.json"}
    nb = json.loads(stored["notebooks/01_only.ipynb"])
    assert "papermill" not in nb["metadata"]
    assert not [c for c in nb["cells"] if {"papermill", "execution"} & set(c["metadata"])]
    assert "smoke 3 results/smoke/toy_b" in stored["notebooks/01_only.ipynb"].decode(), "the staging folder is not shown"
    marker = json.loads(toy.done("toy_b", "01_only").read_text())
    assert set(marker["outputs"]) == set(stored)
    assert not list((toy.root / ".sheaf" / "work").rglob("*.ipynb"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", "the kernel died while cell 4"),
        ("def inner():\n    raise KeyError('the canary sang')\ninner()", "cell 4 (In [4]) raised KeyError: 'the canary sang'"),
        ("input('name? ')", "cell 4 (In [4]) raised StdinNotImplementedError"),
    ],
    ids=["SIGKILL", "raise", "input"],
)
def test_an_ending_that_is_not_completion_is_a_failure(reproduced: Toy, code: str, why: str) -> None:
    toy = reproduced
    earlier = contents(toy.results("toy_b"))
    toy.good("toy_b", "01_only", SPARE, code)
    done = toy.sheaf("run", "toy_b", "01_only", "--profile", "smoke")
    assert done.returncode == 1
    assert why in failure(toy)["why"]
    assert f"sheaf: toy_b/01_only failed: {failure(toy)['why']}" in done.stdout
    assert contents(toy.results("toy_b")) == earlier, "earlier good results are untouched"
    assert not toy.done("toy_b", "01_only").exists()
    if "raise KeyError" in code:
        assert "inner()" in failure(toy)["traceback"]
        assert "inner()" in done.stdout, "the traceback is printed in full"
        assert "\x1b" not in done.stdout
        copy = toy.root / ".sheaf" / "failed" / "smoke" / "toy_b" / "01_only.ipynb"
        assert "KeyError" in copy.read_text(), "the executed copy is kept"


@pytest.mark.slow
def test_a_notebook_without_its_closing_cell_is_a_failure(toy: Toy) -> None:
    toy.notebook("toy_b", "01_only", "print('sheaf: toy_b/01_only complete: T01')")
    done = toy.sheaf("run", "toy_b", "01_only", "--profile", "smoke")
    assert done.returncode == 1
    assert "study.verdicts() must run in the last cell" in done.stdout, "printing the line does not make a record"


@pytest.mark.slow
def test_no_secret_and_no_machine_path_is_stored(toy: Toy) -> None:
    secret = "canary-7f3a9b1c5d"
    toy.good(
        "toy_b", "01_only",
        "import os, sys\nprint(os.getcwd(), sys.prefix, os.path.expanduser('~/x'))",
        "print(os.environ['TOY_API_KEY'])\nos.environ['TOY_API_KEY']",
    )  # fmt: skip
    done = toy.sheaf("run", "toy_b", "01_only", "--profile", "smoke", TOY_API_KEY=secret)
    assert done.returncode == 0, done.stdout
    everything = contents(toy.root / ".sheaf") | contents(toy.root / "results")
    assert not [name for name, body in everything.items() if secret.encode() in body]
    assert secret not in done.stdout
    stored = b"".join(contents(toy.root / "results").values())
    assert str(toy.root).encode() not in stored
    assert str(Path.home() / "x").encode() not in stored

    toy.good("toy_b", "01_only", f"study_note = {secret!r}")
    path = toy.root / "notebooks" / "toy_b" / "01_only.ipynb"
    path.write_text(path.read_text().replace('\\"count\\": [value]', '\\"count\\": [study_note]'))
    done = toy.sheaf("run", "toy_b", "01_only", "--profile", "smoke", TOY_API_KEY=secret)
    assert done.returncode == 1
    assert "tables/T01.csv holds a secret" in done.stdout


@pytest.mark.slow
def test_an_output_that_is_no_longer_made_goes_away(reproduced: Toy) -> None:
    toy = reproduced
    spec = toy.root / "notebooks" / "toy_b" / "paper.toml"
    spec.write_text(spec.read_text().replace('"T01"', '"T02"'))
    path = toy.root / "notebooks" / "toy_b" / "01_only.ipynb"
    path.write_text(path.read_text().replace('\\"T01\\"', '\\"T02\\"'))
    assert toy.sheaf("run", "toy_b", "01_only", "--profile", "smoke").returncode == 0
    assert [p.name for p in (toy.results("toy_b") / "tables").iterdir()] == ["T02.csv"]


def test_a_results_folder_that_cannot_be_written_is_one_sentence(toy: Toy) -> None:
    (toy.root / "results").write_text("a file where the folder should be")
    for command in (["run", "toy_b", "01_only"], ["reproduce"]):
        done = toy.sheaf(*command, "--profile", "smoke")
        assert done.returncode == 1
        assert len(done.stderr.splitlines()) == 1
        assert done.stderr.startswith("sheaf: error: cannot write results/smoke/toy_")


@pytest.fixture
def small_disk(reproduced: Toy) -> Iterator[Path]:
    """The reproduced results on a file system of their own with room for little more."""
    folder = reproduced.root / "results"
    saved = contents(folder)
    size = sum(len(body) // 4096 + 2 for body in saved.values()) * 4096 + 256 * 1024
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", folder], capture_output=True)
    if made.returncode:
        pytest.skip("mounting a small file system is not permitted here")
    try:
        for name, body in saved.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(body)
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.slow
def test_a_full_disk_keeps_earlier_results(reproduced: Toy, small_disk: Path) -> None:
    toy, earlier = reproduced, contents(small_disk)
    toy.good("toy_b", "01_only", "print('x' * 4_000_000)")
    done = toy.sheaf("run", "toy_b", "01_only", "--profile", "smoke")
    assert done.returncode == 1
    assert "cannot write results/smoke/toy_b: No space left on device" in done.stdout
    assert contents(small_disk) == earlier
    with (small_disk / "ballast").open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        while True:
            file.write(b"\0" * 4096)
    done = toy.reproduce()
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "cannot write results/smoke/toy_a: No space left on device" in done.stderr, "refused before anything runs"


def test_parameters_are_checked_before_a_kernel_starts(toy: Toy) -> None:
    path = toy.root / "notebooks" / "toy_b" / "01_only.ipynb"
    good = path.read_text()
    path.write_text(good.replace("results_dir = None", "result_dir = None"))
    with pytest.raises(ValueError, match="its parameters cell does not set results_dir"):
        check_parameters(path)
    path.write_text(good.replace('"parameters"', '"other"'))
    with pytest.raises(ValueError, match="has 0 cells tagged 'parameters'"):
        check_parameters(path)
    done = toy.sheaf("run", "toy_b", "01_only", "--profile", "smoke")
    assert done.returncode == 1
    assert "has 0 cells tagged" in done.stderr


def test_a_process_stays_the_same_when_the_clock_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    who, before = identity(), psutil.Process().create_time()
    monkeypatch.setattr("psutil._pslinux.boot_time", lambda: 1.0)  # what the kernel says follows the clock
    assert psutil.Process().create_time() != before, "what psutil makes of it moves"
    assert identity() == who and is_alive(who)


def test_what_hides_its_origin_is_found_as_well() -> None:
    hidden, before = "setsid sh -c 'exec sleep 98763' & exit", psutil.Process().children()
    with none_left_behind():
        subprocess.run(hidden, shell=True, env={}, check=True)
        assert _sleeping("98763")
    assert not _sleeping("98763")
    assert psutil.Process().children() == before, "no dead child is left either"


def _sleeping(seconds: str) -> bool:
    found = psutil.process_iter(["cmdline", "status"])
    return any(seconds in (p.info["cmdline"] or []) and p.info["status"] != psutil.STATUS_ZOMBIE for p in found)


def test_processes_are_found_by_their_marker_across_sessions() -> None:
    value = f"test/{os.getpid()}"
    code = "import subprocess, time; subprocess.Popen(['sleep', '98762'], start_new_session=True); time.sleep(98762)"
    child = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, JOB: value}, start_new_session=True)
    end = time.monotonic() + 20
    while len(marked(JOB, value)) < 2:
        assert time.monotonic() < end, "the child did not start"
        time.sleep(0.05)
    who = identity(child.pid)
    assert is_alive(who)
    assert end_marked(JOB, value) == 2
    child.wait()
    assert marked(JOB, value) == []
    assert not is_alive(who)
    assert not is_alive(f"{os.getpid()}:1.00"), "a reused pid is not the same process"
