"""Placement kernels: compiled and reference agree to the last bit, both agree with brute force and published end values."""

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from sheaf.decentralized.cost import CostModel, brute_force
from sheaf.decentralized.network import Network, load_case
from sheaf_kernels import placement
from sheaf_kernels.build import library
from sheaf_kernels.placement.definitions import bottleneck, least_sum, route_length

compiled = pytest.mark.skipif(not library("placement").is_file(), reason="the placement kernel is not built; run `make kernels`")

# (groups, devices of a group): one group, groups of one, oblong both ways, square
SHAPES = [(1, 1), (1, 5), (5, 1), (2, 3), (3, 2), (3, 4), (4, 3), (4, 4), (7, 1), (5, 5)]
SMALL = [(1, 4), (4, 1), (2, 2), (2, 3), (3, 2), (4, 2), (3, 3)]
# best COMM in seconds after 5000 evaluations, with the sizes of May 2022 that the published traces were made with
PAPER_ENDS = {1: 4.795, 3: 14.751, 4: 31.419, 5: 58.666}
HYBRID_ENDS = {1: 10.22, 2: 36.4, 3: 21.027, 4: 34.39, 5: 64.48}


def weights(devices: int, seed: int, levels: int = 0) -> list[torch.Tensor]:
    """pp, dp, cut [N, N]; with ``levels`` few distinct values, so that every rule for ties is used."""
    rng = np.random.default_rng(seed)
    found = []
    for low in (0.1, 0.2, -1.0):
        drawn = rng.integers(1, levels + 1, (devices, devices)) / 3 if levels else rng.uniform(low, 2, (devices, devices))
        even = (drawn + drawn.T) / 2 if not levels else np.triu(drawn) + np.triu(drawn, 1).T
        np.fill_diagonal(even, 0)
        found.append(torch.from_numpy(even))
    return found


