"""kill -9 at random moments of a real paper's run, again and again, until it is complete."""

import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from faults import contents, differences, finished, processes_of, torn
from ledger import Promise
from toy_project import REPO, Toy

pytestmark = pytest.mark.slow
PAPER = "decentralized"
KILLS = 100
LONG = 12  # every so many runs may go on for half of a whole one, or none would ever be complete


def checkout(root: Path) -> Toy:
    """What git would check out of one paper, and the kernels as they are built here."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPO, capture_output=True, text=True, check=True).stdout
    wanted = ("lib/", "kernels/", f"notebooks/{PAPER}/", f"data/{PAPER}/", "pyproject.toml", "Snakefile", "constraints.txt")
    for name in listed.split("\0"):
        if name.startswith(wanted):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPO / name, root / name)
    if (REPO / "build").is_dir():
        shutil.copytree(REPO / "build", root / "build")
    return Toy(root)


@pytest.mark.skipif(os.environ.get("SHEAF_PROVE") != "1", reason="takes minutes; make prove runs it")
@pytest.mark.promise(
    "crash-safety-paper",
    "A real paper's run that is killed again and again is complete in the end, and what was finished is never run again.",
    f"SIGKILL to the launcher at random moments of the smoke run of {PAPER}, most within a twentieth of its length after each "
    f"start, every {LONG}th within half of it, the same command after each; whenever it is "
    "complete its results are compared with an undisturbed run's and it starts over",
)
def test_kill_9_at_random_moments_of_a_paper(promise: Promise, tmp_path: Path) -> None:
    toy = checkout(tmp_path / "project")
    begun = time.monotonic()
    first = undisturbed(toy)
    whole = time.monotonic() - begun
    _clear(toy)
    second = undisturbed(toy)
    # what holds measured times differs from run to run; of such files only that they are there can be compared
    wanted = {name: body for name, body in first.items() if body == second[name]}
    again = time.monotonic()
    assert "nothing to run" in toy.reproduce().stdout
    promise.figures |= {"files of its results": len(first), "of these alike in every run": len(wanted)}
    promise.figures |= {"undisturbed run, s": round(whole, 1), "run with nothing to do, s": round(time.monotonic() - again, 1)}
    drawn, number, rounds, kills, ended = random.Random(11), 0, 0, 0, False
    _clear(toy)
    while kills < KILLS or not ended:  # the last one is left alone, so that there is one that has to be complete
        held, number = finished(toy.root), number + 1
        patience = drawn.uniform(0.1, whole / (2 if number % LONG == 0 else 20)) if kills < KILLS else 5 * whole
        process = subprocess.Popen(
            toy.command("reproduce", "--profile", "smoke", "--jobs", "2"), cwd=toy.root, env=toy.env(), start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            process.wait(timeout=patience)
            ended = True
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            ended, kills = False, kills + 1
        with promise.attempt(f"kill {kills}" if not ended else f"run after kill {kills}"):
            broken = [name for name in torn(toy.root, wanted) if name in wanted or name not in first]
            assert not broken, f"torn: {broken}"
            lost = [name for name, body in held.items() if finished(toy.root).get(name) != body]
            assert not lost, f"done again: {lost}"
            if ended:
                assert process.returncode == 0, f"exit code {process.returncode}"
                made = contents(toy.root)
                assert made.keys() == first.keys(), f"differs: {made.keys() ^ first.keys()}"
                assert not (other := differences({n: made[n] for n in wanted}, wanted)), f"differs: {other}"
                assert not processes_of(toy.root), "a process is left"
        if ended:
            rounds += 1
            _clear(toy)
    promise.figures |= {"SIGKILLs of a real paper's run": kills, "runs completed between them": rounds}


def undisturbed(toy: Toy) -> dict[str, bytes]:
    done = toy.reproduce("--jobs", "2", timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return contents(toy.root)


def _clear(toy: Toy) -> None:
    for name in ("results", ".sheaf"):
        shutil.rmtree(toy.root / name, ignore_errors=True)
