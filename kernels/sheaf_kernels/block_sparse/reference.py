"""What block_sparse computes, in plain torch on any device and dtype: the definition that every kernel is tested against."""

from torch import Tensor

from .layout import Layout, to_dense

__all__ = ["linear"]


def linear(
    x: Tensor,
    weight: Tensor,
    layout: Layout,
    bias: Tensor | None = None,
    u: Tensor | None = None,
    v: Tensor | None = None,
) -> Tensor:
    """y = x W^T + (x v) u^T + bias; W [out, in] holds ``weight`` [nnz, b, b] at the kept blocks and zeros elsewhere."""
    y = x @ to_dense(weight, layout).T
    if u is not None and v is not None:
        y = y + (x @ v) @ u.T
    return y if bias is None else y + bias
