"""Sheaf: ten machine-learning papers, bound as software. The names most notebooks need, loaded when first used."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"
__all__ = ["Study", "load_paper"]
_HOME = {"Study": "sheaf.artifact.study", "load_paper": "sheaf.artifact.spec"}


def __getattr__(name: str) -> Any:
    if name in _HOME:  # lazy, so that a paper's library never drags in the machinery that runs notebooks
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'sheaf' has no attribute {name!r}")
