"""The scheduler: an estimator around the placement search, rescheduling after devices leave, unequal devices."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

from sheaf.decentralized.cost import Cost, CostModel, Placement, grid_cost
from sheaf.decentralized.network import Network
from sheaf_kernels import placement as kernel

__all__ = ["METHODS", "DeviceLoad", "Rescheduled", "Scheduler", "constructive_starts", "reschedule"]

METHODS = ("paper", "hybrid", "random", "fair_random", "improved")
CLUSTER_LEVELS = 6  # link speeds at which constructive starts are cut


@dataclass(frozen=True)
class DeviceLoad:
    """What a stage asks of its devices, for networks of unequal ones. Ours, not the paper's.

    Attributes:
        work: seconds a device of speed 1 computes per iteration when every pipeline takes the same share of the batch.
        stage_memory: GB each stage needs on its devices, one number per stage in pipeline order or one for all.

    The batch is handed out in proportion to what pipelines can do, and a pipeline is as fast as its slowest device, so
        COMPUTE = work * pipelines / sum over pipelines of (least speed in the pipeline),
    which equals `work` when all speeds are 1. The objective is COMM + COMPUTE; a device too small for its stage is not
    allowed.
    """

    work: float = 0.0
    stage_memory: float | tuple[float, ...] = 0.0

    def compute(self, grid: np.ndarray, speed: np.ndarray) -> float:
        """COMPUTE in seconds of a grid [pipelines, stages]."""
        return self.work * len(grid) / float(speed[grid].min(axis=1).sum())

    def shortage(self, grid: np.ndarray, memory: np.ndarray) -> float:
        """GB missing, summed over devices; 0 when the placement fits."""
        return float(np.maximum(self.needs(grid.shape[1]) - memory[grid], 0).sum())

    def needs(self, stages: int) -> np.ndarray:
        """[stages] GB per stage; raises ValueError when their number is wrong."""
        needs = np.atleast_1d(np.asarray(self.stage_memory, dtype=np.float64))
        if needs.size not in (1, stages) or (needs < 0).any():
            raise ValueError(f"stage_memory needs one number of GB, or {stages}, each at least 0; got {self.stage_memory}")
        return np.broadcast_to(needs, stages)

    def check(self, network: Network, pipelines: int, stages: int) -> None:
        """Raises ValueError when no placement can fit into the devices' memory."""
        needs = np.sort(np.repeat(self.needs(stages), pipelines))[::-1]
        have = np.sort(network.memory)[::-1][: len(needs)]
        if (short := np.flatnonzero(have < needs)).size:
            need = needs[short[0]]
            raise ValueError(
                f"{int((needs >= need).sum())} devices with at least {need:g} GB are needed, the network has "
                f"{int((network.memory >= need).sum())}; use more stages, smaller micro-batches or larger devices"
            )


