"""The toy project as fixtures: fresh, and already reproduced."""

import fcntl
import os
import shutil
from pathlib import Path

import pytest
from toy_project import Toy, build

__all__ = ["reproduced", "reproduced_once", "toy"]


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    return build(tmp_path / "project")


@pytest.fixture
def reproduced(reproduced_once: Path, tmp_path: Path) -> Toy:
    """A toy project whose three notebooks have been reproduced; each test gets a copy of its own."""
    shutil.copytree(reproduced_once, tmp_path / "project", symlinks=True)
    return Toy(tmp_path / "project")


@pytest.fixture(scope="session")
def reproduced_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root that ``reproduced`` copies; nothing is changed in it. The first process that asks makes it for all of them."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base  # a worker's folder lies in that of the test run
    whole = shared / "reproduced"
    with (shared / "reproduced.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not whole.is_dir():
            toy = build(tmp_path_factory.mktemp("reproduced") / "project")
            done = toy.reproduce("--jobs", "2")
            assert done.returncode == 0, done.stdout + done.stderr
            toy.root.rename(whole)
    return whole
