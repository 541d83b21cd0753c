"""gather_mlp on a GPU, by Triton: chosen rows of W1 times x, activation, then the weighted sum of chosen rows of W2t.

    hidden = act(W1[index] x + b1[index])     one program per few rows, each read once from end to end
    y      = hidden W2t[index] + b2           columns x splits of the index, partial sums added in a fixed order

Three launches instead of one: the second step needs every activation it weighs, and partial sums of whole outputs cost more
traffic than the launches, which a CUDA graph makes cheap. Nothing waits for the host, so a graph can capture everything.
Program shapes: a rule by size, or with `tune` the fastest of a few, timed once per width, dtype and batch.
With TRITON_INTERPRET=1 in the environment before Triton is imported everything runs on CPU tensors, slowly.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
import triton
from torch import Tensor
from triton.testing import do_bench

from . import triton_kernels as kernels

__all__ = ["INTERPRETED", "Shape", "gather_mlp", "shape_for", "tune", "weighted_rows"]

INTERPRETED = not isinstance(kernels.dot_rows, triton.JITFunction)
_INTERPRETED_PROCESSORS = 3  # makes sums split there too


@dataclass(frozen=True)
class Shape:
    """A program: ``rows`` of weights at a step, ``columns`` of them at once, warps, and stages of its loads in flight."""

    rows: int
    columns: int
    warps: int
    stages: int = 1


# candidates for products with whole rows, and for weighted sums of rows; the first is the rule's choice
DOT = (Shape(1, 4096, 4), Shape(1, 2048, 4), Shape(2, 2048, 4), Shape(4, 1024, 4), Shape(1, 4096, 8), Shape(4, 512, 4, 3))
SHORT = (Shape(8, 1024, 4), Shape(4, 1024, 4), Shape(16, 1024, 8), Shape(16, 512, 4))  # products with rows of at most 1024
ADD = (Shape(8, 512, 4), Shape(16, 512, 4), Shape(16, 256, 4), Shape(8, 1024, 8), Shape(8, 512, 4, 3), Shape(32, 256, 8))
_tuned: dict[tuple[Any, ...], Shape] = {}


def _candidates(kind: str, d: int) -> tuple[Shape, ...]:
    if kind == "add":
        return ADD
    return SHORT if d <= 1024 else DOT


def shape_for(kind: str, d: int, dtype: torch.dtype, batch: int, device: torch.device) -> Shape:
    """The program's shape for rows of length d: the tuned one, else the rule's, cut to the width and the batch.

    Args:
        kind: "dot" or "add".
    """
    base = _tuned.get((kind, d, dtype, device.type)) or _candidates(kind, d)[0]
    if INTERPRETED:
        base = replace(base, columns=min(base.columns, 64), rows=8)
    base = replace(base, columns=min(base.columns, triton.next_power_of_2(d)))
    batch = triton.next_power_of_2(batch)
    while batch > 1 and base.rows * base.columns * batch > 64 * 32 * base.warps:  # 64 sums per thread
        if base.rows == 1 and base.columns <= 64:
            break
        base = replace(base, columns=base.columns // 2) if base.columns > 64 else replace(base, rows=base.rows // 2)
    return base


@lru_cache
def processors(device: torch.device) -> int:
    """Streaming multiprocessors of a GPU."""
    return _INTERPRETED_PROCESSORS if INTERPRETED else torch.cuda.get_device_properties(device).multi_processor_count


def on(x: Tensor) -> torch.cuda.device:
    """Triton launches on the current device; -1 changes nothing."""
    return torch.cuda.device(x.device if x.is_cuda else -1)


def dot(
    x: Tensor, w: Tensor, bias: Tensor | None, index: Tensor | None, activation: int = 2, reduce: int = 0,
    shape: Shape | None = None,
) -> Tensor:  # fmt: skip
    """[k, B] float32 (or [k] when the batch is reduced): w[index] x^T + bias[index], activated; index None takes all rows."""
    batch, d = x.shape
    k = len(w) if index is None else len(index)
    shape = shape or shape_for("dot", d, w.dtype, batch, w.device)
    out = torch.empty((k, batch) if reduce == 0 else (k,), dtype=torch.float32, device=x.device)
    if k:
        kernels.dot_rows[(triton.cdiv(k, shape.rows),)](
            x, w, w if bias is None else bias, w if index is None else index, out, k, len(w), batch, D=d, R=shape.rows,
            BD=shape.columns, BB=triton.next_power_of_2(batch), STAGES=shape.stages, GATHER=index is not None,
            BIAS=bias is not None, ACTIVATION=activation, REDUCE=reduce, num_warps=shape.warps,
        )  # fmt: skip
    return out


def weighted_rows(
    factors: Tensor, w: Tensor, index: Tensor, bias: Tensor, batch: int, dtype: torch.dtype, threshold: float = -1.0,
    shape: Shape | None = None,
) -> Tensor:  # fmt: skip
    """y [B, d] = bias + factors [k, B] summed over w[index]; rows within the threshold are not read."""
    k, d = len(index), w.shape[1]
    shape = shape or shape_for("add", d, w.dtype, batch, w.device)
    tiles = triton.cdiv(d, shape.columns)
    # about eight programs of four warps per multiprocessor keep enough loads in flight
    wanted = max(1, processors(w.device) * 32 // shape.warps // tiles)
    each = triton.cdiv(triton.cdiv(max(k, 1), min(wanted, 64)), shape.rows) * shape.rows
    splits = max(1, triton.cdiv(k, each))
    partial = torch.empty(splits, batch, d, dtype=torch.float32, device=w.device)
    kernels.add_rows[(tiles, splits)](
        factors, w, index, partial, k, len(w), each, batch, threshold, D=d, R=shape.rows, BD=shape.columns,
        BB=triton.next_power_of_2(batch), STAGES=shape.stages, num_warps=shape.warps,
    )  # fmt: skip
    y = torch.empty(batch, d, dtype=dtype, device=w.device)
    kernels.finish[(triton.cdiv(d, 128), batch)](partial, bias, y, splits, batch, D=d, BD=128, num_warps=4)
    return y


def gather_mlp(
    x: Tensor, w1: Tensor, b1: Tensor, w2t: Tensor, b2: Tensor, index: Tensor, activation: int, threshold: float
) -> Tensor:
    """y [B, d]; contiguous tensors, int64 index, activation numbered as in ``ACTIVATIONS``, a negative threshold for none.

    A batch of more than 16 is cut into such pieces.
    """
    if len(x) > 16:
        parts = [gather_mlp(part, w1, b1, w2t, b2, index, activation, threshold) for part in x.split(16)]
        return torch.cat(parts)
    if not len(x):
        return torch.empty_like(x)
    with on(x):
        hidden = dot(x, w1, b1, index, activation)
        return weighted_rows(hidden, w2t, index, b2, len(x), x.dtype, threshold)


def tune(
    d: int, rows: int, dtype: torch.dtype, k: int | None = None, kinds: tuple[str, ...] = ("dot", "add")
) -> dict[str, Shape]:
    """Time the candidate shapes on random weights [rows, d] and keep the fastest for this width and dtype; needs a GPU.

    Args:
        rows: of the matrix; together far more than the L2 cache should hold.
        k: chosen rows, a tenth by default.
        kinds: which of the two programs.

    Raises:
        RuntimeError: no GPU, or no candidate compiles.
    """
    if INTERPRETED or not torch.cuda.is_available():
        raise RuntimeError("shapes are tuned by timing them on a GPU; there is none")
    device, k = torch.device("cuda"), k or rows // 10
    generator = torch.Generator(device).manual_seed(0)
    w = torch.randn(rows, d, dtype=dtype, device=device, generator=generator)
    x, bias = torch.randn(1, d, dtype=dtype, device=device), torch.zeros(max(rows, d), dtype=dtype, device=device)
    index = torch.randperm(rows, device=device, generator=generator)[:k].sort().values
    factors = torch.rand(k, 1, device=device)

    def run(kind: str, shape: Shape) -> Tensor:
        if kind == "dot":
            return dot(x, w, bias[:rows], index, 0, shape=shape)
        return weighted_rows(factors, w, index, bias[:d], 1, dtype, shape=shape)

    chosen = {}
    for kind in kinds:
        timed = []
        for shape in _candidates(kind, d):
            try:
                timed.append((do_bench(lambda k=kind, s=shape: run(k, s), 5, 20, return_mode="median"), shape))
            except Exception:  # a candidate that this Triton or this device does not compile is not one
                continue
        if not timed:
            raise RuntimeError("no program shape compiles on this GPU; use backend='reference'")
        chosen[kind] = _tuned[kind, d, dtype, device.type] = min(timed, key=lambda t: t[0])[1]
    return chosen
