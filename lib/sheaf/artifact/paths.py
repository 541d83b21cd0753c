"""Where results and the runner's state are kept. Everything stored is named relative to the project root."""

import os
from pathlib import Path

from sheaf.common.data import data_dir, external_dir, project_root

__all__ = [
    "data_dir",
    "external_dir",
    "notebook_path",
    "paper_dir",
    "paper_ids",
    "project_root",
    "results_dir",
    "state_dir",
]


def results_dir(profile: str, paper: str, root: Path | None = None) -> Path:
    """``results/<profile>/<paper>``; ``SHEAF_RESULTS`` replaces ``results`` (tests and notebook validation use it)."""
    root = root or project_root()
    return root / (os.environ.get("SHEAF_RESULTS") or "results") / profile / paper


def state_dir(root: Path | None = None) -> Path:
    """The runner's own folder: locks, manifests, logs. Safe to delete when nothing runs; it only costs a rerun."""
    return (root or project_root()) / ".sheaf"


def paper_dir(paper: str, root: Path | None = None) -> Path:
    return (root or project_root()) / "notebooks" / paper


def notebook_path(paper: str, notebook: str, root: Path | None = None) -> Path:
    return paper_dir(paper, root) / f"{notebook}.ipynb"


def paper_ids(root: Path | None = None) -> list[str]:
    """Ids of the papers present: the folders of ``notebooks/`` that hold a ``paper.toml``."""
    return sorted(p.parent.name for p in ((root or project_root()) / "notebooks").glob("*/paper.toml"))
