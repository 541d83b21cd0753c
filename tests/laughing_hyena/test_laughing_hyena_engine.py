"""The inference engine: every mode gives what the model gives, states are handed over, bad input is named."""

import pytest
import torch

from sheaf.laughing_hyena.cache import ATTENTION_FORMS, CONVOLUTION_FORMS
from sheaf.laughing_hyena.engine import Engine, random_filters, sample
from sheaf.laughing_hyena.models import LM, LMConfig

KINDS = ["hyena", "multihyena", "h3", "gpt", "gqa"]


def config_of(kind: str, **changes: object) -> LMConfig:
    sizes = {
        "vocab": 31,
        "context": 64,
        "width": 24,
        "layers": 2,
        "heads": 6,
        "emb": 5,
        "filter_width": 8,
        "state": 4,
    } | changes
    return LMConfig("gpt", kv_heads=2, **sizes) if kind == "gqa" else LMConfig(kind, **sizes)  # type: ignore[arg-type]


def tokens_of(batch: int = 3, length: int = 20, seed: int = 1) -> torch.Tensor:
    return torch.randint(31, (batch, length), generator=torch.Generator().manual_seed(seed))


def distilled(kind: str, order: int = 6) -> LM:
    """A model whose filters are exactly modal."""
    model = LM(config_of(kind), seed=2)
    for mixer, filters in zip(model.long_convolutions(), random_filters(model.config, order), strict=True):
        mixer.set_filters(filters)
    return model


def by_session(engine: Engine, tokens: torch.Tensor, prompt: int) -> torch.Tensor:
    """Logits after every token from the prompt's last one."""
    session = engine.session(len(tokens), tokens.shape[1])
    logits = [session.prefill(tokens[:, :prompt])]
    logits += [session.step(tokens[:, t]) for t in range(prompt, tokens.shape[1])]
    return torch.stack(logits, 1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("prompt", [1, 7, 20])
def test_a_cached_session_gives_what_the_model_gives(kind: str, prompt: int) -> None:
    model, tokens = LM(config_of(kind), seed=2), tokens_of()
    wanted = model(tokens)[:, prompt - 1 :].detach()
    for form in ATTENTION_FORMS if kind in ("gpt", "gqa") else CONVOLUTION_FORMS:
        found = by_session(Engine(model, mode="cached", form=form), tokens, prompt)
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", ["hyena", "multihyena", "h3"])
@pytest.mark.parametrize("backend", ["auto", "reference", "eager"])
@pytest.mark.parametrize("strategy", ["auto", "recurrent", "chunked", "vandermonde", "modal_fft", "scan"])
def test_a_recurrent_session_gives_what_the_distilled_model_gives(kind: str, backend: str, strategy: str) -> None:
    model, tokens = distilled(kind), tokens_of()
    wanted = model(tokens)[:, 8:].detach()
    found = by_session(Engine(model, backend=backend, strategy=strategy), tokens, 9)
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)


def test_every_mode_generates_the_same_text() -> None:
    model, prompt = distilled("hyena"), tokens_of(2, 5)
    texts = [Engine(model, mode=mode).generate(prompt, 12) for mode in ("recurrent", "cached", "recompute")]
    assert all(torch.equal(text, texts[0]) for text in texts[1:])
    assert texts[0].shape == (2, 17) and torch.equal(texts[0][:, :5], prompt)


def test_filters_can_be_passed_instead_of_set() -> None:
    model, tokens = distilled("hyena"), tokens_of()
    filters = [m.student for m in model.long_convolutions()]
    plain = LM(config_of("hyena"), seed=2)
    for mode in ("recurrent", "cached"):
        found = by_session(Engine(plain, filters, mode), tokens, 4)  # type: ignore[arg-type]
        torch.testing.assert_close(found, model(tokens)[:, 3:].detach(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", ["hyena", "multihyena"])
def test_a_prompt_in_pieces_leaves_the_state_of_the_whole(kind: str) -> None:
    engine, tokens = Engine(distilled(kind)), tokens_of()
    whole, pieces = engine.session(3), engine.session(3)
    wanted = whole.prefill(tokens)
    for a, b in ((0, 3), (3, 4), (4, 20)):
        found = pieces.prefill(tokens[:, a:b])
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(pieces.layers[1].state, whole.layers[1].state, rtol=1e-3, atol=1e-4)  # type: ignore[attr-defined]


def test_a_long_roll_out_stays_bounded_and_keeps_its_size() -> None:
    """Far beyond the context that the filters were made for."""
    engine = Engine(distilled("hyena"))
    session = engine.session(2)
    size, logits = session.nbytes, session.prefill(tokens_of(2, 4))
    for _ in range(20 * engine.model.config.context):
        logits = session.step(logits.argmax(-1))
    assert session.nbytes == size and torch.isfinite(logits).all() and logits.abs().max() < 1e3


@pytest.mark.parametrize("kind", ["hyena", "multihyena", "gpt", "gqa"])
def test_the_state_is_as_large_as_the_formula_says(kind: str) -> None:
    config = config_of(kind, width=64, heads=4)
    model = LM(config)
    filters = None if "g" in kind[:1] else random_filters(config, 8)
    session = Engine(model, filters).session(5, 40)
    assert session.nbytes == 5 * 4 * config.state_floats(8, 40)


def test_sampling_follows_its_generator_and_its_limits() -> None:
    logits = torch.randn(64, 31, generator=torch.Generator().manual_seed(0))
    drawn = [sample(logits, 0.7, 5, torch.Generator().manual_seed(s)) for s in (1, 1, 2)]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    best = logits.topk(5).indices
    assert (best == drawn[0][:, None]).any(1).all()
    assert torch.equal(sample(logits), logits.argmax(-1))
    frequent = sample(logits[:1].expand(4000, -1), 1.0, generator=torch.Generator().manual_seed(3))
    share = torch.bincount(frequent, minlength=31) / 4000
    assert (share - torch.softmax(logits[0], -1)).abs().max() < 0.03


def test_bad_input_is_named() -> None:
    hyena, gpt = LM(config_of("hyena")), LM(config_of("gpt"))
    with pytest.raises(ValueError, match="distil the model first"):
        Engine(hyena, mode="recurrent")
    with pytest.raises(ValueError, match="no mode"):
        Engine(hyena, mode="quick")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no form"):
        Engine(gpt, form="flash").session(1, 4)
    with pytest.raises(ValueError, match="is full"):
        by_session_of = Engine(gpt).session(1, 2)
        by_session_of.prefill(tokens_of(1, 2))
        by_session_of.step(torch.zeros(1, dtype=torch.long))
    with pytest.raises(ValueError, match="at its beginning"):
        session = Engine(gpt).session(1, 9)
        session.prefill(tokens_of(1, 2))
        session.prefill(tokens_of(1, 2))
    with pytest.raises(ValueError, match="at least one token"):
        Engine(gpt).generate(torch.zeros(1, 0, dtype=torch.long), 3)
    with pytest.raises(ValueError, match="generator"):
        Engine(gpt).generate(tokens_of(1, 2), 3, temperature=1.0)
    with pytest.raises(ValueError, match="even and positive"):
        random_filters(hyena.config, 3)
    with pytest.raises(ValueError, match="no long filters"):
        random_filters(gpt.config, 4)
    with pytest.raises(ValueError, match="distil"):
        Engine(hyena, mode="cached").session(1, 65)
    wild = random_filters(hyena.config, 2)
    wild[0].poles.mul_(3)
    with pytest.raises(ValueError, match="modulus"):
        Engine(hyena, wild)
