"""Scores of answers on four axes, which a judge gives as 1 (best) to 3 and the paper shows as 4 minus that."""

import numpy as np
import pandas as pd

__all__ = ["AXES", "SHORTEST", "as_published", "shown", "token_f1"]

AXES = ("completeness", "soundness", "clarity", "compactness")
SHORTEST = 5  # answers of fewer characters are "NA" and not judged


def shown(raw: pd.DataFrame) -> pd.DataFrame:
    """[n] rows with the four axes turned over (3 is best) and their mean; raw columns are ``<axis>_score``."""
    turned = pd.DataFrame({axis: 4 - raw[f"{axis}_score"] for axis in AXES}, index=raw.index)
    return turned.assign(mean=turned.mean(axis=1))


def as_published(raw: pd.DataFrame, by: str = "model") -> pd.DataFrame:
    """Mean of each axis and overall, one row per ``by``."""
    return shown(raw).groupby(raw[by]).mean()


def token_f1(answer: str, reference: str) -> float:
    """Overlap of two texts as bags of lower-case words: a baseline's own score, not one of the judge's axes."""
    a, b = (pd.Series(text.lower().split(), dtype=object).value_counts() for text in (answer, reference))
    common = float(np.minimum(*a.align(b, fill_value=0)).sum())
    return 2 * common / (a.sum() + b.sum()) if common else 0.0
