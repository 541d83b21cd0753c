"""Recipe, counts, theory and rooflines: arithmetic against other arithmetic."""

import numpy as np
import pytest

from sheaf.pixelfly import budget, count, hardware, models, theory


@pytest.mark.parametrize("name", ["mixer-s16", "mixer-b16", "vit-s16", "vit-b16"])
def test_formulas_count_what_torch_counts(name: str) -> None:
    assert count.measured_counts(lambda: models.build(name), (1, 3, 224, 224)) == count.counts(name)


def test_gpt2_is_counted_with_a_tied_output() -> None:
    built = count.measured_counts(lambda: models.build("gpt2-small"), (1, 512), integer=True)
    ours = count.counts("gpt2-small")
    head = models.GPT_PRESETS["gpt2-small"].vocab * 768
    assert (built.parameters - head, built.operations - 512 * head) == (ours.parameters, ours.operations)


def test_the_audit_finds_what_agrees_and_what_does_not() -> None:
    images = count.audit("image_models").set_index("model")
    agree = images[["parameters agree", "operations agree"]].all(axis=1)
    assert agree.drop("Pixelfly-V-S/16").all() and not agree["Pixelfly-V-S/16"]
    text = count.audit("language_models").set_index("model")
    assert bool(text.loc["GPT-2 medium", "operations agree"]) and not text["parameters agree"].any()
    assert len(count.inconsistencies()) == 6
    with pytest.raises(ValueError, match="no published table"):
        count.published("speech")


@pytest.mark.parametrize("name", ["mixer-b16", "vit-b16", "gpt2-medium"])
def test_the_exact_budget_is_never_worse_and_never_over(name: str) -> None:
    schema = models.schema(name)
    free = [layer for layer in schema if not layer.fixed]
    total = sum(layer.operations for layer in free)
    for density in (0.15, 0.25, 0.5):
        rule, exact = budget.allocate_by_rule(schema, density), budget.allocate_exactly(schema, density)
        assert all(v == pytest.approx(density) for v in rule.values()) and set(exact) == {layer.name for layer in free}
        assert sum(exact[layer.name] * layer.operations for layer in free) <= density * total * (1 + 1e-9)
        whole = budget.compare(schema, density).iloc[-1]
        assert whole["exact loss"] <= whole["loss by the rule"] + 1e-12


def test_the_recipe_leaves_fixed_layers_alone() -> None:
    plans = {layer.name: budget.choose(layer, 0.25) for layer in models.schema("mixer-s16")}
    assert plans["token up"].dense and plans["classifier"].dense and not plans["mlp up"].dense
    assert plans["mlp up"].density(2048, 512) == pytest.approx(0.25, rel=0.02)


@pytest.mark.parametrize(("density", "words"), [(0.0, "budget"), (1.5, "budget"), (0.001, "too small")])
def test_impossible_budgets_are_refused(density: float, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        budget.allocate_exactly(models.schema("vit-b16"), density)


@pytest.mark.parametrize("seed", [0, 1])
def test_theorems(seed: int) -> None:
    assert max(theory.containment(64, 4, seed).values()) == 0
    steps = np.geomspace(0.003, 0.1, 6)
    assert theory.slope(steps, theory.flat_errors(64, 4, steps, seed)) == pytest.approx(2, abs=0.02)
    assert (theory.ranks(64, 8, seed)["rank / n, flat butterfly"] == 1).all()
    found = theory.separation(64, spreads=(0.1,), betas=(10.0,), seed=seed).set_index("way")["error"]
    assert found["sparse + low rank"] < min(found["sparse"], found["low rank"])


def test_rooflines() -> None:
    for device in hardware.DEVICES:
        for layer in hardware.LAYERS:
            gains = [hardware.largest_speedup(device, layer, d) for d in (1.0, 0.5, 0.25, 0.125)]
            assert (
                gains[0] == 1
                and gains == sorted(gains)
                and all(g <= 1 / d + 1e-9 for g, d in zip(gains, (1, 0.5, 0.25, 0.125), strict=True))
            )
    named = {d.name: d for d in hardware.DEVICES}
    assert hardware.largest_speedup(named["H200"], hardware.LAYERS[1], 0.25) == pytest.approx(3.65, abs=0.02)
    assert len(hardware.bounds()) == len(hardware.DEVICES) * len(hardware.LAYERS)
