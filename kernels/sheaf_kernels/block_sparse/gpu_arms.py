"""Ways to compute a block-sparse layer on a GPU: this project's kernel, cuBLAS, and what a user could take instead.

Every arm goes through autograd on tensors in the form it likes best, and can be checked against dense products in float32. None
needs a GPU or Triton to be imported; `gpu_benchmark.py` times them.
"""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .layout import Layout, from_dense, to_dense

__all__ = ["Arm", "arms", "check", "graph"]

_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 5e-3}


@dataclass(frozen=True)
class Arm:
    """One way to compute y = x W^T.

    Args:
        run: (x, *parameters) -> y, in whatever form the arm keeps activations.
        x: its input, and ``parameters``, what it learns.
        matrix: the W [out, in] that it stands for.
        multiplied: elements of W it multiplies with by definition; padding of its own is not counted.
        learned: elements of W that get a gradient; ``multiplied`` unless the arm has other parameters too.
        dense_y: its y -> [T, out]; ``own_dy`` the other way.
        dense_gradients: gradients of (x, *parameters) -> (dx [T, in], dW [out, in]); None for a forward pass only.
    """

    run: Callable[..., Tensor]
    x: Tensor
    parameters: tuple[Tensor, ...]
    matrix: Tensor
    multiplied: int
    learned: int
    dense_y: Callable[[Tensor], Tensor] = field(default=lambda y: y)
    own_dy: Callable[[Tensor], Tensor] = field(default=lambda dy: dy)
    dense_gradients: Callable[..., tuple[Tensor, Tensor]] | None = field(default=lambda dx, dw, *_: (dx, dw))


def arms(x: Tensor, layout: Layout, rank: int = 0, seed: int = 0) -> tuple[dict[str, Arm], dict[str, str]]:
    """Every arm there is for such a layer on this device, and for those that are not, why.

    Args:
        x: [T, in], on the device and in the dtype to be measured.
        layout: kept blocks; weights are drawn.
        rank: also an arm with a low-rank term, when positive.
    """
    random = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return (torch.randn(shape, generator=random) / math.sqrt(x.shape[1])).to(x.device, x.dtype)

    weight = draw(layout.nnz, layout.block, layout.block)
    u, v = draw(layout.out_features, rank), draw(layout.in_features, rank)
    makers: dict[str, Callable[[], Arm]] = {
        "cuBLAS, dense": lambda: _dense(x, to_dense(weight, layout)),
        "block sparse": lambda: _own(x, weight, layout),
        "block sparse + low rank": lambda: _own(x, weight, layout, u, v),
        "block sparse, a block row a tile": lambda: _own_narrow(x, weight, layout),
        "block sparse, closed groups": lambda: _own_groups(x, weight, layout),
        "batched products of cells": lambda: _cells(x, weight, layout),
        "masked dense": lambda: _masked(x, weight, layout),
        "torch BSR": lambda: _torch_bsr(x, weight, layout),
        "blksprs": lambda: _blksprs(x, weight, layout),
        "2:4 semi-structured": lambda: _two_of_four(x, draw(*_shape(layout))),
    }
    if not rank:
        del makers["block sparse + low rank"]
    made, left_out = {}, {}
    for name, make in makers.items():
        try:
            made[name] = make()
        except (ImportError, ValueError, RuntimeError, NotImplementedError) as error:  # a peer that cannot is no failure
            left_out[name] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return made, left_out


def check(arm: Arm, x: Tensor, dy: Tensor) -> str | None:
    """What is wrong with an arm's result or gradients, compared with dense products in float32; None when nothing is."""
    matrix, tolerance = arm.matrix.float(), _TOLERANCE[x.dtype]
    expected = {"result": x.float() @ matrix.T}
    if arm.dense_gradients is None:
        found = {"result": arm.dense_y(arm.run(arm.x, *arm.parameters))}
    else:
        y, leaves = graph(arm)
        dx, dw = arm.dense_gradients(*torch.autograd.grad(y, leaves, arm.own_dy(dy)))
        learned = dw != 0  # elsewhere an arm has no parameters
        expected |= {"dx": dy.float() @ matrix, "dW": (dy.float().T @ x.float()) * learned}
        found = {"result": arm.dense_y(y.detach()), "dx": dx, "dW": dw}
        if int(learned.sum()) < 0.99 * arm.learned:
            return "most of the weight got no gradient"
    for name, right in expected.items():
        error = float((found[name].float() - right).norm() / right.norm())
        if not error <= tolerance:
            return f"{name} is off by {error:.1e}, more than {tolerance:g}"
    return None


