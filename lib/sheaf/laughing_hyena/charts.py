"""The figures of models, spectra, errors, quality and learning."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from sheaf.common.plots import COLOURS, GREY, curves, direct_label, direct_labels, figure, plain_log
from sheaf.laughing_hyena.distillery import METHODS

__all__ = ["distillation", "filters", "hankel", "learning", "logits", "quality", "rank_training", "recall"]

MARKS = ("o", "s", "^", "D", "v", "P")
KINDS = {"hyena": "Hyena", "multihyena": "MultiHyena", "h3": "H3-like", "gpt": "GPT"}
SHORT = {name: title.split(",")[0].removeprefix("control: ") for name, title in METHODS.items()} | {
    "modal": "modal", "modal-grid": "modal, from a grid", "balanced": "balanced truncation", "fir": "window", "prony": "Prony",
}  # fmt: skip


def filters(by_frequency: dict[float, ArrayLike]) -> Figure:
    """A few untrained long filters per sine frequency, one panel each."""
    fig, axes = figure(1, len(by_frequency), height=2.4, sharey=True)
    for ax, (frequency, h) in zip(np.atleast_1d(axes), by_frequency.items(), strict=True):
        for i, line in enumerate(np.asarray(h)):
            ax.plot(line, color=COLOURS[i % len(COLOURS)], lw=1)
        ax.set_title(f"w = {frequency:g}")
        ax.set_xlabel("t")
    np.atleast_1d(axes)[0].set_ylabel("h(t)")
    return fig


def hankel(spectra: dict[str, dict[str, list[np.ndarray]]]) -> Figure:
    """Relative singular values against their index: thin lines are filters, the thick one their median.

    Args:
        spectra: model -> "initial" and "trained" -> per layer [C, k].
    """
    fig, axes = figure(1, len(spectra), height=3.0, sharey=True)
    for ax, (model, moments) in zip(np.atleast_1d(axes), spectra.items(), strict=True):
        for colour, (moment, layers) in zip((GREY, COLOURS[0]), moments.items(), strict=True):
            values = np.concatenate(layers).clip(1e-8)
            x = np.arange(1, values.shape[1] + 1)
            ax.plot(x, values[:: max(1, len(values) // 24)].T, color=colour, lw=0.4, alpha=0.35)
            middle = np.median(values, axis=0)
            ax.plot(x, middle, color=colour, lw=2.2, label=moment)
        ax.axhline(1e-2, color=GREY, lw=0.8, ls=":")
        ax.set_yscale("log")
        ax.set_ylim(1e-5, 1.3)
        ax.set_title(model)
        ax.set_xlabel("singular value number")
    np.atleast_1d(axes)[0].set_ylabel("relative to the first")
    np.atleast_1d(axes)[0].legend(fontsize=8, loc="lower left")
    return fig


def rank_training(table: pd.DataFrame, tol: float = 1e-2, section: str = "half") -> Figure:
    """Median effective rank through training, one panel per layer, one line per model and frequency."""
    chosen = table[(table["tol"] == tol) & (table["section"] == section)]
    layers = sorted(chosen["layer"].unique())
    fig, axes = figure(1, len(layers), height=3.0, sharey=True)
    for ax, layer in zip(np.atleast_1d(axes), layers, strict=True):
        part = chosen[chosen["layer"] == layer]
        for i, ((kind, frequency), rows) in enumerate(part.groupby(["kind", "frequency"], sort=False)):
            line = rows.groupby("step")["rank"].mean()
            name = KINDS[kind] + ("" if kind == "h3" else f", w = {frequency:g}")
            ax.plot(line.index, line.to_numpy(), MARKS[i % 6] + "-", color=COLOURS[i % 6], ms=4, label=name)
        ax.set_title(f"layer {layer + 1}")
        ax.set_xlabel("training step")
    np.atleast_1d(axes)[0].set_ylabel(f"median rank at {tol:g}")
    np.atleast_1d(axes)[-1].legend(fontsize=7)
    return fig


def distillation(table: pd.DataFrame, chains: pd.DataFrame) -> Figure:
    """Error against order per bank: above relative l2 (median, band to the largest), below the Hankel norm with its floor."""
    banks = list(dict.fromkeys(table["filters"]))
    fig, axes = figure(2, len(banks), height=5.2, sharex=True, sharey="row", squeeze=False)
    for column, bank in enumerate(banks):
        top, bottom = axes[0][column], axes[1][column]
        part = table[table["filters"] == bank]
        for i, (method, rows) in enumerate(part.groupby("method", sort=False)):
            top.plot(rows["order"], rows["median"], MARKS[i % 6] + "-", color=COLOURS[i % 6], ms=4, label=SHORT[method])
            if method == "modal":
                top.fill_between(rows["order"], rows["least"].clip(1e-8), rows["largest"], color=COLOURS[i], alpha=0.15, lw=0)
        mine = chains[chains["filters"] == bank]
        floor = mine.groupby("order")["floor"].median()
        bottom.plot(floor.index, floor.to_numpy(), color=GREY, lw=2, label="floor of any recurrence")
        for i, method in enumerate(part["method"].unique()):
            line = mine[mine["method"] == method].groupby("order")["hankel"].median()
            if len(line):
                bottom.plot(line.index, line.to_numpy(), MARKS[i % 6] + "-", color=COLOURS[i % 6], ms=4)
        top.set_title(bank)
        bottom.set_xlabel("order (real degree)")
        for ax in (top, bottom):
            ax.set_yscale("log")
    axes[0][0].set_ylim(1e-4, 3)
    axes[0][0].set_ylabel("relative l2 error")
    axes[1][0].set_ylabel("Hankel norm of the error")
    axes[1][0].set_ylim(max(1e-4, float(chains["floor"][chains["floor"] > 0].median()) * 1e-2), None)
    axes[0][0].legend(fontsize=7, loc="lower left")
    axes[1][0].legend(fontsize=7, loc="lower left")
    return fig


def logits(bins: pd.DataFrame) -> Figure:
    """Relative (left) and absolute (right) error of logits by decile of their magnitude, one line per order."""
    fig, axes = figure(1, 2, height=3.0)
    for ax, measure in zip(axes, ("relative", "absolute"), strict=True):
        marks = []
        for i, (order, part) in enumerate(bins.groupby("order", sort=True)):
            line = part.groupby("bin")[measure].mean()
            ax.plot(line.index, line.to_numpy(), MARKS[i % 6] + "-", color=COLOURS[i % 6], ms=4)
            marks.append((float(line.index[-1]), float(line.iloc[-1]), f"d = {order}", COLOURS[i % 6]))
        plain_log(ax.yaxis, (1,))
        ax.set_xlim(0.5, 12)
        ax.set_xticks(range(1, 11))
        direct_labels(ax, marks)
        ax.set_xlabel("decile of the teacher's logit, smallest to largest")
        ax.set_ylabel(f"{measure} error")
    return fig


def quality(table: pd.DataFrame) -> Figure:
    """Mean accuracy against order per model, one line per method; the base and the zeroed model as levels."""
    kinds = list(dict.fromkeys(table["kind"]))
    fig, axes = figure(1, len(kinds), height=3.2, sharey=True)
    for ax, kind in zip(np.atleast_1d(axes), kinds, strict=True):
        part = table[(table["kind"] == kind) & ~table["chosen"]]
        for name, style in (("base", "-"), ("zero", ":")):
            level = part[part["method"] == name]["accuracy"].mean()
            ax.axhline(level, color=GREY, lw=1.2, ls=style)
            ax.annotate("base" if name == "base" else "filters zeroed", (1, level), xycoords=("axes fraction", "data"),
                        xytext=(-2, 4), textcoords="offset points", ha="right", fontsize=8, color=GREY)  # fmt: skip
        shown = part[~part["method"].isin(["base", "zero"])]
        for i, (method, rows) in enumerate(shown.groupby("method", sort=False)):
            line = rows.groupby("order")["accuracy"]
            mean = line.mean()
            ax.fill_between(mean.index, line.min(), line.max(), color=COLOURS[i % 6], alpha=0.15, lw=0)
            ax.plot(mean.index, mean.to_numpy(), MARKS[i % 6] + "-", color=COLOURS[i % 6], ms=4, label=SHORT[method])
        ax.set_title(KINDS[kind])
        ax.set_xlabel("order (real degree)")
    np.atleast_1d(axes)[0].set_ylabel("answers right (%)")
    np.atleast_1d(axes)[0].legend(fontsize=7, loc="center right")
    return fig


def learning(points: dict[str, pd.DataFrame], measures: dict[str, str]) -> Figure:
    """Learning curves per task: a measure against training steps, one line per arm, the range over seeds shaded.

    Args:
        points: task -> rows of arm, seed, step and the measure.
        measures: task -> column.
    """
    fig, axes = figure(1, len(points), height=3.0)
    for ax, (task, rows) in zip(np.atleast_1d(axes), points.items(), strict=True):
        for i, (arm, part) in enumerate(rows.groupby("arm", sort=False)):
            wide = part.pivot_table(index="step", columns="seed", values=measures[task])
            ax.fill_between(wide.index, wide.min(axis=1), wide.max(axis=1), color=COLOURS[i % 6], alpha=0.15, lw=0)
            ax.plot(wide.index, wide.mean(axis=1), MARKS[i % 6] + "-", color=COLOURS[i % 6], ms=4, label=arm)
        ax.set_title(task)
        ax.set_xlabel("training step")
        ax.set_ylabel(measures[task])
    np.atleast_1d(axes)[-1].legend(fontsize=7)
    return fig


def recall(runs: pd.DataFrame, widths: Sequence[int]) -> Figure:
    """Accuracy against vocabulary, one panel per width; Hyena, and MultiHyena by number of heads."""
    fig, axes = figure(1, len(widths), height=3.0, sharey=True)
    for ax, width in zip(np.atleast_1d(axes), widths, strict=True):
        part = runs[runs["width"] == width]
        x = sorted(part["symbols"].unique())
        lines = {}
        for (kind, heads), rows in part.groupby(["kind", "heads"], sort=True):
            name = "Hyena" if kind == "hyena" else f"MultiHyena, {heads} heads"
            lines[name] = rows.pivot_table(index="seed", columns="symbols", values="accuracy").to_numpy()
        curves(ax, x, lines)
        guess = [100 / s for s in x]
        ax.plot(x, guess, color=GREY, lw=1, ls=":")
        direct_label(ax, x[0], guess[0], "guessing", GREY, dx=2, dy=-8)
        plain_log(ax.xaxis)
        ax.set_xticks(x, [str(s) for s in x])
        ax.set_title(f"width {width}")
        ax.set_xlabel("symbols")
    np.atleast_1d(axes)[0].set_ylabel("answers right (%)")
    np.atleast_1d(axes)[-1].legend(fontsize=7)
    return fig
