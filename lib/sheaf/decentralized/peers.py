"""Other ways to find a placement, to compare the search with: METIS, annealing, clustering alone, CP-SAT, enumeration."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pymetis
import torch
from ortools.sat.python import cp_model

from sheaf.decentralized.cost import Cost, CostModel, Placement
from sheaf.decentralized.network import Network
from sheaf.decentralized.search import Scheduler, clustered_starts
from sheaf_kernels import placement as kernel

__all__ = ["PEERS", "Found", "annealing", "clustering", "cp_sat", "exhaustive", "metis", "natural_order"]


@dataclass(frozen=True, eq=False)
class Found:
    """What an arm found: its placement's cost, placements costed on the way, seconds, and whether it is proved optimal."""

    name: str
    cost: Cost
    evaluations: int
    seconds: float
    optimal: bool = False


def natural_order(network: Network, model: CostModel, seed: int = 0, evaluations: int = 1) -> Found:
    """Device i gets rank i and links follow the index, as job launchers do when nobody intervenes."""
    start = time.perf_counter()
    model.check(network)
    cost = model.of_placement(network, Placement(np.arange(network.size).reshape(model.pipelines, model.stages)))
    return Found("natural order", cost, 1, time.perf_counter() - start)


def clustering(network: Network, model: CostModel, seed: int = 0, evaluations: int = 1) -> Found:
    """The best of the clusters dealt to stages (`clustered_starts`), no search at all."""
    start = time.perf_counter()
    guesses = clustered_starts(network, model)
    best = guesses[model.totals(network, guesses).argmin()]
    return Found("clusters, no search", model.evaluate(network, best), len(guesses), time.perf_counter() - start)


def metis(network: Network, model: CostModel, seed: int = 0, evaluations: int = 5000) -> Found:
    """METIS cuts the network into pipelines of well-linked devices; the paper's search starts from there.

    METIS does not promise equal parts: devices of over-full parts move to the part with room that they are linked to best.
    """
    start = time.perf_counter()
    pp = model.weights(network)[0].numpy()
    near = np.zeros_like(pp)
    off = ~np.eye(network.size, dtype=bool)
    near[off] = np.maximum(1, np.round(1000 * pp[off].min() / pp[off]))
    part = np.zeros(network.size, dtype=int)
    if model.pipelines > 1:
        others = [np.delete(np.arange(network.size), d) for d in range(network.size)]
        weights = [int(near[d, e]) for d in range(network.size) for e in others[d]]
        starts = np.arange(0, len(weights) + 1, network.size - 1)
        options = pymetis.Options(seed=seed)
        links = pymetis.CSRAdjacency(starts, np.concatenate(others))
        found = pymetis.part_graph(model.pipelines, adjacency=links, eweights=weights, options=options)
        part = np.array(found[1])
    while (counts := np.bincount(part, minlength=model.pipelines)).max() > model.stages:
        full, room = int(counts.argmax()), np.flatnonzero(counts < model.stages)
        inside = np.flatnonzero(part == full)
        gain = (
            np.array([[near[d, part == r].sum() for r in room] for d in inside])
            - near[np.ix_(inside, inside)].sum(1)[:, None]
        )
        d, r = np.unravel_index(gain.argmax(), gain.shape)
        part[inside[d]] = room[r]
    grid = np.stack([np.flatnonzero(part == p) for p in range(model.pipelines)])
    scheduler = Scheduler(model.stages, model.pipelines, "paper", evaluations, min(100, evaluations), seed, model)
    fitted = scheduler.fit(network, [Placement(grid)])
    return Found("METIS, then search", fitted.cost_, evaluations, time.perf_counter() - start)