def _shape(layout: Layout) -> tuple[int, int]:
    return layout.out_features, layout.in_features


def graph(arm: Arm) -> tuple[Tensor, list[Tensor]]:
    """An arm's y with its graph, and what to ask gradients for."""
    leaves = [t.detach().requires_grad_() for t in (arm.x, *arm.parameters)]
    return arm.run(*leaves), leaves


def _dense(x: Tensor, matrix: Tensor) -> Arm:
    return Arm(F.linear, x, (matrix,), matrix, matrix.numel(), matrix.numel())


def _masked(x: Tensor, weight: Tensor, layout: Layout) -> Arm:
    mask, matrix = to_dense(torch.ones_like(weight), layout), to_dense(weight, layout)
    return Arm(lambda a, w: F.linear(a, w * mask), x, (matrix,), matrix, weight.numel(), weight.numel())


def _own(x: Tensor, weight: Tensor, layout: Layout, u: Tensor | None = None, v: Tensor | None = None) -> Arm:
    from . import triton as kernel

    matrix = to_dense(weight, layout)
    if u is None or v is None:
        return Arm(
            lambda a, w: kernel.linear(a, w, layout), x, (weight,), matrix, weight.numel(), weight.numel(),
            dense_gradients=lambda dx, dw: (dx, to_dense(dw, layout)),
        )  # fmt: skip
    return Arm(
        lambda a, w, p, q: kernel.linear(a, w, layout, None, p, q), x, (weight, u, v),
        (matrix.float() + u.float() @ v.float().T), weight.numel() + u.numel() + v.numel(), weight.numel(),
        dense_gradients=lambda dx, dw, *_: (dx, to_dense(dw, layout)),
    )  # fmt: skip


def _own_narrow(x: Tensor, weight: Tensor, layout: Layout) -> Arm:
    """The forward pass without what this kernel is about: tiles as narrow as the widest power of two in a block."""
    from . import triton as kernel

    narrow = min(layout.block & -layout.block, 128)
    config = min((c for c, _ in kernel.candidates(layout, x.dtype, "forward")), key=lambda c: (abs(c.n - narrow), c.m))
    return Arm(
        lambda a, w: kernel.forward(a, w, layout, config=config)[0], x, (weight,), to_dense(weight, layout), weight.numel(), 0,
        dense_gradients=None,
    )  # fmt: skip


def _own_groups(x: Tensor, weight: Tensor, layout: Layout) -> Arm:
    """The forward pass by the form that multiplies whole closed groups, zeros included, in cuBLAS.

    Raises:
        ValueError: the layout has none.
    """
    from . import triton as kernel
    from .triton_choice import GROUPS
    from .triton_groups import groups

    if groups(layout) is None:
        raise ValueError("no closed groups in this layout")
    return Arm(
        lambda a, w: kernel.forward(a, w, layout, config=GROUPS)[0], x, (weight,), to_dense(weight, layout), weight.numel(), 0,
        dense_gradients=None,
    )  # fmt: skip


