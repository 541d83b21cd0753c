"""Pictures and tables of decoding and prefill."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from sheaf.common.plots import COLOURS, MARKERS, direct_labels, figure, plain_log
from sheaf.common.stats import interval
from sheaf.laughing_hyena.speed import ARMS, GQA, HYENA, MHA, OURS

__all__ = [
    "bandwidth_table", "decode_table", "gpu_step_table", "gpu_table", "gpu_throughput", "groups", "latency_table", "memory",
    "order_table", "prefill", "step_table", "throughput", "throughput_by_prompt", "throughput_table",
]  # fmt: skip

# what a reader compares: the better form of each way to decode
GROUPS: dict[str, Sequence[str]] = {
    "Transformer": MHA, "Transformer GQA": GQA, "Hyena, cached": HYENA, "distilled Hyena": [OURS],
    "distilled MultiHyena": ["distilled MultiHyena"],
}  # fmt: skip


def groups(frame: pd.DataFrame, keys: Sequence[str], value: str, larger: bool = False) -> pd.DataFrame:
    """Of every group of arms the one with the better median at each place: columns keys, group, arm, value."""
    rows = []
    medians = frame.groupby([*keys, "arm"])[value].median()
    for place in frame[list(keys)].drop_duplicates().itertuples(index=False):
        for name, arms in GROUPS.items():
            present = [a for a in arms if (*place, a) in medians.index]
            if present:
                chosen = (max if larger else min)(present, key=lambda a: medians[(*place, a)])
                rows.append((*place, name, chosen, medians[(*place, chosen)]))
    return pd.DataFrame(rows, columns=[*keys, "group", "arm", value])


def _with_interval(part: pd.Series, factor: float) -> str:
    found = interval(factor * part.to_numpy(), "median")
    return f"{found.estimate:.3g} [{found.low:.3g}, {found.high:.3g}]"


def decode_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Milliseconds a step, medians with their intervals: one row per batch and arm, one column per position."""
    cells = frame.pivot_table(
        index=["batch", "arm"], columns="position", values="seconds", aggfunc=lambda s: _with_interval(s, 1e3)
    ).fillna("-")
    order = [(b, a) for b in cells.index.unique(0) for a in ARMS if (b, a) in cells.index]
    table = cells.loc[order]
    table.columns = [f"ms at {c}" for c in table.columns]
    return table.reset_index()


def latency_table(frame: pd.DataFrame) -> pd.DataFrame:
    """One row per prompt and arm: ms to the first token, and median and 95th percentile of every further one."""
    parts = frame.groupby(["position", "arm"], sort=False)
    table = pd.DataFrame({
        "ms to the first token": 1e3 * parts["prompt_s"].first(), "ms per token": 1e3 * parts["seconds"].median(),
        "95th percentile": 1e3 * parts["seconds"].quantile(0.95),
    })  # fmt: skip
    return table.reset_index().rename(columns={"position": "prompt"})


def throughput_table(frame: pd.DataFrame) -> pd.DataFrame:
    """One row per batch and arm: median tokens per second of whole requests and of decoding alone, and seconds of each part."""
    parts = frame.groupby(["batch", "arm"], sort=False)
    names = {
        "tokens_s": "tokens/s",
        "decode_tokens_s": "tokens/s, decoding",
        "prefill_s": "prefill s",
        "decode_s": "decode s",
    }
    return parts[list(names)].median().rename(columns=names).reset_index()


def order_table(frame: pd.DataFrame, batch: int) -> pd.DataFrame:
    """One row per order: ms a step and tokens per second."""
    median = frame.groupby("order")["seconds"].median()
    return pd.DataFrame(
        {"order": median.index, "ms per step": 1e3 * median.to_numpy(), "tokens/s": batch / median.to_numpy()}
    )


def step_table(frame: pd.DataFrame) -> pd.DataFrame:
    """One row per batch, order and arm: microseconds of one layer's step, and how many times the kernel's."""
    median = frame.groupby(["batch", "order", "arm"], sort=False)["seconds"].median().reset_index()
    own = median[median["arm"].str.startswith("fused")].set_index(["batch", "order"])["seconds"]
    base = np.array([own[(b, o)] for b, o in zip(median["batch"], median["order"], strict=True)])
    return pd.DataFrame({
        "batch": median["batch"], "order": median["order"], "arm": median["arm"], "us": 1e6 * median["seconds"],
        "times the kernel": median["seconds"] / base,
    })  # fmt: skip


def bandwidth_table(frame: pd.DataFrame, megabytes: float) -> pd.DataFrame:
    """One row per arm: GB/s read and written by passes over a state of that size."""
    median = frame.groupby("arm", sort=False)["gbytes_s"].median()
    return pd.DataFrame({"arm": median.index, "state MB": megabytes, "GB/s": median.to_numpy()})


