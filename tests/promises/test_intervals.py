"""Intervals: how often each method in use holds the truth, over simulated data of every kind; few samples are said to be few."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from ledger import Promise
from scipy.stats import binomtest

from sheaf.artifact.verdict import NO_VERDICT, judge
from sheaf.common import stats
from sheaf.common.stats import bootstrap_samples, interval, paired_difference, paired_ratio, proportion

pytestmark = pytest.mark.promise(
    "intervals", "A 95% interval of 30 or more samples holds the truth 93 to 97 times in 100; up to 5 are called few, 1 refused.",
    "at least 2,000 simulated data sets for each method, population and size from 3 to 200: normal, skewed, binary, tied",
)  # fmt: skip

Draw = Callable[[np.random.Generator, int], np.ndarray]
Statistic = Callable[[np.ndarray], float]
LOW, HIGH = 0.93, 0.97
DOUBT = 0.999  # of the interval of a coverage estimated from fewer data sets: the fast part is not to fail by chance


@dataclass(frozen=True)
class Population:
    """Where samples come from, and the truth about it."""

    name: str
    draw: Draw
    mean: float
    median: float
    discrete: bool = False


NORMAL = Population("normal", lambda rng, n: rng.normal(3, 1, n), 3, 3)
SKEWED = Population("skewed", lambda rng, n: rng.lognormal(0, 0.5, n), float(np.exp(0.125)), 1)
STRONGLY = Population("strongly skewed", lambda rng, n: rng.lognormal(0, 1, n), float(np.exp(0.5)), 1)
BINARY = Population("binary", lambda rng, n: (rng.random(n) < 0.3).astype(float), 0.3, 0, discrete=True)
TIES = Population("ties", lambda rng, n: np.round(rng.normal(0, 1.5, n)), 0, 0, discrete=True)
SIZES = (3, 5, 10, 30, 200)


def coverage(find: Callable[[np.random.Generator], tuple[float, float, float]], sets: int, seed: int) -> float:
    """Share of data sets whose interval holds the truth; ``find`` draws one and gives (low, truth, high)."""
    inside = 0
    for k in range(sets):
        low, truth, high = find(np.random.default_rng([seed, k]))
        inside += low <= truth <= high
    return inside / sets


def expect(promise: Promise, what: str, found: float, sets: int, least: float, most: float) -> None:
    """Count one cell of the table: the coverage of all 2,000 data sets, or what fewer can say of it."""
    low, high = found, found
    if not promise.full:
        doubt = binomtest(round(found * sets), sets).proportion_ci(DOUBT, method="wilson")
        low, high = doubt.high, doubt.low  # the most favourable value that is not ruled out
    promise.trial(low >= least and high <= most, f"{what}: covers {found:.1%}, wanted {least:.0%} to {most:.0%}")
    promise.figures[what] = round(100 * found, 1)


def sampled(
    population: Population, statistic: str, n: int
) -> Callable[[np.random.Generator], tuple[float, float, float]]:
    truth = population.mean if statistic == "mean" else population.median

    def find(rng: np.random.Generator) -> tuple[float, float, float]:
        at = interval(population.draw(rng, n), statistic)
        return at.low, truth, at.high

    return find


@pytest.mark.slow
@pytest.mark.parametrize("population", [NORMAL, SKEWED, BINARY, TIES], ids=lambda p: p.name)
def test_mean(promise: Promise, population: Population, monkeypatch: pytest.MonkeyPatch) -> None:
    """Student's t below 50 samples, BCa from there."""
    monkeypatch.setattr(stats, "RESAMPLES", promise.size(1999, 499))
    for n in SIZES if promise.full else (3, 30):
        sets = promise.size(8000 if n < 50 else 2000, 300)  # t takes no resampling: more data sets, less chance
        found = coverage(sampled(population, "mean", n), sets, n)
        # few samples: t is exact for normal values; a mean of three zeros and ones is no job for it, see the next test
        least = LOW if n >= 30 or population is NORMAL else {SKEWED: 0.88, TIES: 0.90, BINARY: 0.5}[population]
        expect(promise, f"mean, {population.name}, n = {n}", found, sets, least, HIGH if n >= 30 else 1.0)


def test_proportion(promise: Promise) -> None:
    """Wilson, over rates of 5 to 95%."""
    for n in SIZES if promise.full else (3, 30):

        def find(rng: np.random.Generator, n: int = n) -> tuple[float, float, float]:
            rate = rng.uniform(0.05, 0.95)
            at = proportion(int(rng.binomial(n, rate)), n)
            return at.low, rate, at.high

        sets = promise.size(2000, 300)
        expect(promise, f"proportion, n = {n}", coverage(find, sets, n), sets, LOW, HIGH if n >= 30 else 1.0)


