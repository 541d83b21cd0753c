"""Sequence experiments: language miniatures at equal steps and equal seconds, and a small classifier on ListOps."""

import hashlib
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sheaf.common.jobs import grid
from sheaf.pixelfly.attention import attention_mask
from sheaf.pixelfly.jobs import run_all
from sheaf.pixelfly.language import corpus, train_language_model
from sheaf.pixelfly.models import VisionConfig, ViTBlock
from sheaf.pixelfly.train import accuracy, cosine, optimiser_of

__all__ = ["evaluate", "gaps", "language", "listops", "listops_data", "listops_runs"]

Counter = Callable[[str, int], Callable[[object], None]] | None
OPERATORS = ("MIN", "MAX", "MED", "SM")
VOCABULARY = ("<pad>", *(str(d) for d in range(10)), *(f"[{o}" for o in OPERATORS), "]")


def language(
    arms: Iterable[str], rates: Iterable[float], seeds: Iterable[int], *, steps: int, batch: int = 8, context: int = 128,
    width: int = 256, layers: int = 4, counter: Counter = None, processes: int | None = None, keep: bool = True,
) -> tuple[pd.DataFrame, pd.DataFrame]:  # fmt: skip
    """Language miniatures at equal steps, then dense ones with only the seconds that Pixelfly took.

    A rate is chosen per arm on held-out text with seed 1000. "dense, equal seconds" repeats the dense arm, whole schedule
    included, with as many steps as fit into the CPU seconds of Pixelfly's runs.

    Returns:
        Runs that count (arm, seed, steps, rate, perplexity, step_s) and the tuning runs.
    """
    base = {"steps": steps, "batch": batch, "context": context, "width": width, "layers": layers}
    *streams, origin = corpus()
    digest = origin + hashlib.sha256(b"".join(s.numpy().tobytes() for s in streams)).hexdigest()

    def run(jobs: list[dict[str, Any]], what: str) -> pd.DataFrame:
        tick = counter(what, len(jobs)) if counter else None
        return pd.DataFrame(
            run_all(train_language_model, jobs, data=digest, processes=processes, progress=tick, keep=keep)
        )

    arms = list(arms)
    tried = run(grid(base | {"on": "validation", "seed": 1000}, arm=arms, rate=list(rates)), "text: learning rates")
    best = tried.loc[tried.groupby("arm")["perplexity"].idxmin()].set_index("arm")["rate"]
    finals = [j for arm in arms for j in grid(base | {"on": "test", "arm": arm, "rate": float(best[arm])}, seed=seeds)]
    runs = run(finals, "text: training")
    step_s = runs.groupby("arm")["step_s"].median()
    fewer = max(1, round(steps * float(step_s["pixelfly"] / step_s["dense"])))
    again = grid(base | {"on": "test", "arm": "dense", "rate": float(best["dense"]), "steps": fewer}, seed=seeds)
    equal = run(again, "text: equal seconds").assign(arm="dense, equal seconds")
    return pd.concat([runs, equal], ignore_index=True), tried


def gaps(runs: pd.DataFrame, arm: str, base: str) -> np.ndarray:
    """Perplexity of one arm over another's, less one, in percent, paired by seed."""
    table = runs.pivot_table(index="seed", columns="arm", values="perplexity")
    return (100 * (table[arm] / table[base] - 1)).to_numpy()


def _expression(rng: np.random.Generator, room: int, depth: int) -> tuple[list[str], int]:
    """A random expression of at most ``room`` tokens and its value (the grammar of ListOps)."""
    if depth == 0 or room < 4 or rng.random() < 0.25:
        digit = int(rng.integers(10))
        return [str(digit)], digit
    operator = OPERATORS[int(rng.integers(4))]
    tokens, values = [f"[{operator}"], []
    left = room - 2
    for _ in range(int(rng.integers(2, 6))):
        if left < 1:
            break
        part, value = _expression(rng, left, depth - 1)
        tokens += part
        values.append(value)
        left -= len(part)
    return [*tokens, "]"], evaluate_operator(operator, values)


def evaluate_operator(operator: str, values: list[int]) -> int:
    """MIN, MAX, MED (median, rounded down, as in the published generator) or SM (sum modulo 10) of digits.

    Raises:
        ValueError: unknown operator or no values.
    """
    if operator not in OPERATORS or not values:
        raise ValueError(
            f"an operator is one of {', '.join(OPERATORS)} with at least one value; got {operator} of {values}"
        )
    if operator == "SM":
        return sum(values) % 10
    if operator == "MED":
        return int(np.median(values))
    return min(values) if operator == "MIN" else max(values)


