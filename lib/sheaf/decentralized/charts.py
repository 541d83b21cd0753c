"""Charts of this paper: throughput and runtime in five cases, timelines, convergence, growth with the number of devices."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sheaf.common import plots
from sheaf.decentralized.network import CASES
from sheaf.decentralized.simulate import Iteration

__all__ = ["convergence", "fluidstack", "growth", "levels", "live_panels", "loss", "runtime", "throughput", "timeline"]

NAMES = {
    "DTFM-scheduled": "scheduled", "DTFM-random": "random map", "Megatron-P8-random": "Megatron, random map",
    "Megatron-P8-placed": "Megatron, placed", "Megatron-best": "Megatron, best", "Megatron-P8-best": "Megatron, best",
    "DeepSpeed-PP": "DeepSpeed",
}  # fmt: skip
_GREYS = {
    "Megatron-best": "v",
    "Megatron-P8-best": "v",
    "Megatron-P8-placed": "v",
    "Megatron-P8-random": "^",
    "DeepSpeed-PP": "x",
}


def _panels(cases: Sequence[int], height: float = 2.6) -> tuple[Figure, np.ndarray]:
    fig, axes = plots.figure(2, 3, width=9.5, height=2 * height)
    flat = np.ravel(axes)
    for ax in flat[len(cases) :]:
        ax.axis("off")
    for ax, case in zip(flat, cases, strict=False):
        ax.set_title(f"case {case}: {CASES[case]}", fontsize=9)
    return fig, flat


def _settings_axis(ax: Axes, settings: Sequence[str]) -> None:
    ax.set_xticks(range(len(settings)), [s.replace(" ", "\n").replace("B1024", "1k").replace("B2048", "2k").replace("B4096", "4k")
                                         for s in settings], fontsize=6.5)  # fmt: skip


def throughput(published: pd.DataFrame, simulated: pd.DataFrame) -> Figure:
    """Figure 3(c): PFLOPS per setting. Published values hollow, the simulator's solid; other systems grey, published only.

    Args:
        published, simulated: as made by `sheaf.decentralized.tables`.
    """
    cases = sorted({int(c) for c in published["case"]})
    fig, axes = _panels(cases)
    for ax, case in zip(axes, cases, strict=False):
        theirs = published[published["case"] == str(case)].set_index("setting")
        ours = simulated[simulated["case"] == str(case)].set_index("setting").reindex(theirs.index)
        x = np.arange(len(theirs))
        for system, marker in _GREYS.items():
            if system in theirs and theirs[system].notna().any():
                ax.plot(
                    x,
                    theirs[system],
                    marker,
                    color=plots.GREY,
                    ms=4,
                    mfc="none",
                    ls=":",
                    lw=0.8,
                    label=f"{NAMES[system]}, published",
                )
        for k, system in enumerate(("DTFM-scheduled", "DTFM-random")):
            ax.plot(
                x, theirs[system], "os"[k], mfc="none", mec=plots.COLOURS[k], ms=6, label=f"{NAMES[system]}, published"
            )
            ax.plot(
                x, ours[system], "os"[k] + "-", color=plots.COLOURS[k], ms=3, lw=1, label=f"{NAMES[system]}, simulated"
            )
        _settings_axis(ax, list(theirs.index))
        ax.set_ylim(bottom=0)
        ax.set_ylabel("PFLOPS")
    handles = {label: h for ax in axes[: len(cases)] for h, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    axes[-1].legend(handles.values(), handles.keys(), loc="center", fontsize=8)
    return fig


def runtime(frame: pd.DataFrame) -> Figure:
    """Seconds per iteration: published mean with its range over rank maps (hollow), simulated (solid).

    Args:
        frame: as `sheaf.decentralized.tables.seconds` returns it.
    """
    cases = sorted({int(c) for c in frame["case"]})
    fig, axes = _panels(cases)
    for ax, case in zip(axes, cases, strict=False):
        part = frame[frame["case"].astype(int) == case]
        settings = list(dict.fromkeys(part["setting"]))
        for k, (arm, rows) in enumerate(part.groupby("arm", sort=False)):
            at = np.array([settings.index(s) for s in rows["setting"]]) + 0.16 * (k - 0.5)
            bars = np.vstack([rows["measured"] - rows["low"], rows["high"] - rows["measured"]])
            name = NAMES.get(str(arm), str(arm))
            colour = plots.COLOURS[k]
            ax.errorbar(
                at,
                rows["measured"],
                yerr=bars,
                fmt="os"[k % 2],
                mfc="none",
                color=colour,
                capsize=2,
                ms=6,
                label=f"{name}, published",
            )
            ax.plot(at, rows["predicted"], "os"[k % 2], color=colour, ms=3, label=f"{name}, simulated")
        _settings_axis(ax, settings)
        plots.plain_log(ax.yaxis)
        ax.set_ylabel("s per iteration")
    axes[-1].legend(*axes[0].get_legend_handles_labels(), loc="center", fontsize=8)
    return fig


def fluidstack(frame: pd.DataFrame) -> Figure:
    """FluidStack, two regions: seconds per iteration, published hollow and simulated solid, one row per setting.

    Args:
        frame: as `sheaf.decentralized.tables.fluidstack` returns it.
    """
    part = frame[frame["case"] == "fluidstack2"]
    settings = list(dict.fromkeys(part["setting"]))
    fig, ax = plots.figure(width=7, height=0.34 * len(settings) + 1)
    for k, (arm, rows) in enumerate(part[part["arm"] != "Megatron-P8-placed"].groupby("arm", sort=False)):
        y = [len(settings) - 1 - settings.index(s) for s in rows["setting"]]
        colour, marker = plots.COLOURS[k % 6], plots.MARKERS[k % 6]
        ax.plot(rows["published s"], y, marker, mfc="none", mec=colour, ms=7)
        ax.plot(rows["simulated s"], y, marker, color=colour, ms=4, label=str(arm))
    ax.set_yticks(range(len(settings)), settings[::-1])
    plots.plain_log(ax.xaxis)
    ax.set_xlabel("seconds per iteration; hollow: published, solid: simulated")
    ax.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
    return fig


def timeline(runs: Mapping[str, Iteration], *, pipeline: int | None = None, until: float | None = None) -> Figure:
    """One step of the slowest pipeline of each run: a row per stage, forward and backward tasks against seconds.

    Args:
        runs: name -> iteration simulated with ``trace=True``.
        pipeline: which pipeline; None = each run's slowest.
        until: last second shown; None = the longest step.
    """
    fig, axes = plots.figure(len(runs), 1, width=9, height=1.7 * len(runs) + 0.4, sharex=True, squeeze=False)
    for ax, (name, run) in zip(np.ravel(axes), runs.items(), strict=True):
        if run.trace is None:
            raise ValueError(f"{name} was simulated without a trace; call iteration(..., trace=True)")
        slowest = int(run.per_pipeline.sum(axis=1).argmax()) if pipeline is None else pipeline
        rows = run.trace[run.trace["pipeline"] == slowest]
        for kind, colour in (("forward", plots.COLOURS[0]), ("backward", plots.COLOURS[1])):
            part = rows[rows["kind"] == kind]
            ax.barh(
                part["stage"], part["end"] - part["start"], left=part["start"], height=0.8, color=colour, label=kind
            )
        ax.invert_yaxis()
        ax.set_ylabel("stage")
        ax.set_title(
            f"{name}: pipeline {slowest}, one step of 64 micro-batches takes {rows['end'].max():.3g} s", fontsize=9
        )
        ax.grid(axis="y", visible=False)
    axes[-1, 0].set_xlabel("seconds (white: waiting for a link)")
    axes[0, 0].legend(fontsize=8, ncols=2, loc="lower right")
    if until is not None:
        axes[-1, 0].set_xlim(0, until)
    return fig


def convergence(
    runs: Mapping[int, Mapping[str, np.ndarray]], published: Mapping[int, Mapping[str, tuple[np.ndarray, np.ndarray]]]
) -> Figure:
    """Figure 4: best cost so far, a panel per case; published traces grey and dashed.

    Args:
        runs: case -> name -> [seeds, evaluations] best so far.
        published: case -> name -> (trials, cost).
    """
    fig, axes = _panels(list(runs), height=2.3)
    for ax, (case, arms) in zip(axes, runs.items(), strict=False):
        longest = max(np.shape(v)[1] for v in arms.values())
        for at, cost in published.get(case, {}).values():
            ax.plot(at, cost, color=plots.GREY, ls=(0, (4, 2)), lw=1.2)
        plots.curves(ax, np.arange(longest), dict(arms), step=True)
        ax.set_ylim(bottom=0)
        ax.set_xlabel("evaluations")
        ax.set_ylabel("best cost so far, s")
    handles, labels = axes[0].get_legend_handles_labels()
    grey = axes[0].plot([], [], color=plots.GREY, ls=(0, (4, 2)))[0]
    axes[-1].legend([*handles, grey], [*labels, "as stored by the authors"], loc="center", fontsize=9)
    return fig


def levels(frame: pd.DataFrame, value: str = "cost") -> Figure:
    """What each step of the method contributes: one panel per case, a dot per seed and a bar per method.

    Args:
        frame: case, method, seed and the value, in seconds.
    """
    cases = list(dict.fromkeys(frame["case"]))
    fig, axes = plots.figure(1, len(cases), width=10, height=2.6, squeeze=False)
    for ax, case in zip(np.ravel(axes), cases, strict=True):
        part = frame[frame["case"] == case]
        methods = list(dict.fromkeys(part["method"]))
        means = [part.loc[part["method"] == m, value].mean() for m in methods]
        ax.barh(
            range(len(methods)),
            means,
            color=[plots.COLOURS[k % 6] for k in range(len(methods))],
            height=0.6,
            alpha=0.75,
        )
        for k, m in enumerate(methods):
            seeds = part.loc[part["method"] == m, value]
            ax.plot(seeds, np.full(len(seeds), k), "o", color=plots.INK, ms=2.5)
        ax.set_yticks(range(len(methods)), methods if case == cases[0] else [""] * len(methods))
        ax.invert_yaxis()
        ax.set_title(f"case {case}", fontsize=9)
        ax.set_xlabel("s")
        ax.grid(axis="y", visible=False)
    return fig


def live_panels(frame: pd.DataFrame) -> Figure:
    """Seconds per iteration of each placement, a panel per network: measured with its interval, predicted hollow.

    Args:
        frame: as `sheaf.decentralized.live.compare` returns it.
    """
    tables = list(dict.fromkeys(frame["table"]))
    fig, axes = plots.figure(1, len(tables), width=9.5, height=2.4, squeeze=False, sharey=True)
    for ax, table in zip(np.ravel(axes), tables, strict=True):
        rows = frame[frame["table"] == table]
        y = np.arange(len(rows))[::-1]
        bars = np.vstack([rows["seconds"] - rows["low"], rows["high"] - rows["seconds"]])
        ax.errorbar(
            rows["seconds"],
            y,
            xerr=bars,
            fmt="o",
            color=plots.COLOURS[0],
            capsize=3,
            ms=5,
            label="measured, 95% interval",
        )
        ax.plot(rows["predicted"], y, "D", mfc="none", mec=plots.COLOURS[1], label="predicted, links alone")
        ax.set_yticks(y, rows["placement"])
        ax.set_ylim(-0.6, len(rows) - 0.4)
        ax.set_xlim(left=0)
        ax.set_title(table, fontsize=9)
        ax.set_xlabel("s per iteration")
        ax.grid(axis="y", visible=False)
    axes[0, -1].legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
    return fig


def loss(frame: pd.DataFrame) -> Figure:
    """Training loss against iteration; columns iteration and loss, a line per ``run`` when there is one."""
    fig, ax = plots.figure(width=5, height=2.6)
    groups = frame.groupby("run", sort=False) if "run" in frame else [("loss", frame)]
    for k, (name, rows) in enumerate(groups):
        ax.plot(
            rows["iteration"],
            rows["loss"],
            plots.MARKERS[k % 6] + "-",
            color=plots.COLOURS[k % 6],
            ms=4,
            label=str(name),
        )
    ax.set(xlabel="iteration", ylabel="loss, nats per token")
    if "run" in frame:
        ax.legend(fontsize=8)
    return fig


def growth(frame: pd.DataFrame) -> Figure:
    """Seconds of a whole search against the number of devices, log-log; columns devices, seconds, method."""
    fig, ax = plots.figure(width=6, height=3.4)
    for k, (name, rows) in enumerate(frame.groupby("method", sort=False)):
        ax.plot(
            rows["devices"], rows["seconds"], plots.MARKERS[k % 6] + "-", color=plots.COLOURS[k % 6], label=str(name)
        )
    ax.set_xscale("log", base=2)
    plots.plain_log(ax.yaxis, ticks=(1,))
    ax.set_xticks(sorted(frame["devices"].unique()), [str(n) for n in sorted(frame["devices"].unique())])
    ax.set(xlabel="devices", ylabel="seconds of one search")
    ax.legend(fontsize=8)
    return fig
