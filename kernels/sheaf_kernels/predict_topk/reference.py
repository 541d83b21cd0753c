"""What predict_topk computes, in plain torch on any device and dtype: the definition that every kernel is tested against."""

import torch
from torch import Tensor

__all__ = ["predict_topk", "scores"]


def scores(x: Tensor, a: Tensor, b: Tensor, activation: str = "identity", reduce: str = "sum") -> Tensor:
    """[out]: (act(x a^T) b^T), summed or maximised over the batch."""
    hidden = x.to(a.dtype) @ a.T
    each = (hidden.relu() if activation == "relu" else hidden) @ b.T
    return each.amax(0) if reduce == "max" else each.sum(0)


def predict_topk(
    x: Tensor, a: Tensor, b: Tensor, k: int, threshold: float | None = None,
    activation: str = "identity", reduce: str = "sum",
) -> Tensor:  # fmt: skip
    """The k best units in ascending order; arguments as in the package's ``predict_topk``."""
    score = scores(x, a, b, activation, reduce)
    best = score.sort(descending=True, stable=True).indices[:k]
    if threshold is None:
        return best.sort().values
    passing = best[score[best] > threshold].sort().values
    return torch.cat([passing, passing.new_full((k - len(passing),), -1)])
