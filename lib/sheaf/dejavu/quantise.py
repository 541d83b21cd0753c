"""Four-bit weights: group-wise rounding of a block's matrices, to ask whether it adds to sparsity's loss or not (table 7)."""

import copy

import torch
from torch import Tensor, nn

from sheaf.dejavu.models import OPT

__all__ = ["quantise", "quantised_model"]


def quantise(weight: Tensor, bits: int = 4, group: int = 32) -> Tensor:
    """A weight [out, in] rounded to ``bits`` with a scale and an offset per group of ``group`` inputs, as floating point again.

    Raises:
        ValueError: bits outside 2..8 or a group below 1.
    """
    if not 2 <= bits <= 8 or group < 1:
        raise ValueError(f"quantising needs 2 to 8 bits and a group of at least 1; got {bits} and {group}")
    out, inner = weight.shape
    padded = nn.functional.pad(weight, (0, -inner % group), mode="replicate") if inner % group else weight
    parts = padded.reshape(out, -1, group)
    low, high = parts.amin(-1, keepdim=True), parts.amax(-1, keepdim=True)
    scale = ((high - low) / (2**bits - 1)).clamp_min(1e-12)
    return (((parts - low) / scale).round() * scale + low).reshape(out, -1)[:, :inner]


def quantised_model(model: OPT, bits: int = 4, group: int = 32) -> OPT:
    """A copy whose blocks' matrices are quantised; embeddings, norms and biases stay."""
    made = copy.deepcopy(model)
    with torch.no_grad():
        for block in made.stack:
            for part in block.modules():
                if isinstance(part, nn.Linear):
                    part.weight.copy_(quantise(part.weight, bits, group))
    return made
