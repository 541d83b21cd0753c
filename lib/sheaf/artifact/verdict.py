"""Criterion and samples in, verdict out. A verdict is computed on the whole 95% interval, never typed."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from sheaf.common.stats import Interval, interval

__all__ = ["VERDICTS", "Criterion", "Judgement", "judge", "parse_criterion"]

REPRODUCED, NOT_REPRODUCED, INCONCLUSIVE = "reproduced", "not reproduced", "inconclusive"
OUT_OF_REACH, NO_VERDICT = "out of reach", "no verdict"
VERDICTS = (REPRODUCED, NOT_REPRODUCED, INCONCLUSIVE, OUT_OF_REACH, NO_VERDICT)

_NUMBER = r"([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)"
_FORMS = "'>= x', '> x', '<= x', '< x', 'in [a, b]', 'within p% of x'"


@dataclass(frozen=True)
class Criterion:
    """The set of values that count as reproduced: an interval of the real line."""

    text: str
    low: float = -math.inf
    high: float = math.inf
    low_open: bool = False
    high_open: bool = False

    def contains(self, value: float) -> bool:
        above = value > self.low if self.low_open else value >= self.low
        below = value < self.high if self.high_open else value <= self.high
        return above and below

    def excludes(self, low: float, high: float) -> bool:
        """True when no value of [low, high] meets the criterion."""
        misses_below = high <= self.low if self.low_open else high < self.low
        misses_above = low >= self.high if self.high_open else low > self.high
        return misses_below or misses_above


@dataclass(frozen=True)
class Judgement:
    """What was measured and what it means. Numbers are None when there is nothing valid to judge."""

    verdict: str
    why: str
    measured: float | None = None
    low: float | None = None
    high: float | None = None
    n: int = 0
    method: str = ""


def parse_criterion(text: str) -> Criterion:
    """Read a criterion such as ``>= 3.8`` or ``within 10% of 4.8``.

    Raises:
        ValueError: the text is none of the accepted forms, or names an empty set.
    """
    clean = text.strip()
    if m := re.fullmatch(rf"(>=|>|<=|<)\s*{_NUMBER}", clean):
        sign, bound = m[1], float(m[2])
        if sign[0] == ">":
            return Criterion(clean, low=bound, low_open=sign == ">")
        return Criterion(clean, high=bound, high_open=sign == "<")
    if m := re.fullmatch(rf"in\s*\[\s*{_NUMBER}\s*,\s*{_NUMBER}\s*\]", clean):
        low, high = float(m[1]), float(m[2])
    elif m := re.fullmatch(rf"within\s+{_NUMBER}\s*%\s*of\s+{_NUMBER}", clean):
        margin = abs(float(m[2])) * float(m[1]) / 100
        low, high = float(m[2]) - margin, float(m[2]) + margin
    else:
        raise ValueError(f"criterion {text!r} is not understood; write one of {_FORMS}")
    if low > high:
        raise ValueError(f"criterion {text!r} accepts no value; give the smaller bound first")
    return Criterion(clean, low=low, high=high)


def judge(samples: Sequence[float], criterion: str | Criterion, statistic: str = "mean") -> Judgement:
    """Verdict on one claim.

    Args:
        samples: one value per independent repetition (seed, instance, cell), all in the claim's unit.
        criterion: what would count, fixed before the run.
        statistic: "mean", "median" or "proportion" of the samples, judged by its 95% interval (n >= 2); "bootstrap" for
            an estimate followed by its values on resampled data; "exact" for a quantity without sampling error, judged
            by the range of its values (n >= 1).

    Returns:
        reproduced when the whole interval meets the criterion, not reproduced when none of it does, inconclusive when
        it straddles, no verdict when samples are missing, not finite, or too few for an interval.
    """
    rule = parse_criterion(criterion) if isinstance(criterion, str) else criterion
    values = [float(v) for v in samples]
    if not values:
        return Judgement(NO_VERDICT, "no sample was recorded")
    if bad := [v for v in values if not math.isfinite(v)]:
        return Judgement(NO_VERDICT, f"{len(bad)} of {len(values)} samples are not finite numbers", n=len(values))
    if statistic == "proportion" and len(values) < 2:  # Wilson gives one, but a single trial is no sample
        return Judgement(NO_VERDICT, "one trial gives no proportion; record at least two", n=len(values))
    try:
        found: Interval = interval(values, statistic)
    except ValueError as error:
        return Judgement(NO_VERDICT, str(error), n=len(values))
    span = f"[{found.low:.4g}, {found.high:.4g}]"
    if found.low == found.high:
        what = "the exact value"
    elif statistic == "exact":
        what = "the range"
    else:  # a median of very few samples has only their range, which covers less
        what = f"the {found.method}" if found.method.startswith("range") else "the 95% interval"
    place = f"{found.estimate:.4g}" if found.low == found.high else span
    if rule.contains(found.low) and rule.contains(found.high):
        verdict, why = REPRODUCED, f"{what} {place} meets {rule.text}"
    elif rule.excludes(found.low, found.high):
        verdict, why = NOT_REPRODUCED, f"{what} {place} fails {rule.text}"
    else:
        verdict, why = INCONCLUSIVE, f"{what} {place} straddles {rule.text}"
    if statistic != "exact" and found.n <= 5:
        why += f" (small sample: n = {found.n})"
    return Judgement(verdict, why, found.estimate, found.low, found.high, found.n, found.method)
