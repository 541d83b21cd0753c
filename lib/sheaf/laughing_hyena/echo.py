"""A task that needs sharp filters: say again what was seen a fixed number of steps ago. Trained like the other miniatures."""

import math
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from sheaf.common.jobs import Job, run_all
from sheaf.laughing_hyena import models, training
from sheaf.laughing_hyena.models import LM
from sheaf.laughing_hyena.tasks import ANSWER, Batch
from sheaf.laughing_hyena.training import BASE, config_of, scores

__all__ = ["LAG", "batch_for_tests", "echo", "jobs", "run", "train_echo"]

LAG = 20  # steps back; a filter that reproduces a single sample there needs about as much state
TEST_SEED = 1_000_033


def echo(sequences: int, length: int, symbols: int, lag: int, generator: torch.Generator) -> Batch:
    """Random symbols; at every step the one seen ``lag`` steps before is asked for.

    Raises:
        ValueError: a sequence no longer than the lag.
    """
    if not 1 <= lag < length:
        raise ValueError(f"a sequence of {length} cannot repeat what was {lag} steps ago; make it longer than the lag")
    tokens = torch.randint(symbols, (sequences, length), generator=generator)
    targets = torch.cat([torch.zeros_like(tokens[:, :lag]), tokens[:, :-lag]], dim=1)
    kind = torch.zeros_like(tokens)
    kind[:, lag:] = ANSWER
    return Batch(tokens, targets, kind)


def jobs(settings: dict[str, Any], seeds: list[int]) -> list[Job]:
    """Hyena on the echo task, one job per seed."""
    base: Job = {"kind": "hyena", "symbols": 8, "lag": LAG, "steps": settings["echo_steps"]}
    given = settings.get("model", {})
    lag = min(LAG, given.get("length", 64) // 2)
    return [base | given | {"lag": lag, "seed": seed} for seed in seeds]


def batch_for_tests(job: Job, sequences: int) -> Batch:
    """The sequences every model is tested on."""
    full = BASE | job
    return echo(sequences, full["length"], full["symbols"], full["lag"], torch.Generator().manual_seed(TEST_SEED))


def train_echo(job: Job) -> dict[str, Any]:
    """Train one model with AdamW (warm-up, cosine to a tenth): "test" scores, "cpu" seconds, "tensors" the weights."""
    full = BASE | job
    model = LM(config_of(full), full["seed"])
    generator = torch.Generator().manual_seed(full["seed"] + 1)
    optimiser = torch.optim.AdamW(model.parameters(), lr=full["rate"], betas=(0.9, 0.98), weight_decay=0.01)
    start = time.process_time()
    for step in range(full["steps"]):
        batch = echo(full["batch"], full["length"], full["symbols"], full["lag"], generator)
        warm = min(1.0, (step + 1) / (0.05 * full["steps"] + 1))
        for group in optimiser.param_groups:
            group["lr"] = full["rate"] * warm * (0.55 + 0.45 * math.cos(math.pi * step / full["steps"]))
        asked = batch.kind == ANSWER
        loss = F.cross_entropy(model(batch.tokens)[asked], batch.targets[asked])
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
    cpu = time.process_time() - start
    weights = {f"model/{name}": p for name, p in model.state_dict().items()}
    test = scores(model, batch_for_tests(full, 128))
    return {"test": test, "cpu": cpu, "parameters": model.parameter_count(), "tensors": weights}


def run(todo: list[Job], tick: Callable[[object], None] | None = None, processes: int | None = None) -> list[dict[str, Any]]:
    """Train what is not yet kept; results in the order of the jobs."""
    sources = [models, training]
    return run_all(train_echo, todo, paper="laughing_hyena", sources=sources, processes=processes, progress=tick)
