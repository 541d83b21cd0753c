"""Scores of a rewritten procedure: the judge's rubric mark (1 to 5, 5 best) before and after."""

import pandas as pd

from sheaf.common import stats

__all__ = ["as_published", "audited"]


def as_published(marks: pd.DataFrame) -> pd.DataFrame:
    """Mean and deviation before and after, one row per model, from columns model, before, after."""
    return marks.groupby("model")[["before", "after"]].agg(["mean", "std"])


def audited(marks: pd.DataFrame) -> pd.DataFrame:
    """Gain with its paired 95% interval and the shares that got better and worse, one row per model."""
    rows = []
    for model, group in marks.groupby("model"):
        gain = stats.paired_difference(group["after"], group["before"])
        delta = group["after"] - group["before"]
        rows.append((model, group["before"].mean(), group["after"].mean(), gain.estimate, gain.low, gain.high,
                     (delta > 0).mean(), (delta < 0).mean(), len(group)))  # fmt: skip
    columns = ["model", "before", "after", "gain", "low", "high", "better", "worse", "n"]
    return pd.DataFrame(rows, columns=columns)
