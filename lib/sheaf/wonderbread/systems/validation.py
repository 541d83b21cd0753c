"""Was a workflow completed, did a recording follow its procedure: validators that give a score, and one rule to cut it.

A validator sees the demonstration as shown (intent, states, actions, procedure), never its kind, its label, its policy, or
the numbers and clocks that an altered copy still carries. Cuts are chosen on other workflows than the one they judge.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from sheaf.wonderbread.configs import ValidationItem
from sheaf.wonderbread.dsl import key_name
from sheaf.wonderbread.systems.steps import acted_steps, realise
from sheaf.wonderbread.systems.text import line_similarity, slot_values, split_sop
from sheaf.wonderbread.systems.views import Turn, element_noun, frames_of, turns_of
from sheaf.wonderbread.trace import ActionData, Demo, target

__all__ = ["COMPLETION", "TRAJECTORY", "Validator", "answers", "best_cut"]

GAP = 0.05  # cost of a line or a step without a partner, in units of likeness
TAIL = 3  # last frames in which the values of the intent are looked for


@dataclass(frozen=True)
class Validator:
    """A score for a demonstration, higher for a sound one.

    Attributes:
        name, reads: for the reader.
        score: never sees more of an item than its demonstration.
        cut: yes from here on; None: chosen on other workflows.
    """

    name: str
    reads: str
    score: Callable[[Demo], float]
    cut: float | None = None


def best_cut(scores: np.ndarray, labels: np.ndarray) -> float:
    """The cut with the greatest balanced accuracy; of equal ones the middle one. Half-way between neighbouring scores."""
    values = np.unique(scores)
    cuts = np.r_[values[0] - 1, (values[1:] + values[:-1]) / 2, values[-1] + 1]
    found = []
    for cut in cuts:
        yes = scores >= cut
        found.append((yes[labels].mean() + (~yes[~labels]).mean()) / 2 if labels.any() and not labels.all() else 0.5)
    best = np.flatnonzero(np.isclose(found, np.max(found)))
    return float(cuts[best[len(best) // 2]])


def answers(validator: Validator, items: Sequence[ValidationItem], *, folds: int = 4, seed: int = 0) -> np.ndarray:
    """[n] yes or no for every item.

    Workflows are dealt to ``folds`` groups; the cut for one group is chosen on all the others. With a single workflow
    there are no others, and a validator without a cut of its own says yes.
    """
    scores = np.array([validator.score(item.demo) for item in items])
    if validator.cut is not None:
        return scores >= validator.cut
    labels = np.array([item.label for item in items])
    names = [item.demo.template or str(item.demo.task_id) for item in items]
    templates = sorted(set(names))
    dealt = np.random.default_rng(seed).permutation(len(templates)) % min(folds, len(templates))
    fold = dealt[[templates.index(name) for name in names]]
    out = np.ones(len(items), dtype=bool)
    for k in np.unique(fold):
        held = fold == k
        if (~held).any():
            out[held] = scores[held] >= best_cut(scores[~held], labels[~held])
    return out


def _final_state(demo: Demo) -> float:
    """A confirmation that was not there before stands in the last frame, and the intent's values were seen at the end."""
    frames = frames_of(demo.states)
    if not frames:
        return 0.0
    fresh = set(frames[-1].successes) - (set(frames[-2].successes) if len(frames) > 1 else set())
    wanted = [slot.text.lower() for slot in slot_values(demo.intent)]
    text = " ".join(frame.text for frame in frames[-TAIL:]).lower()
    seen = np.mean([value in text for value in wanted]) if wanted else 1.0
    return float(bool(fresh)) * (0.5 + 0.5 * float(seen))


def _last_line(demo: Demo) -> float:
    """How much the last steps of the recording resemble the last lines of the procedure."""
    steps, lines = realise(acted_steps(demo)), split_sop(demo.sop or "")[1]
    return float(line_similarity(steps[-2:], lines[-2:]).max()) if steps and lines else 0.0


def _share_done(demo: Demo) -> float:
    """Steps of the recording for each line of the procedure."""
    return len(acted_steps(demo)) / max(1, len(split_sop(demo.sop or "")[1]))


