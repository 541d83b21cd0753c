"""Samples in, an estimate with its 95% interval out; paired comparisons; aggregation over seeds."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

__all__ = ["Interval", "aggregate", "bootstrap_samples", "interval", "paired_difference", "paired_ratio", "proportion"]

# Samples from which the bootstrap is used. In simulation (tests/common/test_stats.py) BCa intervals of a mean are too
# narrow in small samples (88% at n = 10, 93% at n = 30 for normal data); Student's t covers as well or better up to 50.
BOOTSTRAP_FROM = {"mean": 50, "median": 10}
RESAMPLES = 9999
STATISTICS = ("mean", "median", "proportion", "bootstrap", "exact")
LEAST_RESAMPLES = 500  # below, the 2.5% ends of a percentile interval hang on a dozen values


@dataclass(frozen=True)
class Interval:
    """An estimate and its interval, in the unit of the samples. ``n`` counts the samples behind it."""

    estimate: float
    low: float
    high: float
    n: int
    method: str

    def __str__(self) -> str:
        return f"{self.estimate:.4g} [{self.low:.4g}, {self.high:.4g}] (n={self.n})"


def interval(samples: ArrayLike, statistic: str = "mean", *, confidence: float = 0.95, seed: int = 0) -> Interval:
    """Interval of the mean, the median or another statistic of independent samples.

    Args:
        samples: [n] finite numbers.
        statistic: "mean" (Student's t below 50 samples, BCa bootstrap from 50), "median" (order statistics below 10,
            BCa bootstrap from 10), "proportion" (samples are 0 or 1; Wilson), "bootstrap" (what
            :func:`bootstrap_samples` gave: the estimate first, then its values on resampled data; percentiles), or
            "exact" (no sampling error: the range of the values, n >= 1). No interval of a median reaches 95% below 6
            samples; there it is their range, and ``method`` says what that covers.
        confidence: coverage aimed at.
        seed: of the bootstrap, so that the same samples always give the same interval.

    Raises:
        ValueError: no samples, values that are not finite, an unknown statistic, or a single sample where sampling
            error has to be estimated.
    """
    x = np.asarray(samples, dtype=float).ravel()
    if x.size == 0 or not np.isfinite(x).all():
        raise ValueError(
            f"samples must be finite numbers, at least one; got {x.size} of which {int((~np.isfinite(x)).sum())} not finite"
        )
    if statistic == "exact":
        return Interval(float(x.mean()), float(x.min()), float(x.max()), x.size, "exact")
    if statistic not in STATISTICS:
        raise ValueError(f"statistic {statistic!r} is unknown; use one of {', '.join(map(repr, STATISTICS))}")
    if statistic == "proportion":
        if not np.isin(x, (0, 1)).all():
            raise ValueError("a proportion is of samples that are 0 or 1; use 'mean' for other numbers")
        return proportion(int(x.sum()), x.size, confidence=confidence)
    if statistic == "bootstrap":
        if x.size <= LEAST_RESAMPLES:
            raise ValueError(
                f"a bootstrap needs the estimate and at least {LEAST_RESAMPLES} resamples; got {x.size} values"
            )
        low, high = np.quantile(x[1:], [(1 - confidence) / 2, (1 + confidence) / 2])
        # a skewed statistic's percentiles can miss the estimate itself by a hair
        return Interval(float(x[0]), float(min(low, x[0])), float(max(high, x[0])), x.size - 1, "bootstrap percentiles")
    estimate = float(np.mean(x) if statistic == "mean" else np.median(x))
    if x.size < 2:
        raise ValueError(
            'one sample gives no interval; record at least two repetitions, or declare statistic = "exact"'
        )
    if np.ptp(x) == 0:
        return Interval(estimate, estimate, estimate, x.size, "all samples equal")
    if x.size >= BOOTSTRAP_FROM[statistic]:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore", stats.DegenerateDataWarning)  # no finite bounds then; handled below
            found = stats.bootstrap(
                (x,),
                np.mean if statistic == "mean" else np.median,
                confidence_level=confidence,
                n_resamples=RESAMPLES,
                method="BCa",
                rng=np.random.default_rng(seed),
                vectorized=True,
            ).confidence_interval
        if np.isfinite([found.low, found.high]).all():
            return Interval(estimate, float(found.low), float(found.high), x.size, "bootstrap BCa")
    if statistic == "median":
        # distribution-free: the widest pair of order statistics whose binomial coverage reaches the confidence
        found = stats.quantile_test(x, q=estimate, p=0.5).confidence_interval(confidence)
        if np.isfinite([found.low, found.high]).all():
            return Interval(estimate, float(found.low), float(found.high), x.size, "order statistics")
        covers = f"range of the samples (covers {1 - 0.5 ** (x.size - 1):.0%})"
        return Interval(estimate, float(x.min()), float(x.max()), x.size, covers)
    half = float(stats.t.ppf((1 + confidence) / 2, x.size - 1) * stats.sem(x))
    return Interval(estimate, estimate - half, estimate + half, x.size, "Student t")


def bootstrap_samples(
    statistic: Callable[[np.ndarray], float], groups: ArrayLike, *, resamples: int = 1000, seed: int = 0
) -> np.ndarray:
    """A statistic of the data, then of data whose groups were drawn again with replacement.

    For statistics that are no mean of independent samples: F1, a correlation, a difference of two of them.

    Args:
        statistic: takes [m] row indices (a row may come several times) and gives one number.
        groups: [n] label of the group of each row; rows of a group (the items of one demonstration) are drawn together.
        resamples: how often to draw.
        seed: of the draws.

    Returns:
        [1 + resamples], the statistic of all rows first. Draws on which it is not defined (NaN) are drawn again.

    Raises:
        ValueError: fewer than two groups, or a statistic that is hardly ever defined.
    """
    labels, place = np.unique(np.asarray(groups).ravel(), return_inverse=True)
    if labels.size < 2:
        raise ValueError(f"a bootstrap over groups needs at least two groups; got {labels.size}")
    members = np.split(np.argsort(place, kind="stable"), np.cumsum(np.bincount(place))[:-1])
    rng, found = np.random.default_rng(seed), [float(statistic(np.arange(place.size)))]
    for _ in range(2 * resamples):
        value = float(statistic(np.concatenate([members[i] for i in rng.integers(0, labels.size, labels.size)])))
        if np.isfinite(value):
            found.append(value)
        if len(found) > resamples:
            return np.array(found)
    raise ValueError(
        f"the statistic is not defined on {2 * resamples + 1 - len(found)} of {2 * resamples} resamples; use more data"
    )


def proportion(successes: int, n: int, *, confidence: float = 0.95) -> Interval:
    """Wilson interval of a proportion.

    Raises:
        ValueError: n is not positive or successes lies outside 0..n.
    """
    if n <= 0 or not 0 <= successes <= n:
        raise ValueError(f"a proportion needs 0 <= successes <= n and n > 0; got {successes} of {n}")
    found = stats.binomtest(successes, n).proportion_ci(confidence, method="wilson")
    return Interval(successes / n, float(found.low), float(found.high), n, "Wilson")


def _pair(a: ArrayLike, b: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(a, dtype=float).ravel(), np.asarray(b, dtype=float).ravel()
    if x.shape != y.shape:
        raise ValueError(f"paired samples must have equal length; got {x.size} and {y.size}")
    return x, y


def paired_difference(a: ArrayLike, b: ArrayLike, *, confidence: float = 0.95) -> Interval:
    """Interval of the mean of ``a - b``, pair by pair (same seed, same instance)."""
    x, y = _pair(a, b)
    return interval(x - y, "mean", confidence=confidence)


def paired_ratio(a: ArrayLike, b: ArrayLike, *, confidence: float = 0.95) -> Interval:
    """Interval of the geometric mean of ``a / b``, pair by pair; both must be positive."""
    x, y = _pair(a, b)
    if (x <= 0).any() or (y <= 0).any():
        raise ValueError(
            "a ratio needs positive samples; use paired_difference for values that may be zero or negative"
        )
    found = interval(np.log(x / y), "mean", confidence=confidence)
    estimate, low, high = (float(np.exp(v)) for v in (found.estimate, found.low, found.high))
    return Interval(estimate, low, high, found.n, f"{found.method}, log scale")


def aggregate(frame: pd.DataFrame, by: Sequence[str], value: str, statistic: str = "mean") -> pd.DataFrame:
    """One row per group of ``by`` with columns ``value``, ``low``, ``high``, ``n``: the samples of a group are its seeds.

    A group with a single sample keeps its value and has empty bounds.
    """
    rows = []
    for key, group in frame.groupby(list(by), sort=False):
        x = group[value].to_numpy(dtype=float)
        key = key if isinstance(key, tuple) else (key,)
        if x.size == 1 and statistic != "exact":
            rows.append((*key, float(x[0]), np.nan, np.nan, 1))
        else:
            found = interval(x, statistic)
            rows.append((*key, found.estimate, found.low, found.high, found.n))
    return pd.DataFrame(rows, columns=[*by, value, "low", "high", "n"])
