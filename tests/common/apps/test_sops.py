"""Procedure texts: complete, by another hand than any sentence template, with the defects asked for."""

import re
from difflib import SequenceMatcher

import numpy as np
import pytest
from scipy.stats import spearmanr

from sheaf.common.apps import DEFECTS, WORKFLOWS, Workflow, gold_sop, original_sop, ranked_sops
from sheaf.common.apps.texts import procedure

EVERY = pytest.mark.parametrize("workflow", WORKFLOWS.values(), ids=lambda w: w.id)
TEMPLATE = re.compile(r"(click on|press the key|type the string|labeled|http)", re.IGNORECASE)


def numbered(text: str) -> tuple[str, list[str]]:
    title, *lines = text.split("\n")
    assert [line.split(". ")[0] for line in lines] == [str(i) for i in range(1, len(lines) + 1)]
    return title, [line.split(". ", 1)[1] for line in lines]


@EVERY
def test_the_gold_procedure_is_complete_and_names_every_value(workflow: Workflow) -> None:
    for slots in workflow.fillings:
        title, lines = numbered(gold_sop(workflow, slots))
        assert title and not title[0].isdigit() and 5 <= len(lines) <= 9
        assert not any(re.search(r"[\[\]{}]| [,;.]|  ", line) or TEMPLATE.search(line) for line in [title, *lines])
        assert all(line[0].isupper() or line.startswith(tuple(slots.values())) for line in lines)
        assert [value for value in slots.values() if value not in " ".join(lines)] == []
    text = procedure(workflow.id)
    for step in text.steps:  # the second hand says it differently
        assert SequenceMatcher(None, step.say[0], step.say[1]).ratio() < 0.9
        assert not any("{" in step.vague and slot in step.vague for slot in workflow.fillings[0])


def test_texts_are_not_shared_between_workflows() -> None:
    said = [step.say[i] for w in WORKFLOWS.values() for step in procedure(w.id).steps for i in (0, 1)]
    assert len(set(said)) > 0.97 * len(said)


def pattern(stored: str) -> re.Pattern[str]:
    """Matches what a stored phrasing can become, its brackets kept or not, to its full stop."""
    parts = re.split(r" ?\[([^]]*)\]", stored.rstrip("."))
    spelled = [re.escape(p) if i % 2 == 0 else f"(?: ?{re.escape(p)})?" for i, p in enumerate(parts)]
    return re.compile("".join(spelled))


@EVERY
@pytest.mark.parametrize("defect", DEFECTS)
def test_each_defect_is_in_the_text(workflow: Workflow, defect: str) -> None:
    slots, text = workflow.fillings[0], procedure(workflow.id)
    _, clean = numbered(original_sop(workflow, slots, [], np.random.default_rng(0)))
    patterns = [pattern(step.say[1].format(**slots)) for step in text.steps]

    def shorn(lines: list[str]) -> list[int]:
        """The step each line begins as, -1 for none."""
        return [next((i for i, p in enumerate(patterns) if p.match(line)), -1) for line in lines]

    n = len(patterns)
    assert shorn(clean) == list(range(n))
    for seed in range(5):
        _, lines = numbered(original_sop(workflow, slots, [defect], np.random.default_rng(seed)))
        found = shorn(lines)
        known = [i for i in found if i >= 0]
        if defect == "missing_step":
            assert len(lines) == n - 1 and known == sorted(set(known)) and len(known) == n - 1
        elif defect == "swapped_steps":
            assert len(lines) == n and known != sorted(known) and sorted(known) == list(range(n))
            at = next(k for k, i in enumerate(known) if i != k)
            assert not (text.steps[at].free and text.steps[at + 1].free)  # an order that does not matter is no defect
        elif defect == "vague_element":
            vague = {s.vague for s in text.steps}
            assert len(lines) == n and sum(line in vague for line in lines) == 1
        elif defect == "two_actions":
            assert len(lines) == n - 1 and known == sorted(set(known)) and len(known) == n - 1
            (second,) = set(range(n)) - set(known)
            first = lines[found.index(second - 1)]
            said = text.steps[second].say[1]
            assert pattern((said[0].lower() + said[1:]).format(**slots)).search(first)
        elif defect == "irrelevant_step":
            assert len(lines) == n + 1 and found.count(-1) == 1 and set(lines) & set(text.irrelevant)
        elif defect == "repeated_step":
            assert len(lines) == n + 1 and len(set(known)) == n
            twice = next(i for i in known if known.count(i) == 2)
            assert abs(known.index(twice) - (len(known) - 1 - known[::-1].index(twice))) > 1
        else:
            raise AssertionError(f"no test for {defect}")


def test_unknown_and_too_many_defects_are_refused() -> None:
    workflow = WORKFLOWS["store/delete_coupon"]
    with pytest.raises(ValueError, match="no defect 'typo'; defects: missing_step"):
        original_sop(workflow, workflow.fillings[0], ["typo"], np.random.default_rng(0))
    with pytest.raises(ValueError, match="too few for 12 defects"):
        original_sop(workflow, workflow.fillings[0], ["swapped_steps"] * 12, np.random.default_rng(0))
    with pytest.raises(ValueError, match="at least one"):
        ranked_sops(workflow, workflow.fillings[0], 0, np.random.default_rng(0))


def test_length_and_remarks_say_little_about_quality() -> None:
    """Rank correlations with the number of defects, over all tasks: near zero, so ranking by them is guessing."""
    for n in (3, 6):
        by_length, by_remarks, best_longest = [], [], 0
        for k, workflow in enumerate(WORKFLOWS.values()):
            notes = procedure(workflow.id).notes
            for f, slots in enumerate(workflow.fillings):
                texts = ranked_sops(workflow, slots, n, np.random.default_rng([n, k, f]))
                assert [defects for _, defects in texts] == list(range(n)) and len({text for text, _ in texts}) == n
                lengths = [len(text) for text, _ in texts]
                by_length.append(spearmanr(lengths, range(n)).statistic)
                best_longest += int(np.argmax(lengths) == 0)
                remarks = [sum(note in text for note in notes) for text, _ in texts]
                by_remarks.append(spearmanr(remarks, range(n)).statistic if len(set(remarks)) > 1 else 0.0)
        assert abs(np.mean(by_length)) < 0.12, np.mean(by_length)
        assert abs(np.mean(by_remarks)) < 0.15, np.mean(by_remarks)
        if n == 6:
            assert max(map(abs, by_length)) < 0.75  # not only on average
        assert 0.3 / n < best_longest / len(by_length) < 2 / n


def test_ranked_texts_mix_both_hands_at_every_rank() -> None:
    first: list[float] = []
    for k, workflow in enumerate(WORKFLOWS.values()):
        slots = workflow.fillings[0]
        opening = [(s.say[0].format(**slots)[:12], s.say[1].format(**slots)[:12]) for s in procedure(workflow.id).steps]
        for text, _ in ranked_sops(workflow, slots, 4, np.random.default_rng(k)):
            _, lines = numbered(text)
            one = sum(any(line.startswith(a) for a, _ in opening) for line in lines)
            two = sum(any(line.startswith(b) for _, b in opening) for line in lines)
            first.append(one / (one + two))
    shares = np.reshape(first, (-1, 4)).mean(axis=0)
    assert np.all((shares > 0.35) & (shares < 0.65)), shares


def test_the_same_seed_gives_the_same_texts() -> None:
    workflow = WORKFLOWS["hospital/submit_claims"]
    made = [ranked_sops(workflow, workflow.fillings[1], 5, np.random.default_rng(s)) for s in (1, 1, 2)]
    assert made[0] == made[1] != made[2]
