"""What gather_heads computes, in plain torch on any device and dtype: the definition that every kernel is tested against."""

import torch
from torch import Tensor

__all__ = ["gather_heads"]


def gather_heads(
    x: Tensor, wq: Tensor, bq: Tensor, wk: Tensor, bk: Tensor, wv: Tensor, bv: Tensor, wot: Tensor, bo: Tensor,
    keys: Tensor, values: Tensor, length: int, heads: Tensor,
    inputs: Tensor | None = None, filled: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """One decode step of the chosen heads; arguments and effects as in the package's ``gather_heads``."""
    y = bo.expand(len(x), -1).clone()
    if inputs is not None:
        inputs[:, length] = x
    for h in [int(h) for h in heads.tolist() if h >= 0]:
        first = length if filled is None else min(int(filled[h]), length)
        seen = x[:, None] if inputs is None else inputs[:, first : length + 1]  # [B, n, d]
        keys[:, h, length + 1 - seen.shape[1] : length + 1] = seen @ wk[h].T + bk[h]
        values[:, h, length + 1 - seen.shape[1] : length + 1] = seen @ wv[h].T + bv[h]
        if filled is not None:
            filled[h] = length + 1
        query = (x @ wq[h].T + bq[h]) * wq.shape[1] ** -0.5
        weights = torch.einsum("bj,btj->bt", query, keys[:, h, : length + 1]).softmax(-1)
        y = y + torch.einsum("bt,btj->bj", weights, values[:, h, : length + 1]) @ wot[h]
    return y
