"""What a placement costs: data-parallel groups, bottleneck matchings between stages, the order of stages (section 3)."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching
from torch import Tensor

from sheaf.decentralized.network import Network
from sheaf_kernels import placement as kernel

__all__ = ["MAY_2022", "Cost", "CostModel", "Placement", "brute_force", "partitions"]

# (c_pp, c_dp) in GB as they stood when the stored convergence traces were made, May 2022
MAY_2022 = {1: (0.28125, 1.0), 2: (0.28125, 1.0), 3: (0.28125, 1.0), 4: (0.4, 0.7), 5: (0.5, 0.9)}
EXACT_ROUTE = 16  # stages up to which the order is found exactly


@dataclass(frozen=True, eq=False)
class Placement:
    """Which device does what.

    Attributes:
        grid: [pipelines, stages] device index; a row is a pipeline, a column a data-parallel group.

    Raises:
        ValueError: a device is missing, named twice, or not an index 0..N-1.
    """

    grid: np.ndarray

    def __post_init__(self) -> None:
        grid = np.array(self.grid, dtype=np.int64)
        if grid.ndim != 2 or sorted(grid.ravel()) != list(range(grid.size)):
            raise ValueError(
                f"a placement's grid must be [pipelines, stages] with every device 0..N-1 once; got shape {grid.shape}"
            )
        object.__setattr__(self, "grid", grid)

    @property
    def ranks(self) -> np.ndarray:
        """[N] rank of each device, rank = pipeline * stages + stage, the form that launchers take."""
        found = np.empty(self.grid.size, dtype=np.int64)
        found[self.grid.ravel()] = np.arange(self.grid.size)
        return found

    @property
    def partition(self) -> np.ndarray:
        """[N] the stage of each device."""
        return self.ranks % self.grid.shape[1]

    @classmethod
    def from_ranks(cls, ranks: ArrayLike, stages: int) -> "Placement":
        """From the rank of each device."""
        order = np.argsort(np.asarray(ranks, dtype=np.int64), kind="stable")
        if order.size % stages:
            raise ValueError(f"{order.size} ranks do not divide into pipelines of {stages} stages")
        return cls(order.reshape(-1, stages))


@dataclass(frozen=True, eq=False)
class Cost:
    """COMM and its parts, seconds. A ranking proxy: it charges the whole batch on every hop and is no iteration time.

    Attributes:
        dp: COMM_DP, the worst device's data-parallel exchange.
        pp: COMM_PP, twice the shortest open route through the stages.
        groups: devices of each stage, in route order.
        hops: [stages - 1] bottleneck of the matching between consecutive stages.
        placement: the grid that follows matchings and route.
    """

    dp: float
    pp: float
    groups: tuple[tuple[int, ...], ...]
    hops: tuple[float, ...]
    placement: Placement

    @property
    def total(self) -> float:
        """COMM = COMM_DP + COMM_PP."""
        return self.dp + self.pp


@dataclass(frozen=True)
class CostModel:
    """Constants of the cost model and the shape of the job.

    Attributes:
        stages, pipelines: D_PP and D_DP; their product is the number of devices.
        c_pp: GB that one pipeline sends over one boundary in one direction, whole batch share.
        c_dp: GB of one stage's gradients.

    Raises:
        ValueError: a shape below 1 or a size that is not positive.
    """

    stages: int = 8
    pipelines: int = 8
    c_pp: float = 2024 * 2048 * 2 * (1.25e5 / 2048) / 2**30
    c_dp: float = 1.3 * 4 * 3 / 24

    def __post_init__(self) -> None:
        if self.stages < 1 or self.pipelines < 1:
            raise ValueError(f"stages and pipelines must be at least 1; got {self.stages} and {self.pipelines}")
        if not (self.c_pp > 0 and self.c_dp > 0):
            raise ValueError(f"c_pp and c_dp are sizes in GB and must be positive; got {self.c_pp} and {self.c_dp}")

    @classmethod
    def compat(cls, stages: int = 8, pipelines: int = 8) -> "CostModel":
        """The authors' final constants as coded: 2024 for 2048, GiB for activations, fp32 gradients."""
        return cls(stages, pipelines)

    @classmethod
    def corrected(cls, stages: int = 8, pipelines: int = 8) -> "CostModel":
        """The same job counted again: 1.25e5 tokens of 2048 fp16 values, 3 layers of 12 h^2 fp16 gradients, decimal GB."""
        return cls(stages, pipelines, c_pp=1.25e5 * 2048 * 2 / 1e9, c_dp=3 * 12 * 2048**2 * 2 / 1e9)

    @classmethod
    def may2022(cls, case: int) -> "CostModel":
        """The constants behind the stored convergence traces of a case.

        Raises:
            ValueError: unknown case.
        """
        if case not in MAY_2022:
            raise ValueError(f"case {case!r} is unknown; the cases are {', '.join(map(str, MAY_2022))}")
        return cls(8, 8, *MAY_2022[case])

    @property
    def devices(self) -> int:
        return self.stages * self.pipelines

    def check(self, network: Network) -> None:
        """See that the network has as many devices as the job.

        Raises:
            ValueError: it has not.
        """
        if network.size != self.devices:
            near = (
                self.devices - network.size % self.devices
                if network.size < self.devices
                else network.size % self.devices
            )
            raise ValueError(
                f"{network.name or 'the network'} has {network.size} devices but {self.stages} stages x "
                f"{self.pipelines} pipelines need {self.devices}; add or leave out {abs(near)}, or change stages or pipelines"
            )

    def weights(self, network: Network) -> tuple[Tensor, Tensor, Tensor]:
        """[N, N] float64 in seconds: pp (one hop), dp (what one member adds to the other), cut (pp minus plain dp).

        Uneven directions are averaged. That is exact for a hop, which carries activations one way and their gradients the
        other, and for the sharded exchange, which uses both ways equally.
        """
        self.check(network)
        delay, rate = network.delay, network.bandwidth
        pp = delay + self.c_pp * 8 / rate
        plain = delay + self.c_dp * 8 / rate
        dp = 2 * (delay + self.c_dp * 8 / (self.pipelines * rate))
        found = []
        for matrix in (pp, dp, pp - plain):
            even = (matrix + matrix.T) / 2
            np.fill_diagonal(even, 0)
            found.append(torch.from_numpy(np.ascontiguousarray(even)))
        return found[0], found[1], found[2]

    def totals(self, network: Network, partitions: ArrayLike, backend: str = "auto") -> np.ndarray:
        """[B] COMM of partitions [B, N], each with its best matchings and order."""
        pp, dp, _ = self.weights(network)
        rows = torch.as_tensor(np.atleast_2d(np.asarray(partitions, dtype=np.int64)))
        return kernel.evaluate(pp, dp, rows, self.stages, backend)[:, :2].sum(dim=1).numpy()

    def evaluate(self, network: Network, partition: ArrayLike) -> Cost:
        """Cost of a partition [N] with its best matchings and order, and the placement they give."""
        pp, dp, _ = (w.numpy() for w in self.weights(network))
        members = [np.flatnonzero(np.asarray(partition) == g) for g in range(self.stages)]
        if any(len(m) != self.pipelines for m in members):
            raise ValueError(f"every stage needs {self.pipelines} devices; got {[len(m) for m in members]}")
        between = np.zeros((self.stages, self.stages))
        for i, j in itertools.combinations(range(self.stages), 2):
            between[i, j] = between[j, i] = _bottleneck(pp[np.ix_(members[i], members[j])])[0]
        order = _route(between)
        columns = [members[order[0]]]
        for g in order[1:]:
            columns.append(members[g][_bottleneck(pp[np.ix_(columns[-1], members[g])])[1]])
        hops = tuple(float(between[a, b]) for a, b in itertools.pairwise(order))
        worst = max(float(dp[np.ix_(m, m)].sum(axis=1).max()) for m in members)
        groups = tuple(tuple(int(d) for d in column) for column in columns)
        return Cost(worst, 2 * sum(hops), groups, hops, Placement(np.stack(columns, axis=1)))

    def of_placement(self, network: Network, placement: Placement) -> Cost:
        """Cost of a placement as it stands: no matching, no reordering."""
        pp, dp, _ = (w.numpy() for w in self.weights(network))
        grid = placement.grid
        if grid.shape != (self.pipelines, self.stages):
            raise ValueError(
                f"the placement is {grid.shape}, the job has {self.pipelines} pipelines x {self.stages} stages"
            )
        hops = tuple(float(pp[grid[:, s], grid[:, s + 1]].max()) for s in range(self.stages - 1))
        worst = max(float(dp[np.ix_(column, column)].sum(axis=1).max()) for column in grid.T)
        return Cost(worst, 2 * sum(hops), tuple(tuple(int(d) for d in c) for c in grid.T), hops, placement)


