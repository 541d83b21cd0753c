"""The paper's derived inputs: negatives for demo validation, concatenations for demo segmentation, same seeds.

Both are drawn from ``random.Random`` seeded by the demonstration's name, so anyone can draw them again.
"""

import hashlib
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from sheaf.wonderbread.corpus import Corpus
from sheaf.wonderbread.trace import ActionData, ActionItem, Demo, Item, StateItem, Trace, task_of_name

__all__ = [
    "MIN_STATES", "Concatenation", "Negatives", "ValidationItem", "completion_items", "concatenate", "concatenations",
    "seed_of", "segmentation_triples", "skip", "swap", "trajectory_items", "truncate", "validation_negatives",
]  # fmt: skip

MIN_STATES = 5  # a shorter demonstration has too few places for three negatives of a kind
MODULUS = 9_999_999


def seed_of(text: str) -> int:
    """The paper's seed of a text: the first 8 hex digits of its SHA-256, modulo 9,999,999."""
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) % MODULUS


@dataclass(frozen=True)
class Negatives:
    """State ids that make the negatives of one demonstration, ``k`` of each kind (paper, demo validation).

    Attributes:
        truncate: the state from which on everything goes, with the action before it.
        skip: two consecutive states that go, each with the action before it.
        shuffle: two states that change places, each with the action after it.
    """

    truncate: tuple[int, ...]
    skip: tuple[tuple[int, int], ...]
    shuffle: tuple[tuple[int, int], ...]


def validation_negatives(name: str, state_ids: Sequence[int], k: int = 3) -> Negatives | None:
    """The negatives of demonstration ``name`` with these state ids in order; None when it has fewer than 5 states.

    Raises:
        ValueError: ``k`` is not in 1..3, the number of places that the shortest usable demonstration has.
    """
    if not 1 <= k <= 3:
        raise ValueError(f"k is the number of negatives of a kind, 1 to 3; got {k}")
    n = len(state_ids)
    if n < MIN_STATES:
        return None
    cuts = _shuffled(range(1, n - 1), random.Random(seed_of(name + "_truncation")))[:k]
    skips = _shuffled(range(n - 2), random.Random(seed_of(name + "_skip")))[:k]
    generator = random.Random(seed_of(name + "_shuffle"))
    firsts = _shuffled(range(n - 2), generator)[:k]
    partners = [generator.choice([j for j in range(n - 1) if j != i]) for i in firsts]
    return Negatives(
        truncate=tuple(state_ids[i] for i in cuts),
        skip=tuple((state_ids[i], state_ids[i + 1]) for i in skips),
        shuffle=tuple((state_ids[i], state_ids[j]) for i, j in zip(firsts, partners, strict=True)),
    )


def truncate(trace: Trace, state_id: int) -> Trace:
    """The trace before a state: items with an id below ``state_id - 1``."""
    return _with(trace, (item for item in trace.trace if item.data.id < state_id - 1))


def skip(trace: Trace, state_ids: tuple[int, int]) -> Trace:
    """The trace without two states and without the action before each."""
    gone = {i for state_id in state_ids for i in (state_id, state_id - 1)}
    return _with(trace, (item for item in trace.trace if item.data.id not in gone))


def swap(trace: Trace, state_ids: tuple[int, int]) -> Trace:
    """The trace with two states exchanged, each with the action after it.

    Raises:
        ValueError: one of them is not a state with an action after it.
    """
    items = list(trace.trace)
    places = [next((i for i, item in enumerate(items) if item.data.id == state_id), -1) for state_id in state_ids]
    if any(i < 0 or i + 1 >= len(items) or not isinstance(items[i], StateItem) for i in places):
        raise ValueError(f"states {state_ids} cannot be exchanged: each must be a state with an action after it")
    one, two = places
    items[one : one + 2], items[two : two + 2] = items[two : two + 2], items[one : one + 2]
    return _with(trace, items)


@dataclass(frozen=True)
class ValidationItem:
    """One question of demo validation.

    Attributes:
        demo: what is shown: the demonstration, or its altered copy under the same name.
        kind: ``true``, ``truncate``, ``skip``, ``shuffle``, or ``wrong`` for a recorded one that missed its goal.
        label: the right answer.
        undetectable: the pictures, with repeats of the one before dropped, are those of the unaltered demonstration.
    """

    demo: Demo
    kind: str
    label: bool
    undetectable: bool = False


def completion_items(corpus: Corpus, k: int = 3, wrong: bool = False) -> list[ValidationItem]:
    """Was the task completed? Each gold demonstration and its ``k`` truncations; ``wrong`` adds the recorded failures."""
    out: list[ValidationItem] = []
    for demo, negatives in _usable(corpus, k):
        out.append(ValidationItem(demo, "true", True))
        out += [_negative(demo, "truncate", truncate(demo.trace, cut)) for cut in negatives.truncate]
    if wrong:
        out += [ValidationItem(demo, "wrong", False) for demo in corpus.demos if demo.completed is False]
    return out


