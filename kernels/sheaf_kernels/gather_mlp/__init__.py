"""The MLP of a decoder at chosen neurons only: gathered rows of W1, activation, gathered rows of the transposed W2, in one pass.

    y = sum over i in index of  act(x . w1_i + b1_i) w2_i  + b2          (Liu et al. 2023, section 4.4)

What is not chosen is never read. W2 is kept transposed, one row per neuron, so that both gathers are of contiguous rows.
The definition is `reference.py`. Forward only: this is decoding, one token at a time.
"""

import torch
from torch import Tensor

from sheaf_kernels import build
from sheaf_kernels.dispatch import BACKENDS, choose, in_range, triton_module

from . import reference

__all__ = ["ACTIVATIONS", "BACKENDS", "compiled", "gather_mlp"]

ACTIVATIONS = tuple(reference.ACTIVATIONS)
_CPU = (torch.float32, torch.float64, torch.bfloat16)
_GPU = (torch.float32, torch.bfloat16, torch.float16)

torch.library.define(
    "sheaf::gather_mlp",
    "(Tensor x, Tensor w1, Tensor b1, Tensor w2t, Tensor b2, Tensor index, int activation, float threshold) -> Tensor",
)


@torch.library.register_fake("sheaf::gather_mlp")
def _(
    x: Tensor, w1: Tensor, b1: Tensor, w2t: Tensor, b2: Tensor, index: Tensor, activation: int, threshold: float
) -> Tensor:
    return torch.empty_like(x)


@torch.library.impl("sheaf::gather_mlp", "CUDA")
def _(
    x: Tensor, w1: Tensor, b1: Tensor, w2t: Tensor, b2: Tensor, index: Tensor, activation: int, threshold: float
) -> Tensor:
    module = triton_module("gather_mlp")
    assert module is not None  # choose() has seen to it
    return module.gather_mlp(x, w1, b1, w2t, b2, index, activation, threshold)


def compiled() -> bool:
    """Whether the compiled form is built; it is loaded when it is."""
    return build.available("gather_mlp")


def gather_mlp(
    x: Tensor, w1: Tensor, b1: Tensor, w2t: Tensor, b2: Tensor, index: Tensor,
    activation: str = "relu", threshold: float | None = None, backend: str = "auto",
) -> Tensor:  # fmt: skip
    """y [B, d] = act(x W1[index]^T + b1[index]) W2t[index] + b2.

    Args:
        x: [B, d], the input after LayerNorm; the whole batch uses one index.
        w1, w2t: [f, d], one row per neuron (the second matrix stored transposed).
        b1, b2: [f] and [d].
        index: [k] int32 or int64, 0 <= k; any order, repeats count each time, negative entries are padding and do nothing.
        activation: "relu", "gelu" (the exact one) or "identity".
        threshold: rows of w2t are read only where |act| exceeds it for some of the batch; None reads all that were chosen.
            With every neuron in the index this is the rule without a predictor (TEAL, CATS): W1 whole, W2 in part.
        backend: "auto", "cpu", "triton" or "reference".

    Raises:
        ValueError: shapes, dtypes or devices do not agree, or an unknown activation or backend.
        IndexError: an index >= f (on a CPU; a GPU leaves such an entry out).
        RuntimeError: the named backend is not built or not installed.
    """
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation {activation!r} is unknown; use one of {', '.join(ACTIVATIONS)}")
    if threshold is not None and not threshold >= 0:
        raise ValueError(f"threshold is a magnitude and must be at least 0, or None to read every chosen row; got {threshold}")
    if not _fits(x, w1, b1, w2t, b2, index):
        _check(x, w1, b1, w2t, b2, index)
    chosen = choose("gather_mlp", backend, x.device, x.dtype, _CPU, _GPU)
    if chosen == "reference":
        return reference.gather_mlp(x, w1, b1, w2t, b2, index, activation, threshold)
    if chosen == "cpu":
        in_range("index", index, len(w1), "neurons")
    x, w1, b1, w2t, b2 = (t.contiguous() for t in (x, w1, b1, w2t, b2))
    arguments = (x, w1, b1, w2t, b2, index.to(torch.int64).contiguous(), ACTIVATIONS.index(activation))
    limit = -1.0 if threshold is None else float(threshold)
    if chosen == "triton" and x.device.type == "cpu":  # under the interpreter
        return triton_module("gather_mlp").gather_mlp(*arguments, limit)  # type: ignore[union-attr]
    return torch.ops.sheaf.gather_mlp(*arguments, limit)


def _fits(x: Tensor, w1: Tensor, b1: Tensor, w2t: Tensor, b2: Tensor, index: Tensor) -> bool:
    """Whether all is as it should be, told as fast as possible: a call may take 100 microseconds in all."""
    f, d = w1.shape if w1.ndim == 2 else (-1, -1)
    shapes = x.ndim == 2 and x.shape[1] == d and w2t.shape == w1.shape and b1.shape == (f,) and b2.shape == (d,)
    dtypes = x.dtype == w1.dtype == b1.dtype == w2t.dtype == b2.dtype and index.dtype == torch.int64 and index.ndim == 1
    return shapes and dtypes and x.device == w1.device == b1.device == w2t.device == b2.device == index.device


def _check(x: Tensor, w1: Tensor, b1: Tensor, w2t: Tensor, b2: Tensor, index: Tensor) -> None:
    if x.ndim != 2 or w1.ndim != 2:
        raise ValueError(f"x must be [B, d] and w1 [f, d]; got {list(x.shape)} and {list(w1.shape)}")
    f, d = w1.shape
    wanted = {"x": (x, (len(x), d)), "w1": (w1, (f, d)), "b1": (b1, (f,)), "w2t": (w2t, (f, d)), "b2": (b2, (d,))}
    for name, (tensor, shape) in wanted.items():
        if tuple(tensor.shape) != shape:
            hint = "; w2t is the second matrix transposed, one row per neuron" if name == "w2t" else ""
            raise ValueError(f"{name} must have shape {list(shape)}; got {list(tensor.shape)}{hint}")
        if tensor.dtype != x.dtype or tensor.device != x.device:
            raise ValueError(
                f"{name} is {tensor.dtype} on {tensor.device}, x is {x.dtype} on {x.device}; convert one of them"
            )
    if index.ndim != 1 or index.dtype not in (torch.int32, torch.int64) or index.device != x.device:
        raise ValueError(
            f"index must be [k] of int32 or int64 on {x.device}; got {list(index.shape)} of {index.dtype} on {index.device}"
        )
