"""The figures of sparsity and quality: densities by layer, loss against what is kept, cosines, unions, look-ahead, accuracy."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from torch import Tensor

from sheaf.common.plots import COLOURS, GREY, MARKERS, blocks, curves, direct_label, figure, heat_map, plain_log

__all__ = [
    "accuracy", "attention", "by_layer", "cosines", "look_ahead", "loss_against_kept", "predictor_quality", "reduction", "unions",
    "workflow",
]  # fmt: skip


def by_layer(rows: dict[str, tuple[float, dict[str, Sequence[Sequence[float]]]]]) -> Figure:
    """Shares by layer, a row a quantity and a column a kind of model: mean and range over seeds, the published average dashed.

    Args:
        rows: quantity -> (published average, {kind: [seed][layer]}).
    """
    kinds = list(next(iter(rows.values()))[1])
    fig, axes = figure(len(rows), len(kinds), height=0.7 + 1.9 * len(rows), sharey=True, sharex=True, squeeze=False)
    for n, (quantity, (published, values)) in enumerate(rows.items()):
        for i, (ax, kind) in enumerate(zip(axes[n], kinds, strict=True)):
            curves(ax, np.arange(len(values[kind][0])), {kind: 100 * np.asarray(values[kind])})
            ax.axhline(100 * published, color=GREY, ls="--", lw=1)
            if i == 0:
                direct_label(ax, 0, 100 * published, "published average", GREY, dy=-7)
                ax.set_ylabel(f"{quantity} (%)")
            if n == 0:
                ax.set_title(kind)
            if n == len(rows) - 1:
                ax.set_xlabel("layer")
            ax.set_ylim(-2, 102)
    return fig


def loss_against_kept(frame: pd.DataFrame, panel: str, rules: Sequence[str]) -> Figure:
    """Loss added against the share kept, logarithmic, a panel for each value of a column; mean and range over seeds."""
    names = list(frame[panel].unique())
    fig, axes = figure(1, len(names), height=3.0, sharey=True)
    for ax, name in zip(np.atleast_1d(axes), names, strict=True):
        part = frame[frame[panel] == name]
        for i, rule in enumerate(r for r in rules if r in set(part["rule"])):
            at = part[part["rule"] == rule].groupby("kept")["loss added"]
            mean, low, high = (x.clip(lower=1e-4) for x in (at.mean(), at.min(), at.max()))
            ax.plot(100 * mean.index, mean, MARKERS[i % 6] + "-", color=COLOURS[i % 6], ms=4, label=rule)
            ax.fill_between(100 * mean.index, low, high, color=COLOURS[i % 6], alpha=0.2, lw=0)
        plain_log(ax.xaxis)
        ax.set_yscale("log")
        ax.set_title(name)
        ax.set_xlabel("kept (%)")
    np.atleast_1d(axes)[0].set_ylabel("loss added (nats)")
    np.atleast_1d(axes)[-1].legend(fontsize=7)
    return fig


def reduction(frame: pd.DataFrame, rules: Sequence[str], layers: int) -> Figure:
    """Figure 1b: loss added against the reduction of MLP weights read, 1 / kept, the dense first layer counted."""
    fig, ax = figure(width=5.6, height=3.2)
    for i, rule in enumerate(r for r in rules if r in set(frame["rule"])):
        mean = frame[frame["rule"] == rule].groupby("kept")["loss added"].mean().clip(lower=1e-4)
        kept = (1 + (layers - 1) * mean.index.to_numpy()) / layers
        ax.plot(1 / kept, mean, MARKERS[i % 6] + "-", color=COLOURS[i % 6], ms=4, label=rule)
    ax.set_yscale("log")
    ax.set_xlabel("reduction of the MLP weights read (x), first layer dense")
    ax.set_ylabel("loss added (nats)")
    ax.legend(fontsize=7)
    return fig


def attention(maps: Tensor, heads: Sequence[int], words: Sequence[str], entropy: np.ndarray, norm: np.ndarray) -> Figure:
    """Figure 4: maps [heads, time, time] of three heads, and entropy against output norm of all heads of that layer."""
    fig, axes = figure(1, 4, width=9.0, height=2.7, gridspec_kw={"width_ratios": [1, 1, 1, 1.1]})
    for i, (ax, head) in enumerate(zip(axes[:3], heads, strict=True)):
        heat_map(ax, maps[head].numpy(), bounds=[0, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0], groups=words if i == 0 else None,
                 bar=False)  # fmt: skip
        ax.set_title(f"head {head}")
    for i, head in enumerate(heads):
        axes[3].plot(entropy[:, head], norm[:, head], MARKERS[i], color=COLOURS[i], ms=3, alpha=0.5, label=f"head {head}")
    axes[3].ticklabel_format(useOffset=False)
    axes[3].set_xlabel("entropy / maximum")
    axes[3].set_ylabel("output norm")
    axes[3].legend(fontsize=7)
    return fig


def cosines(series: dict[int, list[dict[str, Any]]]) -> Figure:
    """Figure 5: cosine of consecutive layers by relative depth, cosine by distance, and norms, for models of several depths."""
    fig, axes = figure(1, 3, width=9.0, height=2.9)
    for i, (layers, runs) in enumerate(sorted(series.items())):
        y = np.array([r["cosine"] for r in runs])
        x = (np.arange(layers) + 0.5) / layers
        axes[0].plot(x, y.mean(0), MARKERS[i] + "-", color=COLOURS[i], ms=3, label=f"{layers} layers")
        far = {int(n): [r["cosine at distance"][n][0] for r in runs] for n in runs[0]["cosine at distance"]}
        axes[1].plot(list(far), [np.mean(v) for v in far.values()], MARKERS[i] + "-", color=COLOURS[i], ms=3)
    axes[0].axhline(0.95, color=GREY, ls="--", lw=1)
    direct_label(axes[0], 0.02, 0.95, "published", GREY, dy=6)
    axes[0].set_xlabel("depth, 0 to 1")
    axes[0].set_ylabel("median cosine to the next layer")
    axes[0].legend(fontsize=7, loc="lower right")
    axes[1].set_xlabel("layers apart")
    axes[1].set_ylabel("mean cosine")
    deepest = series[max(series)]
    for i, (name, values) in enumerate(deepest[0]["norms"].items()):
        axes[2].plot(np.arange(len(values)), values, "-" if name.startswith("x") else "--", color=COLOURS[i], label=name)
    axes[2].set_yscale("log")
    axes[2].set_xlabel("layer of the deepest")
    axes[2].set_ylabel("mean norm")
    axes[2].legend(fontsize=6)
    return fig


def unions(frame: pd.DataFrame) -> Figure:
    """Figure 8: density of the union against the batch, beside independent tokens and the linear bound; a panel a unit."""
    kinds = list(frame["units"].unique())
    fig, axes = figure(1, len(kinds), width=8.4, height=2.8, sharey=True)
    for ax, kind in zip(np.atleast_1d(axes), kinds, strict=True):
        part = frame[frame["units"] == kind].groupby("batch")[["union", "independent", "own rates", "linear"]].mean()
        ax.plot(part.index, 100 * part["union"], "o-", color=COLOURS[0], ms=4, label="measured")
        ax.plot(part.index, 100 * part["independent"], "s--", color=COLOURS[1], ms=3, label="independent")
        ax.plot(part.index, 100 * part["own rates"], "^:", color=COLOURS[2], ms=3, label="independent, own rates")
        ax.plot(part.index, 100 * part["linear"], color=GREY, lw=1, label="batch x density")
        plain_log(ax.xaxis)
        ax.set_title(kind, fontsize=9)
        ax.set_xlabel("tokens in the batch")
    np.atleast_1d(axes)[0].set_ylabel("units needed (%)")
    np.atleast_1d(axes)[-1].legend(fontsize=7, loc="lower right")
    return fig


def workflow(attention_ms: float, mlp_ms: float, predictor_ms: float) -> Figure:
    """Figure 2: which predictor runs beside which sub-block, drawn to the given times of a layer."""
    fig, ax = figure(width=7.2, height=1.8)
    rows: list[tuple[float, float, float, str, int]] = []
    start = 0.0
    for k in range(2):
        rows.append((start, attention_ms, 0, f"attention {k}", 0))
        rows.append((start, predictor_ms, 1, f"neurons of {k}", 1))
        rows.append((start + attention_ms, mlp_ms, 0, f"MLP {k}", 2))
        rows.append((start + attention_ms, predictor_ms, 1, f"heads of {k + 1}", 3))
        start += attention_ms + mlp_ms
    blocks(ax, rows, text_from=0.5 * mlp_ms)
    for at, length, row, label, colour in rows:
        if row == 1 and length < 0.5 * mlp_ms:
            direct_label(ax, at + length, row, label, COLOURS[colour])
    ax.set_yticks([0, 1], ["model", "predictors"])
    ax.set_xlabel("ms, one layer of OPT-175B after another, sparse")
    return fig


def predictor_quality(frame: pd.DataFrame) -> Figure:
    """Recall and densities of predictors by layer, a panel a kind of model."""
    names = list(frame["model"].unique())
    fig, axes = figure(1, len(names), height=2.8, sharey=True)
    for ax, name in zip(np.atleast_1d(axes), names, strict=True):
        part = frame[frame["model"] == name].groupby("layer")[["recall", "precision", "predicted", "true"]].mean()
        for i, (column, label) in enumerate(
            (("recall", "recall"), ("precision", "precision"), ("predicted", "density predicted"), ("true", "true density"))
        ):
            ax.plot(part.index, 100 * part[column], MARKERS[i] + "-", color=COLOURS[i], ms=4, label=label)
        ax.set_title(name)
        ax.set_xlabel("layer")
        ax.set_ylim(0, 102)
    np.atleast_1d(axes)[0].set_ylabel("%")
    np.atleast_1d(axes)[-1].legend(fontsize=7)
    return fig


def look_ahead(frame: pd.DataFrame) -> Figure:
    """Recall and density predicted against how far ahead the predictor looks; layers from the second on."""
    order = [a for a in ("same", "half", "full", "double", "embedding") if a in set(frame["ahead"])]
    fig, axes = figure(1, 2, width=7.2, height=2.8)
    for ax, column in zip(axes, ("recall", "predicted"), strict=True):
        for i, name in enumerate(frame["model"].unique()):
            part = frame[(frame["model"] == name) & (frame["layer"] > 0)].groupby("ahead")[column].mean()
            at = [a for a in order if a in part]
            ax.plot([order.index(a) for a in at], 100 * part[at], MARKERS[i] + "-", color=COLOURS[i], ms=4, label=name)
        ax.set_xticks(range(len(order)), order)
        ax.set_ylabel("recall (%)" if column == "recall" else "density predicted (%)")
    axes[0].legend(fontsize=7)
    return fig


def accuracy(curves_: pd.DataFrame) -> Figure:
    """Figure 6: task average and loss against total sparsity, by kind of model and choice of units, with a dense level."""
    fig, axes = figure(1, 2, width=8.0, height=3.0)
    for i, (name, part) in enumerate(curves_.groupby("arm", sort=False)):
        at = part.groupby("total")
        for ax, column in zip(axes, ("accuracy (%)", "loss added"), strict=True):
            mean = at[column].mean()
            ax.plot(100 * mean.index, mean, MARKERS[i % 6] + "-", color=COLOURS[i % 6], ms=4, label=name)
            ax.fill_between(100 * mean.index, at[column].min(), at[column].max(), color=COLOURS[i % 6], alpha=0.2, lw=0)
            ax.set_xlabel("total sparsity (%)")
            ax.set_ylabel("task average (%)" if column.startswith("acc") else "loss added (nats)")
    axes[0].axvline(75, color=GREY, ls="--", lw=1)
    axes[0].legend(fontsize=7)
    return fig
