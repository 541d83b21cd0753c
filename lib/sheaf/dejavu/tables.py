"""The tables of sparsity and quality: results of jobs in, frames with one idea a row out."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch.nn.functional as F
from torch import Tensor

from sheaf.common.data import data_dir
from sheaf.common.stats import interval
from sheaf.dejavu.masks import record
from sheaf.dejavu.models import OPT
from sheaf.dejavu.quality import average
from sheaf.dejavu.stream import clusters
from sheaf.dejavu.stream import mean_shift as shifted

__all__ = [
    "accuracy_rows", "added", "cosines", "densities", "droppable", "equal_loss_ratio", "joint_curve", "loss_rows", "mean_rows",
    "mean_shift", "points", "published", "rank_rows", "ratio_at", "unions",
]  # fmt: skip

Runs = dict[str, list[dict[str, Any]]]  # kind of model -> results by seed


def published(name: str) -> pd.DataFrame:
    """One of the paper's tables under data/dejavu: "tasks", "depth", "latency", "cost" or "breakdown"."""
    return pd.read_csv(data_dir("dejavu") / f"{name}.csv")


def loss_rows(found: Runs) -> pd.DataFrame:
    """Rows of `sparsity.existence`: model, seed, unit, rule, kept, loss added."""
    return pd.DataFrame([
        {"model": kind, "seed": seed} | row for kind, runs in found.items() for seed, r in enumerate(runs) for row in r["rows"]
    ])  # fmt: skip


