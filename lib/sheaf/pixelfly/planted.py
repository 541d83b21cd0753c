"""Planted tasks: targets that one linear layer can fit only if its pattern has the stride, or the rank, they were made with."""

from collections.abc import Iterable

import pandas as pd
import torch
from torch import Tensor, nn

from sheaf.pixelfly.miniature import ARMS
from sheaf.pixelfly.sparsify import sparsify

__all__ = ["planted", "planted_task"]


def planted_task(kind: str, n: int, seed: int, features: int = 64, stride: int = 32) -> tuple[Tensor, Tensor]:
    """Gaussian inputs [n, features] and targets [n, features] that a pattern without the needed structure cannot fit.

    "stride": every target is the input ``stride`` places away (index xor stride). "rank": a fixed random rotation, which has
    full rank and no structure.

    Raises:
        ValueError: unknown kind.
    """
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, features, generator=generator)
    if kind == "stride":
        return x, x[:, torch.arange(features) ^ stride]
    if kind != "rank":
        raise ValueError(f"planted task {kind!r} is unknown; use 'stride' or 'rank'")
    rotation = torch.linalg.qr(torch.randn(features, features, generator=torch.Generator().manual_seed(7)))[0]
    return x, x @ rotation


def planted(
    kind: str, arms: Iterable[str], seeds: Iterable[int], *, steps: int = 400, rate: float = 0.01
) -> pd.DataFrame:
    """Share of the targets' variance that one linear layer of each pattern explains after training, in percent.

    64 features, blocks of 4 (16 cells), 5/16 of the weights: a block-diagonal mask never joins cells 8 apart, a low rank
    never a rotation.
    """
    rows = []
    for arm in arms:
        for seed in seeds:
            layer: nn.Module = nn.Sequential(nn.Linear(64, 64))
            sparsify(layer, 5 / 16 if arm != "dense" else 1, block=4, exclude=None, seed=seed, **ARMS[arm])
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
