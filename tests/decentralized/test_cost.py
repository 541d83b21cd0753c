"""The cost model: hand-computed costs, brute force, scipy's and networkx's algorithms, symmetry, constants, bad input."""

import itertools

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sheaf.decentralized.cost import Cost, CostModel, Placement, brute_force, partitions
from sheaf.decentralized.network import Network, fluidstack_three_region, load_case, random_cities, rank_maps

IDENTITY = {1: 3.440, 3: 16.087, 4: 34.802, 5: 49.218}  # the published constants on the natural order


def drawn(n: int, seed: int, *, symmetric: bool = True) -> Network:
    rng = np.random.default_rng(seed)
    network = Network.from_matrices(rng.uniform(1, 200, (n, n)), rng.uniform(0.2, 5, (n, n)))
    return network.symmetric() if symmetric else network


def natural(stages: int = 8, pipelines: int = 8) -> Placement:
    return Placement(np.arange(stages * pipelines).reshape(pipelines, stages))


def test_a_cost_computed_by_hand():
    # two regions of two devices: 10 ms and 1 Gbit/s across, 0 ms and 8 Gbit/s inside
    network = Network.from_regions({"a": 2, "b": 2}, {("a", "b"): (10, 1)}, inside=(0, 8))
    model = CostModel(2, 2, c_pp=1.0, c_dp=2.0)
    across = model.evaluate(network, [0, 1, 0, 1])  # stages mix regions: a hop stays inside, gradients go across
    assert across.pp == pytest.approx(2 * 8 * 1.0 / 8)
    assert across.dp == pytest.approx(2 * (0.010 + 8 * 2.0 / (2 * 1)))
    inside = model.evaluate(network, [0, 0, 1, 1])
    assert inside.pp == pytest.approx(2 * (0.010 + 8 * 1.0 / 1))
    assert inside.dp == pytest.approx(2 * (8 * 2.0 / (2 * 8)))
    assert inside.total == inside.dp + inside.pp


@pytest.mark.parametrize(("case", "cost"), IDENTITY.items())
def test_the_natural_order_costs_what_the_papers_search_reaches(case, cost):
    model, network = CostModel.compat(), load_case(case)
    assert model.of_placement(network, natural()).total == pytest.approx(cost, abs=1e-3)
    assert model.evaluate(network, natural().partition).total == pytest.approx(cost, abs=1e-3)


def test_case_2_placed_by_hand_costs_its_known_optimum():
    # four machines with one GPU, then one machine with four, in every pipeline
    grid = [[*range(32 + 4 * p, 36 + 4 * p), *range(4 * p, 4 * p + 4)] for p in range(8)]
    assert CostModel.compat().of_placement(load_case(2), Placement(np.array(grid))).total == pytest.approx(31.634, abs=1e-3)


def test_published_random_maps_cost_more_than_the_natural_order():
    model = CostModel.compat()
    for case in (1, 3, 4, 5):
        network = load_case(case)
        for ranks in rank_maps().values():
            cost = model.of_placement(network, Placement.from_ranks(ranks, 8)).total
            assert cost > 1.5 * IDENTITY[case]


@pytest.mark.parametrize(("stages", "pipelines"), [(4, 2), (2, 4), (2, 3), (3, 2), (1, 4), (5, 1)])
@pytest.mark.parametrize("seed", range(3))
def test_the_best_partition_costs_what_brute_force_finds(stages, pipelines, seed):
    network, model = drawn(stages * pipelines, seed), CostModel.compat(stages, pipelines)
    _, least, _ = brute_force(network, model)
    best = min(model.evaluate(network, p).total for p in partitions(network.size, stages))
    assert best == pytest.approx(least, rel=1e-12)
    assert model.totals(network, list(partitions(network.size, stages))).min() == pytest.approx(least, rel=1e-12)


@settings(max_examples=25, deadline=None)
@given(st.sampled_from([(2, 3), (3, 3), (4, 2), (6, 2), (8, 8), (1, 3), (3, 1)]), st.integers(0, 2**31), st.booleans())
def test_a_cost_is_attained_by_its_placement(shape, seed, symmetric):
    stages, pipelines = shape
    network, model = drawn(stages * pipelines, seed, symmetric=symmetric), CostModel.compat(stages, pipelines)
    partition = np.random.default_rng(seed).permutation(network.size) % stages
    cost = model.evaluate(network, partition)
    fixed = model.of_placement(network, cost.placement)
    assert (fixed.dp, fixed.pp) == pytest.approx((cost.dp, cost.pp), rel=1e-12)
    assert sorted(map(sorted, cost.groups)) == sorted(sorted(np.flatnonzero(partition == g).tolist()) for g in range(stages))
    assert cost.total == pytest.approx(model.totals(network, partition)[0], rel=1e-12)
    assert cost.pp == pytest.approx(2 * sum(cost.hops))