def mean_rows(frame: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Means over everything but ``by``, the order of the rows kept."""
    numbers = [c for c in frame.select_dtypes("number").columns if c not in by and c != "seed"]
    return frame.groupby(by, sort=False)[numbers].mean().reset_index()


def densities(found: Runs) -> pd.DataFrame:
    """Natural density and the least kept within the tolerance, by model: layers apart (a share of it each) and all together."""
    rows = []
    for kind, runs in found.items():
        for layer in range(len(runs[0]["natural"])):
            rows.append((kind, str(layer), np.mean([r["natural"][layer] for r in runs]),
                         np.mean([r["by layer"]["neurons"][layer] for r in runs]),
                         np.mean([r["by layer"]["heads"][layer] for r in runs])))  # fmt: skip
        for rule in ("masked stream", "dense stream"):
            rows.append((kind, f"all, {rule}", np.mean([r["natural"] for r in runs]),
                         *(np.mean([r["least"][u][rule] for r in runs]) for u in ("neurons", "heads"))))  # fmt: skip
    return pd.DataFrame(rows, columns=["model", "layers", "positive", "neurons needed", "heads needed"])


def droppable(found: Runs, unit: str) -> dict[str, list[list[float]]]:
    """Share of a layer's units that can be dropped: kind -> by seed -> by layer."""
    return {kind: [[1 - k for k in r["by layer"][unit]] for r in runs] for kind, runs in found.items()}


def mean_shift(model: OPT, ids: Tensor, sharpness: float = 20.0, bandwidth: float = 0.6) -> pd.DataFrame:
    """Clusters of the tokens at every layer, by iterated attention and by scikit-learn's MeanShift, and how far they agree."""
    from sklearn.cluster import MeanShift
    from sklearn.metrics import adjusted_rand_score

    rows = []
    for layer, x in enumerate(record(model, ids).history[::2]):
        points = F.normalize(x.flatten(0, 1), dim=-1)
        ours = clusters(shifted(points, sharpness)).numpy()
        theirs = MeanShift(bandwidth=bandwidth).fit_predict(points.numpy())
        cosine = (points @ points.T).fill_diagonal_(0).sum() / (len(points) * (len(points) - 1))
        rows.append((layer, float(cosine), len(set(ours)), len(set(theirs)), adjusted_rand_score(theirs, ours)))
    columns = ["layers read", "mean pairwise cosine", "clusters, attention", "clusters, MeanShift", "adjusted Rand index"]
    return pd.DataFrame(rows, columns=columns)


def cosines(series: dict[int, list[dict[str, Any]]]) -> pd.DataFrame:
    """Median cosine to the next layer by model depth, first layer apart, and the ratio of residual to addition."""
    rows = []
    for layers, runs in sorted(series.items()):
        c = np.array([r["cosine"] for r in runs])
        ratio = np.array([r["norm ratio"]["attention"] for r in runs]), np.array([r["norm ratio"]["mlp"] for r in runs])
        rows.append((layers, c[:, 0].mean(), np.median(c[:, 1:], axis=1).mean(), c[:, -1].mean(),
                     np.median(ratio[0][:, 1:]), np.median(ratio[1][:, 1:])))  # fmt: skip
    return pd.DataFrame(rows, columns=["layers", "first layer", "median from the second on", "last layer",
                                       "|x| / |attention|", "|x| / |MLP|"])  # fmt: skip


def unions(found: Runs, kind: str) -> pd.DataFrame:
    """Rows of `sparsity.unions` of one kind of model: seed, units, batch and densities."""
    return pd.DataFrame([{"seed": seed} | row for seed, r in enumerate(found[kind]) for row in r["unions"]])


def ratio_at(frame: pd.DataFrame, rule: str, base: str, kept: float) -> np.ndarray:
    """Loss added by one rule over that of another at the share nearest to ``kept``, seed by seed."""
    nearest = min(frame["kept"].unique(), key=lambda k: abs(k - kept))
    table = frame[frame["kept"] == nearest].pivot_table(index="seed", columns="rule", values="loss added")
    return (table[rule].clip(lower=0) / table[base]).to_numpy()


def equal_loss_ratio(frame: pd.DataFrame, rule: str, base: str) -> np.ndarray:
    """Largest ratio of shares kept for equal loss, base over rule, over the shares measured, seed by seed.

    A base's share for a loss is read off its curve by straight lines between the shares measured; with all units it adds nothing.
    """
    ratios = []
    for _, part in frame.groupby("seed"):
        one, other = (part[part["rule"] == r].sort_values("kept") for r in (rule, base))
        shares = np.r_[other["kept"], 1.0]
        losses = np.minimum.accumulate(np.r_[other["loss added"], 0.0])
        needs = np.interp(one["loss added"].clip(lower=1e-4), losses[::-1], shares[::-1])
        ratios.append(float(np.max(needs / one["kept"].to_numpy())))
    return np.array(ratios)


def rank_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """Predictors by rank, form and choice of the epoch: means over layers from the second on."""
    part = frame[frame["layer"] > 0]
    return mean_rows(part.drop(columns="layer"), ["model", "rank", "form", "choose"])


def points(arms: list[dict[str, Any]], arm: str, base: str = "dense") -> np.ndarray:
    """Task average of an arm less that of another, in points, seed by seed."""
    return np.array([average(a[arm]) - average(a[base]) for a in arms])


def added(arms: list[dict[str, Any]], arm: str, base: str = "dense") -> np.ndarray:
    """Loss of an arm less that of another, nats a token, seed by seed."""
    return np.array([np.mean(a[arm]["losses"]) - np.mean(a[base]["losses"]) for a in arms])


def accuracy_rows(arms: list[dict[str, Any]], names: Sequence[str]) -> pd.DataFrame:
    """Accuracy by task in percent, task average with its interval over seeds, loss and perplexity, an arm a row."""
    rows = []
    for name in names:
        mine = [a[name] for a in arms]
        tasks = {t: 100 * np.mean([np.mean(m["tasks"][t]) for m in mine]) for t in mine[0]["tasks"]}
        losses = [np.mean(m["losses"]) for m in mine]
        averages = [average(m) for m in mine] if tasks else []
        at = interval(averages) if len(averages) > 1 else None
        rows.append({
            "arm": name, "sparsity": mine[0].get("total", np.nan), **tasks, "average": np.mean(averages) if tasks else np.nan,
            "low": at.low if at else np.nan, "high": at.high if at else np.nan, "loss": np.mean(losses),
            "perplexity": np.exp(np.mean(losses)),
        })  # fmt: skip
    return pd.DataFrame(rows)


def joint_curve(runs: Runs) -> pd.DataFrame:
    """Task average and loss against total sparsity, by kind of model and choice of units; models without tasks are left out."""
    rows = []
    for kind, arms in runs.items():
        if not arms[0]["dense"]["tasks"]:
            continue
        for seed, a in enumerate(arms):
            base = np.mean(a["dense"]["losses"])
            for which in ("predicted", "oracle"):
                names = ["dense"] + [n for n in a if n.startswith("joint") and n.endswith("oracle") == (which == "oracle")]
                rows += [
                    {"arm": f"{kind}, {which}", "seed": seed, "total": a[n]["total"] if n != "dense" else 0.0,
                     "accuracy (%)": average(a[n]), "loss added": np.mean(a[n]["losses"]) - base} for n in names
                ]  # fmt: skip
    return pd.DataFrame(rows)
