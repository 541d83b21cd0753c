"""Experiments that the paper does not have, as frames: case 2, other methods, uneven devices, leavers, growth, the kernel."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import linear_sum_assignment

from sheaf.common.timing import side_by_side
from sheaf.decentralized import peers, scale
from sheaf.decentralized.cost import CostModel
from sheaf.decentralized.network import Network, load_case, random_cities
from sheaf.decentralized.search import Scheduler, reschedule

__all__ = [
    "above_paper", "case2", "compare_peers", "growth", "kernel_ratio", "leaving", "tiny_peers", "uneven", "uneven_network",
]  # fmt: skip

ARMS: dict[str, dict[str, Any]] = {
    "paper's search": {"method": "paper"},
    "improved, without clusters": {"method": "improved", "first_guesses": False},
    "improved": {"method": "improved"},
}


def case2(seeds: Sequence[int], evaluations: int) -> dict[str, np.ndarray]:
    """Arm -> [seeds, evaluations] best cost so far in case 2, final constants."""
    network = load_case(2)
    return {name: np.stack([s.history_ for s in Scheduler(evaluations=evaluations, **how).fit_seeds(network, seeds)])
            for name, how in ARMS.items()}  # fmt: skip


def above_paper(cases: Iterable[int], seeds: Sequence[int], evaluations: int) -> np.ndarray:
    """[cases x seeds] cost of the improved search above the paper's, seconds, pair by pair."""
    found = []
    for case in cases:
        network = load_case(case)
        ours, theirs = (
            Scheduler(method=m, evaluations=evaluations).fit_seeds(network, seeds) for m in ("improved", "paper")
        )
        found += [a.cost_.total - b.cost_.total for a, b in zip(ours, theirs, strict=True)]
    return np.array(found)


