"""Does contextual sparsity exist? Loss against what is kept, unions over batches: one job per trained model."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sheaf.common.jobs import Job
from sheaf.dejavu import corpus, training
from sheaf.dejavu.masks import (
    Masked,
    Record,
    count,
    fixed,
    oracle,
    random_units,
    record,
    recorded,
    top,
    total_sparsity,
)  # fmt: skip
from sheaf.dejavu.models import OPT

__all__ = ["BATCHES", "SHARES", "TOLERANCE", "evaluate", "existence", "least_kept", "means_of", "unions"]

TOLERANCE = 0.02  # nats a token that may be lost, as in the criteria
SHARES = (0.05, 0.1, 0.15, 0.25, 0.5)
BATCHES = (1, 2, 4, 8, 16, 32)


def means_of(model: OPT, ids: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Mean scores by layer on a calibration set: of neurons [ffn], of heads [heads]."""
    seen = record(model, ids)
    return [a.abs().mean((0, 1)) for a in seen.neuron_values], [n.mean((0, 1)) for n in seen.head_norms]


def evaluate(model: OPT, sequences: Tensor, make: Callable[[Tensor, Record | None], Masked], *, needs_record: bool = False,
             batch: int = 32) -> float:  # fmt: skip
    """Loss on [n, time + 1] ids under masks; ``make`` gives a fresh tap for a batch of ids, with its dense record if needed."""
    total = 0.0
    for part in sequences.split(batch):
        tap = make(part[:, :-1], record(model, part[:, :-1]) if needs_record else None)
        total += training.loss_of(model, part, tap=tap) * len(part)
    return total / len(sequences)


def least_kept(
    loss_at: Callable[[int], float], dense: float, units: int, tolerance: float = TOLERANCE, step: int = 1
) -> int:
    """The fewest units that keep the loss within a tolerance of dense, by bisection to ``step``: 0 to ``units``."""
    low, high = 0, units  # too few; enough
    if loss_at(0) <= dense + tolerance:
        return 0
    while high - low > step:
        middle = (low + high) // 2
        if loss_at(middle) <= dense + tolerance:
            high = middle
        else:
            low = middle
    return high


class _Losses:
    """Losses of one model under every rule, on the same held-out sequences."""

    def __init__(self, model: OPT, sequences: Tensor, calibration: Tensor) -> None:
        self.model, self.sequences = model, sequences
        self.means, self.head_means = means_of(model, calibration)
        self.dense = training.loss_of(model, sequences)

    def __call__(self, unit: str, rule: str, k: int, layers: set[int] | None = None) -> float:
        """Loss with k units of a kind kept by a rule, in the given layers (all when None)."""
        others = set(range(self.model.config.layers)) - (layers if layers is not None else set(range(1000)))
        generator = torch.Generator().manual_seed(7)

        def make(ids: Tensor, seen: Record | None) -> Masked:
            scores = [] if seen is None else (
                [a.abs() for a in seen.neuron_values] if unit == "neurons" else seen.head_norms
            )  # fmt: skip
            means = self.means if unit == "neurons" else self.head_means
            chosen = {"dense stream": lambda: recorded(scores, k), "masked stream": lambda: oracle(k),
                      "static": lambda: fixed(means, k), "random": lambda: random_units(k, generator)}[rule]()  # fmt: skip
            return Masked(chosen if unit == "neurons" else None, chosen if unit == "heads" else None, dense=others)

        return evaluate(self.model, self.sequences, make, needs_record=rule == "dense stream")


def existence(job: Job) -> dict[str, Any]:
    """Everything notebook 2 asks of one model. A job holds ``model`` (a training job) and ``evaluate`` (sequences).

    Returns loss rows (unit, rule, kept share, loss added), densities by layer, the least kept by layer and in all, union
    densities, cosines, norm ratios and correlations.
    """
    from sheaf.dejavu import stream

    model = training.load(job["model"])
    text = corpus.load(job["model"]["data"], job["model"]["documents"])
    sequences, calibration = text.held[: job["evaluate"]], text.train[: job["evaluate"], :-1]
    losses = _Losses(model, sequences, calibration)
    units = {"neurons": model.config.ffn, "heads": model.config.heads}
    rows = []
    for unit, n in units.items():
        counts = sorted({count(s, n) for s in SHARES}) if unit == "neurons" else sorted({1, n // 4, n // 2, 3 * n // 4} - {0})
        for k in counts:
            for rule in ("dense stream", "masked stream", "static", "random"):
                rows.append(
                    {"unit": unit, "rule": rule, "kept": k / n, "loss added": losses(unit, rule, k) - losses.dense}
                )
    least, by_layer = {}, {}
    every = range(model.config.layers)
    for unit, n in units.items():
        at = {rule: least_kept(lambda k, u=unit, r=rule: losses(u, r, k), losses.dense, n)  # type: ignore[misc]
              for rule in ("dense stream", "masked stream")}  # fmt: skip
        least[unit] = {rule: k / n for rule, k in at.items()}
        by_layer[unit] = [
            least_kept(lambda k, u=unit, m=m: losses(u, "masked stream", k, {m}), losses.dense, n,  # type: ignore[misc]
                       TOLERANCE / len(every), max(1, n // 16)) / n for m in every
        ]  # fmt: skip
    seen = record(model, sequences[:, :-1])
    return {
        "dense": losses.dense, "rows": rows, "least": least, "by layer": by_layer,
        "natural": [float((a > 0).float().mean()) for a in seen.neuron_values],
        "total": total_sparsity(1 - least["heads"]["dense stream"], 1 - least["neurons"]["dense stream"]),
        "unions": unions(seen), **stream.measures(seen),
    }  # fmt: skip


def unions(seen: Record, draws: int = 200, seed: int = 0) -> list[dict[str, Any]]:
    """Density of the union of what ``batch`` tokens need, mean over layers, beside what chance gives.

    Tokens of a batch are at random places of different sequences. "independent" supposes that every token draws its units
    alike and on its own, 1 - (1 - p)^batch; "own rates" does so with every unit's own rate; "linear" is batch * p.
    """
    generator = torch.Generator().manual_seed(seed)
    neurons = [a.flatten(0, 1) for a in seen.neuron_values]
    kinds = {
        "neurons, positive": [a > 0 for a in neurons],
        "neurons, top 10 %": [top(a.abs(), count(0.1, a.shape[-1])) for a in neurons],
        "heads, top half": [top(n.flatten(0, 1), count(0.5, n.shape[-1])) for n in seen.head_norms],
    }
    n, time = len(seen.head_norms[0]), seen.head_norms[0].shape[1]
    rows = []
    for kind, masks in kinds.items():
        for batch in (b for b in BATCHES if b <= n):
            at = torch.stack([torch.randperm(n, generator=generator)[:batch] for _ in range(draws)])
            at = at * time + torch.randint(time, at.shape, generator=generator)
            union, chance, own, p = 0.0, 0.0, 0.0, 0.0
            for mask in masks:
                rates = mask.float().mean(0)
                union += float(mask[at].any(1).float().mean()) / len(masks)
                chance += float(1 - (1 - rates.mean()) ** batch) / len(masks)
                own += float((1 - (1 - rates) ** batch).mean()) / len(masks)
                p += float(rates.mean()) / len(masks)
            rows.append({"units": kind, "batch": batch, "union": union, "independent": chance, "own rates": own,
                         "linear": min(1.0, batch * p)})  # fmt: skip
    return rows

