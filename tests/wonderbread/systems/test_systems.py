"""The offline systems: what each may read, and cases whose answer is plain."""

from dataclasses import replace

import numpy as np
import pytest

from sheaf.wonderbread import configs
from sheaf.wonderbread.corpus import Corpus, shipped_corpus
from sheaf.wonderbread.systems import improvement, qna, ranking, segmentation, validation
from sheaf.wonderbread.systems.generation import SETTINGS, generate
from sheaf.wonderbread.systems.text import slot_values, split_sop
from sheaf.wonderbread.systems.views import Frame
from sheaf.wonderbread.trace import ActionItem, Element, Trace

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return shipped_corpus()


class Untouchable:
    """Stands for what a system must not read."""

    def __getattr__(self, name: str) -> object:
        raise AssertionError(f"read .{name}")


def test_the_intent_alone_means_the_intent_alone(corpus: Corpus) -> None:
    demo = corpus.gold()[0]
    blind = replace(demo, trace=Untouchable(), sop=Untouchable(), original_sop=Untouchable())  # type: ignore[arg-type]
    assert generate("TD", blind, corpus) == generate("TD", demo, corpus)


def test_key_frames_alone_give_the_same_text_whatever_the_actions_were(corpus: Corpus) -> None:
    demo = corpus.gold()[0]
    scrambled = [
        item.model_copy(update={"data": item.data.model_copy(update={"type": "scroll", "element_attributes": None, "key": None})})
        if isinstance(item, ActionItem) else item
        for item in demo.trace.trace
    ]  # fmt: skip
    other = replace(demo, trace=Trace(trace=scrambled, webarena=demo.trace.webarena), sop=Untouchable())  # type: ignore[arg-type]
    assert generate("TD+KF", other, corpus) == generate("TD+KF", demo, corpus)
    assert generate("TD+KF+ACT", replace(other, sop=None), corpus) != generate("TD+KF+ACT", demo, corpus)


def test_every_setting_writes_a_numbered_procedure_and_an_unknown_one_is_refused(corpus: Corpus) -> None:
    for setting in SETTINGS:
        title, steps = split_sop(generate(setting, corpus.gold()[0], corpus))
        assert title
        assert len(steps) >= 2
    with pytest.raises(ValueError, match="settings: TD"):
        generate("KF", corpus.gold()[0], corpus)


def test_slot_values_are_found_in_an_intent() -> None:
    slots = slot_values("Approve invoice INV-1025 from 'Redfern Security' for Maria Lopez")
    assert [(s.kind, s.text) for s in slots] == [("number", "INV-1025"), ("quoted", "Redfern Security"), ("name", "Maria Lopez")]


def _shown(*pages: tuple[str, str]) -> segmentation.Frames:
    frames = [Frame(f"http://apps.invalid/{path}", "", (Element(text=text, tag="text"),)) for path, text in pages]
    return segmentation.Frames(tuple(frames), (None,) * len(frames))


THREE = [("a/1", "orders of the shop")] * 4 + [("b/2", "patients in the ward")] * 6 + [("c/3", "tickets that are open")] * 3
TRUTH = [0] * 4 + [1] * 6 + [2] * 3
SOPS = ["Tickets\n1. Look at the tickets that are open.", "Orders\n1. Open the orders of the shop.",
        "Ward\n1. List patients in the ward."]  # fmt: skip


@pytest.mark.parametrize("name", ["page change", "text blocks", "change points", "clusters"])
def test_plain_borders_are_found_from_frames(name: str) -> None:
    assert segmentation.SEGMENTERS[name](_shown(*THREE), None, RNG) == TRUTH


@pytest.mark.parametrize("name", sorted(segmentation.WITH_SOPS))
def test_procedures_name_the_parts_whatever_order_they_are_given_in(name: str) -> None:
    found = segmentation.SEGMENTERS[name](_shown(*THREE), SOPS, RNG)
    assert found == [1] * 4 + [2] * 6 + [0] * 3
    with pytest.raises(ValueError, match="3 procedures"):
        segmentation.SEGMENTERS[name](_shown(*THREE), None, RNG)


@pytest.mark.parametrize("name", sorted(set(segmentation.SEGMENTERS) - segmentation.WITH_SOPS))
def test_every_segmenter_gives_three_parts_in_order(name: str, corpus: Corpus) -> None:
    shown = segmentation.frames_shown(configs.concatenations(corpus)[0])
    labels = segmentation.SEGMENTERS[name](shown, None, np.random.default_rng(1))
    assert labels == sorted(labels)
    assert set(labels) == {0, 1, 2}


def test_segmenters_never_see_an_action(corpus: Corpus) -> None:
    recording = configs.concatenations(corpus)[0]
    shown = segmentation.frames_shown(recording)
    assert len(shown.frames) == sum(len(demo.states) for demo in recording.demos)
    assert set(vars(shown)) == {"frames", "pictures"}


