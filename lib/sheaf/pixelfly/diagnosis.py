"""Controls for the question why Pixelfly trails: its parts apart from each other, and what either term gives at the start."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from sheaf.common.jobs import Job
from sheaf.pixelfly import images, masks
from sheaf.pixelfly.accuracy import image_arms
from sheaf.pixelfly.layers import INITIALISATIONS, PixelflyLinear
from sheaf.pixelfly.miniature import make
from sheaf.pixelfly.patterns import Plan, plan
from sheaf.pixelfly.train import accuracy, fit

__all__ = ["gains", "move_blocks", "random_and_rank", "replace_masks", "train_random_and_rank"]


def replace_masks(model: nn.Module, seed: int, draw: Callable[[np.ndarray, int, int], np.ndarray]) -> int:
    """Give every Pixelfly layer another mask with as many blocks; rank, mixing and start stay.

    Args:
        draw: (mask, block, which layer) -> new mask.

    Returns:
        How many layers were changed.

    Raises:
        ValueError: a new mask has another number of blocks.
    """
    found = [(p, c, m) for p in model.modules() for c, m in p.named_children() if isinstance(m, PixelflyLinear)]
    for i, (parent, child, old) in enumerate(found):
        before = np.asarray(old.mask)
        mask = draw(before, old.block, i)
        if mask.shape != before.shape or mask.sum() != before.sum():
            raise ValueError(
                f"a new mask must be {list(before.shape)} with {int(before.sum())} blocks; "
                f"got {list(mask.shape)} with {int(mask.sum())}"
            )
        new = PixelflyLinear(
            old.in_features, old.out_features, Plan(mask, old.block, old.rank), bias=old.bias is not None, mix=old.mix,
            init=old.init, backend=old.backend, generator=torch.Generator().manual_seed(seed * 1_000_003 + i),
        )  # fmt: skip
        setattr(parent, child, new)
    return len(found)


def move_blocks(model: nn.Module, seed: int) -> int:
    """Put every Pixelfly layer's blocks at random places, as many as before.

    Returns:
        How many layers were changed.
    """

    def draw(mask: np.ndarray, _: int, i: int) -> np.ndarray:
        rows, columns = mask.shape
        return masks.random_blocks(rows, columns, int(mask.sum()), np.random.default_rng([seed, i, 3]))

    return replace_masks(model, seed, draw)


def train_random_and_rank(job: Job) -> dict[str, Any]:
    """As `miniature.train_image_model` trains the arm "pixelfly", but with its blocks at random places."""
    data = images.load(job["dataset"])
    keep = job["train"] or len(data.train[0])
    model, density = make(job["model"], "pixelfly", data, job["seed"])
    move_blocks(model, job["seed"])
    history = fit(
        model, (data.train[0][:keep], data.train[1][:keep]), epochs=job["epochs"], rate=job["rate"], seed=job["seed"],
        flips=data.flips, shift=1 if data.side < 16 else 2,
    )  # fmt: skip
    held = data.validation if job["on"] == "validation" else data.test
    gammas = [float(m.gamma.detach()) for m in model.modules() if isinstance(m, PixelflyLinear) and m.gamma is not None]
    return {
        "accuracy": 100 * accuracy(model, held), "sparse density": density, "loss": history.losses[-1],
        "step_s": history.seconds / history.steps, "gamma": float(np.mean(gammas)) if gammas else None,
    }  # fmt: skip


def random_and_rank(dataset: str, rates: Iterable[float], seeds: Iterable[int], **options: Any) -> pd.DataFrame:
    """The cell that flat, random block and Pixelfly leave open: random blocks and low rank at equal parameters; tuned rates.

    With the three it tells apart what the butterfly costs (against random, with and without rank) and what the rank costs.
    """
    runs = image_arms("mixer-mini", dataset, ["pixelfly"], rates, seeds, worker=train_random_and_rank, **options)[0]
    return runs.assign(arm="random block + low rank")


def gains(
    in_: int = 128,
    out: int = 512,
    block: int = 8,
    density: float = 0.25,
    *,
    draws: int = 20,
    tokens: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Deviation of a layer's output at the start over a default nn.Linear's, for unit inputs, and the low rank's share of it.

    Args:
        draws: layers per row.

    Returns:
        One row per start and mixture: columns init, mix, output, low-rank share (of the variance).
    """
    x = torch.randn(tokens, in_, generator=torch.Generator().manual_seed(seed))
    chosen = plan("pixelfly", out, in_, block, density)
    rows = []
    for init in INITIALISATIONS:
        for mix in ("scalar", "sum"):
            both, low = [], []
            for draw in range(draws):
                generator = torch.Generator().manual_seed(seed + 1 + draw)
                layer = PixelflyLinear(in_, out, chosen, bias=False, mix=mix, init=init, generator=generator)
                assert layer.u is not None and layer.v is not None
                scale = 1.0 if layer.gamma is None else 1 - float(layer.gamma.detach())
                with torch.no_grad():
                    both.append(float(layer(x).var()))
                    low.append(float((scale * (x @ layer.v) @ layer.u.T).var()))
            rows.append((init, mix, np.sqrt(3 * np.mean(both)), np.mean(low) / np.mean(both)))
    return pd.DataFrame(rows, columns=["init", "mix", "output", "low-rank share"])
