"""RigL: Erdos-Renyi densities, and what must hold whenever masks move."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sheaf.pixelfly.layers import MaskedLinear
from sheaf.pixelfly.rigl import RigL, erk_densities
from sheaf.pixelfly.train import fit, optimiser_of

sides = st.integers(1, 200)


@given(st.lists(st.tuples(sides, sides), min_size=1, max_size=8), st.floats(0.01, 1))
def test_densities_spend_the_budget_and_never_exceed_one(shapes, density):
    found = erk_densities(shapes, density)
    sizes = [o * i for o, i in shapes]
    assert all(0 < d <= 1 + 1e-9 for d in found)
    assert sum(d * s for d, s in zip(found, sizes, strict=True)) == pytest.approx(density * sum(sizes), rel=1e-6)


def test_densities_are_proportional_to_the_sum_of_sides_over_the_product():
    a, b = erk_densities([(100, 100), (200, 50)], 0.1)
    assert a / b == pytest.approx((200 / 1e4) / (250 / 1e4))


def test_a_layer_that_would_exceed_one_stays_dense():
    assert erk_densities([(2, 2), (100, 100)], 0.5)[0] == 1


@pytest.mark.parametrize(("shapes", "density"), [([], 0.5), ([(2, 2)], 0), ([(2, 2)], 1.5)])
def test_densities_refuse(shapes, density):
    with pytest.raises(ValueError, match="at least one layer"):
        erk_densities(shapes, density)


def masked(seed: int = 0, density: float = 0.3) -> nn.Sequential:
    generator = torch.Generator().manual_seed(seed)
    first = torch.rand(12, 16, generator=generator) < density
    second = torch.rand(4, 12, generator=generator) < density
    first[0, 0] = second[0, 0] = True
    layers = [MaskedLinear(mask, generator=generator) for mask in (first, second)]
    return nn.Sequential(nn.Flatten(), layers[0], nn.GELU(), layers[1])


def steps_of(model: nn.Module, mover: RigL, optimiser: torch.optim.Optimizer, count: int, seed: int):
    """Train; after every step, the masks before it, the dense gradients and the weights before the masks could move."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        before = [layer.mask.clone() for layer in mover.layers]
        moves = mover.moves()
        mover.watch()
        x, y = torch.randn(32, 16, generator=generator), torch.randint(4, (32,), generator=generator)
        loss = nn.functional.cross_entropy(model(x), y)
        optimiser.zero_grad()
        loss.backward()
        gradients = [layer.product.grad.clone() if moves else None for layer in mover.layers]
        optimiser.step()
        weights = [layer.weight.detach().clone() for layer in mover.layers]
        mover.step()
        yield moves, before, gradients, weights


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 1000), st.integers(1, 7), st.floats(0.1, 0.9))
def test_what_holds_at_every_step(seed, period, density):
    model = masked(seed, density)
    optimiser = optimiser_of(model, 0.01, 0.1)
    mover = RigL(model, optimiser, 24, period=period)
    kept = [int(layer.mask.sum()) for layer in mover.layers]
    for moves, before, gradients, weights in steps_of(model, mover, optimiser, 24, seed):
        for layer, old, gradient, weight, count in zip(mover.layers, before, gradients, weights, kept, strict=True):
            assert int(layer.mask.sum()) == count
            assert (layer.weight[~layer.mask] == 0).all()
            grown, dropped = layer.mask & ~old, old & ~layer.mask
            assert moves or not (grown.any() or dropped.any())
            if grown.any():
                assert (layer.weight[grown] == 0).all()
                assert weight[dropped].abs().max() <= weight[old & layer.mask].abs().min()
                passed_over = gradient[~old & ~grown].abs()
                assert gradient[grown].abs().min() >= passed_over.max() if len(passed_over) else True
                for moment in ("exp_avg", "exp_avg_sq"):
                    assert (optimiser.state[layer.weight][moment][grown | dropped] == 0).all()


def test_masks_move_every_period_until_three_quarters_of_the_training():
    model = masked()
    mover = RigL(model, optimiser_of(model, 0.01, 0.0), 100, period=10)
    moving, shares = [], []
    for step in range(100):
        mover.step_number = step
        if mover.moves():
            moving.append(step)
            shares.append(mover.share())
    assert moving == [10, 20, 30, 40, 50, 60, 70]
    assert shares == pytest.approx([0.15 * (1 + math.cos(math.pi * s / 75)) for s in moving])


def test_the_training_loop_moves_masks():
    generator = torch.Generator().manual_seed(0)
    data = torch.randn(256, 1, 4, 4, generator=generator), torch.randint(4, (256,), generator=generator)
    model = masked()
    before = [m.mask.clone() for m in model if isinstance(m, MaskedLinear)]
    fit(model, data, epochs=5, rate=0.01, seed=0, batch=32, rigl_period=5)
    after = [m for m in model if isinstance(m, MaskedLinear)]
    assert any(not torch.equal(b, m.mask) for b, m in zip(before, after, strict=True))
    assert all(int(b.sum()) == int(m.mask.sum()) for b, m in zip(before, after, strict=True))


def test_refusals():
    with pytest.raises(ValueError, match="MaskedLinear"):
        dense = nn.Linear(4, 4)
        RigL(dense, optimiser_of(dense, 0.1, 0.0), 10)
    model = masked()
    mover = RigL(model, optimiser_of(model, 0.1, 0.0), 10, period=1)
    mover.step_number = 1
    with pytest.raises(RuntimeError, match="watch"):
        mover.step()