def _alignment(demo: Demo) -> float:
    """Score of the best global alignment (Needleman and Wunsch) of steps to lines, each line's best taken as one."""
    steps, lines = realise(acted_steps(demo, keep_detours=True)), split_sop(demo.sop or "")[1]
    alike = line_similarity(steps, lines)
    if not alike.size:
        return 0.0
    table = np.zeros((len(steps) + 1, len(lines) + 1))
    table[:, 0], table[0, :] = -GAP * np.arange(len(steps) + 1), -GAP * np.arange(len(lines) + 1)
    for i in range(1, len(steps) + 1):
        for j in range(1, len(lines) + 1):
            aside = max(table[i - 1, j], table[i, j - 1]) - GAP
            table[i, j] = max(table[i - 1, j - 1] + alike[i - 1, j - 1], aside)
    return float(table[-1, -1] / max(alike.max(axis=0).sum(), 1e-9))


def _continuity(demo: Demo) -> float:
    """Share of actions that fit their frames: what is hit is there, and typing does not move to another page.

    An altered copy joins frames that never followed each other. No procedure is read.
    """
    turns = turns_of(demo)
    if not turns:
        return 0.0
    return float(np.mean([_fits(turn) for turn in turns]))


def _fits(turn: Turn) -> bool:
    data, before, after = turn.action.data, turn.before, turn.after
    if before is None or after is None or not isinstance(data, ActionData):
        return False
    element = target(turn.action)
    if data.type in ("mouseup", "keystroke") and element is not None and element.xpath and element.tag:
        here = {e.xpath: e for e in before.elements}
        if element.xpath in here and (here[element.xpath].tag != element.tag or here[element.xpath].label != element.label):
            return False
        if element.xpath not in here and data.type == "mouseup":
            return False
        still = data.type == "keystroke" or element_noun(element) in ("checkbox", "option", "field", "dropdown")
        if still and before.place != after.place:
            return False
    if data.type == "keypress" and key_name(data.key or "").lower() in ("tab", "shift") and before.place != after.place:
        return False
    return not (data.type == "scroll" and before.place != after.place)


def _process_fitness(demo: Demo) -> float:
    """Fitness of the optimal alignment (pm4py) of the recording to a net in which the lines follow each other."""
    import pandas as pd
    import pm4py
    from pm4py.objects.petri_net.obj import Marking, PetriNet
    from pm4py.objects.petri_net.utils import petri_utils

    steps, lines = realise(acted_steps(demo, keep_detours=True)), split_sop(demo.sop or "")[1]
    alike = line_similarity(steps, lines)
    if not alike.size:
        return 0.0
    net = PetriNet("procedure")
    places = [PetriNet.Place(f"p{k}") for k in range(len(lines) + 1)]
    for place in places:
        net.places.add(place)
    for k in range(len(lines)):
        transition = PetriNet.Transition(f"t{k}", f"line {k}")
        net.transitions.add(transition)
        petri_utils.add_arc_from_to(places[k], transition, net)
        petri_utils.add_arc_from_to(transition, places[k + 1], net)
    near = alike.max(axis=1) >= 2 * GAP  # a step that resembles no line is no event
    labels = [f"line {k}" for k in alike.argmax(axis=1)[near]] or ["none"]
    when = pd.date_range("2024-01-01", periods=len(labels), freq="s")
    log = pd.DataFrame({"case:concept:name": "1", "concept:name": labels, "time:timestamp": when})
    found = pm4py.conformance_diagnostics_alignments(log, net, Marking({places[0]: 1}), Marking({places[-1]: 1}))
    return float(found[0]["fitness"])


COMPLETION = (
    Validator("always yes", "nothing", lambda _: 1.0, 0.5),
    Validator("always no", "nothing", lambda _: 0.0, 0.5),
    Validator("final state", "intent, last frames", _final_state, 0.5),
    Validator("last line", "procedure, actions", _last_line),
    Validator("steps per line", "procedure, actions", _share_done),
)
TRAJECTORY = (
    Validator("always yes", "nothing", lambda _: 1.0, 0.5),
    Validator("always no", "nothing", lambda _: 0.0, 0.5),
    Validator("alignment", "procedure, actions", _alignment),
    Validator("process model (pm4py)", "procedure, actions", _process_fitness),
    Validator("continuity", "frames, actions", _continuity, 1.0),
)
