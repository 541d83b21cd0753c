"""Predictors: two thin matrices a layer that say which neurons or heads a token will need, and how far ahead they look.

The form of the paper's released code is linear, d -> r -> units without biases; its text speaks of a two-layer network, which is
the "relu" form. Either is trained by algorithm 1: a weighted cross-entropy that leans towards recall. A predictor's recall means
nothing without the density it predicts: naming every unit has a recall of 1.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sheaf.dejavu.masks import Record, count, top

__all__ = ["AHEAD", "FORMS", "Predictor", "Quality", "fit", "labels", "quality", "step_of", "weighted_loss"]

FORMS = ("linear", "relu")
AHEAD = ("same", "half", "full", "double", "embedding")  # 0, 1/2, 1 and 2 layers before, or the input of the whole model


class Predictor(nn.Module):
    """Scores of ``units`` from the residual stream before the norm: [..., width] -> [..., units].

    Args:
        width, units, rank: of the two matrices a [rank, width] and b [units, rank].
        form: "linear" (released code) or "relu" (the text).
        seed: of the initial weights.
    """

    def __init__(self, width: int, units: int, rank: int, form: str = "linear", seed: int = 0) -> None:
        super().__init__()
        if form not in FORMS:
            raise ValueError(f"form {form!r} is unknown; use one of {', '.join(FORMS)}")
        if min(width, units, rank) < 1:
            raise ValueError(f"every size of a predictor must be at least 1; got {width}, {units} and {rank}")
        generator = torch.Generator().manual_seed(seed)
        self.form = form
        self.a = nn.Parameter(torch.randn(rank, width, generator=generator) * width**-0.5)
        self.b = nn.Parameter(torch.randn(units, rank, generator=generator) * rank**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        hidden = x @ self.a.T
        return (hidden.relu() if self.form == "relu" else hidden) @ self.b.T


def step_of(unit: str, ahead: str) -> Callable[[int], int]:
    """Which residual stream of a history the predictor of a layer sees.

    Args:
        unit: "neurons" or "heads".
        ahead: one of `AHEAD`. "same" is the input of the sub-block itself, "half" that of the sub-block before, "full" the same
            place one layer before, "embedding" the input of the model. Before the first entry there is only the first.

    Raises:
        ValueError: unknown unit or distance.
    """
    if unit not in ("neurons", "heads") or ahead not in AHEAD:
        raise ValueError(f"no predictor for {unit!r} looking {ahead!r}; use neurons or heads, and one of {', '.join(AHEAD)}")
    back = {"same": 0, "half": 1, "full": 2, "double": 4}
    if ahead == "embedding":
        return lambda layer: 0
    return lambda layer: max(0, 2 * layer + (unit == "neurons") - back[ahead])


def labels(seen: Record, unit: str, layer: int, share: float = 0.5) -> Tensor:
    """What a predictor should say, bool [..., units]: active neurons, or the share of heads with the largest outputs.

    Neurons of a ReLU model are active when positive (`share` does not matter); of a model whose activations are hardly ever
    exactly zero, when among the ``share`` largest magnitudes.
    """
    if unit == "heads":
        norms = seen.head_norms[layer]
        return top(norms, count(share, norms.shape[-1]))
    a = seen.neuron_values[layer]
    return a > 0 if bool((a >= 0).all()) else top(a.abs(), count(share, a.shape[-1]))


def weighted_loss(logits: Tensor, y: Tensor, extra: float = 0.005) -> Tensor:
    """Algorithm 1's loss: binary cross-entropy in which a negative weighs as much as the share of positives, plus ``extra``."""
    truth = y.to(logits.dtype)
    w = truth.mean() + extra
    return F.binary_cross_entropy_with_logits(logits, truth, weight=truth * (1 - w) + w)


@dataclass(frozen=True)
class Quality:
    """How good a predictor is on tokens it was not trained on; shares."""

    recall: float  # of what is active, how much is named, at a probability of 1/2
    precision: float  # of what is named, how much is active
    predicted: float  # density it names
    true: float  # density that is active
    top_recall: float  # recall when exactly as many are named as are active on average


@torch.no_grad()
def quality(predictor: nn.Module, x: Tensor, y: Tensor) -> Quality:
    """Of a predictor on inputs [n, width] and labels [n, units]."""
    scores = predictor(x)
    named = scores > 0
    best = top(scores, count(float(y.float().mean()), y.shape[-1]))
    active, hits = y.sum().clamp_min(1), (named & y).sum()
    return Quality(
        float(hits / active), float(hits / named.sum().clamp_min(1)), float(named.float().mean()), float(y.float().mean()),
        float((best & y).sum() / active),
    )  # fmt: skip


def fit(
    x: Tensor, y: Tensor, *, rank: int, form: str = "linear", epochs: int = 20, rate: float = 1e-3, batch: int = 256,
    patience: int = 5, enough: float = 0.99, held: tuple[Tensor, Tensor] | None = None, extra: float = 0.005, seed: int = 0,
) -> Predictor:  # fmt: skip
    """Algorithm 1: AdamW on the weighted loss, the epoch with the best recall is kept.

    Args:
        x, y: [n, width] residual streams and [n, units] labels to train on.
        rank, form: of the predictor.
        epochs, rate, batch: of the training; weight decay is 0.01.
        patience, enough: stop when the recall on ``held`` has not risen for so many epochs, or exceeds ``enough``.
        held: inputs and labels that choose the epoch; never those a quality is reported on. The last epoch is kept when None.
        extra: see `weighted_loss`; 0 for heads.
        seed: of weights and order.
    """
    predictor = Predictor(x.shape[-1], y.shape[-1], rank, form, seed)
    optimiser = torch.optim.AdamW(predictor.parameters(), lr=rate, weight_decay=0.01)
    generator = torch.Generator().manual_seed(seed + 1)
    best, since, kept = -1.0, 0, None
    for _ in range(epochs):
        for part in torch.randperm(len(x), generator=generator).split(batch):
            loss = weighted_loss(predictor(x[part]), y[part], extra)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
        if held is None:
            continue
        recall = quality(predictor, *held).recall
        if recall > best:
            best, since, kept = recall, 0, {k: v.clone() for k, v in predictor.state_dict().items()}
        else:
            since += 1
        if since >= patience or recall > enough:
            break
    if kept is not None:
        predictor.load_state_dict(kept)
    return predictor.eval().requires_grad_(False)


def flat(parts: Sequence[Tensor]) -> Tensor:
    """[batch, time, n] records joined and laid flat: [tokens, n]."""
    return torch.cat([p.flatten(0, 1) for p in parts])
