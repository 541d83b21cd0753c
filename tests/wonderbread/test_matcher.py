"""The matcher on lines whose answer is plain, and on the human labels where they are present."""

import numpy as np
import pytest

from sheaf.common.data import external_dir
from sheaf.wonderbread.matcher import FEATURES, Matcher, Weights, default_matcher, fit_weights, shipped_weights

GOLD = ['Open the "Invoices" list in the left menu', 'Tick the box beside invoice "INV-204"',
        'Choose "Approve" from the action dropdown', 'Press the "Go" button']  # fmt: skip
PRED = ['Click the "Go" button', 'Go to the "Invoices" list', 'Pour yourself a cup of tea']  # fmt: skip
needs_outputs = pytest.mark.skipif(external_dir("wonderbread") is None, reason="the published outputs are not here (SHEAF_DATA)")


def test_same_goals_in_other_words_are_found_and_strangers_are_not() -> None:
    to_gold, to_pred = default_matcher([*GOLD, *PRED]).match(PRED, GOLD)
    assert to_gold == [3, 0, -1]
    assert (to_pred[0], to_pred[3]) == (1, 0)


def test_a_text_matches_itself_line_by_line() -> None:
    assert default_matcher(GOLD).match(GOLD, GOLD) == ([0, 1, 2, 3], [0, 1, 2, 3])


def test_two_matchers_of_the_same_lines_are_equal() -> None:
    one, two = (default_matcher(lines).features(PRED, GOLD) for lines in ([*GOLD, *PRED], [*PRED, *GOLD]))
    assert np.array_equal(one, two)


def test_lines_looked_up_and_lines_taken_apart_give_the_same() -> None:
    matcher = default_matcher([*GOLD, *PRED])
    known = matcher.features(PRED, GOLD)
    matcher._known.clear()
    assert np.allclose(matcher.features(PRED, GOLD), known)


def test_features_lie_in_the_unit_interval() -> None:
    features = default_matcher([*GOLD, *PRED]).features(PRED, GOLD)
    assert features.shape == (3, 4, len(FEATURES))
    assert features.min() >= 0
    assert features.max() <= 1 + 1e-9


@pytest.mark.parametrize(("a", "b"), [([], GOLD), (PRED, []), ([], [])])
def test_an_empty_text_matches_nothing(a: list[str], b: list[str]) -> None:
    assert default_matcher(GOLD).match(a, b) == ([-1] * len(a), [-1] * len(b))


def test_a_matcher_without_spaces_says_so() -> None:
    with pytest.raises(ValueError, match="call fit"):
        Matcher(shipped_weights()).match(PRED, GOLD)
    with pytest.raises(ValueError, match="two different lines"):
        default_matcher(["one", "one"])


def test_weights_learn_from_labels() -> None:
    rng = np.random.default_rng(0)
    features = rng.random((300, len(FEATURES)))
    weights = fit_weights(features, features[:, 3] > 0.5)
    assert int(np.argmax(weights.coefficients)) == 3
    assert Weights((0.0,) * 6, 0.0).probability(features[:2]) == pytest.approx(0.5)


@needs_outputs
def test_the_shipped_weights_are_those_of_the_labels() -> None:
    from sheaf.wonderbread import judge

    matcher = judge.published_matcher()
    data = judge.labelled(matcher)
    assert len(data.label) == 586
    again = fit_weights(data.features, data.label)
    assert again.coefficients == pytest.approx(shipped_weights().coefficients, abs=1e-2)
    held = judge.left_out(data)
    assert ((held >= 0.5) == data.label).mean() > 0.65
    assert not np.allclose(held, again.probability(data.features))  # the weights at hand have not seen their own pair
