"""The published tables again, where the published outputs are present; the reconstruction from shipped facts anywhere."""

import numpy as np
import pandas as pd
import pytest

from sheaf.common.data import external_dir
from sheaf.wonderbread import audit, outputs, published, rescore

needs_outputs = pytest.mark.skipif(external_dir("wonderbread") is None, reason="the published outputs are not here (SHEAF_DATA)")


@needs_outputs
def test_all_fifty_four_cells_and_the_pooled_values() -> None:
    items = rescore.generation_items()
    assert rescore.equal_cells(rescore.generation_table(items)).sum() == 54
    pooled = rescore.generation_pooled(items)
    assert np.abs(pooled["mean"] - pooled["mean_published"]).max() < 1e-9
    assert np.abs(pooled["std"] - pooled["std_published"]).max() < 1e-9


@needs_outputs
def test_line_counts_from_texts_are_those_of_the_judge() -> None:
    raw, again = outputs.generation(), rescore.generation_items()
    assert (raw["lines_pred"] == again["lines_pred"]).all()
    assert (raw["lines_gold"] == again["lines_gold"]).all()


@needs_outputs
def test_answers_ranking_and_people() -> None:
    answers = outputs.judged_answers()
    assert rescore.worst_difference(rescore.qna_table(answers), published.qna()) <= 0.005
    questions = rescore.improvement_questions(answers)
    assert len(questions) == 80
    assert rescore.worst_difference(rescore.qna_table(questions), published.improvement_questions()) <= 0.005
    by_workflow = rescore.ranking_by_workflow(outputs.rankings())
    assert rescore.worst_difference(rescore.ranking_table(by_workflow), published.ranking()) < 1e-6
    corrected = by_workflow.groupby("model")["spearman"].mean()
    assert corrected["GPT4"] == pytest.approx(0.188, abs=5e-4)
    both = rescore.human_correlations().merge(published.human_correlation(), on=["what", "statistic"])
    assert len(both) == 8
    assert (both["value_x"] - both["value_y"]).abs().max() < 5e-4


def test_printed_accuracies_give_the_printed_f1() -> None:
    rows = rescore.f1_from_accuracies()
    assert len(rows) == 8
    assert (rows["printed"] - rows["f1"]).abs().max() <= 0.005


def test_every_reconstruction_rounds_to_its_row() -> None:
    table = rescore.reconstructed_table()
    for row in table.itertuples():
        assert row.tp + row.fn + row.tn + row.fp == row.n
        assert abs(row.recall - row.printed_precision) <= 0.005 + 1e-9
        assert abs(row.precision - row.printed_recall) <= 0.005 + 1e-9
        assert abs(row.f1 - row.printed_f1) <= 0.005 + 1e-9
        assert row.ba_low <= row.balanced_accuracy <= row.ba_high
    assert table.loc[0, "tables"] == 1


def test_constants_have_half_the_balanced_accuracy() -> None:
    frame = audit.swapped(resamples=500)
    flat = frame[frame["setting"] == "reads nothing"]
    assert (flat["balanced_accuracy"] == 0.5).all()
    assert audit.constants("trajectory")["always yes"].audited()["f1"] == pytest.approx(0.25)
    assert audit.constants("completion")["always yes"].audited()["f1"] == pytest.approx(0.40)


def test_frames_give_baselines_between_chance_and_truth() -> None:
    frame = audit.frame_baselines(published.key_frames(), recordings=200).set_index("system")
    assert frame.loc["random cuts", "ari"] < frame.loc["equal thirds", "ari"] < 1
    capped = frame.loc["perfect on the first 16 frames"]
    assert capped["ari"] < frame.loc["perfect on the first 20 frames", "ari"] < 1
    assert capped["share_cut"] > 0.9


def test_key_frames_are_those_of_the_data_description() -> None:
    frames = published.key_frames()
    assert (len(frames), max(frames), np.median(frames)) == (140, 71, 10)
    assert np.mean(frames) == pytest.approx(11.6, abs=0.1)


@pytest.mark.parametrize(
    ("answer", "misses"),
    [("There is not enough context to answer.", True), ("I cannot see any screenshots.", True),
     ("The user clicks Save and the issue is created.", False), ("The workflow ends on the orders page.", False)],
)  # fmt: skip
def test_phrases_of_missing_evidence(answer: str, misses: bool) -> None:
    assert audit.misses_context(answer) is misses


def test_leak_reads_the_three_texts_of_a_task() -> None:
    rows = pd.DataFrame({
        "model": "m", "task_id": np.repeat(range(60), 4), "demo": np.repeat([str(i) for i in range(60)], 4),
        "text": ["x" * 40, "x" * 10, "x" * 20, "x" * 30] * 60, "rank": [1, 2, 3, 4] * 60, "listed": [1, 2, 3, 4] * 60,
    })  # fmt: skip

    def longest(texts: list[str]) -> list[int]:
        return [int(i) + 1 for i in np.argsort([-len(text) for text in texts], kind="stable")]

    frame = audit.leak(rows, dict.fromkeys(range(60), ""), {"longest": longest}).set_index(["ranker", "reading"])
    assert frame.loc[("longest", "all"), "top_1"] == 1
    assert frame.loc[("longest", "without the best"), "spearman"] == pytest.approx(-1)
    assert frame.loc[("longest", "best as first written"), "top_1"] == 0
    assert frame.loc[("m", "all"), "spearman"] == pytest.approx(1)


def test_without_the_outputs_one_sentence_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setenv("SHEAF_DATA", str(tmp_path))
    assert not outputs.available()
    with pytest.raises(FileNotFoundError, match="set SHEAF_DATA"):
        outputs.folder()
