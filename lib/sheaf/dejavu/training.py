"""Training of a miniature: one run is a job that keeps its checkpoint; every notebook finds the same models again."""

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sheaf.common.gpt import next_token_loss
from sheaf.common.jobs import Job, run_all, tensors_of
from sheaf.dejavu import corpus, models

__all__ = ["job_of", "load", "loss_of", "train", "train_all"]

RATE, WARM_UP, CLIP = 5e-3, 30, 1.0
LEARNT = 1.0  # loss at which the documents that come first have been learnt: the first of their repeats alone costs 0.7
SOURCES = [models, corpus]


def job_of(settings: dict[str, Any], data: str = "facts", activation: str = "relu", seed: int = 0, **changes: Any) -> Job:
    """The job of one training: ``settings`` holds width, heads, layers, steps, batch and documents; ``changes`` go over it."""
    return {"data": data, "activation": activation, "seed": seed, **settings, **changes}


def train(job: Job) -> dict[str, Any]:
    """One run from a seed; returns the held-out loss in nats per token, CPU seconds, the number of drills and the weights.

    Where a corpus has documents that come first, they are read until they are learnt, at most ``steps`` batches of them: how soon
    a small model learns to look back differs widely between seeds, and a model that never did would say nothing about heads. Then
    every run has the same ``steps`` on everything else.
    """
    text = corpus.load(job["data"], job["documents"])
    config = models.OPTConfig(
        job["width"], job["layers"], job["heads"], len(text.vocabulary), text.train.shape[1] - 1, activation=job["activation"]
    )
    model = models.OPT(config, seed=job["seed"])
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.98), weight_decay=0.01)
    generator = torch.Generator().manual_seed(job["seed"] + 1)
    first = torch.randperm(text.first, generator=generator)
    rest = text.first + torch.randperm(len(text.train) - text.first, generator=generator)
    began, rate, size = time.process_time(), job.get("rate", RATE), job["batch"]

    def step(order: Tensor, i: int, scale: float) -> float:
        batch = text.train[order[torch.arange(i * size, (i + 1) * size) % len(order)]]
        for group in optimiser.param_groups:
            group["lr"] = rate * scale
        loss = next_token_loss(model(batch[:, :-1]), batch[:, 1:])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimiser.step()
        return float(loss.detach())

    drills = 0
    while text.first and drills < job["steps"]:
        drills += 1
        if step(first, drills, min(1.0, drills / WARM_UP)) < LEARNT:
            break
    for i in range(job["steps"]):
        warm = min(1.0, (drills + i + 1) / WARM_UP)
        step(rest, i, warm * (0.05 + 0.475 * (1 + math.cos(math.pi * i / job["steps"]))))
    held = loss_of(model, text.held[:128])
    return {"loss": held, "seconds": time.process_time() - began, "drills": drills, "tensors": dict(model.state_dict())}


@torch.no_grad()
def loss_of(model: nn.Module, sequences: Tensor, batch: int = 32, **options: Any) -> float:
    """Mean loss in nats per token on [n, time + 1] ids; ``options`` go to the model's forward pass."""
    total = sum(
        float(next_token_loss(model(part[:, :-1], **options), part[:, 1:])) * len(part) for part in sequences.split(batch)
    )
    return total / len(sequences)


def train_all(
    jobs: Sequence[Job], *, processes: int | None = None, progress: Callable[[object], None] | None = None
) -> list[dict[str, Any]]:
    """All trainings, kept ones taken from the cache."""
    return run_all(
        train, jobs, paper="dejavu", sources=[*SOURCES, Path(next_token_loss.__code__.co_filename)], processes=processes,
        progress=progress,
    )  # fmt: skip


def load(job: Job) -> models.OPT:
    """The trained model of a job, trained here and now if it is not in the cache."""
    result = train_all([job], processes=1)[0]
    weights = tensors_of(result)
    text = corpus.load(job["data"], job["documents"])
    config = models.OPTConfig(
        job["width"], job["layers"], job["heads"], len(text.vocabulary), text.train.shape[1] - 1, activation=job["activation"]
    )
    model = models.OPT(config, seed=None)
    model.load_state_dict(weights)
    return model.eval().requires_grad_(False)
