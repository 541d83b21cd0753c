"""Scores of a segmentation: each frame of a long recording carries the label of the workflow it belongs to."""

from collections.abc import Sequence

import numpy as np
from sklearn.metrics import adjusted_rand_score, v_measure_score

__all__ = ["as_published", "audited", "boundary_f1", "thirds"]


def as_published(true: Sequence[object], predicted: Sequence[object]) -> dict[str, float]:
    """Adjusted Rand index and V-measure (beta = 1) of two labelings of the same frames, [n] each.

    Raises:
        ValueError: the labelings differ in length.
    """
    if len(true) != len(predicted):
        raise ValueError(f"true and predicted labels must have equal length; got {len(true)} and {len(predicted)}")
    return {
        "ari": float(adjusted_rand_score(list(map(str, true)), list(map(str, predicted)))),
        "v": float(v_measure_score(list(map(str, true)), list(map(str, predicted)))),
    }


def _boundaries(labels: Sequence[object]) -> np.ndarray:
    return np.array([i for i in range(1, len(labels)) if labels[i] != labels[i - 1]], dtype=int)


def boundary_f1(true: Sequence[object], predicted: Sequence[object], tolerance: int = 0) -> float:
    """F1 of the places where the label changes; a place counts once and may be off by ``tolerance`` frames."""
    a, b = _boundaries(true), _boundaries(predicted)
    if not len(a) and not len(b):
        return 1.0
    free, hits = list(b), 0
    for place in a:
        near = [x for x in free if abs(x - place) <= tolerance]
        if near:
            free.remove(min(near, key=lambda x: abs(x - place)))
            hits += 1
    return 2 * hits / (len(a) + len(b))


def audited(true: Sequence[object], predicted: Sequence[object]) -> dict[str, float]:
    """The published scores, the boundaries exactly and within one frame, and the share of frames with the right name."""
    return as_published(true, predicted) | {
        "boundary_f1": boundary_f1(true, predicted),
        "boundary_f1_within_1": boundary_f1(true, predicted, 1),
        "label_accuracy": float(np.mean([str(a) == str(b) for a, b in zip(true, predicted, strict=True)])),
    }


def thirds(frames: int, parts: int = 3) -> list[int]:
    """Labels of a cut into equal parts: the baseline that looks at nothing."""
    return [min(parts - 1, i * parts // frames) for i in range(frames)]
