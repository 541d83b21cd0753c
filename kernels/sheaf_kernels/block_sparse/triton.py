"""block_sparse on a GPU, by Triton: forward, input gradient and weight gradient, each tiled by groups of block rows.

    forward      z = x v;   y  = x W^T + z u^T + bias      `dds` on the layout, the low-rank term in the same sum
    backward     g = dy u;  dx = dy W  + g v^T             `dds` on the transposed layout
                 dW = dy^T x on the layout                 `sdd`, tokens split and added up in a fixed order
                 du = dy^T z,  dv = x^T g                  dense products (cuBLAS), as are z and g
The programs are in `triton_kernels.py`, the cut of a layout into tiles in `triton_tiles.py`, the choice among forms and tile
shapes in `triton_choice.py`. z is a product of its own: every tile needs all of it, and x v reads all of x where a tile reads
only some columns.

float32, bfloat16 and float16, sums in float32. Operands in float32 are multiplied as such, not as TF32, unless torch may use
TF32 for its own products (``torch.backends.cuda.matmul.fp32_precision = "tf32"`` or ``allow_tf32 = True``; off by default).
Within one process equal calls give equal bits. With TRITON_INTERPRET=1 in the environment before Triton is imported everything
runs on CPU tensors, slowly, by the rule's choice.
"""

from functools import lru_cache
from typing import Any

import torch
import triton
from torch import Tensor

from . import triton_groups
from . import triton_kernels as kernels
from .layout import Layout
from .triton_choice import DTYPES, INTERPRETED, Config, candidates, choose, cut, on_device, precision, processors
from .triton_tiles import granule

__all__ = ["Config", "backward", "candidates", "forward", "linear", "supports"]


def supports(layout: Layout, dtype: torch.dtype) -> bool:
    """Whether this backend takes such a layer."""
    return dtype in DTYPES and layout.block % 16 == 0


