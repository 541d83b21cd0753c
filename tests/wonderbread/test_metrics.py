"""The metrics against values worked out by hand, against scikit-learn and scipy, and against their own bounds."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sheaf.wonderbread.metrics import generation, improvement, qna, ranking, segmentation, validation
from sheaf.wonderbread.metrics.score import COLUMNS, score
from sheaf.wonderbread.metrics.validation import Confusion

matches = st.lists(st.integers(-1, 12), min_size=1, max_size=15)


def test_generation_by_hand() -> None:
    published = generation.as_published([0, -1, 3, 1], [0, 3, -1])
    assert published["precision"] == pytest.approx(3 / 4)
    assert published["recall"] == pytest.approx(2 / 3)
    assert published["f1"] == pytest.approx(2 * (3 / 4) * (2 / 3) / (3 / 4 + 2 / 3))
    assert published["ordering"] == pytest.approx(2 / 4)  # 0 and 3 are accepted, 1 comes too late
    assert generation.audited([0, -1, 3, 1], [0, 3, -1])["ordering"] == pytest.approx(2 / 3)


def test_nothing_matched_is_undefined_as_published_and_zero_audited() -> None:
    assert math.isnan(generation.as_published([-1], [-1])["f1"])
    assert generation.audited([-1], [-1])["f1"] == 0


def test_one_wild_jump_ruins_the_greedy_order_only() -> None:
    wild = [9, 0, 1, 2, 3]
    assert generation.greedy_ordering(wild) == pytest.approx(1 / 5)
    assert generation.lis_ordering(wild) == pytest.approx(4 / 5)


@given(matches, matches)
def test_orderings_keep_their_bounds(a: list[int], b: list[int]) -> None:
    published = generation.as_published(a, b)
    assert 0 <= published["ordering"] <= published["precision"] <= 1
    matched = [i for i in a if i >= 0]
    if matched:
        assert generation.greedy_ordering(a) * len(a) <= generation.lis_ordering(a) * len(matched) + 1e-9
        assert generation.lis_ordering(sorted(matched)) == 1


def test_one_to_one_uses_every_line_once() -> None:
    precision, recall = generation.one_to_one(np.array([[0.9, 0.8], [0.9, 0.1], [0.9, 0.2]]), 0.5)
    assert (precision, recall) == (pytest.approx(2 / 3), 1.0)


def test_micro_weighs_lines() -> None:
    items = pd.DataFrame({"precision": [1.0, 0.0], "recall": [1.0, 0.0], "lines_pred": [1, 9], "lines_gold": [3, 1]})
    assert generation.micro(items)["precision"] == pytest.approx(0.1)
    assert generation.micro(items)["recall"] == pytest.approx(0.75)


def test_segmentation_is_blind_to_names_and_accuracy_is_not() -> None:
    scores = segmentation.audited([0, 0, 1, 1, 2], ["b", "b", "c", "c", "a"])
    assert scores["ari"] == 1
    assert scores["v"] == 1
    assert scores["boundary_f1"] == 1
    assert scores["label_accuracy"] == 0


def test_a_boundary_counts_once_and_within_its_tolerance() -> None:
    true, late = [0, 0, 0, 1, 1, 1], [0, 0, 0, 0, 1, 1]
    assert segmentation.boundary_f1(true, late) == 0
    assert segmentation.boundary_f1(true, late, 1) == 1
    assert segmentation.boundary_f1(true, [0, 0, 1, 2, 2, 2], 1) == pytest.approx(2 / 3)


@given(st.integers(3, 60))
def test_thirds_are_three_equal_parts(frames: int) -> None:
    sizes = np.bincount(segmentation.thirds(frames))
    assert len(sizes) == 3
    assert sizes.max() - sizes.min() <= 1


def test_segmentation_refuses_unequal_lengths() -> None:
    with pytest.raises(ValueError, match="equal length"):
        segmentation.as_published([1, 2], [1])


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=4, max_size=60))
def test_validation_agrees_with_scikit_learn(pairs: list[tuple[bool, bool]]) -> None:
    from sklearn.metrics import f1_score, matthews_corrcoef

    truth, said = np.array(pairs).T
    counts = validation.counts(truth, said)
    if truth.any() and not truth.all():
        assert counts.audited()["mcc"] == pytest.approx(matthews_corrcoef(truth, said))
        assert counts.audited()["f1"] == pytest.approx(f1_score(truth, said, zero_division=0))


def test_an_unreadable_answer_is_wrong_either_way() -> None:
    counts = validation.counts(np.array([True, False]), np.array([None, None], dtype=object))
    assert (counts.tp, counts.fn, counts.tn, counts.fp) == (0, 1, 0, 1)


def test_the_published_columns_are_exchanged_and_f1_survives() -> None:
    counts = Confusion(tp=8, fn=2, tn=5, fp=15)
    printed, right = counts.as_published(), counts.audited()
    assert (printed["precision"], printed["recall"]) == (right["recall"], right["precision"])
    assert printed["f1"] == right["f1"]


def test_reconstruction_rounds_back_to_what_was_printed() -> None:
    counts = validation.reconstruct(980, 3, {"true": 0.52, "skip": 0.56, "shuffle": 0.65})
    assert counts.n == 980
    assert counts.tp + counts.fn == 140
    assert round(counts.audited()["recall"], 2) == 0.52


def test_reading_an_order_as_ranks_is_another_number() -> None:
    ranks, order = [3, 1, 2], [2, 3, 1]  # the second is best, then the third: exactly what people said
    assert ranking.audited(order, ranks)["spearman"] == pytest.approx(1)
    assert ranking.audited(order, ranks)["top_1"] == 1
    assert ranking.as_published(order, ranks)["spearman"] == pytest.approx(-0.5)


@given(st.permutations(range(1, 6)))
def test_places_invert_an_order(order: list[int]) -> None:
    assert ranking.places(ranking.places(order)) == list(order)


def test_an_order_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match=r"each of 1\.\.3 once"):
        ranking.audited([1, 1, 2], [1, 2, 3])


def test_sign_flip_tells_a_shift_from_none() -> None:
    rng = np.random.default_rng(0)
    assert ranking.sign_flip(rng.normal(0.8, 1, 60)) < 0.01
    assert ranking.sign_flip([1, -1, 1, -1]) > 0.5


def test_answers_are_turned_over() -> None:
    raw = pd.DataFrame({"model": ["a", "a"]} | {f"{axis}_score": [1, 3] for axis in qna.AXES})
    assert qna.as_published(raw).loc["a", "mean"] == pytest.approx(2)
    assert qna.shown(raw)["clarity"].tolist() == [3, 1]


def test_token_f1_counts_repeats() -> None:
    assert qna.token_f1("the cat the", "the cat") == pytest.approx(2 * 2 / 5)
    assert qna.token_f1("a", "b") == 0


def test_improvement_is_paired() -> None:
    marks = pd.DataFrame({"model": "m", "before": [1.0, 2.0, 3.0], "after": [2.0, 3.0, 4.0]})
    row = improvement.audited(marks).iloc[0]
    assert (row["gain"], row["low"], row["better"], row["worse"]) == (1, 1, 1, 0)


PREDICTIONS = {
    "procedure generation": {"to_gold": [[0, -1], [-1]], "to_pred": [[0], [-1]]},
    "demonstration segmentation": {"true": [[0, 1, 2]], "predicted": [[0, 1, 1]]},
    "question answering": {f"{axis}_score": [1, 3] for axis in qna.AXES},
    "demonstration validation": {"system": list("sstt"), "label": [True, False] * 2, "answer": [True, True, False, False]},
    "procedure ranking": {"order": [[2, 3, 1]], "ranks": [[3, 1, 2]]},
    "procedure improvement": {"before": [3.0], "after": [4.5]},
}


@pytest.mark.parametrize("task", sorted(COLUMNS))
@pytest.mark.parametrize("reading", ["as published", "audited"])
def test_every_task_goes_from_predictions_to_a_tidy_frame(task: str, reading: str) -> None:
    frame = score(task, pd.DataFrame(PREDICTIONS[task]), reading)  # type: ignore[arg-type]
    assert list(frame.columns) == ["system", "item", "metric", "value"]
    assert len(frame)
    assert not frame.duplicated(["system", "item", "metric"]).any()


def test_the_readings_differ_where_the_paper_went_wrong() -> None:
    def value(task: str, reading: str, metric: str, row: int = 0) -> float:
        frame = score(task, pd.DataFrame(PREDICTIONS[task]), reading)  # type: ignore[arg-type]
        return float(frame[frame["metric"] == metric]["value"].iloc[row])

    assert value("procedure ranking", "as published", "spearman") < 0 < value("procedure ranking", "audited", "spearman")
    printed = value("demonstration validation", "as published", "precision")
    assert printed == value("demonstration validation", "audited", "recall")
    assert math.isnan(value("procedure generation", "as published", "f1", 1))
    assert value("procedure generation", "audited", "f1", 1) == 0


def test_wrong_predictions_are_refused_in_one_sentence() -> None:
    with pytest.raises(ValueError, match="lack ranks; they need order, ranks"):
        score("procedure ranking", pd.DataFrame({"order": [[1]]}))
    with pytest.raises(ValueError, match="tasks: procedure generation"):
        score("cooking", pd.DataFrame())  # type: ignore[arg-type]
