"""Searching for a placement: the paper's evolutionary search, its baselines, and an improved search (section 3.4)."""

import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

from sheaf.decentralized.cost import Cost, CostModel, Placement
from sheaf.decentralized.network import Network
from sheaf_kernels import placement as kernel
from sheaf_kernels.build import available

__all__ = ["METHODS", "Scheduler", "clustered_starts", "deal_clusters", "reschedule"]

METHODS = ("paper", "hybrid", "random", "fair_random", "improved")
MAX_STARTS = 16


@dataclass
class Scheduler:
    """Finds which device does what, in the manner of an estimator: set it up, ``fit`` it to a network, read the results.

    Args:
        stages, pipelines: D_PP and D_DP.
        method: "paper" (section 3.4), "hybrid" (the same with the classical gain), "random" (the paper's baseline: no
            matching, no route), "fair_random" (random partitions with both), or "improved" (ours: swaps and shuffles
            beside the crossover, means as tie-breakers where maxima are flat, clusters of fast links as first guesses).
        evaluations: placements costed; the paper's runs used 5000.
        population: random partitions at the start.
        seed: the same seed gives the same history on every machine and backend.
        cost: sizes of the traffic; None = the authors' final constants.
        compat: keep the published code's acceptance rule and off-by-ones, which its stored traces contain.
        backend: "auto" (compiled when built), "cpu", or "reference".
        first_guesses: whether "improved" begins from clusters of fast links.

    After ``fit``:
        placement_, cost_ (with its breakdown), history_ ([evaluations] best so far, seconds), seconds_ (of searching),
        backend_.

    Raises:
        ValueError: an unknown method, or numbers out of range.
    """

    stages: int = 8
    pipelines: int = 8
    method: str = "paper"
    evaluations: int = 5000
    population: int = 100
    seed: int = 0
    cost: CostModel | None = None
    compat: bool = True
    backend: str = "auto"
    first_guesses: bool = True
    placement_: Placement = field(init=False, repr=False)
    cost_: Cost = field(init=False, repr=False)
    history_: np.ndarray = field(init=False, repr=False)
    seconds_: float = field(init=False, repr=False)
    backend_: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"method {self.method!r} is unknown; use one of {', '.join(METHODS)}")
        if self.evaluations < 1 or self.population < 1:
            raise ValueError(
                f"evaluations and population must be at least 1; got {self.evaluations} and {self.population}"
            )
        if self.cost is not None and (self.cost.stages, self.cost.pipelines) != (self.stages, self.pipelines):
            raise ValueError(
                f"the cost model is for {self.cost.stages} x {self.cost.pipelines}, the scheduler for "
                f"{self.stages} x {self.pipelines}; give both the same shape"
            )

    @property
    def model(self) -> CostModel:
        return self.cost or CostModel.compat(self.stages, self.pipelines)

    def fit(self, network: Network, start: Iterable[Placement] = ()) -> "Scheduler":
        """Search for a placement of the job on the network.

        Args:
            network: as many devices as stages x pipelines.
            start: placements to begin from; they take the place of as many random ones. Not for the random methods.

        Raises:
            ValueError: the network's size does not fit, or starts are given to a random method.
        """
        return self.fit_seeds(network, [self.seed], start)[0]._into(self)

    def fit_seeds(self, network: Network, seeds: Iterable[int], start: Iterable[Placement] = ()) -> list["Scheduler"]:
        """One fitted scheduler per seed, searched side by side on torch's threads; ``seconds_`` is the mean of one."""
        model, wanted = self.model, [int(s) for s in seeds]
        pp, dp, cut = model.weights(network)
        first = [p.partition for p in start]
        if first and self.method in ("random", "fair_random"):
            raise ValueError(
                f"method {self.method!r} draws at random and takes no start; use 'paper', 'hybrid' or 'improved'"
            )
        begun = time.perf_counter()
        if self.method == "random":
            slots, history = kernel.random_search(pp, dp, wanted, self.stages, self.evaluations, self.backend)
            grids = [s.reshape(self.stages, self.pipelines).T for s in slots.numpy()]
            costs = [model.of_placement(network, Placement(grid)) for grid in grids]
        else:
            if self.method == "improved" and self.first_guesses:
                first += list(clustered_starts(network, model))
            first = first[: self.population]
            starts = torch.as_tensor(np.array(first)) if first else None
            found, history = kernel.search(
                pp,
                dp,
                cut,
                wanted,
                self.stages,
                self.evaluations,
                self.population,
                self.method,
                self.compat,
                starts,
                self.backend,
            )
            costs = [model.evaluate(network, partition) for partition in found.numpy()]
        each = (time.perf_counter() - begun) / max(1, len(wanted))
        return [self._fitted(s, c, h, each) for s, c, h in zip(wanted, costs, history.numpy(), strict=True)]

    def _fitted(self, seed: int, cost: Cost, history: np.ndarray, seconds: float) -> "Scheduler":
        found = replace(self, seed=seed)
        found.placement_, found.cost_, found.history_, found.seconds_ = cost.placement, cost, history, seconds
        found.backend_ = "reference" if self.backend == "reference" or not available("placement") else "cpu"
        return found

    def _into(self, other: "Scheduler") -> "Scheduler":
        for name in ("placement_", "cost_", "history_", "seconds_", "backend_"):
            setattr(other, name, getattr(self, name))
        return other


