"""Ablations at equal parameters: the low-rank share of the budget, the block, and the split between MLP and attention."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from sheaf.pixelfly.accuracy import image_arms
from sheaf.pixelfly.miniature import DENSITY
from sheaf.pixelfly.models import VisionConfig
from sheaf.pixelfly.patterns import plan

__all__ = ["BLOCKS", "SHARES", "blocks", "ends", "rank_shares", "realised_shares", "split"]

SHARES = (0.0, 1 / 8, 1 / 4, 1 / 2, 1.0)  # 1/3 is the same rank as 1/4 here; what ranks really take: `realised_shares`
SHARE_BLOCK = 4  # so that ranks come in steps of 4; blocks of 8 leave only ranks of 0, 8 and 16
BLOCKS = (4, 8, 16, 32)
REMOVED = 3 / 10  # of the weights of a ViT block: what attention can give alone
SPLITS = {  # name -> (layers made sparse, their density); a block has 6 w^2 weights in its MLP and 4 w^2 in attention
    "both alike (the rule)": (r"(mlp\.(up|down)|attention\.(q|k|v|out))$", 1 - REMOVED),
    "MLP only": (r"mlp\.(up|down)$", 1 - REMOVED * 10 / 6),
    "attention only": (r"attention\.(q|k|v|out)$", 1 - REMOVED * 10 / 4),
}


def realised_shares(model: str = "mixer-mini", block: int = SHARE_BLOCK) -> dict[float, float]:
    """Share asked for -> share of the weights that the rank really takes, one entry per distinct rank (up and down alike)."""
    config = VisionConfig.from_name(model)
    found: dict[int, tuple[float, float]] = {}
    for share in SHARES:
        out, in_ = config.channel_hidden, config.width
        chosen = plan("pixelfly", out, in_, block, DENSITY, rank_share=share)
        found.setdefault(chosen.rank, (share, chosen.rank * (out + in_) / chosen.parameters(out, in_)))
    return dict(found.values())


def rank_shares(dataset: str, rates: Iterable[float], seeds: Iterable[int], **options: Any) -> pd.DataFrame:
    """Accuracy of the Mixer miniature for every low-rank share, 0 being flat only and 1 low rank only; tuned rates.

    The column "share" holds what the rank really takes, to three digits.
    """
    rates, seeds = list(rates), list(seeds)
    runs = []
    for asked, real in realised_shares().items():
        found = image_arms(
            "mixer-mini", dataset, ["pixelfly"], rates, seeds, rank_share=asked, block=SHARE_BLOCK, **options
        )[0]
        runs.append(found.assign(share=round(real, 3)))
    return pd.concat(runs, ignore_index=True)


def ends(runs: pd.DataFrame) -> np.ndarray:
    """Per seed: accuracy of the best share from 1/8 to 1/2 less the better of no rank and rank alone, in points.

    The best inner share is the one with the best mean over the other seeds, so that a seed does not choose for itself.
    """
    table = runs.pivot_table(index="seed", columns="share", values="accuracy")
    inner = [s for s in table.columns if 1 / 8 <= s <= 1 / 2]
    found = []
    for seed in table.index:
        others = table.drop(index=seed) if len(table) > 1 else table
        best_inner = others[inner].mean().idxmax()
        best_end = others[[0.0, 1.0]].mean().idxmax()
        found.append(table.loc[seed, best_inner] - table.loc[seed, best_end])
    return np.array(found)


def blocks(dataset: str, rates: Iterable[float], seeds: Iterable[int], **options: Any) -> pd.DataFrame:
    """Accuracy of the Mixer miniature for every block, flat butterfly at equal parameters; tuned rates."""
    rates, seeds = list(rates), list(seeds)
    found = [image_arms("mixer-mini", dataset, ["flat"], rates, seeds, block=b, **options)[0] for b in BLOCKS]
    return pd.concat([f.assign(size=b) for f, b in zip(found, BLOCKS, strict=True)], ignore_index=True)


def split(dataset: str, rates: Iterable[float], seeds: Iterable[int], **options: Any) -> pd.DataFrame:
    """Accuracy of the ViT miniature when 3/10 of its weights go from both layer types alike, from the MLP, or from attention."""
    rates, seeds = list(rates), list(seeds)
    found = []
    for name, (include, density) in SPLITS.items():
        runs = image_arms("vit-mini", dataset, ["pixelfly"], rates, seeds, include=include, density=density, **options)[
            0
        ]
        found.append(runs.assign(split=name))
    return pd.concat(found, ignore_index=True)
