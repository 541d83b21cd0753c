"""llama.cpp as a dense peer: its logits are torch's in every type, states of prompts come back, and its absence is said."""

from importlib import metadata
from pathlib import Path

import pytest
import torch

from sheaf.dejavu import llama_cpp, speed
from sheaf.dejavu.engine import Engine, Kept
from sheaf.dejavu.models import OPTConfig

installed = pytest.mark.skipif(llama_cpp.missing() is not None, reason=str(llama_cpp.missing()))
CONFIG = OPTConfig(64, 4, 4)


def loaded(dtype: torch.dtype = torch.float32, tokens: int = 5) -> tuple[Engine, torch.Tensor, llama_cpp.LlamaCpp]:
    engine = Engine(CONFIG, ranks=(4, 4), capacity=40, dtype=dtype)
    inputs = engine.tokens(tokens)[:, 0]
    return engine, inputs, llama_cpp.LlamaCpp(engine, inputs, 40)


@installed
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float16, 1e-3), (torch.bfloat16, 5e-3)])
def test_logits_are_those_of_torch(dtype: torch.dtype, tolerance: float) -> None:
    engine, inputs, peer = loaded(dtype)
    right = llama_cpp.reference(engine, inputs, 4)
    assert (peer.blocks, peer.passes) == (4, 1)
    for token, row in enumerate(right):
        peer.step(token)
        assert (peer.logits() - row).norm() <= tolerance * row.norm()
    peer.prompt(0)
    peer.prompt(5)  # the same tokens at once
    assert (peer.logits() - right[-1]).norm() <= tolerance * right[-1].norm()


def test_the_reference_is_a_decoder_of_the_engines_weights() -> None:
    """With ReLU in place of GELU it would be the engine's dense step; a GELU is all that differs."""
    engine = Engine(CONFIG, ranks=(4, 4), capacity=5)
    inputs = engine.tokens(5)[:, 0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.functional, "gelu", lambda x, approximate: x.relu())
        found = llama_cpp.reference(engine, inputs, 4)
    steps = torch.cat([engine.dense(x[None], i) for i, x in enumerate(inputs)])
    torch.testing.assert_close(found, torch.nn.functional.layer_norm(steps, (64,)) @ inputs.T, rtol=1e-4, atol=1e-4)


@installed
def test_a_prompt_is_the_same_state_again_after_steps() -> None:
    _, _, peer = loaded()
    found: list[torch.Tensor] = []
    for length in (30, 30, 12, 30):
        peer.prompt(length)
        peer.step(3)
        assert peer.length == length + 1
        found.append(peer.logits())
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=0)
    torch.testing.assert_close(found[3], found[0], rtol=1e-3, atol=1e-3)  # part of the prompt was read again, in other batches
    assert not torch.allclose(found[2], found[0], rtol=1e-3, atol=1e-3)


@installed
def test_blocks_that_do_not_fit_are_passed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama_cpp, "ROOM", 2.5 * 12 * 64 * 64 * 4)  # two of the four blocks and a half
    engine, inputs, peer = loaded()
    assert (peer.blocks, peer.passes) == (2, 2)
    peer.step(0)
    assert peer.length == 2
    twice = llama_cpp.reference(engine, torch.cat([inputs[:1], inputs]), 2)[1, 1:]  # the first token, then it again
    assert (peer.logits() - twice).norm() <= 1e-4 * twice.norm()
    with pytest.raises(ValueError, match="do not fit a cache of 50"):
        peer.prompt(51)


@installed
def test_a_wrong_result_is_refused_before_anything_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    real = llama_cpp.reference
    monkeypatch.setattr(llama_cpp, "reference", lambda *a: 1.1 * real(*a))
    with pytest.raises(RuntimeError, match="different results; nothing was timed"):
        loaded()


@installed
def test_it_is_one_of_the_dense_arms_and_leaves_no_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SHEAF_CACHE", str(tmp_path))
    frame = speed.steps(CONFIG, (4, 4), Kept(2, 32), [4, 8], tokens=2, rounds=2)
    assert set(frame[frame["arm"] == "dense, llama.cpp"]["prompt"]) == {4, 8}
    assert not list((tmp_path / "dejavu").iterdir())


def test_without_the_package_a_sentence_says_so_and_the_rest_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(llama_cpp.metadata, "version", version)
    assert "is not installed" in str(llama_cpp.missing())
    frame = speed.steps(CONFIG, (4, 4), Kept(2, 32), [4], tokens=2, rounds=2)
    assert "dense, torch" in set(frame["arm"])
    assert "dense, llama.cpp" not in set(frame["arm"])
    with pytest.raises(RuntimeError, match="is not installed"):
        loaded()


def test_another_release_is_not_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama_cpp.metadata, "version", lambda name: "2031.1.1")
    assert f"known for {llama_cpp.TESTED} alone" in str(llama_cpp.missing())