def clustered_starts(network: Network, model: CostModel) -> np.ndarray:
    """[K, N] first guesses: devices joined by fast links are dealt to different stages of one pipeline.

    Single-linkage clusters of the hop weights, cut at every height (at most a few, evenly picked); clusters, largest first,
    go to the emptiest pipeline ("spread", which aligns equal clusters in the same stages) or to the first with room
    ("pack"). Ours, not the paper's; nothing in it knows any of the five cases.
    """
    return deal_clusters(model.weights(network)[0].numpy(), model)


def deal_clusters(pp: np.ndarray, model: CostModel) -> np.ndarray:
    """`clustered_starts` on given hop weights [N, N]."""
    tree = linkage(squareform(pp, checks=False), "single") if len(pp) > 1 else np.empty((0, 4))
    heights = np.unique(tree[:, 2]) if len(tree) else np.zeros(1)
    picked = heights[np.unique(np.linspace(0, len(heights) - 1, MAX_STARTS // 2).round().astype(int))]
    found = []
    for height in picked:
        labels = fcluster(tree, height * (1 + 1e-9), "distance") if len(tree) else np.ones(1, dtype=int)
        clusters = sorted((np.flatnonzero(labels == k) for k in np.unique(labels)), key=lambda c: (-len(c), c[0]))
        found += [_deal(clusters, model, spread) for spread in (True, False)]
    return np.unique(np.array(found), axis=0)


def _deal(clusters: list[np.ndarray], model: CostModel, spread: bool) -> np.ndarray:
    """[N] stages, filling pipelines cluster by cluster; what does not fit into one pipeline goes on in the next."""
    filled = np.zeros(model.pipelines, dtype=int)
    stage = np.empty(model.devices, dtype=np.int64)
    for cluster in clusters:
        left = list(cluster)
        while left:
            room = model.stages - filled
            fits = np.flatnonzero(room >= min(len(left), model.stages))
            choice = fits if len(fits) else np.flatnonzero(room > 0)
            row = int(choice[np.argmax(room[choice])]) if spread or not len(fits) else int(choice[0])
            for device in left[: room[row]]:
                stage[device] = filled[row]
                filled[row] += 1
            left = left[room[row] :]
    return stage


def reschedule(
    placement: Placement,
    network: Network,
    lost: Iterable[int],
    spares: int = 0,
    *,
    cost: CostModel,
    evaluations: int = 500,
    seed: int = 0,
) -> tuple[Scheduler, Network, np.ndarray]:
    """Schedule again from the current placement after devices have left.

    The network's last ``spares`` devices were idle so far and take the places of lost ones. If too few are left, whole
    pipelines are given up until the rest fits, those that lost most devices first. The search starts from the repaired
    placement, so what still works is moved only where that pays.

    Args:
        placement: current grid over the devices that are not spares.
        network: all devices, spares last.
        lost: devices that left.
        cost: sizes of the traffic for the current shape.

    Returns:
        the fitted scheduler (its devices are numbered as in the smaller network), the network of the devices in use, and
        [stages x pipelines left] their former numbers.

    Raises:
        ValueError: a lost device that does not exist, or no pipeline left.
    """
    gone = sorted({int(d) for d in lost})
    if gone and (gone[0] < 0 or gone[-1] >= network.size):
        raise ValueError(
            f"lost device {gone[-1] if gone[-1] >= network.size else gone[0]} does not exist; devices are 0 to {network.size - 1}"
        )
    used = network.size - spares
    idle = [d for d in range(used, network.size) if d not in gone]
    rows = [list(row) for row in placement.grid]
    rows.sort(key=lambda row: sum(d in gone for d in row))  # stable: untouched pipelines first
    while rows:
        holes = [(r, s) for r, row in enumerate(rows) for s, d in enumerate(row) if d in gone]
        if len(holes) <= len(idle):
            break
        idle += [d for d in rows.pop() if d not in gone]  # a pipeline is given up; its survivors become spares
    if not rows:
        raise ValueError(f"{len(gone)} devices left and no whole pipeline remains; add devices or use fewer stages")
    for (r, s), device in zip(holes, idle, strict=False):
        rows[r][s] = device
    grid = np.array(rows)
    kept = np.sort(grid.ravel())
    smaller = network.select(kept)
    begin = Placement(np.searchsorted(kept, grid))
    model = CostModel(cost.stages, len(rows), cost.c_pp * cost.pipelines / len(rows), cost.c_dp)
    scheduler = Scheduler(model.stages, model.pipelines, "improved", evaluations, min(100, evaluations), seed, model)
    return scheduler.fit(smaller, [begin]), smaller, kept
