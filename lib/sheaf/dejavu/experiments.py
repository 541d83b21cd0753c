"""Which models, predictors and measurements the notebooks ask for: settings in, results by kind of model out."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from sheaf.common.jobs import Job
from sheaf.dejavu import corpus, prediction, quality, sparsity, stream, training

__all__ = ["Counter", "Plans", "depth_series", "existence", "losses", "models", "plans", "predictors", "tasks"]

Counter = Callable[[str, int], Callable[[object], None]]  # makes a progress callback, as ``Study.counter`` does
Plans = dict[str, list[Job]]  # kind of model -> a training job a seed
AHEAD = {"facts, relu": ("same", "half", "full", "double", "embedding")}
FEWER = ("same", "full", "embedding")  # for the other kinds of model


def plans(settings: dict[str, Any], seeds: Sequence[int], *, text: bool) -> Plans:
    """Training jobs by kind: the generated language with ReLU and with GELU, and real text when asked for."""
    kinds = {"facts, relu": ("facts", "relu"), "facts, gelu": ("facts", "gelu")}
    kinds |= {"text, relu": ("text", "relu")} if text else {}
    return {
        name: [training.job_of(settings["model"], data, activation, seed) for seed in seeds]
        for name, (data, activation) in kinds.items()
    }


def models(wanted: Plans, counter: Counter, processes: int | None = None) -> pd.DataFrame:
    """Train what is not there yet; one row per kind with its held-out losses."""
    jobs = [job for kind in wanted.values() for job in kind]
    found = training.train_all(jobs, processes=processes, progress=counter("training", len(jobs)))
    rows, at = [], 0
    for kind, mine in wanted.items():
        runs = found[at : at + len(mine)]
        at += len(mine)
        rows.append({"model": kind, "seeds": len(runs), "loss (nats)": np.mean([r["loss"] for r in runs]),
                     "CPU seconds each": round(np.mean([r["seconds"] for r in runs]))})  # fmt: skip
    return pd.DataFrame(rows)


def _run(worker: Any, jobs: list[Job], settings: dict[str, Any], counter: Counter, what: str) -> list[dict[str, Any]]:
    return prediction.run(worker, jobs, processes=settings.get("processes"), progress=counter(what, len(jobs)))


def _each(worker: Any, wanted: Plans, settings: dict[str, Any], counter: Counter, what: str, **about: Any
          ) -> dict[str, list[dict[str, Any]]]:  # fmt: skip
    jobs = [{"model": job, **about} for kind in wanted.values() for job in kind]
    found = _run(worker, jobs, settings, counter, what)
    rows = iter(found)
    return {kind: [next(rows) for _ in mine] for kind, mine in wanted.items()}


def existence(wanted: Plans, settings: dict[str, Any], counter: Counter) -> dict[str, list[dict[str, Any]]]:
    """`sparsity.existence` of every model: kind -> results by seed."""
    return _each(sparsity.existence, wanted, settings, counter, "oracles", evaluate=settings["evaluate"])


def correlations(wanted: Plans, settings: dict[str, Any], counter: Counter) -> dict[str, list[list[float]]]:
    """Correlation of attention entropy and head output by layer: kind -> by seed."""
    found = _each(stream.correlate, wanted, settings, counter, "entropy", evaluate=min(32, settings["evaluate"]))
    return {kind: [r["correlation"] for r in runs] for kind, runs in found.items()}


def depth_series(settings: dict[str, Any], seeds: Sequence[int], counter: Counter) -> dict[int, list[dict[str, Any]]]:
    """`stream.measures` of models that differ in depth alone: layers -> results by seed."""
    wanted = {
        str(layers): [training.job_of(settings["model"], seed=s, layers=layers) for s in seeds] for layers in settings["depths"]
    }
    models(wanted, counter, settings.get("processes"))
    found = _each(stream.slow_change, wanted, settings, counter, "depths", evaluate=settings["evaluate"])
    return {int(layers): runs for layers, runs in found.items()}


def predictor_jobs(
    wanted: Plans, settings: dict[str, Any], unit: str = "neurons", ahead: Sequence[str] = (), **changes: Any
) -> dict[str, list[dict[str, Job]]]:
    """Predictor jobs: kind -> by seed -> look-ahead -> job; all look-aheads for the ReLU models of facts, three for others."""
    return {
        kind: [
            {a: prediction.job_of(job, unit, a, settings["predictor"], **changes) for a in ahead or AHEAD.get(kind, FEWER)}
            for job in mine
        ]
        for kind, mine in wanted.items()
    }


def predictors(banks: dict[str, list[dict[str, Job]]], settings: dict[str, Any], counter: Counter, what: str = "predictors"
               ) -> pd.DataFrame:  # fmt: skip
    """Train predictors; one row per kind, seed, look-ahead and layer with its qualities."""
    jobs = [job for mine in banks.values() for seeds in mine for job in seeds.values()]
    results = iter(_run(prediction.fit_predictors, jobs, settings, counter, what))
    rows = []
    for kind, mine in banks.items():
        for bank in mine:
            for ahead, job in bank.items():
                about = {"model": kind, "seed": job["model"]["seed"], "ahead": ahead, "rank": job["rank"], "form": job["form"],
                         "choose": job["choose"]}  # fmt: skip
                rows += [about | row for row in next(results)["layers"]]
    return pd.DataFrame(rows)


def losses(banks: dict[str, list[dict[str, Job]]], settings: dict[str, Any], counter: Counter) -> pd.DataFrame:
    """Loss added by every rule and share of neurons kept, the first layer dense: one row per kind, seed, rule and share."""
    jobs = [{"model": next(iter(b.values()))["model"], "banks": b, "shares": list(prediction.SHARES),
             "evaluate": settings["evaluate"], "rivals": True} for mine in banks.values() for b in mine]  # fmt: skip
    found = iter(_run(prediction.losses, jobs, settings, counter, "rules"))
    rows = [
        {"model": kind, "seed": next(iter(b.values()))["model"]["seed"], **row}
        for kind, mine in banks.items() for b in mine for row in next(found)["rows"]
    ]  # fmt: skip
    return pd.DataFrame(rows)


SWEEP = (0.125, 0.25, 0.375, 0.5, 0.625, 0.75)  # total sparsity of the joint curve
ARMS: list[Job] = [
    {"name": "dense"}, {"name": "MLP at 85 %", "neurons": 0.15}, {"name": "attention at 50 %", "heads": 0.5},
    {"name": "whole model at 50 %", "neurons": 0.5, "heads": 0.5},
    {"name": "attention 50 %, MLP 30 %", "neurons": 0.7, "heads": 0.5},
    {"name": "75 %, every layer", "neurons": 0.125, "heads": 0.5, "dense": []},
    {"name": "75 %, every layer, oracle", "neurons": 0.125, "heads": 0.5, "dense": [], "oracle": True},
    {"name": "MLP at 85 %, oracle", "neurons": 0.15, "oracle": True},
    {"name": "attention at 50 %, oracle", "heads": 0.5, "oracle": True},
    {"name": "4 bits", "bits": 4}, {"name": "4 bits, MLP at 85 %", "bits": 4, "neurons": 0.15},
]  # fmt: skip


def joint_arms(model: dict[str, Any], oracle: bool = False) -> list[Job]:
    """Arms of the joint curve, MLP about 7/4 as sparse as attention (75 % in all is 50 % and 87.5 %), counted over all layers.

    The first layer stays dense and counts, so the others have to be sparser. Heads come whole: their number is rounded to the
    nearest, and the MLP, at most 98 % sparse, makes up what is left, so that an arm is at least as sparse as its name says.

    Args:
        model: settings with layers, heads and width.
    """
    arms: list[Job] = []
    layers, heads, ffn = model["layers"], model["heads"], 4 * model["width"]
    for total in SWEEP:
        inside = total * layers / max(1, layers - 1)  # of the layers that are sparse
        cut = round(inside * 2 / 3 * heads)
        while (3 * inside - cut / heads) / 2 > 0.98:
            cut += 1
        neurons = int((1 - (3 * inside - cut / heads) / 2) * ffn + 1e-9)
        if cut < heads and neurons > 0:
            name = f"joint {100 * total:g} %" + (", oracle" if oracle else "")
            arm: Job = {"name": name, "heads": 1 - cut / heads, "neurons": neurons / ffn}
            arms.append(arm | ({"oracle": True} if oracle else {}))
    return arms


def tasks(wanted: Plans, settings: dict[str, Any], counter: Counter, ahead: str = "same") -> dict[str, list[dict[str, Any]]]:
    """`quality.accuracy` of every model under all arms: kind -> by seed -> arm -> scores."""
    banks = {unit: predictor_jobs(wanted, settings, unit, [ahead]) for unit in ("neurons", "heads")}
    for unit, mine in banks.items():
        predictors(mine, settings, counter, f"predictors of {unit}")
    arms = [*ARMS, *joint_arms(settings["model"]), *joint_arms(settings["model"], oracle=True)]
    jobs = [
        {"model": job, "banks": {unit: banks[unit][kind][i][ahead] for unit in banks}, "arms": arms,
         "items": settings["items"], "evaluate": settings["evaluate"]}
        for kind, mine in wanted.items() for i, job in enumerate(mine)
    ]  # fmt: skip
    found = iter(_run(quality.accuracy, jobs, settings, counter, "tasks"))
    return {kind: [next(found)["arms"] for _ in mine] for kind, mine in wanted.items()}


def depth_variants(settings: dict[str, Any], seeds: Sequence[int], counter: Counter) -> list[dict[str, Any]]:
    """`quality.depths` of the deepest model by seed."""
    layers = max(settings["depths"])
    jobs = [training.job_of(settings["model"], seed=s, layers=layers) for s in seeds]
    models({"deep": jobs}, counter, settings.get("processes"))
    about = {"items": settings["items"], "evaluate": settings["evaluate"]}
    return [r["arms"] for r in _each(quality.depths, {"deep": jobs}, settings, counter, "depth", **about)["deep"]]


def has_text() -> bool:
    """Whether real text is there to train on."""
    return corpus.has_text()
