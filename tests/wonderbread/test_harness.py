"""The six tasks from end to end on the shipped corpus: frames of the promised shape, paired as promised."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from sheaf.common import plots
from sheaf.wonderbread import (
    charts,
    experiments,
    harness,
    model_run,
    outputs,
    pictures,
    published,
    rehearsal,
    samples,
    tables,
    trials,
)
from sheaf.wonderbread.corpus import Corpus, shipped_corpus
from sheaf.wonderbread.systems.ranking import RANKERS


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return shipped_corpus()


@pytest.fixture(scope="module")
def cut(corpus: Corpus) -> trials.Cut:
    return trials.segmentation(corpus, 0)


@pytest.fixture(scope="module")
def checked(corpus: Corpus) -> pd.DataFrame:
    return trials.validation(corpus, 0)


def test_the_ladder_scores_every_gold_demonstration_in_every_setting(corpus: Corpus) -> None:
    steps = harness.ladder(corpus)
    assert len(steps) == 3 * len(corpus.gold())
    assert steps[["precision", "recall", "f1"]].to_numpy().min() >= 0
    assert len(harness.paired(steps, "TD", "TD+KF")) == len(corpus.gold())
    assert harness.ladder(corpus).equals(steps)


def test_a_perfect_writer_would_score_one(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "generate", lambda setting, demo, corpus: demo.sop)
    assert harness.ladder(corpus)["f1"].min() == 1


def test_a_cut_knows_its_truth(cut: trials.Cut) -> None:
    for recording, truth in cut.truth.items():
        assert sorted(set(truth)) == [0, 1, 2]
        assert len(cut.labels[recording, "equal thirds"]) == len(truth)
    table = trials.segmentation_table(cut)
    assert table["ari"].between(-0.5, 1).all()
    assert (table[table["reads"] == "nothing"]["system"] == ["equal thirds", "random cuts"]).all()


def test_validators_answer_every_item_and_constants_score_one_half(checked: pd.DataFrame) -> None:
    table = trials.validation_table(checked, resamples=500)
    constant = table[table["system"].str.startswith("always")]
    assert (constant["balanced_accuracy"] == 0.5).all()
    assert set(checked["kind"]) == {"true", "truncate", "skip", "shuffle", "wrong"}
    assert "altered copies" in trials.undetectable(checked)


def test_improvement_and_questions(corpus: Corpus) -> None:
    rewritten = harness.improvement(corpus)
    assert len(rewritten) == len([d for d in corpus.gold() if d.original_sop])
    assert {"recall", "one_action"} <= set(harness.improvement_table(rewritten)["measure"])
    assert harness.questions_table(corpus)["rouge_l"].between(0, 1).all()


def test_ranking_here_reads_ranks_as_ranks(corpus: Corpus) -> None:
    ranked = harness.rank_here(corpus)
    assert set(ranked["system"]) == set(RANKERS)
    assert ranked["spearman"].between(-1, 1).all()


def test_a_stand_in_is_not_asked_twice(corpus: Corpus) -> None:
    first, second = rehearsal.twice(corpus, limit=1)
    assert first > 10
    assert second == 0


def test_without_a_model_every_row_says_so() -> None:
    table = model_run.without_a_model()
    assert (table["value"] == "not run").all()
    assert table["task"].nunique() == len(model_run.SETTINGS)


def test_damaged_folders_are_told_from_sound_ones(corpus: Corpus) -> None:
    table = experiments.import_check(corpus)
    assert table.loc[0, "broken"] == 0
    damaged = table.iloc[1:]
    assert len(damaged) == len(experiments.DAMAGES)
    assert (damaged["what the importer says"] != "").all()
    assert set(experiments.valid_share(corpus)) == {1.0}


def test_a_profile_that_does_not_record_uses_what_ships() -> None:
    found = experiments.corpus_for({"record": False}, 0)
    assert len(found.corpus.demos) == 9
    assert "ship" in found.source


def test_without_a_browser_the_notebooks_use_what_ships_and_say_so(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    from sheaf.common.browser import BrowserMissing

    def refuse(*args: object, **options: object) -> None:
        raise BrowserMissing("no Chromium was found")

    monkeypatch.setenv("SHEAF_CACHE", str(tmp_path))
    monkeypatch.setattr(experiments, "record_corpus", refuse)
    found = experiments.corpus_for({"record": True, "templates": 1, "fillings": 1, "policies": ["direct"]}, 0)
    assert "nothing could be recorded here: no Chromium" in found.source


def test_every_picture_of_the_corpus_can_be_drawn(corpus: Corpus, cut: trials.Cut, checked: pd.DataFrame) -> None:
    drawn: list[Figure] = [
        pictures.pipeline(), pictures.filmstrip(corpus.gold()[0]), charts.segmented(*trials.example_cut(cut)),
        charts.segmentation_errors(*trials.cut_errors(cut)), charts.ladder(harness.ladder_rows(harness.ladder(corpus))),
        charts.balanced_accuracy(trials.validation_rows(checked, resamples=500)),
        charts.frame_lengths(published.key_frames(), [len(d.states) for d in corpus.demos]),
        charts.answer_axes(published.qna(), published.qna()),
    ]  # fmt: skip
    for fig in drawn:
        assert plots.svg_bytes(fig).startswith(b"<?xml")


def test_baselines_stand_below_the_published_systems() -> None:
    table = tables.segmentation(published.key_frames(), 200)
    assert {"published", "looks at nothing"} <= set(table["what"])
    assert len(tables.tasks()) == 6


@pytest.mark.skipif(not outputs.available(), reason="the published outputs are not here (SHEAF_DATA)")
def test_samples_on_published_outputs() -> None:
    rows, answers = outputs.rankings(), outputs.judged_answers()
    assert len(samples.longest_against(rows, "GPT4")) == 162
    assert samples.answer_difference(answers, "GeminiPro", "GPT4").mean() == pytest.approx(0.19, abs=0.01)
    assert samples.evidence_gap(answers, "Claude3", resamples=500)[0] < -0.5
    assert tables.counts().set_index("what").loc["demonstrations", "counted"] == 2928
    assert np.trace(tables.rank_counts(rows)) > 0
