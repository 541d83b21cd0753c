"""Proofs about the sparse decoder: it equals masks over a full cache, and no row of a unit that was not chosen is ever read."""

import copy
import warnings
from collections.abc import Sequence

import pandas as pd
import torch
from torch import Tensor

from sheaf.dejavu import masks
from sheaf.dejavu.models import OPT
from sheaf.dejavu.predictors import Predictor, step_of
from sheaf.dejavu.sparsify import SparseOPT, sparsify

__all__ = ["agreement", "audit", "rows_read"]


@torch.no_grad()
def agreement(model: OPT, sparse: SparseOPT, ids: Tensor, prompt: int) -> float:
    """Largest difference of logits, token by token, between a sparse decoder and masks over a full cache.

    Args:
        model: the dense model that ``sparse`` was made from.
        ids: [1, time], one sequence: a batch shares a union of units, masks do not.
        prompt: tokens read densely first.
    """
    rules = {}
    for unit, kept, predictors in (
        ("neurons", sparse.neurons_kept, [layer.neurons for layer in sparse.layers]),
        ("heads", sparse.heads_kept, [layer.heads for layer in sparse.layers]),
    ):
        rules[unit] = _after(prompt, masks.predicted(predictors, kept, step_of(unit, sparse.ahead)))
    wanted = model(ids, tap=masks.Masked(rules["neurons"], rules["heads"]))
    worst = float((sparse.prefill(ids[:, :prompt]) - wanted[:, prompt - 1]).abs().max())
    for t in range(prompt, ids.shape[1]):
        worst = max(worst, float((sparse.step(ids[:, t]) - wanted[:, t]).abs().max()))
    return worst


def _after(prompt: int, rule: masks.Rule) -> masks.Rule:
    def only_after(layer: int, history: masks.History, scores: Tensor) -> Tensor:
        mask = rule(layer, history, scores)
        mask[:, :prompt] = True
        return mask

    return only_after


@torch.no_grad()
def rows_read(sparse: SparseOPT, ids: Tensor, prompt: int, layer: int, unit: str) -> int:
    """How many units of a layer one step reads: each is made not-a-number on its own, and is read if the output shows it.

    Args:
        sparse: a decoder; left as it was.
        ids: [1, prompt + 1] or more.
        layer, unit: which layer, and "neurons" or "heads".
    """
    sparse.prefill(ids[:, :prompt])
    kept = copy.deepcopy([(s.keys, s.values, s.inputs, s.filled) for s in sparse.layers])
    mine, seen = sparse.layers[layer], 0
    rows = [mine.w1, mine.w2t] if unit == "neurons" else [mine.q[0], mine.k[0], mine.v[0], mine.out[0]]
    for i in range(len(rows[0])):
        before = [r[i].clone() for r in rows]
        for r in rows:
            r[i] = torch.nan
        logits = sparse.step(ids[:, prompt])
        seen += bool(logits.isnan().any())
        for r, b in zip(rows, before, strict=True):
            r[i] = b
        sparse.length = prompt
        for s, state in zip(sparse.layers, kept, strict=True):
            for now, old in zip((s.keys, s.values, s.inputs, s.filled), state, strict=True):
                now.copy_(old)
    return seen


def audit(
    model: OPT, neurons: Sequence[Predictor | None], heads: Sequence[Predictor | None], ids: Tensor, *, ahead: str = "same",
    densities: Sequence[tuple[float, float]] = ((0.125, 0.5), (0.3, 0.25)), prompt: int = 8,
) -> pd.DataFrame:  # fmt: skip
    """Agreement, and rows read in the last layer, at several densities (neurons, heads) of a model; the first layer is dense."""
    found = []
    with warnings.catch_warnings():  # on the slow reference the answer is the same, and no time is taken here
        warnings.filterwarnings("ignore", "gather_.*|predict_.*", RuntimeWarning)
        for mlp, attention in densities:
            sparse = sparsify(
                copy.deepcopy(model), neurons=neurons, heads=heads, mlp_density=mlp, head_density=attention, ahead=ahead,
                dense={0},
            )  # fmt: skip
            off, last = agreement(model, sparse, ids, prompt), model.config.layers - 1
            read = {unit: rows_read(sparse, ids, prompt, last, unit) for unit in ("neurons", "heads")}
            found.append((mlp, attention, off, sparse.neurons_kept, read["neurons"], sparse.heads_kept, read["heads"]))
    columns = ["neurons kept", "heads kept", "largest difference", "neurons planned", "neurons read", "heads planned"]
    return pd.DataFrame(found, columns=[*columns, "heads read"])
