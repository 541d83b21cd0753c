"""Procedures as people would hand them in: the gold one, first drafts with known defects, sets of known quality.

Quality is the number of defects put in. Length says nothing about it: how wordy a text is is drawn apart from its
defects. And no text is of another hand: the two phrasings of every step are mixed in all of them.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from scipy.stats import rankdata

from sheaf.common.apps.texts import Procedure, plain, procedure
from sheaf.common.apps.workflow import Slots, Workflow

__all__ = ["DEFECTS", "gold_sop", "original_sop", "ranked_sops"]

OPTIONAL = re.compile(r" ?\[([^\]]*)\]")
TRIES = 200  # random choices of places before a set of defects counts as too large
DRAFTS = 80  # wordings to choose the wanted length from
SHORTEST, LONGEST = 0.9, 1.35  # relative to the plain procedure: what a text of any quality can reach


@dataclass(frozen=True)
class _Line:
    """A line to be: its phrasings, the step it comes from, whether a defect sits on it."""

    say: tuple[str, ...]
    step: int = -1
    free: bool = False
    touched: bool = False


Lines = list[_Line]


def gold_sop(workflow: Workflow, slots: Slots) -> str:
    """The procedure as it should be: title, then numbered lines."""
    title, *steps = (line.format(**slots) for line in workflow.gold_sop)
    return _numbered(title, steps)


def original_sop(workflow: Workflow, slots: Slots, defects: Sequence[str], rng: np.random.Generator) -> str:
    """A first version by the second hand, with these defects, each on steps of its own.

    Raises:
        ValueError: a defect that is none of ``DEFECTS``, or more of them than the procedure has room for.
    """
    if unknown := [d for d in defects if d not in DEFECTS]:
        raise ValueError(f"no defect {', '.join(map(repr, unknown))}; defects: {', '.join(DEFECTS)}")
    text = procedure(workflow.id)
    lines = [_Line((step.say[1],), i, step.free) for i, step in enumerate(text.steps)]
    placed = _place(lines, text, defects, rng)
    if placed is None:
        raise ValueError(f"{workflow.id} has {len(lines)} steps, too few for {len(defects)} defects on steps of their own")
    return _numbered(plain(text.titles[1]).format(**slots), _worded(placed, text, slots, 0.5, 0, rng))


def ranked_sops(workflow: Workflow, slots: Slots, n: int, rng: np.random.Generator) -> list[tuple[str, int]]:
    """``n`` different procedures with 0, 1, ..., n-1 defects, as (text, defects).

    Lengths are drawn so that their rank correlation with the number of defects is small (for two texts: of random
    sign), within what wording and remarks can do.

    Raises:
        ValueError: ``n`` below 1, or more defects than the procedure has room for.
    """
    if n < 1:
        raise ValueError(f"at least one procedure must be asked for; got {n}")
    text = procedure(workflow.id)
    clean = [_Line(step.say, i, step.free) for i, step in enumerate(text.steps)]
    usual = np.mean([_length(_worded(clean, text, slots, 0.5, 0, rng)) for _ in range(8)])
    targets = usual * np.linspace(SHORTEST, LONGEST, n)[_unrelated_order(n, rng)]
    out: list[tuple[str, int]] = []
    for count, target in enumerate(targets):
        lines = _with_defects(clean, text, count, workflow.id, rng)
        title = plain(text.titles[int(rng.integers(2))]).format(**slots)
        drafts = [_worded(lines, text, slots, float(rng.random()), int(rng.integers(4)), rng) for _ in range(DRAFTS)]
        drafts.sort(key=lambda draft: abs(_length(draft) - target))
        whole = (_numbered(title, draft) for draft in drafts)
        out.append((next(t for t in whole if t not in {known for known, _ in out}), count))
    return out


def _with_defects(clean: Lines, text: Procedure, count: int, name: str, rng: np.random.Generator) -> Lines:
    """The lines with ``count`` defects of kinds drawn without repeats as far as there are kinds."""
    for _ in range(TRIES):
        kinds = [DEFECTS[k] for turn in range(count // len(DEFECTS) + 1) for k in rng.permutation(len(DEFECTS))]
        if (placed := _place(clean, text, kinds[:count], rng)) is not None:
            return placed
    raise ValueError(f"{name} has {len(clean)} steps, too few for {count} defects on steps of their own")


def _place(lines: Lines, text: Procedure, defects: Sequence[str], rng: np.random.Generator) -> Lines | None:
    """The lines with all defects, or None when no way was found to keep them apart."""
    for _ in range(TRIES):
        now: Lines | None = list(lines)
        for defect in sorted(defects, key=_ORDER.index):
            now = _MAKERS[defect](now, text, rng) if now is not None else None
        if now is not None:
            return now
    return None


def _missing_step(lines: Lines, text: Procedure, rng: np.random.Generator) -> Lines | None:
    """A step is left out."""
    i = _one([i for i, line in enumerate(lines) if not line.touched] if len(lines) > 3 else [], rng)
    return None if i is None else lines[:i] + lines[i + 1 :]


def _swapped_steps(lines: Lines, text: Procedure, rng: np.random.Generator) -> Lines | None:
    """Two neighbouring steps whose order matters change places."""
    i = _one([i for i in _pairs(lines) if not (lines[i].free and lines[i + 1].free)], rng)
    if i is None:
        return None
    first, second = (replace(line, touched=True) for line in lines[i : i + 2])
    return [*lines[:i], second, first, *lines[i + 2 :]]


def _vague_element(lines: Lines, text: Procedure, rng: np.random.Generator) -> Lines | None:
    """A step no longer says which element is meant."""
    i = _one([i for i, line in enumerate(lines) if not line.touched], rng)
    if i is None:
        return None
    return [*lines[:i], replace(lines[i], say=(text.steps[lines[i].step].vague,), touched=True), *lines[i + 1 :]]


def _two_actions(lines: Lines, text: Procedure, rng: np.random.Generator) -> Lines | None:
    """Two steps are written as one."""
    i = _one(_pairs(lines), rng)
    if i is None:
        return None
    link = (" and then ", ", then ", " and ")[int(rng.integers(3))]
    both = tuple(a.rstrip(".") + link + b[0].lower() + b[1:] for a in lines[i].say for b in lines[i + 1].say)
    return [*lines[:i], _Line(both, touched=True), *lines[i + 2 :]]


def _irrelevant_step(lines: Lines, text: Procedure, rng: np.random.Generator) -> Lines | None:
    """A step of other work stands between the steps."""
    used = {say for line in lines for say in line.say}
    fresh = [step for step in text.irrelevant if step not in used]
    if not fresh:
        return None
    at = int(rng.integers(len(lines) + 1))
    return [*lines[:at], _Line((fresh[int(rng.integers(len(fresh)))],), touched=True), *lines[at:]]


def _repeated_step(lines: Lines, text: Procedure, rng: np.random.Generator) -> Lines | None:
    """A step is told again further down."""
    i = _one([i for i, line in enumerate(lines) if not line.touched and i + 2 <= len(lines)], rng)
    if i is None:
        return None
    again, at = replace(lines[i], touched=True), int(rng.integers(i + 2, len(lines) + 1))
    return [*lines[:i], again, *lines[i + 1 : at], again, *lines[at:]]


_MAKERS: dict[str, Callable[[Lines, Procedure, np.random.Generator], Lines | None]] = {
    "missing_step": _missing_step, "swapped_steps": _swapped_steps, "vague_element": _vague_element,
    "two_actions": _two_actions, "irrelevant_step": _irrelevant_step, "repeated_step": _repeated_step,
}  # fmt: skip
DEFECTS = tuple(_MAKERS)
# pairs of steps are looked for first, while most are still untouched
_ORDER = ("swapped_steps", "two_actions", "missing_step", "vague_element", "repeated_step", "irrelevant_step")


def _unrelated_order(n: int, rng: np.random.Generator) -> np.ndarray:
    """A permutation of 0..n-1 with a small rank correlation with 0..n-1; of random sign where it cannot be small."""
    drawn = [rng.permutation(n) for _ in range(50)]
    if n < 3:
        return drawn[0]
    size = [abs(float(np.corrcoef(np.arange(n), rankdata(order))[0, 1])) for order in drawn]
    return next((order for order, r in zip(drawn, size, strict=True) if r <= 0.3), drawn[int(np.argmin(size))])


def _pairs(lines: Lines) -> list[int]:
    """Places i where lines i and i+1 follow each other in the procedure and no defect sits on either."""
    return [
        i for i, (a, b) in enumerate(pairwise(lines))
        if not a.touched and not b.touched and b.step == a.step + 1
    ]  # fmt: skip


def _one(places: list[int], rng: np.random.Generator) -> int | None:
    return places[int(rng.integers(len(places)))] if places else None


def _worded(
    lines: Lines, text: Procedure, slots: Slots, fullness: float, notes: int, rng: np.random.Generator
) -> list[str]:
    """The lines in words: a phrasing each, every bracket kept with probability ``fullness``, ``notes`` remarks added."""
    said = [line.say[int(rng.integers(len(line.say)))] for line in lines]
    said = [OPTIONAL.sub(lambda m: m[0].replace("[", "").replace("]", "") if rng.random() < fullness else "", s) for s in said]
    remarks = [text.notes[i] for i in rng.permutation(len(text.notes))[:notes]]
    for place, remark in zip(rng.permutation(len(said)), remarks, strict=False):
        said[place] = f"{said[place]} {remark}"
    return [re.sub(r" ([,;])", r"\1", line).format(**slots) for line in said]


def _length(lines: list[str]) -> int:
    return sum(map(len, lines))


def _numbered(title: str, lines: Sequence[str]) -> str:
    return "\n".join([title, *(f"{i}. {line}" for i, line in enumerate(lines, 1))])
