"""How a block layout is cut into tiles for a GPU: which rows of blocks share one tile, and which columns the tile reads.

A program that computes `tokens x 32` outputs moves too many bytes per multiply-add to beat a dense product (the analysis is in
`gpu_benchmark.py`), so a tile takes several rows of blocks at once and reads the union of their columns:
    rows with the same columns, the cells of a stretched butterfly, share a tile at no cost, next to each other or not;
    rows with other columns share one when the zeros that are then multiplied cost less than the bytes that are saved.
    A flat butterfly of maximum stride k stays within groups of 2k cells, so that such unions stay small.
The best cut into tiles of at most so many rows is found exactly, by dynamic programming over the rows.

Everything is counted in granules: squares of the largest power of two that divides the block, so that blocks of 48 work too.
Nothing here needs Triton or a GPU.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from .layout import Layout

__all__ = ["Tiles", "granule", "tiles"]

_CACHED = 512  # layouts x tile shapes x orientations
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Tiles:
    """One orientation of a layout as tiles of ``height`` granule rows; "rows" are outputs, "columns" what is summed over.

    Tile i reads the granule columns ``columns[starts[i]:starts[i + 1]]``, padded by repeating its last one to a multiple of
    the step it was made for. ``source[j, h]`` is where in the flat weight [nnz * b * b] the granule of row h of the tile and
    column entry j begins, -1 where there is none. Element (n, k) of a granule lies n * row_stride + k * column_stride further.
    All tensors are int32 on one device.
    """

    granule: int
    height: int
    row_stride: int
    column_stride: int
    rows: Tensor  # [tiles, height] granule rows, -1 beyond the last one of the tile
    starts: Tensor  # [tiles + 1]
    columns: Tensor  # [entries]
    source: Tensor  # [entries, height]
    owner: Tensor  # [entries / step] the tile of every step of columns

    @property
    def count(self) -> int:
        return self.rows.shape[0]

    @property
    def entries(self) -> int:
        """Granule columns read by all tiles, padding included: height * entries granules are multiplied."""
        return self.columns.shape[0]


def granule(block: int, at_most: int) -> int:
    """Edge of the squares in which a block is handled: the largest power of two that divides it, ``at_most`` or less.

    Raises:
        ValueError: the block is no multiple of 16, the smallest edge that matrix instructions take.
    """
    if block < 16 or block % 16:
        raise ValueError(f"the Triton kernel takes blocks that are multiples of 16; got {block}, use another backend")
    return min(block & -block, at_most)


@lru_cache(maxsize=_CACHED)
def tiles(
    layout: Layout, transposed: bool, edge: int, height: int, step: int, device: torch.device = _CPU
) -> Tiles:
    """The cut of a layout, or of its transpose, with the fewest columns to read; remembered per layout and device.

    Args:
        layout: the matrix [out, in]. Rows of tiles are block rows, or block columns when ``transposed``.
        edge: of a granule, a divisor of the block.
        height: granule rows a tile has at most.
        step: granule columns that are read at once; every tile's list is padded to a multiple.
        device: of the tensors.
    """
    if device.type != "cpu":
        on_cpu = tiles(layout, transposed, edge, height, step)
        moved = {name: getattr(on_cpu, name).to(device) for name in ("rows", "starts", "columns", "source", "owner")}
        return Tiles(on_cpu.granule, height, on_cpu.row_stride, on_cpu.column_stride, **moved)
    b, parts = layout.block, layout.block // edge
    order = torch.full(layout.mask.shape, -1, dtype=torch.int64)
    order[layout.mask] = torch.arange(layout.nnz)
    blocks = order.T if transposed else order
    row_stride, column_stride = (1, b) if transposed else (b, 1)
    # where every granule of the grid begins in the flat weight
    inside = edge * (torch.arange(parts)[:, None] * row_stride + torch.arange(parts) * column_stride)
    places = torch.where(blocks[:, None, :, None] < 0, -1, blocks[:, None, :, None] * b * b + inside[:, None, :])
    places = places.reshape(blocks.shape[0] * parts, blocks.shape[1] * parts)

    rows_of, columns_of, sources = [], [], []
    starts = [0]
    for members in _cut(places >= 0, height, step):
        wanted = (places[members] >= 0).any(0).nonzero()[:, 0]
        columns = torch.cat([wanted, wanted[-1:].expand(-len(wanted) % step)])
        source = torch.full((len(columns), height), -1, dtype=torch.int64)
        source[: len(wanted), : len(members)] = places[members][:, wanted].T
        rows_of.append(torch.tensor([*members, *[-1] * (height - len(members))]))
        columns_of.append(columns)
        sources.append(source)
        starts.append(starts[-1] + len(columns))
    counts = torch.tensor(starts).diff() // step
    return Tiles(
        edge, height, row_stride, column_stride,
        rows=torch.stack(rows_of).int(), starts=torch.tensor(starts).int(), columns=torch.cat(columns_of).int(),
        source=torch.cat(sources).int(), owner=torch.arange(len(counts)).repeat_interleave(counts).int(),
    )  # fmt: skip


def _cut(kept: Tensor, height: int, step: int) -> list[list[int]]:
    """Lists of rows of ``kept`` [rows, columns], each at most ``height`` long, with the least total of padded unions + 1.

    The 1 stands for writing a tile's outputs. Rows are taken in the order in which their set of columns first appears, which
    brings equal rows together and leaves a butterfly as it is.
    """
    sets = [int.from_bytes(row.numpy().tobytes(), "little") for row in kept]  # one byte a column
    first: dict[int, int] = {}
    for i, columns in enumerate(sets):
        first.setdefault(columns, i)
    order = sorted(range(len(sets)), key=lambda i: first[sets[i]])
    best, taken = [0], [0]  # of the first i rows: the least cost, and how many rows the last tile of that cut has
    for i in range(1, len(order) + 1):
        union, costs = 0, []
        for h in range(1, min(height, i) + 1):
            union |= sets[order[i - h]]
            costs.append(best[i - h] + -(-union.bit_count() // step) * step + 1)
        best.append(min(costs))
        taken.append(costs.index(best[i]) + 1)
    cut = []
    end = len(order)
    while end:
        cut.append(sorted(order[end - taken[end] : end]))
        end -= taken[end]
    return cut[::-1]
