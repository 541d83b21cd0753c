"""What gather_mlp computes, in plain torch on any device and dtype: the definition that every kernel is tested against."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["ACTIVATIONS", "gather_mlp"]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "gelu": F.gelu, "identity": lambda t: t}


def gather_mlp(
    x: Tensor, w1: Tensor, b1: Tensor, w2t: Tensor, b2: Tensor, index: Tensor,
    activation: str = "relu", threshold: float | None = None,
) -> Tensor:  # fmt: skip
    """y = act(x W1[index]^T + b1[index]) W2t[index] + b2; shapes as in the package's ``gather_mlp``."""
    index = index[index >= 0].long()
    hidden = ACTIVATIONS[activation](x @ w1[index].T + b1[index])
    if threshold is not None:  # a row stays when any of the batch needs it, because the batch shares what is read
        hidden = hidden * (hidden.abs() > threshold).any(0).to(hidden.dtype)
    return torch.addmm(b2, hidden, w2t[index])