def _bottleneck(weights: np.ndarray) -> tuple[float, np.ndarray]:
    """Smallest possible largest edge of a perfect matching in [m, m] weights, and the column matched to each row."""
    values = np.unique(weights)
    # no matching can avoid the best edge of the worst row and column, and that bound is often attained
    bound = max(weights.min(axis=1).max(), weights.min(axis=0).max())
    matched = maximum_bipartite_matching(csr_array(weights <= bound), perm_type="column")
    if (matched >= 0).all():
        return float(bound), matched
    low, high = int(np.searchsorted(values, bound)) + 1, len(values) - 1
    while low < high:
        middle = (low + high) // 2
        matched = maximum_bipartite_matching(csr_array(weights <= values[middle]), perm_type="column")
        low, high = (low, middle) if (matched >= 0).all() else (middle + 1, high)
    return float(values[low]), maximum_bipartite_matching(csr_array(weights <= values[low]), perm_type="column")


def _route(between: np.ndarray) -> list[int]:
    """Order of the shortest open route: Held-Karp up to 16 stages, above that nearest neighbour with 2-opt."""
    g = len(between)
    if g > EXACT_ROUTE:
        return _long_route(between)
    best = np.full((1 << g, g), np.inf)
    came = np.full((1 << g, g), -1)
    for s in range(g):
        best[1 << s, s] = 0
    for mask in range(1 << g):
        through = best[mask][:, None] + between  # [last, after]
        nearest, last = through.min(axis=0), through.argmin(axis=0)
        for after in range(g):
            grown = mask | 1 << after
            if grown != mask and nearest[after] < best[grown, after]:
                best[grown, after], came[grown, after] = nearest[after], last[after]
    mask, last = (1 << g) - 1, int(best[-1].argmin())
    order = []
    while last >= 0:
        order.append(last)
        mask, last = mask ^ (1 << last), int(came[mask, last])
    return order[::-1]


