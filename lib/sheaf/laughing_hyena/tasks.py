"""Tasks that long filters are needed for: associative recall, and passages of text in which names recur."""

from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from sheaf.common.data import external_dir
from sheaf.common.text import synthetic_tokens

__all__ = ["ANSWER", "TEXT", "Batch", "Corpus", "corpus", "passages", "recall", "vocabulary"]

TEXT, ANSWER = 1, 2  # kinds of scored positions
WORDS, NAMES, VALUES = 254, 4, 8  # distinct words of running text besides "other"; names and values in passages
HELD_BACK = 0.1  # share of generated text kept for testing


@dataclass(frozen=True)
class Batch:
    """Sequences to predict. ``tokens`` [n, L]; ``targets`` [n, L], the token that follows; ``kind`` [n, L]: 0 where the next
    token is not scored, `TEXT` or `ANSWER` where it is."""

    tokens: Tensor
    targets: Tensor
    kind: Tensor


@dataclass(frozen=True)
class Corpus:
    """Running text as word numbers, ``train`` [n] and ``test`` [m], 0 for every word outside the vocabulary."""

    train: Tensor
    test: Tensor
    origin: str


def recall(sequences: int, length: int, symbols: int, generator: torch.Generator) -> Batch:
    """Multi-query associative recall: pairs of key and value stream by, and a key seen before asks for its value.

    Every sequence has a random dictionary of its own. Keys are tokens 0 ... s-1, values s ... 2s-1. Only what follows a key
    that was seen before is scored, as `ANSWER`.

    Args:
        sequences, length: shape; the length is even.
        symbols: s, number of keys and of values.

    Raises:
        ValueError: a length that is odd or not positive, or no symbol.
    """
    if length < 2 or length % 2 or symbols < 1:
        raise ValueError(f"recall needs an even length and at least one symbol; got {length} and {symbols}")
    pairs = length // 2
    book = torch.randint(symbols, (sequences, symbols), generator=generator)
    keys = torch.randint(symbols, (sequences, pairs), generator=generator)
    values = book.gather(1, keys) + symbols
    tokens = torch.stack([keys, values], dim=2).view(sequences, length)
    targets = torch.cat([tokens[:, 1:], torch.zeros_like(tokens[:, :1])], dim=1)
    marks = torch.nn.functional.one_hot(keys, symbols)
    seen = ((marks.cumsum(dim=1) - marks) * marks).sum(dim=2) > 0
    kind = torch.zeros_like(tokens)
    kind[:, 0::2] = ANSWER * seen
    return Batch(tokens, targets, kind)


@cache
def corpus(name: str = "auto") -> Corpus:
    """WikiText-2 as words when ``SHEAF_DATA`` holds it (trained on its validation file, tested on its test file), else generated.

    Args:
        name: "auto", "wikitext" or "generated".

    Raises:
        ValueError: another name.
        FileNotFoundError: WikiText-2 was asked for and is not there.
    """
    if name not in ("auto", "wikitext", "generated"):
        raise ValueError(f"no text {name!r}; use auto, wikitext or generated")
    folder = external_dir("text")
    files = [folder / "wikitext-2" / f for f in ("valid.txt", "test.txt")] if folder else []
    if name != "generated" and files and all(f.is_file() for f in files):
        return _words(*files)
    if name == "wikitext":
        raise FileNotFoundError(
            "text/wikitext-2/valid.txt and test.txt are not under SHEAF_DATA; run make data, or use generated"
        )
    tokens = synthetic_tokens(64, 2048, vocab=WORDS + 1, seed=0).flatten()
    cut = int(len(tokens) * (1 - HELD_BACK))
    return Corpus(tokens[:cut], tokens[cut:], "generated text: an order-2 Markov chain over 255 words")


def _words(train: Path, test: Path) -> Corpus:
    texts = [f.read_text(encoding="utf-8").replace("\n", " <eos> ").split() for f in (train, test)]
    frequent = [w for w, _ in Counter(w for w in texts[0] if w != "<unk>").most_common(WORDS)]
    number = {w: i + 1 for i, w in enumerate(frequent)}
    found = [torch.tensor([number.get(w, 0) for w in text]) for text in texts]
    return Corpus(found[0], found[1], f"WikiText-2, the {WORDS} most frequent words, every other word one token")


def vocabulary(task: str, symbols: int = 8) -> int:
    """Number of distinct tokens of a task, "recall" or "text"."""
    return 2 * symbols if task == "recall" else WORDS + 1 + NAMES + VALUES


def passages(stream: Tensor, sequences: int, length: int, mentions: int, generator: torch.Generator) -> Batch:
    """Passages of running text in which names recur, each always followed by the value it had at its first mention.

    Every passage draws a value for every name. Mentions (name, value) stand at random places among the words, the last one at
    the end of the passage, of a name that came before: its value is the last word. Words are scored as `TEXT`, values of
    names mentioned before as `ANSWER`; first mentions and the names themselves cannot be predicted and are not scored.

    Args:
        stream: [n] word numbers up to `WORDS`.
        length: of a passage, 2 mentions + words.
        mentions: at least 2.

    Raises:
        ValueError: sizes that do not fit.
    """
    words = length - 2 * mentions
    if mentions < 2 or words < 2 or len(stream) < words:
        raise ValueError(f"a passage of {length} needs at least 2 mentions and 2 words besides, and a stream that long; got "
                         f"{mentions} mentions and {len(stream)} words")  # fmt: skip
    starts = torch.randint(len(stream) - words + 1, (sequences, 1), generator=generator)
    text = stream[starts + torch.arange(words)]
    names = torch.randint(NAMES, (sequences, mentions), generator=generator)
    again = torch.randint(mentions - 1, (sequences, 1), generator=generator)
    names[:, -1:] = names.gather(1, again)
    book = torch.randint(VALUES, (sequences, NAMES), generator=generator)
    values = book.gather(1, names)
    marks = torch.nn.functional.one_hot(names, NAMES)
    seen = ((marks.cumsum(dim=1) - marks) * marks).sum(dim=2) > 0
    # the body is a row of slots, each one word or one mention; the last mention comes after it
    slots = words + mentions - 1
    chosen = torch.rand(sequences, slots, generator=generator).argsort(dim=1)[:, : mentions - 1]
    planted = torch.zeros(sequences, slots, dtype=torch.bool).scatter_(1, chosen, True)
    width = torch.where(planted, 2, 1)
    place = width.cumsum(dim=1) - width  # where each slot begins
    at = torch.cat([place[planted].view(sequences, -1), torch.full((sequences, 1), length - 2)], dim=1)
    tokens = torch.empty(sequences, length, dtype=torch.int64)
    tokens.scatter_(1, place[~planted].view(sequences, words), text)
    tokens.scatter_(1, at, names + WORDS + 1)
    tokens.scatter_(1, at + 1, values + WORDS + 1 + NAMES)
    targets = torch.cat([tokens[:, 1:], torch.zeros_like(tokens[:, :1])], dim=1)
    kind = torch.where(targets <= WORDS, TEXT, 0)
    kind[:, -1] = 0
    kind.scatter_(1, at, torch.where(seen, ANSWER, 0))
    return Batch(tokens, targets, kind)
