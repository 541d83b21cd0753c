"""The offline matcher: which line of one procedure says what a line of another says, without a language model.

Six measures of similarity go into one logistic regression whose weights were fitted to human line labels. It is weaker
than the paper's GPT-4 judge, see the audit, and is never to be read as its equal.
"""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from sheaf.common.data import data_dir

__all__ = ["FEATURES", "Matcher", "Weights", "default_matcher", "fit_weights", "shipped_weights"]

FEATURES = ("words", "characters", "topics", "coverage", "quoted", "verb")
TOPICS = 128  # dimensions of the latent semantic space
QUOTED = re.compile(r"[\"“”'‘’`]([^\"“”'‘’`]{1,80})[\"“”'‘’`]")
WORD = re.compile(r"[a-z0-9]+")
_STOP_WORDS = "the a an of to in on at for and or is it this that with from by as be your you then if will"
STOP = frozenset(_STOP_WORDS.split())
VERBS = {
    "go": "go navigate open visit access return back enter reach",
    "click": "click press select choose pick tap hit check tick mark",
    "type": "type write fill input enter paste set change edit replace update",
    "scroll": "scroll swipe",
    "read": "find locate look see identify note view review read verify confirm observe record",
    "save": "save submit apply approve finish complete create add",
    "remove": "delete remove clear cancel",
}
VERB_CLASS: dict[str, frozenset[str]] = {
    verb: frozenset(name for name, verbs in VERBS.items() if verb in verbs.split())
    for verb in {v for verbs in VERBS.values() for v in verbs.split()}
}


@dataclass(frozen=True)
class Weights:
    """A logistic regression over the six features; a line matches when its probability reaches one half."""

    coefficients: tuple[float, ...]
    intercept: float

    def probability(self, features: np.ndarray) -> np.ndarray:
        """[..., 6] features to [...] probabilities."""
        return 1 / (1 + np.exp(-(features @ np.array(self.coefficients) + self.intercept)))


@dataclass(frozen=True)
class _Line:
    """What is compared of one line besides its vectors."""

    words: frozenset[str]
    quoted: frozenset[str]
    verbs: frozenset[str]


@dataclass
class Matcher:
    """Compares lines of procedures. The vector spaces are fitted on unlabelled lines, the weights come from labels.

    Attributes:
        weights: of the regression.
        topics: dimensions of the latent space; less when there are few lines.
    """

    weights: Weights
    topics: int = TOPICS
    _spaces: list[TfidfVectorizer] = field(default_factory=list, repr=False)
    _latent: Any = field(default=None, repr=False)
    _known: dict[str, int] = field(default_factory=dict, repr=False)
    _vectors: list[Any] = field(default_factory=list, repr=False)
    _parts: list[_Line] = field(default_factory=list, repr=False)

    def fit(self, lines: Iterable[str]) -> "Matcher":
        """Fits the vector spaces on lines; the same lines are looked up later instead of being taken apart again.

        Raises:
            ValueError: fewer than two different lines.
        """
        unique = sorted(set(lines))
        if len(unique) < 2:
            raise ValueError(f"the matcher's spaces need at least two different lines; got {len(unique)}")
        self._spaces = [
            TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b"),
            TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True),
        ]
        words, characters = (space.fit_transform(unique) for space in self._spaces)
        size = min(self.topics, words.shape[1] - 1, words.shape[0] - 1)
        self._latent = TruncatedSVD(size, random_state=0).fit(words)
        self._known = {line: i for i, line in enumerate(unique)}
        self._vectors = [words, characters, _unit(self._latent.transform(words))]
        self._parts = [_parts(line) for line in unique]
        return self

    def features(self, a: Sequence[str], b: Sequence[str]) -> np.ndarray:
        """[len(a), len(b), 6] similarities of every line of ``a`` with every line of ``b``, each in 0..1.

        Raises:
            ValueError: ``fit`` was not called.
        """
        if not self._spaces:
            raise ValueError("the matcher has no vector spaces yet; call fit with the lines of the texts to compare")
        left, right = self._look_up(a), self._look_up(b)
        out = np.zeros((len(a), len(b), len(FEATURES)))
        if not out.size:
            return out
        for k in range(2):
            out[:, :, k] = (left[0][k] @ right[0][k].T).toarray()
        out[:, :, 2] = np.clip(left[0][2] @ right[0][2].T, 0, 1)
        for i, one in enumerate(left[1]):
            for j, two in enumerate(right[1]):
                common = len(one.words & two.words)
                out[i, j, 3] = common / max(1, min(len(one.words), len(two.words)))
                out[i, j, 4] = bool(one.quoted & two.quoted)
                out[i, j, 5] = bool(one.verbs & two.verbs)
        return out

    def probability(self, a: Sequence[str], b: Sequence[str]) -> np.ndarray:
        """[len(a), len(b)] probability that two lines say the same."""
        return self.weights.probability(self.features(a, b))

    def match(self, a: Sequence[str], b: Sequence[str]) -> tuple[list[int], list[int]]:
        """For each line of ``a`` the line of ``b`` that says the same, or -1; and the other way round.

        Whether a line has a partner is decided on the best value of each feature over all candidates, which one it is
        by the most probable of them.
        """
        features = self.features(a, b)
        return self._decide(features), self._decide(features.transpose(1, 0, 2))

    def _decide(self, features: np.ndarray) -> list[int]:
        if not features.size:
            return [-1] * features.shape[0]
        found = self.weights.probability(features.max(axis=1)) >= 0.5
        best = self.weights.probability(features).argmax(axis=1)
        return [int(j) if yes else -1 for j, yes in zip(best, found, strict=True)]

    def _look_up(self, lines: Sequence[str]) -> tuple[list[Any], list[_Line]]:
        rows = [self._known.get(line, -1) for line in lines]
        if rows and min(rows) >= 0:
            return [vectors[rows] for vectors in self._vectors], [self._parts[i] for i in rows]
        if not lines:
            return [sparse.csr_matrix((0, v.shape[1])) for v in self._vectors[:2]] + [np.zeros((0, 1))], []
        words, characters = (space.transform(lines) for space in self._spaces)
        return [words, characters, _unit(self._latent.transform(words))], [_parts(line) for line in lines]


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def _parts(line: str) -> _Line:
    words = WORD.findall(line.lower())
    classes = frozenset().union(*(VERB_CLASS.get(word, frozenset()) for word in words))
    quoted = frozenset(q.strip().lower() for q in QUOTED.findall(line) if q.strip())
    return _Line(frozenset(words) - STOP, quoted, classes)


def fit_weights(features: np.ndarray, labels: np.ndarray) -> Weights:
    """Fits the regression.

    Args:
        features: [n, 6] the best value of each feature of a line over all candidates.
        labels: [n] whether people found a partner for the line.
    """
    model = LogisticRegression(C=1.0, max_iter=1000).fit(features, labels)
    return Weights(tuple(float(w) for w in model.coef_[0]), float(model.intercept_[0]))


def shipped_weights() -> Weights:
    """The weights that ship: seven numbers fitted to the 586 human line labels."""
    stored = json.loads((data_dir("wonderbread") / "matcher.json").read_text(encoding="utf-8"))
    return Weights(tuple(stored["coefficients"][name] for name in FEATURES), float(stored["intercept"]))


def default_matcher(lines: Iterable[str]) -> Matcher:
    """A matcher with the shipped weights for texts made of these lines. Deterministic; needs no published file."""
    return Matcher(shipped_weights()).fit(lines)