def forward(
    x: Tensor, weight: Tensor, layout: Layout, bias: Tensor | None = None, u: Tensor | None = None, v: Tensor | None = None,
    *, config: Config | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """y [T, out] = x W^T + (x v) u^T + bias, and z = x v [T, r] for the backward pass, [T, 0] without low rank.

    Args:
        x: [T, in]; any strides.
        weight: [nnz, b, b], b a multiple of 16.
        layout: which blocks exist.
        bias: [out].
        u, v: [out, r] and [in, r], both or neither.
        config: tile shape; chosen when absent.

    Raises:
        ValueError: a dtype or block that this backend does not take, or tensors on a CPU without the interpreter.
    """
    z = x.new_empty(len(x), 0) if v is None else x @ v
    return _dds(x, weight, layout, False, bias, z, u, config), z


def backward(
    dy: Tensor, x: Tensor, z: Tensor, weight: Tensor, layout: Layout, u: Tensor | None = None, v: Tensor | None = None,
    *, wants_dx: bool = True, config: Config | None = None, weight_config: tuple[Config, bool] | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients (dx, dweight, du, dv) from dy [T, out] and what ``forward`` was given and gave; empty where not wanted.

    Args:
        config, weight_config: forms and tile shapes of the input gradient and of the weight gradient (with whether rows of
            tiles are block columns); chosen when absent.

    Raises:
        ValueError: as ``forward``.
    """
    g = dy.new_empty(len(dy), 0) if u is None else dy @ u
    dx = _dds(dy, weight, layout, True, None, g, v, config) if wants_dx else dy.new_empty(0)
    dweight = _sdd(dy, x, weight, layout, weight_config)
    if u is None:
        return dx, dweight, dy.new_empty(0), dy.new_empty(0)
    return dx, dweight, dy.T @ z, x.T @ g


def linear(
    x: Tensor, weight: Tensor, layout: Layout, bias: Tensor | None = None, u: Tensor | None = None, v: Tensor | None = None
) -> Tensor:
    """``forward``'s y with gradients for every tensor; also under ``torch.compile``.

    Raises:
        ValueError: as ``forward``.
    """
    return _forward_op(x, weight, layout.mask, bias, u, v)[0]


def _dds(
    x: Tensor, weight: Tensor, layout: Layout, transposed: bool, bias: Tensor | None, z: Tensor, u: Tensor | None,
    config: Config | None,
) -> Tensor:  # fmt: skip
    _check(x, layout)
    x, z, weight = _rows(x), _rows(z), weight.contiguous()
    u = None if u is None or not u.shape[1] else _rows(u)
    bias = None if bias is None else bias.contiguous()
    tokens = len(x)
    y = x.new_empty(tokens, layout.in_features if transposed else layout.out_features)
    if not tokens:
        return y
    rank = 0 if u is None else u.shape[1]

    def run(chosen: Config, _: bool) -> None:
        if chosen.form == "groups":
            found = triton_groups.groups(layout, x.device)
            assert found is not None
            triton_groups.dds(x, weight, found, transposed, bias, z, u, y)
            return
        t = cut(layout, chosen, transposed, x.device)
        strides = (x.stride(0), z.stride(0), y.stride(0))
        stride_u = 0 if u is None else u.stride(0)
        common = {
            "S": t.granule, "BM": chosen.m, "BK": chosen.k, "HAS_BIAS": bias is not None, "PRECISION": precision(x.dtype),
            "WIDEN": _widen(x.dtype), "num_warps": chosen.warps, "num_stages": chosen.stages,
        }  # fmt: skip
        if chosen.form == "resident":
            steps, low = t.entries // t.count * t.granule // chosen.k, triton.cdiv(rank, chosen.k)
            parts = max(1, chosen.at_once(x.itemsize, steps + low) * processors(x.device) // t.count)
            share = triton.cdiv(triton.cdiv(tokens, parts), chosen.m) * chosen.m
            kernels.dds_resident[(t.count, triton.cdiv(tokens, share))](
                x, z, weight, u, t.rows, t.columns, t.source, t.starts, bias, y, tokens, rank, share, *strides, stride_u,
                t.row_stride, t.column_stride, N1=chosen.n, N2=chosen.n2, STEPS=steps, LOW=low, **common,
            )  # fmt: skip
            return
        tail = triton.cdiv(rank, chosen.k) * (chosen.k // t.granule)  # granules of the low-rank term in every tile
        entries = t.entries + t.count * tail
        packed = x.new_empty(entries * t.granule, chosen.n)
        if entries:
            kernels.pack[(entries,)](
                weight, u, packed, t.source, t.starts, t.owner, t.rows,
                t.entries, rank, tail, stride_u, t.row_stride, t.column_stride,
                S=t.granule, BN=chosen.n, STEP=chosen.k // t.granule, LOW_RANK=rank > 0, num_warps=4,
            )  # fmt: skip
        kernels.dds[(t.count * triton.cdiv(tokens, chosen.m),)](
            x, z, packed, t.rows, t.columns, t.starts, bias, y, tokens, t.count, rank, tail, *strides,
            BN=chosen.n, LOW_RANK=rank > 0, **common,
        )  # fmt: skip

    if config is None:
        what = "input gradient" if transposed else "forward"
        config, _ = choose(what, layout, x, bias is not None, rank, run)
    with on_device(x):
        run(config, transposed)
    return y


def _sdd(dy: Tensor, x: Tensor, weight: Tensor, layout: Layout, config: tuple[Config, bool] | None) -> Tensor:
    _check(x, layout)
    dy, x = _rows(dy), _rows(x)
    tokens = len(x)
    if not tokens or not layout.nnz:
        return torch.zeros_like(weight, memory_format=torch.contiguous_format)
    dweight = torch.empty_like(weight, memory_format=torch.contiguous_format)

    def run(chosen: Config, transposed: bool) -> None:
        if chosen.form == "groups":
            found = triton_groups.groups(layout, x.device)
            assert found is not None
            triton_groups.sdd(dy, x, found, dweight)
            return
        t = cut(layout, chosen, transposed, x.device)
        left, right = (x, dy) if transposed else (dy, x)
        steps = len(t.owner)
        # about two programs per processor, but at least eight steps of the sum in each
        splits = max(1, min(triton.cdiv(2 * processors(x.device), steps), triton.cdiv(tokens, 8 * chosen.m)))
        share = triton.cdiv(triton.cdiv(tokens, splits), chosen.m) * chosen.m
        splits = triton.cdiv(tokens, share)
        parts = dweight if splits == 1 else x.new_empty(splits, weight.numel(), dtype=torch.float32)
        kernels.sdd[(steps, splits)](
            left, right, t.rows, t.columns, t.source, t.owner, parts,
            tokens, share, left.stride(0), right.stride(0), weight.numel(), t.row_stride, t.column_stride,
            S=t.granule, BM=chosen.m, BN=chosen.n, BK=chosen.k, PRECISION=precision(x.dtype), WIDEN=_widen(x.dtype),
            num_warps=chosen.warps, num_stages=chosen.stages,
        )  # fmt: skip
        if splits > 1:
            dweight.view(-1).copy_(parts.sum(0))

    if config is None:
        config = choose("weight gradient", layout, x, False, 0, run)
    with on_device(x):
        run(*config)
    return dweight


def _widen(dtype: torch.dtype) -> bool:
    return INTERPRETED and dtype == torch.bfloat16


def _rows(t: Tensor) -> Tensor:
    """The tensor itself when its rows are contiguous, at whatever distance."""
    return t if t.stride(-1) == 1 or not t.numel() else t.contiguous()


def _check(x: Tensor, layout: Layout) -> None:
    if not x.is_cuda and not INTERPRETED:
        raise ValueError(f"the Triton kernel runs on a GPU; got tensors on {x.device}, use another backend or move them")
    if x.dtype not in DTYPES:
        raise ValueError(f"the Triton kernel takes float32, bfloat16 and float16; got {x.dtype}, use backend='reference'")
    granule(layout.block, 16)
    if layout.nnz * layout.block**2 >= 2**31:
        raise ValueError("the Triton kernel addresses fewer than 2^31 weights; split the layer")


@lru_cache(maxsize=512)
def _layout(mask: bytes, rows: int, columns: int, block: int) -> Layout:
    return Layout(torch.frombuffer(bytearray(mask), dtype=torch.bool).reshape(rows, columns), block)


def _layout_of(mask: Tensor, weight: Tensor) -> Layout:
    return _layout(mask.numpy().tobytes(), *mask.shape, weight.shape[1])


@torch.library.custom_op("sheaf::block_sparse_triton", mutates_args=())
def _forward_op(
    x: Tensor, weight: Tensor, mask: Tensor, bias: Tensor | None, u: Tensor | None, v: Tensor | None
) -> tuple[Tensor, Tensor]:
    return forward(x, weight, _layout_of(mask, weight), bias, u, v)


@torch.library.custom_op("sheaf::block_sparse_triton_backward", mutates_args=())
def _backward_op(
    dy: Tensor, x: Tensor, z: Tensor, weight: Tensor, mask: Tensor, u: Tensor | None, v: Tensor | None, wants_dx: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return backward(dy, x, z, weight, _layout_of(mask, weight), u, v, wants_dx=wants_dx)


@_forward_op.register_fake
def _(
    x: Tensor, weight: Tensor, mask: Tensor, bias: Tensor | None, u: Tensor | None, v: Tensor | None
) -> tuple[Tensor, Tensor]:
    y = x.new_empty(x.shape[0], mask.shape[0] * weight.shape[1])
    return y, x.new_empty(x.shape[0], 0 if v is None else v.shape[1])


@_backward_op.register_fake
def _(
    dy: Tensor, x: Tensor, z: Tensor, weight: Tensor, mask: Tensor, u: Tensor | None, v: Tensor | None, wants_dx: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dx, dw, du, dv = (
        x.new_empty(0) if t is None else x.new_empty(t.shape) for t in (x if wants_dx else None, weight, u, v)
    )
    return dx, dw, du, dv


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, weight, mask, bias, u, v = inputs
    ctx.save_for_backward(x, weight, mask, u, v, output[1])
    ctx.has_bias = bias is not None


def _gradients(ctx: Any, dy: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, mask, u, v, z = ctx.saved_tensors
    wants_dx = ctx.needs_input_grad[0]
    dx, dweight, du, dv = _backward_op(dy, x, z, weight, mask, u, v, wants_dx)
    dbias = dy.sum(0) if ctx.has_bias else None
    return dx if wants_dx else None, dweight, None, dbias, *((None, None) if u is None else (du, dv))


_forward_op.register_autograd(_gradients, setup_context=_keep)