@dataclass(kw_only=True)
class Scheduler:
    """Searches a placement of `stages` x `pipelines` tasks on a network of as many devices.

    Attributes:
        stages, pipelines: D_PP and D_DP.
        method: "paper" (section 3.4), "hybrid" (the classical gain), "random" (no matching, no route), "fair_random" (random
            partitions with optimal matching and route) or "improved" (ours, below).
        evaluations: partitions evaluated, `population` of them at the start.
        seed: of the search's own generator; the same seed gives the same history on every machine and backend.
        cost: the cost model; None takes the published constants when `compat`, else the corrected ones.
        compat: keep the published search's acceptance bug and off-by-ones. Ignored by "improved".
        backend: "auto" (compiled when built), "cpu" or "reference".
        load: what stages ask of unequal devices; "improved" only.

    "improved" starts from partitions built out of clusters of fast links, keeps the ten best of the first population, mixes
    the paper's cyclic moves with swaps and with re-dealing two or three groups, and breaks ties of the cost (whose maxima
    are flat: in case 2 nearly all partitions cost the same) by the same cost with means in the place of maxima.

    After `fit`: placement_, cost_ (Cost; None for "random", whose placement is fixed), comm_ (seconds), history_
    (best so far, per evaluation), evaluations_, seconds_, backend_.
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
    load: DeviceLoad | None = None
    placement_: Placement = field(init=False, repr=False)
    cost_: Cost | None = field(init=False, repr=False)
    comm_: float = field(init=False, repr=False)
    history_: np.ndarray = field(init=False, repr=False)
    evaluations_: int = field(init=False, repr=False)
    seconds_: float = field(init=False, repr=False)
    backend_: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"method {self.method!r} is unknown; use one of {', '.join(METHODS)}")
        if self.cost is not None and (self.cost.stages, self.cost.pipelines) != (self.stages, self.pipelines):
            raise ValueError(
                f"the cost model is for {self.cost.stages} stages x {self.cost.pipelines} pipelines, the scheduler for "
                f"{self.stages} x {self.pipelines}; give both the same job"
            )
        if self.load is not None and self.method != "improved":
            raise ValueError(f"method {self.method!r} takes all devices as equal; use method='improved' with a load")

    def get_params(self) -> dict[str, object]:
        """The settings, by name."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.init}

    @property
    def model(self) -> CostModel:
        """The cost model in use."""
        return self.cost or (CostModel.compat if self.compat else CostModel.corrected)(self.stages, self.pipelines)

    def fit(self, network: Network, start: Placement | ArrayLike | None = None) -> "Scheduler":
        """Search; `start` is a placement or partitions [K, N] that join the first population.

        Raises:
            ValueError: the network has another number of devices than the job, memory cannot suffice, or start is no
                balanced partition of this network.
        """
        began = time.perf_counter()
        if self.load is not None:
            self.load.check(network, self.pipelines, self.stages)
        best, history = self._search(network, [self.seed], start)
        self.history_ = history[0]
        if self.method == "random":
            self.placement_ = Placement(best[0].reshape(self.stages, self.pipelines).T)
            self.cost_, self.comm_ = None, sum(self.model.cost_of_placement(self.placement_, network))
        else:
            self.cost_ = self.model.evaluate(best[0], network)
            self.placement_, self.comm_ = self.cost_.placement, self.cost_.total
        if self.load is not None:
            self.placement_ = _fit_devices(self.placement_, network, self.model, self.load)
            self.comm_ = sum(self.model.cost_of_placement(self.placement_, network))
        self.evaluations_, self.seconds_ = len(self.history_), time.perf_counter() - began
        self.backend_ = "cpu" if self.backend != "reference" and kernel.compiled() else "reference"
        return self

    def histories(self, network: Network, seeds: Iterable[int]) -> np.ndarray:
        """[S, evaluations] best cost so far for each of the seeds, searched side by side on torch's threads."""
        return self._search(network, list(seeds), None)[1]

    def _search(
        self, network: Network, seeds: list[int], start: Placement | ArrayLike | None
    ) -> tuple[np.ndarray, np.ndarray]:
        pp, dp, cut = self.model.tensors(network)
        if self.method == "random":
            best, history = kernel.random_search(pp, dp, seeds, self.stages, self.evaluations, self.backend)
            return best.numpy(), history.numpy()
        starts = _partitions(start, network.size)
        if self.method == "improved":
            built = constructive_starts(pp.numpy(), self.stages, self.pipelines)
            starts = np.concatenate([starts, built])[: min(self.population, self.evaluations)]
        best, history = kernel.search(
            pp, dp, cut, seeds, self.stages, self.evaluations, self.population, self.method, self.compat,
            torch.from_numpy(starts), self.backend,
        )
        return best.numpy(), history.numpy()


def _partitions(start: Placement | ArrayLike | None, n: int) -> np.ndarray:
    if start is None:
        return np.empty((0, n), dtype=np.int64)
    rows = start.partition if isinstance(start, Placement) else start
    return np.atleast_2d(np.asarray(rows, dtype=np.int64))


def constructive_starts(pp: np.ndarray, stages: int, pipelines: int) -> np.ndarray:
    """Balanced partitions [K, N] built from clusters of fast links; they do not depend on how devices are numbered.

    Devices are clustered (complete linkage on the pipeline weights) at several link speeds. For every level one partition
    spreads the clusters over pipelines, each cluster on consecutive stages of one pipeline at the same place in all of
    them; and one puts clusters together inside stages, for jobs whose gradients outweigh their activations.
    """
    n = len(pp)
    if n < 3 or stages == 1 or pipelines == 1:
        return np.arange(n, dtype=np.int64)[None] // pipelines
    tree = linkage(squareform(pp, checks=False), "complete")
    heights = np.unique(tree[:, 2])
    levels = heights[np.unique(np.linspace(0, len(heights) - 1, min(CLUSTER_LEVELS, len(heights))).astype(int))]
    found = []
    for level in levels:
        labels = fcluster(tree, level, "distance")
        clusters = sorted((np.flatnonzero(labels == c).tolist() for c in np.unique(labels)), key=lambda c: (-len(c), c))
        grid = np.array(_spread(clusters, pipelines, stages))
        compact = np.array(_spread(clusters, stages, pipelines)).T
        for columns in (grid, compact):
            partition = np.empty(n, dtype=np.int64)
            partition[columns] = np.arange(stages)[None, :]
            found.append(partition)
    return np.unique(np.stack(found), axis=0)


def _spread(clusters: Sequence[Sequence[int]], bins: int, room: int) -> list[list[int]]:
    """Deal clusters, largest first, into bins of `room`; a piece goes to the emptiest bin, cut to what fits there."""
    filled: list[list[int]] = [[] for _ in range(bins)]
    for cluster in clusters:
        left = list(cluster)
        while left:
            emptiest = min(filled, key=len)
            take = min(len(left), room - len(emptiest))
            emptiest += left[:take]
            left = left[take:]
    return filled


