"""The three Triton programs of block_sparse: weights into tiles, dense x sparse (DDS), and dense x dense on a layout (SDD).

Names: m are tokens, n rows of a tile (outputs), k the columns it reads. S is the edge of a granule (see `triton_tiles.py`), BN
the granules of a tile's rows times S, BK the columns read at once. All sums run in float32. No atomics: the same input gives
the same bits.

WIDEN is set under Triton's interpreter for bfloat16 alone, whose bits it would multiply as integers: products of operands that
were widened to float32 are the same numbers.
"""

import triton
import triton.language as tl

__all__ = ["dds", "pack", "sdd"]


@triton.jit
def pack(
    weight: tl.tensor, u: tl.tensor, packed: tl.tensor, source: tl.tensor, starts: tl.tensor, owner: tl.tensor,
    rows: tl.tensor, entries: tl.tensor, rank: tl.tensor, tail: tl.tensor, stride_u: tl.tensor, row_stride: tl.tensor,
    column_stride: tl.tensor, S: tl.constexpr, BN: tl.constexpr, STEP: tl.constexpr, LOW_RANK: tl.constexpr,
) -> None:  # fmt: skip
    """packed [(entries + tiles * tail) * S, BN]: all that a tile multiplies with, [k, n] without gaps, tile after tile.

    One program per column entry sets its granules side by side, with zeros where there is none; ``tail`` more per tile do the
    same for its rows of u, zeros beyond the rank. That makes every load of weights in `dds` one plain run, whatever the block
    and the orientation, for one more pass over the weights, which are few beside the activations.
    """
    program = tl.program_id(0)
    n = tl.arange(0, BN)
    k = tl.arange(0, S)
    if program < entries:
        to = program + tl.load(owner + program // STEP) * tail
        begin = tl.load(source + program.to(tl.int64) * (BN // S) + n // S)
        at = begin + (n % S) * row_stride
        values = tl.load(weight + at[None, :] + k[:, None] * column_stride, mask=(begin >= 0)[None, :], other=0.0)
        tl.store(packed + (to.to(tl.int64) * S + k[:, None]) * BN + n[None, :], values)
    elif LOW_RANK:
        tile = (program - entries) // tail
        part = (program - entries) % tail
        to = tl.load(starts + tile + 1) + tile * tail + part
        row = tl.load(rows + tile * (BN // S) + n // S)
        at = (row * S + n % S).to(tl.int64) * stride_u
        r = part * S + k
        values = tl.load(u + at[None, :] + r[:, None], mask=(row >= 0)[None, :] & (r < rank)[:, None], other=0.0)
        tl.store(packed + (to.to(tl.int64) * S + k[:, None]) * BN + n[None, :], values)


@triton.jit
def _columns(
    columns: tl.tensor, entry: tl.tensor, end: tl.tensor, k: tl.tensor, S: tl.constexpr, BK: tl.constexpr
) -> tl.tensor:
    """Columns of x that step k of a tile's list stands for: BK / S runs of S. One scalar load a run keeps the runs visible to
    the compiler, which then copies 16 bytes at a time."""
    column = tl.load(columns + entry, mask=entry < end, other=0) * S + k % S
    for i in tl.static_range(1, BK // S):
        run = tl.load(columns + entry + i, mask=entry < end, other=0) * S + k % S
        column = tl.where(k // S == i, run, column)
    return column


@triton.jit
def dds(
    x: tl.tensor, z: tl.tensor, packed: tl.tensor, rows: tl.tensor, columns: tl.tensor, starts: tl.tensor, bias: tl.tensor,
    y: tl.tensor, tokens: tl.tensor, tiles: tl.tensor, rank: tl.tensor, tail: tl.tensor, stride_x: tl.tensor,
    stride_z: tl.tensor, stride_y: tl.tensor, S: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
    HAS_BIAS: tl.constexpr, LOW_RANK: tl.constexpr, PRECISION: tl.constexpr, WIDEN: tl.constexpr,
) -> None:  # fmt: skip
    """y[m, n] = sum_k [x | z][m, k] packed[k, n] + bias[n]: BM tokens of one tile per program.

    The low-rank term is ``tail`` more granules of the same sum, in the same pipelined loop. Tiles of the same tokens run side
    by side, so that x comes from memory once and from the L2 cache after that. Tokens past the end read the last one, padded
    columns repeat one of the tile against zero weights; neither is stored, and neither needs a mask.
    """
    program = tl.program_id(0)
    tile = program % tiles
    m = (program // tiles) * BM + tl.arange(0, BM)
    n = tl.arange(0, BN)
    k = tl.arange(0, BK)
    safe = tl.minimum(m, tokens - 1).to(tl.int64)[:, None]
    begin = tl.load(starts + tile)
    end = tl.load(starts + tile + 1)
    x_at = x + safe * stride_x
    z_at = z + safe * stride_z
    w_at = packed + ((begin + tile * tail).to(tl.int64) * S + k[:, None]) * BN + n[None, :]
    sums = tl.zeros((BM, BN), dtype=tl.float32)
    for entry in range(begin, end + tail, BK // S):
        column = _columns(columns, entry, end, k, S, BK)
        if LOW_RANK:
            in_z = entry >= end
            column = tl.where(in_z, (entry - end) * S + k, column)
            inside = (column < rank) | (entry < end)
            left = tl.load(tl.where(in_z, z_at, x_at) + column[None, :], mask=inside[None, :], other=0.0)
        else:
            left = tl.load(x_at + column[None, :])
        right = tl.load(w_at)
        if WIDEN:
            left, right = left.to(tl.float32), right.to(tl.float32)
        sums = tl.dot(left, right, sums, input_precision=PRECISION)
        w_at += BK * BN
    row = tl.load(rows + tile * (BN // S) + n // S)
    exists = row >= 0
    at = row * S + n % S
    if HAS_BIAS:
        sums += tl.load(bias + at, mask=exists, other=0.0).to(tl.float32)[None, :]
    tl.store(
        y + m.to(tl.int64)[:, None] * stride_y + at[None, :],
        sums.to(y.dtype.element_ty),
        mask=(m < tokens)[:, None] & exists[None, :],
    )


@triton.jit
def sdd(
    left: tl.tensor, right: tl.tensor, rows: tl.tensor, columns: tl.tensor, source: tl.tensor, owner: tl.tensor,
    out: tl.tensor, tokens: tl.tensor, share: tl.tensor, stride_left: tl.tensor, stride_right: tl.tensor,
    stride_split: tl.tensor, row_stride: tl.tensor, column_stride: tl.tensor, S: tl.constexpr, BM: tl.constexpr,
    BN: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr, WIDEN: tl.constexpr,
) -> None:  # fmt: skip
    """out[split, weight element] = sum over that split's tokens of left[m, n] right[m, k], where a block is kept.

    One program per step of BK columns of a tile and per split; a split takes ``share`` tokens, a multiple of BM. Tokens are
    split because a layer has fewer tiles than the device has processors; the splits are added afterwards, in order.
    """
    step = tl.program_id(0)
    split = tl.program_id(1)
    tile = tl.load(owner + step)
    m = tl.arange(0, BM)
    n = tl.arange(0, BN)
    k = tl.arange(0, BK)
    row = tl.maximum(tl.load(rows + tile * (BN // S) + n // S), 0)  # what does not exist is not stored
    column = tl.load(columns + step * (BK // S) + k // S)
    left_at = left + (row * S + n % S)[None, :]
    right_at = right + (column * S + k % S)[None, :]
    sums = tl.zeros((BN, BK), dtype=tl.float32)
    begin = split * share
    for first in range(begin, tl.minimum(begin + share, tokens), BM):
        token = first + m
        inside = (token < tokens)[:, None]
        token = token.to(tl.int64)[:, None]
        a = tl.load(left_at + token * stride_left, mask=inside, other=0.0)
        b = tl.load(right_at + token * stride_right, mask=inside, other=0.0)
        if WIDEN:
            a, b = a.to(tl.float32), b.to(tl.float32)
        sums = tl.dot(tl.trans(a), b, sums, input_precision=PRECISION)
    at = tl.load(source + (step * (BK // S) + k[None, :] // S) * (BN // S) + n[:, None] // S)
    place = at + (n[:, None] % S) * row_stride + (k[None, :] % S) * column_stride
    tl.store(out + split.to(tl.int64) * stride_split + place, sums.to(out.dtype.element_ty), mask=at >= 0)
