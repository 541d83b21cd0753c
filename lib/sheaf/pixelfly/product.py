"""The product form that the flat butterfly replaces: log2(n / b) block factors, one after the other (paper, section 3)."""

import numpy as np
import torch
from torch import Tensor, nn

from sheaf.pixelfly import masks
from sheaf_kernels.block_sparse import Layout, block_sparse_linear, to_dense

__all__ = ["ProductButterflyLinear"]


class ProductButterflyLinear(nn.Module):
    """y = B_n ... B_2 x for square n x n, every factor block sparse with two blocks a row, strides rising.

    ``residual`` uses I + step * B_i instead of B_i: the form whose first-order term is the flat butterfly.

    Raises:
        ValueError: n / block is no power of two.
    """

    def __init__(
        self, features: int, block: int, *, residual: bool = False, step: float = 1.0,
        generator: torch.Generator | None = None, backend: str = "auto",
    ) -> None:  # fmt: skip
        super().__init__()
        cells = features // block
        if cells * block != features or cells < 2 or cells & (cells - 1):
            raise ValueError(
                f"{features} features must be a power of two, at least 2, of blocks; got blocks of {block}"
            )
        self.features, self.block, self.residual, self.step, self.backend = features, block, residual, step, backend
        self.layouts = [
            Layout(torch.from_numpy(masks.butterfly_factor(cells, stride)), block)
            for stride in masks.strides(cells // 2)
        ]
        draws = [torch.empty(layout.nnz, block, block).uniform_(-1, 1, generator=generator) for layout in self.layouts]
        # every factor keeps the variance: 2 blocks of `block` inputs
        self.factors = nn.ParameterList([nn.Parameter(d * (3 / (2 * block)) ** 0.5) for d in draws])

    def forward(self, x: Tensor) -> Tensor:
        """x [..., n] -> [..., n]."""
        for layout, weight in zip(self.layouts, self.factors, strict=True):
            y = block_sparse_linear(x, weight, layout, backend=self.backend)
            x = x + self.step * y if self.residual else y
        return x

    def matrix(self) -> Tensor:
        """The product as a dense matrix [n, n]."""
        total = torch.eye(self.features, dtype=self.factors[0].dtype)
        for layout, weight in zip(self.layouts, self.factors, strict=True):
            factor = to_dense(weight, layout)
            total = (
                torch.eye(self.features, dtype=factor.dtype) + self.step * factor if self.residual else factor
            ) @ total
        return total

    def operations(self) -> int:
        """Multiply-adds per token."""
        return sum(layout.nnz for layout in self.layouts) * self.block**2

    @staticmethod
    def ratio(cells: int) -> float:
        """Multiply-adds of the product form over those of the flat form with all strides: 2 log2 n / (1 + log2 n)."""
        log = float(np.log2(cells))
        return 2 * log / (1 + log)
