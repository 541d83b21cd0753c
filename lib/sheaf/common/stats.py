"""Samples in, an estimate with its 95% interval out; paired comparisons; aggregation over seeds."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

__all__ = ["Interval", "aggregate", "interval", "paired_difference", "paired_ratio", "proportion"]

# Samples from which the bootstrap is used. In simulation (tests/common/test_stats.py) BCa intervals of a mean are too
# narrow in small samples (88% at n = 10, 93% at n = 30 for normal data); Student's t covers as well or better up to 50.
BOOTSTRAP_FROM = {"mean": 50, "median": 10}
RESAMPLES = 9999


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
    """Interval of the mean or median of independent samples.

    Args:
        samples: [n] finite numbers.
        statistic: "mean" (Student's t below 50 samples, BCa bootstrap from 50), "median" (order statistics below 10,
            BCa bootstrap from 10), or "exact" (no sampling error: the range of the values, n >= 1). No interval of a
            median reaches 95% below 6 samples; there it is their range, and ``method`` says what that covers.
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
    if statistic not in ("mean", "median"):
        raise ValueError(f"statistic {statistic!r} is unknown; use 'mean', 'median' or 'exact'")
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
