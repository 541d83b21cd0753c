"""Procedure texts as lines, verbs and slot values, and how alike two sets of lines are; no model, nothing learned."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = [
    "VERBS", "Slot", "content_words", "join_sop", "line_similarity", "quoted", "slot_values", "split_sop", "tfidf",
    "verb_class", "verbs",
]  # fmt: skip

NUMBERING = re.compile(r"^\s*(?:step\s*)?\(?\d{1,3}\s*[.):]\s*", re.IGNORECASE)
BULLET = re.compile(r"^\s*[-*•]\s+")
# An apostrophe inside a word ("supplier's") opens nothing.
QUOTED = re.compile(r"(?<!\w)'([^'\n]{1,200})'(?!\w)|\"([^\"\n]{1,200})\"|“([^”\n]{1,200})”|‘([^’\n]{1,200})’")
NUMBER = re.compile(r"(?<![\w.])[$€£#]?(?=[\w/,.:-]*\d)[\w]+(?:[/,.:-]\w+)*%?")
NAME = re.compile(r"\b[A-Z][\w&’'-]*(?:\s+(?:(?:of|and|for|the|&)\s+)?[A-Z][\w&’'-]*)*")
WORD = re.compile(r"[a-z0-9]+(?:[.'@/-][a-z0-9]+)*")
_STOP_WORDS = (
    "a an and are as at be by for from if in into is it its of on onto or so that the then "
    "there this to up will with you your"
)
STOP = frozenset(_STOP_WORDS.split())
VERBS = {  # imperative verb -> the kind of action that it asks for
    **dict.fromkeys(["click", "tap", "hit", "push"], "click"),
    **dict.fromkeys(["press"], "press"),
    **dict.fromkeys(["type", "enter", "input", "fill", "write", "key", "provide", "set", "change", "update", "edit"], "type"),
    **dict.fromkeys(["select", "choose", "pick", "tick", "check", "untick", "uncheck", "toggle", "clear", "mark"], "select"),
    **dict.fromkeys(["go", "open", "navigate", "visit", "return", "access", "head", "follow"], "go"),
    **dict.fromkeys(["search", "find", "look", "locate", "filter", "sort"], "search"),
    **dict.fromkeys(["save", "submit", "confirm", "apply", "send", "post", "approve", "create", "add"], "submit"),
    **dict.fromkeys(["delete", "remove", "discard", "cancel"], "remove"),
    **dict.fromkeys(["scroll"], "scroll"),
    **dict.fromkeys(["wait", "read", "note", "review", "verify", "ensure", "see"], "look"),
}  # fmt: skip
# A verb counts where an order can stand: first, or behind a comma, a full stop, "and", "then".
ORDER = re.compile(
    r"(?:^|[.;:,]\s+|\b(?:and|then|or|please|now|finally|next)\s+)(" + "|".join(sorted(VERBS, key=len, reverse=True)) + r")\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Slot:
    """A value in an intent that another filling of the same template would replace; kind: quoted, number or name."""

    kind: str
    text: str


def split_sop(text: str) -> tuple[str, list[str]]:
    """Title (empty when the first line is numbered) and steps of a procedure, numbers and bullets removed."""
    lines = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
    title = ""
    if lines and not NUMBERING.match(lines[0]) and not BULLET.match(lines[0]):
        title = lines.pop(0)
    steps = [BULLET.sub("", NUMBERING.sub("", line, count=1), count=1).strip() for line in lines]
    return title, [step for step in steps if step]


def join_sop(title: str, steps: Sequence[str]) -> str:
    """A procedure in the paper's form: the title, then numbered lines."""
    return "\n".join([" ".join(title.split()), *(f"{i}. {step}" for i, step in enumerate(steps, 1))]) + "\n"


def quoted(text: str) -> list[str]:
    """What stands in quotation marks, in order."""
    return [next(part for part in found.groups() if part is not None) for found in QUOTED.finditer(text)]


def slot_values(intent: str) -> list[Slot]:
    """Quoted strings, then numbers and codes, then capitalised names outside the first word; in order of appearance."""
    found: list[tuple[int, Slot]] = []
    rest = intent

    def take(pattern: re.Pattern[str], kind: str) -> None:
        nonlocal rest
        for match in pattern.finditer(rest):
            text = next((part for part in match.groups() if part is not None), match[0]).strip().rstrip(".,:;")
            if kind == "name" and match.start() == 0:  # the first word of a sentence is capitalised anyway
                _, _, text = text.partition(" ")
            if text:
                found.append((intent.index(text, match.start()), Slot(kind, text)))
        rest = pattern.sub(lambda m: " " * len(m[0]) if m.start() or kind != "name" else m[0], rest)

    take(QUOTED, "quoted")
    take(NUMBER, "number")
    take(NAME, "name")
    return [slot for _, slot in sorted(found, key=lambda pair: pair[0])]


def content_words(text: str) -> list[str]:
    """Lower-case words without the commonest function words."""
    return [word for word in WORD.findall(text.lower()) if word not in STOP]


def verbs(line: str) -> list[str]:
    """Verbs of a line that give an order, in order; what stands in quotation marks is no order."""
    plain = QUOTED.sub("''", NUMBERING.sub("", line, count=1))
    return [found[1].lower() for found in ORDER.finditer(plain)]


def verb_class(line: str) -> str:
    """Kind of action that the first order of a line asks for; empty without one."""
    found = verbs(line)
    return VERBS[found[0]] if found else ""


def tfidf(texts: Sequence[str]) -> np.ndarray:
    """[n, d] rows of unit length (or zero): content words weighted by their rarity among these texts alone."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    try:
        found = TfidfVectorizer(analyzer=content_words, sublinear_tf=True).fit_transform(texts)
    except ValueError:  # not one word in all of them
        return np.zeros((len(texts), 1))
    return np.asarray(found.todense())


def line_similarity(left: Sequence[str], right: Sequence[str]) -> np.ndarray:
    """[m, n] likeness in 0..1: the mean of word and character n-gram cosines, weighted by rarity among these lines."""
    if not left or not right:
        return np.zeros((len(left), len(right)))
    from sklearn.feature_extraction.text import TfidfVectorizer

    lines = [*left, *right]
    words = tfidf(lines)
    try:
        letters = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True).fit_transform(lines)
        grams = np.asarray((letters[: len(left)] @ letters[len(left) :].T).todense())
    except ValueError:
        grams = np.zeros((len(left), len(right)))
    return np.clip((words[: len(left)] @ words[len(left) :].T + grams) / 2, 0.0, 1.0)