@pytest.mark.slow
@pytest.mark.parametrize("population", [NORMAL, SKEWED, TIES, BINARY], ids=lambda p: p.name)
def test_median(promise: Promise, population: Population, monkeypatch: pytest.MonkeyPatch) -> None:
    """The range below 6 samples, order statistics below 10, BCa from there."""
    monkeypatch.setattr(stats, "RESAMPLES", promise.size(1999, 299))
    for n in SIZES if promise.full else (5, 30):
        sets = promise.size(2000, 100)
        found = coverage(sampled(population, "median", n), sets, n)
        least = LOW if n >= 30 else {3: 0.73, 5: 0.92, 10: 0.90}[n]  # the range of three covers 75%, and says so
        # a value that half the population shares is hit by nearly every interval: no method covers it 95 times only
        expect(
            promise,
            f"median, {population.name}, n = {n}",
            found,
            sets,
            least,
            HIGH if n >= 30 and not population.discrete else 1.0,
        )


def test_paired(promise: Promise) -> None:
    """Differences of pairs, and ratios of positive pairs on the log scale."""
    for n in (3, 5, 10, 30) if promise.full else (5,):

        def difference(rng: np.random.Generator, n: int = n) -> tuple[float, float, float]:
            base = rng.normal(0, 10, n)
            at = paired_difference(base + rng.normal(1, 1, n), base)
            return at.low, 1.0, at.high

        def ratio(rng: np.random.Generator, n: int = n) -> tuple[float, float, float]:
            base = rng.lognormal(0, 1, n)
            at = paired_ratio(base * 2 * rng.lognormal(0, 0.3, n), base)
            return at.low, 2.0, at.high

        for name, find in (("difference", difference), ("ratio", ratio)):
            sets = promise.size(2000, 200)
            expect(promise, f"paired {name}, n = {n}", coverage(find, sets, n), sets, LOW, HIGH)


def correlation(data: np.ndarray) -> float:
    x, y = data.T - data.mean(axis=0)[:, None]
    return float(x @ y / np.sqrt((x @ x) * (y @ y)))


def f1(data: np.ndarray) -> float:
    said, true = data.T
    return float(2 * (said * true).sum() / max(1.0, said.sum() + true.sum()))


def resampled(
    statistic: Statistic, draw: Draw, truth: float, n: int
) -> Callable[[np.random.Generator], tuple[float, float, float]]:
    def find(rng: np.random.Generator) -> tuple[float, float, float]:
        data = draw(rng, n)
        at = interval(bootstrap_samples(lambda i: statistic(data[i]), np.arange(n), resamples=500, seed=7), "bootstrap")
        return at.low, truth, at.high

    return find


def pairs(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.multivariate_normal([0, 0], [[1, 0.6], [0.6, 1]], n)


def decisions(rng: np.random.Generator, n: int) -> np.ndarray:
    true = rng.random(n) < 0.5
    return np.stack([np.where(rng.random(n) < 0.8, true, ~true), true], axis=1).astype(float)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "statistic", "draw", "truth"), [
    ("correlation", correlation, pairs, 0.6), ("F1", f1, decisions, 0.8),
], ids=["correlation", "F1"])  # fmt: skip
def test_bootstrap_over_groups(promise: Promise, name: str, statistic: Statistic, draw: Draw, truth: float) -> None:
    """Percentiles of resampled groups, for statistics that are no mean."""
    for n in (30, 200) if promise.full else (60,):
        sets = promise.size(2000, 25)
        found = coverage(resampled(statistic, draw, truth, n), sets, n)
        expect(promise, f"bootstrap of {name}, n = {n}", found, sets, LOW, HIGH)


@pytest.mark.slow
def test_what_covers_less_is_known(promise: Promise) -> None:
    """Means of few strongly skewed values, and percentiles in place of an interval for a mean: CONTRIBUTING.md says how much."""
    for n, least in ((10, 0.82), (30, 0.87)):
        sets = promise.size(8000, 200)
        found = coverage(sampled(STRONGLY, "mean", n), sets, n)
        expect(promise, f"mean, strongly skewed, n = {n}", found, sets, least, HIGH)
    sets = promise.size(2000, 25)
    found = coverage(resampled(lambda data: float(data.mean()), SKEWED.draw, SKEWED.mean, 30), sets, 30)
    expect(promise, "bootstrap of a skewed mean, n = 30", found, sets, 0.89, HIGH)


def test_few_samples_are_called_few_and_one_is_refused(promise: Promise) -> None:
    rng = np.random.default_rng(0)
    for statistic, draw in (("mean", NORMAL.draw), ("median", NORMAL.draw), ("proportion", BINARY.draw)):
        for n in range(2, 8):
            said = judge(draw(rng, n), ">= -5", statistic).why
            promise.trial(("(small sample: n = " in said) == (n <= 5), f"{statistic}, n = {n}: {said}")
        one = judge(draw(rng, 1), ">= -5", statistic)
        promise.trial(one.verdict == NO_VERDICT, f"{statistic}, n = 1: {one.verdict}, {one.why}")
        none = judge([], ">= -5", statistic)
        promise.trial(none.verdict == NO_VERDICT, f"{statistic}, n = 0: {none.verdict}")
    for n in (2, 3, 4, 5):
        promise.trial(
            "covers" in interval(rng.normal(size=n), "median").method, f"the range of {n} says what it covers"
        )
    for n in (1, 2, 500):
        promise.trial(judge([1.0] * n, ">= 0", "bootstrap").verdict == NO_VERDICT, f"bootstrap of {n} values")
