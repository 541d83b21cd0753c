"""The training loop: its schedule, what decays, that it learns, that a seed fixes everything, refusals."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from sheaf.pixelfly import train
from sheaf.pixelfly.layers import MaskedLinear


def blobs(n: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Two classes apart in every coordinate, as 1 x 4 x 4 pictures."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 2
    return torch.randn(n, 1, 4, 4, generator=generator) + 2.0 * (2 * y - 1)[:, None, None, None], y


def small(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.GELU(), nn.Linear(8, 2))


def test_the_schedule_rises_then_falls_to_zero():
    shares = [train.cosine(s, 100) for s in range(100)]
    assert shares[9] == pytest.approx(1) and max(shares) == pytest.approx(1)
    assert all(a < b for a, b in pairwise(shares[:10])) and all(a > b for a, b in pairwise(shares[10:]))
    assert train.cosine(100, 100) == pytest.approx(0, abs=1e-12)


def test_training_learns_what_can_be_learned():
    model = small()
    history = train.fit(model, blobs(256), epochs=6, rate=0.02, seed=0, batch=32)
    assert history.steps == 48 and len(history.losses) == 6 and history.losses[-1] < 0.2 * history.losses[0]
    assert train.accuracy(model, blobs(200, seed=1)) > 0.95
    assert model.training


def test_a_seed_fixes_the_result_whatever_the_global_generator_says():
    found = []
    for noise in (1, 2):
        model = small()
        torch.manual_seed(noise)
        train.fit(model, blobs(128), epochs=2, rate=0.01, seed=7, batch=32, flips=True, shift=1)
        found.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.equal(*found)


def test_another_seed_gives_another_order():
    found = []
    for seed in (1, 2):
        model = small()
        train.fit(model, blobs(128), epochs=1, rate=0.01, seed=seed, batch=32)
        found.append(next(model.parameters()).detach().clone())
    assert not torch.equal(*found)


def test_only_matrices_decay():
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    decayed, others = train.optimiser_of(model, 0.1, 0.5).param_groups
    assert decayed["weight_decay"] == 0.5 and [p.ndim for p in decayed["params"]] == [2]
    assert others["weight_decay"] == 0 and len(others["params"]) == 3


@pytest.mark.parametrize(("flips", "shift"), [(False, 0), (True, 0), (False, 2), (True, 2)])
def test_augmentation_moves_pixels_and_keeps_them(flips, shift):
    x = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    out = train.augment(x, torch.Generator().manual_seed(3), flips, shift)
    assert out.shape == x.shape and torch.equal(out.flatten(1).sort().values, x.flatten(1).sort().values)
    assert torch.equal(out, x) == (not flips and not shift)


def test_masked_weights_stay_masked_under_decay_and_momentum():
    mask = torch.zeros(8, 16, dtype=torch.bool)
    mask[:, ::3] = True
    model = nn.Sequential(nn.Flatten(), MaskedLinear(mask), nn.GELU(), nn.Linear(8, 2))
    train.fit(model, blobs(128), epochs=3, rate=0.02, seed=0, batch=32, decay=0.1)
    assert (model[1].weight[~mask] == 0).all() and (model[1].weight[mask] != 0).all()


def test_refusals():
    with pytest.raises(ValueError, match="0 epochs"):
        train.fit(small(), blobs(64), epochs=0, rate=0.1, seed=0)
    with pytest.raises(ValueError, match="64 pictures"):
        train.fit(small(), blobs(64), epochs=1, rate=0.1, seed=0, batch=65)
