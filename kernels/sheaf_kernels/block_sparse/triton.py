"""The Triton form of block_sparse, for GPUs; also runs under Triton's interpreter, where its tests need no GPU.

A program computes BM tokens by the columns of a *group*: neighbouring block rows that read the same inputs. In a stretched
butterfly these are the rows of one cell, so a tile is as wide as a cell (up to 128), not as a block: with a tile of
m x n the cache must deliver (m + n) numbers for m n multiply-adds, and tiles 32 wide starve (limits in
`sheaf.pixelfly.hardware.tile_limits`). Any mask works; rows that share nothing are groups of one.

The low-rank term is one more chunk of the summed axis in the same accumulator; z = x v is a plain product before it.
Sums are float32; float32 inputs are multiplied as they are (no tf32). Results do not depend on scheduling.
"""

# mypy: disallow-incomplete-defs=False, disallow-untyped-defs=False
import os
from functools import lru_cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .layout import Layout

__all__ = ["linear"]

WIDEST = 128  # columns of a tile
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


@triton.jit
def _forward_kernel(
    x, w, y, z, u, bias, first_row, rows, begin, kept, column, block_id, tokens, in_features, out_features,
    n_stride, k_stride, b: tl.constexpr, rank: tl.constexpr, has_bias: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    BK: tl.constexpr, BR: tl.constexpr, PRECISION: tl.constexpr, WIDEN: tl.constexpr,
):  # fmt: skip
    """y[tokens of this tile, columns of this group] = sum of kept blocks + z u^T + bias. Blocks lie as n_stride, k_stride say."""
    tile, group = tl.program_id(0), tl.program_id(1)
    row0, height = tl.load(first_row + group), tl.load(rows + group)
    start, count = tl.load(begin + group), tl.load(kept + group)
    t = tile * BM + tl.arange(0, BM)
    n = tl.arange(0, BN)
    k = tl.arange(0, BK)
    live_t, live_n, live_k = t < tokens, n < height * b, k < b
    total = tl.zeros((BM, BN), dtype=tl.float32)
    for j in range(count):
        at = tl.load(column + start + j) * b
        left = tl.load(
            x + t[:, None].to(tl.int64) * in_features + (at + k)[None, :],
            mask=live_t[:, None] & live_k[None, :],
            other=0.0,
        )
        # the j-th kept block of each row of the group
        block = tl.load(block_id + start + (n // b) * count + j, mask=live_n, other=0).to(tl.int64)
        inside = block * b * b + (n % b) * n_stride
        right = tl.load(w + inside[None, :] + k[:, None] * k_stride, mask=live_k[:, None] & live_n[None, :], other=0.0)
        if WIDEN:
            left, right = left.to(tl.float32), right.to(tl.float32)
        total = tl.dot(left, right, total, input_precision=PRECISION)
    columns = row0 * b + n
    if rank > 0:
        r = tl.arange(0, BR)
        low = tl.load(
            z + t[:, None].to(tl.int64) * rank + r[None, :], mask=live_t[:, None] & (r < rank)[None, :], other=0.0
        )
        up = tl.load(u + columns[None, :] * rank + r[:, None], mask=live_n[None, :] & (r < rank)[:, None], other=0.0)
        if WIDEN:
            low, up = low.to(tl.float32), up.to(tl.float32)
        total = tl.dot(low, up, total, input_precision=PRECISION)
    if has_bias:
        total += tl.load(bias + columns, mask=live_n, other=0.0).to(tl.float32)[None, :]
    to = y + t[:, None].to(tl.int64) * out_features + columns[None, :]
    tl.store(to, total.to(y.dtype.element_ty), mask=live_t[:, None] & live_n[None, :])


@triton.jit
def _weight_kernel(
    dy, x, dw, first_row, rows, group_of, column_of, first_id, kept_of, tokens, in_features, out_features,
    b: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr, WIDEN: tl.constexpr,
):  # fmt: skip
    """dW of the blocks of one group in one block column: dy^T x over all tokens."""
    piece = tl.program_id(0)
    group = tl.load(group_of + piece)
    row0, height = tl.load(first_row + group), tl.load(rows + group)
    at = tl.load(column_of + piece) * b
    n, k, m = tl.arange(0, BN), tl.arange(0, BK), tl.arange(0, BM)
    live_n, live_k = n < height * b, k < b
    total = tl.zeros((BN, BK), dtype=tl.float32)
    for first in range(0, tokens, BM):
        t = (first + m).to(tl.int64)
        live_t = t < tokens
        left = tl.load(
            dy + t[None, :] * out_features + (row0 * b + n)[:, None], mask=live_n[:, None] & live_t[None, :], other=0.0
        )
        right = tl.load(
            x + t[:, None] * in_features + (at + k)[None, :], mask=live_t[:, None] & live_k[None, :], other=0.0
        )
        if WIDEN:
            left, right = left.to(tl.float32), right.to(tl.float32)
        total = tl.dot(left, right, total, input_precision=PRECISION)
    # blocks of a row are neighbours in memory, those of the next row lie `kept` further
    block = tl.load(first_id + piece).to(tl.int64) + (n // b) * tl.load(kept_of + piece)
    to = dw + (block * b * b + (n % b) * b)[:, None] + k[None, :]
    tl.store(to, total.to(dw.dtype.element_ty), mask=live_n[:, None] & live_k[None, :])


class _Groups:
    """Index tensors of a layout: groups of block rows with the same columns, and their blocks."""

    def __init__(self, layout: Layout, device: torch.device, transposed: bool) -> None:
        mask = layout.mask.T if transposed else layout.mask
        ids = torch.full(layout.mask.shape, -1, dtype=torch.int64)
        ids[layout.mask] = torch.arange(layout.nnz)
        ids = ids.T if transposed else ids
        most = max(1, WIDEST // layout.block)
        first: list[int] = []
        for row in range(len(mask)):
            if not first or row - first[-1] == most or not torch.equal(mask[row], mask[first[-1]]):
                first.append(row)
        ends = [*first[1:], len(mask)]
        kept = [int(mask[r].sum()) for r in first]
        heights = [e - f for f, e in zip(first, ends, strict=True)]
        block_ids = [ids[f:e][mask[f:e]] for f, e in zip(first, ends, strict=True)]  # [height * kept], row by row
        # columns are padded to the length of the block ids, so that one offset serves both
        columns = [mask[f].nonzero().flatten().repeat(h) for f, h in zip(first, heights, strict=True)]
        lengths = [len(i) for i in block_ids]
        begins = [sum(lengths[:i]) for i in range(len(lengths))]

        def place(values: list[int] | Tensor) -> Tensor:
            return torch.as_tensor(values, dtype=torch.int32).to(device)

        self.count, self.widest = len(first), max(heights) * layout.block
        self.first_row, self.rows, self.begin, self.kept = (place(v) for v in (first, heights, begins, kept))
        self.column, self.block_id = place(torch.cat(columns)), place(torch.cat(block_ids))
        pieces = [(g, j) for g in range(len(first)) for j in range(kept[g])]
        self.group_of = place([g for g, _ in pieces])
        self.column_of = place([int(columns[g][j]) for g, j in pieces])
        self.first_id = place([int(block_ids[g][j]) for g, j in pieces])
        self.kept_of = place([kept[g] for g, _ in pieces])


@lru_cache(maxsize=256)
def _groups(layout: Layout, device: torch.device, transposed: bool) -> _Groups:
    return _Groups(layout, device, transposed)


def _tile(widest: int, block: int, dtype: torch.dtype) -> dict[str, Any]:
    precision = "ieee" if dtype == torch.float32 else "tf32"  # the latter has no meaning for 16-bit inputs
    return {
        "BN": max(16, triton.next_power_of_2(widest)),
        "BK": max(16, triton.next_power_of_2(block)),
        "PRECISION": precision,
        "WIDEN": INTERPRETED and dtype == torch.bfloat16,  # the interpreter multiplies the bits of bfloat16
    }


def _multiply(
    x: Tensor, weight: Tensor, layout: Layout, transposed: bool, bias: Tensor | None, z: Tensor | None, u: Tensor | None
) -> Tensor:
    """x times the (transposed) block-sparse matrix, plus z u^T and bias."""
    groups = _groups(layout, x.device, transposed)
    b, rank = layout.block, 0 if u is None else u.shape[1]
    out = (layout.mask.shape[1] if transposed else layout.mask.shape[0]) * b
    y = torch.empty(len(x), out, dtype=x.dtype, device=x.device)
    if not len(x):
        return y
    tile = _tile(groups.widest, b, x.dtype)
    rows = 16 if INTERPRETED else 128
    _forward_kernel[(triton.cdiv(len(x), rows), groups.count)](
        x, weight, y, x if z is None else z, x if u is None else u, x if bias is None else bias, groups.first_row, groups.rows,
        groups.begin, groups.kept, groups.column, groups.block_id, len(x), x.shape[1], out, *((1, b) if transposed else (b, 1)),
        b=b, rank=rank, has_bias=bias is not None, BM=rows, BR=max(16, triton.next_power_of_2(max(rank, 1))), **tile,
    )  # fmt: skip
    return y


def _weight_gradient(dy: Tensor, x: Tensor, weight: Tensor, layout: Layout) -> Tensor:
    groups = _groups(layout, x.device, False)
    dw = torch.empty_like(weight)
    if layout.nnz:
        tile = _tile(groups.widest, layout.block, x.dtype)
        _weight_kernel[(len(groups.group_of),)](
            dy, x, dw, groups.first_row, groups.rows, groups.group_of, groups.column_of, groups.first_id, groups.kept_of, len(x),
            x.shape[1], dy.shape[1], b=layout.block, BM=32 if INTERPRETED else 64, **tile,
        )  # fmt: skip
    return dw


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, layout: Layout, bias: Tensor | None, u: Tensor | None, v: Tensor | None
    ) -> Tensor:
        z = None if v is None else (x @ v).contiguous()
        ctx.layout = layout
        ctx.has_bias = bias is not None
        ctx.save_for_backward(x, weight, u, v, z)
        return _multiply(x, weight, layout, False, bias, z, u)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, u, v, z = ctx.saved_tensors
        dy = gradients[0].contiguous()
        dz = None if u is None else (dy @ u).contiguous()
        wants = ctx.needs_input_grad
        dx = _multiply(dy, weight, ctx.layout, True, None, dz, v) if wants[0] else None
        dw = _weight_gradient(dy, x, weight, ctx.layout) if wants[1] else None
        dbias = dy.sum(0) if ctx.has_bias else None
        du = None if u is None else dy.T @ z
        dv = None if dz is None else x.T @ dz
        return dx, dw, None, dbias, du, dv


def linear(
    x: Tensor,
    weight: Tensor,
    layout: Layout,
    bias: Tensor | None = None,
    u: Tensor | None = None,
    v: Tensor | None = None,
) -> Tensor:
    """y = x W^T + (x v) u^T + bias on contiguous x [tokens, in]; float32, bfloat16 or float16, gradients for all.

    Raises:
        ValueError: another dtype, or a tensor on the CPU without Triton's interpreter.
    """
    if x.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise ValueError(f"the Triton kernel takes float32, bfloat16 and float16; got {x.dtype}")
    if x.device.type != "cuda" and not INTERPRETED:
        raise ValueError(
            f"the Triton kernel needs a GPU; x is on {x.device}. Use backend='cpu', or set TRITON_INTERPRET=1 to test"
        )
    return _Linear.apply(x, weight, layout, bias, u, v)
