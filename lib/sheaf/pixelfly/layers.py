"""Sparse linear layers that stand where an nn.Linear stood: Pixelfly, masked dense, low rank, Monarch."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sheaf.pixelfly.patterns import Plan
from sheaf_kernels.block_sparse import Layout, block_sparse_linear, from_dense, to_dense

__all__ = ["INITIALISATIONS", "MIXES", "MaskedLinear", "MonarchLinear", "PixelflyLinear"]

MIXES = ("scalar", "token", "sum")
INITIALISATIONS = ("balanced", "published")


class PixelflyLinear(nn.Module):
    """y = mixture of B x and U V^T x, B block sparse with a fixed support (paper, section 3).

    ``mix`` says how the two terms meet:
        "scalar"  gamma B + (1 - gamma) U V^T with one learnable gamma, folded into the weights: no cost per token
        "token"   (1 - g) B x + g U V^T x with g = sigmoid(w x + c) per token, as released; two passes over the tokens
        "sum"     B + U V^T
    With only one of the two terms there is nothing to mix and ``mix`` is ignored.

    ``init`` says how the weights begin:
        "balanced"   the output has the variance that a default nn.Linear gives it, half from either term, whatever the mix
        "published"  blocks: a dense draw scaled up by the root of the inverse density of their row; U and V by their own
                     fan-in, which leaves the low-rank term a third of the default variance, then mixed by a half

    Args:
        in_features, out_features: widths.
        plan: blocks kept and rank; not a dense one.
        bias: add a bias.
        generator: of the initial weights.
        backend: of the kernel, see `sheaf_kernels.block_sparse`.

    Raises:
        ValueError: a dense or empty plan, one of another shape, or an unknown mix or init.
    """

    mask: Tensor

    def __init__(
        self, in_features: int, out_features: int, plan: Plan, *, bias: bool = True, mix: str = "scalar",
        init: str = "balanced", generator: torch.Generator | None = None, backend: str = "auto",
    ) -> None:  # fmt: skip
        super().__init__()
        if mix not in MIXES or init not in INITIALISATIONS:
            raise ValueError(
                f"mix is one of {', '.join(MIXES)} and init one of {', '.join(INITIALISATIONS)}; got {mix}, {init}"
            )
        if plan.dense or (plan.mask is None and not plan.rank):
            raise ValueError("a Pixelfly layer needs blocks, a rank, or both; for a dense layer keep nn.Linear")
        b = plan.block
        mask = np.zeros((out_features // b, in_features // b), dtype=bool) if plan.mask is None else plan.mask
        if (mask.shape[0] * b, mask.shape[1] * b) != (out_features, in_features):
            raise ValueError(
                f"the plan is for a {mask.shape[0] * b} x {mask.shape[1] * b} matrix, the layer is "
                f"{out_features} x {in_features}"
            )
        self.in_features, self.out_features, self.rank, self.block = in_features, out_features, plan.rank, b
        self.mix, self.init, self.backend = mix if mask.any() and plan.rank else "sum", init, backend
        self.register_buffer("mask", torch.from_numpy(np.ascontiguousarray(mask)))
        self.layout = Layout(self.mask, b)
        self.weight = nn.Parameter(torch.empty(self.layout.nnz, b, b)) if self.layout.nnz else None
        self.u = nn.Parameter(torch.empty(out_features, plan.rank)) if plan.rank else None
        self.v = nn.Parameter(torch.empty(in_features, plan.rank)) if plan.rank else None
        self.bias = nn.Parameter(torch.empty(out_features)) if bias else None
        self.gamma = nn.Parameter(torch.empty(())) if self.mix == "scalar" else None
        self.gate = nn.Linear(in_features, 1) if self.mix == "token" else None
        self.reset_parameters(generator)

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw the weights again, as ``init`` says."""
        balanced, both = self.init == "balanced", self.weight is not None and self.u is not None
        half = 0.5 if self.mix != "sum" else 1.0  # what the mixture multiplies either term with at first
        if self.gamma is not None:
            self.gamma.fill_(0.5)
        if self.gate is not None:
            self.gate.weight.zero_(), self.gate.bias.zero_()
        # variance of a default nn.Linear's output for unit input: in * (1 / sqrt(in))^2 / 3
        target = 1 / 3 / (2 if both and balanced else 1)
        if self.weight is not None:
            kept = self.mask.sum(1).clamp_min(1).to(self.weight)[self.layout.rows.to(self.weight.device)] * self.block
            wanted = target / half**2 if balanced else 1 / 3
            bound = (3 * wanted / kept).sqrt()
            self.weight.uniform_(-1, 1, generator=generator).mul_(bound[:, None, None])
        if self.u is not None and self.v is not None:
            self.v.uniform_(-1, 1, generator=generator).mul_(self.in_features**-0.5)  # V^T x has variance 1/3
            wanted = 3 * target / half**2 if balanced else 1 / 3
            self.u.uniform_(-1, 1, generator=generator).mul_((3 * wanted / self.rank) ** 0.5)
        if self.bias is not None:
            bound_ = self.in_features**-0.5
            self.bias.uniform_(-bound_, bound_, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] -> [..., out]."""
        weight, u = self.weight, self.u
        if self.gate is not None:
            g = torch.sigmoid(self.gate(x))
            sparse = self._run(x, weight, None, None, None)
            y = torch.lerp(sparse, (x @ self.v.to(x.dtype)) @ self.u.T.to(x.dtype), g)  # type: ignore[union-attr]
            return y if self.bias is None else y + self.bias
        if self.gamma is not None:
            return self._run(x, self.gamma * weight, self.bias, (1 - self.gamma) * u, self.v)  # type: ignore[operator]
        return self._run(x, weight, self.bias, u, self.v)

    def _run(self, x: Tensor, weight: Tensor | None, bias: Tensor | None, u: Tensor | None, v: Tensor | None) -> Tensor:
        if weight is None:
            return F.linear(F.linear(x, v.T), u, bias)  # type: ignore[union-attr, arg-type]
        return block_sparse_linear(x, weight, self.layout, bias, u, v, backend=self.backend)

    def matrix(self) -> Tensor:
        """The matrix [out, in] the layer multiplies with; not defined for a mixture per token.

        Raises:
            ValueError: ``mix`` is "token".
        """
        if self.gate is not None:
            raise ValueError("a layer mixed per token multiplies every token with another matrix")
        a, c = (1.0, 1.0) if self.gamma is None else (self.gamma, 1 - self.gamma)
        total = next(self.parameters()).new_zeros(self.out_features, self.in_features)
        if self.weight is not None:
            total = total + a * to_dense(self.weight, self.layout)
        if self.u is not None and self.v is not None:
            total = total + c * self.u @ self.v.T
        return total

    @classmethod
    @torch.no_grad()
    def from_linear(cls, linear: nn.Linear, plan: Plan, **options: Any) -> "PixelflyLinear":
        """Nearest Pixelfly layer by turns: blocks of the matrix, then the best low rank for what is left, as a sum.

        The projection starts from the low-rank part (the SVD), subtracts it, keeps the blocks of the rest, and repeats
        three times; every turn lowers the Frobenius error or leaves it.
        """
        layer = cls(
            linear.in_features, linear.out_features, plan, bias=linear.bias is not None, **(options | {"mix": "sum"})
        )
        layer = layer.to(linear.weight)
        rest = linear.weight.detach().clone()
        blocks = torch.zeros_like(rest)
        for _ in range(3 if plan.rank and layer.weight is not None else 1):
            if layer.u is not None and layer.v is not None:
                left, values, right = torch.linalg.svd(linear.weight - blocks, full_matrices=False)
                root = values[: layer.rank].sqrt()
                layer.u.copy_(left[:, : layer.rank] * root)
                layer.v.copy_(right[: layer.rank].T * root)
                rest = linear.weight - layer.u @ layer.v.T
            if layer.weight is not None:
                layer.weight.copy_(from_dense(rest, layer.layout))
                blocks = to_dense(layer.weight, layer.layout)
        if layer.bias is not None:
            layer.bias.copy_(linear.bias)
        return layer

    @torch.no_grad()
    def to_linear(self) -> nn.Linear:
        """The dense layer that computes the same.

        Raises:
            ValueError: ``mix`` is "token".
        """
        matrix = self.matrix()
        linear = nn.Linear(self.in_features, self.out_features, bias=self.bias is not None).to(matrix)
        linear.weight.copy_(matrix)
        if self.bias is not None:
            linear.bias.copy_(self.bias)
        return linear

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        saved = state.get(prefix + "mask")
        if saved is not None and (saved.shape != self.mask.shape or not torch.equal(saved.cpu(), self.mask.cpu())):
            raise ValueError(
                f"{prefix}mask: the saved weights belong to other blocks; build the layer with the plan they were "
                f"saved with"
            )
        super()._load_from_state_dict(state, prefix, *rest)

    def extra_repr(self) -> str:
        return (f"{self.in_features}, {self.out_features}, block={self.block}, density={self.layout.density:.3f}, "
                f"rank={self.rank}, mix={self.mix}, bias={self.bias is not None}")  # fmt: skip


class MaskedLinear(nn.Linear):
    """A dense product with a masked weight: any support, element by element, and no saving of time.

    Args:
        mask: [out, in] bool.
        generator: of the initial weights; the output has a default nn.Linear's variance.
    """

    mask: Tensor

    def __init__(self, mask: Tensor, *, bias: bool = True, generator: torch.Generator | None = None) -> None:
        if mask.ndim != 2 or not mask.any():
            raise ValueError(f"a mask is a matrix [out, in] with something kept; got shape {tuple(mask.shape)}")
        with torch.random.fork_rng(devices=[]):
            super().__init__(mask.shape[1], mask.shape[0], bias=bias)
        self.register_buffer("mask", mask.bool().clone())
        self.keep_dense_gradient, self.product = False, None  # type: bool, Tensor | None  # for masks that move
        with torch.no_grad():
            scale = self.mask.sum(1, keepdim=True).clamp_min(1).to(self.weight).rsqrt()
            self.weight.uniform_(-1, 1, generator=generator).mul_(scale).mul_(self.mask)
            if bias:
                self.bias.uniform_(-(self.in_features**-0.5), self.in_features**-0.5, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] -> [..., out]."""
        product = self.weight * self.mask
        if self.keep_dense_gradient and self.training:
            product.retain_grad()
            self.product = product
        return F.linear(x, product, self.bias)


