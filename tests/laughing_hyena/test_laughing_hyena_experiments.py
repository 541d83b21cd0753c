"""The experiments at toy size: trainings are kept and read back, and every table and sample has the shape its notebook needs."""

import numpy as np
import pandas as pd
import pytest
import torch

from sheaf.laughing_hyena import charts, comparison, echo, errors, experiments, facts, pace, quality, spectra
from sheaf.laughing_hyena.training import test_batch as batch_for_tests
from sheaf.laughing_hyena.training import train

TOY = {"steps": 3, "model": {"width": 12, "heads": 3, "length": 24, "batch": 2, "mentions": 4, "points": 2}}
SEEDS = [0, 1]


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("SHEAF_CACHE", str(tmp_path_factory.getbasetemp() / "laughing_hyena"))
    monkeypatch.setenv("SHEAF_DATA", str(tmp_path_factory.getbasetemp() / "none"))


@pytest.fixture
def recall():
    jobs = experiments.main_jobs("recall", ["hyena", "multihyena"], TOY, SEEDS)
    return experiments.run(jobs, processes=1)


def test_training_learns_and_repeats_itself() -> None:
    job = {"task": "recall", "width": 24, "length": 16, "symbols": 2, "batch": 8, "steps": 60, "points": 2}
    first, again = train(job), train(job)
    assert first["test"] == again["test"]
    assert first["curve"][-1]["answer loss"] < first["curve"][0]["answer loss"] - 0.1
    assert train(job | {"seed": 1})["test"] != first["test"]


def test_trainings_are_kept_and_give_the_model_that_was_tested(recall) -> None:
    again = experiments.run(experiments.main_jobs("recall", ["hyena", "multihyena"], TOY, SEEDS), processes=1)
    assert [r["cpu"] for r in again] == [r["cpu"] for r in recall]  # measured once
    for r in recall:
        model = experiments.model_of(r)
        batch = batch_for_tests(r)
        with torch.no_grad():
            right = model(batch.tokens).argmax(dim=-1) == batch.targets
        assert 100 * float(right[batch.kind == 2].float().mean()) == pytest.approx(r["test"]["accuracy"], abs=1e-3)
        steps = sorted({step for step, _ in experiments.filters_at(r)})
        assert steps == [0, 3]
        trained = experiments.filters_at(r)[3, 0]
        torch.testing.assert_close(trained, model.long_convolutions()[0].filters(24).detach())


def test_arms_share_what_they_should() -> None:
    arms = ("multihyena", "multihyena, equal compute")
    plain, fewer = (experiments.main_jobs("text", [arm], {"steps": 100}, [0])[0] for arm in arms)
    assert fewer == plain | {"steps": 80}
    sweep = experiments.sweep_jobs(TOY | {"frequencies": [1.0, 4.0]}, [0])
    assert sweep[1] == experiments.main_jobs("recall", ["hyena"], TOY, [0])[0]  # trained once for both
    grid = experiments.scaling_jobs({"grid_steps": 1, "grid_length": 16, "symbols": [4, 8], "widths": [12], "heads": [3]}, SEEDS)
    assert len(grid) == 8


def test_mixed_tasks_come_back_in_order() -> None:
    jobs = experiments.main_jobs("text", ["gpt"], TOY, [0]) + experiments.main_jobs("recall", ["hyena"], TOY, [0])
    found = experiments.run(jobs, processes=1)
    assert [r["task"] for r in found] == ["text", "recall"]


def test_spectra_through_training(recall) -> None:
    found = spectra.ranks(recall)
    assert len(found) == 4 * 2 * 2 * 2 * 3  # models, layers, moments, sections, tolerances
    assert spectra.falls(found, "hyena", 4.0).shape == (4,)
    assert (spectra.trained_rank(found, "multihyena", 4.0) >= 1).all()
    assert len(spectra.summary(found)) == 2 * 2 * 2
    charts.rank_training(found)
    charts.hankel({"Hyena": spectra.singular_values(recall[0])})


def test_the_bank_is_mixed_and_the_fast_spectrum_checked() -> None:
    bank = spectra.bank(7, 64)
    assert bank.shape == (7, 64)
    torch.testing.assert_close(bank[::3], spectra.bank(9, 64)[:7:3])
    scale = spectra.at_scale(320, [1.0], k=4)
    assert scale["largest relative difference"].max() < 1e-3


