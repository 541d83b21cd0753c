"""A layout as independent dense products: closed groups of block rows and columns, multiplied by cuBLAS in one batch.

A flat butterfly of maximum stride k on g cells never leaves a group of 2k cells, so the matrix is g / 2k dense blocks on its
diagonal, of which it fills (1 + log2 2k) / 2k: half at k = 4. Where a library's product is twice as fast per multiply-add as a
kernel that skips, multiplying the zeros of a group wins. Activations are used in place, by strides; only weights are copied.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from .layout import Layout

__all__ = ["Groups", "dds", "groups", "sdd"]

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Groups:
    """``count`` equal groups along the diagonal, each ``rows`` x ``columns`` elements of the matrix [out, in].

    ``index`` [nnz * b * b] is where every stored weight stands in the dense groups [count, rows, columns].
    """

    count: int
    rows: int
    columns: int
    index: Tensor


@lru_cache(maxsize=512)
def groups(layout: Layout, device: torch.device = _CPU) -> Groups | None:
    """The closed groups of a layout; None when there is one only, or they are no equal runs along the diagonal."""
    if device.type != "cpu":
        found = groups(layout)
        return None if found is None else Groups(found.count, found.rows, found.columns, found.index.to(device))
    rows, columns = layout.mask.shape
    count = _runs(layout.mask)
    if count < 2:
        return None
    b = layout.block
    high, wide = rows // count, columns // count
    group = layout.rows // high
    edge = torch.arange(b)
    row = (layout.rows % high * b)[:, None, None] + edge[:, None]
    column = (layout.cols % wide * b)[:, None, None] + edge
    index = (group[:, None, None] * high * b + row) * wide * b + column
    return Groups(count, high * b, wide * b, index.reshape(-1))


def _runs(mask: Tensor) -> int:
    """The largest number of equal runs of rows and columns such that nothing is kept outside of the diagonal of runs."""
    rows, columns = mask.shape
    at = mask.nonzero()
    for count in range(min(rows, columns), 1, -1):
        if rows % count == 0 and columns % count == 0 and bool((at[:, 0] * count // rows == at[:, 1] * count // columns).all()):
            return count
    return 1


def _split(t: Tensor, count: int) -> Tensor:
    """[T, count * n] -> [count, T, n] without a copy."""
    return t.unflatten(1, (count, -1)).transpose(0, 1)


def dds(
    x: Tensor, weight: Tensor, found: Groups, transposed: bool, bias: Tensor | None, z: Tensor, u: Tensor | None, y: Tensor
) -> None:
    """y = x W^T (or x W when ``transposed``) + z u^T + bias, into y [T, out]."""
    dense = weight.new_zeros(found.count, found.rows, found.columns)
    dense.view(-1).index_copy_(0, found.index, weight.reshape(-1))
    matrix = dense if transposed else dense.transpose(1, 2)
    torch.bmm(_split(x, found.count), matrix, out=_split(y, found.count))
    if bias is not None:
        y += bias
    if u is not None:
        y.addmm_(z, u.T)


def sdd(dy: Tensor, x: Tensor, found: Groups, dweight: Tensor) -> None:
    """dweight [nnz, b, b] = the kept blocks of dy^T x."""
    dense = torch.bmm(_split(dy, found.count).transpose(1, 2), _split(x, found.count))
    torch.index_select(dense.view(-1), 0, found.index, out=dweight.view(-1))