class MonarchLinear(nn.Module):
    """Two block-diagonal products with a permutation between (Dao et al., Monarch, 2022): a rival without a kernel.

    Args:
        groups: blocks of either factor; parameters are (in * m + m * out) / groups with m = min(in, out).

    Raises:
        ValueError: groups do not divide a width.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        groups: int,
        *,
        bias: bool = True,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        inner = min(in_features, out_features)
        if in_features % groups or out_features % groups:
            raise ValueError(f"{groups} groups do not divide a {out_features} x {in_features} layer")
        self.in_features, self.out_features, self.groups = in_features, out_features, groups
        first, second = in_features // groups, inner // groups
        self.first = nn.Parameter(
            torch.empty(groups, first, second).uniform_(-1, 1, generator=generator) * (3 / first) ** 0.5
        )
        self.second = nn.Parameter(
            torch.empty(groups, second, out_features // groups).uniform_(-1, 1, generator=generator)
        )
        with torch.no_grad():
            self.second.mul_(second**-0.5)  # unit variance in, a third out: a default nn.Linear's
        self.bias = nn.Parameter(torch.empty(out_features)) if bias else None
        if self.bias is not None:
            nn.init.uniform_(self.bias, -(in_features**-0.5), in_features**-0.5, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] -> [..., out]."""
        flat = x.reshape(-1, self.in_features)
        h = torch.bmm(flat.view(len(flat), self.groups, -1).transpose(0, 1), self.first)
        h = h.permute(1, 2, 0).reshape(len(flat), self.groups, -1).transpose(0, 1)
        y = torch.bmm(h, self.second).transpose(0, 1).reshape(*x.shape[:-1], self.out_features)
        return y if self.bias is None else y + self.bias
