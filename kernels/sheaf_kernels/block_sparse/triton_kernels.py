"""The Triton programs of block_sparse: weights into tiles, dense x sparse (DDS, two forms), dense x dense on a layout (SDD).

Names: m are tokens, n rows of a tile (outputs), k the columns it reads. S is the edge of a granule (see `triton_tiles.py`), BN
the granules of a tile's rows times S, BK the columns read at once. All sums run in float32. No atomics: the same input gives
the same bits.

WIDEN is set under Triton's interpreter for bfloat16 alone, whose bits it would multiply as integers: products of operands that
were widened to float32 are the same numbers.
"""

import triton
import triton.language as tl

__all__ = ["dds", "dds_resident", "pack", "sdd"]


@triton.jit
def pack(
    weight: tl.tensor, u: tl.tensor, packed: tl.tensor, source: tl.tensor, starts: tl.tensor, owner: tl.tensor,
    rows: tl.tensor, entries: tl.tensor, rank: tl.tensor, tail: tl.tensor, stride_u: tl.tensor, row_stride: tl.tensor,
    column_stride: tl.tensor, S: tl.constexpr, BN: tl.constexpr, STEP: tl.constexpr, LOW_RANK: tl.constexpr,
) -> None:  # fmt: skip
    """packed [(entries + tiles * tail) * S, BN]: all that a tile multiplies with, [k, n] without gaps, tile after tile.

    One program per column entry sets its granules side by side, with zeros where there is none; ``tail`` more per tile do the
    same for its rows of u, zeros beyond the rank. That makes every load of weights in `dds` one plain run, whatever the block
    and the orientation, for one more pass over the weights, which are few beside the activations. The two branches share no
    names: Triton would make one variable of both, and their types differ.
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
        place = tl.load(starts + tile + 1) + tile * tail + part
        row = tl.load(rows + tile * (BN // S) + n // S)
        u_at = (row * S + n % S).to(tl.int64) * stride_u
        r = part * S + k
        factors = tl.load(u + u_at[None, :] + r[:, None], mask=(row >= 0)[None, :] & (r < rank)[:, None], other=0.0)
        tl.store(packed + (place.to(tl.int64) * S + k[:, None]) * BN + n[None, :], factors)


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
def _granules(
    weight: tl.tensor, at: tl.tensor, k: tl.tensor, n: tl.tensor, row_stride: tl.tensor, column_stride: tl.tensor,
    S: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """[k, n] of one step of columns, read from the stored blocks; `at` says for every k where its row of ``source`` begins.

    No mask and a start that is visibly a multiple of S: only then does the compiler read 16 bytes at once.
    """
    begin = tl.load(at + n[None, :] // S)
    place = tl.maximum(begin, 0) // S * S + (n[None, :] % S) * row_stride + (k[:, None] % S) * column_stride
    return tl.where(begin >= 0, tl.load(weight + place), 0.0)


@triton.jit
def _factors(
    u: tl.tensor, rows: tl.tensor, r: tl.tensor, n: tl.tensor, rank: tl.tensor, stride_u: tl.tensor, S: tl.constexpr
) -> tl.tensor:
    """[r, n] of the low-rank factor u for the rows of a tile, zeros beyond the rank."""
    row = tl.load(rows + n // S)
    at = (row * S + n % S).to(tl.int64) * stride_u
    return tl.load(u + at[None, :] + r[:, None], mask=(row >= 0)[None, :] & (r < rank)[:, None], other=0.0)


@triton.jit
def _tokens(
    x: tl.tensor, z: tl.tensor, first: tl.tensor, tokens: tl.tensor, column: tl.tensor, rank: tl.tensor, stride_x: tl.tensor,
    stride_z: tl.tensor, BM: tl.constexpr, BK: tl.constexpr, STEPS: tl.constexpr, LOW: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """What a tile reads of BM tokens, in registers: STEPS parts of x, then LOW parts of z. Past the end, the last token."""
    safe = tl.minimum(first + tl.arange(0, BM), tokens - 1).to(tl.int64)[:, None]
    found = ()  # type: tuple
    for c in tl.static_range(STEPS):
        found = found + (tl.load(x + safe * stride_x + column[c][None, :]),)
    for c in tl.static_range(LOW):
        r = c * BK + tl.arange(0, BK)
        found = found + (tl.load(z + safe * stride_z + r[None, :], mask=(r < rank)[None, :], other=0.0),)
    return found


@triton.jit
def dds_resident(
    x: tl.tensor, z: tl.tensor, weight: tl.tensor, u: tl.tensor, rows: tl.tensor, columns: tl.tensor, source: tl.tensor,
    starts: tl.tensor, bias: tl.tensor, y: tl.tensor, tokens: tl.tensor, rank: tl.tensor, share: tl.tensor,
    stride_x: tl.tensor, stride_z: tl.tensor, stride_y: tl.tensor, stride_u: tl.tensor, row_stride: tl.tensor,
    column_stride: tl.tensor, S: tl.constexpr, BM: tl.constexpr, N1: tl.constexpr, N2: tl.constexpr, BK: tl.constexpr,
    STEPS: tl.constexpr, LOW: tl.constexpr, HAS_BIAS: tl.constexpr, PRECISION: tl.constexpr, WIDEN: tl.constexpr,
) -> None:  # fmt: skip
    """`dds` with the weights of a tile kept in shared memory: ``share`` tokens of one tile per program, BM at a time.

    Tiles read STEPS steps of BK columns each, and LOW steps of the low-rank term. Their N1 + N2 rows are summed apart, so that
    a cell of 192 or 48 rows needs no padding. What a tile reads again and again, weights and which columns, is loaded once.
    The next tokens are on their way into registers while these are multiplied and stored: buffers in shared memory, as the
    compiler's own pipeline makes them, would leave room for one program on a processor only.
    """
    tile = tl.program_id(0)
    begin = tl.load(starts + tile)
    ROWS: tl.constexpr = N1 + N2
    k = tl.arange(0, BK)
    n1 = tl.arange(0, N1)
    first = ()  # type: tuple
    second = ()  # type: tuple
    column = ()  # type: tuple
    for c in tl.static_range(STEPS):
        entry = begin + c * (BK // S)
        at = source + (entry + k[:, None] // S) * (ROWS // S)
        first = first + (_granules(weight, at, k, n1, row_stride, column_stride, S),)
        if N2 > 0:
            second = second + (_granules(weight, at, k, N1 + tl.arange(0, N2), row_stride, column_stride, S),)
        column = column + (_columns(columns, entry, entry + BK // S, k, S, BK),)
    mine = rows + tile * (ROWS // S)
    for c in tl.static_range(LOW):
        first = first + (_factors(u, mine, c * BK + k, n1, rank, stride_u, S),)
        if N2 > 0:
            second = second + (_factors(u, mine, c * BK + k, N1 + tl.arange(0, N2), rank, stride_u, S),)
    row1 = tl.load(mine + n1 // S)
    at1 = row1 * S + n1 % S
    if HAS_BIAS:
        bias1 = tl.load(bias + at1, mask=row1 >= 0, other=0.0).to(tl.float32)
    if N2 > 0:
        n2 = N1 + tl.arange(0, N2)
        row2 = tl.load(mine + n2 // S)
        at2 = row2 * S + n2 % S
        if HAS_BIAS:
            bias2 = tl.load(bias + at2, mask=row2 >= 0, other=0.0).to(tl.float32)
    start = tl.program_id(1) * share
    ahead = _tokens(x, z, start, tokens, column, rank, stride_x, stride_z, BM, BK, STEPS, LOW)
    for m0 in range(start, tl.minimum(start + share, tokens), BM):
        here = ahead
        ahead = _tokens(x, z, m0 + BM, tokens, column, rank, stride_x, stride_z, BM, BK, STEPS, LOW)
        sums1 = tl.zeros((BM, N1), dtype=tl.float32)
        if N2 > 0:
            sums2 = tl.zeros((BM, N2), dtype=tl.float32)
        for c in tl.static_range(STEPS + LOW):
            left, w1 = here[c], first[c]
            if WIDEN:
                left, w1 = left.to(tl.float32), w1.to(tl.float32)
            sums1 = tl.dot(left, w1, sums1, input_precision=PRECISION)
            if N2 > 0:
                w2 = second[c]
                if WIDEN:
                    w2 = w2.to(tl.float32)
                sums2 = tl.dot(left, w2, sums2, input_precision=PRECISION)
        m = m0 + tl.arange(0, BM)
        y_at = y + m.to(tl.int64)[:, None] * stride_y
        inside = (m < tokens)[:, None]
        if HAS_BIAS:
            sums1 += bias1[None, :]
        tl.store(y_at + at1[None, :], sums1.to(y.dtype.element_ty), mask=inside & (row1 >= 0)[None, :])
        if N2 > 0:
            if HAS_BIAS:
                sums2 += bias2[None, :]
            tl.store(y_at + at2[None, :], sums2.to(y.dtype.element_ty), mask=inside & (row2 >= 0)[None, :])


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
