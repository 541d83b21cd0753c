"""predict_topk on a GPU, by Triton: two thin products, the k-th largest score, and its index list, all without the host.

    hidden  = act(a x)          programs of few rows, from gather_mlp's `dot_rows`; the batch is summed here where it may be
    scores  = b hidden          the same program, rows of length r
    cut     = k-th largest      one program: the bits of the scores, as ordered integers, two a pass, at most 16 passes
    index   = scores above it   chunks in parallel, each at the place that the counts before it give; ties to the first

The one program that finds the cut reads the scores from its own cache, 4 * out bytes a pass; look-ahead
hides it, where there is any.
"""

from math import inf

import torch
import triton
import triton.language as tl
from torch import Tensor

from sheaf_kernels.gather_mlp.triton import INTERPRETED, dot, on

__all__ = ["INTERPRETED", "predict_topk", "top"]

_CHUNK = 64 if INTERPRETED else 1024  # scores of one program that writes indices


@triton.jit
def _ordered(scores: tl.tensor) -> tl.tensor:
    """Scores as int32, ordered as they are, NaN below everything; -0 and 0 are equal."""
    bits = tl.where(scores == 0.0, 0.0, scores).to(tl.int32, bitcast=True)
    return tl.where(scores == scores, bits ^ ((bits >> 31) & 0x7FFFFFFF), -0x80000000)


@triton.jit
def _cut(
    scores: tl.tensor, threshold: tl.tensor, state: tl.tensor, above: tl.tensor, equal: tl.tensor, k: tl.tensor,
    N: tl.constexpr, STEP: tl.constexpr, CHUNK: tl.constexpr,
) -> None:  # fmt: skip
    """state: a key, and how many of the scores that equal it belong to the k best; those above it all do.

    above, equal: for every chunk, how many scores lie above that key (and the threshold), and how many equal it.
    """
    low = tl.full((), -0x80000000, tl.int32)  # the k-th largest key lies in [low, low + 4 * span)
    span = tl.full((), 1 << 30, tl.int32)
    beyond = tl.full((), 0, tl.int32)  # how many keys lie at or above low + 4 * span
    at = tl.arange(0, STEP)
    while span > 0:
        first = tl.zeros((STEP,), dtype=tl.int32)
        second = tl.zeros((STEP,), dtype=tl.int32)
        third = tl.zeros((STEP,), dtype=tl.int32)
        for c in range(0, N, STEP):
            keys = _ordered(tl.load(scores + c + at, mask=c + at < N, other=float("nan")))
            first += (keys >= low + span).to(tl.int32)
            second += (keys >= low + 2 * span).to(tl.int32)
            third += (keys >= low + 3 * span).to(tl.int32)
        one = tl.sum(first)
        two = tl.sum(second)
        three = tl.sum(third)
        part = (one >= k).to(tl.int32) + (two >= k).to(tl.int32) + (three >= k).to(tl.int32)
        beyond = tl.where(part == 0, one, tl.where(part == 1, two, tl.where(part == 2, three, beyond)))
        exact = (one == k) | (two == k) | (three == k)  # the highest such threshold cuts off the k best: no need to go on
        low = tl.where(exact, low + part * span - 1, low + part * span)
        beyond = tl.where(exact, k, beyond)
        span = tl.where(exact, 0, span // 4)
    tl.store(state, low)
    tl.store(state + 1, k - beyond)
    chunk = tl.arange(0, CHUNK)
    for c in range(0, N, CHUNK):
        inside = c + chunk < N
        score = tl.load(scores + c + chunk, mask=inside, other=float("nan"))
        keys = _ordered(score)
        passes = inside & ((score > threshold) | (threshold == float("-inf")))
        tl.store(above + c // CHUNK, tl.sum((passes & (keys > low)).to(tl.int32)))
        tl.store(equal + c // CHUNK, tl.sum((passes & (keys == low)).to(tl.int32)))


@triton.jit
def _write(
    scores: tl.tensor, threshold: tl.tensor, state: tl.tensor, above: tl.tensor, equal: tl.tensor, index: tl.tensor,
    n: tl.tensor, k: tl.tensor, chunks: tl.tensor, CHUNK: tl.constexpr, CHUNKS: tl.constexpr,
) -> None:  # fmt: skip
    """Indices of one chunk's chosen scores, in order, at the places that follow those of the chunks before it."""
    program = tl.program_id(0)
    low = tl.load(state)
    ties = tl.load(state + 1)
    before = tl.arange(0, CHUNKS)
    higher = tl.load(above + before, mask=before < chunks, other=0)
    same = tl.load(equal + before, mask=before < chunks, other=0)
    same_before = tl.sum(tl.where(before < program, same, 0))
    start = tl.sum(tl.where(before < program, higher, 0)) + tl.minimum(same_before, ties)
    i = program * CHUNK + tl.arange(0, CHUNK)
    score = tl.load(scores + i, mask=i < n, other=float("nan"))
    keys = _ordered(score)
    passes = (i < n) & ((score > threshold) | (threshold == float("-inf")))
    tie = passes & (keys == low)
    rank = same_before + tl.cumsum(tie.to(tl.int32), axis=0)
    chosen = (passes & (keys > low)) | (tie & (rank <= ties))
    place = start + tl.cumsum(chosen.to(tl.int32), axis=0) - 1
    tl.store(index + place, i.to(tl.int64), mask=chosen & (place < k))
    if program == chunks - 1:  # what is missing to k
        taken = tl.sum(higher) + tl.minimum(tl.sum(same), ties)
        for c in range(taken, k, CHUNK):
            rest = c + tl.arange(0, CHUNK)
            tl.store(index + rest, tl.full((CHUNK,), -1, tl.int64), mask=rest < k)


def top(scores: Tensor, k: int, threshold: float = -inf) -> Tensor:
    """[k] int64: the k largest of scores [n] float32 in ascending order of index, -1 where fewer lie above the threshold."""
    n, device = len(scores), scores.device
    index = torch.empty(k, dtype=torch.int64, device=device)
    if not k:
        return index
    chunks = triton.cdiv(n, _CHUNK)
    state = torch.empty(2, dtype=torch.int32, device=device)
    counts = torch.empty(2, chunks, dtype=torch.int32, device=device)
    step = min(triton.next_power_of_2(n), 256 if INTERPRETED else 8192)
    with on(scores):
        _cut[(1,)](
            scores, threshold, state, counts[0], counts[1], k, N=n, STEP=step, CHUNK=_CHUNK, num_warps=4 if INTERPRETED else 32
        )
        _write[(chunks,)](
            scores, threshold, state, counts[0], counts[1], index, n, k, chunks, CHUNK=_CHUNK,
            CHUNKS=triton.next_power_of_2(chunks), num_warps=4,
        )  # fmt: skip
    return index


def predict_topk(x: Tensor, a: Tensor, b: Tensor, k: int, threshold: float, relu: bool, most: bool) -> Tensor:
    """[k] int64; contiguous tensors on one device, threshold -inf for none."""
    if len(x) > 16:
        raise ValueError(f"the Triton form takes a batch of up to 16; got {len(x)}, use backend='reference'")
    with on(x):
        # the sum over the batch commutes with b: one hidden vector is enough
        hidden = dot(x, a, None, None, 0 if relu else 2, reduce=0 if most else 1)
        hidden = hidden.T.contiguous() if most else hidden[None]
        scores = dot(hidden, b, None, None, reduce=2 if most else 1)
    return top(scores, k, threshold)
