"""The figure and the table of the arena's timings."""

import pandas as pd
from matplotlib.figure import Figure

from sheaf.common.plots import COLOURS, direct_labels, figure, plain_log
from sheaf.common.stats import interval
from sheaf.pixelfly.charts import MARKS
from sheaf.pixelfly.speed import ratio

__all__ = ["step_table", "times"]


def times(timed: pd.DataFrame, stepped: pd.DataFrame) -> Figure:
    """Time against sequence length: of attention alone, and of a training step of the whole classifier."""
    fig, axes = figure(1, 2, height=3.2)
    for ax, frame, title in ((axes[0], timed, "Attention alone"), (axes[1], stepped, "Training step, whole classifier")):
        table = 1e3 * frame.pivot_table(index="length", columns="arm", values="seconds", aggfunc="median", sort=False)
        last = table.index[-1]
        for i, arm in enumerate(table):
            ax.plot(table.index, table[arm], MARKS[i] + "-", color=COLOURS[i], ms=4)
        plain_log(ax.xaxis)
        plain_log(ax.yaxis)
        ax.set_xlim(right=last * 3)
        direct_labels(ax, [(last, float(table[arm].iloc[-1]), str(arm), COLOURS[i]) for i, arm in enumerate(table)])
        ax.set_xlabel("tokens")
        ax.set_title(title, fontsize=9)
    axes[0].set_ylabel("forward and backward (ms)")
    return fig


def step_table(frame: pd.DataFrame) -> pd.DataFrame:
    """One row per length and attention: milliseconds of a training step, and speed-up over dense with bounds."""
    tasks = {1024: "Image, Pathfinder", 2048: "ListOps", 4096: "Text, Retrieval"}  # of about this length in the arena
    rows = []
    for length, part in frame.groupby("length", sort=False):
        for arm, mine in part.groupby("arm", sort=False):
            gain = interval(ratio(part, "dense", str(arm)), "median")
            rows.append((length, tasks.get(int(str(length)), "-"), arm, 1e3 * mine["seconds"].median(), gain.estimate, gain.low,
                         gain.high))  # fmt: skip
    return pd.DataFrame(rows, columns=["tokens", "tasks of that length", "attention", "ms a step", "speed-up", "low", "high"])