def annealing(network: Network, model: CostModel, seed: int = 0, evaluations: int = 5000) -> Found:
    """Simulated annealing on the true cost: exchange two devices of different stages, geometric cooling over 2.5 decades."""
    start = time.perf_counter()
    rng = np.random.default_rng(seed)
    now = rng.permutation(np.arange(network.size) % model.stages)
    cost = best = float(model.totals(network, now)[0])
    kept, heat = now.copy(), 0.1 * cost
    pp, dp, _ = model.weights(network)
    row = torch.empty(1, network.size, dtype=torch.int64)
    for _ in range(evaluations - 1 if model.stages > 1 else 0):
        a, b = rng.integers(network.size, size=2)
        heat *= 10 ** (-2.5 / evaluations)
        if now[a] == now[b]:
            b = rng.choice(np.flatnonzero(now != now[a]))
        now[[a, b]] = now[[b, a]]
        row[0] = torch.from_numpy(now)
        after = float(kernel.evaluate(pp, dp, row, model.stages)[0, :2].sum())
        if after <= cost or rng.random() < np.exp((cost - after) / heat):
            cost = after
            if cost < best:
                best, kept = cost, now.copy()
        else:
            now[[a, b]] = now[[b, a]]
    return Found("annealing", model.evaluate(network, kept), evaluations, time.perf_counter() - start)


def exhaustive(network: Network, model: CostModel, seed: int = 0, evaluations: int = 0) -> Found:
    """The optimum, by enumerating partitions with a bound on COMM_DP; up to about 16 devices.

    Raises:
        ValueError: more than 18 devices.
    """
    if network.size > 18:
        raise ValueError(f"{network.size} devices are too many to enumerate; use at most 18")
    start = time.perf_counter()
    pp, dp, _ = model.weights(network)
    partition, _, looked = kernel.exhaustive(pp, dp, model.stages)
    return Found("exhaustive", model.evaluate(network, partition.numpy()), looked, time.perf_counter() - start, True)


def cp_sat(network: Network, model: CostModel, seed: int = 0, evaluations: int = 0, limit: float = 30.0) -> Found:
    """OR-tools' CP-SAT on the whole problem: devices to cells of the grid; tiny instances only.

    Args:
        limit: seconds; an instance not proved in time is returned with ``optimal`` False.

    Raises:
        ValueError: more than 16 devices, or no placement found in the time given.
    """
    model.check(network)
    if network.size > 16:
        raise ValueError(f"{network.size} devices are too many for CP-SAT here; use at most 16")
    start = time.perf_counter()
    pp, dp, _ = (w.numpy() for w in model.weights(network))
    unit = max(pp.max(), dp.max()) / 1e6  # integer weights, six digits
    hop, share = np.round(pp / unit).astype(int), np.round(dp / unit).astype(int)
    program = cp_model.CpModel()
    n, stages, rows = network.size, range(model.stages), range(model.pipelines)
    at = {(d, p, s): program.new_bool_var(f"{d}.{p}.{s}") for d in range(n) for p in rows for s in stages}
    for d in range(n):
        program.add_exactly_one(at[d, p, s] for p in rows for s in stages)
    for p in rows:
        for s in stages:
            program.add_exactly_one(at[d, p, s] for d in range(n))
    in_stage = {(d, s): program.new_bool_var(f"{d}@{s}") for d in range(n) for s in stages}
    for (d, s), used in in_stage.items():
        program.add(sum(at[d, p, s] for p in rows) == used)
    worst = program.new_int_var(0, int(share.sum(axis=1).max()), "dp")
    hops = [program.new_int_var(0, int(hop.max()), f"hop{s}") for s in stages if s + 1 < model.stages]
    for d in range(n):
        for s in stages:
            together = sum(int(share[d, e]) * in_stage[e, s] for e in range(n) if e != d)
            program.add(worst >= together).only_enforce_if(in_stage[d, s])
    for s, limit_of_hop in enumerate(hops):
        for p in rows:
            for d in range(n):
                for e in range(n):
                    if d != e:
                        program.add(limit_of_hop >= int(hop[d, e])).only_enforce_if(at[d, p, s], at[e, p, s + 1])
    program.minimize(worst + 2 * sum(hops))
    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds, solver.parameters.num_workers, solver.parameters.random_seed = limit, 2, seed
    status = solver.solve(program)
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        raise ValueError(f"CP-SAT found no placement in {limit} s; give it more time or fewer devices")
    partition = np.array([next(s for s in stages if solver.value(in_stage[d, s])) for d in range(n)])
    cost = model.evaluate(network, partition)
    return Found("CP-SAT", cost, int(solver.num_branches), time.perf_counter() - start, status == cp_model.OPTIMAL)


PEERS: dict[str, Callable[..., Found]] = {
    "natural order": natural_order, "clusters, no search": clustering, "METIS, then search": metis, "annealing": annealing,
}  # fmt: skip