def independent(network: Network, model: CostModel, partition: np.ndarray) -> float:
    """COMM again with networkx for the matchings and permutations for the route."""
    pp, dp, _ = (w.numpy() for w in model.weights(network))
    groups = [np.flatnonzero(partition == g) for g in range(model.stages)]
    worst = max(sum(dp[d, e] for e in g) for g in groups for d in g)
    between = {}
    for (i, a), (j, b) in itertools.permutations(enumerate(groups), 2):
        for limit in np.unique(pp[np.ix_(a, b)]):
            graph = nx.Graph()
            graph.add_nodes_from(("row", d) for d in a)
            graph.add_edges_from((("row", d), ("column", e)) for d in a for e in b if pp[d, e] <= limit)
            rows = [("row", d) for d in a]
            if len(nx.bipartite.hopcroft_karp_matching(graph, rows)) == 2 * len(a):
                between[i, j] = limit
                break
    orders = itertools.permutations(range(model.stages))
    return worst + 2 * min(sum(between[p] for p in itertools.pairwise(order)) for order in orders)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("stages", "pipelines"), [(4, 4), (5, 3), (3, 7)])
def test_costs_agree_with_networkx_and_all_orders(stages, pipelines, seed):
    network = random_cities(stages * pipelines, 6, seed) if seed % 2 else drawn(stages * pipelines, seed)
    model = CostModel.compat(stages, pipelines)
    partition = np.random.default_rng(seed).permutation(network.size) % stages
    assert model.evaluate(network, partition).total == pytest.approx(independent(network, model, partition), rel=1e-12)


def test_uneven_directions_enter_with_the_mean_of_their_seconds():
    network, model = fluidstack_three_region(per_region=2), CostModel.compat(2, 3)
    pp = model.weights(network)[0].numpy()
    east, west = network.regions.index("East"), network.regions.index("West")
    there, back = (network.delay[i, j] + 8 * model.c_pp / network.bandwidth[i, j] for i, j in ((east, west), (west, east)))
    assert pp[east, west] == pytest.approx((there + back) / 2)
    assert np.array_equal(pp, pp.T)
    assert (np.diag(pp) == 0).all()


def test_the_constants_are_those_published_and_those_corrected():
    assert CostModel.compat().c_pp == pytest.approx(0.471249, abs=1e-6)
    assert CostModel.compat().c_dp == pytest.approx(0.65)
    assert CostModel.corrected().c_pp == pytest.approx(0.512)
    assert CostModel.corrected().c_dp == pytest.approx(0.302, abs=1e-3)
    assert [(m.c_pp, m.c_dp) for m in map(CostModel.may2022, (1, 4, 5))] == [(0.28125, 1.0), (0.4, 0.7), (0.5, 0.9)]


def test_ranks_and_grids_are_two_forms_of_one_placement():
    ranks = rank_maps()[2023]
    placement = Placement.from_ranks(ranks, 8)
    assert np.array_equal(placement.ranks, ranks)
    assert np.array_equal(placement.partition, ranks % 8)
    for device in (0, 17, 63):
        assert placement.grid[ranks[device] // 8, ranks[device] % 8] == device


def test_more_stages_than_an_exact_route_can_take_still_give_a_placement():
    network, model = drawn(36, 1), CostModel.compat(18, 2)
    cost = model.evaluate(network, np.arange(36) % 18)
    assert isinstance(cost, Cost)
    assert model.of_placement(network, cost.placement).total == pytest.approx(cost.total, rel=1e-12)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: CostModel(0, 8), "stages and pipelines must be at least 1; got 0 and 8"),
        (lambda: CostModel(c_pp=-1), "must be positive; got -1"),
        (lambda: CostModel(c_dp=float("nan")), "must be positive"),
        (lambda: CostModel.may2022(7), "case 7 is unknown; the cases are 1, 2, 3, 4, 5"),
        (lambda: CostModel.compat(7, 8).weights(load_case(1)), "64 devices but 7 stages x 8 pipelines need 56"),
        (lambda: CostModel.compat().evaluate(load_case(1), np.zeros(64, int)), "every stage needs 8 devices"),
        (lambda: CostModel.compat().of_placement(load_case(1), natural(16, 4)), "the job has 8 pipelines x 8 stages"),
        (lambda: Placement(np.zeros((2, 2), int)), "every device 0..N-1 once"),
        (lambda: Placement(np.arange(4)), r"must be \[pipelines, stages\]"),
        (lambda: Placement.from_ranks(np.arange(9), 2), "9 ranks do not divide into pipelines of 2 stages"),
        (lambda: list(partitions(7, 2)), "7 devices do not divide into 2 equal groups"),
        (lambda: brute_force(drawn(12, 0), CostModel.compat(4, 3)), "too many placements"),
    ],
)
def test_bad_input_is_refused_with_a_sentence(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()
