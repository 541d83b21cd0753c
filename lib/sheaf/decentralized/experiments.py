"""The paper's search experiments as frames: convergence, what each part contributes, distance to the optimum."""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from sheaf.common.stats import interval
from sheaf.decentralized import peers, published
from sheaf.decentralized.cost import CostModel
from sheaf.decentralized.network import load_case, random_cities
from sheaf.decentralized.search import Scheduler

__all__ = ["convergence", "end_spread", "end_values", "gap_summary", "levels", "optimality_gaps", "stored_traces"]

METHOD_OF = {"our": "paper", "hybrid": "hybrid", "random": "random"}  # names in the stored traces -> ours


def convergence(case: int, methods: Sequence[str], seeds: Sequence[int], evaluations: int) -> dict[str, np.ndarray]:
    """Method -> [seeds, evaluations] best cost so far with the May 2022 constants, as in figure 4."""
    network, cost = load_case(case), CostModel.may2022(case)
    return {m: np.stack([s.history_ for s in Scheduler(method=m, evaluations=evaluations, cost=cost).fit_seeds(network, seeds)])
            for m in methods}  # fmt: skip


def stored_traces(case: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Method -> (trials, mean best cost over the authors' three repetitions)."""
    frame = published.convergence()
    frame = frame[frame["case"] == case]
    mean = frame.groupby(["scheduler", "trial"], sort=True, as_index=False)["best_cost"].mean()
    return {METHOD_OF[str(name)]: (rows["trial"].to_numpy(), rows["best_cost"].to_numpy())
            for name, rows in mean.groupby("scheduler", sort=False)}  # fmt: skip


def end_values(runs: dict[int, dict[str, np.ndarray]], seeds: Sequence[int]) -> pd.DataFrame:
    """Case, method, seed, cost at the end, and the stored values of the same case and method.

    ``off`` is the distance to the nearest stored value; for the paper's search case 2 has two of them.
    """
    ends = published.convergence_ends()
    rows = []
    for case, arms in runs.items():
        for method, history in arms.items():
            stored = ends[(ends["case"] == case) & (ends["scheduler"].map(METHOD_OF) == method)]["cost"].to_numpy()
            for seed, cost in zip(seeds, history[:, -1], strict=True):
                off = float(np.abs(stored - cost).min()) if stored.size else np.nan
                rows.append({"case": case, "method": method, "seed": seed, "cost": float(cost), "off": off})
    return pd.DataFrame(rows)


def end_spread(cases: Iterable[int], methods: Sequence[str], seeds: Sequence[int], evaluations: int) -> pd.DataFrame:
    """Where many runs end, May 2022 constants: case, method, end (rounded to 1e-3 s), runs out of how many."""
    rows = []
    for case in cases:
        for method, history in convergence(case, methods, seeds, evaluations).items():
            ends, counts = np.unique(history[:, -1].round(3), return_counts=True)
            rows += [{"case": case, "method": method, "end": float(e), "runs": f"{n} of {len(seeds)}"}
                     for e, n in zip(ends, counts, strict=True)]  # fmt: skip
    return pd.DataFrame(rows)


def levels(cases: Iterable[int], seeds: Sequence[int], evaluations: int) -> pd.DataFrame:
    """Case, method, seed, cost with the final constants: from one random placement to the search, one part at a time."""
    rows = []
    for case in cases:
        network, model = load_case(case), CostModel.compat()
        for name, method, budget in (
            ("random, one draw", "random", 1), ("random, best", "random", evaluations),
            ("+ matching and route, one draw", "fair_random", 1), ("+ matching and route, best", "fair_random", evaluations),
            ("search, classical gain", "hybrid", evaluations), ("search, paper's gain", "paper", evaluations),
        ):  # fmt: skip
            for fitted in Scheduler(method=method, evaluations=budget).fit_seeds(network, seeds):
                rows.append({"case": case, "method": name, "seed": fitted.seed, "cost": float(fitted.history_[-1])})
        rows.append(
            {
                "case": case,
                "method": "clusters, no search",
                "seed": seeds[0],
                "cost": peers.clustering(network, model).cost.total,
            }
        )
    return pd.DataFrame(rows)


def optimality_gaps(
    shapes: Iterable[Sequence[int]], instances: int, evaluations: int, seed: int, search_seeds: Sequence[int]
) -> pd.DataFrame:
    """Cost over the true optimum on random networks of up to six cities, a row per instance, method and search seed.

    Args:
        shapes: (stages, pipelines), at most 18 devices.
        instances: networks per shape, seeded ``seed`` and on.
    """
    rows = []
    for stages, pipelines in shapes:
        model = CostModel.compat(stages, pipelines)
        for k in range(instances):
            network = random_cities(model.devices, min(6, model.devices), seed + k)
            best = peers.exhaustive(network, model).cost.total
            for method in ("paper", "hybrid", "fair_random", "random", "improved"):
                population = min(100, evaluations)
                scheduler = Scheduler(stages, pipelines, method, evaluations, population, 0, model)
                for fitted in scheduler.fit_seeds(network, search_seeds):
                    ratio = float(fitted.history_[-1]) / best
                    rows.append(
                        {
                            "shape": f"{stages} x {pipelines}",
                            "instance": k,
                            "method": method,
                            "seed": fitted.seed,
                            "ratio": ratio,
                        }
                    )
    return pd.DataFrame(rows)


def gap_summary(gaps: pd.DataFrame) -> pd.DataFrame:
    """Per shape and method: mean ratio to the optimum with its interval over instances, the largest, and the share of hits."""
    rows = []
    for (shape, method), part in gaps.groupby(["shape", "method"], sort=False):
        per = part.groupby("instance")["ratio"].mean().to_numpy()
        at = interval(per) if len(per) > 1 else None
        rows.append({
            "shape": shape, "method": method, "instances": len(per), "mean ratio": float(per.mean()),
            "low": at.low if at else np.nan, "high": at.high if at else np.nan, "largest": float(part["ratio"].max()),
            "optimum hit": f"{(part['ratio'] < 1 + 1e-9).sum()} of {len(part)}",
        })  # fmt: skip
    return pd.DataFrame(rows)
