"""A linear layer whose weight is block sparse, plus a low-rank term, in one pass: y = x W^T + (x v) u^T + bias.

W [out, in] keeps the square blocks that a `Layout` names (see `layout.py`), stored as weight [nnz, b, b] in row-major order.
The definition is `reference.py`. A training step needs three products, each with tokens * nnz * b^2 multiply-adds:
    forward          y  = x W^T             dense = dense x sparse (DDS)
    input gradient   dx = dy W              DDS on the transposed layout
    weight gradient  dW = dy^T x on W's blocks, nowhere else (SDD)
The low-rank term (Pixelfly, Dao et al. 2022, section 3) shares their accumulators. `backend` is "auto" (the compiled kernel on a
CPU, Triton on a GPU for the dtypes and blocks it takes, else the reference), "cpu", "triton" or "reference"; only the reference
has second derivatives.
"""

from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from sheaf_kernels import build

from . import reference
from .layout import Layout, from_dense, to_dense

__all__ = ["BACKENDS", "Layout", "block_sparse_linear", "compiled", "from_dense", "to_dense"]

BACKENDS = ("auto", "cpu", "triton", "reference")
_COMPILED_DTYPES = (torch.float32, torch.float64, torch.bfloat16)

torch.library.define(
    "sheaf::block_sparse_forward",
    "(Tensor x, Tensor weight, Tensor mask, Tensor? bias, Tensor? u, Tensor? v) -> (Tensor, Tensor)",
)
torch.library.define(
    "sheaf::block_sparse_backward",
    "(Tensor dy, Tensor x, Tensor z, Tensor weight, Tensor mask, Tensor? u, Tensor? v, bool wants_dx) "
    "-> (Tensor, Tensor, Tensor, Tensor)",
)


@torch.library.register_fake("sheaf::block_sparse_forward")
def _(
    x: Tensor, weight: Tensor, mask: Tensor, bias: Tensor | None, u: Tensor | None, v: Tensor | None
) -> tuple[Tensor, Tensor]:
    rank = 0 if u is None else u.shape[1]
    return x.new_empty(x.shape[0], mask.shape[0] * weight.shape[1]), x.new_empty(x.shape[0], rank)


