"""Which backend runs an operation: "auto", "cpu", "triton" or "reference", with one sentence for what cannot be had."""

from functools import cache
from importlib import import_module
from types import ModuleType

import torch
from torch import Tensor

from sheaf_kernels import build

__all__ = ["BACKENDS", "choose", "in_range", "triton_module"]

BACKENDS = ("auto", "cpu", "triton", "reference")


_loaded: set[str] = set()  # finding a library reads its sources, which one decode step in microseconds cannot pay each time


def _available(op: str) -> bool:
    if op not in _loaded and build.available(op):
        _loaded.add(op)
    return op in _loaded


@cache
def triton_module(op: str) -> ModuleType | None:
    """The operation's Triton form, or None when Triton is not installed."""
    try:
        return import_module(f"sheaf_kernels.{op}.triton")
    except ImportError:
        return None


def choose(
    op: str, backend: str, device: torch.device, dtype: torch.dtype, cpu: tuple[torch.dtype, ...], gpu: tuple[torch.dtype, ...]
) -> str:
    """The backend to use, one of "cpu", "triton" and "reference".

    Args:
        op: name of the operation's folder.
        backend: what was asked for; "auto" takes the compiled form where it can and the reference where it cannot.
        device, dtype: of the weights.
        cpu, gpu: dtypes that the compiled and the Triton form take.

    Raises:
        ValueError: an unknown backend, or one that does not take this device or dtype.
        RuntimeError: the named backend is not built or not installed.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend {backend!r} is unknown; use one of {', '.join(BACKENDS)}")
    if backend == "reference":
        return "reference"
    if backend == "triton" or (backend == "auto" and device.type == "cuda"):
        module = triton_module(op)
        if module is not None and dtype in gpu and (device.type == "cuda" or module.INTERPRETED):
            return "triton"
        if backend == "auto":
            return "reference"
        if module is None:
            raise RuntimeError("Triton is not installed; `pip install triton`, or use backend='reference'")
        raise ValueError(f"the Triton form of {op} takes {_names(gpu)} on a GPU; got {dtype} on {device}")
    fits = device.type == "cpu" and dtype in cpu
    if backend == "cpu" and not fits:
        raise ValueError(f"the compiled form of {op} takes {_names(cpu)} on a CPU; got {dtype} on {device}")
    if fits and _available(op):
        return "cpu"
    if backend == "cpu":
        raise RuntimeError(f"the compiled {op} kernel is not built; run `make kernels`, or use backend='reference'")
    return "reference"


def in_range(name: str, index: Tensor, count: int, what: str) -> None:
    """See that an index on a CPU names nothing beyond the end; told here, since an exception that leaves compiled code ends the
    process where the toolchains of torch and of the extension differ.

    Raises:
        IndexError: it does.
    """
    if index.numel() and (largest := int(index.max())) >= count:
        raise IndexError(f"{name} holds {largest}, and there are {count} {what}; use 0 to {count - 1}, or -1 for padding")


def _names(dtypes: tuple[torch.dtype, ...]) -> str:
    *first, last = [str(d).removeprefix("torch.") for d in dtypes]
    return f"{', '.join(first)} and {last}"
