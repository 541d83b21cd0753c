"""Sparsity from the depth: sub-blocks run in parallel, layers skipped (the appendix's table)."""

import torch
from torch import Tensor

from sheaf.dejavu.models import OPT

__all__ = ["VARIANTS", "forward", "skipped"]

VARIANTS = ("dense", "Parallel 2", "Parallel 4", "Skip 2/8", "Skip 2/4")


def skipped(variant: str, layers: int) -> list[int]:
    """Which layers a Skip variant leaves out: the middle two of every 8, or of every 4. The paper does not say which two.

    Raises:
        ValueError: no such variant.
    """
    if variant not in ("Skip 2/8", "Skip 2/4"):
        raise ValueError(f"variant {variant!r} skips nothing; use 'Skip 2/8' or 'Skip 2/4'")
    every = int(variant.rpartition("/")[2])
    middle = (every // 2 - 1, every // 2)
    return [i for i in range(layers) if i % every in middle]


@torch.no_grad()
def forward(model: OPT, ids: Tensor, variant: str, keep_first: bool = True) -> Tensor:
    """Logits [batch, time, vocab] of a variant of a trained model, without training it again.

    "Parallel 2" adds attention and MLP of a layer computed from the same input; "Parallel 4" those of two layers.

    Args:
        keep_first: leave the first layer as it is in the parallel variants; miniatures do their tokens' first work there.

    Raises:
        ValueError: unknown variant.
    """
    if variant not in VARIANTS:
        raise ValueError(f"variant {variant!r} is unknown; use one of {', '.join(VARIANTS)}")
    x = model.embed(ids)
    blocks = list(model.stack)
    if variant.startswith("Skip"):
        gone = skipped(variant, len(blocks))
        blocks = [b for i, b in enumerate(blocks) if i not in gone]
    if not variant.startswith("Parallel"):
        for block in blocks:
            x = block(x)
        return model.head(x)
    if keep_first:
        x, blocks = blocks[0](x), blocks[1:]
    together = int(variant.rpartition(" ")[2]) // 2
    for i in range(0, len(blocks), together):
        x = x + torch.stack([b.attention(x) + b.mlp(x) for b in blocks[i : i + together]]).sum(0)
    return model.head(x)
