"""A recorded claim judged again from its own samples, and what of the record they do not bear out."""

import math
from collections.abc import Iterator
from typing import Any

from sheaf.artifact.verdict import NO_VERDICT, judge

__all__ = ["disagreements"]

NUMBER_TOLERANCE = 1e-3  # relative; a bootstrap's bounds move in their last digits between library versions


def disagreements(made: dict[str, Any], criterion: str, statistic: str) -> Iterator[str]:
    """What is wrong with a claim's recorded verdict and interval, a clause each; nothing when the samples give the same.

    Args:
        made: the claim's entry in a record that says it was measured.
        criterion, statistic: what it is judged by, from paper.toml.
    """
    samples = made.get("samples", [])
    try:
        if not isinstance(samples, list) or any(isinstance(v, bool | list | dict) for v in samples):
            raise TypeError
        again = judge([float(v) for v in samples], criterion, statistic)
    except (TypeError, ValueError, OverflowError):
        yield "its samples are not numbers"
        return
    verdict = made.get("verdict")
    if verdict != again.verdict:
        yield f"verdict is {verdict!r:.60}, but its samples give {again.verdict!r}"
    if again.verdict == NO_VERDICT:
        return
    for key in ("measured", "low", "high", "n"):
        stored, value = made.get(key), getattr(again, key)
        if not _same(stored, value):
            yield f"{key} is {stored!r:.60}, but its samples give {value:.6g}"


def _same(stored: Any, value: float) -> bool:
    if isinstance(stored, bool) or not isinstance(stored, int | float):
        return False
    try:
        return math.isclose(stored, value, rel_tol=NUMBER_TOLERANCE, abs_tol=1e-12)
    except OverflowError:  # an integer beyond every float
        return False
