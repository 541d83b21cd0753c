"""The registry of kernel benchmarks and its one entry at tiny sizes; no figure here is judged by the clock."""

import pytest
import torch

from sheaf_kernels import bench
from sheaf_kernels.build import library
from sheaf_kernels.placement import benchmark

compiled = pytest.mark.skipif(not library("placement").is_file(), reason="the placement kernel is not built; run `make kernels`")


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> dict:
    """Two quick benchmarks in the place of the real ones."""
    bench.names()
    found = {"toy/fast": lambda: "1 s", "toy/slow": lambda: "2 s", "other/one": lambda: "3 s"}
    monkeypatch.setattr(bench, "BENCHMARKS", found)
    return found


def test_every_operation_with_a_compiled_form_has_a_benchmark() -> None:
    from sheaf_kernels.build import operations

    assert {"placement/search", "placement/growth"} <= set(bench.names())
    assert set(operations()) == {name.split("/")[0] for name in bench.names()}


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ([], ["other/one", "3 s", "toy/fast", "1 s", "toy/slow", "2 s"]),
        (["toy"], ["toy/fast", "1 s", "toy/slow", "2 s"]),
        (["toy/slow"], ["toy/slow", "2 s"]),
        (["toy/slow", "other"], ["other/one", "3 s", "toy/slow", "2 s"]),
    ],
)
def test_benchmarks_are_chosen_by_name_or_operation(
    registry: dict, capsys: pytest.CaptureFixture[str], wanted: list[str], said: list[str]
) -> None:
    assert bench.main(wanted) == 0
    head, *lines = [line for line in capsys.readouterr().out.splitlines() if line]
    assert "cores" in head
    assert lines == said


def test_an_unknown_benchmark_is_refused_before_anything_runs(registry: dict, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["toy", "towel"]) == 2
    found = capsys.readouterr()
    assert found.out == ""
    assert found.err == "benchmark 'towel' is unknown; there are other/one, toy/fast, toy/slow\n"


def test_a_benchmark_that_cannot_run_says_why(registry: dict, capsys: pytest.CaptureFixture[str]) -> None:
    def fails() -> str:
        raise RuntimeError("the kernel is not built")

    registry["toy/slow"] = fails
    assert bench.main(["toy"]) == 1
    assert "not measured: the kernel is not built" in capsys.readouterr().out


def test_a_name_is_taken_once(registry: dict) -> None:
    with pytest.raises(ValueError, match="'toy/fast' is already registered"):
        bench.benchmark("toy/fast")(benchmark.search_benchmark)
    assert bench.benchmark("toy/new")(benchmark.search_benchmark) is registry["toy/new"]


def test_a_table_lines_up() -> None:
    assert bench.table(("name", "s"), [("a", 1), ("longer", 10)]) == "name     s\n------  --\na        1\nlonger  10"


@compiled
def test_the_search_is_compared_round_by_round() -> None:
    before = torch.get_num_threads()
    samples = benchmark.compare(evaluations=130, reference_evaluations=110, rounds=2, devices=16, groups=4)
    assert torch.get_num_threads() == before
    assert len(samples) == 2
    for s in samples:
        assert s["ratio"] == s["reference_s"] / s["compiled_s"]
        assert s["reference_s"] == pytest.approx(100 * s["start_s"] + 30 * s["trial_s"], rel=1e-9)


@compiled
def test_a_search_no_longer_than_its_random_start_is_not_scaled() -> None:
    (sample,) = benchmark.compare(evaluations=20, rounds=1, devices=16, groups=4)
    assert sample["trial_s"] == 0
    assert sample["reference_s"] == pytest.approx(20 * sample["start_s"], rel=1e-9)


def test_too_few_reference_evaluations_are_refused() -> None:
    with pytest.raises(ValueError, match="more reference evaluations than the 100 of the random start"):
        benchmark.compare(evaluations=200, reference_evaluations=100)
    with pytest.raises(ValueError, match="at least 1 round"):
        benchmark.compare(rounds=0)


@compiled
def test_nothing_is_timed_when_results_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = benchmark.search

    def wrong(*arguments: object, backend: str) -> tuple[torch.Tensor, torch.Tensor]:
        best, history = honest(*arguments, backend=backend)
        return best, history + 2**-40 * (backend == "cpu")

    monkeypatch.setattr(benchmark, "search", wrong)
    with pytest.raises(RuntimeError, match="different results; nothing was timed"):
        benchmark.compare(evaluations=20, rounds=1, devices=16, groups=4)


@compiled
def test_reports_are_readable_at_tiny_sizes() -> None:
    said = benchmark.search_benchmark(evaluations=110, reference_evaluations=101, rounds=1)
    assert "compiled" in said
    assert "plain Python / compiled:" in said
    assert "scaled" in said
    assert len(benchmark.growth_benchmark((16, 32), evaluations=30, rounds=1).splitlines()) == 5


@pytest.mark.parametrize("devices", [8, 64, 72])
def test_benchmark_weights_are_a_network(devices: int) -> None:
    for matrix in benchmark.weights(devices):
        assert matrix.shape == (devices, devices)
        assert torch.equal(matrix, matrix.T)
        assert not matrix.diagonal().any()
    assert all(torch.equal(a, b) for a, b in zip(benchmark.weights(devices), benchmark.weights(devices), strict=True))
