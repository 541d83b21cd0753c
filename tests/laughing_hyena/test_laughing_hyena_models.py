"""The models: the long convolution against its definition, causality, sizes, students."""

from dataclasses import replace

import pytest
import torch

from sheaf.laughing_hyena.models import (
    LM,
    PRESETS,
    DiagonalFilter,
    HyenaLM,
    ImplicitFilter,
    LMConfig,
    LongConv,
    MultiHyenaLM,
    long_convolve,
)  # fmt: skip

SMALL = LMConfig("multihyena", vocab=11, context=24, width=12, layers=2, heads=3, emb=5, filter_width=8, frequency=2.0)
KINDS = ("hyena", "multihyena", "h3", "gpt")


def small(kind: str) -> LM:
    return LM(replace(SMALL, kind=kind), seed=3)


def by_definition(q, k, v, h):
    """y[t, j] = sum_i q[t, i] sum_{s<=t} h[t-s] k[s, i] v[s, j], with loops."""
    t = q.shape[1]
    y = torch.zeros_like(q)
    for step in range(t):
        for s in range(step + 1):
            products = k[:, s, :, :, None] * v[:, s, :, None, :]  # [B, C, N, N]
            y[:, step] += h[:, step - s, None] * (q[:, step, :, :, None] * products).sum(dim=2)
    return y


@pytest.mark.parametrize(("heads", "width"), [(6, 1), (3, 2), (2, 4), (1, 7)])
@pytest.mark.parametrize("how", ["toeplitz", "fft", "auto"])
def test_the_long_convolution_is_its_definition(heads: int, width: int, how: str) -> None:
    g = torch.Generator().manual_seed(1)
    q, k, v = torch.randn(3, 2, 9, heads, width, generator=g, dtype=torch.float64)
    h = torch.randn(heads, 9, generator=g, dtype=torch.float64)
    tolerance = {"rtol": 1e-4, "atol": 1e-4} if how == "fft" else {"rtol": 1e-9, "atol": 1e-9}
    torch.testing.assert_close(long_convolve(q, k, v, h, how), by_definition(q, k, v, h), **tolerance)


def test_multihyena_with_a_head_per_channel_is_hyena() -> None:
    hyena = HyenaLM(SMALL, seed=5)
    multi = MultiHyenaLM(replace(SMALL, heads=SMALL.width), seed=5)
    multi.load_state_dict(hyena.state_dict())
    tokens = torch.randint(11, (2, 24), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(multi(tokens), hyena(tokens))


@pytest.mark.parametrize("kind", KINDS)
def test_models_are_causal_and_seeded(kind: str) -> None:
    model = small(kind)
    tokens = torch.randint(11, (2, 24), generator=torch.Generator().manual_seed(0))
    changed = tokens.clone()
    changed[:, 15:] = 0
    before, after = model(tokens), model(changed)
    torch.testing.assert_close(before[:, :15], after[:, :15], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(before[:, 15:], after[:, 15:])
    torch.testing.assert_close(small(kind)(tokens), before, rtol=0, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_building_a_model_leaves_the_global_generator_alone(kind: str) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    small(kind)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("name", "millions"), [("gpt-125m", 125), ("gpt-355m", 355), ("hyena-153m", 153), ("hyena-355m", 355)])
def test_presets_have_the_published_sizes(name: str, millions: float) -> None:
    with torch.device("meta"):
        count = LM(PRESETS[name]).parameter_count() / 1e6
    assert abs(count / millions - 1) < 0.03


def test_every_parameter_of_every_kind_learns() -> None:
    tokens = torch.randint(11, (2, 24), generator=torch.Generator().manual_seed(0))
    for kind in KINDS:
        model = small(kind)
        model(tokens).square().mean().backward()
        still = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
        assert not still


def test_a_student_array_and_none_go_in_and_out() -> None:
    model = small("multihyena")
    tokens = torch.randint(11, (2, 24), generator=torch.Generator().manual_seed(0))
    before = model(tokens)
    layers = model.long_convolutions()
    own = [layer.effective(24).detach() for layer in layers]
    for layer, h in zip(layers, own, strict=True):
        layer.set_filters(h)
    torch.testing.assert_close(model(tokens), before)
    for layer, h in zip(layers, own, strict=True):
        layer.set_filters(h[:, :1])  # a window of one: zeros beyond
    assert not torch.allclose(model(tokens), before)
    for layer in layers:
        layer.set_filters(None)
    torch.testing.assert_close(model(tokens), before)
    with pytest.raises(ValueError, match="3 filters"):
        layers[0].set_filters(own[0][:2])


def test_effective_filters_hold_the_feedthrough_at_zero_only() -> None:
    layer = small("hyena").long_convolutions()[0]
    assert isinstance(layer, LongConv)
    difference = layer.effective(24) - layer.filters(24)
    torch.testing.assert_close(difference[:, 0], layer.feedthrough)
    assert not difference[:, 1:].any()


def test_diagonal_filters_are_stable_whatever_their_parameters() -> None:
    f = DiagonalFilter(4, 8)
    with torch.no_grad():
        for p in f.parameters():
            p.normal_(0, 3)
    assert (f.poles().abs() < 1).all()
    assert f(30).shape == (4, 30)


def test_implicit_filters_say_where_they_end() -> None:
    with pytest.raises(ValueError, match="distil"):
        ImplicitFilter(2, 16, 5, 4)(17)


def test_wrong_configurations_name_the_fix() -> None:
    with pytest.raises(ValueError, match="use hyena"):
        replace(SMALL, kind="mamba")
    with pytest.raises(ValueError, match="multiple"):
        replace(SMALL, heads=5)
    with pytest.raises(ValueError, match="odd"):
        replace(SMALL, emb=4)
    with pytest.raises(ValueError, match="share"):
        replace(SMALL, kind="gpt", heads=4, kv_heads=3)
    with pytest.raises(ValueError, match="there are"):
        LMConfig.from_name("hyena-7b")


def test_state_counts() -> None:
    gpt = LMConfig("gpt", 11, 64, 32, 2, heads=4)
    assert gpt.state_floats(16, 100) == 2 * 2 * 32 * 100
    assert replace(gpt, kv_heads=1).state_floats(16, 100) == 2 * 2 * 8 * 100
    hyena, multi = replace(gpt, kind="hyena"), replace(gpt, kind="multihyena")
    assert hyena.state_floats(16, 100) == hyena.state_floats(16, 10_000) == 2 * (32 * 16 + 3 * 32 * 2)
    assert multi.state_floats(16, 100) == 2 * (32 * 8 * 16 + 3 * 32 * 2)
