"""Orders of procedures, best first, from their texts alone: simple rules, none of which understands a word."""

import hashlib
from collections.abc import Callable, Sequence

import numpy as np

from sheaf.wonderbread.systems.improvement import LOCATION, rubric
from sheaf.wonderbread.systems.text import quoted, split_sop, tfidf

__all__ = ["RANKERS", "Ranker"]

Ranker = Callable[[Sequence[str]], list[int]]  # texts to their numbers from 1, best first
Score = Callable[[str], float]


def _by(score: Score) -> Ranker:
    """Highest score first; equal scores in the order shown."""

    def rank(texts: Sequence[str]) -> list[int]:
        return [int(i) + 1 for i in np.argsort([-score(text) for text in texts], kind="stable")]

    return rank


def _lines(text: str) -> list[str]:
    return split_sop(text)[1]


def centrality(texts: Sequence[str]) -> list[int]:
    """The text most like the others first (TF-IDF cosine), as a vote of the writers."""
    if len(texts) < 2:
        return list(range(1, len(texts) + 1))
    vectors = tfidf(texts)
    alike = vectors @ vectors.T
    mean = (alike.sum(axis=1) - np.diag(alike)) / (len(texts) - 1)
    return [int(i) + 1 for i in np.argsort(-mean, kind="stable")]


def shuffled(texts: Sequence[str]) -> list[int]:
    """An order drawn at random, the same for the same texts."""
    seed = int.from_bytes(hashlib.sha256("\0".join(texts).encode()).digest()[:8], "big")
    return [int(i) + 1 for i in np.random.default_rng(seed).permutation(len(texts))]


RANKERS: dict[str, Ranker] = {
    "longest": _by(len),
    "shortest": _by(lambda text: -len(text)),
    "most lines": _by(lambda text: len(_lines(text))),
    "characters per line": _by(lambda text: len(text) / max(1, len(_lines(text)))),
    "named elements": _by(lambda text: sum(len(quoted(line)) for line in _lines(text))),
    "location words": _by(lambda text: len(LOCATION.findall(text))),
    "rubric": _by(lambda text: sum(rubric(text).values())),
    "centrality": centrality,
    "random": shuffled,
}
"""Name to system. ``rubric`` sums the countable points of the paper's rubric."""
