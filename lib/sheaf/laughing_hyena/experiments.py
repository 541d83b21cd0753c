"""The trainings behind the notebooks: which miniatures are trained, kept once for all tables, and read back as models."""

from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd
from torch import Tensor

from sheaf.common import text
from sheaf.common.jobs import Job, grid, run_all, tensors_of
from sheaf.laughing_hyena import models, tasks
from sheaf.laughing_hyena.models import LM
from sheaf.laughing_hyena.training import BASE, config_of, train

__all__ = ["EQUAL_CPU", "curves", "filters_at", "final", "main_jobs", "model_of", "run", "scaling_jobs", "sweep_jobs"]

EQUAL_CPU = 0.8  # MultiHyena's steps in the arm of equal compute, as a share of Hyena's; its CPU seconds are in the table
Result = dict[str, Any]
Tick = Callable[[object], None] | None


def main_jobs(task: str, kinds: Sequence[str], settings: dict[str, Any], seeds: Sequence[int]) -> list[Job]:
    """The models that go through every quality table: ``kinds`` on "recall" or "text", one per seed.

    The kind "multihyena, equal compute" is a MultiHyena whose whole schedule has only `EQUAL_CPU` of the steps.
    """
    jobs = []
    for kind in kinds:
        share = EQUAL_CPU if "equal" in kind else 1.0
        base = {"task": task, "kind": kind.split(",")[0], "steps": round(share * settings["steps"])}
        jobs += grid(base | settings.get("model", {}), seed=seeds)
    return jobs


def sweep_jobs(settings: dict[str, Any], seeds: Sequence[int]) -> list[Job]:
    """Hyena on recall for every sine frequency of its filters; the frequency of the main models is theirs."""
    jobs = []
    for frequency in settings["frequencies"]:
        given = {} if frequency == BASE["frequency"] else {"frequency": frequency}
        jobs += [job | given for job in main_jobs("recall", ["hyena"], settings, seeds)]
    return jobs


def scaling_jobs(settings: dict[str, Any], seeds: Sequence[int]) -> list[Job]:
    """Recall over vocabulary, width and heads, for the trend of theorem 4.1: Hyena, and MultiHyena by number of heads."""
    own = {"task": "recall", "steps": settings["grid_steps"], "length": settings["grid_length"], "points": 2}
    base = settings.get("model", {}) | own
    hyena = grid(base | {"kind": "hyena"}, symbols=settings["symbols"], width=settings["widths"], seed=seeds)
    multi = grid(
        base | {"kind": "multihyena"}, symbols=settings["symbols"], width=settings["widths"], heads=settings["heads"], seed=seeds
    )
    return hyena + multi


def run(jobs: Sequence[Job], tick: Tick = None, processes: int | None = None) -> list[Result]:
    """Train what is not yet kept; results in the order of the jobs."""
    found: dict[int, Result] = {}
    for task in ("recall", "text"):
        mine = [i for i, job in enumerate(jobs) if job["task"] == task]
        named = tasks.corpus().origin if task == "text" and mine else ""
        results = run_all(
            train, [jobs[i] for i in mine], paper="laughing_hyena", sources=[models, tasks, text], data=named,
            processes=processes, progress=tick,
        )  # fmt: skip
        found |= dict(zip(mine, results, strict=True))
    return [found[i] for i in range(len(jobs))]


def model_of(result: Result) -> LM:
    """The trained model of a result."""
    model = LM(config_of(result), result.get("seed", 0))
    prefix = "model/"
    model.load_state_dict({n.removeprefix(prefix): t for n, t in tensors_of(result).items() if n.startswith(prefix)})
    return model.eval()


def filters_at(result: Result) -> dict[tuple[int, int], Tensor]:
    """(step, layer) -> the long filters [C, L] at that moment of the training."""
    found = {}
    for name, tensor in tensors_of(result).items():
        if name.startswith("at/"):
            _, step, layer = name.split("/")
            found[int(step), int(layer)] = tensor
    return dict(sorted(found.items()))


def final(results: Sequence[Result], names: Sequence[str]) -> pd.DataFrame:
    """One row per training: the named values of its job, its test scores, steps, CPU seconds and parameters."""
    rows = []
    for r in results:
        full = BASE | r
        row = {n: full[n] for n in names} | {"steps": full["steps"], "cpu": r["cpu"], "parameters": r["parameters"]}
        rows.append(row | r["test"])
    return pd.DataFrame(rows)


def curves(results: Sequence[Result], names: Sequence[str]) -> pd.DataFrame:
    """One row per point of every learning curve: the named values, step, CPU seconds and scores on few sequences."""
    return pd.DataFrame([{n: (BASE | r)[n] for n in names} | point for r in results for point in r["curve"]])
