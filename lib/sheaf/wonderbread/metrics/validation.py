"""Scores of a validator that says yes or no to a demonstration, from the four counts.

The published code takes sound demonstrations that were refused for false positives and altered ones that were accepted
for false negatives, so the printed precision is the recall and the printed recall the precision. F1 survives.
"""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

__all__ = ["Confusion", "constant", "counts", "reconstruct"]


@dataclass(frozen=True)
class Confusion:
    """Counts; positive means sound (completed, or faithful to the procedure)."""

    tp: int
    fn: int
    tn: int
    fp: int

    @property
    def n(self) -> int:
        return self.tp + self.fn + self.tn + self.fp

    def as_published(self) -> dict[str, float]:
        """Precision and recall under the names the paper prints them, that is exchanged; F1."""
        right = self.audited()
        return {"precision": right["recall"], "recall": right["precision"], "f1": right["f1"]}

    def audited(self) -> dict[str, float]:
        """Precision, recall, F1 of the positive class, specificity, balanced accuracy, Matthews correlation.

        Precision of a validator that never says yes is NaN, its F1 and correlation are 0.
        """
        recall, specificity = _ratio(self.tp, self.tp + self.fn), _ratio(self.tn, self.tn + self.fp)
        spread = math.sqrt((self.tp + self.fp) * (self.tp + self.fn) * (self.tn + self.fp) * (self.tn + self.fn))
        return {
            "precision": _ratio(self.tp, self.tp + self.fp),
            "recall": recall,
            "f1": _ratio(2 * self.tp, 2 * self.tp + self.fp + self.fn),
            "specificity": specificity,
            "balanced_accuracy": (recall + specificity) / 2,
            "mcc": (self.tp * self.tn - self.fp * self.fn) / spread if spread else 0.0,
        }


def _ratio(a: float, b: float) -> float:
    return a / b if b else float("nan")


def counts(truth: pd.Series | np.ndarray, answer: pd.Series | np.ndarray) -> Confusion:
    """Counts of [n] truths and [n] answers; an answer that could not be read (None, NaN) is wrong whatever the truth."""
    true = np.asarray(truth, dtype=bool)
    said = np.array([bool(a) if a is not None and a == a else not t for a, t in zip(answer, true, strict=True)], dtype=bool)
    return Confusion(int((true & said).sum()), int((true & ~said).sum()), int((~true & ~said).sum()), int((~true & said).sum()))


def constant(positives: int, negatives: int, says: bool) -> Confusion:
    """What always answering the same gives."""
    return Confusion(positives, 0, 0, negatives) if says else Confusion(0, positives, negatives, 0)


def reconstruct(n: int, negatives_each: int, kinds: dict[str, float]) -> Confusion:
    """The integer counts behind printed accuracies.

    Args:
        n: items in the row.
        negatives_each: altered demonstrations of each kind per sound one.
        kinds: accuracy of "true" and of each kind of alteration, rounded to two decimals as printed.

    Returns:
        Counts whose accuracies round to the printed ones. Answers that the authors could not read are missing from
        ``n`` in an unknown proportion, so each class has its designed share of ``n``.
    """
    altered = [k for k in kinds if k != "true"]
    sound = round(n / (1 + negatives_each * len(altered)))
    each = (n - sound) / len(altered)
    tp = round(kinds["true"] * sound)
    tn = round(sum(kinds[k] * each for k in altered))
    return Confusion(tp, sound - tp, tn, n - sound - tn)
