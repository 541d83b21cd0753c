"""Which blocks of a matrix exist: a mask over its grid of square blocks, and conversions to and from dense matrices."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

__all__ = ["Layout", "from_dense", "to_dense"]


@dataclass(frozen=True, eq=False)
class Layout:
    """The block structure of a matrix [out, in].

    Args:
        mask: [out / block, in / block] bool; anything that ``torch.as_tensor`` takes.
        block: edge of a block, in elements.

    Raises:
        ValueError: the mask is no non-empty matrix, or the block is smaller than 1.
    """

    mask: Tensor
    block: int
    rows: Tensor = field(init=False, repr=False)  # [nnz] block row of every kept block, row-major
    cols: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        mask = torch.as_tensor(self.mask).detach().to("cpu", torch.bool).contiguous()
        if mask.ndim != 2 or not mask.numel():
            raise ValueError(
                f"a layout needs a matrix of blocks, [out / block, in / block]; got shape {tuple(mask.shape)}"
            )
        if self.block < 1:
            raise ValueError(f"a block must be at least 1 element wide; got {self.block}")
        object.__setattr__(self, "mask", mask)
        rows, cols = mask.nonzero(as_tuple=True)
        object.__setattr__(self, "rows", rows)
        object.__setattr__(self, "cols", cols)

    @property
    def out_features(self) -> int:
        return self.mask.shape[0] * self.block

    @property
    def in_features(self) -> int:
        return self.mask.shape[1] * self.block

    @property
    def nnz(self) -> int:
        """Number of kept blocks."""
        return len(self.rows)

    @property
    def density(self) -> float:
        """Share of the blocks that are kept."""
        return self.nnz / self.mask.numel()

    def transposed(self) -> "Layout":
        """The layout of the transposed matrix."""
        return Layout(self.mask.T, self.block)

    def key(self) -> tuple[int, tuple[int, ...], bytes]:
        """What makes two layouts equal."""
        return self.block, tuple(self.mask.shape), self.mask.numpy().tobytes()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Layout) and self.key() == other.key()

    def __hash__(self) -> int:
        return hash(self.key())


def to_dense(weight: Tensor, layout: Layout) -> Tensor:
    """Blocks [nnz, b, b] -> the matrix [out, in], zero where no block is kept; differentiable.

    Raises:
        ValueError: the number or the size of the blocks is not the layout's.
    """
    b = layout.block
    if weight.shape != (layout.nnz, b, b):
        raise ValueError(
            f"this layout has {layout.nnz} blocks of {b} x {b}; got weights of shape {tuple(weight.shape)}"
        )
    grid = weight.new_zeros(*layout.mask.shape, b, b)
    at = layout.rows.to(weight.device), layout.cols.to(weight.device)
    grid = grid.index_put(at, weight)
    return grid.transpose(1, 2).reshape(layout.out_features, layout.in_features)


def from_dense(matrix: Tensor, layout: Layout) -> Tensor:
    """The kept blocks [nnz, b, b] of a matrix [out, in]; what lies outside of them is dropped.

    Raises:
        ValueError: the matrix has another shape than the layout.
    """
    if matrix.shape != (layout.out_features, layout.in_features):
        raise ValueError(
            f"this layout is {layout.out_features} x {layout.in_features}; got a matrix {tuple(matrix.shape)}"
        )
    b = layout.block
    grid = matrix.reshape(layout.mask.shape[0], b, layout.mask.shape[1], b).transpose(1, 2)
    return grid[layout.rows.to(matrix.device), layout.cols.to(matrix.device)]