def evaluate(tokens: list[str]) -> int:
    """The value of an expression, by a stack: the check on the generator.

    Raises:
        ValueError: brackets that do not match, or a token that is none.
    """
    stack: list[tuple[str, list[int]]] = [("", [])]
    for token in tokens:
        if token.startswith("["):
            stack.append((token[1:], []))
        elif token == "]" and len(stack) > 1:
            operator, values = stack.pop()
            stack[-1][1].append(evaluate_operator(operator, values))
        elif token.isdigit() and len(token) == 1:
            stack[-1][1].append(int(token))
        else:
            raise ValueError(f"{token!r} does not belong here; an expression is digits, [MIN, [MAX, [MED, [SM and ]")
    if len(stack) != 1 or len(stack[0][1]) != 1:
        raise ValueError("brackets do not match: an expression has one value")
    return stack[0][1][0]


def listops_data(n: int, length: int, seed: int) -> tuple[Tensor, Tensor]:
    """Expressions [n, length] as token ids, padded at the end, and their values [n]; a third to all of the length is filled."""
    rng = np.random.default_rng([seed, length])
    x = torch.zeros(n, length, dtype=torch.long)
    y = torch.empty(n, dtype=torch.long)
    for i in range(n):
        tokens: list[str] = []
        while len(tokens) < length // 3:
            tokens, value = _expression(rng, length, 10)
        x[i, : len(tokens)] = torch.tensor([VOCABULARY.index(t) for t in tokens])
        y[i] = value
    return x, y


class SequenceClassifier(nn.Module):
    """Token ids [batch, time] -> logits [batch, 10]: embeddings, transformer blocks, mean over time."""

    def __init__(self, length: int, width: int, layers: int, seed: int, mask: Tensor | None, block: int) -> None:
        super().__init__()
        config = VisionConfig("vit", width, layers, 2 * width, image=16, patch=16, heads=4, classes=10)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.tokens = nn.Embedding(len(VOCABULARY), width, padding_idx=0)
            self.positions = nn.Parameter(torch.randn(1, length, width) * 0.02)
            blocks = [ViTBlock(config) for _ in range(layers)]
            self.blocks = nn.ModuleList(blocks)
            self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)
        for part in blocks:
            part.attention.mask, part.attention.block = mask, block

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        h = self.tokens(x) + self.positions
        for block in self.blocks:
            h = block(h)
        return self.head(self.norm(h).mean(1))


def listops(job: dict[str, Any]) -> dict[str, Any]:
    """Train a small classifier on generated ListOps; the job names arm (dense, or a pattern of scores), length, steps and seed.

    Returns:
        Accuracy on fresh expressions and that of always naming the most frequent value, in percent.
    """
    arm, length, steps, seed, block = job["arm"], job["length"], job["steps"], job["seed"], 16
    mask = None if arm == "dense" else attention_mask(arm, length // block)
    model = SequenceClassifier(length, 64, 2, seed, mask, block)
    train, test = listops_data(1500, length, 2 * seed), listops_data(500, length, 2 * seed + 1)
    optimiser = optimiser_of(model, 0.002, 0.01)
    generator = torch.Generator().manual_seed(seed)
    for step in range(steps):
        part = torch.randint(len(train[0]), (32,), generator=generator)
        for group in optimiser.param_groups:
            group["lr"] = 0.002 * cosine(step, steps)
        loss = F.cross_entropy(model(train[0][part]), train[1][part])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    common = float((test[1] == train[1].mode().values).float().mean())
    return {"accuracy": 100 * accuracy(model, test, 100), "most frequent value": 100 * common}


def listops_runs(
    arms: Iterable[str], length: int, steps: int, seeds: Iterable[int], *, counter: Counter = None,
    processes: int | None = None, keep: bool = True,
) -> pd.DataFrame:  # fmt: skip
    """`listops` for every arm and seed, one row each."""
    todo = grid({"length": length, "steps": steps}, arm=list(arms), seed=list(seeds))
    tick = counter("ListOps", len(todo)) if counter else None
    return pd.DataFrame(run_all(listops, todo, processes=processes, progress=tick, keep=keep))