def _long_route(between: np.ndarray) -> list[int]:
    def length(path: Sequence[int]) -> float:
        return float(between[path[:-1], path[1:]].sum())

    found: list[int] = []
    for first in range(len(between)):
        path, left = [first], set(range(len(between))) - {first}
        while left:
            path.append(min(left, key=lambda g: (between[path[-1], g], g)))
            left.remove(path[-1])
        if not found or length(path) < length(found):
            found = path
    improved = True
    while improved:
        improved = False
        for a, b in itertools.combinations(range(len(found) + 1), 2):
            other = found[:a] + found[a:b][::-1] + found[b:]
            if length(other) < length(found) - 1e-12:
                found, improved = other, True
    return found


def partitions(devices: int, groups: int) -> Iterator[list[int]]:
    """Every way to split the devices into equal groups, up to the names of groups; [devices] group index each.

    8 devices in 4 groups have 105, 16 in 4 already 2,627,625.
    """
    if groups < 1 or devices % groups:
        raise ValueError(f"{devices} devices do not divide into {groups} equal groups")
    size = devices // groups

    def fill(labels: list[int], left: list[int], group: int) -> Iterator[list[int]]:
        if not left:
            yield list(labels)
            return
        first, rest = left[0], left[1:]
        for others in itertools.combinations(rest, size - 1):
            for d in (first, *others):
                labels[d] = group
            yield from fill(labels, [d for d in rest if d not in others], group + 1)

    yield from fill([0] * devices, list(range(devices)), 0)


def brute_force(network: Network, model: CostModel) -> tuple[Placement, float, int]:
    """The cheapest placement among all, by looking at every partition, every order and every assignment of pipelines.

    Independent of matching and route algorithms. 8 devices in 4 groups of 2 are 105 * 12 * 8 placements.

    Returns:
        placement, its cost in seconds, and the number of placements looked at.

    Raises:
        ValueError: more than 10 million placements.
    """
    model.check(network)
    stages, width = model.stages, model.pipelines
    permutations = list(itertools.permutations(range(width)))
    orders = [o for o in itertools.permutations(range(stages)) if o[0] <= o[-1]]
    count = 0
    best: tuple[float, Placement] | None = None
    if len(orders) * len(permutations) ** (stages - 1) * sum(1 for _ in partitions(network.size, stages)) > 10_000_000:
        raise ValueError(
            f"{network.size} devices in {stages} stages have too many placements to look at each; use at most 8 or 9 devices"
        )
    pp, dp, _ = (w.numpy() for w in model.weights(network))
    for labels in partitions(network.size, stages):
        members = [[d for d in range(network.size) if labels[d] == g] for g in range(stages)]
        worst = max(sum(dp[d, e] for e in m) for m in members for d in m)
        for order in orders:
            for shuffles in itertools.product(permutations, repeat=stages - 1):
                columns = [
                    members[order[0]],
                    *([members[g][k] for k in p] for g, p in zip(order[1:], shuffles, strict=True)),
                ]
                count += 1
                hops = (max(pp[a, b] for a, b in zip(x, y, strict=True)) for x, y in itertools.pairwise(columns))
                total = worst + 2 * sum(hops)
                if best is None or total < best[0] - 1e-15:
                    best = (total, Placement(np.array(columns).T))
    assert best is not None
    return best[1], best[0], count
