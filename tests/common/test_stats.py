"""Intervals cover what they say, repeat, and refuse what has no interval; paired and grouped forms agree with them."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sheaf.common import stats
from sheaf.common.stats import aggregate, bootstrap_samples, interval, paired_difference, paired_ratio, proportion

SETS = 2000
Draw = Callable[[np.random.Generator, tuple[int, int]], np.ndarray]
# population: how to draw, its mean, its median
POPULATIONS: dict[str, tuple[Draw, float, float]] = {
    "normal": (lambda rng, shape: rng.normal(3, 1, shape), 3, 3),
    "skewed": (lambda rng, shape: rng.lognormal(0, 0.5, shape), float(np.exp(0.125)), 1),
    "binary": (lambda rng, shape: (rng.random(shape) < 0.3).astype(float), 0.3, 0),
    "ties": (lambda rng, shape: np.round(rng.normal(0, 1.5, shape)), 0, 0),
}
NUMBERS = st.floats(-1e6, 1e6, allow_nan=False)


def coverage(population: str, statistic: str, n: int, sets: int = SETS) -> float:
    draw, mean, median = POPULATIONS[population]
    truth = mean if statistic == "mean" else median
    samples = draw(np.random.default_rng([n, sets]), (sets, n))
    found = [interval(x, statistic) for x in samples]
    return sum(f.low <= truth <= f.high for f in found) / sets


@pytest.mark.parametrize("population", POPULATIONS)
@pytest.mark.parametrize("n", [30, 200])
def test_mean_covers_95_percent_from_30_samples(population: str, n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stats, "RESAMPLES", 999)
    assert 0.93 <= coverage(population, "mean", n, SETS if n == 30 else 1000) <= 0.97


@pytest.mark.parametrize("population", ["normal", "skewed"])
@pytest.mark.parametrize(("n", "sets"), [(30, SETS), (200, 500)])
def test_median_covers_95_percent_from_30_samples(
    population: str, n: int, sets: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stats, "RESAMPLES", 499)
    assert 0.925 <= coverage(population, "median", n, sets) <= 0.975


@pytest.mark.parametrize(("population", "n", "least"), [
    ("normal", 3, 0.93), ("normal", 5, 0.93), ("normal", 10, 0.93),
    ("skewed", 3, 0.88), ("skewed", 5, 0.88), ("skewed", 10, 0.90),
    ("ties", 3, 0.90), ("ties", 5, 0.93), ("ties", 10, 0.93),
])  # fmt: skip
def test_small_samples_of_a_mean_come_near(population: str, n: int, least: float) -> None:
    assert least <= coverage(population, "mean", n) <= 0.975


def test_few_samples_of_a_binary_outcome_fall_short() -> None:
    """Three equal outcomes look certain and are not: a rate belongs to `proportion`, which is the cure."""
    assert coverage("binary", "mean", 3) < 0.75
    hits = (np.random.default_rng(0).random((SETS, 3)) < 0.3).sum(axis=1)
    assert np.mean([(f := proportion(int(h), 3)).low <= 0.3 <= f.high for h in hits]) >= 0.93


@pytest.mark.parametrize(("n", "covers"), [(2, 0.5), (3, 0.75), (5, 0.9375)])
def test_the_range_behind_a_median_of_few_samples_says_what_it_covers(n: int, covers: float) -> None:
    assert coverage("normal", "median", n, 1000) == pytest.approx(covers, abs=0.035)
    assert f"covers {covers:.0%}" in interval(np.arange(n), "median").method


@pytest.mark.parametrize(("statistic", "n", "method"), [
    ("mean", 2, "Student t"), ("mean", 49, "Student t"), ("mean", 50, "bootstrap BCa"),
    ("median", 6, "order statistics"), ("median", 9, "order statistics"), ("median", 10, "bootstrap BCa"),
    ("exact", 1, "exact"), ("exact", 100, "exact"),
])  # fmt: skip
def test_method_by_sample_size(statistic: str, n: int, method: str) -> None:
    assert interval(np.random.default_rng(0).normal(size=n), statistic).method == method


def test_wilson_covers_95_percent_on_average() -> None:
    for n in (30, 200):
        rates = np.linspace(0.05, 0.95, 20)
        hits = np.random.default_rng(n).binomial(n, rates, size=(200, rates.size))
        bounds = {h: proportion(h, n) for h in range(n + 1)}
        inside = [
            [bounds[int(h)].low <= p <= bounds[int(h)].high for h, p in zip(row, rates, strict=True)] for row in hits
        ]
        assert 0.93 <= np.mean(inside) <= 0.97


def test_one_sample_has_no_interval() -> None:
    for statistic in ("mean", "median"):
        with pytest.raises(ValueError, match="at least two repetitions"):
            interval([1.0], statistic)
    assert interval([1.0], "exact").n == 1


@pytest.mark.parametrize("bad", [[], [np.nan, 1.0], [1.0, np.inf], [-np.inf]])
@pytest.mark.parametrize("statistic", ["mean", "median", "exact"])
def test_samples_that_are_no_numbers_are_refused(bad: list[float], statistic: str) -> None:
    with pytest.raises(ValueError, match="finite"):
        interval(bad, statistic)


def test_unknown_statistic_is_refused() -> None:
    with pytest.raises(ValueError, match="use one of 'mean', 'median', 'proportion', 'bootstrap', 'exact'"):
        interval([1.0, 2.0], "mode")


@settings(max_examples=60, deadline=None)
@given(st.lists(NUMBERS, min_size=2, max_size=9), st.sampled_from(["mean", "median", "exact"]))
def test_the_interval_holds_its_estimate(samples: list[float], statistic: str) -> None:
    found = interval(samples, statistic)
    slack = 1e-9 * max(1.0, abs(found.estimate))
    assert found.low - slack <= found.estimate <= found.high + slack
    assert found.n == len(samples)


@settings(max_examples=40, deadline=None)
@given(st.lists(NUMBERS, min_size=2, max_size=9), st.floats(-100, 100), st.floats(0.1, 100))
def test_the_interval_moves_with_its_unit(samples: list[float], shift: float, scale: float) -> None:
    found, moved = interval(samples), interval([scale * x + shift for x in samples])
    size = scale * max(1.0, *map(abs, samples)) + abs(shift)
    assert moved.low == pytest.approx(scale * found.low + shift, rel=1e-6, abs=1e-6 * size)
    assert moved.high == pytest.approx(scale * found.high + shift, rel=1e-6, abs=1e-6 * size)


def test_the_same_samples_give_the_same_interval() -> None:
    x = np.random.default_rng(1).exponential(size=60)
    assert interval(x) == interval(x) == interval(list(x))
    assert interval(x, seed=1) != interval(x, seed=2)


def test_more_confidence_is_wider() -> None:
    for n in (5, 80):
        x = np.random.default_rng(n).normal(size=n)
        narrow, wide = interval(x, confidence=0.8), interval(x, confidence=0.99)
        assert wide.low < narrow.low < narrow.high < wide.high


@pytest.mark.parametrize("n", [2, 9, 60])
def test_equal_samples_are_a_point(n: int) -> None:
    found = interval([2.5] * n)
    assert (found.low, found.estimate, found.high) == (2.5, 2.5, 2.5)


@pytest.mark.filterwarnings("error")
def test_a_bootstrap_without_bounds_gives_way_quietly() -> None:
    found = interval([0.0] * 19 + [1.0], "median")  # nearly all resamples have one median
    assert np.isfinite([found.low, found.high]).all()


def test_paired_difference_sees_what_unpaired_noise_hides() -> None:
    rng = np.random.default_rng(3)
    base = rng.normal(0, 100, 20)
    found = paired_difference(base + 1 + rng.normal(0, 0.1, 20), base)
    assert 0.9 < found.low < 1 < found.high < 1.1


def test_paired_ratio_is_a_geometric_mean() -> None:
    found = paired_ratio([1, 8], [1, 2])
    assert found.estimate == pytest.approx(2)
    assert found.method.endswith("log scale")
    back = paired_ratio([1, 2], [1, 8])
    assert (back.low, back.high) == pytest.approx((1 / found.high, 1 / found.low))


@pytest.mark.parametrize(("a", "b"), [([1, 0], [1, 1]), ([1, 1], [-1, 1])])
def test_a_ratio_needs_positive_samples(a: list[float], b: list[float]) -> None:
    with pytest.raises(ValueError, match="paired_difference"):
        paired_ratio(a, b)


@pytest.mark.parametrize("compare", [paired_difference, paired_ratio])
def test_pairs_need_equal_length(compare: Callable[..., object]) -> None:
    with pytest.raises(ValueError, match="equal length; got 2 and 3"):
        compare([1, 2], [1, 2, 3])


@pytest.mark.parametrize(("hits", "n"), [(0, 0), (3, 2), (-1, 5)])
def test_impossible_proportions_are_refused(hits: int, n: int) -> None:
    with pytest.raises(ValueError, match="0 <= successes <= n"):
        proportion(hits, n)


def test_proportion_of_none_and_all_is_not_certain() -> None:
    assert proportion(0, 5).low == pytest.approx(0, abs=1e-12)
    assert proportion(0, 5).high > 0.3
    assert proportion(5, 5).low < 0.7


def test_a_claim_of_zeros_and_ones_is_a_proportion() -> None:
    assert interval([1, 1, 0, 1], "proportion") == proportion(3, 4)
    assert interval([1.0] * 20, "proportion").low < 0.9  # twenty of twenty is not certainty
    with pytest.raises(ValueError, match="0 or 1"):
        interval([0.5, 1.0], "proportion")


def test_a_bootstrap_over_groups_covers_a_correlation() -> None:
    inside = 0
    for seed in range(200):
        pairs = np.random.default_rng(seed).multivariate_normal([0, 0], [[1, 0.6], [0.6, 1]], 60)
        correlation = partial(lambda data, i: np.corrcoef(data[i].T)[0, 1], pairs)
        found = interval(bootstrap_samples(correlation, np.arange(60), resamples=500, seed=seed), "bootstrap")
        assert found.low <= found.estimate <= found.high
        inside += found.low <= 0.6 <= found.high
    assert 0.90 <= inside / 200 <= 0.99


def test_rows_of_a_group_are_drawn_together() -> None:
    groups = np.repeat(["a", "b", "c"], 4)
    rows = []
    bootstrap_samples(lambda i: rows.append(i) or 0.0, groups, resamples=20)
    for drawn in rows:
        assert len(drawn) == 12
        times = np.bincount(drawn, minlength=12).reshape(3, 4)
        assert (times == times[:, :1]).all()


def test_a_bootstrap_needs_groups_a_defined_statistic_and_enough_resamples() -> None:
    with pytest.raises(ValueError, match="at least two groups"):
        bootstrap_samples(lambda i: 0.0, ["a", "a"])
    with pytest.raises(ValueError, match="not defined"):
        bootstrap_samples(lambda i: float("nan"), ["a", "b"], resamples=10)
    with pytest.raises(ValueError, match="at least 500 resamples"):
        interval([1.0, 2.0, 3.0], "bootstrap")
    undefined = bootstrap_samples(lambda i: 1.0 if len(set(i)) > 1 else float("nan"), list("abcd"), resamples=50)
    assert np.isfinite(undefined).all()


def test_aggregate_has_one_row_per_group_and_leaves_bounds_of_single_samples_empty() -> None:
    frame = pd.DataFrame({"arm": ["a", "a", "a", "b"], "case": [1, 1, 1, 2], "x": [1.0, 2.0, 3.0, 9.0]})
    found = aggregate(frame, ["arm", "case"], "x")
    assert found.columns.tolist() == ["arm", "case", "x", "low", "high", "n"]
    assert found.x.tolist() == [2.0, 9.0]
    assert found.n.tolist() == [3, 1]
    expected = interval([1, 2, 3])
    assert found.loc[0, ["low", "high"]].tolist() == [expected.low, expected.high]
    assert found.loc[1, ["low", "high"]].isna().all()
    exact = aggregate(frame, ["arm"], "x", "exact")
    assert exact.low.tolist() == [1.0, 9.0]
