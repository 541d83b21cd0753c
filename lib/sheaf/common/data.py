"""Where the project, its shipped data and the user's own data lie."""

import os
from pathlib import Path

__all__ = ["cache_dir", "data_dir", "external_dir", "project_root"]


def project_root() -> Path:
    """The folder that holds ``notebooks/`` and ``pyproject.toml``.

    Taken from ``SHEAF_ROOT`` when set, else the nearest such parent of the working directory, else of this file.

    Raises:
        FileNotFoundError: no such folder, as when the package was installed away from its checkout.
    """
    if named := os.environ.get("SHEAF_ROOT"):
        return Path(named).resolve()
    for start in (Path.cwd(), Path(__file__).resolve().parent):
        for folder in (start, *start.parents):
            if (folder / "notebooks").is_dir() and (folder / "pyproject.toml").is_file():
                return folder
    raise FileNotFoundError("no Sheaf checkout here: run from inside one, or set SHEAF_ROOT to its folder")


def data_dir(paper: str) -> Path:
    """The facts and small files that ship with the project for one paper.

    Raises:
        FileNotFoundError: the paper ships no data.
    """
    folder = project_root() / "data" / paper
    if not folder.is_dir():
        known = sorted(p.name for p in folder.parent.glob("*/") if p.name != "external")
        raise FileNotFoundError(f"data/{paper} does not exist; papers that ship data: {', '.join(known) or 'none'}")
    return folder


def external_dir(name: str) -> Path | None:
    """A folder of data that is not ours to ship, under ``SHEAF_DATA`` (default ``data/external``); None when absent."""
    base = Path(os.environ.get("SHEAF_DATA") or "data/external")
    folder = (base if base.is_absolute() else project_root() / base) / name
    return folder if folder.is_dir() else None


def cache_dir(name: str) -> Path:
    """A folder for what can be made again (recordings, replies), made if needed: ``SHEAF_CACHE`` or ``.sheaf/cache``."""
    base = Path(os.environ.get("SHEAF_CACHE") or ".sheaf/cache")
    folder = (base if base.is_absolute() else project_root() / base) / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder
