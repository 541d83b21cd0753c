"""Coarsening and unequal devices: bundles, agreement with the exact search, layers, memory, refusals."""

from dataclasses import replace

import numpy as np
import pytest

from sheaf.decentralized.cost import CostModel
from sheaf.decentralized.network import Network, load_case, random_cities
from sheaf.decentralized.scale import bundles, coarse_fit, even_layers, fit_uneven
from sheaf.decentralized.search import Scheduler


@pytest.mark.parametrize("size", [1, 2, 4, 8, 16])
def test_bundles_hold_every_device_once_and_stay_inside_a_region_where_they_can(size):
    network = random_cities(64, 6, 1)
    found = bundles(network, size)
    assert found.shape == (64 // size, size)
    assert sorted(found.ravel().tolist()) == list(range(64))
    labels = np.array(network.regions)
    pure = sum(len(set(labels[row])) == 1 for row in found)
    assert pure >= sum(np.count_nonzero(labels == r) // size for r in set(network.regions))


def test_a_network_without_regions_is_bundled_by_nearness():
    case = load_case(5)
    plain = Network.from_matrices(case.delay * 1e3, case.bandwidth)
    labels = np.array(case.regions)
    assert all(len(set(labels[row])) == 1 for row in bundles(plain, 8))


@pytest.mark.parametrize("bundle", [2, 4])
@pytest.mark.parametrize("case", [3, 4])
def test_coarse_and_exact_search_agree_on_64_devices(case, bundle):
    network, model = load_case(case), CostModel.compat()
    exact = Scheduler(method="improved", evaluations=1500).fit(network).cost_.total
    coarse = coarse_fit(network, model, bundle, evaluations=1500)
    assert coarse.total == pytest.approx(model.evaluate(network, coarse.partition).total, rel=1e-12)
    assert coarse.total >= exact - 1e-9
    assert coarse.coarse >= coarse.total - 1e-6


def test_bundles_of_one_change_nothing():
    network, model = random_cities(12, 5, 0), CostModel.compat(4, 3)
    coarse = coarse_fit(network, model, 1, evaluations=300)
    assert coarse.coarse == pytest.approx(coarse.total, rel=1e-9)


def test_512_devices_are_placed_better_than_at_random():
    network, model = random_cities(512, 10, 0), CostModel.compat(8, 64)
    coarse = coarse_fit(network, model, 8, evaluations=600)
    assert np.array_equal(np.bincount(coarse.partition), np.full(8, 64))
    chance = model.totals(network, np.random.default_rng(0).permutation(512) % 8)[0]
    assert coarse.total < chance


def test_layers_follow_speed_and_memory():
    given, slowest = even_layers(np.array([1.0, 1.0, 2.0]), np.full(3, np.inf), 12, 1.0)
    assert (given.tolist(), slowest) == ([3, 3, 6], 3.0)
    given, slowest = even_layers(np.array([1.0, 1.0, 2.0]), np.array([8.0, 8.0, 4.0]), 12, 1.0)
    assert (given.sum(), given[2], slowest) == (12, 4, 4.0)
    assert even_layers(np.ones(2), np.array([3.0, 3.0]), 7, 1.0)[1] == np.inf


@pytest.mark.parametrize("seed", range(3))
def test_layers_are_handed_out_as_well_as_can_be(seed):
    rng = np.random.default_rng(seed)
    speed, room = rng.uniform(0.3, 3, 3), rng.integers(2, 7, 3)
    layers = 6
    options = [
        (a, b, layers - a - b) for a in range(7) for b in range(7 - a) if (np.array([a, b, layers - a - b]) <= room).all()
    ]
    best = min(max(np.array(o) / speed) for o in options)
    assert even_layers(speed, room.astype(float), layers, 1.0)[1] == pytest.approx(best)


def test_slow_devices_cost_less_when_they_are_placed_with_care():
    speed = np.ones(12)
    speed[[0, 4, 8]] = 0.25  # one slow device in each pipeline of the natural order
    network, model = replace(random_cities(12, 3, 0), speed=speed), CostModel.compat(4, 3)
    blind = Scheduler(4, 3, "improved", 500, cost=model).fit(network)
    slowest = np.array([speed[blind.placement_.partition == g].min() for g in range(4)])
    alone = blind.cost_.total + 5.0 * even_layers(slowest, np.full(4, np.inf), 24, 0.0)[1]
    found = fit_uneven(network, model, layers=24, layer_seconds=5.0, evaluations=800)
    assert found.total <= alone + 1e-9
    assert found.layers.sum() == 24
    assert found.communication == pytest.approx(model.evaluate(network, found.partition).total, rel=1e-9)


def test_equal_devices_get_equal_layers():
    network, model = random_cities(12, 3, 1), CostModel.compat(4, 3)
    found = fit_uneven(network, model, layers=24, evaluations=200)
    assert found.layers.tolist() == [6, 6, 6, 6]
    assert found.compute == 6


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: bundles(random_cities(12, 3, 0), 5), "12 devices do not divide into bundles of 5"),
        (lambda: bundles(random_cities(12, 3, 0), 0), "do not divide into bundles of 0"),
        (lambda: coarse_fit(random_cities(12, 3, 0), CostModel.compat(4, 3), 2), "3 pipelines do not divide into bundles of 2"),
        (
            lambda: fit_uneven(
                replace(random_cities(6, 3, 0), memory=np.full(6, 4.0)),
                CostModel.compat(3, 2), layers=24, layer_gb=1, evaluations=8,
            ),
            "24 layers of 1 GB fit into no placement tried",
        ),
    ],
)
def test_what_cannot_be_placed_is_refused_with_a_sentence(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()