def test_errors_by_order_and_their_checks() -> None:
    banks = {"smooth": spectra.bank(6, 48, [1.0])}
    table, kept = errors.by_order(banks, [2, 6], gradient_steps=10)
    assert len(table) == 2 * len(errors.COMPARED)
    assert (table["least"] <= table["median"]).all()
    assert (table["median"] <= table["largest"]).all()
    assert (errors.against_best(table, "modal") <= 1.1).all()
    chains = errors.chains(banks, kept)
    assert chains["above_floor"].all()
    assert chains["ordered"].all()
    assert len(errors.violations(chains)) == len(errors.COMPARED) - 1
    assert set(errors.sections(banks, [2])["section"]) == {"padded", "half"}
    assert len(errors.objectives(banks["smooth"], 4, steps=5)) == 4
    charts.distillation(table, chains)


def test_pace_samples_the_whole_bank() -> None:
    found = pace.pace(spectra.bank(12, 96), 4, threads=1)
    assert len(found) == pace.PIECES
    assert (found["modal largest"] <= found["balanced largest"] + 1e-12).all()
    assert (found["modal (s)"] > found["balanced (s)"]).all()
    if pace.has_oracle():
        peer = pace.oracle(spectra.bank(1, 96, [1.0]), 4, 0.001)
        assert float(peer["ours error"].iloc[0]) == pytest.approx(float(peer["pyMOR error"].iloc[0]), rel=0.05)


def test_quality_with_controls(recall) -> None:
    found = quality.by_order(recall, [2, 8], ["modal", "fir"], sequences=16, processes=1)
    assert len(found) == 4 * (1 + 2 * 2 + 2)
    assert quality.losses(found, "hyena", "modal").shape == (2,)
    np.testing.assert_allclose(
        quality.losses(found, "hyena", "fir", 8, against="modal"),
        quality.losses(found, "hyena", "fir", 8) - quality.losses(found, "hyena", "modal", 8),
    )
    zeroed = found[found["method"] == "zero"]
    assert (zeroed["worst filter"] == 1).all()
    assert (found.loc[found["chosen"], "order"] >= 2).all()
    assert set(quality.summary(found)["method"]) == {"base", "modal", "fir", "zero"}
    bins = quality.logit_bins(recall[:1], [2], sequences=8, processes=1)
    assert sorted(bins["bin"]) == list(range(1, 11))
    assert bins["magnitude"].is_monotonic_increasing
    charts.quality(found)
    charts.logits(bins)


def test_echo_asks_for_what_was_seen_before() -> None:
    batch = echo.echo(3, 12, 5, 4, torch.Generator().manual_seed(0))
    assert torch.equal(batch.targets[:, 4:], batch.tokens[:, :-4])
    assert not batch.kind[:, :4].any()
    assert (batch.kind[:, 4:] == 2).all()
    with pytest.raises(ValueError, match="longer than the lag"):
        echo.echo(1, 4, 2, 4, torch.Generator())
    done = echo.run(echo.jobs(TOY | {"echo_steps": 2}, SEEDS), processes=1)
    found = quality.by_order(done, [2], ["balanced"], sequences=8, processes=1)
    assert quality.losses(found, "hyena", "zero").shape == (2,)


def test_comparisons_pair_by_seed() -> None:
    runs = pd.DataFrame({"arm": ["a", "a", "b", "b"], "seed": [0, 1, 1, 0], "loss": [1.0, 2.0, 1.5, 0.25],
                         "parameters": 1, "steps": 2, "cpu": 3.0})  # fmt: skip
    np.testing.assert_allclose(comparison.differences(runs, "a", "b", "loss"), [0.75, 0.5])
    assert list(comparison.summary(runs, ["loss"])["loss"]) == [1.5, 0.875]
    rows = [(k, 8, h, s, seed, acc) for k, h, acc in (("hyena", 8, 40.0), ("multihyena", 2, 70.0), ("multihyena", 4, 60.0))
            for s in (4, 8) for seed in (0, 1)]  # fmt: skip
    grid = pd.DataFrame(rows, columns=["kind", "width", "heads", "symbols", "seed", "accuracy"])
    np.testing.assert_allclose(comparison.largest(grid), [30, 30])
    np.testing.assert_allclose(comparison.twice(grid), [30, 30])
    assert list(comparison.recall_table(grid).columns) == ["width", "kind", "heads", "4 symbols", "8 symbols"]
    charts.recall(grid, [8])


def test_published_values_and_counts() -> None:
    assert set(facts.published("lm_eval")["source"]) == {"memory"}
    with pytest.raises(FileNotFoundError, match="there are"):
        facts.published("none")
    states = facts.states(16).set_index("model")
    assert states.loc["Laughing Hyena"].filter(like="t = ").nunique() == 1
    assert states.loc["GPT, multi-head", "t = 512"] == 2 * 2048 * 512
    assert facts.difference_of_one() < 1e-5
    leak = facts.leakage(128).set_index("way")["change in the past"]
    assert leak["convolution by FFT"] > 0
    assert (leak.drop("convolution by FFT") == 0).all()
