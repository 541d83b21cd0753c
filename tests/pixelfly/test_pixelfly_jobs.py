"""This paper's jobs: kept in its own cache, made again when the data, the method or the kernel changed."""

from pathlib import Path
from typing import Any

import pytest
import torch

import sheaf_kernels.block_sparse
from sheaf.common.jobs import Job
from sheaf.pixelfly import jobs


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("SHEAF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "pixelfly"


def note(job: Job) -> dict[str, Any]:
    """A worker that leaves a line for every time it ran."""
    with Path(job["log"]).open("a") as log:
        log.write("ran\n")
    return {"threads": torch.get_num_threads()}


def ran(tmp_path: Path, **how: Any) -> int:
    jobs.run_all(note, [{"log": str(tmp_path / "log")}], **how)
    return len((tmp_path / "log").read_text().split())


def test_a_finished_job_is_kept_in_this_papers_cache(tmp_path: Path, cache: Path):
    assert ran(tmp_path) == 1 and ran(tmp_path) == 1
    assert len(list(cache.glob("*.json"))) == 1


def test_other_data_and_another_form_of_the_kernel_are_other_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert ran(tmp_path, data="a") == 1 and ran(tmp_path, data="b") == 2
    there = sheaf_kernels.block_sparse.compiled()
    monkeypatch.setattr(sheaf_kernels.block_sparse, "compiled", lambda: not there)
    assert ran(tmp_path, data="a") == 3


@pytest.mark.parametrize("name", ["layers.py", "tile.h", "cpu.cpp", "layout.py", "gpt.py"])
def test_changed_code_is_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str):
    assert ran(tmp_path) == 1
    (old,) = (f for f in jobs._sources() if f.name == name)
    changed = tmp_path / name
    changed.write_text(old.read_text() + "\nx = 1\n")
    found = [changed if f == old else f for f in jobs._sources()]
    monkeypatch.setattr(jobs, "_sources", lambda: found)
    assert ran(tmp_path) == 2


def test_one_thread_of_torch_starts_no_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr("sheaf.common.jobs.ProcessPoolExecutor", refuse)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = jobs.run_all(note, [{"log": str(tmp_path / "log"), "i": i} for i in range(3)])
    finally:
        torch.set_num_threads(before)
    assert [r["threads"] for r in found] == [1, 1, 1]
