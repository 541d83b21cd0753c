"""Other ways to find a placement: each is feasible, honest about what it looked at, and no better than the optimum."""

import numpy as np
import pytest

from sheaf.decentralized.cost import CostModel, brute_force
from sheaf.decentralized.network import load_case, random_cities
from sheaf.decentralized.peers import PEERS, annealing, clustering, cp_sat, exhaustive, metis, natural_order
from sheaf.decentralized.search import Scheduler

SHAPES = [(3, 4), (4, 3), (2, 6)]


def feasible(found, network, model) -> None:
    grid = found.cost.placement.grid
    assert sorted(grid.ravel().tolist()) == list(range(network.size))
    assert model.of_placement(network, found.cost.placement).total == pytest.approx(found.cost.total, rel=1e-12)
    assert found.seconds > 0
    assert found.evaluations >= 1


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("stages", "pipelines"), SHAPES)
def test_no_arm_beats_the_exhaustive_one(stages, pipelines, seed):
    network, model = random_cities(stages * pipelines, 6, seed), CostModel.compat(stages, pipelines)
    best = exhaustive(network, model)
    assert best.optimal
    feasible(best, network, model)
    for arm in PEERS.values():
        found = arm(network, model, seed=seed, evaluations=300)
        feasible(found, network, model)
        assert found.cost.total >= best.cost.total - 1e-9
    for method in ("paper", "hybrid", "improved", "fair_random", "random"):
        fitted = Scheduler(stages, pipelines, method, 300, 50, seed, model).fit(network)
        assert fitted.cost_.total >= best.cost.total - 1e-9


@pytest.mark.parametrize(("stages", "pipelines"), [(4, 2), (2, 4)])
def test_enumeration_and_cp_sat_find_what_brute_force_finds(stages, pipelines):
    for seed in range(2):
        network, model = random_cities(8, 5, seed), CostModel.compat(stages, pipelines)
        _, least, _ = brute_force(network, model)
        assert exhaustive(network, model).cost.total == pytest.approx(least, rel=1e-12)
        solved = cp_sat(network, model, limit=60)
        feasible(solved, network, model)
        assert solved.optimal
        assert solved.cost.total == pytest.approx(least, rel=1e-4)  # its weights are integers of six digits


def test_all_partitions_of_16_devices_are_within_reach():
    network, model = random_cities(16, 6, 0), CostModel.compat(4, 4)
    found = exhaustive(network, model)
    assert found.evaluations <= 2_627_625 and found.optimal
    assert Scheduler(4, 4, "improved", 2000, cost=model).fit(network).cost_.total >= found.cost.total - 1e-9


def test_the_natural_order_is_optimal_where_the_paper_used_it_and_no_longer_once_shuffled():
    model, network = CostModel.compat(), load_case(5)
    assert natural_order(network, model).cost.total == pytest.approx(49.218, abs=1e-3)
    shuffled = network.select(np.random.default_rng(0).permutation(64).tolist())
    assert natural_order(shuffled, model).cost.total > 2 * 49.218
    assert metis(shuffled, model, evaluations=600).cost.total < 1.05 * 49.218
    assert clustering(shuffled, model).cost.total == pytest.approx(49.218, abs=1e-3)


def test_annealing_repeats_with_its_seed_and_is_worse_than_the_papers_moves():
    model, network = CostModel.compat(), load_case(1)
    first, again = (annealing(network, model, seed=1, evaluations=600) for _ in range(2))
    assert np.array_equal(first.cost.placement.grid, again.cost.placement.grid)
    assert first.cost.total > 1.5 * Scheduler(evaluations=600).fit(network).cost_.total


def test_metis_repairs_uneven_parts():
    for seed in range(4):
        network, model = random_cities(15, 7, seed), CostModel.compat(5, 3)
        feasible(metis(network, model, seed=seed, evaluations=50), network, model)


def test_single_pipelines_and_single_stages_are_placed_too():
    for stages, pipelines in ((6, 1), (1, 6)):
        network, model = random_cities(6, 3, 0), CostModel.compat(stages, pipelines)
        for arm in (*PEERS.values(), exhaustive):
            feasible(arm(network, model, evaluations=40), network, model)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: exhaustive(random_cities(20, 5, 0), CostModel.compat(4, 5)), "20 devices are too many to enumerate"),
        (lambda: cp_sat(random_cities(20, 5, 0), CostModel.compat(4, 5)), "20 devices are too many for CP-SAT"),
        (lambda: natural_order(random_cities(9, 5, 0), CostModel.compat(4, 2)), "9 devices but 4 stages x 2 pipelines need 8"),
    ],
)
def test_what_is_too_large_is_refused_with_a_sentence(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()
