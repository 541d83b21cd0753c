"""The catalogue of patterns at equal parameters: which blocks of one weight matrix to keep, and what rank to add."""

from dataclasses import dataclass

import numpy as np

from sheaf.pixelfly import masks

__all__ = ["COMBINATIONS", "PATTERNS", "Plan", "flat_blocks", "plan"]

PATTERNS = ("dense", "pixelfly", "flat", "random_block", "block_diagonal", "bigbird", "longformer", "low_rank")
# which simple masks the known methods are made of (paper, section on candidate patterns)
COMBINATIONS = {
    "BigBird": ("local", "global", "random"), "Longformer": ("local", "global"), "Sparse Transformer": ("local", "strided"),
    "Pixelfly": ("butterfly", "low rank"),
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Plan:
    """How one weight matrix is represented: blocks kept, rank of the term beside them.

    Args:
        mask: [out / block, in / block] bool; None when there is no sparse part.
        block: edge of a block.
        rank: of the low-rank term, 0 for none.
        dense: the matrix stays as it is; mask and rank do not count.
    """

    mask: np.ndarray | None
    block: int
    rank: int = 0
    dense: bool = False

    def parameters(self, out: int, in_: int) -> int:
        """Weights of an out x in matrix; neither bias nor mixing scalar."""
        if self.dense:
            return out * in_
        kept = 0 if self.mask is None else int(self.mask.sum())
        return kept * self.block**2 + self.rank * (out + in_)

    def density(self, out: int, in_: int) -> float:
        """Weights as a share of the dense matrix; also the share of its multiply-adds."""
        return self.parameters(out, in_) / (out * in_)


def _spread(candidates: np.ndarray, count: int) -> np.ndarray:
    """``count`` of the candidates [n, 2], evenly spread over their order."""
    return candidates[np.arange(count) * len(candidates) // max(count, 1)]


def flat_blocks(rows: int, columns: int, nnz: int) -> np.ndarray:
    """Flat block butterfly with exactly ``nnz`` blocks: the largest maximum stride that fits, then the next stride in part.

    Fewer blocks than a diagonal has give part of the diagonal; more than all strides have, random-free filling by distance.
    """
    n = min(rows, columns)
    mask = np.zeros((rows, columns), dtype=bool)
    supports = [0, *(2**i for i in range(max(1, (n - 1).bit_length())))]
    for stride in supports:
        wider = masks.stretch(masks.flat_butterfly(n, stride), rows, columns)
        if wider.sum() > nnz:
            new = np.argwhere(wider & ~mask)
            mask[tuple(_spread(new, nnz - int(mask.sum())).T)] = True
            return mask
        mask = wider
    rest = np.argwhere(~mask)
    distance = np.abs(rest[:, 0] * n // rows - rest[:, 1] * n // columns)
    mask[tuple(rest[np.argsort(distance, kind="stable")][: nnz - int(mask.sum())].T)] = True
    return mask


def _by_priority(score: np.ndarray, nnz: int) -> np.ndarray:
    mask = np.zeros(score.shape, dtype=bool)
    mask.flat[np.argsort(score, axis=None, kind="stable")[:nnz]] = True
    return mask


def _bigbird(rows: int, columns: int, nnz: int, rng: np.random.Generator) -> np.ndarray:
    """The diagonal, then global rows and columns, then its neighbours, then random blocks, until the budget is spent."""
    score = 4 + rng.random((rows, columns))
    score[masks.local(rows, columns, 3)] = 3
    score[masks.global_(rows, columns, 1)] = 2
    score[masks.local(rows, columns, 1)] = 1
    return _by_priority(score, nnz)


def _longformer(rows: int, columns: int, nnz: int) -> np.ndarray:
    """The diagonal, global rows and columns, then an ever wider band."""
    n = min(rows, columns)
    score = np.abs(np.arange(rows)[:, None] * n // rows - np.arange(columns) * n // columns) + 2.0
    score[masks.global_(rows, columns, 1)] = 1
    score[masks.local(rows, columns, 1)] = 0
    return _by_priority(score, nnz)


def _rank(parameters: float, out: int, in_: int, multiple: int) -> int:
    return max(0, min(round(parameters / (out + in_) / multiple) * multiple, min(out, in_)))


def plan(
    name: str, out: int, in_: int, block: int, density: float, *, rank_share: float = 0.25,
    rng: np.random.Generator | None = None,
) -> Plan:  # fmt: skip
    """A pattern for an out x in matrix with as close to density * out * in weights as its blocks allow.

    Pixelfly takes the rank first, ``rank_share`` of the budget rounded to a multiple of the block (at most 16), and spends
    what is left on a flat block butterfly (paper, section 3, step 2). Block-diagonal masks come in whole groups and may miss
    the budget by part of one.

    Args:
        name: one of `PATTERNS`.
        rank_share: share of the budget that goes to the low-rank term of "pixelfly", 0 to 1.
        rng: for the random blocks; needed by "random_block" and "bigbird".

    Raises:
        ValueError: unknown name, a density or share outside of (0, 1], a block that does not divide the matrix, no generator.
    """
    if name not in PATTERNS:
        raise ValueError(f"pattern {name!r} is unknown; use one of {', '.join(PATTERNS)}")
    if name == "dense":
        return Plan(None, block, dense=True)
    if not 0 < density <= 1 or not 0 <= rank_share <= 1:
        raise ValueError(f"a density lies in (0, 1] and a rank share in [0, 1]; got {density} and {rank_share}")
    rows, columns = masks._grid(out, in_, block)
    budget = density * out * in_
    nnz = max(1, round(budget / block**2))
    step = min(block, 16)
    if name in ("random_block", "bigbird") and rng is None:
        raise ValueError(f"pattern {name!r} draws random blocks; pass a numpy Generator as rng")
    if name == "low_rank":
        return Plan(None, block, max(1, _rank(budget, out, in_, 1)))
    if name == "pixelfly":
        rank = _rank(rank_share * budget, out, in_, step)
        if rank_share == 1:
            return Plan(None, block, max(1, _rank(budget, out, in_, 1)))
        if rank_share > 0 and rank == 0 and step * (out + in_) < budget:
            rank = step
        left = max(1, round((budget - rank * (out + in_)) / block**2))
        return Plan(flat_blocks(rows, columns, left), block, rank)
    if name == "flat":
        return Plan(flat_blocks(rows, columns, nnz), block)
    if name == "block_diagonal":
        return Plan(masks.block_diagonal(rows, columns, max(1, min(round(1 / density), rows, columns))), block)
    if name == "longformer":
        return Plan(_longformer(rows, columns, nnz), block)
    assert rng is not None
    if name == "bigbird":
        return Plan(_bigbird(rows, columns, nnz, rng), block)
    return Plan(masks.random_blocks(rows, columns, nnz, rng), block)
