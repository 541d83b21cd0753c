"""The same block-sparse product by other means: what a user without this kernel would write or install.

Each peer is a forward pass and, where its library gives one, a backward pass, on the same tensors as the kernel's own arm.
"""

import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F
from scipy import sparse
from torch import Tensor

from .benchmark import Arm
from .layout import Layout, to_dense

__all__ = ["gathered_bmm", "masked_dense", "monarch", "peers", "scattered_bmm", "scipy_bsr", "torch_bsr"]


def _with_autograd(function: Callable[..., Tensor], dy: Tensor, *leaves: Tensor) -> Arm:
    """Forward without a graph; backward is forward with a graph and then the gradients, less the forward of the caller."""
    held = [t.detach().clone().requires_grad_() for t in leaves]
    graph = function(*held)

    def forward() -> Tensor:
        with torch.no_grad():
            return function(*held)

    return forward, lambda: torch.autograd.grad(graph, held, dy, retain_graph=True)


def masked_dense(x: Tensor, weight: Tensor, layout: Layout, dy: Tensor) -> Arm:
    """A dense product with a masked matrix: what a sparse layer costs when its zeros are multiplied too."""
    mask = to_dense(torch.ones_like(weight), layout)
    return _with_autograd(lambda a, w: F.linear(a, w * mask), dy, x, to_dense(weight, layout))


def gathered_bmm(x: Tensor, weight: Tensor, layout: Layout, dy: Tensor) -> Arm:
    """One batched product per kept block of a row, over all block rows: needs equally many blocks in every row.

    Raises:
        ValueError: rows differ.
    """
    b, rows = layout.block, layout.mask.shape[0]
    kept = layout.mask.sum(1)
    if int(kept.min()) != int(kept.max()):
        raise ValueError("the gathered form needs equally many blocks in every block row")
    columns = layout.cols.view(rows, -1)

    def run(a: Tensor, w: Tensor) -> Tensor:
        cells = a.view(len(a), -1, b).transpose(0, 1)  # [in_blocks, T, b]
        blocks = w.view(rows, -1, b, b)
        y = torch.bmm(cells[columns[:, 0]], blocks[:, 0].transpose(1, 2))
        for j in range(1, columns.shape[1]):
            y = torch.baddbmm(y, cells[columns[:, j]], blocks[:, j].transpose(1, 2))
        return y.transpose(0, 1).reshape(len(a), -1)

    return _with_autograd(run, dy, x, weight)


def scattered_bmm(x: Tensor, weight: Tensor, layout: Layout, dy: Tensor) -> Arm:
    """All block products in one batched product, then summed into their rows."""
    b, rows, cols = layout.block, layout.rows, layout.cols

    def run(a: Tensor, w: Tensor) -> Tensor:
        cells = a.view(len(a), -1, b).transpose(0, 1)
        products = torch.bmm(cells[cols], w.transpose(1, 2))  # [nnz, T, b]
        y = products.new_zeros(layout.mask.shape[0], len(a), b).index_add(0, rows, products)
        return y.transpose(0, 1).reshape(len(a), -1)

    return _with_autograd(run, dy, x, weight)


def torch_bsr(x: Tensor, weight: Tensor, layout: Layout) -> Arm:
    """torch's own block-sparse tensors, forward only."""
    starts = torch.cat([layout.rows.new_zeros(1), layout.mask.sum(1).cumsum(0)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "sparse BSR tensor support is in beta state"
        matrix = torch.sparse_bsr_tensor(starts, layout.cols, weight, (layout.out_features, layout.in_features))
    x_t = x.T.contiguous()
    return lambda: matrix @ x_t, lambda: None


def scipy_bsr(x: Tensor, weight: Tensor, layout: Layout) -> Arm:
    """scipy's block-sparse arrays, forward only."""
    starts = torch.cat([layout.rows.new_zeros(1), layout.mask.sum(1).cumsum(0)]).numpy()
    matrix = sparse.bsr_array(
        (weight.numpy(), layout.cols.numpy(), starts), shape=(layout.out_features, layout.in_features)
    )
    x_t = x.T.contiguous().numpy()
    return lambda: matrix @ x_t, lambda: None


def monarch(x: Tensor, out: int, dy: Tensor, parameters: int, seed: int = 0) -> tuple[Arm, int]:
    """Two block-diagonal products with a permutation between (Dao et al. 2022b), with about as many parameters.

    Returns:
        The arm, and the parameters it has.
    """
    in_ = x.shape[1]
    groups = min(
        (g for g in range(1, min(in_, out) + 1) if in_ % g == 0 and out % g == 0 and min(in_, out) % g == 0),
        key=lambda g: abs((in_ * min(in_, out) + min(in_, out) * out) // g - parameters),
    )
    inner = min(in_, out)
    random = torch.Generator().manual_seed(seed)
    first = torch.randn(groups, in_ // groups, inner // groups, generator=random).to(x.dtype) / (in_ // groups) ** 0.5
    second = (
        torch.randn(groups, inner // groups, out // groups, generator=random).to(x.dtype) / (inner // groups) ** 0.5
    )

    def run(a: Tensor, f: Tensor, s: Tensor) -> Tensor:
        h = torch.bmm(a.view(len(a), groups, -1).transpose(0, 1), f)  # [groups, T, inner / groups]
        h = h.permute(1, 2, 0).reshape(len(a), groups, -1).transpose(0, 1)  # the permutation between the factors
        return torch.bmm(h, s).transpose(0, 1).reshape(len(a), -1)

    return _with_autograd(run, dy, x, first, second), first.numel() + second.numel()


def peers(x: Tensor, weight: Tensor, layout: Layout, dy: Tensor) -> dict[str, Arm]:
    """Every peer that computes this very product; those that cannot take the layout or the dtype are left out."""
    arms = {
        "masked dense": masked_dense(x, weight, layout, dy),
        "batched products, summed": scattered_bmm(x, weight, layout, dy),
        "torch BSR, forward only": torch_bsr(x, weight, layout),
    }
    if int(layout.mask.sum(1).min()) == int(layout.mask.sum(1).max()):
        arms["batched products, gathered"] = gathered_bmm(x, weight, layout, dy)
    if x.dtype == torch.float32:
        arms["scipy BSR, forward only"] = scipy_bsr(x, weight, layout)
    return arms
