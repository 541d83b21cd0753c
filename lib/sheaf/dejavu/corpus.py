"""What the miniatures read: a generated language with facts to look up and facts to remember, or the letters of real text.

The generated language has a word per token. A document is a row of passages: scenes whose facts are asked for a little later,
facts of a fixed world that can only be remembered, sums, and word lists that are repeated. Facts are asked for in the order in
which they were told: looking them up by name alone takes small models longer to learn than is at hand here.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

import torch
from torch import Tensor

from sheaf.common.data import external_dir

__all__ = ["TASKS", "Corpus", "Item", "has_text", "load", "task_items"]

CONTEXT = 64  # tokens a model sees
WORDS = ("land", "colour", "?", ".", ":", "plus", "is", "again", "said")
COLOURS = ("red", "blue", "green", "white", "black", "brown", "grey", "pink")
NUMBERS = [str(n) for n in range(19)]
_SYLLABLES = [c + v for c in "bdfgklmnprstvz" for v in "aeiou"]
_PEOPLE, _PLACES, _THINGS, _PETS, _TOWNS, _LANDS = 16, 12, 12, 24, 24, 8
_FACTS = 4  # of a scene
TASKS = ("place", "world", "colour", "sum", "repeat")


@dataclass(frozen=True)
class Item:
    """A question with its choices: the answer is ``choices[answer]``; every text is words with spaces between."""

    context: str
    choices: tuple[str, ...]
    answer: int


@dataclass(frozen=True)
class Corpus:
    """Token ids for training and for holding out, split by document, and the words they stand for."""

    name: str
    train: Tensor  # [documents, context + 1] int64
    held: Tensor
    vocabulary: tuple[str, ...]
    origin: str
    between: str = " "  # what stands between two tokens
    first: int = 0  # so many training documents, at the beginning, teach looking back; a training starts with them
    _ids: dict[str, int] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self._ids.update({word: i for i, word in enumerate(self.vocabulary)})

    def encode(self, text: str) -> list[int]:
        """Ids of a text.

        Raises:
            ValueError: a word that the vocabulary does not have.
        """
        words = text.split() if self.between == " " else list(text)
        unknown = sorted({w for w in words if w not in self._ids})
        if unknown:
            raise ValueError(f"{self.name} has no words {', '.join(map(repr, unknown[:5]))}; use those of its vocabulary")
        return [self._ids[w] for w in words]

    def decode(self, ids: Tensor | list[int]) -> str:
        """Text of ids."""
        return self.between.join(self.vocabulary[int(i)] for i in ids)


class _Language:
    """The words and the fixed facts of the generated language; the same for the same seed."""

    def __init__(self, seed: int = 0) -> None:
        rng = random.Random(seed)
        names: list[str] = []
        for _ in range(_PEOPLE + _PLACES + _THINGS + _PETS + _TOWNS + _LANDS):
            while (word := "".join(rng.choices(_SYLLABLES, k=rng.choice((2, 3))))) in names or word in WORDS:
                pass
            names.append(word)
        groups = iter(names)
        self.people, self.places, self.things, self.pets, self.towns, self.lands = (
            [next(groups) for _ in range(n)] for n in (_PEOPLE, _PLACES, _THINGS, _PETS, _TOWNS, _LANDS)
        )
        self.world = {town: rng.choice(self.lands) for town in self.towns}
        self.colours = {pet: rng.choice(COLOURS) for pet in self.pets}
        self.words = (*WORDS, *COLOURS, *NUMBERS, *names)

    def scene(self, rng: random.Random) -> tuple[list[str], list[str]]:
        """Who is where: people and their places."""
        return rng.sample(self.people, _FACTS), rng.sample(self.places, _FACTS)

    def passage(self, rng: random.Random) -> str:
        """One passage of a document."""
        kind = rng.random()
        if kind < 0.3:
            told = " ".join(f"{person} {place} ." for person, place in zip(*self.scene(rng), strict=True))
            return f"{told} ? {told}"
        if kind < 0.5:
            return " ".join(f"land ? {t} {self.world[t]} ." for t in rng.sample(self.towns, 3))
        if kind < 0.65:
            return " ".join(f"colour ? {p} {self.colours[p]} ." for p in rng.sample(self.pets, 3))
        if kind < 0.85:
            return " ".join(f"{a} plus {b} is {a + b} ." for a, b in (self.sum(rng) for _ in range(3)))
        words = rng.sample(self.things + self.places, 3 * _FACTS - 2)
        return f"{rng.choice(self.people)} said : {' '.join(words)} . again : {' '.join(words)} ."

    def drill(self, rng: random.Random, words: int) -> list[str]:
        """A list repeated until there are so many words: it teaches a small model to look back, within its first seconds."""
        row = rng.sample([*self.people, *self.places, *self.things], 3 * _FACTS + 1)
        return (row * (words // len(row) + 1))[:words]

    def sum(self, rng: random.Random) -> tuple[int, int]:
        """Two numbers that can be added within the language."""
        return rng.randrange(10), rng.randrange(9)

    def document(self, rng: random.Random, words: int) -> list[str]:
        """A document of exactly so many words."""
        text: list[str] = []
        while len(text) < words:
            text += self.passage(rng).split()
        return text[:words]


@cache
def _language() -> _Language:
    return _Language()


@cache
def load(name: str, documents: int = 8000, context: int = CONTEXT) -> Corpus:
    """"facts", the generated language, or "text", the letters of tiny Shakespeare under ``SHEAF_DATA``/text.

    Args:
        documents: to train on; another eighth is held out (of text: its last tenth, cut into windows).

    Raises:
        ValueError: unknown name.
        FileNotFoundError: "text" is not there.
    """
    if name == "facts":
        language = _language()
        ids = {word: i for i, word in enumerate(language.words)}

        def written(seed: int, n: int, make: Callable[[random.Random, int], list[str]]) -> Tensor:
            rng = random.Random(seed)
            return torch.tensor([[ids[w] for w in make(rng, context + 1)] for _ in range(n)])

        drills = documents // 4
        train = torch.cat([written(3, drills, language.drill), written(1, documents - drills, language.document)])
        held = written(2, max(16, min(documents // 8, 512)), language.document)
        origin = "generated: facts to look up, facts to remember, sums, repeated lists"
        return Corpus(name, train, held, language.words, origin, first=drills)
    if name != "text":
        raise ValueError(f"corpus {name!r} is unknown; use 'facts' or 'text'")
    folder = external_dir("text")
    file = folder / "tinyshakespeare" / "input.txt" if folder else None
    if file is None or not file.is_file():
        raise FileNotFoundError("text/tinyshakespeare/input.txt is not under SHEAF_DATA; run 'make data', or use 'facts'")
    text = file.read_text(encoding="utf-8")
    letters = tuple(sorted(set(text)))
    index = {letter: i for i, letter in enumerate(letters)}
    tokens = torch.tensor([index[c] for c in text])
    cut = len(tokens) * 9 // 10
    generator = torch.Generator().manual_seed(1)
    starts = torch.randint(cut - context, (documents,), generator=generator)
    train = tokens[starts[:, None] + torch.arange(context + 1)]
    spaced = torch.arange(cut, len(tokens) - context - 1, context)
    cuts = tokens[spaced[:, None] + torch.arange(context + 1)]
    shuffled = cuts[torch.randperm(len(cuts), generator=generator)]
    return Corpus(name, train, shuffled, letters, "tiny Shakespeare, a letter per token; its last tenth is held out", "")


def has_text() -> bool:
    """Whether real text is there."""
    folder = external_dir("text")
    return folder is not None and (folder / "tinyshakespeare" / "input.txt").is_file()


def task_items(task: str, n: int, seed: int = 0) -> list[Item]:
    """Held-out questions of one task of the generated language, three or four choices each, one of them right.

    Raises:
        ValueError: unknown task.
    """
    if task not in TASKS:
        raise ValueError(f"task {task!r} is unknown; use one of {', '.join(TASKS)}")
    rng = random.Random(f"{task} {seed}")
    return [_MAKERS.get(task, _remembered)(_language(), rng, task) for _ in range(n)]


def _choices(rng: random.Random, right: str, wrong: list[str], context: str) -> Item:
    options = [right, *wrong]
    rng.shuffle(options)
    return Item(context, tuple(options), options.index(right))


def _place(language: _Language, rng: random.Random, task: str) -> Item:
    people, places = language.scene(rng)
    told = [f"{person} {place} ." for person, place in zip(people, places, strict=True)]
    at = rng.randrange(_FACTS)
    context = " ".join([*told, "?", *told[:at], people[at]])
    return _choices(rng, places[at], [p for p in places if p != places[at]], context)


def _remembered(language: _Language, rng: random.Random, task: str) -> Item:
    facts, known, word = (
        (language.world, language.lands, "land") if task == "world" else (language.colours, list(COLOURS), "colour")
    )
    asked = rng.choice(list(facts))
    wrong = rng.sample([x for x in known if x != facts[asked]], 3)
    return _choices(rng, facts[asked], wrong, f"{language.passage(rng)} {word} ? {asked}")


def _sum(language: _Language, rng: random.Random, task: str) -> Item:
    a, b = language.sum(rng)
    near = [str(a + b + k) for k in (-2, -1, 1, 2) if 0 <= a + b + k <= 18]
    return _choices(rng, str(a + b), rng.sample(near, 2), f"{language.passage(rng)} {a} plus {b} is")


def _repeat(language: _Language, rng: random.Random, task: str) -> Item:
    words = rng.sample(language.things + language.places, 3 * _FACTS - 2)
    at = rng.randrange(2, len(words))
    wrong = rng.sample([w for i, w in enumerate(words) if i not in (at, at - 1)], 3)
    said = f"{rng.choice(language.people)} said : {' '.join(words)} . again : {' '.join(words[:at])}"
    return _choices(rng, words[at], wrong, said)


_MAKERS: dict[str, Callable[[_Language, random.Random, str], Item]] = {"place": _place, "sum": _sum, "repeat": _repeat}
