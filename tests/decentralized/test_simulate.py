"""The simulator: an independent event simulation agrees, limits hold, links count by direction, cards are shared fairly."""

from types import SimpleNamespace

import numpy as np
import pytest
import simpy
from hypothesis import given, settings
from hypothesis import strategies as st

from sheaf.decentralized.network import Network, load_case
from sheaf.decentralized.simulate import Machines, Parameters, Simulator, barrier_seconds, fair_share, sweep
from sheaf.decentralized.workload import Workload

PLAIN = Parameters(launch=0.02, layer=0.02, update=0, goodput=1, occupancy=0, barrier=0, contention=1)


def uniform(devices, delay_ms=5.0, gbps=2.0, **more):
    return Network.from_matrices(np.full((devices, devices), delay_ms), np.full((devices, devices), gbps), **more)


def uneven(devices, seed):
    """Directions differ, speeds differ."""
    rng = np.random.default_rng(seed)
    return Network.from_matrices(
        rng.uniform(1, 80, (devices, devices)), rng.uniform(0.3, 5, (devices, devices)), speed=rng.uniform(0.5, 2, devices),
    )


def by_events(network, order, compute, bits, micro_batches):
    """Seconds of one direction of one pipeline, as processes and resources: written without the recurrence."""
    env = simpy.Environment()
    queues = [simpy.Store(env) for _ in order]
    done = []

    def transmit(link, wait, stage, i, wire):
        with link.request() as turn:
            yield turn
            yield env.timeout(wire)
        yield env.timeout(wait)
        yield queues[stage + 1].put(i)

    def stage_process(s):
        link = simpy.Resource(env)
        for _ in range(micro_batches):
            i = yield queues[s].get()
            yield env.timeout(compute / network.speed[order[s]])
            if s + 1 < len(order):
                a, b = order[s], order[s + 1]
                env.process(transmit(link, network.delay[a, b], s, i, bits / (network.bandwidth[a, b] * 1e9)))
            else:
                done.append(env.now)

    for i in range(micro_batches):
        queues[0].put(i)
    for s in range(len(order)):
        env.process(stage_process(s))
    env.run()
    assert len(done) == micro_batches
    return max(done)


@pytest.mark.parametrize("seed", range(6))
def test_an_independent_event_simulation_gives_the_same_seconds(seed):
    rng = np.random.default_rng(100 + seed)
    stages, pipelines = int(rng.integers(2, 6)), int(rng.integers(1, 4))
    network = uneven(stages * pipelines, seed)
    grid = rng.permutation(stages * pipelines).reshape(pipelines, stages)
    work = Workload(layers=2 * stages, batch=6 * pipelines, stages=stages, pipelines=pipelines, accumulation=6)
    found = Simulator(PLAIN, mode="none").iteration(network, grid, work)
    forward, backward = PLAIN.compute(work)
    for p, row in enumerate(grid):
        there = by_events(network, row, forward, work.activation_bits, 6)
        back = by_events(network, row[::-1], backward, work.activation_bits, 6)
        assert found.per_pipeline[p] == pytest.approx([there, back], rel=1e-12)
    assert found.seconds == pytest.approx(found.per_pipeline.max(axis=0).sum())


def test_free_links_leave_the_textbook_pipeline():
    found = Simulator(PLAIN, mode="none").iteration(uniform(8, 0, np.inf), np.arange(8)[None], Workload(batch=64, pipelines=1))
    forward, backward = PLAIN.compute(Workload())
    assert found.forward == pytest.approx((64 + 7) * forward)
    assert found.backward == pytest.approx((64 + 7) * backward)


def test_a_slow_link_sets_the_pace():
    network = uniform(8, 0, 0.1)
    work = Workload(batch=64, pipelines=1)
    found = Simulator(PLAIN, mode="none").iteration(network, np.arange(8)[None], work)
    wire = work.activation_bits / 0.1e9
    forward, _ = PLAIN.compute(work)
    assert found.forward == pytest.approx(64 * wire + 6 * wire + 8 * forward)


def test_the_direction_of_a_link_matters():
    bandwidth = np.full((2, 2), 10.0)
    bandwidth[0, 1] = 0.1
    network = Network.from_matrices(np.zeros((2, 2)), bandwidth)
    work = Workload(layers=2, batch=8, stages=2, pipelines=1)
    found = Simulator(PLAIN, mode="none").iteration(network, np.array([[0, 1]]), work)
    turned = Simulator(PLAIN, mode="none").iteration(network, np.array([[1, 0]]), work)
    assert found.forward > 5 * turned.forward
    assert turned.backward > found.backward


