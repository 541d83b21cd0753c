"""The figures of measured things: times against density and length, accuracies, distances, rooflines."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from sheaf.common.plots import COLOURS, GREY, curves, direct_label, direct_labels, figure, intervals, plain_log
from sheaf.common.stats import interval
from sheaf.pixelfly.hardware import DEVICES, Layer, largest_speedup
from sheaf.pixelfly.speed import ratio

__all__ = [
    "accuracies", "attention", "clusters", "flat_error", "generations", "kernels", "latency", "ntk", "rank_shares", "steps",
]  # fmt: skip

MARKS = ("o", "s", "^", "D", "v", "P")


def latency(frame: pd.DataFrame) -> Figure:
    """Median time of the appendix' masks against nominal density and against the density on hardware blocks."""
    table = frame.groupby("arm", sort=False).agg(
        {"seconds": "median", "pattern": "first", "nominal density": "first", "actual density": "first"}
    )
    fig, axes = figure(1, 2, height=3.0, sharey=True)
    for ax, column in zip(axes, ("nominal density", "actual density"), strict=True):
        for i, (pattern, part) in enumerate(table.groupby("pattern", sort=False)):
            ax.plot(part[column], 1e3 * part["seconds"], MARKS[i], color=COLOURS[i], ms=5, label=pattern, alpha=0.85)
        plain_log(ax.xaxis, (1,))
        plain_log(ax.yaxis)
        ax.set_xlabel(column + ("" if column[0] == "n" else ", blocks of 32"))
    axes[0].set_ylabel("forward time (ms)")
    axes[0].set_title("By what was asked for")
    axes[1].set_title("By what the hardware does")
    axes[1].legend(fontsize=8)
    return fig


def flat_error(steps: np.ndarray, errors: dict[int, np.ndarray], slopes: dict[int, float]) -> Figure:
    """Error of the flat form against the step, per width, with its slope."""
    fig, ax = figure(width=5.0, height=3.0)
    for i, (n, values) in enumerate(errors.items()):
        ax.plot(steps, values, MARKS[i] + "-", color=COLOURS[i], ms=4)
        direct_label(ax, steps[-1], values[-1], f"n = {n}, slope {slopes[n]:.2f}", COLOURS[i])
    plain_log(ax.xaxis)
    plain_log(ax.yaxis, (1,))
    ax.set_xlim(right=steps[-1] * 4)
    ax.set_xlabel("step")
    ax.set_ylabel("Frobenius error of the flat form")
    return fig


def clusters(frame: pd.DataFrame) -> Figure:
    """Error of the three ways per cluster tightness, against the temperature of attention."""
    spreads = sorted(frame["spread"].unique())
    fig, axes = figure(1, len(spreads), height=2.8, sharey=True)
    for ax, spread in zip(np.atleast_1d(axes), spreads, strict=True):
        part = frame[frame["spread"] == spread]
        for i, (way, rows) in enumerate(part.groupby("way", sort=False)):
            line = rows.groupby("beta")["error"].median()
            ax.plot(line.index, line.to_numpy(), MARKS[i] + "-", color=COLOURS[i], ms=4, label=way)
        plain_log(ax.yaxis, (1,))
        ax.set_title(f"spread {spread:g}")
        ax.set_xlabel("beta")
    np.atleast_1d(axes)[0].set_ylabel("relative error")
    np.atleast_1d(axes)[-1].legend(fontsize=7)
    return fig


def _speedups(frame: pd.DataFrame) -> pd.DataFrame:
    total = frame.assign(seconds=frame["forward_s"] + frame["backward_s"])
    rivals = sorted(set(total["arm"]) - {"block sparse", "block sparse + low rank"})
    rows = []
    for keys, part in total.groupby(["in", "out", "block", "density"], sort=False):
        found = interval(ratio(part, rivals, "block sparse"), "median")
        rows.append((*keys, found.estimate, found.low, found.high))
    return pd.DataFrame(rows, columns=["in", "out", "block", "density", "speed-up", "low", "high"])


