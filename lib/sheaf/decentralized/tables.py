"""Frames for the reader: published and simulated values in the shape of the paper's tables."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from sheaf.common.stats import aggregate, interval
from sheaf.decentralized import published
from sheaf.decentralized.workload import Workload

__all__ = [
    "fluidstack",
    "published_throughput",
    "seconds",
    "simulated_throughput",
    "speedup_summary",
    "speedups_by_case",
]

_ORDER = ("DTFM-scheduled", "DTFM-random", "Megatron-best", "Megatron-P4T2", "Megatron-P8-best", "Megatron-P8",
          "Megatron-P8-placed", "Megatron-P8-random", "DeepSpeed-PP", "DeepSpeed-ZeRO3")  # fmt: skip


def _wide(frame: pd.DataFrame, value: str) -> pd.DataFrame:
    wide = frame.pivot_table(index=["case", "setting"], columns="system", values=value, aggfunc="mean", sort=False)
    return wide[[name for name in _ORDER if name in wide]].rename_axis(columns=None).reset_index()


def published_throughput(settings: Sequence[str]) -> pd.DataFrame:
    """Figure 3(c): PFLOPS as reported, a row per case and setting, a column per system; empty where none was given."""
    frame = published.pflops()
    return _wide(frame[frame["case"].isin(list("12345")) & frame["setting"].isin(list(settings))], "pflops")


def simulated_throughput(evaluated: pd.DataFrame) -> pd.DataFrame:
    """The same from the simulator: mean predicted seconds over rank maps, turned into PFLOPS.

    Args:
        evaluated: as `sheaf.decentralized.evaluate.evaluate` returns it.
    """
    mean = evaluated.groupby(["case", "setting", "arm"], sort=False, as_index=False)["predicted"].mean()
    work = {setting: Workload.setting(setting) for setting in mean["setting"].unique()}
    mean["pflops"] = [work[s].pflops(t) for s, t in zip(mean["setting"], mean["predicted"], strict=True)]
    return _wide(mean.rename(columns={"arm": "system"}).assign(case=mean["case"].astype(str)), "pflops")


def seconds(evaluated: pd.DataFrame, arms: Sequence[str]) -> pd.DataFrame:
    """Seconds per iteration with their spread over runs: case, setting, arm, measured, low, high, predicted, p_low, p_high."""
    rows = evaluated[evaluated["arm"].isin(list(arms))].groupby(["case", "setting", "arm"], sort=False, as_index=False)
    return rows.agg(measured=("measured", "mean"), low=("measured", "min"), high=("measured", "max"),
                    predicted=("predicted", "mean"), p_low=("predicted", "min"), p_high=("predicted", "max"))  # fmt: skip


def speedup_summary(claim: str) -> pd.DataFrame:
    """One row per case and reading of a claim: mean ratio over settings with its interval, and its range.

    The samples are settings, each the mean over seeds.
    """
    per_setting = (
        published.speedups(claim).groupby(["case", "reading", "setting"], sort=False, as_index=False)["ratio"].mean()
    )
    rows = []
    for (case, reading), group in per_setting.groupby(["case", "reading"], sort=False):
        at = interval(group["ratio"].to_numpy())
        rows.append((case, reading, at.n, at.estimate, at.low, at.high, group["ratio"].min(), group["ratio"].max()))
    return pd.DataFrame(rows, columns=["case", "against", "settings", "mean ratio", "low", "high", "min", "max"])


def speedups_by_case(samples: pd.DataFrame) -> pd.DataFrame:
    """Scheduled over random per case: measured by the authors and simulated, means over settings with intervals.

    Args:
        samples: as `sheaf.decentralized.evaluate.speedup_samples` returns it; maps are averaged within a setting first.
    """
    means = samples.groupby(["case", "setting"], sort=False, as_index=False)[["measured", "predicted"]].mean()
    ours = aggregate(means, ["case"], "predicted").rename(columns={"predicted": "simulated", "n": "settings"})
    theirs = means.groupby("case", sort=False)["measured"].mean()
    return ours.assign(published=ours["case"].map(theirs), ratio=lambda f: f["simulated"] / f["published"])


def fluidstack(cells: pd.DataFrame) -> pd.DataFrame:
    """FluidStack, mean seconds per setting and arm: published and simulated, and the error in percent."""
    frame = cells.groupby(["case", "setting", "arm"], sort=False, as_index=False)[["measured", "predicted"]].mean()
    frame = frame.rename(columns={"measured": "published s", "predicted": "simulated s"})
    return frame.assign(**{"error %": 100 * (frame["simulated s"] / frame["published s"] - 1)}).replace(np.inf, np.nan)
