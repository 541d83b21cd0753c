"""Sparse layers: what they compute, how they start, conversion, state dicts, and whole models made sparse."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from sheaf.pixelfly import masks, models
from sheaf.pixelfly.attention import attention_mask, block_sparse_attention, masked_attention
from sheaf.pixelfly.layers import MIXES, MaskedLinear, MonarchLinear, PixelflyLinear
from sheaf.pixelfly.patterns import Plan, plan
from sheaf.pixelfly.product import ProductButterflyLinear
from sheaf.pixelfly.sparsify import ARMS, densify, sparsify


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("mix", ["scalar", "sum"])
def test_a_layer_multiplies_with_its_matrix(mix: str) -> None:
    layer = PixelflyLinear(64, 128, plan("pixelfly", 128, 64, 8, 0.3), mix=mix, generator=seeded())
    x = torch.randn(3, 5, 64, generator=seeded(1))
    torch.testing.assert_close(layer(x), x @ layer.matrix().T + layer.bias, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(layer.to_linear()(x), layer(x), rtol=1e-4, atol=1e-5)


def test_a_mixture_per_token_starts_at_one_half() -> None:
    layer = PixelflyLinear(64, 64, plan("pixelfly", 64, 64, 8, 0.5), mix="token", generator=seeded())
    x = torch.randn(7, 64, generator=seeded(1))
    both = copy.deepcopy(layer)
    both.mix, both.gate = "sum", None
    torch.testing.assert_close(layer(x), (both(x) - layer.bias) / 2 + layer.bias, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="per token"):
        layer.to_linear()


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("name", ["pixelfly", "flat", "low_rank", "bigbird"])
def test_the_balanced_start_has_a_dense_layers_variance(mix: str, name: str) -> None:
    chosen = plan(name, 512, 256, 16, 0.25, rng=np.random.default_rng(0))
    x = torch.randn(400, 256, generator=seeded(9))
    found = [PixelflyLinear(256, 512, chosen, bias=False, mix=mix, generator=seeded(s))(x).var() for s in range(4)]
    assert torch.stack(found).mean().item() == pytest.approx(1 / 3, rel=0.08)  # nn.Linear's: 1/3 for unit input


def test_the_published_start_leaves_the_low_rank_a_third() -> None:
    chosen = Plan(None, 16, rank=64)
    x = torch.randn(400, 256, generator=seeded(9))
    found = [
        PixelflyLinear(256, 512, chosen, bias=False, init="published", generator=seeded(s))(x).var() for s in range(4)
    ]
    assert torch.stack(found).mean().item() == pytest.approx(1 / 9, rel=0.15)


def test_weights_train_and_the_support_stays() -> None:
    layer = PixelflyLinear(32, 32, plan("pixelfly", 32, 32, 4, 0.5), generator=seeded())
    optimiser = torch.optim.SGD(layer.parameters(), lr=0.1)
    before = {k: p.clone() for k, p in layer.named_parameters()}
    layer(torch.randn(16, 32, generator=seeded(1))).square().mean().backward()
    optimiser.step()
    assert all(not torch.equal(p, before[k]) for k, p in layer.named_parameters())
    kept = np.kron(layer.mask.numpy(), np.ones((4, 4), dtype=bool))
    low = ((1 - layer.gamma) * layer.u @ layer.v.T).detach().numpy()
    assert np.abs((layer.matrix().detach().numpy() - low)[~kept]).max() < 1e-6


def test_projection_is_exact_when_it_can_be() -> None:
    target = PixelflyLinear(64, 64, plan("pixelfly", 64, 64, 8, 0.4), mix="sum", generator=seeded()).to_linear()
    flat = plan("flat", 64, 64, 8, 1.0)
    near = PixelflyLinear.from_linear(target, flat)
    torch.testing.assert_close(near.matrix(), target.weight.detach())
    whole = PixelflyLinear.from_linear(target, Plan(None, 8, rank=64))
    torch.testing.assert_close(whole.matrix(), target.weight.detach(), rtol=1e-4, atol=1e-5)


def test_projection_is_better_with_both_terms() -> None:
    dense = nn.Linear(64, 64)
    error = {
        name: (PixelflyLinear.from_linear(dense, plan(name, 64, 64, 8, 0.5)).matrix() - dense.weight).norm().item()
        for name in ("pixelfly", "low_rank")
    }
    assert error["pixelfly"] < dense.weight.norm().item() and error["low_rank"] < dense.weight.norm().item()


def test_state_dicts_remember_their_blocks() -> None:
    layer = PixelflyLinear(64, 64, plan("pixelfly", 64, 64, 8, 0.4), generator=seeded())
    same = PixelflyLinear(64, 64, plan("pixelfly", 64, 64, 8, 0.4), generator=seeded(5))
    same.load_state_dict(layer.state_dict())
    assert torch.equal(same.matrix(), layer.matrix())
    chosen = plan("random_block", 64, 64, 8, 0.4, rng=np.random.default_rng(0))
    other = PixelflyLinear(64, 64, Plan(chosen.mask, 8, layer.rank), generator=seeded())
    with pytest.raises(ValueError, match="other blocks"):
        other.load_state_dict(layer.state_dict())


@pytest.mark.parametrize("options", [{"mix": "maybe"}, {"init": "zero"}])
def test_unknown_options_are_named(options: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="one of"):
        PixelflyLinear(16, 16, plan("flat", 16, 16, 4, 0.5), **options)


def test_a_plan_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="the layer is"):
        PixelflyLinear(64, 64, plan("flat", 32, 64, 8, 0.5))


def test_a_masked_layer_ignores_what_its_mask_removes() -> None:
    mask = torch.rand(16, 8, generator=seeded()) < 0.5
    layer = MaskedLinear(mask, generator=seeded())
    x = torch.randn(5, 8, generator=seeded(1))
    before = layer(x)
    with torch.no_grad():
        layer.weight[~mask] = 99
    assert torch.equal(layer(x), before)


def test_monarch_mixes_all_inputs() -> None:
    layer = MonarchLinear(16, 32, 4, bias=False, generator=seeded())
    jacobian = torch.autograd.functional.jacobian(lambda v: layer(v[None])[0], torch.randn(16, generator=seeded(1)))
    assert (jacobian != 0).all()
    with pytest.raises(ValueError, match="groups"):
        MonarchLinear(16, 30, 4)


@pytest.mark.parametrize("residual", [False, True])
def test_the_product_form_is_the_product(residual: bool) -> None:
    layer = ProductButterflyLinear(64, 8, residual=residual, step=0.3, generator=seeded())
    x = torch.randn(5, 64, generator=seeded(1))
    torch.testing.assert_close(layer(x), x @ layer.matrix().T, rtol=1e-4, atol=1e-5)
    assert len(layer.factors) == 3 and layer.operations() == 3 * 16 * 64
    with pytest.raises(ValueError, match="power of two"):
        ProductButterflyLinear(96, 16)


@pytest.mark.parametrize("arm", ARMS)
def test_any_model_becomes_sparse(arm: str) -> None:
    model = models.build("vit-mini", classes=10)
    report = sparsify(model, 0.25, pattern=arm, block=8, include=models.SPARSE["vit"])
    assert len(report.frame) == 12 and report.density == pytest.approx(1.0 if arm == "dense" else 0.25, rel=0.3)
    assert model(torch.randn(2, 3, 32, 32, generator=seeded())).shape == (2, 10)
    assert isinstance(model.head, nn.Linear)


def test_projected_models_stay_near_and_come_back() -> None:
    dense = models.build("mixer-mini")
    x = torch.randn(4, 3, 32, 32, generator=seeded())
    near = copy.deepcopy(dense)
    sparsify(near, 1.0, pattern="flat", block=8, project=True, include=models.SPARSE["mixer"])
    torch.testing.assert_close(near(x), dense(x), rtol=1e-3, atol=1e-4)
    before = near(x)
    assert densify(near) == 4 and not any(isinstance(m, PixelflyLinear) for m in near.modules())
    torch.testing.assert_close(near(x), before, rtol=1e-3, atol=1e-4)


def test_nothing_to_replace_is_an_error() -> None:
    with pytest.raises(ValueError, match="no linear layer"):
        sparsify(models.build("mixer-mini"), 0.5, include="nothing")


@pytest.mark.parametrize("pattern", ["flat", "pixelfly", "local", "bigbird"])
@pytest.mark.parametrize("causal", [False, True])
def test_block_sparse_attention_is_masked_attention(pattern: str, causal: bool) -> None:
    mask = attention_mask(pattern, 6)
    q, k, v = (
        torch.randn(2, 3, 48, 16, dtype=torch.float64, generator=seeded(s), requires_grad=True) for s in range(3)
    )
    found, right = block_sparse_attention(q, k, v, mask, 8, causal), masked_attention(q, k, v, mask, 8, causal)
    torch.testing.assert_close(found, right)
    gradients = [torch.autograd.grad(y.square().sum(), (q, k, v)) for y in (found, right)]
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)
    with torch.no_grad():
        torch.testing.assert_close(block_sparse_attention(q, k, v, mask, 8, causal), right.detach())


def test_attention_refuses_masks_that_do_not_fit() -> None:
    q = torch.randn(1, 1, 16, 4)
    with pytest.raises(ValueError, match="need a mask"):
        block_sparse_attention(q, q, q, torch.ones(3, 3, dtype=torch.bool), 8)
    with pytest.raises(ValueError, match="at least one"):
        block_sparse_attention(q, q, q, torch.zeros(2, 2, dtype=torch.bool), 8)
    assert masks.flat_butterfly(6, 4).shape == (6, 6)
