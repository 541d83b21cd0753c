"""The method: rules keep what they say, predictors learn, the sparse decoder equals masks and reads no more than it should."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sheaf.dejavu import masks, predictors
from sheaf.dejavu.masks import Masked, record
from sheaf.dejavu.models import OPT, OPTConfig
from sheaf.dejavu.predictors import Predictor, step_of
from sheaf.dejavu.sparsify import SparseOPT, sparsify, train_predictors

SMALL = OPTConfig(24, 3, 4, vocab=50, context=24)


def ids(batch: int = 2, time: int = 10, seed: int = 0) -> Tensor:
    return torch.randint(50, (batch, time), generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=["relu", "gelu"])
def model(request: pytest.FixtureRequest) -> OPT:
    made = OPT(OPTConfig(24, 3, 4, vocab=50, context=24, activation=request.param), seed=3)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for p in made.parameters():
            p.add_(0.2 * torch.randn(p.shape, generator=generator))
    return made.eval().requires_grad_(False)


def bank(unit: str, seed: int = 0) -> list[Predictor]:
    return [Predictor(24, 96 if unit == "neurons" else 4, 5, seed=seed + i) for i in range(3)]


@given(st.integers(1, 40), st.floats(0, 1))
def test_a_share_is_at_least_one_unit_and_at_most_all(units: int, share: float) -> None:
    assert 1 <= masks.count(share, units) <= units


def test_top_keeps_exactly_the_largest() -> None:
    scores = torch.tensor([[3.0, 1.0, 2.0], [0.0, 5.0, 4.0]])
    assert masks.top(scores, 2).tolist() == [[True, False, True], [False, True, True]]
    assert masks.top(scores, 9).all() and not masks.top(scores, 0).any()


def test_an_oracle_that_keeps_all_or_all_positive_changes_nothing(model: OPT) -> None:
    dense = model(ids())
    assert torch.equal(model(ids(), tap=Masked(masks.oracle(96), masks.oracle(4))), dense)
    if model.config.activation == "relu":
        seen = record(model, ids())
        most = max(int((a > 0).sum(-1).max()) for a in seen.neuron_values)
        assert most < 96 and torch.allclose(model(ids(), tap=Masked(masks.oracle(most))), dense, atol=1e-5)


def test_the_two_oracles_agree_in_the_first_layer_and_drift_apart_after_it(model: OPT) -> None:
    seen = record(model, ids())
    scores = [a.abs() for a in seen.neuron_values]
    now, before = Masked(masks.oracle(8)), Masked(masks.recorded(scores, 8))
    a, b = model(ids(), tap=now), model(ids(), tap=before)
    assert now.kept == before.kept and not torch.allclose(a, b, atol=1e-3)
    one = OPT(OPTConfig(24, 1, 4, vocab=50, context=24, activation=model.config.activation), seed=3).eval()
    first = [record(one, ids()).neuron_values[0].abs()]
    assert torch.equal(one(ids(), tap=Masked(masks.oracle(8))), one(ids(), tap=Masked(masks.recorded(first, 8))))


def test_dense_layers_stay_dense_and_what_is_kept_is_counted(model: OPT) -> None:
    tap = Masked(masks.oracle(12), masks.oracle(1), dense={0, 2})
    model(ids(), tap=tap)
    assert tap.kept == {"neurons": [0.125], "heads": [0.25]} and len(tap.history) == 6


def test_static_random_and_shared_masks() -> None:
    scores = torch.rand(8, 5, 16)
    fixed = masks.fixed([torch.arange(16.0)], 4)(0, [], scores)
    assert fixed.shape == scores.shape and fixed[..., 12:].all() and not fixed[..., :12].any()
    drawn = masks.random_units(4, torch.Generator().manual_seed(0))(0, [], scores)
    assert (drawn.sum(-1) == 4).all() and not torch.equal(drawn[0], drawn[1])
    union = masks.shared(masks.oracle(4), 4)(0, [], scores)
    assert torch.equal(union[0], masks.top(scores[:4], 4).any(0)) and torch.equal(union[0], union[3])
    assert not torch.equal(union[0], union[4])


def test_sign_bits_count_agreements(model: OPT) -> None:
    seen = record(model, ids())
    mask = masks.sign_bits(model, 10)(1, seen.history, seen.neuron_values[1])
    block = model.blocks[1]
    h = block.norm2(seen.history[3][0, 0])
    agree = torch.stack([(torch.sign(w) == torch.sign(h)).sum() for w in block.up.weight])
    assert agree[mask[0, 0]].min() >= agree[~mask[0, 0]].max() and mask.sum(-1).unique().tolist() == [10]


def test_thresholds_keep_a_share_of_inputs_and_of_neurons(model: OPT) -> None:
    tap = masks.Thresholded(0.25, dense={1})
    h = torch.randn(2, 3, 24)
    assert ((tap.normed(0, "mlp", h) != 0).sum(-1) == 6).all()
    assert torch.equal(tap.normed(0, "attention", h), h) and torch.equal(tap.normed(1, "mlp", h), h)
    assert ((tap.neurons(0, h, torch.randn(2, 3, 96)) != 0).sum(-1) == 24).all()


def test_total_sparsity_weighs_a_third_and_two_thirds() -> None:
    assert masks.total_sparsity(0.5, 0.875) == pytest.approx(0.75)
    assert masks.total_sparsity(0.8, 0.95) == pytest.approx(0.9)
    assert masks.total_sparsity(0.5, 0.875, layers=4, dense=1) == pytest.approx(0.5625)


@pytest.mark.parametrize(
    ("unit", "ahead", "sees"),
    [("neurons", "same", [1, 3, 5]), ("neurons", "half", [0, 2, 4]), ("neurons", "full", [0, 1, 3]),
     ("neurons", "double", [0, 0, 1]), ("neurons", "embedding", [0, 0, 0]),
     ("heads", "same", [0, 2, 4]), ("heads", "half", [0, 1, 3]), ("heads", "full", [0, 0, 2])],
)  # fmt: skip
def test_what_a_predictor_sees(unit: str, ahead: str, sees: list[int]) -> None:
    assert [step_of(unit, ahead)(layer) for layer in range(3)] == sees


def test_the_loss_weighs_negatives_by_the_density() -> None:
    logits, y = torch.tensor([[2.0, -1.0, 0.5, 0.0]]), torch.tensor([[True, False, False, False]])
    plain = torch.nn.functional.binary_cross_entropy_with_logits(logits, y.float(), reduction="none")
    wanted = (plain * torch.tensor([1.0, 0.255, 0.255, 0.255])).mean()
    assert float(predictors.weighted_loss(logits, y)) == pytest.approx(float(wanted))


def test_a_predictor_learns_what_is_linear_and_quality_sees_when_it_cheats() -> None:
    generator = torch.Generator().manual_seed(0)
    x, w = torch.randn(3000, 16, generator=generator), torch.randn(40, 16, generator=generator)
    x[:, 0], w[:, 0] = 2, -2  # no bias in a predictor: the stream itself has to carry one
    y = x @ w.T > 0
    held = (x[2500:2700], y[2500:2700])
    options = {"rank": 16, "epochs": 15, "rate": 1e-2, "seed": 1}
    made = predictors.fit(x[:2500], y[:2500], **options)
    good = predictors.quality(made, x[2700:], y[2700:])
    assert good.recall > 0.9 and good.precision > 0.6 and good.predicted < 1.6 * good.true
    assert torch.equal(made.a, predictors.fit(x[:2500], y[:2500], **options).a)
    # enough recall ends the training at once, whatever else it names
    early = predictors.fit(x[:2500], y[:2500], held=held, enough=0.5, **options)
    assert predictors.quality(early, x[2700:], y[2700:]).predicted > good.predicted

    class Everything(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.ones(len(x), 40)

    cheat = predictors.quality(Everything(), x, y)
    assert cheat.recall == 1 and cheat.predicted == 1 and cheat.precision == pytest.approx(cheat.true)


def test_labels(model: OPT) -> None:
    seen = record(model, ids())
    y = predictors.labels(seen, "neurons", 1, 0.25)
    if model.config.activation == "relu":
        assert torch.equal(y, seen.neuron_values[1] > 0)
    else:
        assert (y.sum(-1) == 24).all()
    assert (predictors.labels(seen, "heads", 1, 0.5).sum(-1) == 2).all()


def masked_reference(model: OPT, sparse: SparseOPT, text: Tensor, prompt: int) -> Tensor:
    """The same by masks: a full pass in which positions of the prompt are dense and the rest keeps what predictors name."""
    def rule(given: list[Predictor], k: int, unit: str) -> masks.Rule:
        chosen = masks.predicted(given, k, step_of(unit, sparse.ahead))

        def only_after(layer: int, history: masks.History, scores: Tensor) -> Tensor:
            mask = chosen(layer, history, scores)
            mask[:, :prompt] = True
            return mask

        return only_after

    tap = Masked(rule([x.neurons for x in sparse.layers], sparse.neurons_kept, "neurons"),
                 rule([x.heads for x in sparse.layers], sparse.heads_kept, "heads"))  # fmt: skip
    return model(text, tap=tap)


@pytest.mark.parametrize("ahead", ["same", "half", "full"])
@pytest.mark.parametrize("prompt", [1, 5])
def test_the_sparse_decoder_equals_masks_over_a_full_cache(model: OPT, ahead: str, prompt: int) -> None:
    sparse = sparsify(model, neurons=bank("neurons"), heads=bank("heads", 9), mlp_density=0.2, ahead=ahead)
    text = ids(1, 20)
    wanted = masked_reference(model, sparse, text, prompt)
    assert torch.allclose(sparse.prefill(text[:, :prompt]), wanted[:, prompt - 1], atol=1e-4)
    chosen = set()
    for t in range(prompt, 20):
        assert torch.allclose(sparse.step(text[:, t]), wanted[:, t], atol=1e-4), t
        chosen |= {tuple(heads.tolist()) for heads, _ in sparse.chosen}
    assert len(chosen) > 1  # heads really came and went, so that keys had to be made up for


def test_rows_that_are_not_chosen_are_never_read(model: OPT) -> None:
    sparse = sparsify(model, neurons=bank("neurons"), heads=bank("heads", 9), mlp_density=0.2)
    text = ids(1, 6)
    sparse.prefill(text[:, :5])
    clean = sparse.step(text[:, 5])
    for layer, (heads, neurons) in zip(sparse.layers, sparse.chosen, strict=True):
        assert len(neurons) == 19 and len(heads) == 2
        others = torch.ones(96, dtype=torch.bool).index_fill(0, neurons.long(), False)
        layer.w1, layer.b1, layer.w2t = (t.clone() for t in (layer.w1, layer.b1, layer.w2t))
        for rows in (layer.w1, layer.b1, layer.w2t):
            rows[others] = float("nan")
        others = torch.ones(4, dtype=torch.bool).index_fill(0, heads.long(), False)
        for weight, bias in (layer.q, layer.k, layer.v):
            weight[others] = float("nan")
            if weight is not layer.out[0]:
                bias.data = torch.where(others[:, None], torch.nan, bias)
        layer.out[0][others] = float("nan")
    sparse.length = 5
    for layer in sparse.layers:
        layer.filled.fill_(5)
    assert torch.allclose(sparse.step(text[:, 5]), clean, atol=1e-6)


def test_without_predictors_it_is_the_dense_model(model: OPT) -> None:
    sparse = sparsify(model)
    text = ids(3, 12)
    sparse.prefill(text[:, :4])
    for t in range(4, 12):
        logits = sparse.step(text[:, t])
    assert torch.allclose(logits, model(text)[:, -1], atol=1e-4)
    made = sparsify(model).generate(text[:, :4], 5)
    assert made.shape == (3, 9) and torch.equal(made[:, :4], text[:, :4])
    for t in range(4, 9):
        assert torch.equal(made[:, t], model(made[:, :t])[:, -1].argmax(-1))


def test_predictors_trained_from_text_make_a_better_sparse_decoder_than_untrained_ones(model: OPT) -> None:
    trained = train_predictors(model, ids(64, 20, seed=1), rank=12, epochs=15, rate=1e-2, batch=128)
    heads = train_predictors(model, ids(8, 20, seed=1), unit="heads", rank=4, epochs=1)
    assert trained[0] is None and heads[0] is None and len(trained) == len(heads) == 3
    text = ids(1, 20, seed=2)
    dense = model(text)

    def off(given: list[Predictor | None]) -> float:
        sparse = sparsify(model, neurons=given, heads=None, mlp_density=0.4)
        sparse.prefill(text[:, :4])
        return sum(float((sparse.step(text[:, t]) - dense[:, t]).pow(2).sum()) for t in range(4, 20))

    assert off(trained) < 0.5 * off([None, *bank("neurons")[1:]])


def test_refusals(model: OPT) -> None:
    with pytest.raises(ValueError, match="3 layers"):
        sparsify(model, neurons=bank("neurons")[:2])
    with pytest.raises(RuntimeError, match="prefill"):
        sparsify(model).step(torch.tensor([1]))
    with pytest.raises(ValueError, match="does not fit"):
        sparsify(model).prefill(ids(1, 9), capacity=8)
    with pytest.raises(ValueError, match="linear, relu"):
        Predictor(4, 4, 2, form="tanh")
    with pytest.raises(ValueError, match="neurons or heads"):
        step_of("neurons", "triple")
