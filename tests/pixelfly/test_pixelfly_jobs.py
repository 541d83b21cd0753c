"""Jobs: results in order, kept and found again, made again when unreadable or when the code changed, no orphans."""

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

from sheaf.pixelfly import jobs

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("SHEAF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "pixelfly"


def square(job: jobs.Job) -> dict[str, Any]:
    """A worker that tells where it ran, and how often."""
    if "log" in job:
        with Path(job["log"]).open("a") as log:
            log.write(f"{job['i']}\n")
    generator = torch.Generator().manual_seed(job["i"])
    x = torch.randn(64, 64, generator=generator)
    return {"square": job["i"] ** 2, "sum": float((x @ x).sum()), "pid": os.getpid(), "threads": torch.get_num_threads()}


def counted(tmp_path: Path, n: int = 3) -> list[jobs.Job]:
    return jobs.grid({"log": str(tmp_path / "log")}, i=range(n))


def ran(tmp_path: Path) -> int:
    log = tmp_path / "log"
    return len(log.read_text().split()) if log.exists() else 0


def test_a_grid_is_all_combinations():
    assert jobs.grid({"a": 0}, b=[1, 2], c=["x"]) == [{"a": 0, "b": 1, "c": "x"}, {"a": 0, "b": 2, "c": "x"}]


def test_results_come_in_order_and_from_the_store_the_second_time(tmp_path: Path):
    seen: list[object] = []
    first = jobs.run_all(square, counted(tmp_path), processes=1, progress=seen.append)
    again = jobs.run_all(square, counted(tmp_path), processes=1, progress=seen.append)
    assert [r["square"] for r in first] == [0, 1, 4] and again == first
    assert ran(tmp_path) == 3 and len(seen) == 6


def test_processes_change_nothing_but_the_process():
    here = jobs.run_all(square, jobs.grid({}, i=range(4)), processes=1, keep=False)
    there = jobs.run_all(square, jobs.grid({}, i=range(4)), processes=2, keep=False)
    assert [r["sum"] for r in here] == [r["sum"] for r in there]
    assert all(r["threads"] == 1 for r in here + there)
    assert {r["pid"] for r in here} == {os.getpid()} and os.getpid() not in {r["pid"] for r in there}


def test_the_callers_threads_are_put_back():
    before = torch.get_num_threads()
    jobs.run_all(square, [{"i": 1}], processes=1, keep=False)
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("text", ["", '{"square": 1', "[]"])
def test_a_stored_result_that_cannot_be_read_is_made_again(tmp_path: Path, cache: Path, text: str):
    jobs.run_all(square, counted(tmp_path, 1), processes=1)
    (file,) = cache.glob("*.json")
    file.write_text(text)
    assert jobs.run_all(square, counted(tmp_path, 1), processes=1)[0]["square"] == 0
    assert ran(tmp_path) == 2 and json.loads(file.read_text())["square"] == 0


def test_other_settings_or_data_are_other_jobs(tmp_path: Path):
    jobs.run_all(square, counted(tmp_path, 1), processes=1, data="a")
    jobs.run_all(square, counted(tmp_path, 1), processes=1, data="b")
    jobs.run_all(square, [j | {"x": 1} for j in counted(tmp_path, 1)], processes=1, data="a")
    assert ran(tmp_path) == 3


def test_changed_code_is_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    jobs.run_all(square, counted(tmp_path, 1), processes=1)
    monkeypatch.setattr(jobs, "_source", lambda module: "another")
    jobs.run_all(square, counted(tmp_path, 1), processes=1)
    assert ran(tmp_path) == 2


def test_what_finished_before_a_failure_is_kept(tmp_path: Path):
    with pytest.raises(KeyError):
        jobs.run_all(square, [*counted(tmp_path, 2), {}], processes=1)
    jobs.run_all(square, counted(tmp_path, 2), processes=1)
    assert ran(tmp_path) == 2


@pytest.mark.slow
def test_workers_end_with_a_parent_that_was_killed(tmp_path: Path):
    (tmp_path / "sleeper.py").write_text(
        "import os, sys, time\nfrom pathlib import Path\nfrom sheaf.pixelfly import jobs\n"
        "def work(job):\n    Path(job['at'], str(os.getpid())).touch()\n    time.sleep(60)\n    return {}\n"
        "if __name__ == '__main__':\n    import sleeper\n"
        f"    jobs.run_all(sleeper.work, jobs.grid({{'at': {str(tmp_path / 'pids')!r}}}, i=range(4)), processes=2, keep=False)\n"
    )
    (tmp_path / "pids").mkdir()
    paths = os.pathsep.join([str(tmp_path), str(ROOT / "lib"), str(ROOT / "kernels")])
    parent = subprocess.Popen([sys.executable, str(tmp_path / "sleeper.py")], env=os.environ | {"PYTHONPATH": paths})

    def workers() -> list[int]:
        return [int(f.name) for f in (tmp_path / "pids").iterdir()]

    def alive(pid: int) -> bool:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        return True

    for _ in range(240):
        if len(workers()) >= 2 or parent.poll() is not None:
            break
        time.sleep(0.25)
    assert len(workers()) == 2
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    for _ in range(80):
        if not any(map(alive, workers())):
            break
        time.sleep(0.25)
    left = [pid for pid in workers() if alive(pid)]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left