def test_a_sound_recording_is_continuous_and_a_torn_one_is_not(corpus: Corpus) -> None:
    score = next(v for v in validation.TRAJECTORY if v.name == "continuity").score
    items = configs.trajectory_items(corpus)
    sound = [score(item.demo) for item in items if item.label]
    altered = [score(item.demo) for item in items if not item.label]
    assert min(sound) == 1
    assert np.mean(altered) < 1


def test_the_final_state_refuses_what_was_cut(corpus: Corpus) -> None:
    score = next(v for v in validation.COMPLETION if v.name == "final state").score
    items = configs.completion_items(corpus)
    said = {label: np.mean([score(i.demo) >= 0.5 for i in items if i.label is label]) for label in (True, False)}
    assert said[True] > said[False]


def test_validators_read_no_label_kind_policy_number_or_clock(corpus: Corpus) -> None:
    item = configs.trajectory_items(corpus)[1]
    clock = {"id": 0, "step": 0, "timestamp": None, "secs_from_start": None}
    masked = [entry.model_copy(update={"data": entry.data.model_copy(update=clock)}) for entry in item.demo.trace.trace]
    blind = replace(item.demo, trace=Trace(trace=masked, webarena={}), policy="", completed=None, rank=None, name="")
    for validator in (*validation.COMPLETION, *validation.TRAJECTORY):
        assert validator.score(blind) == pytest.approx(validator.score(item.demo)), validator.name


def test_a_cut_is_chosen_on_other_workflows() -> None:
    scores, labels = np.array([0.1, 0.2, 0.8, 0.9]), np.array([False, False, True, True])
    assert 0.2 < validation.best_cut(scores, labels) <= 0.8
    demo = shipped_corpus().gold()[0]
    items = [
        configs.ValidationItem(replace(demo, template=f"w{k}", intent=str(value)), "true" if label else "skip", label)
        for k, sign in enumerate((1, 1, 1, -1)) for value, label in ((sign * 0.9, True), (sign * 0.1, False))
    ]  # fmt: skip
    odd = validation.Validator("odd", "", lambda d: float(d.intent))
    said = validation.answers(odd, items, folds=4)
    assert said[:6].tolist() == [True, False] * 3
    assert said[6:].tolist() == [False, False]  # its own workflow would have put the cut at -0.5


@pytest.mark.parametrize("name", sorted(ranking.RANKERS))
def test_rankers_give_permutations(name: str) -> None:
    texts = ["Pay\n1. Open the 'bill'.", "Pay\n1. Open.\n2. Pay it now.", "Pay\n1. Click the button at the top left of the page."]
    assert sorted(ranking.RANKERS[name](texts)) == [1, 2, 3]
    assert ranking.RANKERS[name](texts) == ranking.RANKERS[name](texts)


def test_longest_first_is_longest_first() -> None:
    assert ranking.RANKERS["longest"](["aa", "aaaa", "a"]) == [2, 1, 3]
    assert ranking.RANKERS["shortest"](["aa", "aaaa", "a"]) == [3, 1, 2]


def test_rubric_counts_what_it_says() -> None:
    lines = ["1. Click the 'Pay' button at the bottom of the page.", "2. If it is grey, select the 'Bill' row."]
    good = improvement.rubric("\n".join(["Pay", *lines]))
    assert good["named_element"] == 1
    assert good["location"] == 1
    assert good["edge_cases"] == 1
    poor = improvement.rubric("Pay\n1. Open it and then click save.\n2. Do the rest.")
    assert poor["one_action"] == 0
    assert poor["named_element"] == 0
    assert improvement.rubric("") == dict.fromkeys(improvement.RUBRIC, 0.0)


def test_rewriting_splits_and_names_and_never_reads_the_reference(corpus: Corpus) -> None:
    demo = next(d for d in corpus.gold() if d.original_sop)
    blind = replace(demo, sop=Untouchable())  # type: ignore[arg-type]
    text = improvement.improve(demo.original_sop or "", blind)
    before, after = improvement.rubric(demo.original_sop or ""), improvement.rubric(text)
    assert after["named_element"] >= before["named_element"]
    assert split_sop(text)[0] == split_sop(demo.original_sop or "")[0]


def test_questions_have_their_answer_in_the_evidence_where_they_can(corpus: Corpus) -> None:
    asked = qna.questions(corpus)
    assert {question.kind for question in asked} >= {"purpose", "after", "outcome"}
    after = next(question for question in asked if question.kind == "after")
    assert qna.ANSWERERS["BM25"](after) == after.reference
    assert qna.overlap("the same words", "the same words") == {"token_f1": 1.0, "rouge_l": 1.0}
