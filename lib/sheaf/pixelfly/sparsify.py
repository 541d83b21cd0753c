"""Make any torch model sparse: replace its linear layers by Pixelfly layers within a budget, and back."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from sheaf.pixelfly.layers import MaskedLinear, MonarchLinear, PixelflyLinear
from sheaf.pixelfly.masks import random_elements
from sheaf.pixelfly.patterns import PATTERNS, Plan, plan

__all__ = ["ARMS", "Report", "densify", "sparsify"]

ARMS = (*PATTERNS, "random_element", "monarch")


@dataclass(frozen=True)
class Report:
    """What `sparsify` did: one row per replaced layer, and the density over all of them."""

    frame: (
        pd.DataFrame
    )  # layer, pattern, out, in, block, nominal density, actual density, rank, parameters before and after

    @property
    def density(self) -> float:
        """Weights left of the replaced layers, as a share; also the share of their multiply-adds."""
        return float(self.frame["parameters"].sum() / self.frame["dense parameters"].sum())


def _linears(model: nn.Module, include: str, exclude: str | None) -> Iterator[tuple[str, nn.Module, str, nn.Linear]]:
    for name, module in list(model.named_modules()):
        for child, layer in list(module.named_children()):
            full = f"{name}.{child}" if name else child
            if isinstance(layer, nn.Linear) and re.search(include, full) and not (exclude and re.search(exclude, full)):
                yield full, module, child, layer


def _fitting_block(out: int, in_: int, block: int) -> int:
    while block > 1 and (out % block or in_ % block):
        block //= 2
    return block


def _groups(out: int, in_: int, density: float) -> int:
    """Monarch's number of groups whose parameters are nearest to the budget."""
    inner, wanted = min(out, in_), density * out * in_
    possible = [g for g in range(1, inner + 1) if in_ % g == 0 and out % g == 0]
    return min(possible, key=lambda g: abs((in_ + out) * inner / g - wanted))


def sparsify(
    model: nn.Module, density: float, *, pattern: str = "pixelfly", block: int = 32, rank_share: float = 0.25,
    include: str = ".*", exclude: str | None = r"(^|\.)head$", mix: str = "scalar", init: str = "balanced", project: bool = False,
    backend: str = "auto", seed: int = 0,
) -> Report:  # fmt: skip
    """Replace linear layers of a model, in place, by sparse ones with about ``density`` times their weights.

    Args:
        model: any module; every nn.Linear whose name matches ``include`` and not ``exclude`` is replaced.
        density: weights kept, low rank included, the same for every layer: what the rule of thumb gives (`budget`).
        pattern: one of `ARMS`; every pattern gets the same number of weights.
        block: edge of a block; halved for a layer that it does not divide.
        rank_share: share of the budget that "pixelfly" gives to the low-rank term.
        mix, init: of `PixelflyLinear`.
        project: start from the model's own weights, as near as the pattern allows, instead of fresh ones.
        seed: of masks and weights, different for every layer.

    Returns:
        What was replaced.

    Raises:
        ValueError: unknown pattern, no layer matches, or a projection onto a pattern that has none.
    """
    if pattern not in ARMS:
        raise ValueError(f"pattern {pattern!r} is unknown; use one of {', '.join(ARMS)}")
    if project and pattern in ("random_element", "monarch"):
        raise ValueError(f"weights cannot be projected onto {pattern!r}; use project=False")
    rows = []
    for i, (name, parent, child, linear) in enumerate(_linears(model, include, exclude)):
        out, in_ = linear.out_features, linear.in_features
        b = _fitting_block(out, in_, block)
        rng = np.random.default_rng([seed, i])
        generator = torch.Generator().manual_seed(seed * 1_000_003 + i)
        bias, kept, rank, actual = linear.bias is not None, out * in_, 0, 1.0
        new: nn.Module = linear
        if pattern == "random_element":
            mask = torch.from_numpy(random_elements(out, in_, round(density * out * in_), rng))
            new, kept = MaskedLinear(mask, bias=bias, generator=generator), int(mask.sum())
            actual = kept / (out * in_)
        elif pattern == "monarch":
            new = MonarchLinear(in_, out, _groups(out, in_, density), bias=bias, generator=generator)
            kept = new.first.numel() + new.second.numel()
            actual = kept / (out * in_)
        elif pattern != "dense":
            chosen: Plan = plan(pattern, out, in_, b, density, rank_share=rank_share, rng=rng)
            options: dict[str, Any] = {"mix": mix, "init": init, "generator": generator, "backend": backend}
            new = (
                PixelflyLinear.from_linear(linear, chosen, **options)
                if project
                else PixelflyLinear(in_, out, chosen, bias=bias, **options)
            )
            kept, rank, actual = chosen.parameters(out, in_), chosen.rank, chosen.density(out, in_)
        reference = linear.weight
        setattr(parent, child, new.to(device=reference.device, dtype=reference.dtype))
        rows.append((name, pattern, out, in_, b, density, actual, rank, out * in_, kept))
    if not rows:
        raise ValueError(f"no linear layer of this model matches {include!r}; its layers are listed by named_modules()")
    columns = [
        "layer",
        "pattern",
        "out",
        "in",
        "block",
        "nominal density",
        "actual density",
        "rank",
        "dense parameters",
        "parameters",
    ]
    return Report(pd.DataFrame(rows, columns=columns))


def densify(model: nn.Module) -> int:
    """Put dense layers that compute the same in the place of all Pixelfly layers; returns how many.

    Raises:
        ValueError: a layer mixes per token and has no single matrix.
    """
    found = [(p, c, m) for p in model.modules() for c, m in p.named_children() if isinstance(m, PixelflyLinear)]
    for parent, child, layer in found:
        setattr(parent, child, layer.to_linear())
    return len(found)
