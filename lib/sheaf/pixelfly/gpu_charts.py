"""The figures of a GPU's measurements: layers against their limits, speed-up against density, whole training steps."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from sheaf.common.plots import COLOURS, GREY, direct_label, figure, plain_log

__all__ = ["by_density", "layers", "steps"]

OWN = "block sparse"
DENSE = "cuBLAS, dense"


def layers(frame: pd.DataFrame) -> Figure:
    """Speed-up over cuBLAS per layer, forward and with the backward pass, beside the most that the device allows.

    Args:
        frame: of `gpu.layers`.
    """
    names = list(dict.fromkeys(frame["layer"]))
    fig, axes = figure(1, 2, height=0.34 * len(names) + 1.3, sharey=True)
    for ax, (what, part) in zip(axes, frame.groupby("pass", sort=False), strict=True):
        ours = part[part["arm"] == OWN].set_index("layer").loc[names]
        dense = part[part["arm"] == DENSE].set_index("layer").loc[names]
        y = np.arange(len(names))[::-1]
        ax.barh(y, ours["speed-up"], color=COLOURS[0], height=0.6, label="measured")
        ax.plot(dense["ms"] / ours["limit (ms)"], y, "|", color=GREY, ms=14, mew=2, label="limit of the device")
        ax.axvline(1, color=GREY, lw=0.8)
        ax.set_yticks(y, names)
        ax.set_xlabel("cuBLAS / block sparse")
        ax.set_title(str(what))
        ax.grid(axis="y", visible=False)
    axes[-1].legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return fig


def by_density(frame: pd.DataFrame) -> Figure:
    """Speed-up of one layer against its density, both passes, with 1 / density and the device's limit.

    Args:
        frame: of `gpu.by_density`.
    """
    fig, ax = figure(width=6.0, height=3.2)
    ours = frame[frame["arm"] == OWN]
    ends = np.array([ours["density"].min(), ours["density"].max()])
    ax.plot(ends, 1 / ends, color=GREY, lw=1, ls="--")
    direct_label(ax, ends[1], 1 / ends[1], "1 / density", GREY, dx=6)
    for i, (what, part) in enumerate(ours.groupby("pass", sort=False)):
        part = part.sort_values("density")
        dense = frame[(frame["arm"] == DENSE) & (frame["pass"] == what)].set_index("density")["ms"]
        ax.plot(part["density"], part["speed-up"], "os"[i] + "-", color=COLOURS[i], ms=5, label=str(what))
        limit = dense.loc[part["density"]].to_numpy() / part["limit (ms)"].to_numpy()
        ax.plot(part["density"], limit, ":", color=COLOURS[i], lw=1.5, label=f"{what}, limit of the device")
    plain_log(ax.xaxis)
    plain_log(ax.yaxis)
    ax.set_xlabel("density")
    ax.set_ylabel("cuBLAS / block sparse")
    ax.legend(fontsize=8)
    return fig


def steps(table: pd.DataFrame) -> Figure:
    """Speed-up of a training step per model: published, measured, and what operations alone would give.

    Args:
        table: of `gpu.step_table`.
    """
    names = list(dict.fromkeys(table["model"]))
    fig, ax = figure(height=0.45 * len(names) + 1.4)
    for k, (way, part) in enumerate(table.groupby("run", sort=False)):
        y = np.array([len(names) - 1 - names.index(m) for m in part["model"]]) + 0.13 - 0.26 * k
        bars = np.abs(np.vstack([part["speed-up"] - part["low"], part["high"] - part["speed-up"]]))
        ax.errorbar(part["speed-up"], y, xerr=bars, fmt="os"[k], color=COLOURS[k], capsize=3, ms=5, label=f"measured, {way}")
    whole = table.drop_duplicates("model")
    y = np.array([len(names) - 1 - names.index(m) for m in whole["model"]])
    ax.plot(whole["published"], y, "D", mfc="none", mec=GREY, mew=1.4, ms=6, label="published")
    ax.plot(whole["by operations"], y, "|", color=GREY, ms=14, mew=2, label="operations alone")
    ax.axvline(1, color=GREY, lw=0.8)
    ax.set_yticks(range(len(names))[::-1], names)
    ax.set_xlabel("training step: dense / Pixelfly")
    ax.set_xlim(left=0)
    ax.grid(axis="y", visible=False)
    ax.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return fig