def compare_peers(networks: dict[str, Network], seeds: Sequence[int], evaluations: int) -> pd.DataFrame:
    """Network, arm, mean cost over seeds, its range, evaluations, seconds of one run (one core)."""
    rows = []
    for title, network in networks.items():
        model = CostModel.compat(8, network.size // 8)
        for name, arm in peers.PEERS.items():
            found = [
                arm(network, model, seed, evaluations)
                for seed in (seeds if arm in (peers.metis, peers.annealing) else seeds[:1])
            ]
            rows.append(
                (
                    title,
                    name,
                    [f.cost.total for f in found],
                    found[0].evaluations,
                    float(np.mean([f.seconds for f in found])),
                )
            )
        for name, method in (
            ("paper's search", "paper"),
            ("hybrid", "hybrid"),
            ("fair random", "fair_random"),
            ("improved", "improved"),
        ):
            fitted = [
                Scheduler(8, model.pipelines, method, evaluations, min(100, evaluations), s, model).fit(network)
                for s in seeds
            ]
            rows.append(
                (
                    title,
                    name,
                    [f.cost_.total for f in fitted],
                    evaluations,
                    float(np.mean([f.seconds_ for f in fitted])),
                )
            )
    return pd.DataFrame([
        {"network": t, "arm": n, "cost": np.mean(c), "lowest": min(c), "highest": max(c), "evaluations": e, "seconds": s}
        for t, n, c, e, s in rows
    ])  # fmt: skip


def tiny_peers(shape: tuple[int, int], seed: int, limit: float) -> pd.DataFrame:
    """Exact methods on one small irregular network: cost, whether optimality is proved, seconds."""
    model = CostModel.compat(*shape)
    network = random_cities(model.devices, min(6, model.devices), seed)
    found = [peers.exhaustive(network, model), peers.cp_sat(network, model, seed, limit=limit)]
    return pd.DataFrame(
        [{"arm": f.name, "cost": f.cost.total, "proved": f.optimal, "seconds": f.seconds} for f in found]
    )


def uneven_network(case: int = 5, slow: float = 0.25, seed: int = 0) -> Network:
    """A case in which a share of the devices runs at half speed and has 8 instead of 16 GB."""
    network = load_case(case)
    chosen = np.random.default_rng(seed).random(network.size) < slow
    return replace(network, speed=np.where(chosen, 0.5, 1.0), memory=np.where(chosen, 8.0, 16.0))


def uneven(network: Network, layer_seconds: Sequence[float], *, layers: int = 24, layer_gb: float = 2.0, evaluations: int = 4000,
           seed: int = 0) -> pd.DataFrame:  # fmt: skip
    """Placed for communication alone with equal layers, with fitted layers, and placed for both; seconds.

    Args:
        layer_seconds: compute of one layer per iteration at speed 1; one block of rows each.
    """
    model = CostModel.compat()
    plain = Scheduler(method="improved", evaluations=max(100, evaluations // 4), seed=seed).fit(network)
    stage = plain.placement_.partition
    speed = np.array([network.speed[stage == g].min() for g in range(8)])
    memory = np.array([network.memory[stage == g].min() for g in range(8)])
    fits = bool((layers / 8 * layer_gb <= memory).all())
    given, slowest = scale.even_layers(speed, memory, layers, layer_gb)
    rows = []
    for each in layer_seconds:
        equal = layers / 8 / speed.min() * each if fits else np.inf
        both = scale.fit_uneven(
            network, model, layers=layers, layer_seconds=each, layer_gb=layer_gb, evaluations=evaluations, seed=seed
        )
        for name, comm, compute, of in (
            ("communication alone, equal layers", plain.cost_.total, equal, [layers // 8] * 8),
            ("communication alone, layers to fit", plain.cost_.total, slowest * each, given),
            ("both", both.communication, both.compute, both.layers),
        ):
            total = comm + compute
            rows.append({
                "s per layer": each, "placed for": name, "COMM": comm,
                "compute": compute if np.isfinite(compute) else "does not fit",
                "sum": total if np.isfinite(total) else "does not fit", "layers": " ".join(str(int(k)) for k in of),
            })  # fmt: skip
    return pd.DataFrame(rows)


def leaving(case: int, lost: dict[str, Sequence[int]], evaluations: int, seed: int = 0) -> pd.DataFrame:
    """Devices leave: cost before and after, found again from the current placement and from nothing; devices that move.

    Args:
        lost: description -> devices that left. No spares: survivors of a broken pipeline stand in for others.
    """
    network, model = load_case(case), CostModel.compat()
    first = Scheduler(method="improved", seed=seed).fit(network)
    rows = []
    for what, gone in lost.items():
        warm, smaller, kept = reschedule(
            first.placement_, network, gone, cost=model, evaluations=evaluations, seed=seed
        )
        cold = Scheduler(warm.stages, warm.pipelines, "paper", evaluations, min(100, evaluations), seed, warm.cost).fit(
            smaller
        )
        before = first.placement_.partition[kept]
        rows.append({
            "lost": what, "pipelines left": warm.pipelines, "devices in use": smaller.size, "cost before": first.cost_.total,
            "after, from current": warm.cost_.total, "after, from nothing": cold.cost_.total,
            "devices that change stage": _moved(before, warm.placement_.partition),
            "from nothing": _moved(before, cold.placement_.partition),
        })  # fmt: skip
    return pd.DataFrame(rows)


def _moved(before: np.ndarray, after: np.ndarray) -> int:
    """Devices whose stage changes, stages renamed so that as few as possible do."""
    stages = int(max(before.max(), after.max())) + 1
    same = np.zeros((stages, stages), dtype=int)
    np.add.at(same, (before, after), 1)
    return int(len(before) - same[linear_sum_assignment(-same)].sum())


def growth(sizes: Iterable[int], coarse_sizes: Iterable[int], evaluations: int, seed: int = 0) -> pd.DataFrame:
    """Search seconds against the number of devices in ten cities, whole and coarsened to 128 bundles; 8 stages.

    ``seconds`` holds everything: weights, coarsening, searching, costing the result on the whole network.
    """
    rows = []
    for n in sizes:
        network = random_cities(n, 10, seed)
        start = time.perf_counter()
        fitted = Scheduler(8, n // 8, "improved", evaluations, min(100, evaluations), seed).fit(network)
        spent = time.perf_counter() - start
        rows.append(
            {
                "devices": n,
                "method": "whole",
                "cost": fitted.cost_.total,
                "seconds": spent,
                "evaluations/s": evaluations / spent,
            }
        )
    for n in coarse_sizes:
        network, model = random_cities(n, 10, seed), CostModel.compat(8, n // 8)
        start = time.perf_counter()
        found = scale.coarse_fit(network, model, max(1, n // 128), evaluations=evaluations, seed=seed)
        spent = time.perf_counter() - start
        rows.append(
            {
                "devices": n,
                "method": "coarsened",
                "cost": found.total,
                "seconds": spent,
                "evaluations/s": evaluations / spent,
            }
        )
    return pd.DataFrame(rows)


def kernel_ratio(cases: Iterable[int], evaluations: int, rounds: int = 2) -> pd.DataFrame:
    """Compiled search against its Python reference, one thread each, interleaved: a row per case and round.

    Both run the whole search and must return the same history, which is checked first on a short run.

    Raises:
        RuntimeError: the kernel is not built, or the histories differ.
    """
    rows = []
    for case in cases:
        network = load_case(case)
        short = [Scheduler(evaluations=120, backend=b).fit(network).history_ for b in ("cpu", "reference")]
        if not np.array_equal(short[0], short[1]):
            raise RuntimeError("compiled and reference search differ; run the kernel's tests")
        arms = {b: Scheduler(evaluations=evaluations, backend=b) for b in ("reference", "cpu")}
        timing = side_by_side({b: partial(s.fit, network) for b, s in arms.items()}, rounds=rounds, warmup=0)
        for k, row in enumerate(timing.seconds.to_dict("records")):
            rows.append({
                "case": case, "round": k, "reference s": row["reference"], "compiled s": row["cpu"],
                "ratio": row["reference"] / row["cpu"], "compiled evaluations/s": evaluations / row["cpu"],
            })  # fmt: skip
    return pd.DataFrame(rows)
