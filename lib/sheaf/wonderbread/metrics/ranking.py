"""Scores of a ranking of procedures: the model lists them from best to worst, people gave each its rank.

The published code correlates the list itself with the ranks: entry k of the list, which says *which* procedure is k-th
best, is read as the rank *of* procedure k. Inverting the permutation puts it right.
"""

from collections.abc import Sequence

import numpy as np
from scipy import stats

__all__ = ["as_published", "audited", "places", "sign_flip"]


def _correlations(a: Sequence[float], b: Sequence[float]) -> dict[str, float]:
    return {"spearman": float(stats.spearmanr(a, b).statistic), "kendall": float(stats.kendalltau(a, b).statistic)}


def places(order: Sequence[int]) -> list[int]:
    """Place of each procedure 1..n in a list of procedures, best first.

    Raises:
        ValueError: the list is not a permutation of 1..n.
    """
    if sorted(order) != list(range(1, len(order) + 1)):
        raise ValueError(f"an order lists each of 1..{len(order)} once, best first; got {list(order)}")
    found = [0] * len(order)
    for place, procedure in enumerate(order, 1):
        found[procedure - 1] = place
    return found


def as_published(order: Sequence[int], ranks: Sequence[int]) -> dict[str, float]:
    """Spearman and Kendall (tau-b) of the list and the ranks, [n] each, entry by entry."""
    return _correlations(order, ranks)


def audited(order: Sequence[int], ranks: Sequence[int]) -> dict[str, float]:
    """The same of the place given to each procedure and its rank, and whether the best one came first."""
    given = places(order)
    return _correlations(given, ranks) | {"top_1": float(ranks[given.index(1)] == min(ranks))}


def sign_flip(values: Sequence[float], *, resamples: int = 9999, seed: int = 0) -> float:
    """Two-sided p of a mean of zero when every value could as well have had the other sign."""
    x = np.asarray(values, dtype=float)
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=(resamples, x.size))
    return float((np.sum(np.abs(signs @ x) >= abs(x.sum()) - 1e-12) + 1) / (resamples + 1))
