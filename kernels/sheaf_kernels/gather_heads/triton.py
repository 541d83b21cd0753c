"""gather_heads on a GPU, by Triton: one decode step of the chosen heads, all without the host, so that a graph can capture it.

    project   q of this token, K and V of this token and of those that the head skipped     rows x heads x {q, k, v}
    attend    softmax over 64 positions of the cache per program, unnormalised              heads x batch x positions
    combine   the positions' parts of a head, the rows of the output projection, filled     heads x batch
    output    sum of rows of wot, with the bias                                             gather_mlp's `add_rows`, `finish`

A program that makes up for skipped positions goes over its rows once per position: from memory the first time, from the caches
after that. Positions beyond `length` cost an empty program each, because the length lives on the device.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from sheaf_kernels.gather_mlp.triton import INTERPRETED, on, shape_for, weighted_rows
from sheaf_kernels.gather_mlp.triton_kernels import products

__all__ = ["INTERPRETED", "gather_heads"]

_POSITIONS = 4 if INTERPRETED else 64  # of the cache that one program attends to


@triton.jit
def _fill(
    x: tl.tensor, w: tl.tensor, bias: tl.tensor, cache: tl.tensor, inputs: tl.tensor, first: tl.tensor, now: tl.tensor,
    head: tl.tensor, r: tl.tensor, valid: tl.tensor, count: tl.tensor, capacity: tl.tensor, batch: tl.tensor,
    D: tl.constexpr, W: tl.constexpr, R: tl.constexpr, BD: tl.constexpr, BB: tl.constexpr, STAGES: tl.constexpr,
    MADE_UP: tl.constexpr,
) -> None:  # fmt: skip
    """Keys or values of rows r of a head at positions [first, now], into the cache."""
    b = tl.arange(0, BB)
    row = head * W + r
    stored = valid[:, None] & (b < batch)[None, :]
    shift = tl.load(bias + row, mask=valid, other=0.0).to(tl.float32)[:, None]
    place = (b.to(tl.int64)[None, :] * count + head) * capacity
    if MADE_UP:
        for t in range(first, now):
            z = products(inputs + t * D, capacity * D, w, row * D, valid, batch, D, R, BD, BB, STAGES) + shift
            tl.store(cache + (place + t) * W + r[:, None], z.to(cache.dtype.element_ty), mask=stored)
    z = products(x, D, w, row * D, valid, batch, D, R, BD, BB, STAGES) + shift
    tl.store(cache + (place + now) * W + r[:, None], z.to(cache.dtype.element_ty), mask=stored)


@triton.jit
def _project(
    x: tl.tensor, wq: tl.tensor, bq: tl.tensor, wk: tl.tensor, bk: tl.tensor, wv: tl.tensor, bv: tl.tensor, heads: tl.tensor,
    keys: tl.tensor, values: tl.tensor, queries: tl.tensor, inputs: tl.tensor, filled: tl.tensor, length: tl.tensor,
    count: tl.tensor, capacity: tl.tensor, batch: tl.tensor, scale: tl.tensor, D: tl.constexpr, W: tl.constexpr,
    R: tl.constexpr, BD: tl.constexpr, BB: tl.constexpr, STAGES: tl.constexpr, MADE_UP: tl.constexpr,
) -> None:  # fmt: skip
    """queries [k, B, W] (scaled), keys and values at the positions that a chosen head lacks; R rows of one matrix each."""
    j = tl.program_id(1)
    head = tl.load(heads + j)
    known = (head >= 0) & (head < count)
    r = tl.program_id(0) * R + tl.arange(0, R)
    valid = (r < W) & known
    now = tl.load(length).to(tl.int32)
    first = now
    if MADE_UP:
        first = tl.minimum(tl.load(filled + head, mask=known, other=0).to(tl.int32), now)
    if tl.program_id(2) == 0:
        row = head * W + r
        b = tl.arange(0, BB)
        z = products(x, D, wq, row * D, valid, batch, D, R, BD, BB, STAGES)
        z = (z + tl.load(bq + row, mask=valid, other=0.0).to(tl.float32)[:, None]) * scale
        tl.store(queries + (j * batch + b)[None, :] * W + r[:, None], z, mask=valid[:, None] & (b < batch)[None, :])
    elif tl.program_id(2) == 1:
        _fill(
            x, wk, bk, keys, inputs, first, now, head, r, valid, count, capacity, batch, D, W, R, BD, BB, STAGES, MADE_UP
        )
    else:
        _fill(
            x, wv, bv, values, inputs, first, now, head, r, valid, count, capacity, batch, D, W, R, BD, BB, STAGES, MADE_UP
        )


@triton.jit
def _attend(
    queries: tl.tensor, keys: tl.tensor, values: tl.tensor, heads: tl.tensor, length: tl.tensor, largest: tl.tensor,
    totals: tl.tensor, sums: tl.tensor, count: tl.tensor, capacity: tl.tensor, batch: tl.tensor, splits: tl.tensor,
    W: tl.constexpr, BW: tl.constexpr, T: tl.constexpr,
) -> None:  # fmt: skip
    """Of T positions: the largest score [k, B, S], the sum of exponentials, the weighted sum of values [k, B, S, W]."""
    j = tl.program_id(0)
    member = tl.program_id(1)
    split = tl.program_id(2)
    head = tl.load(heads + j)
    now = tl.load(length).to(tl.int32)
    t = split * T + tl.arange(0, T)
    c = tl.arange(0, BW)
    seen = t <= now
    if (split * T <= now) & (head >= 0) & (head < count):
        inside = seen[:, None] & (c < W)[None, :]
        at = ((member.to(tl.int64) * count + head) * capacity + t[:, None]) * W + c[None, :]
        query = tl.load(queries + (j * batch + member) * W + c[None, :], mask=(c < W)[None, :], other=0.0)
        scores = tl.sum(tl.load(keys + at, mask=inside, other=0.0).to(tl.float32) * query, axis=1)
        scores = tl.where(seen, scores, float("-inf"))
        most = tl.max(scores, axis=0)
        weights = tl.where(seen, tl.exp(scores - most), 0.0)
        part = tl.sum(tl.load(values + at, mask=inside, other=0.0).to(tl.float32) * weights[:, None], axis=0)
        place = (j * batch + member) * splits + split
        tl.store(largest + place, most)
        tl.store(totals + place, tl.sum(weights, axis=0))
        tl.store(sums + place * W + c, part, mask=c < W)


@triton.jit
def _combine(
    largest: tl.tensor, totals: tl.tensor, sums: tl.tensor, heads: tl.tensor, length: tl.tensor, filled: tl.tensor,
    factors: tl.tensor, rows: tl.tensor, count: tl.tensor, batch: tl.tensor, splits: tl.tensor, W: tl.constexpr,
    BW: tl.constexpr, T: tl.constexpr, S: tl.constexpr, MADE_UP: tl.constexpr,
) -> None:  # fmt: skip
    """factors [k * W, B]: a head's output, row by row of wot; rows [k * W]: which rows, -1 for padding."""
    j = tl.program_id(0)
    member = tl.program_id(1)
    head = tl.load(heads + j)
    known = (head >= 0) & (head < count)
    now = tl.load(length).to(tl.int32)
    c = tl.arange(0, BW)
    s = tl.arange(0, S)
    parts = tl.where(known, now // T + 1, 0)
    place = (j * batch + member) * splits
    most = tl.load(largest + place + s, mask=s < parts, other=float("-inf"))
    top = tl.where(known, tl.max(most, axis=0), 0.0)
    total = tl.sum(tl.exp(most - top) * tl.load(totals + place + s, mask=s < parts, other=0.0), axis=0)
    out = tl.zeros((BW,), dtype=tl.float32)
    for i in range(0, parts):
        part = tl.load(sums + (place + i) * W + c, mask=c < W, other=0.0)
        out += part * tl.exp(tl.load(largest + place + i) - top)
    out = tl.where(known, out / tl.where(known, total, 1.0), 0.0)
    tl.store(factors + (j * W + c) * batch + member, out, mask=c < W)
    if member == 0:
        tl.store(rows + j * W + c, tl.where(known, head * W + c, -1), mask=c < W)
        if MADE_UP:
            tl.store(filled + head, (now + 1).to(tl.int64), mask=known)


def gather_heads(
    x: Tensor, wq: Tensor, bq: Tensor, wk: Tensor, bk: Tensor, wv: Tensor, bv: Tensor, wot: Tensor, bo: Tensor,
    keys: Tensor, values: Tensor, length: Tensor, heads: Tensor, inputs: Tensor | None, filled: Tensor | None,
) -> Tensor:  # fmt: skip
    """y [B, d]; contiguous tensors, int64 heads, ``length`` an int64 tensor of one number on the device.

    Raises:
        ValueError: a batch of more than 16.
    """
    (batch, d), (count, width, _), capacity, k = x.shape, wq.shape, keys.shape[2], len(heads)
    if batch > 16:
        raise ValueError(f"the Triton form takes a batch of up to 16; got {batch}, use backend='reference'")
    if inputs is not None:
        inputs.index_copy_(1, length.reshape(1), x[:, None])
    if not k or not batch:
        return bo.expand(batch, d).clone()
    splits = triton.cdiv(capacity, _POSITIONS)
    shape = shape_for("dot", d, wq.dtype, batch, wq.device)
    single: dict[str, Any] = {"dtype": torch.float32, "device": x.device}
    queries, sums = torch.empty(k, batch, width, **single), torch.empty(k, batch, splits, width, **single)
    largest, totals = torch.empty(2, k, batch, splits, **single)
    factors, rows = torch.empty(k * width, batch, **single), torch.empty(k * width, dtype=torch.int64, device=x.device)
    made_up = filled is not None and inputs is not None
    wide = triton.next_power_of_2(width)
    with on(x):
        _project[(triton.cdiv(width, shape.rows), k, 3)](
            x, wq, bq, wk, bk, wv, bv, heads, keys, values, queries, inputs if made_up else x, filled if made_up else heads,
            length, count, capacity, batch, width**-0.5, D=d, W=width, R=shape.rows, BD=shape.columns,
            BB=triton.next_power_of_2(batch), STAGES=shape.stages, MADE_UP=made_up, num_warps=shape.warps,
        )  # fmt: skip
        _attend[(k, batch, splits)](
            queries, keys, values, heads, length, largest, totals, sums, count, capacity, batch, splits, W=width, BW=wide,
            T=_POSITIONS, num_warps=4,
        )  # fmt: skip
        _combine[(k, batch)](
            largest, totals, sums, heads, length, filled if made_up else heads, factors, rows, count, batch, splits, W=width,
            BW=wide, T=_POSITIONS, S=triton.next_power_of_2(splits), MADE_UP=made_up, num_warps=4,
        )  # fmt: skip
        return weighted_rows(factors, wot.reshape(count * width, d), rows, bo, batch, x.dtype)
