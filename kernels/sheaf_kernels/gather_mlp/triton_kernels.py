"""The Triton programs that all gathering operations share: products with chosen rows, weighted sums of chosen rows, their end.

Names: R rows of a program's step, BD numbers of a row read at once, BB the batch padded to a power of two. Sums run in float32
and in a fixed order: the same input gives the same bits. A row that is not chosen, or is padding, is never read: every load of
weights carries the mask of its rows, and passes by the L1 cache, which is for x.
"""

import triton
import triton.language as tl

__all__ = ["add_rows", "dot_rows", "finish"]


@triton.jit
def activate(z: tl.tensor, ACTIVATION: tl.constexpr) -> tl.tensor:
    """0: ReLU, 1: the exact GELU, 2: nothing, as numbered in the package."""
    if ACTIVATION == 0:
        z = tl.where(z < 0, 0.0, z)  # NaN stays
    elif ACTIVATION == 1:
        z = 0.5 * z * (1.0 + tl.erf(z * 0.7071067811865476))
    return z


@triton.jit
def products(
    x: tl.tensor, x_stride: tl.tensor, w: tl.tensor, at: tl.tensor, valid: tl.tensor, batch: tl.tensor,
    D: tl.constexpr, R: tl.constexpr, BD: tl.constexpr, BB: tl.constexpr, STAGES: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """[R, BB]: rows ``at`` (int64 offsets into w, [R]) times x [batch, D], whose rows lie x_stride numbers apart."""
    columns = tl.arange(0, BD)
    b = tl.arange(0, BB)
    if BB == 1:  # two dimensions throughout, so that nothing is moved between threads before the end
        flat = tl.zeros((R, BD), dtype=tl.float32)
        for c in tl.range(0, D, BD, num_stages=STAGES):
            inside = c + columns < D
            keep = valid[:, None] & inside[None, :]
            rows = tl.load(w + at[:, None] + (c + columns)[None, :], mask=keep, other=0.0, cache_modifier=".cg")
            xs = tl.load(x + (c + columns)[None, :], mask=inside[None, :], other=0.0)
            flat += rows.to(tl.float32) * xs.to(tl.float32)
        result = tl.sum(flat, axis=1)[:, None]
    else:
        sums = tl.zeros((R, BB, BD), dtype=tl.float32)
        for c in tl.range(0, D, BD, num_stages=STAGES):
            inside = c + columns < D
            keep = valid[:, None] & inside[None, :]
            rows = tl.load(w + at[:, None] + (c + columns)[None, :], mask=keep, other=0.0, cache_modifier=".cg")
            here = (b < batch)[:, None] & inside[None, :]
            xs = tl.load(x + b[:, None] * x_stride + (c + columns)[None, :], mask=here, other=0.0)
            sums += rows.to(tl.float32)[:, None, :] * xs.to(tl.float32)[None, :, :]
        result = tl.sum(sums, axis=2)
    return result


@triton.jit
def dot_rows(
    x: tl.tensor, w: tl.tensor, bias: tl.tensor, index: tl.tensor, out: tl.tensor, k: tl.tensor, units: tl.tensor,
    batch: tl.tensor, D: tl.constexpr, R: tl.constexpr, BD: tl.constexpr, BB: tl.constexpr, STAGES: tl.constexpr,
    GATHER: tl.constexpr, BIAS: tl.constexpr, ACTIVATION: tl.constexpr, REDUCE: tl.constexpr,
) -> None:  # fmt: skip
    """out[i, b] = act(w[index[i]] . x[b] + bias[index[i]]) for R entries i of the index; w is [units, D].

    Without GATHER the rows are 0..k in order. REDUCE: 0 keeps the batch, 1 sums over it, 2 takes the largest.
    """
    i = tl.program_id(0) * R + tl.arange(0, R)
    valid = i < k
    row = i
    if GATHER:
        row = tl.load(index + i, mask=valid, other=-1)
        valid = valid & (row >= 0) & (row < units)
    z = products(x, D, w, row.to(tl.int64) * D, valid, batch, D, R, BD, BB, STAGES)
    if BIAS:
        z += tl.load(bias + row, mask=valid, other=0.0).to(tl.float32)[:, None]
    z = activate(z, ACTIVATION)
    b = tl.arange(0, BB)
    z = tl.where(valid[:, None], z, 0.0)
    if REDUCE == 0:
        tl.store(out + i[:, None] * batch + b[None, :], z, mask=(i < k)[:, None] & (b < batch)[None, :])
    elif REDUCE == 1:
        tl.store(out + i, tl.sum(tl.where((b < batch)[None, :], z, 0.0), axis=1), mask=i < k)
    else:
        tl.store(out + i, tl.max(tl.where((b < batch)[None, :], z, float("-inf")), axis=1), mask=i < k)


@triton.jit
def add_rows(
    factors: tl.tensor, w: tl.tensor, index: tl.tensor, partial: tl.tensor, k: tl.tensor, units: tl.tensor, each: tl.tensor,
    batch: tl.tensor, threshold: tl.tensor, D: tl.constexpr, R: tl.constexpr, BD: tl.constexpr, BB: tl.constexpr,
    STAGES: tl.constexpr,
) -> None:  # fmt: skip
    """partial[s, b, c] = sum of factors[i, b] w[index[i], c] over entries [s each, (s + 1) each) of the index, for BD columns c.

    Rows whose factors all lie within the threshold are not read; a negative threshold reads all.
    """
    columns = tl.program_id(0) * BD + tl.arange(0, BD)
    split = tl.program_id(1)
    b = tl.arange(0, BB)
    first = split * each
    end = tl.minimum(first + each, k)
    inside = columns < D
    if BB == 1:
        flat = tl.zeros((R, BD), dtype=tl.float32)
        for i in tl.range(first, end, R, num_stages=STAGES):
            entry = i + tl.arange(0, R)
            row = tl.load(index + entry, mask=entry < end, other=-1)
            valid = (row >= 0) & (row < units)
            weight = tl.load(factors + entry, mask=valid, other=0.0)
            valid = valid & (tl.abs(weight) > threshold)
            keep = valid[:, None] & inside[None, :]
            at = row.to(tl.int64)[:, None] * D + columns[None, :]
            rows = tl.load(w + at, mask=keep, other=0.0, cache_modifier=".cg")
            flat += weight[:, None] * rows.to(tl.float32)
        total = tl.sum(flat, axis=0)[None, :]
    else:
        sums = tl.zeros((R, BB, BD), dtype=tl.float32)
        for i in tl.range(first, end, R, num_stages=STAGES):
            entry = i + tl.arange(0, R)
            row = tl.load(index + entry, mask=entry < end, other=-1)
            valid = (row >= 0) & (row < units)
            at = entry[:, None] * batch + b[None, :]
            factor = tl.load(factors + at, mask=valid[:, None] & (b < batch)[None, :], other=0.0)
            valid = valid & (tl.max((tl.abs(factor) > threshold).to(tl.int32), axis=1) > 0)
            keep = valid[:, None] & inside[None, :]
            at = row.to(tl.int64)[:, None] * D + columns[None, :]
            rows = tl.load(w + at, mask=keep, other=0.0, cache_modifier=".cg")
            sums += factor[:, :, None] * rows.to(tl.float32)[:, None, :]
        total = tl.sum(sums, axis=0)
    to = (split * batch + b)[:, None] * D + columns[None, :]
    tl.store(partial + to, total, mask=(b < batch)[:, None] & inside[None, :])


@triton.jit
def finish(
    partial: tl.tensor, bias: tl.tensor, y: tl.tensor, splits: tl.tensor, batch: tl.tensor, D: tl.constexpr, BD: tl.constexpr
) -> None:
    """y[b] = bias + the sum of partial[s, b] over the splits, in their order; BD columns of one member of the batch."""
    columns = tl.program_id(0) * BD + tl.arange(0, BD)
    member = tl.program_id(1)
    inside = columns < D
    total = tl.load(bias + columns, mask=inside, other=0.0).to(tl.float32)
    for s in range(0, splits):
        total += tl.load(partial + (s * batch + member) * D + columns, mask=inside, other=0.0)
    tl.store(y + member * D + columns, total.to(y.dtype.element_ty), mask=inside)
