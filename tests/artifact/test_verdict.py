"""Verdicts: every criterion form, both sides of every boundary, and nothing but valid samples ever passes."""

import math

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sheaf.artifact.verdict import VERDICTS, Criterion, judge, parse_criterion

REPRODUCED, NOT, INCONCLUSIVE, _, NONE = VERDICTS
BOUND = st.floats(-1e6, 1e6, allow_nan=False).map(lambda x: round(x, 3))
STEP = 1e-6
# form of the criterion for a bound b, whether b itself counts, and on which side the good values lie
FORMS = [(">= {}", True, 1), ("> {}", False, 1), ("<= {}", True, -1), ("< {}", False, -1)]


@pytest.mark.parametrize(("text", "low", "high", "low_open", "high_open"), [
    (">= 3.8", 3.8, math.inf, False, False),
    ("> 3.8", 3.8, math.inf, True, False),
    ("<= -2", -math.inf, -2, False, False),
    ("<1e-3", -math.inf, 1e-3, False, True),
    ("in [1, 2.5]", 1, 2.5, False, False),
    ("in[-1,+1]", -1, 1, False, False),
    ("in [3, 3]", 3, 3, False, False),
    ("within 10% of 4.8", 4.32, 5.28, False, False),
    ("within 2.5 % of -8", -8.2, -7.8, False, False),
    ("  >=   .5 ", 0.5, math.inf, False, False),
])  # fmt: skip
def test_every_form_is_read(text: str, low: float, high: float, low_open: bool, high_open: bool) -> None:
    found = parse_criterion(text)
    assert (found.low, found.high) == pytest.approx((low, high))
    assert (found.low_open, found.high_open) == (low_open, high_open)


@pytest.mark.parametrize("text", [
    "", "3.8", "= 3", "== 3", ">= x", ">= 3 or < 1", "between 1 and 2", "in (1, 2)", "in [1; 2]", "in [1]",
    "within 10 of 4", "within -5% of 4", "within 5% of", ">= nan", ">= inf", "=> 3", ">= 1,5", "not < 3", ">= 0x10",
])  # fmt: skip
def test_what_is_no_criterion_is_refused_with_the_forms(text: str) -> None:
    with pytest.raises(ValueError, match="criterion"):
        parse_criterion(text)


def test_a_criterion_that_nothing_meets_is_refused() -> None:
    with pytest.raises(ValueError, match="smaller bound first"):
        parse_criterion("in [2, 1]")


@settings(max_examples=80, deadline=None)
@given(BOUND, st.sampled_from(FORMS))
def test_an_exact_value_flips_at_the_bound(bound: float, form: tuple[str, bool, int]) -> None:
    text, at_bound_counts, side = form
    text, step = text.format(bound), STEP * max(1.0, abs(bound))
    assert judge([bound], text, "exact").verdict == (REPRODUCED if at_bound_counts else NOT)
    assert judge([bound + side * step], text, "exact").verdict == REPRODUCED
    assert judge([bound - side * step], text, "exact").verdict == NOT


@settings(max_examples=60, deadline=None)
@given(BOUND, st.floats(0.01, 1e3))
def test_a_closed_range_flips_at_both_ends(low: float, width: float) -> None:
    high = round(low + width, 3)
    assume(high > low)
    text, step = f"in [{low}, {high}]", STEP * max(1.0, abs(low), abs(high))
    for value, expected in [(low, REPRODUCED), (high, REPRODUCED), (low - step, NOT), (high + step, NOT)]:
        assert judge([value], text, "exact").verdict == expected


