"""Masks and patterns: supports, densities, stretching, and equal parameters for every pattern."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sheaf.pixelfly import cost, masks
from sheaf.pixelfly.patterns import PATTERNS, Plan, flat_blocks, plan

POWERS = st.integers(1, 6).map(lambda e: 2**e)


@given(n=POWERS, e=st.integers(0, 5))
def test_a_factor_joins_each_index_with_itself_and_one_partner(n: int, e: int) -> None:
    stride = min(2**e, n // 2)
    mask = masks.butterfly_factor(n, stride)
    assert (mask.sum(0) == 2).all() and (mask.sum(1) == 2).all() and np.array_equal(mask, mask.T)


@given(n=POWERS)
def test_the_product_of_all_factors_joins_everything(n: int) -> None:
    reach = np.eye(n, dtype=int)
    for stride in masks.strides(n // 2):
        reach = masks.butterfly_factor(n, stride).astype(int) @ reach
    assert (reach == 1).all()  # by exactly one path: that is why n log n parameters are enough


@given(n=POWERS)
def test_a_flat_butterfly_has_one_block_per_stride_and_the_diagonal(n: int) -> None:
    for stride in (0, *masks.strides(n // 2)):
        assert (masks.flat_butterfly(n, stride).sum(1) == 1 + len(masks.strides(stride))).all()


@pytest.mark.parametrize(
    ("out", "in_", "cells", "factors", "density"),
    [(2048, 512, 16, 2, 0.1875), (3072, 768, 16, 2, 5 / 24), (768, 768, 16, 2, 2 / 9), (3072, 768, 32, 3, 0.1875)],
)
def test_published_layer_shapes_have_these_densities(
    out: int, in_: int, cells: int, factors: int, density: float
) -> None:
    assert masks.stretched_layout(out, in_, 32, cells, factors).mean() == pytest.approx(density)


@pytest.mark.parametrize("block", [4, 8, 16])
def test_a_stretched_layout_is_the_coarsened_element_mask(block: int) -> None:
    for out, in_, cells, factors in ((96, 48, 8, 2), (48, 96, 16, 3), (64, 64, 4, 0)):
        small = masks.flat_butterfly(cells, 2 ** (factors - 1) if factors else 0)
        elements = np.repeat(np.repeat(small, out // cells, 0), in_ // cells, 1)
        assert np.array_equal(masks.stretched_layout(out, in_, block, cells, factors), masks.coarsen(elements, block))
    wide = masks.stretched_layout(96, 48, block, 8, 2, global_size=5)
    assert wide[: -(-5 // block)].all() and wide[:, : -(-5 // block)].all()


def test_shuffling_permutes_columns_only() -> None:
    plain = masks.stretched_layout(64, 64, 4, 16, 2)
    mixed = masks.stretched_layout(64, 64, 4, 16, 2, shuffle=True)
    assert not np.array_equal(plain, mixed) and mixed.sum() == plain.sum() and (mixed.sum(1) == plain.sum(1)).all()


@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize(("out", "in_", "block"), [(256, 64, 4), (3072, 768, 32), (768, 768, 32), (512, 2048, 32)])
def test_every_pattern_spends_the_same_budget(name: str, out: int, in_: int, block: int) -> None:
    found = plan(name, out, in_, block, 0.25, rng=np.random.default_rng(0))
    if name == "dense":
        assert found.dense and found.density(out, in_) == 1
    else:
        assert found.density(out, in_) == pytest.approx(0.25, rel=0.02)


@given(nnz=st.integers(1, 16 * 8), seed=st.integers(0, 9))
def test_blocks_are_counted_exactly(nnz: int, seed: int) -> None:
    assert flat_blocks(16, 8, nnz).sum() == nnz
    found = masks.random_blocks(16, 8, nnz, np.random.default_rng(seed))
    assert found.sum() == nnz and (nnz < 16 or (found.any(0).all() and found.any(1).all()))


def test_the_flat_pattern_is_the_flat_butterfly_where_the_budget_fits() -> None:
    assert np.array_equal(plan("flat", 512, 512, 32, 4 / 16).mask, masks.flat_butterfly(16, 4))
    assert np.array_equal(plan("pixelfly", 512, 512, 32, 4 / 16, rank_share=0.0).mask, masks.flat_butterfly(16, 4))
    low = plan("pixelfly", 512, 512, 32, 0.25, rank_share=1.0)
    assert low.mask is None and low.rank == 64


def test_densities_on_hardware_blocks() -> None:
    rng = np.random.default_rng(0)
    for p, element in ((0.0125, 1), (0.05, 4), (0.2, 16)):
        cells = 1024 // element
        found = np.kron(
            masks.random_blocks(cells, cells, round(p * cells**2), rng), np.ones((element, element), dtype=bool)
        )
        assert masks.actual_density(found, 32) == pytest.approx(masks.expected_actual_density(p, element, 32), abs=0.02)
    assert masks.expected_actual_density(0.0125, 1, 32) == pytest.approx(1 - (1 - 0.0125) ** 1024)
    assert masks.expected_actual_density(0.3, 64, 32) == pytest.approx(0.3)
    fly = np.kron(masks.flat_butterfly(32, 4), np.ones((32, 32), dtype=bool))
    assert masks.actual_density(fly, 32) == masks.nominal_density(fly) == 4 / 32


def test_the_cost_model_charges_whole_blocks() -> None:
    one = np.zeros((64, 64), dtype=bool)
    one[0, 0] = True
    found = cost.cost(one, cost.Device("d", 32, per_block=1.0, per_operation=0.5), tokens=32)
    assert found["blocks touched"] == 1 and found["operations"] == 2 * 32 * 1024 and found["cost"] == 1 + 4 + 32 * 1024


@pytest.mark.parametrize(
    "call",
    [
        lambda: masks.butterfly_factor(8, 3), lambda: masks.grid_layout(100, 64, 32, 2),
        lambda: masks.stretched_layout(64, 64, 32, 12, 1), lambda: masks.stretched_layout(64, 64, 4, 16, 9),
        lambda: masks.random_blocks(2, 2, 5, np.random.default_rng(0)), lambda: plan("spiral", 64, 64, 4, 0.5),
        lambda: plan("random_block", 64, 64, 4, 0.5), lambda: plan("flat", 64, 64, 4, 0.0),
        lambda: masks.expected_actual_density(2.0, 1, 32), lambda: masks.strides(5),
    ],
)  # fmt: skip
def test_bad_input_is_refused(call: object) -> None:
    with pytest.raises(ValueError):
        call()  # type: ignore[operator]


def test_a_plan_counts_its_parameters() -> None:
    mask = np.eye(4, dtype=bool)
    assert Plan(mask, 8, rank=3).parameters(32, 32) == 4 * 64 + 3 * 64
