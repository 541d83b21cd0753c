"""MultiHyena against Hyena and GPT: miniatures at equal steps and compute, and recall over vocabulary, width and heads."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from sheaf.common.stats import interval

__all__ = ["differences", "largest", "recall_table", "summary", "twice"]


def summary(runs: pd.DataFrame, measures: Sequence[str]) -> pd.DataFrame:
    """One row per arm: mean of each measure over seeds, the first with its interval; steps, CPU seconds, parameters."""
    rows = []
    for arm, part in runs.groupby("arm", sort=False):
        row: dict[str, object] = {"arm": arm, "parameters": int(part["parameters"].iloc[0]), "steps": int(part["steps"].iloc[0]),
                                  "CPU (s)": part["cpu"].median()}  # fmt: skip
        for i, name in enumerate(measures):
            found = interval(part[name].to_numpy())
            row[name] = found.estimate
            if i == 0:
                row |= {"low": found.low, "high": found.high}
        rows.append(row | {"seeds": len(part)})
    return pd.DataFrame(rows)


def differences(runs: pd.DataFrame, arm: str, base: str, measure: str) -> np.ndarray:
    """``arm`` minus ``base`` in a measure, paired by seed."""
    wide = runs.pivot_table(index="seed", columns="arm", values=measure)
    return (wide[arm] - wide[base]).dropna().to_numpy()


def recall_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Mean accuracy over seeds by width, model and heads (rows) and number of symbols (columns)."""
    heads = np.where(runs["kind"] == "hyena", runs["width"], runs["heads"])
    wide = runs.assign(heads=heads).pivot_table(
        index=["width", "kind", "heads"], columns="symbols", values="accuracy", aggfunc="mean", sort=True
    )
    wide.columns = [f"{s} symbols" for s in wide.columns]
    return wide.reset_index()


def largest(runs: pd.DataFrame) -> np.ndarray:
    """Accuracy at the largest vocabulary and width, MultiHyena (fewest heads) minus Hyena, paired by seed."""
    return _at(runs, "multihyena", runs["symbols"].max()) - _at(runs, "hyena", runs["symbols"].max())


def twice(runs: pd.DataFrame) -> np.ndarray:
    """MultiHyena's accuracy at the largest vocabulary minus Hyena's at half of it, largest width, paired by seed."""
    return _at(runs, "multihyena", runs["symbols"].max()) - _at(runs, "hyena", runs["symbols"].max() // 2)


def _at(runs: pd.DataFrame, kind: str, symbols: int) -> np.ndarray:
    part = runs[(runs["kind"] == kind) & (runs["symbols"] == symbols) & (runs["width"] == runs["width"].max())]
    if kind == "multihyena":
        part = part[part["heads"] == part["heads"].min()]
    return part.sort_values("seed")["accuracy"].to_numpy()