@settings(max_examples=60, deadline=None)
@given(st.floats(-1e4, 1e4).map(lambda x: round(x, 2)).filter(lambda x: abs(x) > 0.1), st.integers(1, 50))
def test_a_margin_flips_at_both_ends(centre: float, percent: int) -> None:
    margin = abs(centre) * percent / 100
    for sign in (-1, 1):
        inside, outside = centre + sign * margin * (1 - 1e-9), centre + sign * margin * (1 + 1e-9)
        assert judge([inside], f"within {percent}% of {centre}", "exact").verdict == REPRODUCED
        assert judge([outside], f"within {percent}% of {centre}", "exact").verdict == NOT


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-100, 100).map(lambda x: round(x, 2)), min_size=3, max_size=9).filter(lambda x: len(set(x)) > 1),
    st.sampled_from(["mean", "median"]),
    st.sampled_from(FORMS),
)
def test_the_whole_interval_decides(samples: list[float], statistic: str, form: tuple[str, bool, int]) -> None:
    """The bound is swept past the interval: reproduced before its near end, inconclusive inside, not reproduced beyond."""
    text, _, side = form
    found = judge(samples, "> 0", statistic)
    assert found.low is not None and found.high is not None
    worst, best = (found.low, found.high) if side > 0 else (found.high, found.low)
    step = 1e-6 * max(1.0, abs(found.low), abs(found.high))
    assume(found.high - found.low > 4 * step)  # else there is no inside
    places = [(worst - side * step, REPRODUCED), (worst + side * step, INCONCLUSIVE), (best - side * step, INCONCLUSIVE)]
    for bound, expected in [*places, (best + side * step, NOT)]:
        assert judge(samples, text.format(f"{bound:.17g}"), statistic).verdict == expected


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("criterion", ["> -1e300", "< 1e300", "in [-1e9, 1e9]", "within 50% of 1"])
@pytest.mark.parametrize("statistic", ["mean", "median", "exact"])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_number_that_is_none_never_passes(bad: float, criterion: str, statistic: str, place: int) -> None:
    samples = [1.0, 1.0]
    samples.insert(place, bad)
    found = judge(samples, criterion, statistic)
    assert found.verdict == NONE
    assert found.measured is found.low is found.high is None
    assert "not finite" in found.why
    assert judge([bad], criterion, statistic).verdict == NONE


def test_nothing_measured_is_no_verdict() -> None:
    assert judge([], ">= 0").verdict == NONE
    assert judge([1.0], ">= 0").verdict == NONE
    assert judge([1.0], ">= 0", "median").verdict == NONE
    assert judge([1.0, 2.0], ">= 0", "mode").verdict == NONE


def test_small_samples_are_labelled() -> None:
    assert "n = 3" in judge([1.0, 1.1, 1.2], ">= 0").why
    assert "small sample" not in judge([1.0, 1.1, 1.2], ">= 0", "exact").why
    assert "small sample" not in judge([1.0, 1.1, 1.2, 1.0, 1.1, 1.2], ">= 0").why


def test_a_median_of_few_samples_does_not_claim_95_percent() -> None:
    found = judge([1.0, 2.0, 3.0], ">= 0", "median")
    assert found.verdict == REPRODUCED
    assert "95%" not in found.why and "covers 75%" in found.why


@pytest.mark.parametrize("statistic", ["mean", "median", "exact"])
def test_why_names_the_criterion_and_the_interval(statistic: str) -> None:
    found = judge([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], ">= 3.2", statistic)
    assert found.verdict == INCONCLUSIVE
    assert ">= 3.2" in found.why and f"{found.low:.4g}" in found.why
    assert found.n == 6


@settings(max_examples=80, deadline=None)
@given(BOUND, BOUND, BOUND)
def test_contains_and_excludes_never_agree(a: float, b: float, bound: float) -> None:
    low, high = min(a, b), max(a, b)
    for text in (f">= {bound}", f"> {bound}", f"<= {bound}", f"< {bound}"):
        rule = parse_criterion(text)
        assert not (rule.excludes(low, high) and (rule.contains(low) or rule.contains(high)))


def test_a_parsed_criterion_is_accepted_too() -> None:
    assert judge([4.0], Criterion("in [3, 5]", 3, 5), "exact").verdict == REPRODUCED
