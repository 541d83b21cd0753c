"""Side-by-side timing: arms interleaved in one run, medians and paired ratios with intervals, threads held fixed."""

import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import pandas as pd
from threadpoolctl import threadpool_limits

from sheaf.common.stats import Interval, interval, paired_ratio

__all__ = ["Timing", "load_per_core", "side_by_side"]


@dataclass(frozen=True)
class Timing:
    """Seconds of every arm in every round, [rounds x arms], taken in turn so that drift hits all arms alike."""

    seconds: pd.DataFrame
    threads: int
    load: float  # other work per core when the timing began; above about 0.5 the figures are not to be trusted

    def median(self, arm: str) -> Interval:
        """Median seconds of one arm with its 95% interval."""
        return interval(self.seconds[arm].to_numpy(), "median")

    def ratio(self, slow: str, fast: str) -> Interval:
        """How many times longer ``slow`` takes than ``fast``, paired by round, with its 95% interval."""
        return paired_ratio(self.seconds[slow].to_numpy(), self.seconds[fast].to_numpy())

    def table(self, base: str) -> pd.DataFrame:
        """One row per arm: median seconds and the ratio of ``base`` to it, each with bounds."""
        rows = []
        for arm in self.seconds.columns:
            at = self.median(arm)
            ratio = self.ratio(base, arm)
            rows.append((arm, at.estimate, at.low, at.high, ratio.estimate, ratio.low, ratio.high, at.n))
        columns = ["arm", "median s", "low", "high", f"{base} / arm", "ratio low", "ratio high", "n"]
        return pd.DataFrame(rows, columns=columns)


def load_per_core() -> float:
    """One-minute load average divided by the cores this process may use; 0 where the system does not tell."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return os.getloadavg()[0] / cores if hasattr(os, "getloadavg") else 0.0


def side_by_side(
    arms: dict[str, Callable[[], object]], *, rounds: int = 9, warmup: int = 1, threads: int = 1
) -> Timing:
    """Time several ways of doing the same thing in one run.

    Every round calls each arm once, starting from a different arm each time; the first ``warmup`` rounds are dropped.
    ``threads`` limits BLAS, OpenMP and torch for all arms alike.

    Args:
        arms: name -> function without arguments; it must wait for its own result (synchronise a GPU inside).
        rounds: kept rounds, at least 2.

    Raises:
        ValueError: fewer than two rounds or no arm.
    """
    if rounds < 2 or not arms:
        raise ValueError(f"timing needs at least one arm and two rounds; got {len(arms)} arms and {rounds} rounds")
    names: Sequence[str] = list(arms)
    load = load_per_core()
    kept = []
    torch = sys.modules.get("torch")
    with ExitStack() as stack:
        stack.enter_context(threadpool_limits(threads))
        if torch is not None:
            before = torch.get_num_threads()
            torch.set_num_threads(threads)
            stack.callback(torch.set_num_threads, before)
        for turn in range(warmup + rounds):
            row = {}
            for k in range(len(names)):
                name = names[(turn + k) % len(names)]
                start = time.perf_counter()
                arms[name]()
                row[name] = time.perf_counter() - start
            if turn >= warmup:
                kept.append(row)
    return Timing(pd.DataFrame(kept)[list(names)], threads, load)
