"""Ctrl-C through make at any moment: nothing half-made is kept, and the same command completes the run."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from faults import contents, differences, processes_of, put_back, torn
from ledger import Promise
from toy_project import REPO, Toy

pytestmark = pytest.mark.slow
STOPPED = (130, -signal.SIGINT)  # make ends itself with the signal, which a shell shows as 130


def make(toy: Toy) -> "subprocess.Popen[str]":
    """``make reproduce`` as a terminal starts it: a process group of its own."""
    return subprocess.Popen(
        ["make", "reproduce", "PROFILE=smoke", "JOBS=2", f"SHEAF_PYTHON={sys.executable}"], cwd=toy.root,
        env=toy.env(SHEAF_PYTHON=sys.executable), text=True, start_new_session=True, stdin=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a job in the background ignores it, and so would make
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def completed(toy: Toy) -> None:
    process = make(toy)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, f"the next run ended with {process.returncode}: {out[-300:]}"


@pytest.mark.promise(
    "interrupt",
    "Ctrl-C leaves no partial file and no process, ends with exit code 130, and the same command completes the run.",
    "SIGINT to the process group of `make reproduce` at random moments, every third time twice",
)
def test_ctrl_c_at_random_moments(promise: Promise, reproduced: Toy, tmp_path: Path) -> None:
    toy, saved = reproduced, tmp_path / "saved"
    shutil.copy(REPO / "Makefile", toy.root)
    put_back(toy.root, saved)
    before = contents(toy.root)
    toy.module("toy_b", "only", "def count(rounds):\n    return rounds + 5\n")
    begun = time.monotonic()
    completed(toy)
    whole, wanted = time.monotonic() - begun, contents(toy.root)
    assert differences(before, wanted), "the change changes results"
    drawn, stopped = random.Random(7), 0
    for number in range(promise.size(full=40, fast=2)):
        moment = drawn.uniform(0.02, whole)
        what = f"Ctrl-C after {moment:.2f} of {whole:.2f} s" + (", twice" if number % 3 == 1 else "")
        put_back(saved, toy.root)
        process = make(toy)
        time.sleep(moment)
        with promise.attempt(what):
            _interrupt(process)
            if number % 3 == 1:
                time.sleep(drawn.uniform(0.0, 1.0))
                _interrupt(process)
            out, _ = process.communicate(timeout=300)
            stopped += process.returncode != 0
            # one that came when the run was over finds nothing to stop
            assert process.returncode in STOPPED or (process.returncode == 0 and contents(toy.root) == wanted), process.returncode
            assert "Traceback" not in out, out[-500:]
            assert not torn(toy.root, before, wanted), f"partial: {torn(toy.root, before, wanted)}"
            assert not processes_of(toy.root), "a process is left"
            completed(toy)
            assert not differences(contents(toy.root), wanted), f"differs: {differences(contents(toy.root), wanted)}"
    promise.figures |= {"runs that Ctrl-C stopped": stopped, "length of a whole run, s": round(whole, 1)}


def _interrupt(process: "subprocess.Popen[str]") -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGINT)
