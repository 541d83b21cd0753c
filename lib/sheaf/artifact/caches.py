"""Where kernels keep what is not a result: caches of the project's own, for the home folder may not be writable.

Matplotlib says so on stderr when it cannot write to the home folder, or when its list of fonts takes long to make, and
what a notebook says is stored. A process that is killed while it makes the list leaves a lock for which all later ones
wait. So the list is made before the first kernel starts, and moved to its place when it is whole.
"""

import contextlib
import os
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

from sheaf.artifact.paths import state_dir

__all__ = ["cache_variables", "list_fonts"]


def _matplotlib(root: Path) -> Path:
    return state_dir(root) / "cache" / f"matplotlib-{metadata.version('matplotlib')}"


def cache_variables(root: Path) -> dict[str, str]:
    """Variables that name a kernel's caches; a reader's own choice for Triton is kept."""
    triton = os.environ.get("TRITON_CACHE_DIR") or str(state_dir(root) / "cache" / "triton")
    return {"MPLCONFIGDIR": str(_matplotlib(root)), "TRITON_CACHE_DIR": triton}


def list_fonts(root: Path) -> None:
    """Make Matplotlib's list of fonts, unless it is there. What goes wrong costs time: kernels then make it themselves."""
    folder = _matplotlib(root)
    if any(folder.glob("fontlist-*.json")):
        return
    work = state_dir(root) / "work"  # which the next run clears, should this one be killed
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        work.mkdir(parents=True, exist_ok=True)
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="fonts-", dir=work, ignore_cleanup_errors=True) as made:
            subprocess.run(
                [sys.executable, "-c", "import matplotlib.font_manager"], env=os.environ | {"MPLCONFIGDIR": made},
                cwd=made, capture_output=True, stdin=subprocess.DEVNULL, timeout=120, check=False,
            )  # fmt: skip
            for found in Path(made).glob("fontlist-*.json"):
                found.replace(folder / found.name)
