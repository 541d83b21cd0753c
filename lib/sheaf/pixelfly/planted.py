"""Planted tasks: targets that one linear layer can fit only if its pattern has the stride, or the rank, they were made with."""

from collections.abc import Iterable

import pandas as pd
import torch
from torch import Tensor, nn

from sheaf.pixelfly.miniature import ARMS
from sheaf.pixelfly.sparsify import sparsify

__all__ = ["KINDS", "planted", "planted_task"]

KINDS = ("stride", "rank", "rotation")
BLOCK = 4


def planted_task(kind: str, n: int, seed: int, features: int = 64, stride: int = 32) -> tuple[Tensor, Tensor]:
    """Gaussian inputs [n, features] and targets [n, features] that a pattern without the needed structure cannot fit.

    "stride": every target is the input ``stride`` places away (index xor stride). "rank": a fixed random rotation of every
    four neighbours, so full rank and nothing far away. "rotation": one of all features at once, for which no pattern of these
    has enough weights; every one explains about what its parameters allow.

    Raises:
        ValueError: unknown kind.
    """
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, features, generator=generator)
    if kind == "stride":
        return x, x[:, torch.arange(features) ^ stride]
    if kind not in KINDS:
        raise ValueError(f"planted task {kind!r} is unknown; use one of {', '.join(KINDS)}")
    size = BLOCK if kind == "rank" else features
    draws = torch.randn(features // size, size, size, generator=torch.Generator().manual_seed(7))
    return x, x @ torch.block_diag(*torch.linalg.qr(draws)[0])


def planted(
    kind: str, arms: Iterable[str], seeds: Iterable[int], *, steps: int = 400, rate: float = 0.01
) -> pd.DataFrame:
    """Share of the targets' variance that one linear layer of each pattern explains after training, in percent.

    64 features, blocks of 4 (16 cells), 5/16 of the weights: a block-diagonal mask never joins cells 8 apart, and 10 columns
    never hold a rank of 64.
    """
    rows = []
    for arm in arms:
        for seed in seeds:
            layer: nn.Module = nn.Sequential(nn.Linear(64, 64))
            sparsify(layer, 5 / 16 if arm != "dense" else 1, block=BLOCK, exclude=None, seed=seed, **ARMS[arm])
            optimiser = torch.optim.Adam(layer.parameters(), lr=rate)
            for step in range(steps):
                x, y = planted_task(kind, 256, seed * 100_003 + step)
                loss = (layer(x) - y).square().mean()
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
            x, y = planted_task(kind, 2000, seed * 100_003 + 99_999)
            with torch.no_grad():
                left = float((layer(x) - y).square().mean() / y.var())
            rows.append({"task": kind, "arm": arm, "seed": seed, "accuracy": 100 * (1 - left)})
    return pd.DataFrame(rows)