def _lines(ax: object, frame: pd.DataFrame, x: str, y: str) -> None:
    marks = []
    for i, name in enumerate(GROUPS):
        part = frame[frame["group"] == name].sort_values(x)
        if part.empty:
            continue
        ax.plot(part[x], part[y], marker=MARKERS[i], ms=4, color=COLOURS[i], ls=("-", "--", "-.", "-", ":")[i])  # type: ignore[attr-defined]
        marks.append((float(part[x].iloc[-1]), float(part[y].iloc[-1]), name, COLOURS[i]))
    wide = frame[x].max() > 200 * frame[x].min()
    plain_log(ax.xaxis, (1,) if wide else (1, 2, 5))  # type: ignore[attr-defined]
    plain_log(ax.yaxis)  # type: ignore[attr-defined]
    left, right = ax.get_xlim()  # type: ignore[attr-defined]
    ax.set_xlim(left, right * (right / left) ** 0.45)  # type: ignore[attr-defined]
    direct_labels(ax, marks)  # type: ignore[arg-type]


def throughput(frame: pd.DataFrame) -> Figure:
    """Tokens per second against batch, whole requests and decoding alone; a line ends where its state no longer fits."""
    fig, axes = figure(1, 2, width=9.6, height=3.6)
    for ax, what, title in zip(
        axes, ("tokens_s", "decode_tokens_s"), ("Whole requests", "Decoding alone"), strict=True
    ):
        _lines(ax, groups(frame, ["batch"], what, larger=True), "batch", what)
        ax.set(xlabel="batch", ylabel="tokens per second", title=title)
    return fig


def throughput_by_prompt(frame: pd.DataFrame) -> Figure:
    """Tokens per second against the prompt's length."""
    fig, axes = figure(1, 2, width=9.6, height=3.6)
    for ax, what, title in zip(
        axes, ("tokens_s", "decode_tokens_s"), ("Whole requests", "Decoding alone"), strict=True
    ):
        _lines(ax, groups(frame, ["prompt"], what, larger=True), "prompt", what)
        ax.set(xlabel="prompt, tokens", ylabel="tokens per second", title=title)
    return fig


def memory(frame: pd.DataFrame, batch: int) -> Figure:
    """Bytes of state against generated tokens: the formula as lines, what the tensors hold as marks."""
    fig, ax = figure(width=7.2, height=3.4)
    marks = []
    for i, (name, part) in enumerate(frame.groupby("arm", sort=False)):
        ax.plot(part["generated"], part["formula"] / 1e6, color=COLOURS[i], lw=1.4)
        ax.plot(part["generated"], part["measured"] / 1e6, MARKERS[i], color=COLOURS[i], ms=5)
        marks.append((float(part["generated"].iloc[-1]), float(part["measured"].iloc[-1]) / 1e6, str(name), COLOURS[i]))
    plain_log(ax.xaxis)
    plain_log(ax.yaxis)
    ax.set_xlim(right=frame["generated"].max() * 4)
    ax.set(xlabel="generated tokens", ylabel=f"MB of state, batch {batch}")
    direct_labels(ax, marks)
    return fig


def prefill(frame: pd.DataFrame) -> Figure:
    """Milliseconds of every strategy against the prompt's length."""
    fig, ax = figure(width=7.2, height=3.6)
    table = frame.pivot_table(index="strategy", columns="length", values="seconds", aggfunc="median", sort=False)
    marks = []
    for i, (name, row) in enumerate(table.iterrows()):
        colour, mark = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]
        ax.plot(table.columns, 1e3 * row, color=colour, marker=mark, ms=4, ls=("-", "--")[i // len(COLOURS)])
        marks.append((float(table.columns[-1]), float(1e3 * row.iloc[-1]), str(name), colour))
    plain_log(ax.xaxis)
    plain_log(ax.yaxis)
    ax.set_xlim(right=table.columns.max() * 3)
    ax.set(xlabel="prompt, tokens", ylabel="ms")
    direct_labels(ax, marks)
    return fig


def gpu_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Of `gpu.throughput`, one row per arm and batch: medians."""
    names = {
        "state_gb": "state GB", "prefill_ms": "prefill ms", "step_ms": "step ms", "limit_ms": "limit ms", "tokens_s": "tokens/s",
        "decode_tokens_s": "tokens/s, decoding",
    }  # fmt: skip
    timed = frame.dropna(subset=["tokens_s"])
    table = timed.groupby(["arm", "batch"])[list(names)].median().rename(columns=names).reset_index()
    order = {arm: i for i, arm in enumerate(frame["arm"].unique())}
    return table.sort_values(["arm", "batch"], key=lambda c: c.map(order) if c.name == "arm" else c).reset_index(
        drop=True
    )


def gpu_throughput(frame: pd.DataFrame) -> Figure:
    """Tokens per second against batch, whole requests and decoding alone, the better form of each way."""
    fig, axes = figure(1, 2, width=9.6, height=3.6)
    timed = frame.dropna(subset=["tokens_s"]).replace({"arm": {"Transformer": MHA[0], "Transformer GQA": GQA[0]}})
    for ax, what, title in zip(
        axes, ("tokens_s", "decode_tokens_s"), ("Whole requests", "Decoding alone"), strict=True
    ):
        _lines(ax, groups(timed, ["batch"], what, larger=True), "batch", what)
        ax.set(xlabel="batch", ylabel="tokens per second", title=title)
    return fig


def gpu_step_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Of `gpu.steps`, one row per shape and arm: medians."""
    names = {"ms": "ms", "gbytes_s": "GB/s", "share": "share of a copy"}
    parts = frame.groupby(["channels", "order", "batch", "arm"], sort=False)
    return parts[list(names)].median().rename(columns=names).reset_index()
