"""The figures of costs and speed: bounds against sparsity, times against density, a token against its prompt."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from sheaf.common.plots import COLOURS, GREY, direct_label, direct_labels, figure, plain_log
from sheaf.common.stats import interval
from sheaf.dejavu import cost
from sheaf.dejavu.models import OPTConfig

__all__ = ["attention", "bounds", "gpu_density", "latency", "mlp"]

MARKS = ("o", "s", "^", "D", "v", "P")


def bounds(config: OPTConfig, prompts: Sequence[int]) -> Figure:
    """Largest speed-up against sparsity of heads and neurons: of the weights alone, and with predictors and cache."""
    at = np.linspace(0, 0.96, 60)
    fig, ax = figure(width=5.6, height=3.4)
    ax.plot(100 * at, 1 / (1 - at), color=GREY, ls="--", lw=1)
    direct_label(ax, 90, 10, "weights alone", GREY, dx=-75, dy=6)
    marks = []
    for i, prompt in enumerate(prompts):
        line = cost.bound(config, at, prompt)
        ax.plot(100 * at, line, color=COLOURS[i])
        marks.append((96, float(line[-1]), f"prompt {prompt}", COLOURS[i]))
    ax.set_ylim(0, 20)
    ax.set_xlim(0, 118)
    ax.set_xticks([0, 25, 50, 75, 100])
    direct_labels(ax, marks)
    ax.set_xlabel("heads and neurons skipped (%)")
    ax.set_ylabel("largest speed-up")
    return fig


def mlp(frame: pd.DataFrame) -> Figure:
    """Milliseconds of the MLP against density, a panel per dtype; dense arms are lines across."""
    kinds = list(frame["dtype"].drop_duplicates())
    fig, axes = figure(1, len(kinds), height=3.6, sharey=True)
    for ax, kind in zip(np.atleast_1d(axes), kinds, strict=True):
        part = frame[(frame["dtype"] == kind) & ~frame["arm"].str.contains("int4|stream")]
        dense = part[part["arm"].str.startswith("dense")].groupby("arm")["seconds"].median()
        ends = [part["density"].min(), 1.0]
        ax.plot(ends, [1e3 * dense.min()] * 2, color=GREY, lw=1)
        direct_label(ax, ends[0], 1e3 * dense.min(), "best dense", GREY, dx=0, dy=6)
        ax.plot(ends, 1e3 * dense.min() * np.array(ends), color=GREY, lw=1, ls="--")
        direct_label(ax, ends[0], 1e3 * dense.min() * ends[0], "its share", GREY, dx=12, dy=-8)
        for i, (arm, rows) in enumerate(part[~part["arm"].str.startswith("dense")].groupby("arm", sort=False)):
            found = [(x, interval(1e3 * r["seconds"].to_numpy(), "median")) for x, r in rows.groupby("density")]
            y = np.array([f.estimate for _, f in found])
            bars = np.abs([[f.estimate - f.low for _, f in found], [f.high - f.estimate for _, f in found]])
            ax.errorbar([x for x, _ in found], y, bars, fmt=MARKS[i] + "-", color=COLOURS[i], ms=4, lw=1, capsize=2, label=arm)
        plain_log(ax.xaxis)
        plain_log(ax.yaxis)
        ax.set_title(kind)
        ax.set_xlabel("density")
    np.atleast_1d(axes)[0].set_ylabel("time (ms)")
    np.atleast_1d(axes)[-1].legend(fontsize=7)
    return fig


def attention(frame: pd.DataFrame) -> Figure:
    """Milliseconds of one attention step against the share of heads, per prompt, with the best dense arm across."""
    fig, ax = figure(width=5.0, height=3.4)
    count = frame["heads"].iloc[0]
    for i, (prompt, part) in enumerate(frame.groupby("prompt")):
        dense = part[part["arm"].str.startswith("dense")].groupby("arm")["seconds"].median().min()
        ours = part[part["arm"].str.startswith("gathered")].groupby("kept")["seconds"].median()
        ax.plot(ours.index / count, 1e3 * ours.to_numpy(), MARKS[i] + "-", color=COLOURS[i], ms=4, label=f"prompt {prompt}")
        ax.axhline(1e3 * dense, color=COLOURS[i], lw=1, ls="--")
    ax.plot([], [], color=GREY, lw=1, ls="--", label="best dense")
    ax.set_xlim(0, 1.05)
    ax.set_ylim(bottom=0)
    ax.set_xlabel("share of heads read")
    ax.set_ylabel("time (ms)")
    ax.legend(fontsize=8)
    return fig


def latency(frame: pd.DataFrame, published: pd.DataFrame) -> Figure:
    """Milliseconds of a token against the prompt here, and the draft's values on its own machine beside it."""
    fig, axes = figure(1, 2, height=3.2)
    marks = []
    for i, (arm, part) in enumerate(frame.groupby("arm", sort=False)):
        found = [(x, interval(1e3 * r["seconds"].to_numpy(), "median")) for x, r in part.groupby("prompt")]
        y = np.array([f.estimate for _, f in found])
        bars = np.abs([[f.estimate - f.low for _, f in found], [f.high - f.estimate for _, f in found]])
        axes[0].errorbar([x for x, _ in found], y, bars, fmt=MARKS[i] + "-", color=COLOURS[i], ms=4, lw=1.2, capsize=2, label=arm)
    axes[0].set_title("Here, one core")
    names = {"huggingface_ms": "Hugging Face", "fastertransformer_ms": "FasterTransformer", "dejavu_ms": "Deja Vu"}
    for column, name in names.items():
        axes[1].plot(published["prompt"], published[column], "o--", color=GREY, mfc="none", ms=4, lw=1)
        marks.append((published["prompt"].iloc[-1], published[column].iloc[-1], name, GREY))
    axes[1].set_xlim(right=published["prompt"].max() * 1.9)
    axes[1].set_title("Published draft, 8 A100")
    for ax in axes:
        ax.set_ylim(bottom=0)
        ax.set_xlabel("prompt (tokens)")
    direct_labels(axes[1], marks)
    axes[0].set_ylabel("time of a token (ms)")
    axes[0].set_ylim(top=1.5 * axes[0].get_ylim()[1])  # room for the legend above all lines
    axes[0].legend(fontsize=7, loc="upper left", ncols=2)
    return fig


