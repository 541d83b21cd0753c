"""Attention whose scores exist only on blocks of a mask, by torch's own attention on gathered key blocks."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sheaf.pixelfly import masks

__all__ = ["attention_mask", "block_sparse_attention", "masked_attention"]


def attention_mask(pattern: str, cells: int, *, max_stride: int | None = None, width: int = 1, seed: int = 0) -> Tensor:
    """Blocks of the score matrix [cells, cells], bool.

    Args:
        pattern: "pixelfly" (flat butterfly and ``width`` global block rows and columns, the low-rank part of the released
            models' kind), "flat", "local" (as many blocks a row as the flat one), or "bigbird" (3 local, global, random).
        cells: blocks along the sequence.
        max_stride: of the butterfly; all strides when None.

    Raises:
        ValueError: unknown pattern.
    """
    top = 2 ** max(0, (cells - 1).bit_length() - 1) if max_stride is None else max_stride
    flat = masks.flat_butterfly(cells, top if cells > 1 else 0)
    kept = int(flat.sum(1).max())
    if pattern == "flat":
        mask = flat
    elif pattern == "pixelfly":
        mask = flat | masks.global_(cells, cells, width)
    elif pattern == "local":
        mask = masks.local(cells, cells, kept | 1)
    elif pattern == "bigbird":
        rng = np.random.default_rng(seed)
        mask = masks.local(cells, cells, 3) | masks.global_(cells, cells, width)
        for row in mask[width:]:
            free = np.flatnonzero(~row)
            row[rng.choice(free, min(len(free), max(0, kept + width - int(row.sum()))), replace=False)] = True
    else:
        raise ValueError(f"attention pattern {pattern!r} is unknown; use 'pixelfly', 'flat', 'local' or 'bigbird'")
    return torch.from_numpy(mask)


def masked_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, block: int, causal: bool = False) -> Tensor:
    """The definition: dense attention with the scores outside of the mask removed. Shapes as below."""
    full = mask.to(q.device).repeat_interleave(block, 0).repeat_interleave(block, 1)
    if causal:
        full = full & torch.ones_like(full).tril()
    return F.scaled_dot_product_attention(q, k, v, attn_mask=full)


def block_sparse_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, block: int, causal: bool = False) -> Tensor:
    """softmax(q k^T / sqrt(d)) v over the kept blocks only; nothing else is computed.

    Query blocks with equally many kept key blocks are taken together: their keys and values are gathered and torch's fused
    attention runs on them. A flat butterfly is one such group, a mask with global rows two.

    Args:
        q, k, v: [batch, heads, T, d].
        mask: [T / block, T / block] bool; every row keeps at least one block (with ``causal``, its diagonal one).
        causal: also remove scores of later keys.

    Returns:
        [batch, heads, T, d].

    Raises:
        ValueError: T is no multiple of the block, the mask has another size, or a row keeps nothing.
    """
    n, h, t, d = q.shape
    cells = t // block
    if cells * block != t or mask.shape != (cells, cells):
        raise ValueError(
            f"{t} tokens in blocks of {block} need a mask of {t / block:g} x {t / block:g}; got {tuple(mask.shape)}"
        )
    mask = mask.to("cpu", torch.bool)
    if causal:
        mask = mask & torch.ones_like(mask).tril()
        if not bool(mask.diagonal().all()):
            raise ValueError("a causal mask must keep the diagonal blocks")
    counts = mask.sum(1)
    if int(counts.min()) == 0:
        raise ValueError("every query block must keep at least one key block")
    qs, ks, vs = (x.reshape(n, h, cells, block, d) for x in (q, k, v))
    out = torch.empty_like(qs) if not (q.requires_grad or k.requires_grad or v.requires_grad) else None
    parts, order = [], []
    for count in counts.unique().tolist():
        rows = (counts == count).nonzero().flatten()
        columns = mask[rows].nonzero()[:, 1].view(len(rows), count).to(q.device)  # [rows, count]
        queries = qs if len(rows) == cells else qs[:, :, rows]
        if count == cells:  # full rows read all keys in place
            keys, values = (x.unsqueeze(2) for x in (k, v))
            keys, values = (x.expand(n, h, len(rows), t, d) for x in (keys, values))
        else:
            keys, values = (x[:, :, columns].flatten(3, 4) for x in (ks, vs))  # [n, h, rows, count * block, d]
        bias = None
        if causal:  # inside the diagonal block, and only there, later keys are removed
            seen = columns[:, :, None].cpu() * block + torch.arange(block)
            here = rows[:, None] * block + torch.arange(block)
            bias = (seen.flatten(1)[:, None, :] <= here[:, :, None]).to(q.device)
        flat_q, flat_k, flat_v = (
            x.flatten(0, 1) for x in (queries, keys, values)
        )  # [n * h, rows, ...]: rows act as heads
        y = F.scaled_dot_product_attention(flat_q, flat_k, flat_v, attn_mask=bias).view(n, h, len(rows), block, d)
        if len(rows) == cells:
            return y.reshape(n, h, t, d)
        if out is not None:
            out[:, :, rows] = y
        parts.append(y)
        order.append(rows)
    if out is not None:
        return out.view(n, h, t, d)
    back = torch.cat(order).argsort()
    return torch.cat(parts, dim=2)[:, :, back].reshape(n, h, t, d)
