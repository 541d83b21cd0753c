"""Corpus, trainings, oracles, unions, depth, bits, search, mean-shift and tables: each against a case whose answer is known."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from sheaf.dejavu import (
    audit,
    corpus,
    depth,
    experiments,
    prediction,
    quality,
    quantise,
    search,
    sparsity,
    stream,
    tables,
    training,
)
from sheaf.dejavu.masks import Record, record
from sheaf.dejavu.models import OPT, OPTConfig
from sheaf.dejavu.predictors import Predictor

TINY = {"width": 16, "heads": 4, "layers": 3, "steps": 3, "batch": 2, "documents": 16}


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SHEAF_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def model() -> OPT:
    made = OPT(OPTConfig(16, 4, 4, vocab=40, context=32), seed=1)
    with torch.no_grad():
        for p in made.parameters():
            p.mul_(3)
    return made.eval().requires_grad_(False)


def ids(batch: int = 3, time: int = 12) -> torch.Tensor:
    return torch.randint(40, (batch, time), generator=torch.Generator().manual_seed(0))


# ---------------------------------------------------------------- what is read
def test_the_generated_language_is_fixed_and_held_out_text_is_other_text() -> None:
    one, two = corpus.load("facts", 32), corpus.load.__wrapped__("facts", 32)
    assert torch.equal(one.train, two.train) and one.train.shape == (32, 65) and one.first == 8
    assert not {tuple(r) for r in one.train.tolist()} & {tuple(r) for r in one.held.tolist()}
    assert one.decode(one.encode("land ? red .")) == "land ? red ."
    with pytest.raises(ValueError, match="no words 'xyz'"):
        one.encode("land xyz")


@pytest.mark.parametrize("task", corpus.TASKS)
def test_questions_have_one_right_answer_that_the_language_gives(task: str) -> None:
    text, seen = corpus.load("facts", 16), set()
    for item in corpus.task_items(task, 60):
        right = item.choices[item.answer]
        assert len(set(item.choices)) == len(item.choices) >= 3
        assert len(text.encode(item.context)) <= corpus.CONTEXT
        words = item.context.split()
        if task == "place":
            assert f"{words[-1]} {right} ." in item.context
        elif task == "repeat":
            assert f"{words[-2]} {words[-1]} {right} " in item.context + " " or f"{words[-1]} {right} " in item.context
        elif task == "sum":
            assert int(words[-4]) + int(words[-2]) == int(right)
        seen.add(item.answer)
    assert len(seen) >= 3  # the right one is not always in the same place
    assert corpus.task_items(task, 5) == corpus.task_items(task, 60)[:5] != corpus.task_items(task, 5, seed=1)


def test_remembered_facts_are_the_same_in_documents_and_questions() -> None:
    item = corpus.task_items("world", 1)[0]
    town = item.context.split()[-1]
    text = corpus.load("facts", 400)
    told = [text.decode(row) for row in text.train[100:]]
    facts = [t.split(f"land ? {town} ")[1].split()[0] for t in told if f"land ? {town} " in t[:-30]]
    assert facts and set(facts) == {item.choices[item.answer]}


def test_real_text_is_read_when_it_is_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SHEAF_DATA", str(tmp_path))
    corpus.load.cache_clear()
    assert not corpus.has_text()
    with pytest.raises(FileNotFoundError, match="make data"):
        corpus.load("text", 4)
    (tmp_path / "text" / "tinyshakespeare").mkdir(parents=True)
    letters = "".join(chr(97 + i % 23) for i in range(4000))
    (tmp_path / "text" / "tinyshakespeare" / "input.txt").write_text(letters)
    text = corpus.load("text", 4)
    assert text.train.shape == (4, 65) and text.decode(text.held[0]) in letters[3600:]
    corpus.load.cache_clear()
    with pytest.raises(ValueError, match="'facts' or 'text'"):
        corpus.load("news")


# ---------------------------------------------------------------- trainings and jobs
def test_trainings_are_kept_and_loaded() -> None:
    job = training.job_of(TINY, seed=2)
    first = training.train_all([job], processes=1)[0]
    again = training.load(job)
    text = corpus.load("facts", 16)
    assert training.loss_of(again, text.held[:128]) == pytest.approx(first["loss"], abs=1e-5)
    assert training.train_all([job], processes=1)[0]["seconds"] == first["seconds"]  # not trained again
    other = training.train({**job, "steps": 60, "batch": 4})
    assert other["loss"] < first["loss"]


@pytest.mark.parametrize(("learnt", "drills"), [(100.0, 1), (0.0, 3)])
def test_drills_end_when_learnt_or_after_as_many_steps_as_the_rest(
    learnt: float, drills: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "LEARNT", learnt)
    assert training.train(training.job_of(TINY))["drills"] == drills


def test_a_whole_experiment_at_toy_size() -> None:
    settings: dict[str, Any] = {"model": TINY, "evaluate": 4, "predictor": {"rank": 4, "epochs": 1, "documents": 8}, "items": 2,
                                "depths": [2, 3], "processes": 1}  # fmt: skip
    counter = lambda what, total: lambda piece=None: None  # noqa: E731
    plans = {"facts, relu": experiments.plans(settings, [0], text=False)["facts, relu"]}
    found = experiments.existence(plans, settings, counter)["facts, relu"][0]
    assert {r["rule"] for r in found["rows"]} == {"dense stream", "masked stream", "static", "random"}
    assert all(0 <= k <= 1 for unit in ("neurons", "heads") for k in found["by layer"][unit])
    assert len(found["cosine"]) == 3 and 0 < found["natural"][0] < 1
    banks = experiments.predictor_jobs(plans, settings, ahead=["same", "embedding"])
    assert len(experiments.predictors(banks, settings, counter)) == 6
    losses = experiments.losses(banks, settings, counter)
    assert {"oracle", "static", "threshold", "sign bits", "predicted, same", "predicted, embedding"} <= set(losses["rule"])
    arms = experiments.tasks(plans, settings, counter)["facts, relu"][0]
    assert arms["dense"]["total"] == 0 and arms["MLP at 85 %"]["total"] == pytest.approx(2 / 3 * (1 - 10 / 64) * 2 / 3, abs=1e-6)
    assert {len(v) for v in arms["dense"]["tasks"].values()} == {2}
    assert set(experiments.depth_variants(settings, [0], counter)[0]) == set(depth.VARIANTS)


@pytest.mark.parametrize("heads", [4, 8, 12])
def test_joint_arms_count_the_dense_layer_and_whole_heads(heads: int) -> None:
    arms = experiments.joint_arms({"layers": 6, "heads": heads, "width": 96})
    assert [a["name"] for a in arms] == [f"joint {100 * t:g} %" for t in experiments.SWEEP]
    for arm, total in zip(arms, experiments.SWEEP, strict=True):
        assert arm["heads"] * heads == pytest.approx(round(arm["heads"] * heads)) and 0 < arm["heads"] <= 1
        reached = 5 / 6 * ((1 - arm["heads"]) / 3 + 2 * (1 - arm["neurons"]) / 3)
        assert total - 1e-9 <= reached < total + 0.002


# ---------------------------------------------------------------- oracles and unions
def test_bisection_finds_the_fewest_units() -> None:
    for wanted in (1, 5, 16):
        assert sparsity.least_kept(lambda k, w=wanted: 1.0 if k >= w else 2.0, 1.0, 16) == wanted  # type: ignore[misc]
    assert sparsity.least_kept(lambda k: 1.0, 1.0, 16) == 0
    assert sparsity.least_kept(lambda k: 9.0, 1.0, 16) == 16


def test_unions_of_independent_and_of_equal_tokens() -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = torch.rand(64, 8, 200, generator=generator) - 0.7  # positive with probability 0.3
    same = (torch.rand(1, 1, 200, generator=generator) - 0.7).expand(64, 8, 200)
    heads = torch.rand(64, 8, 8, generator=generator)
    for values, chance in ((drawn, True), (same, False)):
        rows = pd.DataFrame(sparsity.unions(Record([], [values], [heads])))
        at8 = rows[(rows["units"] == "neurons, positive") & (rows["batch"] == 8)].iloc[0]
        assert at8["union"] == pytest.approx(at8["independent"] if chance else (values > 0).float().mean().item(), abs=0.01)
    alone = rows[rows["batch"] == 1]
    assert alone["union"].to_numpy() == pytest.approx(alone["linear"].to_numpy(), abs=0.02)


# ---------------------------------------------------------------- the stream
def test_cosines_and_norms_are_those_of_the_stream(model: OPT) -> None:
    seen = record(model, ids())
    found = stream.measures(seen)
    a, b = seen.history[2], seen.history[4]
    assert found["cosine"][1] == pytest.approx(float(F.cosine_similarity(a, b, dim=-1).median()))
    x, added = seen.history[3], seen.history[4] - seen.history[3]
    assert found["norm ratio"]["mlp"][1] == pytest.approx(float((x.norm(dim=-1) / added.norm(dim=-1)).median()))
    u = F.normalize(seen.history[-1], dim=-1)
    pairs = [float(u[n, i] @ u[n, j]) for n in range(3) for i in range(12) for j in range(12) if i != j]
    assert found["pairwise cosine"][-1] == pytest.approx(np.mean(pairs), abs=1e-5)


def test_entropy_is_one_for_a_head_that_attends_uniformly(model: OPT) -> None:
    with torch.no_grad():
        model.stack[0].q.weight.zero_()
        model.stack[0].q.bias.zero_()
    entropies, norms, correlations = stream.entropy_and_norm(model, ids(), first=4)
    assert torch.allclose(entropies[0], torch.ones(3 * 8, 4), atol=1e-5) and entropies[1].max() < 1
    assert norms[0].shape == (24, 4) and len(correlations) == 4


def test_mean_shift_moves_points_to_their_clusters() -> None:
    generator = torch.Generator().manual_seed(0)
    centres = torch.eye(3, 8)
    points = (centres[:, None] + 0.1 * torch.randn(3, 10, 8, generator=generator)).flatten(0, 1)
    label = stream.clusters(stream.mean_shift(points, 20.0))
    assert label.tolist() == [0] * 10 + [1] * 10 + [2] * 10


# ---------------------------------------------------------------- depth, bits, search, proofs
def test_depth_variants(model: OPT) -> None:
    x = ids()
    assert torch.equal(depth.forward(model, x, "dense"), model(x))
    embedded = model.embed(x)
    b = model.stack
    first = b[0](embedded)
    two = first + b[1].attention(first) + b[1].mlp(first)
    four = two + b[2].attention(two) + b[2].mlp(two)
    last = four + b[3].attention(four) + b[3].mlp(four)
    assert torch.allclose(depth.forward(model, x, "Parallel 2"), model.head(last), atol=1e-5)
    pair = first + sum(m.attention(first) + m.mlp(first) for m in b[1:3])
    wanted = model.head(pair + b[3].attention(pair) + b[3].mlp(pair))
    assert torch.allclose(depth.forward(model, x, "Parallel 4"), wanted, atol=1e-5)
    assert depth.skipped("Skip 2/4", 8) == [1, 2, 5, 6] and depth.skipped("Skip 2/8", 12) == [3, 4, 11]
    assert torch.allclose(depth.forward(model, x, "Skip 2/4"), model.head(b[3](first)), atol=1e-5)
    for wrong in ("Parallel 3", "Skip 1/4"):
        with pytest.raises(ValueError, match="use one of"):
            depth.forward(model, x, wrong)


def test_quantising_keeps_what_fits_and_errs_by_half_a_step() -> None:
    exact = torch.arange(16.0).repeat(2, 2)
    assert torch.allclose(quantise.quantise(exact, group=16), exact, atol=1e-5)
    w = torch.randn(5, 50, generator=torch.Generator().manual_seed(0))  # the last group is not full
    step = (w[:, :32].amax(1) - w[:, :32].amin(1)) / 15
    off = (quantise.quantise(w) - w).abs()
    assert (off[:, :32] <= step[:, None] / 2 + 1e-6).all() and off.max() < 0.5
    assert (quantise.quantise(w, bits=8) - w).abs().max() < off.max() / 8
    with pytest.raises(ValueError, match="2 to 8 bits"):
        quantise.quantise(w, bits=1)


def test_a_quantised_model_is_a_copy(model: OPT) -> None:
    before = model.stack[0].up.weight.clone()
    made = quantise.quantised_model(model)
    assert torch.equal(model.stack[0].up.weight, before) and not torch.equal(made.stack[0].up.weight, before)
    assert torch.equal(made.tokens.weight, model.tokens.weight) and torch.equal(made.stack[0].up.bias, model.stack[0].up.bias)


def test_searches_find_the_largest_products(model: OPT) -> None:
    pytest.importorskip("faiss")
    generator = torch.Generator().manual_seed(0)
    rows, query = torch.randn(300, 24, generator=generator), torch.randn(1, 24, generator=generator)
    wanted = torch.zeros(300, dtype=torch.bool).index_fill(0, torch.topk(query @ rows.T, 20).indices[0], True)
    ways = search.searchers(rows, 20)
    assert search.recall_of(ways["faiss, exact"](query), wanted) == 1
    assert search.recall_of(ways["dense product and top-k"](query), wanted) == 1
    assert search.recall_of(ways["faiss, HNSW"](query), wanted) > 0.8
    table, ratio = search.measure(16, 128, 3)
    assert len(table) == 4 and len(ratio) == 3 and (ratio > 0).all()
    assert 0.5 < search.trained_recall(model, ids(), queries=5) <= 1
    with pytest.raises(ValueError, match="give 1 to 300"):
        search.searchers(rows, 301)


def test_the_lemma_holds_within_its_distance_and_need_not_far_beyond_it() -> None:
    found = prediction.lemma(queries=50)
    assert found["holds"][:2] == [1, 1] and found["kept"][0] == pytest.approx(1) and found["holds"][-1] < 1


def test_the_audit_counts_exactly_the_chosen_rows(model: OPT) -> None:
    neurons = [Predictor(16, 64, 4, seed=i) for i in range(4)]
    heads = [Predictor(16, 4, 4, seed=i) for i in range(4)]
    found = audit.audit(model, neurons, heads, ids(1, 12))
    assert (found["largest difference"] < 1e-4).all()
    assert found["neurons read"].tolist() == found["neurons planned"].tolist() == [8, 19]
    assert found["heads read"].tolist() == found["heads planned"].tolist() == [2, 1]


# ---------------------------------------------------------------- tables
def test_ratios_at_equal_share_and_at_equal_loss() -> None:
    shares = [0.1, 0.25, 0.5]
    rows = [(s, r, k, v) for s in (0, 1) for r, values in (("a", [0.1, 0.02, 0.0]), ("b", [0.4, 0.2, 0.1]))
            for k, v in zip(shares, values, strict=True)]  # fmt: skip
    frame = pd.DataFrame(rows, columns=["seed", "rule", "kept", "loss added"])
    assert tables.ratio_at(frame, "a", "b", 0.25) == pytest.approx([0.1, 0.1])
    # a loses 0.1 with a tenth, b needs half for it; 0.02 with a quarter, b needs 0.9
    assert tables.equal_loss_ratio(frame, "a", "b") == pytest.approx([5, 5])


def arm(right: list[int], losses: float, total: float = 0.0) -> dict[str, Any]:
    return {"tasks": {"one": right, "two": right}, "losses": [losses, losses], "total": total}


def test_the_largest_flat_sparsity_stops_at_the_first_drop() -> None:
    good, bad = [1] * 90 + [0] * 10, [1] * 50 + [0] * 50
    arms = {"dense": arm(good, 1), "x": arm(good, 1, 0.25), "y": arm(bad, 1, 0.5), "z": arm(good, 1, 0.75)}
    assert quality.largest_flat(arms, ["x", "y", "z"]) == 0.25
    assert quality.largest_flat(arms, ["x", "z"]) == 0.75 and quality.largest_flat(arms, ["y"]) == 0
    assert quality.average(arms["dense"]) == 90 and 1.5 < quality.standard_error(arms["dense"]) < 2.8
    assert tables.points([arms], "y") == pytest.approx([-40]) and tables.added([arms], "y") == pytest.approx([0])
    rows = tables.accuracy_rows([arms, arms], ["dense", "y"])
    assert rows["average"].tolist() == pytest.approx([90, 50]) and rows["perplexity"][0] == pytest.approx(np.e)


def test_published_tables_are_readable() -> None:
    tasks = tables.published("tasks")
    assert set(tasks["table"]) == {"table 4", "table 5", "table 6", "table 7"}
    assert all(len(tables.published(name)) for name in ("depth", "latency", "cost", "breakdown"))
