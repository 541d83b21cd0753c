"""Trace-driven simulator of one training iteration: pipelines over given links, then gradient synchronisation.

Ours, not the paper's: it stands in for 64 GPUs, so that throughput can be predicted for a network and a placement.
The schedule is the one the published runs used (GPipe in steps of 64 micro-batches, a barrier after each direction,
then the gradients, then the optimizer). Every constant in `Parameters` comes from timings on uniform networks
(`sheaf.decentralized.calibrate`); nothing is fitted on the five cases.

Form of the model, fixed before any of the five cases or the FluidStack cells was predicted:

* Compute. A stage needs ``launch/2 + layer*L/4`` for the forward pass of a micro-batch and three times the second
  term for the backward pass (recomputation, then two gradients).
* Links. Each sender-receiver pair is a first-in-first-out link; a micro-batch occupies it for bits / (goodput * Gbit/s)
  and arrives one delay later. The two directions of a pair are separate links with their own numbers.
* Occupancy. A transfer costs both its ends the fraction ``occupancy`` of its serialisation time, because the copy
  kernels share the GPU with the model.
* Machines. GPUs of one machine share its network card. All flows that a phase has between machines count as always
  busy, and the card is divided among them max-min fairly in each direction (progressive filling). The published
  matrices of cases 1 and 2 write an eighth of the card for each pair; there the pair's own limit is replaced by
  the card's, so that the card's share depends on which pipelines cross. Where a pair is slower than its share
  (cases 3 to 5) the matrix decides.
* Gradients. "central" is a reduce to the first pipeline's device and a broadcast back, each a chain in pipeline order
  in which the slowest link sets the pace: the uniform timings do not grow with the number of replicas, as they would
  if one server received every gradient by itself. "sharded" is the exchange of equation COMM_DP with factor
  ``contention``. Stage 0 also synchronises the embeddings. Runs used "central".
* Barriers. A dissemination barrier in rank order (log2 of N rounds); two a step, one at the end.
* Optimizer. ``update`` seconds per 1e9 parameters of the largest stage (master weights lie in CPU memory).

Which terms to have was decided on the uniform timings by leaving networks and experiments out in turn: ``occupancy`` lowers
the held-out error (rms 6.3 to 5.7 % over networks) and is fitted; a free factor on the barrier comes out at 1.2 but rests on
the one network with a long delay and predicts it worse when left out (9.5 %), so the barrier keeps its plain form, factor 1.

A caution: the published timings of the five cases had been read before, and so had an account of an earlier simulator's
failures (cases 1-2 without a shared card, under-prediction of the scheduled case 5). Constants are held out; the form is
not wholly blind. No term was changed after the first comparison with the cases. The barrier is the term that matters most
there: without it the error of the scheduled case 5 is 16 %, with it 9 %. FluidStack, on other GPUs and another
provider's network, is the cleaner test.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from sheaf.decentralized.network import Network
from sheaf.decentralized.workload import Workload

__all__ = ["Iteration", "Machines", "Parameters", "Simulator", "barrier_seconds", "fair_share", "sweep"]

DP_MODES = ("central", "sharded", "none")


@dataclass(frozen=True)
class Parameters:
    """Constants of the simulator for a V100 (speed 1).

    Attributes:
        launch: seconds per micro-batch and stage that do not depend on the layers.
        layer: seconds per micro-batch and layer (h = 2048, s = 2048), forward and backward.
        update: seconds per 1e9 parameters of the largest stage, once an iteration.
        goodput: share of the nominal bandwidth that carries payload.
        occupancy: share of a transfer's serialisation time taken from the compute of both its ends.
        barrier: factor on the delay of a dissemination barrier; 1 = the plain form, 0 = none. Not fitted.
        contention: factor on the sharded gradient exchange.
    """

    launch: float = 0.0188
    layer: float = 0.0183
    update: float = 4.0
    goodput: float = 0.9
    occupancy: float = 0.0
    barrier: float = 1.0
    contention: float = 1.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not np.isfinite(value) or value < 0 or (name == "goodput" and value == 0):
                raise ValueError(f"{name} = {value}; it must be finite and not negative, goodput above 0")

    def compute(self, work: Workload) -> tuple[float, float]:
        """(forward, backward) seconds of one micro-batch on one stage of speed 1."""
        fixed, layers = self.launch / 2, self.layer * work.layers_per_stage * work.width * work.micro_batch / 4
        return fixed + layers, fixed + 3 * layers


@dataclass(frozen=True, eq=False)
class Machines:
    """Which machine each device sits in, and the Gbit/s of each machine's network card.

    Attributes:
        of: [N] machine index of each device.
        nic: [M] Gbit/s of each machine's card, each direction.
        shared_pairs: whether the matrix writes a share of the card for a pair in different machines (cases 1 and 2), so
            that the card alone limits it.

    Raises:
        ValueError: a device names a machine without a card, or a card has no bandwidth.
    """

    of: np.ndarray
    nic: np.ndarray
    shared_pairs: bool = False

    def __post_init__(self) -> None:
        of, nic = np.asarray(self.of, dtype=np.int64), np.asarray(self.nic, dtype=np.float64)
        if of.ndim != 1 or of.size == 0 or of.min() < 0 or of.max() >= nic.size:
            raise ValueError(f"machine indices must lie in 0..{nic.size - 1}, one per device, for {nic.size} network cards")
        if not (nic > 0).all():
            raise ValueError("every network card needs a positive bandwidth in Gbit/s")
        object.__setattr__(self, "of", of)
        object.__setattr__(self, "nic", nic)

    @classmethod
    def blocks(cls, sizes: list[int], nic: float, shared_pairs: bool = False) -> "Machines":
        """Machines of these sizes over consecutive devices, all with the same card."""
        return cls(np.repeat(np.arange(len(sizes)), sizes), np.full(len(sizes), float(nic)), shared_pairs)

    @classmethod
    def case(cls, case: int) -> "Machines":
        """Machines of the five cases: 8 x 8 GPUs at 25 Gbit/s; 8 x 4 and 32 x 1 at 10; else 64 x 1 at 10."""
        match case:
            case 1:
                return cls.blocks([8] * 8, 25.0, shared_pairs=True)
            case 2:
                return cls.blocks([4] * 8 + [1] * 32, 10.0, shared_pairs=True)
            case 3 | 4 | 5:
                return cls.blocks([1] * 64, 10.0)
        raise ValueError(f"case {case!r} is unknown; the cases are 1 to 5")


@dataclass(frozen=True, eq=False)
class Iteration:
    """Predicted seconds of one iteration and their parts; ``seconds`` is the sum of the five parts.

    Attributes:
        seconds: the whole iteration.
        forward, backward: all steps together, the slowest pipeline of each.
        barriers, data_parallel, update: see the module.
        per_pipeline: [pipelines, 2] seconds of one step's forward and backward pass.
        per_stage: [stages] seconds of each stage's gradient synchronisation.
        trace: if asked for, one row per task of the first step: pipeline, stage, micro_batch, kind, start, end (seconds).
    """

    seconds: float
    forward: float
    backward: float
    barriers: float
    data_parallel: float
    update: float
    per_pipeline: np.ndarray
    per_stage: np.ndarray
    trace: pd.DataFrame | None = None


def sweep(compute: np.ndarray, transfer: np.ndarray, delay: np.ndarray, micro_batches: int) -> tuple[np.ndarray, np.ndarray]:
    """One direction of GPipe for P independent pipelines of S stages.

    start[s, i] = max(arrive[s, i], free[s]); the link sends in order; arrive[s+1, i] = sent[s, i] + delay. A recurrence
    x[i] = max(a[i], x[i-1]) + t has the closed form x[i] = (i + 1) t + max over k <= i of (a[k] - k t), so a whole row of
    micro-batches is one running maximum.

    Args:
        compute: [P, S] seconds per micro-batch.
        transfer: [P, S-1] seconds on the link from stage s to s + 1.
        delay: [P, S-1] seconds.
        micro_batches: M.

    Returns:
        start, end of every task, each [P, S, M].
    """
    count = np.arange(micro_batches)
    pipelines, stages = compute.shape
    start = np.empty((pipelines, stages, micro_batches))
    arrive = np.zeros((pipelines, micro_batches))
    for s in range(stages):
        t = compute[:, s, None]
        start[:, s] = count * t + np.maximum.accumulate(arrive - count * t, axis=1)
        if s + 1 < stages:
            x = transfer[:, s, None]
            sent = (count + 1) * x + np.maximum.accumulate(start[:, s] + t - count * x, axis=1)
            arrive = sent + delay[:, s, None]
    return start, start + compute[:, :, None]


def fair_share(source: np.ndarray, target: np.ndarray, limit: np.ndarray, machines: Machines | None) -> np.ndarray:
    """Max-min fair rates of flows that are always busy, by progressive filling.

    Args:
        source, target: [F] devices.
        limit: [F] Gbit/s that the pair itself allows; infinite is fine between machines.
        machines: whose cards the flows between machines share; None = no sharing.

    Returns:
        [F] Gbit/s. Flows inside a machine get their limit.
    """
    rate = np.asarray(limit, dtype=np.float64).copy()
    if machines is None:
        return rate
    out, into = machines.of[source], machines.of[target]
    crossing = np.flatnonzero(out != into)
    if crossing.size == 0:
        return rate
    cards = machines.nic.size
    member = np.zeros((2 * cards, crossing.size))  # a card limits what leaves and what arrives, separately
    member[out[crossing], np.arange(crossing.size)] = 1
    member[cards + into[crossing], np.arange(crossing.size)] = 1
    room, caps = np.tile(machines.nic, 2), rate[crossing]
    given, active = np.zeros(crossing.size), np.ones(crossing.size)
    while active.any():
        load = member @ active
        share = np.divide(room, load, out=np.full_like(room, np.inf), where=load > 0)
        more = min(share.min(), (caps - given)[active > 0].min())
        given += more * active
        room = np.maximum(room - more * load, 0)
        full = room <= 1e-12 * np.tile(machines.nic, 2)
        active = active * ~((member[full].sum(axis=0) > 0) | (given >= caps * (1 - 1e-12)))
    rate[crossing] = given
    return rate


def barrier_seconds(delay: np.ndarray, order: np.ndarray) -> float:
    """Seconds of a dissemination barrier: in round k the device of rank r waits for that of rank r - 2^k.

    Args:
        delay: [N, N] seconds.
        order: [R] the device of each rank.
    """
    count = len(order)
    passed, hop = np.zeros(count), 1
    while hop < count:
        earlier = (np.arange(count) - hop) % count
        passed = np.maximum(passed, passed[earlier] + delay[order[earlier], order])
        hop *= 2
    return float(passed.max())


def as_grid(placement: Any, network: Network, work: Workload) -> np.ndarray:
    """[pipelines, stages] device of each task, from a placement object with ``grid`` or from an array.

    Raises:
        ValueError: the shape does not fit the workload, or a device is unknown or used twice.
    """
    grid = np.asarray(getattr(placement, "grid", placement))
    if grid.shape != (work.pipelines, work.stages):
        raise ValueError(
            f"the placement is {grid.shape} but the workload has {work.pipelines} pipelines of {work.stages} stages; "
            "change one of them"
        )
    if not np.issubdtype(grid.dtype, np.integer) or grid.min() < 0 or grid.max() >= network.size:
        raise ValueError(f"a placement holds device numbers 0 to {network.size - 1}; got {grid.min()} to {grid.max()}")
    if np.unique(grid).size != grid.size:
        raise ValueError("a device holds two tasks; a placement uses each device once")
    return grid


@dataclass(frozen=True)
class Simulator:
    """Predicts iterations: ``Simulator(parameters).iteration(network, placement, workload)``.

    Attributes:
        parameters: see `Parameters`; `sheaf.decentralized.calibrate.fit` makes them.
        mode: how gradients are brought together: "central" (as in the runs), "sharded" (as in the cost model), "none".
    """

    parameters: Parameters = field(default_factory=Parameters)
    mode: str = "central"

    def __post_init__(self) -> None:
        if self.mode not in DP_MODES:
            raise ValueError(f"mode {self.mode!r} is unknown; use one of {', '.join(DP_MODES)}")

    def iteration(
        self, network: Network, placement: Any, work: Workload, machines: Machines | None = None, *, trace: bool = False,
    ) -> Iteration:
        """Predicted seconds of one iteration.

        Args:
            network: delay and bandwidth of every directed pair, relative speed of each device.
            placement: grid [pipelines, stages] of devices, or an object with that as ``grid``.
            work: the job.
            machines: network cards that devices share; None = every link is by itself.
            trace: whether to return the tasks of the first step, for a Gantt chart.

        Raises:
            ValueError: the placement does not fit the network or the workload, or machines are given for other devices.
        """
        grid = as_grid(placement, network, work)
        if machines is not None and machines.of.size != network.size:
            raise ValueError(f"machines are given for {machines.of.size} devices; the network has {network.size}")
        p = self.parameters
        sweeps = [self._direction(network, grid, work, machines, backward) for backward in (False, True)]
        per_pipeline = np.stack([end.max(axis=(1, 2)) for _, end in sweeps], axis=1)
        forward, backward = (work.steps * float(per_pipeline[:, k].max()) for k in (0, 1))
        barriers = p.barrier * (2 * work.steps + 1) * barrier_seconds(network.delay, grid.ravel())
        per_stage = self.gradient_seconds(network, grid, work, machines)
        slowest = network.speed[grid].min(axis=0)
        update = float((p.update * work.stage_parameters / 1e9 / slowest).max())
        parts = (forward, backward, barriers, float(per_stage.max()), update)
        rows = self._trace(sweeps, p.barrier * barrier_seconds(network.delay, grid.ravel())) if trace else None
        return Iteration(sum(parts), *parts, per_pipeline, per_stage, rows)

    def _direction(
        self, network: Network, grid: np.ndarray, work: Workload, machines: Machines | None, backward: bool,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Start and end [P, S, M] of one step; stages run in the order of the direction."""
        order = grid[:, ::-1] if backward else grid
        source, target = order[:, :-1], order[:, 1:]
        compute = self.parameters.compute(work)[backward] / network.speed[order]
        rate = pair_rates(network, source, target, machines)
        transfer = work.activation_bits / (self.parameters.goodput * rate * 1e9)
        busy = self.parameters.occupancy * transfer
        compute[:, :-1] += busy
        compute[:, 1:] += busy
        return sweep(compute, transfer, network.delay[source, target], work.per_step)

    def gradient_seconds(
        self, network: Network, grid: np.ndarray, work: Workload, machines: Machines | None = None,
    ) -> np.ndarray:
        """[stages] seconds of the gradient synchronisation of each stage; all stages run at once."""
        replicas = work.pipelines
        if self.mode == "none" or replicas == 1:
            return np.zeros(work.stages)
        bits = 8 * work.gradient_bytes
        if self.mode == "sharded":
            cost = np.zeros((replicas, work.stages))
            for j in range(1, replicas):  # round j: everyone sends to the member j places on
                peer = np.roll(grid, -j, axis=0)
                rate = pair_rates(network, grid, peer, machines)
                cost += 2 * (network.delay[grid, peer] + self._wire(bits / replicas, rate) * self.parameters.contention)
            return cost.max(axis=0)
        following = np.roll(grid, -1, axis=0)
        rate = pair_rates(network, grid, following, machines)
        delay = network.delay[grid, following]
        # ring edge i leads from member i to i + 1: a reduce to member 0 leaves edge 0 out, a broadcast from it the last edge
        reduce = self._wire(bits, rate[1:].min(axis=0)) + delay[1:].sum(axis=0)
        broadcast = self._wire(bits, rate[:-1].min(axis=0)) + delay[:-1].sum(axis=0)
        return reduce + broadcast

    def _wire(self, bits: np.ndarray, rate: np.ndarray) -> np.ndarray:
        return bits / (self.parameters.goodput * rate * 1e9)

    @staticmethod
    def _trace(sweeps: list[tuple[np.ndarray, np.ndarray]], pause: float) -> pd.DataFrame:
        frames, offset = [], 0.0
        for kind, (start, end) in zip(("forward", "backward"), sweeps, strict=True):
            if kind == "backward":
                start, end = start[:, ::-1], end[:, ::-1]
            pipeline, stage, micro = (index.ravel() for index in np.indices(start.shape))
            frames.append(pd.DataFrame({
                "pipeline": pipeline, "stage": stage, "micro_batch": micro, "kind": kind,
                "start": start.ravel() + offset, "end": end.ravel() + offset,
            }))
            offset = float(end.max()) + pause
        return pd.concat(frames, ignore_index=True)


def pair_rates(network: Network, source: np.ndarray, target: np.ndarray, machines: Machines | None) -> np.ndarray:
    """Gbit/s of flows that run at the same time, in the shape of ``source``."""
    a, b = source.ravel(), target.ravel()
    limit = network.bandwidth[a, b].copy()
    if machines is not None and machines.shared_pairs:
        limit[machines.of[a] != machines.of[b]] = np.inf
    return fair_share(a, b, limit, machines).reshape(source.shape)
