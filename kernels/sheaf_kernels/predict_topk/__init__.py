"""Which units a predictor expects to matter, in one step: two thin products, scores over the batch, and the k best of them.

    scores = act(x a^T) b^T,  summed (or maximised) over the batch;  the k largest          (Liu et al. 2023, section 4.2)

`activation` "identity" is the form of the paper's released code, two linear maps in a row; "relu" is the two-layer form of its
text. The definition is `reference.py`. Forward only.
"""

import math

import torch
from torch import Tensor

from sheaf_kernels import build
from sheaf_kernels.dispatch import BACKENDS, choose, triton_module

from . import reference

__all__ = ["BACKENDS", "compiled", "predict_topk"]

_CPU = (torch.float32, torch.float64, torch.bfloat16)
_GPU = (torch.float32, torch.bfloat16, torch.float16)

torch.library.define(
    "sheaf::predict_topk", "(Tensor x, Tensor a, Tensor b, int k, float threshold, bool relu, bool most) -> Tensor"
)


@torch.library.register_fake("sheaf::predict_topk")
def _(x: Tensor, a: Tensor, b: Tensor, k: int, threshold: float, relu: bool, most: bool) -> Tensor:
    return x.new_empty(k, dtype=torch.int64)


@torch.library.impl("sheaf::predict_topk", "CUDA")
def _(x: Tensor, a: Tensor, b: Tensor, k: int, threshold: float, relu: bool, most: bool) -> Tensor:
    module = triton_module("predict_topk")
    assert module is not None  # choose() has seen to it
    return module.predict_topk(x, a, b, k, threshold, relu, most)


def compiled() -> bool:
    """Whether the compiled form is built; it is loaded when it is."""
    return build.available("predict_topk")


def predict_topk(
    x: Tensor, a: Tensor, b: Tensor, k: int, threshold: float | None = None,
    activation: str = "identity", reduce: str = "sum", backend: str = "auto",
) -> Tensor:  # fmt: skip
    """index [k] int64, ascending: the units with the largest scores; of equal scores the lower index is taken.

    Args:
        x: [B, d], the input that the predictor sees; a batch gets one union of units.
        a: [r, d]; b: [out, r]; may be of another dtype than x (a predictor in bfloat16 beside weights in float32).
        k: how many units, 0 <= k <= out.
        threshold: only scores above it count; what is missing to k is filled with -1 at the end.
        activation: "identity" or "relu", between a and b.
        reduce: "sum" or "max" over the batch.
        backend: "auto", "cpu", "triton" or "reference".

    Raises:
        ValueError: shapes, devices or k do not fit, or an unknown activation, reduction or backend.
        RuntimeError: the named backend is not built or not installed.
    """
    if activation not in ("identity", "relu") or reduce not in ("sum", "max"):
        raise ValueError(
            f"activation must be 'identity' or 'relu' and reduce 'sum' or 'max'; got {activation!r} and {reduce!r}"
        )
    if x.ndim != 2 or a.ndim != 2 or b.ndim != 2 or a.shape[1] != x.shape[1] or b.shape[1] != a.shape[0]:
        raise ValueError(
            f"x must be [B, d], a [r, d] and b [out, r]; got {list(x.shape)}, {list(a.shape)} and {list(b.shape)}"
        )
    if not 0 <= k <= len(b):
        raise ValueError(f"k must be between 0 and the {len(b)} units; got {k}")
    if a.dtype != b.dtype or not x.device == a.device == b.device:
        raise ValueError(
            f"a and b must have one dtype and lie where x lies; got a {a.dtype} on {a.device}, b {b.dtype} on {b.device}, "
            f"x on {x.device}"
        )
    chosen = choose("predict_topk", backend, a.device, a.dtype, _CPU, _GPU)
    if chosen == "reference":
        return reference.predict_topk(x, a, b, k, threshold, activation, reduce)
    limit = -math.inf if threshold is None else float(threshold)
    arguments = (x.contiguous(), a.contiguous(), b.contiguous(), k, limit, activation == "relu", reduce == "max")
    if chosen == "triton" and x.device.type == "cpu":  # under the interpreter
        return triton_module("predict_topk").predict_topk(*arguments)  # type: ignore[union-attr]
    return torch.ops.sheaf.predict_topk(*arguments)
