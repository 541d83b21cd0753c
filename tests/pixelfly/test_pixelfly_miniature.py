"""The accuracy experiments: arms of equal size, rates chosen apart from the test pictures, results that settings fix."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from sheaf.pixelfly import accuracy, diagnosis, images, miniature
from sheaf.pixelfly.layers import MaskedLinear, PixelflyLinear

SPARSE_ARMS = [arm for arm in miniature.ARMS if arm != "dense"]


def job(**changes: object) -> dict:
    base = {"model": "mixer-mini", "dataset": "digits", "epochs": 1, "train": 128, "on": "test"}
    return base | {"arm": "pixelfly", "rate": 0.003, "seed": 0} | changes


@pytest.mark.parametrize("model", ["mixer-mini", "vit-mini"])
def test_all_arms_have_the_same_number_of_sparse_weights(model):
    data = images.load("digits")
    sizes = {}
    for arm in SPARSE_ARMS:
        made, density = miniature.make(model, arm, data, 0)
        assert density == pytest.approx(0.25, abs=0.01)
        sizes[arm] = sum(
            int(m.mask.sum()) if isinstance(m, MaskedLinear) else sum(p.numel() for p in (m.weight, m.u, m.v) if p is not None)
            for m in made.modules() if isinstance(m, MaskedLinear | PixelflyLinear)
        )  # fmt: skip
    assert max(sizes.values()) / min(sizes.values()) < 1.03, sizes


@pytest.mark.parametrize("model", ["mixer-mini", "vit-mini"])
def test_layers_outside_of_the_pattern_are_the_same_in_all_arms(model):
    data = images.load("digits")
    dense = miniature.make(model, "dense", data, 4)[0].state_dict()
    for arm in ("pixelfly", "low rank", "rigl"):
        made = miniature.make(model, arm, data, 4)[0]
        replaced = [n for n, m in made.named_modules() if isinstance(m, MaskedLinear | PixelflyLinear)]
        shared = [k for k in made.state_dict() if k in dense and not any(k.startswith(n + ".") for n in replaced)]
        assert len(shared) > 5 and all(torch.equal(made.state_dict()[k], dense[k]) for k in shared)


def test_rigl_starts_with_erdos_renyi_densities():
    made, _ = miniature.make("vit-mini", "rigl", images.load("digits"), 0)
    layers = [m for m in made.modules() if isinstance(m, MaskedLinear)]
    ratio = [float(m.mask.float().mean()) / (sum(m.weight.shape) / m.weight.numel()) for m in layers]
    assert len({m.weight.shape for m in layers}) > 1 and np.ptp(ratio) / np.mean(ratio) < 0.01


def test_settings_fix_the_result():
    first, second, other = (miniature.train_image_model(job(seed=s)) for s in (0, 0, 1))
    assert {k: v for k, v in first.items() if k != "step_s"} == {k: v for k, v in second.items() if k != "step_s"}
    assert first["loss"] != other["loss"] and 0 <= first["accuracy"] <= 100


@pytest.mark.parametrize("arm", ["dense", "rigl", "low rank", "pixelfly, gate per token"])
def test_every_kind_of_arm_trains(arm):
    assert np.isfinite(miniature.train_image_model(job(arm=arm))["loss"])


def pretend(results: dict[tuple[str, float], float], asked: list[dict]):
    def run_all(worker, jobs, **_):
        asked.extend(jobs)
        return [j | {"accuracy": results[j["arm"], j["rate"]] + j["seed"] % 7, "sparse density": 0.25} for j in jobs]

    return run_all


def test_rates_are_chosen_on_validation_pictures_with_seeds_of_their_own(monkeypatch: pytest.MonkeyPatch):
    asked: list[dict] = []
    rates = [1e-3, 1e-2, 1e-1]
    results = dict(zip([(arm, rate) for arm in ("dense", "flat") for rate in rates], [5, 9, 7, 8, 3, 1], strict=True))
    monkeypatch.setattr(accuracy, "run_all", pretend(results, asked))
    runs, tried = accuracy.image_arms("mixer-mini", "digits", ["dense", "flat"], rates, [0, 1], epochs=1, tuning_seeds=2)
    validation, test = ([j for j in asked if j["on"] == on] for on in ("validation", "test"))
    assert len(validation) == 12 and len(test) == 4 and len(tried) == 12
    assert {j["seed"] for j in validation} == {1000, 1001} and {j["seed"] for j in test} == {0, 1}
    assert {(j["arm"], j["rate"]) for j in test} == {("dense", 1e-2), ("flat", 1e-3)}
    # everything else is the same for all arms
    assert len({tuple(sorted((k, v) for k, v in j.items() if k not in ("arm", "rate", "seed"))) for j in test}) == 1
    edge = runs.groupby("arm")["rate at the edge"].first().to_dict()
    assert edge == {"dense": False, "flat": True}


def test_a_real_run_from_rates_to_rows(monkeypatch: pytest.MonkeyPatch, tmp_path):
    monkeypatch.setenv("SHEAF_CACHE", str(tmp_path))
    runs, tried = accuracy.image_arms(
        "mixer-mini", "digits", ["dense", "pixelfly"], [0.001, 0.01], [0, 1], epochs=1, train=128, processes=1
    )
    assert len(runs) == 4 and len(tried) == 4 and runs["accuracy"].between(0, 100).all()
    table = accuracy.summary(runs)
    assert table["seeds"].tolist() == [2, 2] and (table["low"] <= table["accuracy (%)"]).all()


def test_differences_are_paired_by_seed():
    rows = [("a", 1, 5.0), ("b", 0, 1.0), ("a", 0, 2.0), ("b", 1, 9.0)]
    runs = pd.DataFrame(rows, columns=["arm", "seed", "accuracy"])
    assert accuracy.differences(runs, "a", "b").tolist() == [1.0, -4.0]


def test_unknown_arms_are_refused():
    with pytest.raises(ValueError, match="use one of dense"):
        miniature.make("mixer-mini", "nothing", images.load("digits"), 0)


def test_the_balanced_start_is_a_default_layers_and_the_published_one_is_not():
    found = diagnosis.gains(draws=6, tokens=800).set_index(["init", "mix"])
    for mix in ("scalar", "sum"):
        assert found.loc[("balanced", mix), "output"] == pytest.approx(1, abs=0.03)
        assert found.loc[("balanced", mix), "low-rank share"] == pytest.approx(0.5, abs=0.03)
    # a third of the blocks' variance and mixed by a half: 1/4 of the variance, and the root of 1/4 + 1/12 of the deviation
    assert found.loc[("published", "scalar"), "low-rank share"] == pytest.approx(0.25, abs=0.03)
    assert found.loc[("published", "scalar"), "output"] == pytest.approx(np.sqrt(1 / 3), abs=0.03)


def test_moving_blocks_changes_their_places_only():
    model = nn.Sequential(miniature.make("mixer-mini", "pixelfly", images.load("digits"), 0)[0])
    before = {n: (m.mask.clone(), m.rank) for n, m in model.named_modules() if isinstance(m, PixelflyLinear)}
    assert diagnosis.move_blocks(model, 0) == len(before) == 4
    after = {n: m for n, m in model.named_modules() if isinstance(m, PixelflyLinear)}
    for name, (mask, rank) in before.items():
        assert int(after[name].mask.sum()) == int(mask.sum()) and after[name].rank == rank
        assert not torch.equal(after[name].mask, mask)


def test_random_blocks_and_rank_train():
    found = diagnosis.train_random_and_rank(job())
    assert np.isfinite(found["loss"]) and found["sparse density"] == pytest.approx(0.25, abs=0.01)
    assert 0.3 < found["gamma"] < 0.7  # two steps from a half
