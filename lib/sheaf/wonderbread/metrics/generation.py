"""Scores of a generated procedure, from which of its lines match which lines of the reference.

Published (table of SOP generation): a judge names, for each line of one text, the first line of the other that says the
same, or -1. Lines may share a partner. Audited variants put the greedy order score and the undefined F1 right.
"""

from bisect import bisect_right
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.optimize import linear_sum_assignment

__all__ = ["as_published", "audited", "f1", "greedy_ordering", "lis_ordering", "micro", "one_to_one"]


def f1(precision: float, recall: float, *, undefined: float = np.nan) -> float:
    """Harmonic mean; ``undefined`` when both are zero (the paper drops such items, the audit counts them as 0)."""
    return 2 * precision * recall / (precision + recall) if precision + recall > 0 else undefined


def _share(matches: Sequence[int]) -> float:
    return float(np.mean(np.asarray(matches) >= 0)) if len(matches) else np.nan


def greedy_ordering(to_gold: Sequence[int]) -> float:
    """Share of all predicted lines whose match does not come before the last accepted one; never above precision.

    One early jump to the end of the reference rules out everything after it.
    """
    last = counted = 0
    for index in to_gold:
        if index >= last:
            counted, last = counted + 1, index
    return counted / len(to_gold) if len(to_gold) else np.nan


def lis_ordering(to_gold: Sequence[int]) -> float:
    """Longest non-decreasing run of matches (a subsequence) over the number of matched lines; NaN without matches."""
    ends: list[int] = []
    matched = [index for index in to_gold if index >= 0]
    for index in matched:
        place = bisect_right(ends, index)
        ends[place : place + 1] = [index]
    return len(ends) / len(matched) if matched else np.nan


def as_published(to_gold: Sequence[int], to_pred: Sequence[int]) -> dict[str, float]:
    """The paper's four scores of one procedure.

    Args:
        to_gold: [m] for each predicted line the index of its match in the reference, or -1.
        to_pred: [n] for each reference line the index of its match in the prediction, or -1.

    Returns:
        precision, recall, f1 (NaN when both are 0), ordering.
    """
    precision, recall = _share(to_gold), _share(to_pred)
    return {"precision": precision, "recall": recall, "f1": f1(precision, recall), "ordering": greedy_ordering(to_gold)}


def one_to_one(probability: np.ndarray, threshold: float) -> tuple[float, float]:
    """Precision and recall when every line may be used once: the best assignment of [m, n] probabilities."""
    if 0 in probability.shape:
        return np.nan, np.nan
    rows, columns = linear_sum_assignment(-probability)
    hits = int((probability[rows, columns] >= threshold).sum())
    return hits / probability.shape[0], hits / probability.shape[1]


def audited(to_gold: Sequence[int], to_pred: Sequence[int]) -> dict[str, float]:
    """The same from the same matches, with F1 = 0 where nothing matches and order judged on matched lines only."""
    precision, recall = _share(to_gold), _share(to_pred)
    found = f1(precision, recall, undefined=0.0)
    return {"precision": precision, "recall": recall, "f1": found, "ordering": lis_ordering(to_gold)}


def micro(items: pd.DataFrame) -> dict[str, float]:
    """Precision and recall over all lines of all items, from columns precision, recall, lines_pred and lines_gold."""
    precision = float((items["precision"] * items["lines_pred"]).sum() / items["lines_pred"].sum())
    recall = float((items["recall"] * items["lines_gold"]).sum() / items["lines_gold"].sum())
    return {"precision": precision, "recall": recall, "f1": f1(precision, recall, undefined=0.0)}
