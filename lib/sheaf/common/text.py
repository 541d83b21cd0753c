"""Token ids to train small language models on: a seeded synthetic stream, or the bytes of text files."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

__all__ = ["read_text_tokens", "synthetic_tokens", "windows"]


def synthetic_tokens(
    sequences: int, length: int, *, vocab: int = 256, seed: int = 0, language: int = 0, branching: int = 8,
    exponent: float = 1.2,
) -> Tensor:
    """Sequences of an order-2 Markov chain whose choices follow Zipf's law: there is something to learn at every order.

    The two tokens before choose one of ``vocab`` contexts; a context allows ``branching`` next tokens, taken with
    probability proportional to 1 / rank^exponent. Which tokens a context allows is itself drawn by Zipf's law, so that
    token frequencies are uneven and a model's loss falls within a few steps.

    Args:
        sequences, length: shape of the result.
        vocab: number of distinct tokens.
        seed: of the choices; another seed gives other text of the same language.
        language: seed of the transition table.

    Returns:
        [sequences, length] int64.

    Raises:
        ValueError: an empty shape, or fewer than 2 tokens or 1 choice.
    """
    if sequences < 1 or length < 1 or vocab < 2 or branching < 1:
        raise ValueError(f"a token stream needs sequences, length and branching >= 1 and vocab >= 2; "
                         f"got {sequences}, {length}, {branching} and {vocab}")
    rules, draws = np.random.default_rng([language, vocab]), np.random.default_rng([seed, 1])
    marginal = _zipf(vocab, exponent)
    table = rules.choice(vocab, size=(vocab, branching), p=marginal)
    multiplier = 2 * int(rules.integers(1, vocab)) + 1
    choice = draws.choice(branching, size=(sequences, length), p=_zipf(branching, exponent))
    tokens = np.empty((sequences, length + 2), dtype=np.int64)
    tokens[:, :2] = draws.choice(vocab, size=(sequences, 2), p=marginal)
    for t in range(length):
        context = (tokens[:, t] * multiplier + tokens[:, t + 1]) % vocab
        tokens[:, t + 2] = table[context, choice[:, t]]
    return torch.from_numpy(tokens[:, 2:].copy())


def read_text_tokens(folder: Path, *, limit: int | None = None) -> Tensor:
    """The bytes of every ``*.txt`` file below ``folder``, in the order of their names: tokens 0..255, [n] int64.

    Raises:
        FileNotFoundError: the folder is missing or holds no text file.
    """
    files = sorted(Path(folder).rglob("*.txt"))
    if not files:
        raise FileNotFoundError(f"no *.txt file below {folder}; put plain text there, or use synthetic_tokens")
    text = b"\n".join(f.read_bytes() for f in files)
    return torch.from_numpy(np.frombuffer(text[:limit], dtype=np.uint8).astype(np.int64))


def windows(tokens: Tensor, sequences: int, length: int, *, seed: int = 0) -> Tensor:
    """``sequences`` windows of ``length`` consecutive tokens from random places of a stream [n]; [sequences, length].

    Raises:
        ValueError: the stream is shorter than one window.
    """
    if len(tokens) < length:
        raise ValueError(f"the text has {len(tokens)} tokens, a window needs {length}; give more text, or shorten it")
    generator = torch.Generator().manual_seed(seed)
    starts = torch.randint(len(tokens) - length + 1, (sequences,), generator=generator)
    return tokens[starts[:, None] + torch.arange(length)]


def _zipf(n: int, exponent: float) -> np.ndarray:
    weight = 1.0 / np.arange(1, n + 1) ** exponent
    return weight / weight.sum()
