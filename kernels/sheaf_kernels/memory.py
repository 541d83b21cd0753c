"""Tensors in huge pages: weights that are read in rows far apart cost a page-table walk per row otherwise."""

import math
import mmap

import torch
from torch import Tensor

__all__ = ["huge"]

_PAGE = 2**21


def huge(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """An uninitialised CPU tensor that the system is asked to keep in pages of 2 MB; an ordinary one where it cannot.

    The system grants them when memory is first written, and only if it has them (``transparent_hugepage`` "madvise" or "always").
    """
    count = math.prod(shape)
    if not hasattr(mmap, "MADV_HUGEPAGE") or count * dtype.itemsize < _PAGE:
        return torch.empty(shape, dtype=dtype)
    room = mmap.mmap(-1, count * dtype.itemsize + _PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    room.madvise(mmap.MADV_HUGEPAGE)
    whole = torch.frombuffer(room, dtype=torch.uint8)
    start = -whole.data_ptr() % _PAGE
    return whole[start : start + count * dtype.itemsize].view(dtype).view(shape)
