"""What sparsity costs in tasks and loss: arms of a trained model, each question and document scored under the same masks."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from sheaf.common.gpt import next_token_loss
from sheaf.common.jobs import Job
from sheaf.dejavu import corpus, depth, masks, prediction, quantise, training
from sheaf.dejavu.masks import Masked, count
from sheaf.dejavu.models import OPT
from sheaf.dejavu.predictors import step_of

__all__ = ["accuracy", "depths", "largest_flat", "questions", "score_items"]


def questions(text: corpus.Corpus, n: int) -> dict[str, tuple[Tensor, Tensor, Tensor, list[int]]]:
    """Items of every task as tensors: ids [n, time] filled up at the end, last positions [n], choices [n, 4] (-1: none), answers.

    Empty for a corpus that has no tasks.
    """
    if text.name != "facts":
        return {}
    found = {}
    for task in corpus.TASKS:
        items = corpus.task_items(task, n)
        rows = [text.encode(item.context) for item in items]
        longest = max(map(len, rows))
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
        choices = torch.tensor([
            ([text.encode(c)[0] for c in item.choices] + [-1] * 4)[:4] for item in items
        ])  # fmt: skip
        found[task] = (ids, torch.tensor([len(row) - 1 for row in rows]), choices, [item.answer for item in items])
    return found


@torch.no_grad()
def score_items(model: Any, asked: tuple[Tensor, Tensor, Tensor, list[int]], **options: Any) -> list[int]:
    """1 for every question whose right choice is the likeliest, else 0; choices are single tokens."""
    ids, last, choices, answers = asked
    logits = model(ids, **options)[torch.arange(len(ids)), last]
    scores = logits.gather(1, choices.clamp_min(0)).masked_fill(choices < 0, float("-inf"))
    return (scores.argmax(1) == torch.tensor(answers)).int().tolist()


@torch.no_grad()
def _document_losses(model: Any, sequences: Tensor, **options: Any) -> list[float]:
    logits = model(sequences[:, :-1], **options)
    return [float(next_token_loss(a[None], b[None])) for a, b in zip(logits, sequences[:, 1:], strict=True)]


def _tap(model: OPT, arm: Job, banks: dict[str, Any]) -> Masked | None:
    """The masks of an arm: neurons kept, heads kept, by predictors; None for a dense arm."""
    rules: dict[str, masks.Rule | None] = {"neurons": None, "heads": None}
    for unit, n in (("neurons", model.config.ffn), ("heads", model.config.heads)):
        if arm.get(unit, 1.0) < 1:
            predictors, ahead = banks[unit]
            k = count(arm[unit], n)
            rules[unit] = masks.oracle(k) if arm.get("oracle") else masks.predicted(predictors, k, step_of(unit, ahead))
    if rules["neurons"] is None and rules["heads"] is None:
        return None
    return Masked(rules["neurons"], rules["heads"], dense=set(arm.get("dense", [0])))


def accuracy(job: Job) -> dict[str, Any]:
    """Score every arm of one trained model.

    A job holds ``model``, ``banks`` ({"neurons": predictor job, "heads": ...}), ``arms`` (name, and any of neurons and heads
    kept, bits, oracle, dense layers), ``items`` per task and ``evaluate``.

    Returns:
        "arms": by name "tasks" {task: [0 or 1, ...]}, "losses" [per document], "total" sparsity of the block weights.
    """
    model = training.load(job["model"])
    text = corpus.load(job["model"]["data"], job["model"]["documents"])
    banks = {unit: (prediction.bank(b), b["ahead"]) for unit, b in job["banks"].items()}
    asked, sequences = questions(text, job["items"]), text.held[: job["evaluate"]]
    found, layers = {}, model.config.layers
    for arm in job["arms"]:
        one = quantise.quantised_model(model, arm["bits"]) if "bits" in arm else model
        dense = len(arm.get("dense", [0]))
        attention = 1 - count(arm.get("heads", 1.0), model.config.heads) / model.config.heads
        mlp = 1 - count(arm.get("neurons", 1.0), model.config.ffn) / model.config.ffn
        total = round(masks.total_sparsity(attention, mlp, layers, dense), 9)
        found[arm["name"]] = {
            "tasks": {task: score_items(one, a, tap=_tap(one, arm, banks)) for task, a in asked.items()},
            "losses": _document_losses(one, sequences, tap=_tap(one, arm, banks)), "total": total,
        }  # fmt: skip
    return {"arms": found}


def depths(job: Job) -> dict[str, Any]:
    """The depth variants of one trained model: tasks and losses by variant. A job holds ``model``, ``items`` and ``evaluate``."""
    model = training.load(job["model"])
    text = corpus.load(job["model"]["data"], job["model"]["documents"])
    asked, sequences = questions(text, job["items"]), text.held[: job["evaluate"]]

    def one(ids: Tensor, variant: str) -> Tensor:
        return depth.forward(model, ids, variant)

    return {"arms": {
        v: {"tasks": {t: score_items(one, a, variant=v) for t, a in asked.items()},
            "losses": _document_losses(one, sequences, variant=v)} for v in depth.VARIANTS
    }}  # fmt: skip


def average(arm: dict[str, Any]) -> float:
    """Mean accuracy over tasks, in percent."""
    return 100 * float(np.mean([np.mean(v) for v in arm["tasks"].values()]))


def standard_error(arm: dict[str, Any], resamples: int = 500, seed: int = 0) -> float:
    """Standard error of `average` by drawing the questions of every task again, in points."""
    rng = np.random.default_rng(seed)
    draws = [
        np.mean([np.mean(rng.choice(v, len(v))) for v in arm["tasks"].values()]) for _ in range(resamples)
    ]  # fmt: skip
    return 100 * float(np.std(draws))


def largest_flat(arms: dict[str, dict[str, Any]], sweep: list[str], dense: str = "dense") -> float:
    """The largest total sparsity of a sweep up to which every task average is within a standard error of dense; 0 if none."""
    base, error, best = average(arms[dense]), standard_error(arms[dense]), 0.0
    for name in sorted(sweep, key=lambda n: arms[n]["total"]):
        if average(arms[name]) < base - error:
            break
        best = arms[name]["total"]
    return best
