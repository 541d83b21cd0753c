"""Megatron and DeepSpeed models: 1F1B against an independent event simulation, rank layout, rings."""

import numpy as np
import pytest
import simpy

from sheaf.decentralized.baselines import RingParameters, RingSimulator, one_forward_one_backward, rank_grid
from sheaf.decentralized.network import Network
from sheaf.decentralized.workload import Workload


def by_events(forward, backward, down, up, micro_batches):
    """One pipeline of 1F1B with blocking sends, as processes that wait for messages."""
    env, stages = simpy.Environment(), len(forward)
    inbox = [{kind: simpy.Store(env) for kind in "FB"} for _ in range(stages)]
    end = []

    def run(s):
        def task(kind):
            first = s == 0 if kind == "F" else s == stages - 1
            if not first:
                yield inbox[s][kind].get()
            yield env.timeout(forward[s] if kind == "F" else backward[s])
            if kind == "F" and s + 1 < stages:
                yield env.timeout(down[s])
                yield inbox[s + 1]["F"].put(1)
            if kind == "B" and s > 0:
                yield env.timeout(up[s - 1])
                yield inbox[s - 1]["B"].put(1)

        warm = min(stages - 1 - s, micro_batches)
        for kind in "F" * warm + "FB" * (micro_batches - warm) + "B" * warm:
            yield from task(kind)
        end.append(env.now)

    for s in range(stages):
        env.process(run(s))
    env.run()
    assert len(end) == stages
    return max(end)


@pytest.mark.parametrize(("stages", "micro_batches"), [(1, 5), (2, 1), (3, 7), (4, 2), (5, 12)])
def test_one_forward_one_backward_equals_event_simulation(stages, micro_batches):
    rng = np.random.default_rng(stages)
    forward, backward = rng.uniform(0.1, 1, (2, 3, stages))
    down, up = rng.uniform(0.1, 2, (2, 3, stages - 1))
    found = one_forward_one_backward(forward, backward, down, up, micro_batches)
    for p in range(3):
        assert found[p] == pytest.approx(by_events(forward[p], backward[p], down[p], up[p], micro_batches), rel=1e-12)


def test_rank_order_is_tensor_then_data_then_stage():
    grid = rank_grid(np.arange(64), stages=4, tensor=2)
    assert grid.shape == (8, 4, 2)
    assert list(grid[0, 0]) == [0, 1] and list(grid[1, 0]) == [2, 3] and list(grid[0, 1]) == [16, 17]
    with pytest.raises(ValueError, match="64 ranks do not split"):
        rank_grid(np.arange(64), 5)


def test_tensor_parallelism_on_a_slow_network_is_bound_by_its_all_reduces():
    network = Network.from_matrices(np.zeros((64, 64)), np.full((64, 64), 10.0))
    ring = RingSimulator(RingParameters(launch=0, layer=0, latency=0, goodput=1))
    for stages, tensor, seconds in ((1, 8, 223), (2, 4, 100), (4, 2, 38.6)):
        found = ring.pipeline(network, rank_grid(np.arange(64), stages, tensor), Workload())
        one = 2 * (tensor - 1) / tensor * Workload().activation_bits / 10e9
        assert found > 128 * 24 / stages * 6 * one  # six all-reduces a layer and micro-batch on every stage
        assert found == pytest.approx(seconds, rel=0.25)


def test_zero3_traffic_falls_with_the_micro_batch():
    network = Network.from_matrices(np.zeros((64, 64)), np.full((64, 64), 1.0))
    ring = RingSimulator(RingParameters(launch=0, layer=0, latency=0, goodput=1))
    one, all_at_once = (ring.zero3(network, np.arange(64), Workload(micro_batch=m)) for m in (1, 16))
    assert one == pytest.approx(16 * all_at_once)
    bits = 16 * 24 * (12 * 2048**2 + 13 * 2048)
    assert all_at_once == pytest.approx(3 * 63 / 64 * bits / 1e9)


def test_uneven_splits_and_bad_constants_are_refused():
    network = Network.from_matrices(np.zeros((64, 64)), np.full((64, 64), 1.0))
    with pytest.raises(ValueError, match="do not split over P16"):
        RingSimulator().pipeline(network, rank_grid(np.arange(64), 16), Workload())
    with pytest.raises(ValueError, match="does not split over 64 devices"):
        RingSimulator().zero3(network, np.arange(64), Workload(batch=1536, micro_batch=16, accumulation=1))
    with pytest.raises(ValueError, match="latency = -1"):
        RingParameters(latency=-1)