def kernels(frame: pd.DataFrame) -> Figure:
    """Speed-up over the best dense layer against density, one panel per block, with the line 1 / density."""
    found = _speedups(frame)
    sizes = sorted(found["block"].unique())
    fig, axes = figure(1, len(sizes), height=3.0, sharey=True)
    for ax, block in zip(np.atleast_1d(axes), sizes, strict=True):
        part = found[found["block"] == block]
        ends = np.array([part["density"].min(), part["density"].max()])
        ax.plot(ends, 1 / ends, color=GREY, lw=1, zorder=0)
        direct_label(ax, ends[0], 1 / ends[0], "1 / density", GREY, dx=6)
        for i, ((in_, out), rows) in enumerate(part.groupby(["in", "out"], sort=False)):
            bars = np.abs(np.vstack([rows["speed-up"] - rows["low"], rows["high"] - rows["speed-up"]]))
            ax.errorbar(rows["density"], rows["speed-up"], bars, fmt=MARKS[i % 6] + "-", color=COLOURS[i % 6], ms=4, lw=1,
                        capsize=2, label=f"{in_} to {out}")  # fmt: skip
        plain_log(ax.xaxis)
        plain_log(ax.yaxis)
        ax.set_title(f"blocks of {block}")
        ax.set_xlabel("density")
    np.atleast_1d(axes)[0].set_ylabel("speed-up over the best dense")
    np.atleast_1d(axes)[-1].legend(fontsize=7)
    return fig


def steps(table: pd.DataFrame) -> Figure:
    """Speed-up of a training step per model: published, measured in float32 and bfloat16, and what operations alone would give.

    Args:
        table: columns model, dtype, speed-up, low, high, published, limit.
    """
    names = list(dict.fromkeys(table["model"]))
    fig, ax = figure(height=0.5 * len(names) + 1.4)
    for k, (dtype, part) in enumerate(table.groupby("dtype", sort=False)):
        y = np.array([len(names) - 1 - names.index(m) for m in part["model"]]) + 0.13 - 0.26 * k
        bars = np.abs(np.vstack([part["speed-up"] - part["low"], part["high"] - part["speed-up"]]))
        ax.errorbar(
            part["speed-up"], y, xerr=bars, fmt=MARKS[k], color=COLOURS[k], capsize=3, ms=5, label=f"measured, {dtype}"
        )
    whole = table.drop_duplicates("model")
    y = np.array([len(names) - 1 - names.index(m) for m in whole["model"]])
    ax.plot(whole["published"], y, "D", mfc="none", mec=GREY, mew=1.4, ms=6, label="published")
    ax.plot(whole["limit"], y, "|", color=GREY, ms=14, mew=2, label="operations alone")
    ax.axvline(1, color=GREY, lw=0.8)
    ax.set_yticks(range(len(names))[::-1], names)
    ax.set_xlabel("training step: best dense / Pixelfly")
    ax.set_xlim(left=0)
    ax.grid(axis="y", visible=False)
    ax.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return fig


def accuracies(panels: dict[str, pd.DataFrame]) -> Figure:
    """Mean accuracy per arm with its interval, one panel per model (frames as `accuracy.summary` gives them)."""
    rows = max(len(p) for p in panels.values())
    fig, axes = figure(1, len(panels), height=0.28 * rows + 1.3)
    for ax, (title, table) in zip(np.atleast_1d(axes), panels.items(), strict=True):
        intervals(ax, list(table["arm"]), table["accuracy (%)"], table["low"], table["high"], unit="test accuracy (%)")
        dense = table.loc[table["arm"] == "dense", "accuracy (%)"]
        if len(dense):
            ax.axvline(float(dense.iloc[0]), color=GREY, lw=1, ls="--")
        ax.set_title(title)
        ax.legend().remove()
    return fig


def attention(frame: pd.DataFrame) -> Figure:
    """Time of attention, forward and backward, against sequence length."""
    table = 1e3 * frame.pivot_table(index="length", columns="arm", values="seconds", aggfunc="median", sort=False)
    fig, ax = figure(width=6.0, height=3.2)
    for i, arm in enumerate(table):
        ax.plot(table.index, table[arm], MARKS[i] + "-", color=COLOURS[i], ms=4)
    plain_log(ax.xaxis)
    plain_log(ax.yaxis)
    ax.set_xlim(right=table.index[-1] * 2.2)
    last = table.index[-1]
    direct_labels(ax, [(last, float(table[arm].iloc[-1]), str(arm), COLOURS[i]) for i, arm in enumerate(table)])
    ax.set_xlabel("tokens")
    ax.set_ylabel("forward and backward (ms)")
    return fig


