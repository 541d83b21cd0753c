"""pytest plugin: nbval runs every notebook in the same sandbox that its outputs were stored in, and under our policy.

Use: ``pytest -p sheaf.artifact.nbval_plugin --nbval --nbval-sanitize-with tests/nbval_sanitize.cfg --dist loadscope``.

What is compared. Stored outputs are the smoke profile's, and every text, HTML and JSON output of every cell must be
reproduced character for character: printed lines, reprs, tables, verdicts. What is ignored: pictures (PNG, JPEG, SVG;
font and renderer versions move pixels, so a cell prints or tabulates what its picture shows), execution counts and
metadata (when, not what), and the outputs of cells tagged ``nbval-ignore-output``, which is for timings, versions and
hardware names alone. A number that varies but matters is checked with a tolerance in its cell, which prints the
outcome. The sanitiser (``tests/nbval_sanitize.cfg``) replaces three things on both sides before comparing: the name of
the throw-away results folder, ``at 0x...>`` addresses in reprs, and IPython's file names of cells. A notebook fails
before it runs when a code cell was never run (nbval would pass it unseen), when nothing but pictures is stored, when
more than half of the cells with outputs are ignored, when it stores a traceback or stderr text, or when its paper's data
is not as it ships.

Runs are cut off from what a reader's machine may hold: no ``SHEAF_DATA``, no keys, one thread, UTC, and a results
folder that is thrown away. A kernel that dies is reported within seconds rather than at the cell's time limit.
"""

import subprocess
import time
from contextlib import ExitStack
from queue import Empty
from typing import Any

import nbval.plugin
import pytest
from jupyter_client.manager import KernelManager
from nbval.kernel import RunningKernel

from sheaf.artifact import outputs
from sheaf.artifact.inventory import require_intact
from sheaf.artifact.sandbox import sandbox
from sheaf.common.data import project_root

__all__ = ["SandboxedKernel"]

LOOK_EVERY = 1.0  # seconds between two looks at whether the kernel still lives


class SandboxedKernel(RunningKernel):
    """nbval's kernel, in the sandbox and on sockets of its own; says at once when it has died."""

    def __init__(self, kernel_name: str, cwd: str | None = None, startup_timeout: float = 60) -> None:
        self._opened = ExitStack()
        place = self._opened.enter_context(sandbox(project_root()))
        self.km = KernelManager(kernel_name=kernel_name, **place.manager)
        try:
            self.km.start_kernel(cwd=cwd, env=place.environment, stderr=subprocess.DEVNULL)
            self.kc = self.km.client()
            self.kc.start_channels()
            self.kc.wait_for_ready(timeout=startup_timeout)
            self._ensure_iopub_up()
        except BaseException:
            self.stop()
            raise

    def get_message(self, stream: str, timeout: float | None = None) -> Any:
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            wait = LOOK_EVERY if end is None else max(0.0, min(LOOK_EVERY, end - time.monotonic()))
            try:
                return super().get_message(stream, timeout=wait)
            except Empty:
                if not self.km.is_alive():
                    self.stop()  # nbval stops only kernels that live, and the sandbox would stay
                    raise RuntimeError("the kernel died in this cell: out of memory, a crash, or os._exit") from None
                if end is not None and time.monotonic() >= end:
                    raise

    def stop(self) -> None:
        try:
            if hasattr(self, "kc"):
                self.kc.stop_channels()
            if self.km.has_kernel:
                self.km.shutdown_kernel(now=True)
        finally:
            self._opened.close()


def pytest_configure(config: pytest.Config) -> None:
    nbval.plugin.RunningKernel = SandboxedKernel  # nbval offers no hook for its kernels


def pytest_unconfigure(config: pytest.Config) -> None:
    nbval.plugin.RunningKernel = RunningKernel


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if isinstance(item, nbval.plugin.IPyNbCell) and "image/svg+xml" not in item.parent.skip_compare:
            item.parent.skip_compare += ("image/svg+xml",)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if not isinstance(item, nbval.plugin.IPyNbCell) or item.cell_num > 0:
        return
    if found := outputs.problems(item.parent.nb):
        pytest.fail("\n".join(f"{says}; {fix}" for says, fix in found), pytrace=False)
    try:
        require_intact(item.path.parent.name, project_root())
    except ValueError as error:
        pytest.fail(str(error), pytrace=False)
