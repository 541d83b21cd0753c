"""Training the miniatures: one job in, its learning curve, test scores and checkpoint out."""

import math
import time
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sheaf.common.jobs import Job
from sheaf.laughing_hyena.models import LM, LMConfig
from sheaf.laughing_hyena.tasks import ANSWER, TEXT, Batch, corpus, passages, recall, vocabulary

__all__ = ["batch_of", "config_of", "scores", "test_batch", "train"]

TEST_SEED, TEST_SEQUENCES = 1_000_003, 512
BASE: Job = {  # what a job may leave out
    "task": "recall", "kind": "hyena", "width": 64, "layers": 2, "heads": 8, "length": 64, "symbols": 6, "mentions": 12,
    "steps": 800, "batch": 16, "rate": 6e-3, "frequency": 4.0, "seed": 0, "points": 6, "text": "auto",
}  # fmt: skip


def config_of(job: Job) -> LMConfig:
    """The model a job trains; every kind gets the same width, layers and MLP."""
    full = BASE | job
    return LMConfig(
        full["kind"], vocabulary(full["task"], full["symbols"]), full["length"], full["width"], full["layers"],
        heads=full["heads"], emb=9, filter_width=32, frequency=full["frequency"], taps=4 if full["kind"] == "h3" else 3,
    )  # fmt: skip


def batch_of(job: Job, sequences: int, generator: torch.Generator, *, test: bool = False) -> Batch:
    """Fresh sequences of the job's task; text comes from its training or its test part."""
    full = BASE | job
    if full["task"] == "recall":
        return recall(sequences, full["length"], full["symbols"], generator)
    found = corpus(full["text"])
    return passages(found.test if test else found.train, sequences, full["length"], full["mentions"], generator)


def test_batch(job: Job, sequences: int = TEST_SEQUENCES) -> Batch:
    """The sequences every model of a task is tested on: the same for all seeds and kinds."""
    return batch_of(job, sequences, torch.Generator().manual_seed(TEST_SEED), test=True)


def _losses(logits: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy in nats over text and over answers; 0 where there are none."""
    each = F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), reduction="none").view(batch.kind.shape)
    return tuple((each * (batch.kind == k)).sum() / (batch.kind == k).sum().clamp(min=1) for k in (TEXT, ANSWER))  # type: ignore[return-value]


@torch.no_grad()
def scores(model: LM, batch: Batch) -> dict[str, float]:
    """Test scores: loss on text and on answers (nats), answers right and last words right (per cent, exact match)."""
    parts = [model(tokens) for tokens in batch.tokens.split(128)]
    logits = torch.cat(parts)
    text, answer = _losses(logits, batch)
    asked, right = batch.kind == ANSWER, logits.argmax(dim=-1) == batch.targets
    last = 100 * float(right[:, -2][asked[:, -2]].float().mean())
    return {"text loss": float(text), "answer loss": float(answer), "accuracy": 100 * float(right[asked].float().mean()),
            "last word": last}  # fmt: skip


def train(job: Job) -> dict[str, Any]:
    """Train one model with AdamW (warm-up, cosine to a tenth, clipped gradients) and test it.

    Returns:
        "curve": rows of step, CPU seconds, test scores on few sequences; "test": final scores; "cpu": CPU seconds of the
        training steps; "parameters"; "tensors": the weights, and "at/<step>/<layer>", the filters [C, L] at ``points`` moments
        of the training, the first before it.
    """
    full = BASE | job
    model = LM(config_of(full), full["seed"])
    generator = torch.Generator().manual_seed(full["seed"] + 1)
    steps, peak = full["steps"], full["rate"]
    optimiser = torch.optim.AdamW(model.parameters(), lr=peak, betas=(0.9, 0.98), weight_decay=0.01)
    watch = {round(i * steps / (full["points"] - 1)) for i in range(full["points"])}
    few = test_batch(full, 64)
    kept: dict[str, Tensor] = {}
    curve, cpu = [], 0.0
    for step in range(steps + 1):
        if step in watch:
            curve.append({"step": step, "cpu": cpu} | scores(model, few))
            for i, mixer in enumerate(model.long_convolutions()):
                kept[f"at/{step}/{i}"] = mixer.filters(full["length"]).detach().clone()
        if step == steps:
            break
        batch = batch_of(full, full["batch"], generator)
        start = time.process_time()
        warm = min(1.0, (step + 1) / (0.05 * steps + 1))
        for group in optimiser.param_groups:
            group["lr"] = peak * warm * (0.55 + 0.45 * math.cos(math.pi * step / steps))
        text, answer = _losses(model(batch.tokens), batch)
        optimiser.zero_grad()
        (text + answer).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        cpu += time.process_time() - start
    final = scores(model, test_batch(full))
    weights = {f"model/{name}": p for name, p in model.state_dict().items()}
    return {"curve": curve, "test": final, "cpu": cpu, "parameters": model.parameter_count(), "tensors": weights | kept}
