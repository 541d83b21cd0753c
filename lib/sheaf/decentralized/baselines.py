"""The other systems of the comparison, predicted: Megatron-LM (pipeline x tensor x data) and DeepSpeed (PP + ZeRO-1, ZeRO-3).

They differ from the paper's system in three ways that a slow network shows: 1F1B instead of GPipe, a device that waits
for each send to arrive, and collectives over rings. Constants (`RingParameters`) come from Megatron timings on uniform
networks alone; DeepSpeed has no such timings, so its arms borrow Megatron's constants and carry no pass mark.
"""

from dataclasses import dataclass, field
from functools import cache

import numpy as np

from sheaf.decentralized.network import Network
from sheaf.decentralized.simulate import Machines, pair_rates
from sheaf.decentralized.workload import Workload

__all__ = ["RingParameters", "RingSimulator", "one_forward_one_backward", "rank_grid"]


@dataclass(frozen=True)
class RingParameters:
    """Constants of the baselines for a V100 (speed 1).

    Attributes:
        launch: seconds per micro-batch and stage that do not depend on the layers.
        layer: seconds per micro-batch and layer (h = 2048, s = 2048), forward and backward, on one GPU.
        latency: factor on the delay of a blocking send (handshake included).
        goodput: share of the nominal bandwidth that carries payload.
    """

    launch: float = 0.13
    layer: float = 0.02
    latency: float = 1.5
    goodput: float = 0.9

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not np.isfinite(value) or value < 0 or (name == "goodput" and value == 0):
                raise ValueError(f"{name} = {value}; it must be finite and not negative, goodput above 0")


def rank_grid(device_of: np.ndarray, stages: int, tensor: int = 1) -> np.ndarray:
    """[data, stages, tensor] devices in Megatron's rank order: tensor fastest, then data, then stages.

    Args:
        device_of: [N] the device of each rank; the natural map is ``np.arange(N)``.

    Raises:
        ValueError: N is no multiple of stages * tensor.
    """
    device_of = np.asarray(device_of)
    if device_of.size % (stages * tensor):
        raise ValueError(f"{device_of.size} ranks do not split into {stages} stages x {tensor} tensor ranks")
    return device_of.reshape(stages, -1, tensor).transpose(1, 0, 2)


@cache
def _order(stages: int, micro_batches: int) -> tuple[tuple[int, bool, int], ...]:
    """(stage, is backward, micro-batch) in an order in which every task comes after those it waits for."""
    queues = []
    for s in range(stages):
        warm = min(stages - 1 - s, micro_batches)
        queue = [(False, i) for i in range(warm)]
        for i in range(micro_batches - warm):
            queue += [(False, i + warm), (True, i)]
        queues.append(queue + [(True, i) for i in range(micro_batches - warm, micro_batches)])
    at, done, found = [0] * stages, set[tuple[int, bool, int]](), list[tuple[int, bool, int]]()
    while len(found) < 2 * stages * micro_batches:
        for s, queue in enumerate(queues):
            while at[s] < len(queue):
                back, i = queue[at[s]]
                if back:
                    waits = s + 1 < stages and (s + 1, True, i) not in done
                else:
                    waits = s > 0 and (s - 1, False, i) not in done
                if waits:
                    break
                done.add((s, back, i))
                found.append((s, back, i))
                at[s] += 1
    return tuple(found)


def one_forward_one_backward(
    forward: np.ndarray, backward: np.ndarray, down: np.ndarray, up: np.ndarray, micro_batches: int,
) -> np.ndarray:
    """Seconds of 1F1B with blocking sends, for P independent pipelines.

    Args:
        forward, backward: [P, S] seconds per micro-batch.
        down, up: [P, S-1] seconds until a send to the next (previous) stage has arrived; the sender waits.
        micro_batches: of each pipeline.

    Returns:
        [P] seconds until the last task ends.
    """
    pipelines, stages = forward.shape
    free = np.zeros((stages, pipelines))
    arrived = np.zeros((2, stages, micro_batches, pipelines))
    cost, send = (forward.T, backward.T), (down.T, up.T)
    for s, back, i in _order(stages, micro_batches):
        end = np.maximum(free[s], arrived[int(back), s, i]) + cost[back][s]
        to = s - 1 if back else s + 1
        if 0 <= to < stages:
            end = end + send[back][min(s, to)]
            arrived[int(back), to, i] = end
        free[s] = end
    return free.max(axis=0)


