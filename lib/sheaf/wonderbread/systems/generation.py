"""Procedures written without a model, one system a setting of the paper: TD, TD+KF, TD+KF+ACT."""

import re
from typing import Literal, cast, get_args

import numpy as np

from sheaf.wonderbread.corpus import Corpus
from sheaf.wonderbread.systems.steps import acted_steps, guessed_steps, realise
from sheaf.wonderbread.systems.text import Slot, join_sop, slot_values, split_sop, tfidf
from sheaf.wonderbread.systems.views import frames_of
from sheaf.wonderbread.trace import Demo

__all__ = ["SETTINGS", "Setting", "generate", "retrieve", "substitute"]

Setting = Literal["TD", "TD+KF", "TD+KF+ACT"]
SETTINGS: tuple[Setting, ...] = get_args(Setting)


def generate(setting: str, demo: Demo, corpus: Corpus) -> str:
    """A procedure for a demonstration: its intent as the title, then numbered lines (paper, SOP generation).

    TD reads the intent, and the intents and procedures of other templates in the corpus; never the trace. TD+KF reads
    the intent and the states' addresses, titles and elements; never an action, never the corpus. TD+KF+ACT reads the
    actions too. None reads the demonstration's own procedure.

    Raises:
        ValueError: an unknown setting.
    """
    match setting:
        case "TD":
            return _from_intent(demo, corpus)
        case "TD+KF":
            return join_sop(demo.intent, realise(guessed_steps(frames_of(demo.states))))
        case "TD+KF+ACT":
            return join_sop(demo.intent, realise(acted_steps(demo)))
        case _:
            raise ValueError(f"no setting {setting!r}; settings: {', '.join(SETTINGS)}")


def retrieve(demo: Demo, corpus: Corpus) -> Demo | None:
    """The gold demonstration of another template whose intent is nearest by TF-IDF; None when there is no other.

    Slot values are blanked out first: two tasks on the same supplier are not alike for that.
    """
    own = _group(demo)
    others = [d for d in corpus.gold() if d.sop and _group(d) != own and d.task_id != demo.task_id]
    if not others:
        return None
    vectors = tfidf([_blank(d.intent) for d in (demo, *others)])
    return others[int(np.argmax(vectors[1:] @ vectors[0]))]


def substitute(text: str, old: list[Slot], new: list[Slot]) -> str:
    """A text with the values of one intent replaced by those of another: the k-th of a kind by the k-th of that kind.

    Values without a counterpart stay, so a retrieved procedure may speak of something that is not meant.
    """
    pairs: dict[str, str] = {}
    for kind in ("quoted", "number", "name"):
        sources, targets = ([s.text for s in slots if s.kind == kind] for slots in (old, new))
        pairs |= {source: value for source, value in zip(sources, targets, strict=False) if source not in pairs}
    if not pairs:
        return text
    longest_first = sorted(pairs, key=len, reverse=True)
    pattern = re.compile("|".join(rf"(?<!\w){re.escape(source)}(?!\w)" for source in longest_first))
    return pattern.sub(lambda found: pairs[found[0]], text)  # one pass: a value put in is not replaced again


def _from_intent(demo: Demo, corpus: Corpus) -> str:
    nearest = retrieve(demo, corpus)
    if nearest is None:
        return join_sop(demo.intent, [demo.intent])
    _, steps = split_sop(cast(str, nearest.sop))
    old, new = slot_values(nearest.intent), slot_values(demo.intent)
    return join_sop(demo.intent, [substitute(step, old, new) for step in steps])


def _blank(intent: str) -> str:
    for slot in slot_values(intent):
        intent = intent.replace(slot.text, " ")
    return intent


def _group(demo: Demo) -> str:
    return demo.template or f"task {demo.task_id}"
