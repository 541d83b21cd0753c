"""The residual stream: how slowly it changes, what dominates it, how attention's entropy goes with output, how tokens cluster."""

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sheaf.common.jobs import Job
from sheaf.dejavu import corpus, training
from sheaf.dejavu.masks import Record, record
from sheaf.dejavu.models import OPT

__all__ = ["clusters", "entropy_and_norm", "mean_shift", "measures", "slow_change"]


def measures(seen: Record) -> dict[str, Any]:
    """Cosines and norms of one record.

    Returns:
        "cosine": median by layer l of cos(x_l, x_(l+1)); "cosine at distance": {n: mean over l >= 1 of the medians};
        "norm ratio": medians of |x| / |F(x)| by layer, attention and MLP; "pairwise cosine": mean over tokens of a sequence.
    """
    layers = list(seen.history[::2])  # x_0 .. x_L
    cosine = [float(F.cosine_similarity(a, b, dim=-1).median()) for a, b in pairwise(layers)]
    far: dict[str, list[float]] = {}
    for n in (1, 2, 3, 4, 6, 8):
        pairs = [F.cosine_similarity(layers[i], layers[i + n], dim=-1) for i in range(1, len(layers) - n)]
        if pairs:
            joined = torch.cat([p.flatten() for p in pairs])
            far[str(n)] = [float(joined.mean()), float(joined.std())]
    ratio: dict[str, list[float]] = {"attention": [], "mlp": []}
    norms: dict[str, list[float]] = {"x, attention": [], "F(x), attention": [], "x, mlp": [], "F(x), mlp": []}
    for i, (before, after) in enumerate(pairwise(seen.history)):
        site = "mlp" if i % 2 else "attention"
        x, added = before.norm(dim=-1), (after - before).norm(dim=-1)
        ratio[site].append(float((x / added).median()))
        norms[f"x, {site}"].append(float(x.mean()))
        norms[f"F(x), {site}"].append(float(added.mean()))
    return {
        "cosine": cosine, "cosine at distance": far, "norm ratio": ratio, "norms": norms,
        "pairwise cosine": [_pairwise(x) for x in layers],
    }  # fmt: skip


def _pairwise(x: Tensor) -> float:
    """Mean cosine of all pairs of different tokens of a sequence [batch, time, width]."""
    u = F.normalize(x, dim=-1)
    together, n = u.sum(1).pow(2).sum(-1), x.shape[1]
    return float(((together - n) / (n * (n - 1))).mean())


def slow_change(job: Job) -> dict[str, Any]:
    """`measures` of a trained model on held-out text. A job holds ``model`` and ``evaluate``."""
    model = training.load(job["model"])
    text = corpus.load(job["model"]["data"], job["model"]["documents"])
    return measures(record(model, text.held[: job["evaluate"], :-1]))


@torch.no_grad()
def entropy_and_norm(model: OPT, ids: Tensor, first: int = 8) -> tuple[list[Tensor], list[Tensor], list[float]]:
    """Attention entropy over its maximum, and output norm, of every head and token from position ``first`` on.

    Returns:
        By layer: entropies [n, heads] in 0..1, norms [n, heads], and their correlation over all heads and tokens.
    """
    seen, entropies, norms, correlations = record(model, ids), [], [], []
    most = torch.log(torch.arange(1.0, ids.shape[1] + 1))
    for layer, block in enumerate(model.stack):
        maps = block.attention_maps(seen.history[2 * layer])
        entropy = torch.special.entr(maps).sum(-1)[..., first:] / most[first:]  # [batch, heads, time]
        e, n = entropy.transpose(1, 2).flatten(0, 1), seen.head_norms[layer][:, first:].flatten(0, 1)
        entropies.append(e)
        norms.append(n)
        correlations.append(float(torch.corrcoef(torch.stack([e.flatten(), n.flatten()]))[0, 1]))
    return entropies, norms, correlations


def correlate(job: Job) -> dict[str, Any]:
    """Correlations of `entropy_and_norm` by layer, of a trained model on held-out text."""
    model = training.load(job["model"])
    text = corpus.load(job["model"]["data"], job["model"]["documents"])
    return {"correlation": entropy_and_norm(model, text.held[: job["evaluate"], :-1])[2]}


def mean_shift(points: Tensor, sharpness: float, steps: int = 50) -> Tensor:
    """Attention with identity weights as mean-shift on the sphere, section 3.2: x <- normalise(sum_j K(x_j, x) x_j / sum_j K).

    Args:
        points: [n, d]; K = exp(sharpness * cosine).

    Returns:
        [n, d], where every point has moved to.
    """
    x = F.normalize(points, dim=-1)
    for _ in range(steps):
        x = F.normalize((sharpness * x @ x.T).softmax(-1) @ x, dim=-1)
    return x


def clusters(points: Tensor, close: float = 0.99) -> Tensor:
    """Label of each point [n]: those whose cosine with a cluster's first member is at least ``close`` belong to it."""
    u = F.normalize(points, dim=-1)
    label = torch.full((len(u),), -1)
    for i in range(len(u)):
        if label[i] < 0:
            label[(label < 0) & (u @ u[i] >= close)] = label.max() + 1
    return label
