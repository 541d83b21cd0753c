"""The surroundings in which a notebook's stored outputs are made and checked: the same for both, whoever runs them."""

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from ipykernel.kernelspec import RESOURCES, get_kernel_dict
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager

from sheaf.artifact.caches import cache_variables, list_fonts
from sheaf.artifact.paths import state_dir
from sheaf.artifact.processes import JOB, end_marked
from sheaf.artifact.scrub import SECRET_NAME

__all__ = ["Sandbox", "sandbox"]

# What a reader's shell may hold and a stored output may not depend on. Keys and tokens go as well: smoke needs none.
_UNSET = ("SHEAF_DATA", "SHEAF_HEARTBEAT", "SHEAF_SEEDS", "MPLBACKEND", "PYTHONSTARTUP", "COLUMNS", "LINES")
_SET = {
    **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS"), "1"),
    "PYTHONHASHSEED": "0",  # sets of strings print in one order
    "TZ": "UTC",
    "LC_ALL": "C.UTF-8",
}


class _ThisPython(KernelSpecManager):
    """Answers every kernel name with this interpreter: a ``python3`` kernel of the user's cannot stand in for it."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        return KernelSpec(resource_dir=RESOURCES, **get_kernel_dict())


@dataclass(frozen=True)
class Sandbox:
    """One notebook's surroundings, as they are passed to its kernel.

    ``environment`` is the whole environment of the kernel; ``manager`` the options of its ``KernelManager``;
    ``results`` the throw-away results folder, relative to the root.
    """

    environment: dict[str, str]
    manager: dict[str, Any]
    results: str


@contextmanager
def sandbox(root: Path, environ: Mapping[str, str] | None = None) -> Iterator[Sandbox]:
    """Surroundings for one notebook; at the end its processes are ended, its results, sockets and IPython profile deleted.

    Results go to a folder in ``.sheaf`` and never over ``results/``. The kernel talks over IPC sockets in a folder of
    its own: TCP ports are lost to races between parallel kernels, and in a shared folder kernels share socket names.
    """
    name = uuid4().hex[:12]
    results = f".sheaf/nbval/{name}"
    private = Path(tempfile.mkdtemp(prefix="sheaf-", dir=_short_tmp()))
    inherited = os.environ if environ is None else environ
    kept = {k: v for k, v in inherited.items() if k not in _UNSET and not SECRET_NAME.search(k)}
    library = [str(root / "lib"), str(root / "kernels"), inherited.get("PYTHONPATH", "")]
    list_fonts(root)
    environment = kept | _SET | cache_variables(root) | {
        "SHEAF_ROOT": str(root),
        "SHEAF_RESULTS": results,
        JOB: f"nbval/{name}",  # what a notebook starts (torchrun and its workers) carries it too
        "IPYTHONDIR": str(private / "ipython"),  # no start-up files
        "PYTHONPATH": os.pathsep.join(filter(None, library)),
    }  # fmt: skip
    manager = {"kernel_spec_manager": _ThisPython(), "transport": "ipc", "ip": str(private / "k")}
    try:
        yield Sandbox(environment, manager, results)
    finally:
        end_marked(JOB, f"nbval/{name}")
        shutil.rmtree(private, ignore_errors=True)
        shutil.rmtree(state_dir(root).parent / results, ignore_errors=True)


def _short_tmp() -> str | None:
    """``/tmp`` when there is one: the path of a Unix socket may have about 100 characters."""
    return "/tmp" if os.access("/tmp", os.W_OK) else None
