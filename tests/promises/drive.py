"""The command line, called in this process (fast, for many cases) or in one of its own (as a user does, for a sample)."""

import contextlib
import io
import os
import subprocess
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from sheaf.artifact.cli import main

REPO = Path(__file__).resolve().parents[2]
TRACEBACK = "Traceback (most recent call last)"


@dataclass(frozen=True)
class Said:
    """How a command ended: exit code, and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def bare(self) -> bool:
        """Whether a traceback reached the user."""
        return TRACEBACK in self.out or TRACEBACK in self.err

    @property
    def text(self) -> str:
        return self.out + self.err


@contextlib.contextmanager
def at(root: Path, **more: str) -> Iterator[None]:
    """The project root and environment that a command sees; no variable of the reader's own leaks in."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("SHEAF_")}
    with mock.patch.dict(os.environ, kept | {"SHEAF_ROOT": str(root)} | more, clear=True):
        yield


def command(root: Path, *words: str, run=main, **env: str) -> Said:
    """Call a command's ``main`` as `python -m` would; an exception that leaves it is a traceback on stderr."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="backslashreplace", write_through=True) for _ in range(2))
    with at(root, **env), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = run(list(words))
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
        except BaseException:
            code = 1
            traceback.print_exc(file=err)
    return Said(code or 0, *(stream.buffer.getvalue().decode("utf-8", "replace") for stream in (out, err)))


def process(root: Path, *words: str, module: str = "sheaf", timeout: float = 120, **env: str) -> Said:
    """Run ``python -m sheaf`` (or another module of ours) in a process of its own."""
    with at(root, **env):
        full = os.environ | {"PYTHONPATH": os.pathsep.join(str(REPO / part) for part in ("lib", "kernels"))}
    done = subprocess.run(
        [sys.executable, "-m", module, *words], cwd=root, env=full, capture_output=True, timeout=timeout, check=False
    )
    return Said(done.returncode, done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace"))