def trajectory_items(corpus: Corpus, k: int = 3) -> list[ValidationItem]:
    """Was the procedure followed? Each gold demonstration, ``k`` copies with steps skipped, ``k`` with steps exchanged."""
    out: list[ValidationItem] = []
    for demo, negatives in _usable(corpus, k):
        out.append(ValidationItem(demo, "true", True))
        out += [_negative(demo, "skip", skip(demo.trace, pair)) for pair in negatives.skip]
        out += [_negative(demo, "shuffle", swap(demo.trace, pair)) for pair in negatives.shuffle]
    return out


def segmentation_triples(
    names: Sequence[str], site_of: Mapping[int, str], anchors: Iterable[str], as_published: bool = True
) -> dict[str, tuple[str, str, str]]:
    """For each anchor two demonstrations of other tasks of its site; anchors of sites too small are left out.

    Args:
        names: all demonstrations; their order within a task matters to the draw.
        site_of: task id to site.
        anchors: names to draw for.
        as_published: draw from all tasks of the site, the anchor's own included, as the published triples were: two of
            the 162 pair a task with itself. Otherwise the own task is left out.
    """
    by_task: dict[int, list[str]] = {}
    for name in names:
        by_task.setdefault(task_of_name(name), []).append(name)
    triples = {}
    for anchor in anchors:
        own = task_of_name(anchor)
        usable = (t for t in by_task if site_of.get(t) == site_of.get(own) and set(by_task[t]) != {anchor})
        pool = sorted(t for t in usable if as_published or t != own)
        if len(pool) < 2:
            continue
        generator = random.Random(seed_of(anchor + "_segmentation"))
        one, two = [generator.choice([n for n in by_task[t] if n != anchor]) for t in generator.sample(pool, 2)]
        triples[anchor] = (anchor, one, two)
    return triples


@dataclass(frozen=True)
class Concatenation:
    """Three demonstrations as one recording.

    Attributes:
        anchor: name it was drawn for.
        demos: in the order shown.
        items: states and actions; a Cmd+Tab stands between demonstrations as published.
        labels: for each item, the place in ``demos`` of the one it belongs to.
        scored: False for the Cmd+Tab actions, which the paper means to leave out of the score.
    """

    anchor: str
    demos: tuple[Demo, ...]
    items: tuple[Item, ...]
    labels: tuple[int, ...]
    scored: tuple[bool, ...]


def concatenate(demos: Sequence[Demo], trial: int = 0) -> Concatenation:
    """Demonstrations (the anchor first) joined in the published order: task ids ascending, then shuffled by ``trial``.

    A Cmd+Tab follows each but the last of ``demos`` as given, which need not be the last one shown (as published).
    """
    order = sorted(demos, key=lambda demo: demo.task_id)
    random.Random(trial).shuffle(order)
    items: list[Item] = []
    labels: list[int] = []
    scored: list[bool] = []
    for place, demo in enumerate(order):
        own: list[Item] = list(demo.trace.trace)
        switch = demo is not demos[-1]
        if switch:
            last = own[-1].data
            data = ActionData(id=last.id + 1, step=last.step + 1, type="keypress", key="Key.cmd Key.tab")
            own.append(ActionItem(data=data))
        items += own
        labels += [place] * len(own)
        scored += [True] * (len(own) - switch) + [False] * switch
    return Concatenation(demos[0].name, tuple(order), tuple(items), tuple(labels), tuple(scored))


def concatenations(corpus: Corpus, as_published: bool = False, trial: int = 0) -> list[Concatenation]:
    """A concatenation for each gold demonstration of the corpus whose site has enough other tasks."""
    site_of = {demo.task_id: demo.site for demo in corpus.demos}
    names = [demo.name for demo in corpus.demos if demo.completed is not False]
    triples = segmentation_triples(names, site_of, [demo.name for demo in corpus.gold()], as_published)
    return [concatenate([corpus.demo(name) for name in triple], trial) for triple in triples.values()]


def _usable(corpus: Corpus, k: int) -> Iterable[tuple[Demo, Negatives]]:
    for demo in corpus.gold():
        if (negatives := validation_negatives(demo.name, [s.data.id for s in demo.states], k)) is not None:
            yield demo, negatives


def _negative(demo: Demo, kind: str, trace: Trace) -> ValidationItem:
    altered = replace(demo, trace=trace)
    return ValidationItem(altered, kind, False, _seen(altered) == _seen(demo))


def _seen(demo: Demo) -> list[str]:
    """What a viewer of the key frames sees: a digest a state (of its elements without a picture), repeats dropped."""
    out: list[str] = []
    for k, state in enumerate(demo.states):
        path = demo.screenshot(k)
        shown = path.read_bytes() if path else (state.data.json_state or "").encode()
        if (digest := hashlib.sha256(shown).hexdigest()) not in out[-1:]:
            out.append(digest)
    return out


def _with(trace: Trace, items: Iterable[StateItem | ActionItem]) -> Trace:
    return trace.model_copy(update={"trace": list(items)})


def _shuffled(values: range, generator: random.Random) -> list[int]:
    out = list(values)
    generator.shuffle(out)
    return out
