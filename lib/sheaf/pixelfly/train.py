"""The training loop of all miniatures: AdamW, warm-up and cosine, the same for every arm, from scratch (recipe, step 3)."""

import math
import time
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sheaf.pixelfly.rigl import RigL

__all__ = ["History", "accuracy", "augment", "cosine", "fit", "optimiser_of"]


@dataclass(frozen=True)
class History:
    """Mean loss of every epoch, CPU seconds of this thread spent in training, and steps done."""

    losses: tuple[float, ...]
    seconds: float
    steps: int


def cosine(step: int, steps: int, warmup: float = 0.1) -> float:
    """Share of the top rate: linear over the first ``warmup`` of the steps, then half a cosine down to zero."""
    first = max(1, int(warmup * steps))
    if step < first:
        return (step + 1) / first
    return 0.5 * (1 + math.cos(math.pi * (step - first) / max(1, steps - first)))


def augment(x: Tensor, generator: torch.Generator, flips: bool, shift: int) -> Tensor:
    """Pictures [n, c, s, s] moved by up to ``shift`` pixels either way (one draw for the batch), each mirrored or not."""
    if flips:
        mirrored = torch.rand(len(x), generator=generator) < 0.5
        x = torch.where(mirrored[:, None, None, None], x.flip(-1), x)
    if shift:
        dx, dy = torch.randint(-shift, shift + 1, (2,), generator=generator).tolist()
        x = torch.roll(x, (dy, dx), (-2, -1))
    return x


@torch.no_grad()
def accuracy(model: nn.Module, data: tuple[Tensor, Tensor], batch: int = 500) -> float:
    """Share of examples classified rightly."""
    model.eval()
    right = sum(
        int((model(x).argmax(1) == y).sum()) for x, y in zip(data[0].split(batch), data[1].split(batch), strict=True)
    )
    model.train()
    return right / len(data[1])


def optimiser_of(model: nn.Module, rate: float, decay: float) -> torch.optim.AdamW:
    """AdamW; matrices and blocks decay, biases, norms and scalars do not."""
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    return torch.optim.AdamW(
        [{"params": matrices, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}], lr=rate
    )


def fit(
    model: nn.Module, data: tuple[Tensor, Tensor], *, epochs: int, rate: float, seed: int, batch: int = 128, decay: float = 0.05,
    flips: bool = False, shift: int = 0, rigl_period: int | None = None,
) -> History:  # fmt: skip
    """Train in place.

    Args:
        data: pictures and labels.
        rate: top learning rate.
        seed: of the order of the pictures and of their augmentation.
        rigl_period: move the masks of masked layers every so many steps.

    Raises:
        ValueError: no epochs, or fewer pictures than a batch.
    """
    x, y = data
    if epochs < 1 or len(x) < batch:
        raise ValueError(
            f"training needs an epoch and a batch of {batch} pictures; got {epochs} epochs and {len(x)} pictures"
        )
    generator = torch.Generator().manual_seed(seed)
    optimiser = optimiser_of(model, rate, decay)
    per_epoch = len(x) // batch
    steps = epochs * per_epoch
    mover = RigL(model, optimiser, steps, period=rigl_period) if rigl_period else None
    losses, done, began = [], 0, time.thread_time()
    model.train()
    for _ in range(epochs):
        order = torch.randperm(len(x), generator=generator)
        total = 0.0
        for part in order[: per_epoch * batch].view(per_epoch, batch):
            for group in optimiser.param_groups:
                group["lr"] = rate * cosine(done, steps)
            if mover:
                mover.watch()
            loss = F.cross_entropy(model(augment(x[part], generator, flips, shift)), y[part])
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            if mover:
                mover.step()
            total += float(loss.detach())
            done += 1
        losses.append(total / per_epoch)
    return History(tuple(losses), time.thread_time() - began, steps)
