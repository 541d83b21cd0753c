"""One door to the metrics of all six tasks: predictions in, a tidy frame out, as published or audited."""

from collections.abc import Callable
from typing import Any, Literal, get_args

import pandas as pd

from sheaf.wonderbread.metrics import generation, qna, ranking, segmentation, validation

__all__ = ["COLUMNS", "Reading", "Task", "score"]

Reading = Literal["as published", "audited"]
Task = Literal[
    "procedure generation", "demonstration segmentation", "question answering", "demonstration validation", "procedure ranking",
    "procedure improvement",
]  # fmt: skip
COLUMNS: dict[str, tuple[str, ...]] = {
    "procedure generation": ("to_gold", "to_pred"),
    "demonstration segmentation": ("true", "predicted"),
    "question answering": tuple(f"{axis}_score" for axis in qna.AXES),
    "demonstration validation": ("label", "answer"),
    "procedure ranking": ("order", "ranks"),
    "procedure improvement": ("before", "after"),
}
"""What the predictions of each task must hold, a row an item; ``item`` and ``system`` name them when present."""

Scores = dict[str, float]
_ROWS: dict[tuple[str, str], Callable[[Any], Scores]] = {
    ("procedure generation", "as published"): lambda r: generation.as_published(r.to_gold, r.to_pred),
    ("procedure generation", "audited"): lambda r: generation.audited(r.to_gold, r.to_pred),
    ("demonstration segmentation", "as published"): lambda r: segmentation.as_published(r.true, r.predicted),
    ("demonstration segmentation", "audited"): lambda r: segmentation.audited(r.true, r.predicted),
    ("procedure ranking", "as published"): lambda r: ranking.as_published(r.order, r.ranks),
    ("procedure ranking", "audited"): lambda r: ranking.audited(r.order, r.ranks),
    ("procedure improvement", "as published"): lambda r: {"before": float(r.before), "after": float(r.after)},
    ("procedure improvement", "audited"): lambda r: {"gain": float(r.after - r.before)},
}


def score(task: Task, predictions: pd.DataFrame, reading: Reading = "audited") -> pd.DataFrame:
    """Scores of one task.

    Args:
        task: one of the six.
        predictions: a row an item with the task's ``COLUMNS``, and if wanted ``system`` and ``item``.
        reading: "as published" has the paper's formulas with their faults, "audited" has them put right.

    Returns:
        Tidy: system, item, metric, value. Validation is scored over all items of a system, so its item is "all"; for
        question answering both readings are the same.

    Raises:
        ValueError: an unknown task or reading, or columns that are missing.
    """
    if task not in COLUMNS or reading not in get_args(Reading):
        readings = ", ".join(get_args(Reading))
        raise ValueError(f"no {reading!r} score of {task!r}; tasks: {', '.join(COLUMNS)}; readings: {readings}")
    if missing := [name for name in COLUMNS[task] if name not in predictions]:
        raise ValueError(f"predictions of {task} lack {', '.join(missing)}; they need {', '.join(COLUMNS[task])}")
    frame = predictions.reset_index(drop=True)
    frame = frame.assign(system=frame.get("system", ""), item=frame.get("item", frame.index.astype(str)))
    rows: list[tuple[object, object, str, float]] = []
    if task == "demonstration validation":
        for system, group in frame.groupby("system", sort=False):
            counts = validation.counts(group["label"], group["answer"])
            found = counts.as_published() if reading == "as published" else counts.audited()
            rows += [(system, "all", metric, value) for metric, value in found.items()]
    elif task == "question answering":
        for row, shown in zip(frame.itertuples(), qna.shown(frame).to_dict("records"), strict=True):
            rows += [(row.system, row.item, str(metric), float(value)) for metric, value in shown.items()]
    else:
        one = _ROWS[task, reading]
        for row in frame.itertuples():
            rows += [(row.system, row.item, metric, value) for metric, value in one(row).items()]
    return pd.DataFrame(rows, columns=["system", "item", "metric", "value"])