@dataclass(frozen=True)
class RingSimulator:
    """Predicts iterations of the baselines from their constants."""

    parameters: RingParameters = field(default_factory=RingParameters)

    def pipeline(
        self, network: Network, grid: np.ndarray, work: Workload, machines: Machines | None = None,
    ) -> float:
        """Seconds of one iteration of Megatron P x T x D, or of DeepSpeed PP with ZeRO-1 (equal traffic, T = 1).

        Args:
            grid: [D, P, T] devices, see `rank_grid`; overrides the workload's stages and pipelines.
            work: model, batch and micro-batch.

        Raises:
            ValueError: the layers or the batch do not split over the grid.
        """
        data, stages, tensor = grid.shape
        if work.layers % stages or work.batch % (data * work.micro_batch):
            raise ValueError(f"{work.layers} layers and a batch of {work.batch} do not split over P{stages} D{data}; change one")
        p, layers = self.parameters, work.layers // stages
        speed = network.speed[grid].min(axis=2)
        per_layer = p.layer * work.width * work.micro_batch * layers / tensor / 4
        reduce = self._ring(network, grid.reshape(-1, tensor), work.activation_bits, machines).reshape(data, stages)
        forward = (p.launch / 2 + per_layer) / speed + 2 * layers * reduce
        backward = (p.launch / 2 + 3 * per_layer) / speed + 4 * layers * reduce
        down = self._sends(network, grid[:, :-1], grid[:, 1:], work, machines)
        up = self._sends(network, grid[:, 1:], grid[:, :-1], work, machines)
        count = work.batch // (data * work.micro_batch)
        seconds = one_forward_one_backward(forward, backward, down, up, count).max()
        layer_parameters = 12 * work.hidden**2 + 13 * work.hidden
        held = (layers * layer_parameters + (work.vocabulary + work.seq) * work.hidden) / tensor
        groups = grid.transpose(1, 2, 0).reshape(-1, data)
        return float(seconds + self._ring(network, groups, 16 * held, machines).max())

    def zero3(
        self, network: Network, order: np.ndarray, work: Workload, machines: Machines | None = None,
    ) -> float:
        """Seconds of one iteration of ZeRO-3 over one ring of all devices in this order.

        Each pass of ``micro_batch`` sequences per device gathers every layer twice and reduces its gradient once. The
        micro-batch of the published runs is not known: 1 gives the most passes, batch / N a lower bound on traffic.

        Raises:
            ValueError: the batch does not split over the devices in such micro-batches.
        """
        devices = len(order)
        if work.batch % (devices * work.micro_batch):
            raise ValueError(
                f"a batch of {work.batch} does not split over {devices} devices in micro-batches of {work.micro_batch}; "
                "change the batch or the micro-batch"
            )
        layer_bits = 16.0 * (12 * work.hidden**2 + 13 * work.hidden)
        # an all-gather or reduce-scatter is half an all-reduce
        half = float(self._ring(network, np.asarray(order)[None], layer_bits, machines)[0]) / 2
        compute = self.parameters.launch + work.layers * self.parameters.layer * work.width * work.micro_batch
        passes = work.batch // (devices * work.micro_batch)
        return passes * (compute / float(network.speed[order].min()) + 3 * work.layers * half)

    def _sends(
        self, network: Network, source: np.ndarray, target: np.ndarray, work: Workload, machines: Machines | None,
    ) -> np.ndarray:
        """[D, P-1] seconds until a stage's send has arrived; every tensor rank sends the whole activation to its peer."""
        rate = pair_rates(network, source, target, machines)
        wire = work.activation_bits / (self.parameters.goodput * rate * 1e9)
        return (wire + self.parameters.latency * network.delay[source, target]).max(axis=2)

    def _ring(self, network: Network, groups: np.ndarray, bits: float, machines: Machines | None) -> np.ndarray:
        """[G] seconds of a ring all-reduce of ``bits`` in each of G groups that run at once; groups is [G, members]."""
        members = groups.shape[1]
        if members == 1:
            return np.zeros(len(groups))
        following = np.roll(groups, -1, axis=1)
        rate = pair_rates(network, groups, following, machines).min(axis=1)
        delay = network.delay[groups, following].max(axis=1)
        share = 2 * (members - 1) / members
        return share * bits / (self.parameters.goodput * rate * 1e9) + 2 * (members - 1) * delay
