"""The accuracy experiments: every pattern at equal parameters, each with its own learning rate, on real pictures.

Rates are chosen per arm on validation pictures with seeds of their own; the runs that count use fresh seeds and the test set.
"""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pandas as pd

from sheaf.common.jobs import Job, Worker, grid
from sheaf.common.stats import interval
from sheaf.pixelfly import images
from sheaf.pixelfly.jobs import run_all
from sheaf.pixelfly.miniature import ARMS, train_image_model

__all__ = ["ARMS", "diagnosis", "differences", "image_arms", "summary"]


def image_arms(
    model: str, dataset: str, arms: Iterable[str], rates: Iterable[float], seeds: Iterable[int], *, epochs: int, train: int = 0,
    tuning_seeds: int = 1, processes: int | None = None, counter: Callable[[str, int], Callable[[object], None]] | None = None,
    keep: bool = True, worker: Worker = train_image_model, **fixed: Any,
) -> tuple[pd.DataFrame, pd.DataFrame]:  # fmt: skip
    """Tune a rate per arm, then train with fresh seeds.

    Args:
        model: "mixer-mini" or "vit-mini".
        dataset: of `images.load`.
        arms: names of `ARMS`.
        rates: learning rates tried for every arm, at least three for a fair comparison.
        seeds: of the runs that count; tuning uses seeds 1000, 1001, ...
        epochs: of every run.
        train: training pictures; all of them when 0.
        counter: makes a progress callback from a name and a total, as ``Study.counter`` does.
        worker: what runs a job.
        fixed: density, block, rank_share, width or include for all jobs.

    Returns:
        Runs that count (one row per arm and seed: accuracy in percent, rate, whether the rate is the least or largest of the
        list, so that a longer list might do better), and the tuning runs.
    """
    arms, rates = list(arms), list(rates)
    base = {"model": model, "dataset": dataset, "epochs": epochs, "train": train, **fixed}
    tuning = grid(base | {"on": "validation"}, arm=arms, rate=rates, seed=[1000 + k for k in range(tuning_seeds)])
    digest = images.load(dataset).digest()

    def run(jobs: list[Job], what: str) -> pd.DataFrame:
        tick = counter(what, len(jobs)) if counter else None
        return pd.DataFrame(run_all(worker, jobs, data=digest, processes=processes, progress=tick, keep=keep))

    tried = run(tuning, f"{model}: learning rates")
    best = tried.groupby(["arm", "rate"])["accuracy"].mean().reset_index()
    best = best.loc[best.groupby("arm")["accuracy"].idxmax()].set_index("arm")["rate"]
    finals = [
        job for arm in arms for job in grid(base | {"on": "test", "arm": arm, "rate": float(best[arm])}, seed=seeds)
    ]
    runs = run(finals, f"{model}: training")
    return runs.assign(**{"rate at the edge": runs["rate"].isin([min(rates), max(rates)])}), tried


def summary(runs: pd.DataFrame) -> pd.DataFrame:
    """Mean accuracy per arm with its 95 % interval, density and rate, best first."""
    rows = []
    for arm, part in runs.groupby("arm", sort=False):
        at = interval(part["accuracy"].to_numpy()) if len(part) > 1 else None
        low, high = (at.low, at.high) if at else (np.nan, np.nan)
        rows.append(
            (arm, part["sparse density"].mean(), part["rate"].iloc[0], part["accuracy"].mean(), low, high, len(part))
        )
    columns = ["arm", "density", "rate", "accuracy (%)", "low", "high", "seeds"]
    return pd.DataFrame(rows, columns=columns).sort_values("accuracy (%)", ascending=False, ignore_index=True)


def differences(runs: pd.DataFrame, arm: str, base: str) -> np.ndarray:
    """Accuracy of one arm less that of another, in points, paired by seed."""
    table = runs.pivot_table(index="seed", columns="arm", values="accuracy")
    return (table[arm] - table[base]).to_numpy()


def diagnosis(dataset: str, rates: Iterable[float], seeds: Iterable[int], **options: Any) -> pd.DataFrame:
    """Pixelfly with one thing changed at a time, beside flat and random blocks: which part of it costs accuracy.

    Returns:
        Runs that count, one row per arm and seed.
    """
    arms = ["pixelfly", "pixelfly, published start", "pixelfly, plain sum", "pixelfly, gate per token",
            "pixelfly, a rank share of 1/2", "flat", "random block"]  # fmt: skip
    return image_arms("mixer-mini", dataset, arms, rates, seeds, **options)[0]