def ntk(found: pd.DataFrame, accuracy: pd.DataFrame) -> Figure:
    """Distances per arm, raw and of unit norm, with the seed floor; and distance against accuracy."""
    fig, axes = figure(1, 3, height=3.2, gridspec_kw={"width_ratios": [1.1, 1.1, 1]})
    order: list[str] = []
    for ax, norm in zip(axes[:2], ("raw", "unit norm"), strict=True):
        part = found[found["norm"] == norm].groupby("arm", sort=False)["distance"]
        mean, low, high = part.mean(), part.min(), part.max()
        order = order or list(mean.drop("dense").sort_values().index)
        y = np.arange(len(order))[::-1]
        ax.errorbar(mean[order], y, np.vstack([mean[order] - low[order], high[order] - mean[order]]), fmt="o",
                    color=COLOURS[0], ms=5, capsize=2)  # fmt: skip
        ax.axvspan(0, mean["dense"], color=GREY, alpha=0.2, lw=0)
        ax.set_yticks(y, order if ax is axes[0] else [""] * len(order))
        ax.set_xlim(left=0)
        ax.set_xlabel("distance to dense")
        ax.set_title(f"{norm} (grey: other seeds)", fontsize=9)
    raw = found[found["norm"] == "raw"].groupby("arm")["distance"].mean()
    at = accuracy.set_index("arm")["accuracy (%)"]
    shown = [a for a in order if a in at]
    for i, arm in enumerate(shown):
        axes[2].plot(raw[arm], at[arm], MARKS[i % 6], color=COLOURS[i % 6], ms=6)
    axes[2].margins(x=0.6)
    direct_labels(axes[2], [(raw[arm], at[arm], arm, COLOURS[i % 6]) for i, arm in enumerate(shown)])
    axes[2].set_xlabel("raw distance")
    axes[2].set_ylabel("test accuracy (%)")
    return fig


def rank_shares(shares: pd.DataFrame, sizes: pd.DataFrame, strides: pd.DataFrame) -> Figure:
    """Accuracy against the low-rank share, the block and the maximum stride, mean with every seed's value."""
    fig, axes = figure(1, 3, height=2.9, sharey=True, gridspec_kw={"width_ratios": [1.4, 1.1, 1]})
    for ax, frame, column, label in (
        (axes[0], shares, "share", "share of the low rank"),
        (axes[1], sizes, "size", "block"),
        (axes[2], strides, "reach", "maximum stride"),
    ):
        values = sorted(frame[column].unique())
        at = np.arange(len(values))
        for i, v in enumerate(values):
            part = frame.loc[frame[column] == v, "accuracy"]
            ax.plot(np.full(len(part), i), part, "o", color=COLOURS[0], ms=3, alpha=0.4)
        ax.plot(at, [frame.loc[frame[column] == v, "accuracy"].mean() for v in values], "s-", color=COLOURS[1], ms=5)
        ax.set_xticks(at, [f"{v:.3g}" for v in values])
        ax.set_xlabel(label)
    axes[0].set_ylabel("test accuracy (%)")
    return fig


def generations(layer: Layer, densities: Sequence[float]) -> Figure:
    """Largest possible speed-up of one layer against density, per hardware generation."""
    fig, ax = figure(width=6.0, height=3.2)
    x = np.array(densities)
    ax.plot(x, 1 / x, color=GREY, lw=1, ls="--")
    direct_label(ax, x[0], 1 / x[0], "1 / density", GREY, dx=6)
    lines: dict[str, ArrayLike] = {
        d.name: np.array([[largest_speedup(d, layer, v) for v in densities]]) for d in DEVICES
    }
    curves(ax, x, lines)
    plain_log(ax.xaxis)
    plain_log(ax.yaxis)
    ax.set_xlabel("density")
    ax.set_ylabel("largest possible speed-up")
    ax.set_title(f"{layer.name}: {layer.tokens} x {layer.in_} to {layer.out}, 16 bit")
    ax.legend(fontsize=8)
    return fig
