"""Jobs: results in order, kept with their checkpoints, made again when broken or when code changed, no orphans."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from sheaf.common import jobs

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("SHEAF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "toy"


def square(job: jobs.Job) -> dict[str, Any]:
    """A worker that tells where it ran, and how often."""
    if "log" in job:
        with Path(job["log"]).open("a") as log:
            log.write(f"{job['i']}\n")
    x = torch.randn(64, 64, generator=torch.Generator().manual_seed(job["i"]))
    result = {"square": job["i"] ** 2, "pid": os.getpid(), "threads": torch.get_num_threads()}
    return result | ({"tensors": {"x": x}} if job.get("checkpoint") else {"sum": float((x @ x).sum())})


def run(todo: list[jobs.Job], **how: Any) -> list[dict[str, Any]]:
    return jobs.run_all(square, todo, paper="toy", **({"processes": 1} | how))


def counted(tmp_path: Path, n: int = 3, **more: Any) -> list[jobs.Job]:
    return jobs.grid({"log": str(tmp_path / "log"), **more}, i=range(n))


def ran(tmp_path: Path) -> int:
    log = tmp_path / "log"
    return len(log.read_text().split()) if log.exists() else 0


def test_a_grid_is_all_combinations():
    assert jobs.grid({"a": 0}, b=[1, 2], c=["x"]) == [{"a": 0, "b": 1, "c": "x"}, {"a": 0, "b": 2, "c": "x"}]


def test_results_come_in_order_and_from_the_store_the_second_time(tmp_path: Path):
    seen: list[object] = []
    first = run(counted(tmp_path), progress=seen.append)
    again = run(counted(tmp_path), progress=seen.append)
    assert [r["square"] for r in first] == [0, 1, 4] and again == first
    assert ran(tmp_path) == 3 and len(seen) == 6


def test_processes_change_nothing_but_the_process():
    here = run(jobs.grid({}, i=range(4)), keep=False)
    there = run(jobs.grid({}, i=range(4)), processes=2, keep=False)
    assert [r["sum"] for r in here] == [r["sum"] for r in there]
    assert all(r["threads"] == 1 for r in here + there)
    assert {r["pid"] for r in here} == {os.getpid()} and os.getpid() not in {r["pid"] for r in there}


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("keep", [True, False])
def test_a_checkpoint_comes_back_and_no_path_is_in_the_result(tmp_path: Path, processes: int, keep: bool):
    for _ in range(2):
        results = run(counted(tmp_path, 2, checkpoint=True), processes=processes, keep=keep)
        for i, result in enumerate(results):
            expected = torch.randn(64, 64, generator=torch.Generator().manual_seed(i))
            assert torch.equal(jobs.tensors_of(result)["x"], expected)
            assert not any(str(tmp_path / "cache") in str(value) for key, value in result.items() if key != "tensors")
    assert ran(tmp_path) == (2 if keep else 4)


def test_a_result_whose_checkpoint_is_gone_is_made_again(tmp_path: Path, cache: Path):
    run(counted(tmp_path, 1, checkpoint=True))
    next(cache.glob("*.safetensors")).unlink()
    assert jobs.tensors_of(run(counted(tmp_path, 1, checkpoint=True))[0])["x"].shape == (64, 64)
    assert ran(tmp_path) == 2


def test_asking_for_a_checkpoint_that_was_never_kept_says_so(tmp_path: Path):
    with pytest.raises(ValueError, match="kept no tensors"):
        jobs.tensors_of(run(counted(tmp_path, 1))[0])


@pytest.mark.parametrize("text", ["", '{"square": 1', "[]"])
def test_a_stored_result_that_cannot_be_read_is_made_again(tmp_path: Path, cache: Path, text: str):
    run(counted(tmp_path, 1))
    (file,) = cache.glob("*.json")
    file.write_text(text)
    assert run(counted(tmp_path, 1))[0]["square"] == 0
    assert ran(tmp_path) == 2 and json.loads(file.read_text())["square"] == 0


def test_other_settings_or_data_are_other_jobs(tmp_path: Path):
    run(counted(tmp_path, 1), data="a")
    run(counted(tmp_path, 1), data="b")
    run(counted(tmp_path, 1, x=1), data="a")
    assert ran(tmp_path) == 3


def test_changed_code_is_run_again_and_a_comment_is_no_change(tmp_path: Path):
    source = tmp_path / "method.py"
    for text, runs in (("x = 1\n", 1), ("x = 1  # one\n", 1), ("x = 2\n", 2)):
        source.write_text(text)
        run(counted(tmp_path, 1), sources=[source])
        assert ran(tmp_path) == runs


SLEEPER = """
import sys, time
from pathlib import Path
from sheaf.common import jobs

def sleep(job):
    (Path(job["folder"]) / f"started-{job['i']}").touch()
    if job["i"]:
        time.sleep(60)
    return {"done": job["i"]}

if __name__ == "__main__":
    jobs.run_all(sleep, jobs.grid({"folder": sys.argv[1]}, i=range(2)), paper="toy", processes=2)
"""


def alive(mark: str) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark.encode() in entry.read_bytes():
                found.append(int(entry.parent.name))
        except OSError:
            continue
    return found


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs /proc")
def test_a_killed_parent_leaves_what_is_finished_and_no_process(tmp_path: Path, cache: Path):
    script = tmp_path / "sleeper.py"
    script.write_text(SLEEPER)
    mark = f"SHEAF_TEST_MARK={tmp_path.name}-{os.getpid()}"
    name, value = mark.split("=")
    paths = os.pathsep.join([str(ROOT / "lib"), str(ROOT / "kernels")])
    process = subprocess.Popen([sys.executable, str(script), str(tmp_path)], env=os.environ | {name: value, "PYTHONPATH": paths})
    deadline = time.monotonic() + 60
    while len(list(cache.glob("*.json"))) < 1 or not (tmp_path / "started-1").exists():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    while alive(mark):
        assert time.monotonic() < deadline, "a worker outlived its parent"
        time.sleep(0.05)
    assert len(list(cache.glob("*.json"))) == 1