def _cells(x: Tensor, weight: Tensor, layout: Layout) -> Arm:
    """The form without a kernel: one batched product of whole cells for every partner, `sum_i bmm(x_i, W_i)`.

    Raises:
        ValueError: cells differ in the number of their partners.
    """
    high, wide = _stretch(layout.mask), _stretch(layout.mask.T)
    small = layout.mask[::high, ::wide]
    counts = small.sum(1)
    if int(counts.min()) != int(counts.max()) or not int(counts.min()):
        raise ValueError("the batched form needs equally many cells in every row of cells")
    partners = small.nonzero()[:, 1].view(len(small), -1).T.to(x.device)  # [partners, cell rows]
    grid = to_dense(weight, layout).view(len(small), high * layout.block, small.shape[1], wide * layout.block)
    cells = grid.permute(0, 2, 3, 1)[torch.arange(len(small), device=x.device), partners].contiguous()

    def run(a: Tensor, w: Tensor) -> Tensor:
        a = a.view(len(a), small.shape[1], -1).transpose(0, 1)  # [cell columns, T, wide]
        y = torch.bmm(a[partners[0]], w[0])
        for i in range(1, len(partners)):
            y = torch.baddbmm(y, a[partners[i]], w[i])
        return y.transpose(0, 1).reshape(a.shape[1], -1)

    def dense(dx: Tensor, dw: Tensor) -> tuple[Tensor, Tensor]:
        full = torch.zeros_like(grid).permute(0, 2, 3, 1).contiguous()
        full[torch.arange(len(small), device=x.device), partners] = dw
        return dx, full.permute(0, 3, 1, 2).reshape(_shape(layout))

    return Arm(run, x, (cells,), to_dense(weight, layout), weight.numel(), weight.numel(), dense_gradients=dense)


def _stretch(mask: Tensor) -> int:
    """The largest number of equal rows that the mask consists of everywhere."""
    changes = (mask[1:] != mask[:-1]).any(1).nonzero()[:, 0] + 1
    return math.gcd(len(mask), *changes.tolist())


def _torch_bsr(x: Tensor, weight: Tensor, layout: Layout) -> Arm:
    starts = torch.cat([layout.rows.new_zeros(1), layout.mask.sum(1).cumsum(0)]).to(x.device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "sparse BSR tensor support is in beta state"
        sparse = torch.sparse_bsr_tensor(starts, layout.cols.to(x.device), weight, _shape(layout))
    matrix = to_dense(weight, layout)
    return Arm(lambda a: F.linear(a, sparse), x, (), matrix, weight.numel(), 0, dense_gradients=None)


def _two_of_four(x: Tensor, matrix: Tensor) -> Arm:
    """Half of the elements, the larger two of every four: another matrix, at density 1/2 whatever the layout's is."""
    if not x.is_cuda:
        raise ValueError("semi-structured products run on a GPU")
    fours = matrix.view(-1, 4)
    kept = torch.zeros_like(fours, dtype=torch.bool).scatter_(1, fours.abs().topk(2).indices, True).view_as(matrix)
    sparse = torch.sparse.to_sparse_semi_structured(matrix * kept)
    return Arm(lambda a: F.linear(a, sparse), x, (), matrix * kept, matrix.numel() // 2, 0, dense_gradients=None)


def _peer(name: str) -> Any:
    """A package that nothing here depends on.

    Raises:
        ImportError: it is not installed.
    """
    if find_spec(name) is None:
        raise ImportError(f"{name} is not installed; `pip install {name}` to compare with it")
    return import_module(name)


def _blksprs(x: Tensor, weight: Tensor, layout: Layout) -> Arm:
    """blksprs, with activations already in its blocked form on both sides and its lookup tables made beforehand."""
    blksprs = _peer("blksprs")
    block = layout.block & -layout.block  # it takes powers of two
    if len(x) % block:
        raise ValueError(f"blksprs needs whole blocks of {block} tokens; got {len(x)} tokens")
    parts = layout.block // block
    transposed = Layout(layout.mask.T.repeat_interleave(parts, 0).repeat_interleave(parts, 1), block)
    full, whole = (
        Layout(torch.ones(len(x) // block, width // block, dtype=torch.bool), block) for width in _shape(layout)[::-1]
    )
    masks = [one.mask[None].to(x.device) for one in (full, transposed, whole)]
    known: dict[str, Any] = {}
    matrix = to_dense(weight, layout)

    def run(a: Tensor, w: Tensor) -> Tensor:
        return blksprs.ops.matmul(a, masks[0], w, masks[1], masks[2], block, known)

    return Arm(
        run, from_dense(x, full).contiguous(), (from_dense(matrix.T, transposed).contiguous(),), matrix,
        weight.numel(), weight.numel(),
        dense_y=lambda y: to_dense(torch.Tensor(y), whole), own_dy=lambda dy: from_dense(dy, whole),
        dense_gradients=lambda dx, dw: (to_dense(torch.Tensor(dx), full), to_dense(torch.Tensor(dw), transposed).T),
    )  # fmt: skip
