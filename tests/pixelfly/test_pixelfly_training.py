"""Training: data, loop, RigL, jobs that resume, the NTK, sequences; tiny sizes, generated or shipped data only."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from sheaf.common.jobs import grid
from sheaf.pixelfly import accuracy, images, jobs, language, ntk, planted, sequences
from sheaf.pixelfly.layers import MaskedLinear
from sheaf.pixelfly.miniature import ARMS, make, train_image_model
from sheaf.pixelfly.rigl import RigL, erk_densities
from sheaf.pixelfly.train import cosine, fit


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHEAF_CACHE", str(tmp_path))


def test_digits_are_split_without_overlap() -> None:
    data = images.load("digits")
    sizes = [len(part[1]) for part in (data.train, data.validation, data.test)]
    assert sum(sizes) == 1797 and min(sizes) > 100
    seen = {row.numpy().tobytes() for row in data.train[0]}
    assert not any(row.numpy().tobytes() in seen for row in data.test[0][:200])


def test_unknown_data_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SHEAF_DATA", str(tmp_path))
    with pytest.raises(ValueError, match="one of"):
        images.load("mnist")
    with pytest.raises(FileNotFoundError, match="SHEAF_DATA"):
        images.load("cifar")


def test_the_rate_rises_and_falls() -> None:
    rates = [cosine(s, 100) for s in range(100)]
    assert max(rates) == 1 and rates.index(1.0) == 9 and rates[-1] < 0.01 and min(rates) > 0


def test_training_lowers_the_loss_and_repeats() -> None:
    data = images.load("digits")
    runs = []
    for _ in range(2):
        model, density = make("mixer-mini", "pixelfly", data, seed=3, width=64, layers=1)
        runs.append((fit(model, data.train, epochs=2, rate=0.005, seed=3), density))
    (first, density), (second, _) = runs
    assert (
        first.losses == second.losses and first.losses[1] < first.losses[0] and density == pytest.approx(0.25, rel=0.1)
    )
    with pytest.raises(ValueError, match="batch"):
        fit(nn.Linear(2, 2), (torch.zeros(5, 2), torch.zeros(5)), epochs=1, rate=0.1, seed=0)


@pytest.mark.parametrize("arm", list(ARMS))
def test_every_arm_trains(arm: str) -> None:
    job = {"model": "mixer-mini", "dataset": "digits", "arm": arm, "epochs": 1, "train": 256, "seed": 0, "rate": 0.003,
           "on": "validation", "width": 64}  # fmt: skip
    found = train_image_model(job)
    assert 0 <= found["accuracy"] <= 100 and np.isfinite(found["loss"])
    assert found["sparse density"] == pytest.approx(1 if arm == "dense" else 0.25, rel=0.1)


def test_erk_spends_the_budget() -> None:
    shapes = [(64, 64), (512, 128), (8, 8)]
    found = erk_densities(shapes, 0.25)
    sizes = [o * i for o, i in shapes]
    assert sum(d * s for d, s in zip(found, sizes, strict=True)) == pytest.approx(0.25 * sum(sizes)) and max(found) <= 1
    assert found[2] == 1 and found[0] > found[1]  # small layers stay denser
    with pytest.raises(ValueError):
        erk_densities([], 0.5)


def test_rigl_moves_weights_and_keeps_their_number() -> None:
    generator = torch.Generator().manual_seed(0)
    layer = MaskedLinear(torch.rand(32, 32, generator=generator) < 0.3, generator=generator)
    optimiser = torch.optim.AdamW(layer.parameters(), lr=0.01)
    mover = RigL(layer, optimiser, steps=40, period=10)
    count, before = int(layer.mask.sum()), layer.mask.clone()
    for step in range(40):
        mover.watch()
        loss = (layer(torch.randn(64, 32, generator=generator)) - 1).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        old = layer.mask.clone()
        mover.step()
        assert int(layer.mask.sum()) == count
        grown = layer.mask & ~old
        assert not layer.weight[grown].any()
        if step not in (10, 20):  # 30 is past three quarters of the training
            assert not grown.any()
    assert mover.moved > 0 and not torch.equal(before, layer.mask)
    with pytest.raises(ValueError, match="MaskedLinear"):
        RigL(nn.Linear(2, 2), optimiser, 10)


def worker(job: dict[str, Any]) -> dict[str, Any]:
    """Counts its calls in a file."""
    log = Path(job["log"])
    log.write_text(log.read_text() + "x" if log.exists() else "x")
    if job["n"] == job.get("fails"):
        raise RuntimeError("killed")
    return {"square": job["n"] ** 2}


def test_jobs_resume_where_they_stopped(tmp_path: Path) -> None:
    log = str(tmp_path / "log")
    todo = grid({"log": log}, n=[1, 2, 3])
    with pytest.raises(RuntimeError):
        jobs.run_all(worker, [todo[0], todo[1], {**todo[2], "fails": 3}], processes=1)
    assert Path(log).read_text() == "xxx"
    ticks: list[object] = []
    found = jobs.run_all(worker, todo, processes=1, progress=ticks.append)
    assert [f["square"] for f in found] == [1, 4, 9] and Path(log).read_text() == "xxxx" and len(ticks) == 3
    jobs.run_all(worker, todo, processes=1, data="other data")
    assert Path(log).read_text() == "x" * 7


def test_rates_are_chosen_on_validation_pictures_and_processes_do_not_matter() -> None:
    options = {"epochs": 1, "train": 256, "width": 64, "keep": False}
    alone, tried = accuracy.image_arms(
        "mixer-mini", "digits", ["dense", "flat"], [0.001, 0.01], [0, 1], processes=1, **options
    )
    both, _ = accuracy.image_arms(
        "mixer-mini", "digits", ["dense", "flat"], [0.001, 0.01], [0, 1], processes=2, **options
    )
    assert set(tried["on"]) == {"validation"} and set(alone["on"]) == {"test"} and len(alone) == 4
    assert alone["accuracy"].tolist() == both["accuracy"].tolist()
    for arm, part in tried.groupby("arm"):
        best = part.loc[part["accuracy"].idxmax(), "rate"]
        assert set(alone.loc[alone["arm"] == arm, "rate"]) == {best}
    assert len(accuracy.differences(alone, "flat", "dense")) == 2


def test_planted_tasks_need_their_structure() -> None:
    stride = planted.planted("stride", ["flat", "block diagonal"], [0], steps=250).set_index("arm")["accuracy"]
    rank = planted.planted("rank", ["flat", "low rank"], [0], steps=250).set_index("arm")["accuracy"]
    assert stride["flat"] > 95 and stride["block diagonal"] < 10 and rank["flat"] > rank["low rank"]
    with pytest.raises(ValueError, match="unknown"):
        planted.planted_task("colour", 1, 0)


def test_the_kernel_is_that_of_a_linear_model() -> None:
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    model = nn.Linear(4, 3)
    assert ntk.kernel(model, x) == pytest.approx(3 * (x.double() @ x.double().T + 1).numpy(), rel=1e-5)
    mask = torch.tensor([[True, False, False, False]] * 3)
    masked = ntk.kernel(MaskedLinear(mask), x)
    assert masked == pytest.approx(3 * (x[:, :1].double() @ x[:, :1].double().T + 1).numpy(), rel=1e-5)


def test_distances_see_scale_only_when_asked() -> None:
    k = np.diag([1.0, 2.0, 3.0])
    assert ntk.distance(3 * k, k) == pytest.approx(2) and ntk.distance(3 * k, k, "unit trace") == pytest.approx(0)
    assert ntk.distance(3 * k, k, "unit norm") == pytest.approx(0)
    found = ntk.distances(ntk.kernels("mixer-mini", "digits", ["dense", "flat"], [0, 1], inputs=3))
    assert set(found["arm"]) == {"dense", "flat"} and (found["distance"] > 0).all()


def test_listops_values_are_right() -> None:
    x, y = sequences.listops_data(40, 64, seed=1)
    for row, value in zip(x, y, strict=True):
        tokens = [sequences.VOCABULARY[t] for t in row.tolist() if t]
        assert 64 // 3 <= len(tokens) <= 64 and sequences.evaluate(tokens) == value
    assert sequences.evaluate(["[SM", "9", "[MED", "1", "5", "2", "]", "[MIN", "4", "3", "]", "]"]) == (9 + 2 + 3) % 10
    for bad in ("[MIN 1", "1 2", "[MAX ]", "] 1", "[AVG 1 ]"):
        with pytest.raises(ValueError):
            sequences.evaluate(bad.split())


@pytest.mark.parametrize("arm", language.ARMS)
def test_language_arms_train(arm: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SHEAF_DATA", str(tmp_path))
    language.corpus.cache_clear()
    job = {
        "arm": arm,
        "seed": 0,
        "steps": 3,
        "rate": 0.003,
        "on": "validation",
        "batch": 2,
        "context": 32,
        "width": 64,
        "layers": 1,
    }
    found = language.train_language_model(job)
    assert 1 < found["perplexity"] < 400 and "generated" in language.corpus()[3]
    language.corpus.cache_clear()