@torch.library.register_fake("sheaf::block_sparse_backward")
def _(
    dy: Tensor, x: Tensor, z: Tensor, weight: Tensor, mask: Tensor, u: Tensor | None, v: Tensor | None, wants_dx: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return tuple(x.new_empty(0) if t is None else torch.empty_like(t) for t in (x if wants_dx else None, weight, u, v))  # type: ignore[return-value]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, weight, mask, bias, u, v = inputs
    ctx.save_for_backward(x, weight, mask, u, v, output[1])
    ctx.has_bias = bias is not None


def _backward(ctx: Any, dy: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, mask, u, v, z = ctx.saved_tensors
    dx, dweight, du, dv = torch.ops.sheaf.block_sparse_backward(
        dy.contiguous(), x, z, weight, mask, u, v, ctx.needs_input_grad[0]
    )
    dbias = dy.sum(0) if ctx.has_bias else None
    return dx if ctx.needs_input_grad[0] else None, dweight, None, dbias, *((None, None) if u is None else (du, dv))


torch.library.register_autograd("sheaf::block_sparse_forward", _backward, setup_context=_keep)


def compiled() -> bool:
    """Whether the compiled form is built; it is loaded when it is."""
    return build.available("block_sparse")


def block_sparse_linear(
    x: Tensor,
    weight: Tensor,
    layout: Layout,
    bias: Tensor | None = None,
    u: Tensor | None = None,
    v: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """y [..., out] = x W^T + (x v) u^T + bias, with gradients for everything but the layout.

    Args:
        x: [..., in], float32, bfloat16 or float64 (the reference takes any dtype, Triton also float16); under autocast all
            arguments are cast as those of ``F.linear`` are. Sums run in float32 (float64 for float64).
        weight: [nnz, b, b], block k at (layout.rows[k], layout.cols[k]).
        layout: which blocks exist; block rows and columns may be empty.
        bias: [out].
        u, v: [out, r] and [in, r], both or neither.
        backend: see the module.

    Raises:
        ValueError: shapes, dtypes or devices do not agree, or the backend is unknown.
        RuntimeError: the named backend is not built or not installed.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend {backend!r} is unknown; use one of {', '.join(BACKENDS)}")
    if torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
        x, weight = x.to(dtype), weight.to(dtype)
        bias, u, v = (None if t is None else t.to(dtype) for t in (bias, u, v))
    _check(x, weight, layout, bias, u, v)
    if u is not None and u.shape[1] == 0:
        u = v = None
    run = _runner(backend, x, layout)
    if run is None:
        return reference.linear(x, weight, layout, bias, u, v)
    flat = x.reshape(-1, layout.in_features).contiguous()
    weight, bias, u, v = (None if t is None else t.contiguous() for t in (weight, bias, u, v))  # type: ignore[assignment]
    y = run(flat, weight, layout, bias, u, v)
    return y.reshape(*x.shape[:-1], layout.out_features)


def _runner(backend: str, x: Tensor, layout: Layout) -> Callable[..., Tensor] | None:
    """The function that computes on contiguous [tokens, in], or None for the reference."""
    if backend == "reference" or (backend == "auto" and x.device.type not in ("cpu", "cuda")):
        return None
    if backend == "triton" or (backend == "auto" and x.device.type == "cuda"):
        module = _triton()
        if module is None:
            if backend == "triton":
                raise RuntimeError("Triton is not installed; `pip install triton`, or use backend='reference'")
            return None
        if backend == "auto" and not module.supports(layout, x.dtype):
            return None
        return module.linear
    fits = x.device.type == "cpu" and x.dtype in _COMPILED_DTYPES
    if backend == "cpu" and not fits:
        raise ValueError(
            f"the compiled kernel takes float32, bfloat16 and float64 on a CPU; got {x.dtype} on {x.device}"
        )
    if fits and compiled():
        return _compiled_linear
    if backend == "cpu":
        raise RuntimeError(
            "the compiled block_sparse kernel is not built; run `make kernels`, or use backend='reference'"
        )
    return None


def _compiled_linear(
    x: Tensor, weight: Tensor, layout: Layout, bias: Tensor | None, u: Tensor | None, v: Tensor | None
) -> Tensor:
    return torch.ops.sheaf.block_sparse_forward(x, weight, layout.mask, bias, u, v)[0]


def _triton() -> ModuleType | None:
    try:
        return import_module("sheaf_kernels.block_sparse.triton")
    except ImportError:
        return None


def _check(x: Tensor, weight: Tensor, layout: Layout, bias: Tensor | None, u: Tensor | None, v: Tensor | None) -> None:
    b, out, in_ = layout.block, layout.out_features, layout.in_features
    if (u is None) != (v is None):
        raise ValueError("the low-rank term needs both u [out, r] and v [in, r]; only one was given")
    rank = 0 if u is None else u.shape[-1]
    wanted = {
        "x": (x, (*x.shape[:-1], in_)), "weight": (weight, (layout.nnz, b, b)), "bias": (bias, (out,)),
        "u": (u, (out, rank)), "v": (v, (in_, rank)),
    }  # fmt: skip
    for name, (tensor, shape) in wanted.items():
        if tensor is None:
            continue
        if tuple(tensor.shape) != shape or (name == "x" and not tensor.ndim):
            raise ValueError(
                f"{name} must have shape {list(shape)} for a layout {out} x {in_} in blocks of {b}; "
                f"got {list(tensor.shape)}"
            )
        if tensor.dtype != x.dtype or tensor.device != x.device:
            raise ValueError(
                f"{name} is {tensor.dtype} on {tensor.device}, x is {x.dtype} on {x.device}; convert one of them"
            )