def random_partitions(count: int, groups: int, size: int, seed: int) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(np.stack([rng.permutation(np.arange(groups * size) // size) for _ in range(count)]))


def costs(pp: torch.Tensor, dp: torch.Tensor, rows: torch.Tensor, groups: int, backend: str = "auto") -> torch.Tensor:
    return placement.evaluate(pp, dp, rows, groups, backend)[:, :2].sum(dim=1)


def same(one: tuple[torch.Tensor, ...], other: tuple[torch.Tensor, ...]) -> None:
    for a, b in zip(one, other, strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


# ----------------------------------------------------------------------------------------------- compiled = reference
@compiled
@pytest.mark.parametrize("levels", [0, 2])
@pytest.mark.parametrize(("groups", "size"), SHAPES)
def test_compiled_costs_are_those_of_the_reference(groups: int, size: int, levels: int) -> None:
    pp, dp, _ = weights(groups * size, groups, levels)
    rows = random_partitions(20, groups, size, 1)
    found = placement.evaluate(pp, dp, rows, groups, "cpu")
    assert found.shape == (20, 4)
    assert torch.isfinite(found).all()
    assert torch.equal(found, placement.evaluate(pp, dp, rows, groups, "reference"))


@compiled
@pytest.mark.parametrize("levels", [0, 2])
@pytest.mark.parametrize("compat", [True, False])
@pytest.mark.parametrize("gain", ["paper", "hybrid"])
@pytest.mark.parametrize(("groups", "size"), SHAPES)
def test_compiled_local_search_is_that_of_the_reference(groups: int, size: int, gain: str, compat: bool, levels: int) -> None:
    pp, _, cut = weights(groups * size, groups + 10, levels)
    rows = random_partitions(15, groups, size, 2)
    found = placement.cyclic_pass(pp, cut, rows, groups, gain, compat, "cpu")
    same(found, placement.cyclic_pass(pp, cut, rows, groups, gain, compat, "reference"))
    counts = torch.stack([torch.bincount(row, minlength=groups) for row in found[0]])
    assert (counts == size).all()


@compiled
@pytest.mark.parametrize("levels", [0, 2])
@pytest.mark.parametrize("rule", list(placement.RULES))
@pytest.mark.parametrize(("groups", "size"), SHAPES)
def test_compiled_search_is_that_of_the_reference(groups: int, size: int, rule: str, levels: int) -> None:
    matrices = weights(groups * size, groups + 20, levels)
    for compat in (True, False):
        arguments = (*matrices, [0, 7], groups, 60, 20, rule, compat)
        found = placement.search(*arguments, backend="cpu")
        same(found, placement.search(*arguments, backend="reference"))


@compiled
@pytest.mark.parametrize("rule", list(placement.RULES))
def test_compiled_search_of_the_papers_size_is_that_of_the_reference(rule: str) -> None:
    matrices = weights(64, 5)
    arguments = (*matrices, [3], 8, 14, 8, rule)
    same(placement.search(*arguments, backend="cpu"), placement.search(*arguments, backend="reference"))


@compiled
@pytest.mark.parametrize("groups", [17, 19])
def test_long_routes_are_those_of_the_reference(groups: int) -> None:
    for levels in (0, 3):
        pp, dp, _ = weights(groups * 2, groups, levels)
        rows = random_partitions(3, groups, 2, 4)
        assert torch.equal(placement.evaluate(pp, dp, rows, groups, "cpu"), placement.evaluate(pp, dp, rows, groups, "reference"))


@compiled
@pytest.mark.parametrize("groups", [9, 10])
def test_routes_above_eight_groups_are_those_of_the_reference(groups: int) -> None:
    pp, dp, _ = weights(groups * 2, groups)
    rows = random_partitions(2, groups, 2, 4)
    assert torch.equal(placement.evaluate(pp, dp, rows, groups, "cpu"), placement.evaluate(pp, dp, rows, groups, "reference"))


@compiled
@pytest.mark.parametrize("levels", [0, 2])
@pytest.mark.parametrize(("groups", "size"), SHAPES)
def test_compiled_random_search_is_that_of_the_reference(groups: int, size: int, levels: int) -> None:
    pp, dp, _ = weights(groups * size, groups + 30, levels)
    arguments = (pp, dp, [0, 1, -5, 2**62], groups, 25)
    same(placement.random_search(*arguments, backend="cpu"), placement.random_search(*arguments, backend="reference"))


@compiled
@pytest.mark.parametrize("levels", [0, 2])
@pytest.mark.parametrize(("groups", "size"), SMALL)
def test_compiled_exhaustive_search_is_that_of_the_reference(groups: int, size: int, levels: int) -> None:
    pp, dp, _ = weights(groups * size, groups + 40, levels)
    best, cost, visited = placement.exhaustive(pp, dp, groups, "cpu")
    plain, plain_cost, all_of_them = placement.exhaustive(pp, dp, groups, "reference")
    assert torch.equal(best, plain)
    assert cost == plain_cost
    assert 1 <= visited <= all_of_them


@compiled
@pytest.mark.parametrize("rule", list(placement.RULES))
def test_threads_change_nothing(rule: str, threads: None) -> None:
    matrices = weights(12, 6)
    rows = random_partitions(200, 3, 4, 3)

    def everything() -> tuple[torch.Tensor, ...]:
        return (
            *placement.search(*matrices, range(9), 3, 200, 20, rule, backend="cpu"),
            placement.evaluate(*matrices[:2], rows, 3, "cpu"), *placement.random_search(*matrices[:2], range(9), 3, 50, "cpu"),
            *placement.cyclic_pass(matrices[0], matrices[2], rows, 3, backend="cpu"),
        )  # fmt: skip

    torch.set_num_threads(1)
    alone = everything()
    torch.set_num_threads(4)
    same(alone, everything())


# ------------------------------------------------------------------------------------------------------- brute force
@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_matchings_are_the_best_of_all(size: int, seed: int) -> None:
    levels = 3 if seed % 2 else 0
    pp, _, _ = weights(2 * size, seed, levels)
    a, b = list(range(size)), list(range(size, 2 * size))
    every = [[float(pp[i, j]) for i, j in zip(a, order, strict=True)] for order in itertools.permutations(b)]
    assert bottleneck(pp.tolist(), a, b) == min(max(chosen) for chosen in every)
    between = pp[:size, size:].numpy()
    best = between[linear_sum_assignment(between)].sum()
    assert least_sum(pp.tolist(), a, b) == pytest.approx(best, rel=1e-12)
    assert best == pytest.approx(min(sum(chosen) for chosen in every), rel=1e-12)


@pytest.mark.parametrize("groups", [1, 2, 3, 5, 6, 7])
def test_the_route_is_the_shortest_of_all(groups: int) -> None:
    for seed in range(3):
        w = weights(groups, seed)[0].tolist()
        every = (sum(w[a][b] for a, b in itertools.pairwise(order)) for order in itertools.permutations(range(groups)))
        assert route_length(w) == pytest.approx(min(every), rel=1e-12)


def test_a_group_of_one_makes_the_cost_a_route() -> None:
    pp, dp, _ = weights(6, 3)
    every = (sum(float(pp[a, b]) for a, b in itertools.pairwise(order)) for order in itertools.permutations(range(6)))
    found = placement.evaluate(pp, dp, torch.arange(6)[None], 6)
    assert found[0].tolist() == pytest.approx([0, 2 * min(every)] * 2, rel=1e-12)


def test_long_routes_are_never_shorter_than_the_shortest() -> None:
    # points on a line: the shortest route is their extent, and every local search step can only shorten towards it
    at = np.random.default_rng(0).permutation(20).astype(float)
    w = np.abs(at[:, None] - at)
    assert 19 <= route_length(w.tolist()) <= 1.5 * 19


@pytest.mark.parametrize(("stages", "pipelines"), [(4, 2), (2, 4), (3, 2), (1, 5)])
def test_exhaustive_search_agrees_with_brute_force(stages: int, pipelines: int) -> None:
    rng = np.random.default_rng(stages)
    n = stages * pipelines
    network = Network.from_matrices(rng.uniform(1, 80, (n, n)), rng.uniform(0.3, 5, (n, n)))
    model = CostModel.compat(stages, pipelines)
    found, least, _ = brute_force(network, model)
    pp, dp, _ = model.weights(network)
    best, cost, _ = placement.exhaustive(pp, dp, stages)
    assert cost == pytest.approx(least, rel=1e-12)
    assert float(costs(pp, dp, best[None], stages)) == cost
    assert model.of_placement(network, found).total == pytest.approx(cost, rel=1e-12)


def test_no_search_beats_the_exhaustive_one() -> None:
    pp, dp, cut = placement.snap(*weights(9, 8))  # with one quantum for all
    _, least, _ = placement.exhaustive(pp, dp, 3)
    for rule in placement.RULES:
        best, history = placement.search(pp, dp, cut, [0, 1], 3, 150, 20, rule)
        assert (history[:, 1:] <= history[:, :-1]).all()
        assert (history >= least).all()
        assert costs(pp, dp, best, 3).tolist() == history[:, -1].tolist()
    assert float(placement.random_search(pp, dp, [0], 3, 150)[1].min()) >= least


# --------------------------------------------------------------------------------------------------------- properties
@settings(max_examples=60, deadline=None)
@given(st.sampled_from(SHAPES), st.integers(0, 2**32 - 1), st.sampled_from([0, 2]))
def test_the_names_of_groups_do_not_matter(shape: tuple[int, int], seed: int, levels: int) -> None:
    groups, size = shape
    pp, dp, _ = weights(groups * size, seed, levels)
    row = random_partitions(1, groups, size, seed)
    renamed = torch.from_numpy(np.random.default_rng(seed + 1).permutation(groups))[row]
    assert torch.equal(placement.evaluate(pp, dp, row, groups), placement.evaluate(pp, dp, renamed, groups))


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(SHAPES), st.integers(0, 2**32 - 1), st.sampled_from([0, 2]))
def test_the_names_of_devices_do_not_matter(shape: tuple[int, int], seed: int, levels: int) -> None:
    groups, size = shape
    pp, dp, _ = weights(groups * size, seed, levels)
    row = random_partitions(1, groups, size, seed)
    order = torch.from_numpy(np.random.default_rng(seed + 2).permutation(groups * size))
    moved = placement.evaluate(pp[order][:, order], dp[order][:, order], row[:, order], groups)
    assert torch.equal(placement.evaluate(pp, dp, row, groups), moved)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from([(2, 3), (3, 4), (4, 2)]), st.integers(0, 2**32 - 1), st.floats(1e-6, 1e6))
def test_costs_scale_with_the_weights(shape: tuple[int, int], seed: int, by: float) -> None:
    groups, size = shape
    pp, dp, _ = weights(groups * size, seed)
    row = random_partitions(1, groups, size, seed)
    found = placement.evaluate(by * pp, by * dp, row, groups)
    torch.testing.assert_close(found, by * placement.evaluate(pp, dp, row, groups), rtol=1e-11, atol=0)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 40), st.integers(0, 2**32 - 1))
def test_snapped_weights_are_close_and_sum_exactly(n: int, seed: int) -> None:
    pp = weights(n, seed)[0]
    (snapped,) = placement.snap(pp)
    assert float((snapped - pp).abs().max()) <= 2.0**-50 * n * float(pp.max())
    order = torch.from_numpy(np.random.default_rng(seed).permutation(n))
    row = snapped[0].tolist()
    assert sum(row) == sum(row[i] for i in order.tolist())


def test_starts_take_the_place_of_random_partitions() -> None:
    pp, dp, cut = weights(12, 4)
    best, history = placement.search(pp, dp, cut, [0], 3, 400, 20)
    again = placement.search(pp, dp, cut, [1], 3, 30, 20, start=best)[1]
    assert float(again[0, 0]) == float(history[0, -1])


# --------------------------------------------------------------------------------------------------------- published
@compiled
@pytest.mark.parametrize("case", PAPER_ENDS)
def test_the_papers_search_ends_where_its_traces_end(case: int) -> None:
    matrices = CostModel.may2022(case).weights(load_case(case))
    _, history = placement.search(*matrices, [0, 1, 2], 8, 5000, rule="paper", backend="cpu")
    assert history[:, -1].tolist() == pytest.approx([PAPER_ENDS[case]] * 3, abs=1e-3)


@compiled
def test_case_2_ends_between_its_best_trace_and_the_baselines() -> None:
    matrices = CostModel.may2022(2).weights(load_case(2))
    _, history = placement.search(*matrices, [0, 1, 2], 8, 5000, rule="paper", backend="cpu")
    assert all(25.734 <= end <= 36.401 for end in history[:, -1].tolist())


@compiled
@pytest.mark.parametrize("case", HYBRID_ENDS)
def test_the_hybrid_search_ends_where_its_traces_end(case: int) -> None:
    matrices = CostModel.may2022(case).weights(load_case(case))
    _, history = placement.search(*matrices, [0, 1, 2], 8, 5000, rule="hybrid", backend="cpu")
    assert history[:, -1].tolist() == pytest.approx([HYBRID_ENDS[case]] * 3, abs=5e-3)


# ---------------------------------------------------------------------------------------------------- torch.library
def operators() -> dict[str, tuple]:
    pp, dp, cut = placement.snap(*weights(6, 1))
    rows, seeds, none = random_partitions(4, 3, 2, 0), torch.tensor([0, 1]), torch.empty(0, 6, dtype=torch.int64)
    return {
        "placement_evaluate": (pp, dp, rows, 3),
        "placement_cyclic": (pp, cut, rows, 3, 0, True),
        "placement_search": (pp, dp, cut, seeds, none, 3, 12, 5, 0, True),
        "placement_random": (pp, dp, seeds, 3, 12),
        "placement_exhaustive": (pp, dp, 3),
    }


@compiled
@pytest.mark.parametrize("name", operators())
def test_operators_keep_the_contract_of_torch_library(name: str) -> None:
    placement.evaluate(*operators()["placement_evaluate"], backend="cpu")  # loads the library
    tests = ("test_schema", "test_faketensor", "test_aot_dispatch_static")
    found = torch.library.opcheck(getattr(torch.ops.sheaf, name).default, operators()[name], test_utils=tests)
    assert set(found.values()) == {"SUCCESS"}


@pytest.mark.parametrize("name", operators())
def test_operators_know_their_shapes_without_running(name: str) -> None:
    arguments = [a.to("meta") if isinstance(a, torch.Tensor) else a for a in operators()[name]]
    shapes = {
        "placement_evaluate": [(4, 4)], "placement_cyclic": [(4, 6), (4,)], "placement_search": [(2, 6), (2, 12)],
        "placement_random": [(2, 6), (2, 12)], "placement_exhaustive": [(6,), (2,)],
    }  # fmt: skip
    found = getattr(torch.ops.sheaf, name)(*arguments)
    found = [found] if isinstance(found, torch.Tensor) else found
    assert [tuple(f.shape) for f in found] == shapes[name]


# --------------------------------------------------------------------------------------------------------- bad input
def lopsided() -> torch.Tensor:
    w = weights(6, 0)[0]
    w[0, 1] += 1
    return w


def holed() -> torch.Tensor:
    w = weights(6, 0)[0]
    w[2, 3] = w[3, 2] = float("nan")
    return w


GOOD = weights(6, 0)
ROWS = random_partitions(2, 3, 2, 0)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: placement.evaluate(*GOOD[:2], ROWS, 4), "6 devices do not divide into 4 equal groups"),
        (lambda: placement.evaluate(*GOOD[:2], ROWS, 0), "do not divide into 0 equal groups"),
        (lambda: placement.evaluate(*GOOD[:2], ROWS[0], 3), r"partitions must be \[B, 6\]"),
        (lambda: placement.evaluate(*GOOD[:2], ROWS[:, :5], 3), r"partitions must be \[B, 6\]"),
        (lambda: placement.evaluate(*GOOD[:2], ROWS + 1, 3), "must hold groups 0 to 2"),
        (lambda: placement.evaluate(*GOOD[:2], torch.tensor([[0, 0, 0, 1, 1, 2]]), 3), "must hold exactly 2 devices"),
        (lambda: placement.evaluate(lopsided(), GOOD[1], ROWS, 3), "must be symmetric; average both directions"),
        (lambda: placement.evaluate(GOOD[0], holed(), ROWS, 3), "must be finite"),
        (lambda: placement.evaluate(GOOD[0][:5], GOOD[1], ROWS, 3), r"must all be \[N, N\]"),
        (lambda: placement.evaluate(GOOD[0], weights(4, 0)[0], ROWS, 3), r"must all be \[N, N\]"),
        (lambda: placement.evaluate(torch.tensor(1.0), GOOD[1], ROWS, 3), r"must all be \[N, N\]"),
        (lambda: placement.evaluate(*GOOD[:2], ROWS, 3, "gpu"), "backend 'gpu' is unknown; use 'auto', 'cpu' or 'reference'"),
        (lambda: placement.cyclic_pass(GOOD[0], GOOD[2], ROWS, 3, "best"), "gain 'best' is unknown; use 'paper' or 'hybrid'"),
        (lambda: placement.search(*GOOD, [0], 3, 9, 9, "greedy"), "rule 'greedy' is unknown; use one of paper, hybrid"),
        (lambda: placement.search(*GOOD, [0], 3, 0), "must be at least 1; got 0 and 100"),
        (lambda: placement.search(*GOOD, [0], 3, 9, 0), "must be at least 1; got 9 and 0"),
        (lambda: placement.search(*GOOD, [0], 3, 9, 1, start=ROWS), "start holds 2 partitions, more than the population of 1"),
        (lambda: placement.search(*GOOD, [0], 3, 9, start=ROWS[:, :4]), r"start must be \[B, 6\]"),
        (lambda: placement.random_search(*GOOD[:2], [0], 3, 0), "evaluations must be at least 1; got 0"),
        (lambda: placement.exhaustive(*GOOD[:2], 5), "6 devices do not divide into 5 equal groups"),
    ],
)
def test_bad_input_is_refused_with_a_sentence(call: object, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        call()


def test_one_who_insists_on_the_compiled_kernel_is_told_to_build_it(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setenv("SHEAF_BUILD", str(tmp_path))
    with pytest.raises(RuntimeError, match=r"not built; run `make kernels`"), pytest.warns(RuntimeWarning):
        monkeypatch.setattr("sheaf_kernels.build._said", set())
        placement.evaluate(*GOOD[:2], ROWS, 3, "cpu")
