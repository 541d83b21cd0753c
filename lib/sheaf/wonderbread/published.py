"""Values as published, from the authors' own result files: facts that ship with the project, never mixed with measured ones."""

from functools import cache

import pandas as pd

from sheaf.common.data import data_dir

__all__ = [
    "counts", "generation", "generation_pooled", "human_correlation", "improvement_questions", "key_frames", "qna", "ranking",
    "segmentation", "validation", "validation_by_kind",
]  # fmt: skip


@cache
def _facts(name: str) -> pd.DataFrame:
    return pd.read_csv(data_dir("wonderbread") / f"{name}.csv")


def counts() -> pd.DataFrame:
    """Sizes of the data set: what, count, source."""
    return _facts("counts")


def generation() -> pd.DataFrame:
    """Nine systems, six values each to two decimals (table of SOP generation), and ``n``."""
    return _facts("sop_generation")


def generation_pooled() -> pd.DataFrame:
    """Mean and standard deviation of four metrics over all 1,450 rows (published metrics file)."""
    return _facts("sop_generation_pooled")


def segmentation() -> pd.DataFrame:
    """Seven systems: adjusted Rand index and V-measure with their deviations, and ``n`` (empty where not given)."""
    return _facts("segmentation")


def validation() -> pd.DataFrame:
    """Eight rows as printed: precision and recall stand under each other's name."""
    return _facts("validation")


def validation_by_kind() -> pd.DataFrame:
    """Accuracy on sound demonstrations and on each kind of altered one, to two decimals."""
    return _facts("validation_by_kind")


def qna() -> pd.DataFrame:
    """Question answering: four answerers, four axes and their mean, 3 is best."""
    return _facts("qna")


def improvement_questions() -> pd.DataFrame:
    """The same on the questions about improving a procedure."""
    return _facts("improvement_questions")


def ranking() -> pd.DataFrame:
    """Mean Spearman and Kendall correlation of three models, each procedure a row (table of SOP ranking)."""
    return _facts("ranking")


def human_correlation() -> pd.DataFrame:
    """Eight correlations of the GPT-4 judge with people: what, statistic, value."""
    return _facts("human_correlation")


def key_frames() -> list[int]:
    """Key frames of the 140 demonstrations of the gold subset that have five or more.

    Derived from the published negatives, whose places are a seeded shuffle of the frames; five are known but for one.
    """
    return _facts("key_frames")["key_frames"].tolist()
