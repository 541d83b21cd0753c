"""The toy project as fixtures: fresh, and already reproduced."""

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
    """The root that ``reproduced`` copies; nothing is changed in it."""
    toy = build(tmp_path_factory.mktemp("reproduced") / "project")
    done = toy.reproduce("--jobs", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    return toy.root
