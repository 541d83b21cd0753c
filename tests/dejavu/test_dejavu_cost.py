"""The cost model against the printed tables, a count of real weights, and its own limits."""

import numpy as np
import pytest

from sheaf.dejavu import cost
from sheaf.dejavu.models import OPT, PRESETS, OPTConfig
from sheaf.dejavu.tables import published


@pytest.mark.parametrize("table", ["table 1", "table 2"])
def test_the_printed_cells_come_out(table: str) -> None:
    found = cost.cells(published("cost"), table)
    assert cost.largest_error(found) <= 0.02
    assert found["misprint"].sum() == (table == "table 1")
    assert (found.loc[found["misprint"], "error"] > 0.9).all()


def test_half_a_unit_of_the_last_printed_digit() -> None:
    for printed, half in ((0.34, 0.005), (324, 0.5), (41000, 500), (27.5, 0.05), (0.00064, 0.000005)):
        assert cost._half_unit(printed) == pytest.approx(half)


def test_it_counts_the_weights_of_a_real_model() -> None:
    config = OPTConfig(24, 3, 4, vocab=10, context=8)
    matrices = sum(p.numel() for name, p in OPT(config).named_parameters() if "blocks" in name and p.ndim == 2)
    assert cost.step_bytes(config, itemsize=1) == matrices


def test_nothing_skipped_is_dense_and_the_predictors_cost() -> None:
    config = PRESETS["opt-175b"]
    assert cost.speedup(config, 1, 1, (0, 0), 1024) == 1
    assert cost.speedup(config, 1, 1, cost.PAPER_RANKS, 0) < 1
    assert cost.speedup(config, 0.5, 0.125, (0, 0), 0) == pytest.approx(4)
    assert cost.scaled_ranks(config) == cost.PAPER_RANKS


def test_the_bound_falls_with_the_prompt_and_rises_with_sparsity() -> None:
    at = np.linspace(0, 0.9, 10)
    short, long = (cost.bound(PRESETS["opt-6.7b"], at, prompt) for prompt in (0, 2048))
    assert (np.diff(short) > 0).all() and (short[1:] != long[1:]).all()
    assert len(cost.sizes()) == 8 and len(cost.sparse_parts(PRESETS["opt-175b"], (128, 1024))) == 2
