"""Networks: the published cases, CSV files, regions, directions, and sentences on matrices that make no network."""

from pathlib import Path

import numpy as np
import pytest

from sheaf.decentralized.network import (
    CASES,
    Network,
    city_pairs,
    fluidstack_three_region,
    fluidstack_two_region,
    load_case,
    random_cities,
    rank_maps,
)


def full(n: int, value: float) -> np.ndarray:
    return np.full((n, n), float(value))


def edited(n: int, value: float, **cells: float) -> np.ndarray:
    matrix = full(n, value)
    for cell, other in cells.items():
        i, j = cell[1:].split("_")
        matrix[int(i), int(j)] = other
    return matrix


@pytest.mark.parametrize("case", CASES)
def test_the_five_cases_are_64_devices_with_symmetric_links(case):
    network = load_case(case)
    assert (network.size, network.is_symmetric) == (64, True)
    assert len(network.regions) == 64
    assert (network.speed == 1).all()
    assert np.isinf(network.memory).all()


def test_world_wide_case_holds_the_city_table():
    network, pairs = load_case(5), city_pairs()
    for (a, b), (delay, rate) in pairs.items():
        if a in network.regions and b in network.regions:
            i, j = network.regions.index(a), network.regions.index(b)
            assert (network.delay[i, j] * 1e3, network.bandwidth[i, j]) == pytest.approx((delay, rate))


def test_what_was_set_on_the_machines_differs_inside_regions_only():
    for case in CASES:
        ours, theirs = load_case(case), load_case(case, "tc")
        differs = ours.delay != theirs.delay
        assert differs.any() == (case in (4, 5))
        same_region = np.equal.outer(np.array(ours.regions), np.array(ours.regions))
        assert (~differs | same_region).all()
        assert np.array_equal(ours.bandwidth, theirs.bandwidth)


def test_the_three_region_cloud_is_asymmetric_and_the_two_region_cloud_nearly_even():
    three, two = fluidstack_three_region(), fluidstack_two_region()
    assert (three.size, two.size) == (48, 32)
    east, west = three.regions.index("East"), three.regions.index("West")
    assert three.bandwidth[west, east] > 7 * three.bandwidth[east, west]
    assert not two.is_symmetric
    assert two.delay[0, 1] == pytest.approx(0.5e-3)


def test_both_directions_are_made_equal_by_mean_or_by_the_worse():
    network = fluidstack_three_region(per_region=1)
    mean, worst = network.symmetric(), network.symmetric("worst")
    assert mean.is_symmetric
    assert worst.is_symmetric
    assert mean.bandwidth[0, 2] == pytest.approx((0.15 + 1.17) / 2)
    assert worst.bandwidth[0, 2] == pytest.approx(0.15)
    with pytest.raises(ValueError, match="'best' is unknown; use 'mean' or 'worst'"):
        network.symmetric("best")


def test_rank_maps_are_permutations_that_keep_device_0():
    maps = rank_maps()
    assert sorted(maps) == [2022, 2023, 2024]
    for ranks in maps.values():
        assert sorted(ranks) == list(range(64))
        assert ranks[0] == 0


def test_a_csv_file_is_read_back_as_written(tmp_path: Path):
    rng = np.random.default_rng(0)
    delay, rate = rng.uniform(1, 9, (3, 3)), rng.uniform(1, 9, (3, 3))
    np.savetxt(tmp_path / "d.csv", delay, delimiter=",", fmt="%.17g")
    np.savetxt(tmp_path / "b.csv", rate, delimiter=",", fmt="%.17g")
    (tmp_path / "r.csv").write_text("device,region\n1,b\n0,a\n2,c\n")
    network = Network.from_csv(tmp_path / "d.csv", tmp_path / "b.csv", tmp_path / "r.csv")
    assert np.array_equal(network.delay, delay / 1e3)
    assert np.array_equal(network.bandwidth, rate)
    assert network.regions == ("a", "b", "c")
    assert network.name == "d"


def test_arrays_cannot_be_changed_behind_the_network():
    network = random_cities(4, 2, 0)
    with pytest.raises(ValueError, match="read-only"):
        network.delay[0, 1] = 0


def test_random_cities_repeat_with_their_seed_and_leave_no_city_empty():
    for seed in range(20):
        network = random_cities(12, 6, seed)
        assert len(set(network.regions)) == 6
        assert np.array_equal(network.delay, random_cities(12, 6, seed).delay)
    assert not np.array_equal(random_cities(12, 6, 0).delay, random_cities(12, 6, 1).delay)


