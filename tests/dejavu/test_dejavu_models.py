"""The decoder: causal, deterministic, presets of the published sizes, what a tap sees is what counts, and checkpoints."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sheaf.dejavu import checkpoint, masks
from sheaf.dejavu.models import OPT, OPTConfig, Tap

SMALL = OPTConfig(24, 3, 4, vocab=50, context=12)


def ids(batch: int = 2, time: int = 10, seed: int = 0) -> Tensor:
    return torch.randint(50, (batch, time), generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def model() -> OPT:
    """Random weights with biases that are not zero: a mistake about one would show."""
    made = OPT(SMALL, seed=3)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for p in made.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=generator))
    return made.eval()


@pytest.mark.parametrize(
    ("name", "billions"),
    [("opt-125m", 0.125), ("opt-1.3b", 1.3), ("opt-6.7b", 6.7), ("opt-13b", 13), ("opt-30b", 30), ("opt-66b", 66),
     ("opt-175b", 175)],
)  # fmt: skip
def test_presets_have_the_published_sizes(name: str, billions: float) -> None:
    with torch.device("meta"):
        count = sum(p.numel() for p in OPT(OPTConfig.from_name(name), seed=None).parameters())
    assert count / 1e9 == pytest.approx(billions, rel=0.03)


def test_the_same_seed_gives_the_same_model_and_touches_no_global_state() -> None:
    before = torch.random.get_rng_state()
    one, two, other = OPT(SMALL, seed=1), OPT(SMALL, seed=1), OPT(SMALL, seed=2)
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not torch.equal(one.tokens.weight, other.tokens.weight)


def test_nothing_sees_the_future(model: OPT) -> None:
    x, y = ids(), ids()
    y[:, 6:] = 0
    a, b = model(x), model(y)
    assert torch.allclose(a[:, :6], b[:, :6], atol=1e-5) and not torch.allclose(a[:, 6:], b[:, 6:], atol=1e-3)


def test_attention_maps_are_those_of_the_forward_pass(model: OPT) -> None:
    block, x = model.blocks[1], model.embed(ids())
    maps = block.attention_maps(x)
    values = block.v(block.norm1(x)).view(2, 10, 4, 6).transpose(1, 2)
    mixed = (maps @ values).transpose(1, 2).reshape(2, 10, 24)
    assert torch.allclose(block.out(mixed), block.attention(x), atol=1e-5)
    assert torch.allclose(maps.sum(-1), torch.ones(2, 4, 10)) and (maps.triu(1) == 0).all()


def test_a_tap_that_changes_nothing_changes_nothing(model: OPT) -> None:
    assert torch.equal(model(ids()), model(ids(), tap=Tap()))


def test_a_masked_unit_is_a_unit_with_zero_output_weights(model: OPT) -> None:
    keep = [torch.arange(n) % 3 != 0 for n in (4, 96)]
    masked = masks.Masked(lambda layer, h, s: keep[1].expand_as(s), lambda layer, h, s: keep[0].expand_as(s))
    cut = OPT(SMALL, seed=None)
    cut.load_state_dict(model.state_dict())
    with torch.no_grad():
        for block in cut.blocks:
            block.down.weight[:, ~keep[1]] = 0
            block.out.weight.view(24, 4, 6)[:, ~keep[0]] = 0
    assert torch.allclose(model(ids(), tap=masked), cut(ids()), atol=1e-5)


def test_a_record_holds_the_whole_stream(model: OPT) -> None:
    seen = masks.record(model, ids())
    assert len(seen.history) == 7 and len(seen.neuron_values) == len(seen.head_norms) == 3
    assert torch.allclose(model.head(seen.history[-1]), model(ids()), atol=1e-5)
    assert seen.neuron_values[0].shape == (2, 10, 96) and seen.head_norms[0].shape == (2, 10, 4)


def test_a_checkpoint_comes_back(model: OPT, tmp_path: Path) -> None:
    checkpoint.save_checkpoint(model, tmp_path)
    again = checkpoint.load_checkpoint(tmp_path)
    assert again.config == model.config and torch.equal(again(ids()), model(ids()))


def test_weights_are_found_under_the_documented_names(model: OPT, tmp_path: Path) -> None:
    """The layout of facebook/opt-*: names with and without 'model.', a PyTorch file, and the tied head written out."""
    checkpoint.save_checkpoint(model, tmp_path / "a")
    from safetensors.torch import load_file

    theirs = load_file(tmp_path / "a" / "model.safetensors")
    assert theirs["model.decoder.embed_positions.weight"].shape == (SMALL.context + 2, 24)
    assert theirs["model.decoder.layers.2.self_attn.k_proj.bias"].shape == (24,)
    assert theirs["model.decoder.layers.0.fc1.weight"].shape == (96, 24)
    assert {"model.decoder.final_layer_norm.weight", "model.decoder.layers.1.self_attn_layer_norm.bias"} <= set(theirs)
    (tmp_path / "b").mkdir()
    old = {name.removeprefix("model."): t for name, t in theirs.items()}
    old["lm_head.weight"] = theirs["model.decoder.embed_tokens.weight"]
    torch.save(old, tmp_path / "b" / "pytorch_model.bin")
    (tmp_path / "b" / "config.json").write_text((tmp_path / "a" / "config.json").read_text())
    assert torch.equal(checkpoint.load_checkpoint(tmp_path / "b")(ids()), model(ids()))


@pytest.mark.parametrize(
    ("change", "says"),
    [({"model_type": "llama"}, "model_type"), ({"do_layer_norm_before": False}, "pre-norm"), ({"word_embed_proj_dim": 8}, "350M"),
     ({"ffn_dim": 100}, r"config.json says \(100"), ({"num_hidden_layers": 4}, "are missing"),
     ({"num_hidden_layers": 2}, "no weight of an OPT")],
)  # fmt: skip
def test_checkpoints_that_do_not_fit_are_refused(model: OPT, tmp_path: Path, change: dict[str, object], says: str) -> None:
    checkpoint.save_checkpoint(model, tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ValueError, match=says):
        checkpoint.load_checkpoint(tmp_path)


def test_folders_without_a_checkpoint_are_refused(model: OPT, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        checkpoint.load_checkpoint(tmp_path)
    checkpoint.save_checkpoint(model, tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="safetensors"):
        checkpoint.load_checkpoint(tmp_path)


def test_bad_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="not a multiple"):
        OPTConfig(10, 1, 3)
    with pytest.raises(ValueError, match="relu, gelu"):
        OPTConfig(8, 1, 2, activation="silu")
    with pytest.raises(ValueError, match="opt-125m"):
        OPTConfig.from_name("opt-1b")
    with pytest.raises(ValueError, match="context of 12"):
        OPT(SMALL)(ids(time=13))
