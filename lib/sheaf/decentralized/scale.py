"""Beyond 64 devices: coarsening for thousands, and devices of unequal speed and memory. Ours, not the paper's."""

import time
from dataclasses import dataclass

import numpy as np
import torch
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform

from sheaf.decentralized.cost import CostModel
from sheaf.decentralized.network import Network
from sheaf.decentralized.search import Scheduler, deal_clusters
from sheaf_kernels import placement as kernel

__all__ = ["Coarse", "Uneven", "bundles", "coarse_fit", "even_layers", "fit_uneven"]


@dataclass(frozen=True, eq=False)
class Coarse:
    """A placement found on bundles of devices.

    Attributes:
        partition: [N] stage of each device.
        total: COMM of it on the whole network, seconds.
        coarse: COMM as the coarse problem saw it; an upper bound, up to matchings that the bundles rule out.
        bundle: devices per bundle.
        seconds: of coarsening and searching; ``scoring``: of costing the result on the whole network.
    """

    partition: np.ndarray
    total: float
    coarse: float
    bundle: int
    seconds: float
    scoring: float


def bundles(network: Network, size: int) -> np.ndarray:
    """[N / size, size] devices that belong together: of one region, or next to each other in a dendrogram of delays.

    Regions that do not divide leave a rest, which is bundled by nearness.

    Raises:
        ValueError: N is not divisible by size.
    """
    if size < 1 or network.size % size:
        raise ValueError(f"{network.size} devices do not divide into bundles of {size}; use a divisor")
    labels = np.array(network.regions)
    whole, rest = [], []
    for region in dict.fromkeys(network.regions) if len(set(network.regions)) > 1 else []:
        members = np.flatnonzero(labels == region)
        full = len(members) // size * size
        whole += list(members[:full].reshape(-1, size))
        rest += list(members[full:])
    if not whole:
        rest = list(range(network.size))
    if rest:
        part = np.array(rest)
        delay = network.delay[np.ix_(part, part)] + 1 / network.bandwidth[np.ix_(part, part)]
        even = (delay + delay.T) / 2
        np.fill_diagonal(even, 0)
        order = (
            leaves_list(linkage(squareform(even, checks=False), "average")) if len(part) > 2 else np.arange(len(part))
        )
        whole += list(part[order].reshape(-1, size))
    return np.array(whole)