def test_leaving_devices_take_their_rows_columns_and_labels_along():
    network = load_case(5)
    smaller = network.without([0, 63])
    assert smaller.size == 62
    assert np.array_equal(smaller.delay, network.delay[1:63, 1:63])
    assert smaller.regions == network.regions[1:63]
    assert network.select([5, 2]).delay[0, 1] == network.delay[5, 2]


@pytest.mark.parametrize(
    ("delay", "rate", "sentence"),
    [
        (np.ones((2, 3)), full(2, 1), r"delay matrix must be square, .* got shape \(2, 3\)"),
        (np.ones(3), full(3, 1), r"delay matrix must be square"),
        (full(3, 1), full(2, 1), r"delay is \(3, 3\) but bandwidth is \(2, 2\)"),
        (full(1, 1), full(1, 1), "at least 2 devices; got 1"),
        (edited(3, 1, c1_2=np.nan), full(3, 1), r"delay\[1, 2\] is not a number"),
        (full(3, 1), edited(3, 1, c2_0=np.nan), r"bandwidth\[2, 0\] is not a number"),
        (edited(3, 1, c0_1=-1), full(3, 1), r"delay\[0, 1\] is negative"),
        (full(3, 1), edited(3, 1, c0_2=-1), r"bandwidth\[0, 2\] is negative"),
        (full(3, 1), edited(3, 1, c0_2=0), r"bandwidth\[0, 2\] is zero; give"),
        (edited(3, 1, c0_2=np.inf), full(3, 1), r"delay\[0, 2\] is infinite; give"),
        (full(3, 1), edited(3, 1, c1_0=0, c1_2=0), "device 1 is disconnected .*leave it out"),
        (edited(3, 1, c0_2=np.inf, c1_2=np.inf), full(3, 1), "device 2 is disconnected"),
    ],
)
def test_matrices_that_make_no_network_are_refused_with_a_sentence(delay, rate, sentence):
    with pytest.raises(ValueError, match=sentence):
        Network.from_matrices(delay, rate)


def test_the_diagonal_may_hold_anything():
    delay, rate = full(3, 1), full(3, 1)
    np.fill_diagonal(delay, np.nan)
    np.fill_diagonal(rate, 0)
    assert Network.from_matrices(delay, rate).size == 3


@pytest.mark.parametrize(
    ("call", "error", "sentence"),
    [
        (lambda: load_case(6), ValueError, r"case 6 is unknown; the cases are 1 \(data centre, on demand\), 2"),
        (lambda: load_case(1, "real"), ValueError, "variant 'real' is unknown; use 'scheduler' or 'tc'"),
        (lambda: random_cities(4, 5, 0), ValueError, r"n_regions = 5 is not in 1\.\.4"),
        (lambda: random_cities(40, 11, 0), ValueError, r"n_regions = 11 is not in 1\.\.10"),
        (lambda: Network.from_regions({"a": 1, "b": 0}, {}), ValueError, "region 'b' has 0 devices"),
        (lambda: Network.from_regions({"a": 1, "b": 1}, {}), ValueError, r"add the pair \('a', 'b'\)"),
        (lambda: load_case(5).without([64]), ValueError, "device 64 does not exist; this network has devices 0 to 63"),
        (lambda: load_case(5).select([1, 1]), ValueError, "a device was named twice"),
        (lambda: Network.from_matrices(full(2, 1), full(2, 1), ["a"]), ValueError, "1 region labels for 2 devices"),
        (lambda: Network.from_matrices(full(2, 1), full(2, 1), speed=[1, 0]), ValueError, r"speed\[1\] is 0.0; it must be"),
        (lambda: Network.from_matrices(full(2, 1), full(2, 1), memory_gb=[1]), ValueError, "1 values of memory for 2"),
        (lambda: Network.from_csv("missing.csv", "missing.csv"), FileNotFoundError, "missing.csv does not exist"),
    ],
)
def test_bad_requests_are_refused_with_a_sentence(call, error, sentence):
    with pytest.raises(error, match=sentence):
        call()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "d.csv is empty"),
        ("1,2\n3", "d.csv row 1 has 1 cells, row 0 has 2"),
        ("a,b\n1,2\n", "d.csv row 0, column 0: 'a' is not a number; the file has no header"),
        ("1,2\n", "delay matrix must be square"),
        ("0,nan\n1,0\n", r"delay\[0, 1\] is not a number"),
    ],
)
def test_bad_csv_files_are_named_with_row_and_column(tmp_path: Path, text, sentence):
    (tmp_path / "d.csv").write_text(text)
    (tmp_path / "b.csv").write_text("0,1\n1,0\n")
    with pytest.raises(ValueError, match=sentence):
        Network.from_csv(tmp_path / "d.csv", tmp_path / "b.csv")