def test_a_device_at_half_speed_slows_the_whole():
    work = Workload(batch=64, pipelines=1)
    speeds = ([1] * 8, [1, 1, 1, 0.5, 1, 1, 1, 1])
    networks = [uniform(8, 0, np.inf, speed=s) for s in speeds]
    even, slow = (Simulator(PLAIN, mode="none").iteration(n, np.arange(8)[None], work) for n in networks)
    assert slow.seconds == pytest.approx(even.seconds * 2, rel=0.1)


@given(st.integers(0, 10**6), st.floats(1.01, 3))
@settings(max_examples=25, deadline=None)
def test_better_links_are_never_slower(seed, factor):
    network = uneven(8, seed)
    better = Network(network.name, network.delay / factor, network.bandwidth * factor, speed=network.speed)
    grid = np.random.default_rng(seed).permutation(8).reshape(2, 4)
    work = Workload(layers=4, batch=16, stages=4, pipelines=2, accumulation=4)
    for mode in ("central", "sharded", "none"):
        one, other = (Simulator(mode=mode).iteration(n, grid, work).seconds for n in (network, better))
        assert other < one


@given(st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_sweep_tasks_do_not_overlap_and_follow_their_input(seed):
    rng = np.random.default_rng(seed)
    compute, wire, delay = rng.uniform(0, 1, (3, 4)), rng.uniform(0, 1, (3, 3)), rng.uniform(0, 1, (3, 3))
    start, end = sweep(compute, wire, delay, 7)
    assert (start[:, :, 1:] >= end[:, :, :-1] - 1e-12).all()
    assert (start[:, 1:] >= end[:, :-1] + (wire + delay)[:, :, None] - 1e-12).all()


def test_trace_covers_the_first_step():
    work = Workload(batch=1024)
    found = Simulator(PLAIN).iteration(load_case(5), np.arange(64).reshape(8, 8), work, trace=True)
    rows = found.trace
    assert len(rows) == 2 * 64 * 64
    ends = rows.groupby(["kind", "pipeline"])["end"].max().unstack("kind")
    assert np.allclose(ends["forward"], found.per_pipeline[:, 0])
    first = rows[(rows["kind"] == "backward") & (rows["micro_batch"] == 0) & (rows["pipeline"] == 0)].set_index("stage")["start"]
    assert first.is_monotonic_decreasing and first[7] >= ends["forward"].max()


def test_central_gradients_do_not_grow_with_replicas_but_sharded_ones_do():
    seconds = {}
    for mode in ("central", "sharded"):
        for replicas in (2, 8):
            work = Workload(batch=64 * replicas, pipelines=replicas)
            grid = np.arange(8 * replicas).reshape(replicas, 8)
            seconds[mode, replicas] = Simulator(PLAIN, mode=mode).gradient_seconds(uniform(8 * replicas, 0), grid, work).max()
    assert seconds["central", 8] == pytest.approx(seconds["central", 2])
    assert seconds["sharded", 8] == pytest.approx(seconds["sharded", 2] * (7 / 8) / (1 / 2))
    work = Workload(batch=512, pipelines=8)
    assert seconds["central", 8] == pytest.approx(2 * 8 * work.gradient_bytes.max() / 2e9)


def test_central_gradients_go_once_around_and_back_by_direction():
    """Three replicas in a ring 0 -> 1 -> 2 -> 0: the reduce to 0 uses the last two edges, the broadcast the first two."""
    work = Workload(layers=2, batch=24, stages=1, pipelines=3, vocabulary=0, accumulation=8)
    grid = np.arange(3)[:, None]
    for edge, uses in (((0, 1), 1), ((1, 2), 2), ((2, 0), 1), ((1, 0), 0), ((2, 1), 0)):
        bandwidth = np.full((3, 3), 1e6)
        bandwidth[edge] = 1.0
        network = Network.from_matrices(np.zeros((3, 3)), bandwidth)
        found = Simulator(PLAIN).gradient_seconds(network, grid, work).item()
        assert found == pytest.approx(uses * 8 * work.gradient_bytes[0] / 1e9, abs=1e-3), edge


def test_barrier_takes_log_rounds_and_prefers_near_neighbours():
    assert barrier_seconds(np.full((64, 64), 0.1), np.arange(64)) == pytest.approx(0.6)
    assert barrier_seconds(np.full((8, 8), 0.1), np.arange(1)) == 0
    network = load_case(5)
    mixed = np.random.default_rng(0).permutation(64)
    assert barrier_seconds(network.delay, np.arange(64)) < barrier_seconds(network.delay, mixed)


def test_fair_share_by_hand():
    machines = Machines.blocks([3, 1, 1, 1], nic=9)
    # three flows leave machine 0; one may take only 1, so the two others split the rest
    rate = fair_share(np.array([0, 1, 2]), np.array([3, 4, 5]), np.array([1.0, np.inf, np.inf]), machines)
    assert rate == pytest.approx([1, 4, 4])
    # arrivals are limited as well: two machines send to machine 0
    rate = fair_share(np.array([3, 4]), np.array([0, 1]), np.array([np.inf, np.inf]), machines)
    assert rate == pytest.approx([4.5, 4.5])
    # the other direction of the card and links inside a machine are free
    rate = fair_share(np.array([0, 3, 0]), np.array([3, 0, 1]), np.array([np.inf, np.inf, 100]), machines)
    assert rate == pytest.approx([9, 9, 100])


@given(st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_fair_share_is_feasible_and_no_flow_can_gain_from_a_slower_or_equal_one(seed):
    rng = np.random.default_rng(seed)
    machines = Machines(np.repeat(np.arange(5), 3), rng.uniform(1, 10, 5))
    a, b = rng.integers(0, 15, 12), rng.integers(0, 15, 12)
    limit = rng.uniform(0.5, 8, 12)
    rate = fair_share(a, b, limit, machines)
    crossing = machines.of[a] != machines.of[b]
    assert (rate <= limit * (1 + 1e-9)).all() and (rate[~crossing] == limit[~crossing]).all()
    cards = [(end, m) for m in range(5) for end in (a, b)]
    use = [[f for f in np.flatnonzero(crossing) if machines.of[end[f]] == m] for end, m in cards]
    load = np.array([rate[flows].sum() for flows in use])
    room = np.array([machines.nic[m] for _, m in cards])
    assert (load <= room * (1 + 1e-9)).all()
    for f in np.flatnonzero(crossing):
        if rate[f] < limit[f] * (1 - 1e-9):  # then some full card carries it, and it is among the largest flows there
            tight = [k for k, flows in enumerate(use) if f in flows and load[k] >= room[k] * (1 - 1e-9)]
            assert any(rate[f] >= rate[use[k]].max() * (1 - 1e-9) for k in tight)


def test_a_shared_card_separates_random_from_scheduled_in_case_1():
    network, work = load_case(1), Workload()
    scheduled = np.arange(64).reshape(8, 8)
    mixed = np.random.default_rng(1).permutation(64).reshape(8, 8)
    small = Machines.blocks([8] * 8, 5, shared_pairs=True)
    one, other = (Simulator().iteration(network, g, work, small) for g in (scheduled, mixed))
    assert one.per_pipeline.max() < 0.5 * other.per_pipeline.max()
    assert one.data_parallel > Simulator().iteration(network, scheduled, work, Machines.case(1)).data_parallel


def test_placements_are_taken_as_objects_or_arrays_and_checked():
    network, work, run = load_case(3), Workload(), Simulator(PLAIN).iteration
    grid = np.arange(64).reshape(8, 8)
    assert run(network, SimpleNamespace(grid=grid), work).seconds == run(network, grid, work).seconds
    twice = grid.copy()
    twice[0, 0] = 1
    refused = {"8 pipelines of 8 stages": grid[:4], "holds two tasks": twice, "0 to 63": grid + 1, "device numbers": grid / 1}
    for sentence, bad in refused.items():
        with pytest.raises(ValueError, match=sentence):
            run(network, bad, work)


def test_bad_constants_modes_and_machines_are_refused():
    with pytest.raises(ValueError, match="goodput = 0"):
        Parameters(goodput=0)
    with pytest.raises(ValueError, match="layer = -1"):
        Parameters(layer=-1)
    with pytest.raises(ValueError, match="central, sharded, none"):
        Simulator(mode="ring")
    with pytest.raises(ValueError, match="cases are 1 to 5"):
        Machines.case(6)
    with pytest.raises(ValueError, match="machine indices"):
        Machines(np.array([0, 3]), np.array([1.0]))
    with pytest.raises(ValueError, match="for 4 devices"):
        Simulator().iteration(load_case(3), np.arange(64).reshape(8, 8), Workload(), Machines.blocks([4], 1))