def coarse_fit(network: Network, model: CostModel, bundle: int, *, evaluations: int = 5000, seed: int = 0) -> Coarse:
    """Search over bundles: a bundle's devices take the same stage in neighbouring pipelines.

    A hop between bundles costs its worst pair; a bundle's own data-parallel share is the diagonal of dp. The result is
    costed on the whole network, where matchings are free again.

    Raises:
        ValueError: pipelines or devices not divisible by the bundle.
    """
    if model.pipelines % bundle:
        raise ValueError(f"{model.pipelines} pipelines do not divide into bundles of {bundle}; use a divisor")
    start = time.perf_counter()
    groups = bundles(network, bundle)
    count = len(groups)
    order = groups.ravel()
    coarse = []
    for weight in model.weights(network):
        blocks = weight.numpy()[np.ix_(order, order)].reshape(count, bundle, count, bundle)
        worst = blocks.max(axis=(1, 3))
        coarse.append((worst + worst.T) / 2)
    pp, dp, cut = coarse
    inner = dp.diagonal() * (bundle - 1)
    dp = dp * bundle
    np.fill_diagonal(dp, inner)
    np.fill_diagonal(pp, 0)
    np.fill_diagonal(cut, 0)
    shape = CostModel(model.stages, model.pipelines // bundle, model.c_pp, model.c_dp)
    weights = [torch.from_numpy(np.ascontiguousarray(w)) for w in (pp, dp, cut)]
    starts, population = torch.from_numpy(deal_clusters(pp, shape)), min(100, evaluations)
    found, history = kernel.search(
        weights[0], weights[1], weights[2], [seed], model.stages, evaluations, population, "improved", start=starts
    )
    partition = np.empty(network.size, dtype=np.int64)
    partition[groups] = found[0].numpy()[:, None]
    searched = time.perf_counter()
    total = float(model.totals(network, partition)[0])
    end = time.perf_counter()
    return Coarse(partition, total, float(history[0, -1]), bundle, searched - start, end - searched)


@dataclass(frozen=True, eq=False)
class Uneven:
    """A placement for devices of unequal speed and memory.

    Attributes:
        partition: [N] stage of each device.
        layers: [stages] layers of each stage, whole numbers.
        communication: COMM, seconds.
        compute: seconds per iteration of the slowest stage with these layers.
    """

    partition: np.ndarray
    layers: np.ndarray
    communication: float
    compute: float

    @property
    def total(self) -> float:
        """What is minimised: communication + compute, seconds."""
        return self.communication + self.compute


def even_layers(speed: np.ndarray, memory: np.ndarray, layers: int, layer_gb: float) -> tuple[np.ndarray, float]:
    """Whole layers per stage that minimise the slowest stage's time, within memory.

    Args:
        speed: [stages] slowest device of each stage, relative.
        memory: [stages] smallest memory of each stage, GB.
        layers: to hand out. layer_gb: memory one layer needs.

    Returns:
        [stages] layers, and the slowest stage's layers / speed (infinite when they do not fit).
    """
    room = np.floor(np.minimum(memory / layer_gb, layers)).astype(int) if layer_gb > 0 else np.full(len(speed), layers)
    given = np.zeros(len(speed), dtype=int)
    for _ in range(layers):
        after = np.where(given < room, (given + 1) / speed, np.inf)
        if not np.isfinite(after).any():
            return given, np.inf
        given[int(after.argmin())] += 1
    return given, float((given / speed).max())


def fit_uneven(
    network: Network,
    model: CostModel,
    *,
    layers: int = 24,
    layer_seconds: float = 1.0,
    layer_gb: float = 0.0,
    evaluations: int = 5000,
    seed: int = 0,
) -> Uneven:
    """Place devices of unequal speed and memory: exchange devices between stages while communication + compute falls.

    Compute is the slowest stage's layers / speed times ``layer_seconds`` (seconds that one layer needs per iteration at
    speed 1), layers handed out to fit the stages. Two starts: the search for communication alone, and devices sorted by
    speed; the better result is kept. Half of the evaluations go to each.

    Raises:
        ValueError: the layers do not fit into the memory of any placement tried.
    """
    model.check(network)
    pp, dp, _ = model.weights(network)

    def score(partition: np.ndarray) -> tuple[float, np.ndarray, float, float]:
        speed = np.array([network.speed[partition == g].min() for g in range(model.stages)])
        memory = np.array([network.memory[partition == g].min() for g in range(model.stages)])
        given, slowest = even_layers(speed, memory, layers, layer_gb)
        comm = float(kernel.evaluate(pp, dp, torch.from_numpy(partition)[None], model.stages)[0, :2].sum())
        return comm + slowest * layer_seconds, given, comm, slowest * layer_seconds

    fitted = Scheduler(model.stages, model.pipelines, "improved", max(100, evaluations // 4), 100, seed, model).fit(
        network
    )
    by_speed = np.empty(network.size, dtype=np.int64)
    by_speed[np.lexsort((np.arange(network.size), network.memory, network.speed))] = np.repeat(
        np.arange(model.stages), model.pipelines
    )
    rng = np.random.default_rng(seed)
    best: tuple[float, np.ndarray, np.ndarray, float, float] | None = None
    for start in (fitted.placement_.partition, by_speed):
        now = np.array(start, dtype=np.int64)
        found = score(now)
        for _ in range(max(1, evaluations * 3 // 8)):
            a, b = rng.integers(network.size, size=2)
            if now[a] == now[b]:
                continue
            now[[a, b]] = now[[b, a]]
            other = score(now)
            if other[0] <= found[0]:
                found = other
            else:
                now[[a, b]] = now[[b, a]]
        if best is None or found[0] < best[0]:
            best = (found[0], now, *found[1:])
    assert best is not None
    if not np.isfinite(best[0]):
        raise ValueError(
            f"{layers} layers of {layer_gb} GB fit into no placement tried; use fewer layers or devices with more memory"
        )
    return Uneven(best[1], best[2], best[3], best[4])
