"""This paper's trainings as jobs of `sheaf.common.jobs`: where they are kept and which code they hang on."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import sheaf_kernels.block_sparse
from sheaf.common import jobs

__all__ = ["run_all"]

# what every job runs, besides its worker's own file
_METHOD = ("attention", "images", "layers", "masks", "miniature", "models", "patterns", "rigl", "sparsify", "train")
_COMMON = ("gpt", "text")


def _sources() -> list[Path]:
    """The method's own files and those of the kernel."""
    here, kernel = Path(__file__).resolve().parent, Path(sheaf_kernels.block_sparse.__file__).resolve().parent
    native = [f for f in kernel.iterdir() if f.suffix in (".cpp", ".h")]
    return [
        *(here / f"{name}.py" for name in _METHOD), *(here.parent / "common" / f"{name}.py" for name in _COMMON),
        *(kernel / f"{name}.py" for name in ("__init__", "layout", "reference")), *sorted(native),
    ]  # fmt: skip


def run_all(
    worker: jobs.Worker, todo: Sequence[jobs.Job], *, data: str = "", processes: int | None = None, **how: Any
) -> list[dict[str, Any]]:
    """`sheaf.common.jobs.run_all` for this paper; as many processes as torch has threads when None.

    That is ``OMP_NUM_THREADS`` or the cores: where many small runs share a machine, none of them starts processes of its own.
    """
    # with and without the compiled kernel sums round differently, and training amplifies that
    data = f"{data} {'compiled' if sheaf_kernels.block_sparse.compiled() else 'reference'}"
    return jobs.run_all(
        worker, todo, paper="pixelfly", sources=_sources(), data=data, processes=processes or torch.get_num_threads(), **how
    )
