"""RigL: a sparse mask that moves while training; the dynamic rival (Evci et al., 2020, as the paper's baseline sets it)."""

import math

import torch
from torch import nn

from sheaf.pixelfly.layers import MaskedLinear

__all__ = ["RigL", "erk_densities"]


def erk_densities(shapes: list[tuple[int, int]], density: float) -> list[float]:
    """Densities proportional to (out + in) / (out * in) with a given overall density; layers that would exceed 1 stay dense.

    Raises:
        ValueError: a density outside of (0, 1], or no layer.
    """
    if not shapes or not 0 < density <= 1:
        raise ValueError(f"densities need at least one layer and a total in (0, 1]; got {len(shapes)} and {density}")
    sizes = [o * i for o, i in shapes]
    dense: set[int] = set()
    while True:
        budget = density * sum(sizes) - sum(sizes[k] for k in dense)
        free = [k for k in range(len(shapes)) if k not in dense]
        if not free:
            return [1.0] * len(shapes)
        scale = budget / sum(sum(shapes[k]) for k in free)
        over = [k for k in free if scale * sum(shapes[k]) > sizes[k]]
        if not over:
            return [1.0 if k in dense else scale * sum(shapes[k]) / sizes[k] for k in range(len(shapes))]
        dense.update(over)


class RigL:
    """Moves the masks of a model's `MaskedLinear` layers: drops the smallest weights, grows where the dense gradient is largest.

    Every ``period`` steps until ``end`` of the training: a share alpha / 2 (1 + cos(pi t / T_end)) of a layer's weights.
    Grown weights begin at zero; the optimiser's state of what moved is cleared.

    Args:
        model: with at least one `MaskedLinear`.
        optimiser: of the model.
        steps: of the whole training.

    Raises:
        ValueError: no masked layer.
    """

    def __init__(
        self, model: nn.Module, optimiser: torch.optim.Optimizer, steps: int, *, period: int = 100, alpha: float = 0.3,
        end: float = 0.75,
    ) -> None:  # fmt: skip
        self.layers = [m for m in model.modules() if isinstance(m, MaskedLinear)]
        if not self.layers:
            raise ValueError("RigL moves the masks of MaskedLinear layers, and this model has none")
        self.optimiser, self.period, self.alpha, self.last = optimiser, period, alpha, int(end * steps)
        self.moved = 0  # weights moved so far
        self.step_number = 0

    def moves(self) -> bool:
        """Whether this step moves the masks."""
        return 0 < self.step_number < self.last and self.step_number % self.period == 0

    def share(self) -> float:
        """Share of the weights that would move now."""
        return self.alpha / 2 * (1 + math.cos(math.pi * self.step_number / max(self.last, 1)))

    def watch(self) -> None:
        """Call before the forward pass: layers keep the gradient of their whole product on a step that moves masks."""
        for layer in self.layers:
            layer.keep_dense_gradient = self.moves()

    @torch.no_grad()
    def step(self) -> None:
        """Call after the optimiser's step."""
        if self.moves():
            for layer in self.layers:
                if layer.product is None or layer.product.grad is None:
                    raise RuntimeError("RigL needs the dense gradients: call watch() before the forward pass")
                self._move(layer, layer.product.grad)
                layer.product = None
        self.step_number += 1

    def _move(self, layer: MaskedLinear, gradient: torch.Tensor) -> None:
        mask, weight = layer.mask, layer.weight
        count = int(self.share() * int(mask.sum()))
        count = min(count, int((~mask).sum()))
        if not count:
            return
        kept = weight.abs().masked_fill(~mask, math.inf).flatten()
        dropped = kept.topk(count, largest=False).indices
        candidates = gradient.abs().masked_fill(mask, -1).flatten()
        grown = candidates.topk(count).indices
        flat = mask.view(-1)
        flat[dropped], flat[grown] = False, True
        weight.view(-1)[dropped] = 0
        weight.view(-1)[grown] = 0
        for value in self.optimiser.state.get(weight, {}).values():
            if isinstance(value, torch.Tensor) and value.shape == weight.shape:
                value.view(-1)[dropped] = 0
                value.view(-1)[grown] = 0
        self.moved += count