def gpu_density(mlp_: pd.DataFrame, heads: pd.DataFrame) -> Figure:
    """Milliseconds per layer of OPT-175B's MLP and attention against density, with the best dense arm across."""
    fig, axes = figure(1, 2, height=3.2)
    for ax, frame, title in zip(axes, (mlp_.dropna(subset=["ms"]), heads), ("MLP", "Attention"), strict=True):
        table = frame.groupby(["arm", "density"])["ms"].median().reset_index()
        dense = table[table["arm"].str.startswith("dense") & ~table["arm"].str.contains("int4")]["ms"].min()
        ax.plot([0, 1], [0, dense], color=GREY, lw=1, ls="--")
        ax.axhline(dense, color=GREY, lw=1)
        direct_label(ax, 0.02, dense, "best dense", GREY, dx=0, dy=6)
        sparse = table[~table["arm"].str.startswith("dense")].copy()
        sparse["arm"] = sparse["arm"].str.replace(r"\d+ heads", "gathered", regex=True)
        for i, (arm, part) in enumerate(sparse.groupby("arm", sort=False)):
            part = part.sort_values("density")
            ax.plot(part["density"], part["ms"], MARKS[i] + "-", color=COLOURS[i], ms=4, label=arm)
        ax.set_title(title)
        ax.set_xlabel("density")
        ax.set_ylim(bottom=0)
    axes[0].set_ylabel("time per layer (ms)")
    axes[0].legend(fontsize=7)
    return fig