def _fit_devices(placement: Placement, network: Network, model: CostModel, load: DeviceLoad) -> Placement:
    """Swap pairs of devices while that lowers (memory shortage, COMM + COMPUTE); the route is also tried reversed."""
    pp, dp = model.pp_weights(network), model.dp_weights(network)

    def objective(grid: np.ndarray) -> tuple[float, float]:
        return load.shortage(grid, network.memory), sum(grid_cost(grid, pp, dp)) + load.compute(grid, network.speed)

    def descend(grid: np.ndarray) -> tuple[tuple[float, float], np.ndarray]:
        flat, now = grid.copy().ravel(), objective(grid)
        better = True
        while better:
            better = False
            for i in range(flat.size):
                for j in range(i):
                    flat[i], flat[j] = flat[j], flat[i]
                    if (after := objective(flat.reshape(grid.shape))) < now:
                        now, better = after, True
                    else:
                        flat[i], flat[j] = flat[j], flat[i]
        return now, flat.reshape(grid.shape)

    starts = [placement.grid, placement.grid[:, ::-1].copy()]
    if np.ptp(network.speed) > 0:  # slow devices together from the outset
        by_speed = np.argsort(network.speed[placement.grid], axis=0, kind="stable")
        starts.append(np.take_along_axis(placement.grid, by_speed, axis=0))
    return Placement(min((descend(grid) for grid in starts), key=lambda found: found[0])[1])


@dataclass(frozen=True, eq=False)
class Rescheduled:
    """A placement after devices left.

    Attributes:
        placement: device numbers are those of the old network; pipelines may be fewer.
        comm: its COMM in seconds under the same volumes.
        before_search: COMM of the repaired placement the search started from.
        moved: devices that now hold another stage than before and have to fetch its weights.
        idle: devices that are left over.
    """

    placement: Placement
    comm: float
    before_search: float
    moved: tuple[int, ...]
    idle: tuple[int, ...]


def reschedule(
    network: Network, placement: Placement, lost: Iterable[int], scheduler: Scheduler | None = None
) -> Rescheduled:
    """Go on after the devices `lost` left, starting from the current placement.

    Devices of the network that the placement does not use are spares and take over first. When they do not suffice, the
    pipelines with the most holes are given up, as many as needed for whole pipelines to remain, and their devices fill
    holes, of their own stage where possible. The search then starts from that repaired placement, and its result is taken
    only if it is cheaper.

    Args:
        network: the network before the loss, spares included.
        placement: what ran on it.
        lost: devices that left.
        scheduler: settings of the search; method "improved" with 1,000 evaluations when None. Its number of pipelines is
            replaced by what remains.

    Raises:
        ValueError: an unknown device, or fewer devices than stages remain.
    """
    gone = set(lost)
    network.without(gone)  # names an unknown device
    stages, before = placement.stages, placement.partition
    stage_of = {d: int(before[d]) if d < len(before) else -1 for d in range(network.size)}
    alive = [d for d in range(network.size) if d not in gone]
    pipelines = min(placement.pipelines, len(alive) // stages)
    if pipelines == 0:
        raise ValueError(f"{len(alive)} devices remain for {stages} stages; use fewer stages or add devices")
    rows = sorted(placement.grid.tolist(), key=lambda row: sum(d in gone for d in row))  # stable: fewest holes first
    grid = [[d if d not in gone else -1 for d in row] for row in rows[:pipelines]]
    kept = {d for row in grid for d in row}
    free = [d for d in alive if d not in kept]
    # devices of a hole's own stage first: they have its weights already
    holes = [(p, s) for p in range(pipelines) for s in range(stages) if grid[p][s] < 0]
    for own_stage in (True, False):
        for p, s in [hole for hole in holes if grid[hole[0]][hole[1]] < 0]:
            fits = [d for d in free if stage_of[d] == s] if own_stage else free
            if fits:
                grid[p][s] = fits[0]
                free.remove(fits[0])
    repaired = np.array(grid)
    settings = (scheduler or Scheduler(method="improved", evaluations=1000)).get_params()
    settings |= {"stages": stages, "pipelines": pipelines}
    if (model := settings["cost"]) is not None:
        settings["cost"] = CostModel(stages, pipelines, model.c_pp, model.c_dp)
    again = Scheduler(**settings)
    used = np.sort(repaired.ravel())
    part = network.select(used.tolist())
    start = Placement(np.searchsorted(used, repaired))
    first = sum(again.model.cost_of_placement(start, part))
    again.fit(part, start=start)
    final, comm = (again.placement_, again.comm_) if again.comm_ < first else (start, first)
    grid_now = used[_align(final.grid, start.grid)]
    stage_now = Placement(grid_now).partition
    moved = tuple(int(d) for d in used if stage_of[int(d)] != stage_now[d])
    return Rescheduled(Placement(grid_now), comm, first, moved, tuple(sorted(free)))


def _align(grid: np.ndarray, like: np.ndarray) -> np.ndarray:
    """A route costs the same in both directions: take the one that leaves more devices at their stage."""
    stay = [sum(np.isin(g[:, s], like[:, s]).sum() for s in range(g.shape[1])) for g in (grid, grid[:, ::-1])]
    return grid if stay[0] >= stay[1] else grid[:, ::-1].copy()
