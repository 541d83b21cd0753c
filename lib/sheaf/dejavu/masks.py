"""Watching and masking a model's heads and neurons: records, oracles, and the rules that contextual sparsity must beat.

Masks show what leaving units out does to the loss. They save nothing: what skips the bytes is `sheaf.dejavu.sparsify`.
They hold for the tokens of the prompt as for those after it.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from sheaf.dejavu.models import OPT, Tap

__all__ = [
    "History", "Masked", "Record", "Rule", "Thresholded", "count", "every", "fixed", "oracle", "predicted", "random_units",
    "record", "recorded", "shared", "sign_bits", "top", "total_sparsity",
]  # fmt: skip

# residual streams seen so far: 2 * layer before the attention of that layer, 2 * layer + 1 before its MLP
History = Sequence[Tensor]


class Rule(Protocol):
    """Which units stay: (layer, history, scores [..., units]) -> bool [..., units]. ``scores`` are known only to an oracle."""

    def __call__(self, layer: int, history: History, scores: Tensor) -> Tensor: ...


def count(share: float, units: int) -> int:
    """How many units a share of them is, at least 1."""
    return min(units, max(1, round(share * units)))


def top(scores: Tensor, k: int) -> Tensor:
    """True at the k largest of the last dimension."""
    mask = torch.zeros(scores.shape, dtype=torch.bool, device=scores.device)
    return mask.scatter_(-1, scores.topk(min(k, scores.shape[-1]), dim=-1).indices, True)


def oracle(k: int) -> Rule:
    """The k units with the largest scores in the very stream that is being masked."""
    return lambda layer, history, scores: top(scores, k)


def recorded(scores: Sequence[Tensor], k: int) -> Rule:
    """The k units with the largest scores in a record of the dense stream, on the same sequences."""
    return lambda layer, history, now: top(scores[layer], k)


def fixed(means: Sequence[Tensor], k: int) -> Rule:
    """The same k units for every token: those with the largest mean scores [units] of a calibration set."""
    return lambda layer, history, scores: top(means[layer], k).expand_as(scores)


def random_units(k: int, generator: torch.Generator) -> Rule:
    """Any k units, drawn for every token."""
    return lambda layer, history, scores: top(torch.rand(scores.shape, generator=generator), k)


def predicted(predictors: Sequence[nn.Module | None], k: int, step: Callable[[int], int]) -> Rule:
    """The k units with the largest predicted scores; ``step`` says which entry of the history a layer's predictor sees."""

    def rule(layer: int, history: History, scores: Tensor) -> Tensor:
        predictor = predictors[layer]
        if predictor is None:
            return torch.ones_like(scores, dtype=torch.bool)
        return top(predictor(history[step(layer)]), k)

    return rule


def every() -> Rule:
    """All units."""
    return lambda layer, history, scores: torch.ones_like(scores, dtype=torch.bool)


def shared(rule: Rule, batch: int) -> Rule:
    """The union over groups of ``batch`` sequences at the same position: what one index for a whole batch keeps."""

    def union(layer: int, history: History, scores: Tensor) -> Tensor:
        mask = rule(layer, history, scores)
        return torch.cat([part.any(0, keepdim=True).expand_as(part) for part in mask.split(batch)])

    return union


def sign_bits(model: OPT, k: int) -> Rule:
    """The k neurons whose weights agree in sign with most inputs: a predictor that needs no training, one bit a weight."""
    signs = [torch.sign(block.up.weight).T.contiguous() for block in model.stack]

    def rule(layer: int, history: History, scores: Tensor) -> Tensor:
        return top(torch.sign(model.stack[layer].norm2(history[2 * layer + 1])) @ signs[layer], k)

    return rule


@dataclass
class Masked(Tap):
    """Zeroes the heads and neurons that its rules leave out, except in ``dense`` layers, and sums what it kept."""

    neuron_rule: Rule | None = None
    head_rule: Rule | None = None
    dense: Collection[int] = ()
    history: list[Tensor] = field(default_factory=list)
    kept: dict[str, list[float]] = field(default_factory=lambda: {"heads": [], "neurons": []})

    def heads(self, layer: int, x: Tensor, out: Tensor) -> Tensor:
        self.history = [x] if layer == 0 else [*self.history, x]
        if self.head_rule is None or layer in self.dense:
            return out
        mask = self.head_rule(layer, self.history, out.norm(dim=-1))
        self.kept["heads"].append(float(mask.float().mean()))
        return out * mask[..., None]

    def neurons(self, layer: int, x: Tensor, a: Tensor) -> Tensor:
        self.history.append(x)
        if self.neuron_rule is None or layer in self.dense:
            return a
        mask = self.neuron_rule(layer, self.history, a.abs())
        self.kept["neurons"].append(float(mask.float().mean()))
        return a * mask


@dataclass
class Thresholded(Tap):
    """TEAL's rule for MLPs: only the largest entries of the input and of the hidden layer count; no predictor.

    A share ``keep`` of the columns of W1 and of the rows of W2 is read, as many bytes as that share of the neurons.
    """

    keep: float
    dense: Collection[int] = ()

    def normed(self, layer: int, site: str, h: Tensor) -> Tensor:
        return h * top(h.abs(), count(self.keep, h.shape[-1])) if site == "mlp" and layer not in self.dense else h

    def neurons(self, layer: int, x: Tensor, a: Tensor) -> Tensor:
        return a * top(a.abs(), count(self.keep, a.shape[-1])) if layer not in self.dense else a


@dataclass
class Record(Tap):
    """What a dense pass did, by layer: residual streams, activations of neurons, output norms of heads."""

    history: list[Tensor] = field(default_factory=list)
    neuron_values: list[Tensor] = field(default_factory=list)  # [batch, time, ffn]
    head_norms: list[Tensor] = field(default_factory=list)  # [batch, time, heads]

    def heads(self, layer: int, x: Tensor, out: Tensor) -> Tensor:
        self.history.append(x)
        self.head_norms.append(out.norm(dim=-1))
        return out

    def neurons(self, layer: int, x: Tensor, a: Tensor) -> Tensor:
        self.history.append(x)
        self.neuron_values.append(a)
        return a


@torch.no_grad()
def record(model: OPT, ids: Tensor) -> Record:
    """One dense pass over [batch, time] ids, recorded; ``history`` ends with the last block's output."""
    tap = Record()
    x = model.embed(ids)
    for layer, block in enumerate(model.stack):
        x = block(x, layer, tap)
    tap.history.append(x)
    return tap


def total_sparsity(attention: float, mlp: float, layers: int = 1, dense: int = 0) -> float:
    """Share of the block weights left out: a third of them is attention's, two thirds the MLP's; dense layers count whole."""
    return (attention / 3 + 2 * mlp / 3) * (layers - dense) / layers
