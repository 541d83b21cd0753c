"""Sequences: ListOps is generated and evaluated exactly, planted tasks need what they say, language arms start alike."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sheaf.common.gpt import GPT
from sheaf.pixelfly import language, planted, sequences
from sheaf.pixelfly.models import SPARSE

expressions = st.recursive(
    st.integers(0, 9).map(str),
    lambda inner: st.builds(
        lambda operator, parts: f"[{operator} {' '.join(parts)} ]",
        st.sampled_from(sequences.OPERATORS), st.lists(inner, min_size=1, max_size=4),
    ),
    max_leaves=20,
)  # fmt: skip


def by_recursion(tokens: list[str]) -> int:
    """The value of an expression the other way: consumes tokens from the front."""
    head = tokens.pop(0)
    if not head.startswith("["):
        return int(head)
    values = []
    while tokens[0] != "]":
        values.append(by_recursion(tokens))
    tokens.pop(0)
    return {"[MIN": min, "[MAX": max, "[MED": lambda v: int(np.median(v)), "[SM": lambda v: sum(v) % 10}[head](values)


@given(expressions)
def test_two_ways_to_evaluate_agree(text):
    assert sequences.evaluate(text.split()) == by_recursion(text.split())


@pytest.mark.parametrize(
    ("text", "value"),
    [("[MAX 2 9 [MIN 4 7 ] 0 ]", 9), ("[SM 9 9 3 ]", 1), ("[MED 1 2 9 ]", 2), ("[MED 2 9 ]", 5), ("[MIN 3 ]", 3), ("7", 7)],
)
def test_known_values(text, value):
    assert sequences.evaluate(text.split()) == value


@pytest.mark.parametrize("text", ["[MAX 1 2", "1 2", "", "[MAX 1 ] ]", "[FOO 1 ]", "[MAX ]", "12"])
def test_what_is_no_expression_is_refused(text):
    with pytest.raises(ValueError):
        sequences.evaluate(text.split())


def test_generated_expressions_have_their_values():
    x, y = sequences.listops_data(60, 96, seed=3)
    assert x.shape == (60, 96) and x.dtype == y.dtype == torch.long
    for row, value in zip(x, y, strict=True):
        tokens = [sequences.VOCABULARY[t] for t in row.tolist() if t]
        assert 32 <= len(tokens) <= 96 and (row[len(tokens) :] == 0).all()
        assert sequences.evaluate(tokens) == value
    assert len(y.unique()) >= 6
    again, other = sequences.listops_data(60, 96, seed=3)[0], sequences.listops_data(60, 96, seed=4)[0]
    assert torch.equal(x, again) and not torch.equal(x, other)


def test_listops_runs_every_arm_on_the_same_expressions():
    found = sequences.listops_runs(["dense", "pixelfly"], 64, 3, [0], processes=1, keep=False)
    assert found["arm"].tolist() == ["dense", "pixelfly"]
    assert found["accuracy"].between(0, 100).all() and found["most frequent value"].nunique() == 1


def test_planted_tasks_are_what_they_say():
    x, y = planted.planted_task("stride", 50, 0, features=16, stride=4)
    assert torch.equal(y[:, 3], x[:, 7]) and torch.equal(y[:, 9], x[:, 13])
    for kind, reach in (("rank", 4), ("rotation", 16)):
        x, y = planted.planted_task(kind, 500, 0, features=16)
        matrix = torch.linalg.lstsq(x, y).solution
        assert torch.allclose(matrix @ matrix.T, torch.eye(16), atol=1e-4)  # a rotation
        i = torch.arange(16)
        assert (matrix[i[:, None] // reach != i // reach].abs() < 1e-4).all()
    with pytest.raises(ValueError, match="stride, rank, rotation"):
        planted.planted_task("nothing", 1, 0)


def test_only_patterns_with_the_structure_solve_the_planted_tasks():
    arms = ["flat", "block diagonal", "low rank"]
    found = pd.concat([planted.planted(kind, arms, [0]) for kind in planted.KINDS]).set_index(["task", "arm"])["accuracy"]
    assert found["stride", "flat"] > 99 and found["stride", "block diagonal"] < 5 and found["stride", "low rank"] < 25
    assert found["rank", "flat"] > 99 and found["rank", "low rank"] < 25
    assert found["rotation"].max() < 45


@pytest.fixture
def generated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("SHEAF_DATA", str(tmp_path))
    language.corpus.cache_clear()
    yield tmp_path
    language.corpus.cache_clear()


def test_text_is_generated_when_there_is_none_and_read_when_there_is(generated: Path):
    assert "generated" in language.corpus()[3]
    folder = generated / "text" / "wikitext-2"
    folder.mkdir(parents=True)
    (folder / "valid.txt").write_bytes(bytes(range(100)))
    (folder / "test.txt").write_bytes(b"abc")
    language.corpus.cache_clear()
    train, held, test, origin = language.corpus()
    assert train.tolist() == list(range(90)) and held.tolist() == list(range(90, 100)) and test.tolist() == [97, 98, 99]
    assert "WikiText-2" in origin


def test_every_language_arm_starts_with_the_dense_variance():
    """GPT-2 starts smaller than a default linear layer; an arm that does not would differ by its start alone."""
    names = [f"blocks.{i}.{n}" for i in range(2) for n in ("qkv", "out", "up", "down")]
    spread = {}
    for arm in ("dense", "pixelfly", "random block"):
        model = language.make(arm, 0, 32, width=64, layers=2)
        for name in names:
            layer = model.get_submodule(name)
            x = torch.randn(3000, layer.in_features, generator=torch.Generator().manual_seed(1))
            with torch.no_grad():
                assert (layer.bias == 0).all()
                spread[arm, name] = float(layer(x).std())
    for arm in ("pixelfly", "random block"):
        for name in names:
            assert spread[arm, name] == pytest.approx(spread["dense", name], rel=0.15), (arm, name)


def test_bigbird_blocks_have_local_global_and_random_parts():
    model = language.make("bigbird attention", 0, 128, width=32, layers=1)
    mask = model.blocks["0"].mask
    band = torch.ones_like(mask).triu(-1).tril(1)
    known = band | (torch.arange(len(mask)) == 0) | (torch.arange(len(mask)) == 0)[:, None]
    assert mask[known].all() and (mask & ~known).any()
    assert not torch.equal(mask, language.make("bigbird attention", 1, 128, width=32, layers=1).blocks["0"].mask)


def test_bigbird_is_causal_and_dense_otherwise():
    dense, sparse = (language.make(arm, 0, 32, width=32, layers=1) for arm in ("dense", "bigbird attention"))
    x = torch.randint(256, (1, 32), generator=torch.Generator().manual_seed(0))
    y = x.clone()
    y[0, 20:] = 0
    with torch.no_grad():
        assert torch.allclose(sparse(x)[:, :20], sparse(y)[:, :20], atol=1e-5)
        assert torch.allclose(sparse(x)[:, :8], dense(x)[:, :8], atol=1e-5)  # the first block sees all that dense sees


def test_language_runs_are_fixed_by_their_seed(generated: Path):
    size = {"steps": 3, "batch": 2, "context": 32, "width": 32, "layers": 1}
    job = {"arm": "pixelfly", "seed": 3, "rate": 0.002, "on": "test", **size}
    first, second = language.train_language_model(job), language.train_language_model(job)
    assert first["perplexity"] == second["perplexity"] and 1 < first["perplexity"] < 400 and first["step_s"] > 0


def test_perplexity_of_a_model_that_knows_nothing():
    class Uniform(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.zeros(*x.shape, 256)

    assert language.perplexity(Uniform(), torch.arange(500) % 256, 16) == pytest.approx(256)


def test_gaps_are_paired_by_seed():
    runs = pd.DataFrame([("a", 0, 11.0), ("b", 0, 10.0), ("a", 1, 9.0), ("b", 1, 10.0)], columns=["arm", "seed", "perplexity"])
    assert sequences.gaps(runs, "a", "b") == pytest.approx([10, -10])


def test_language_tunes_on_held_out_text_with_a_seed_of_its_own(generated: Path, monkeypatch: pytest.MonkeyPatch):
    asked = []

    def pretend(worker, jobs, **_):
        asked.extend(jobs)
        # the larger rate is better for pixelfly, the smaller for dense; pixelfly's steps take half the time
        best, seconds = {"pixelfly": -2, "dense": -3}, {"pixelfly": 0.5, "dense": 1.0}
        return [j | {"perplexity": 9 + abs(math.log10(j["rate"]) - best[j["arm"]]), "step_s": seconds[j["arm"]]} for j in jobs]

    monkeypatch.setattr(sequences, "run_all", pretend)
    runs, tried = sequences.language(["dense", "pixelfly"], [0.001, 0.01], [0, 1], steps=40)
    assert {j["seed"] for j in asked if j["on"] == "validation"} == {1000} and len(tried) == 4
    chosen = runs.groupby("arm")["rate"].unique().map(list).to_dict()
    assert chosen == {"dense": [0.001], "pixelfly": [0.01], "dense, equal seconds": [0.001]}
    assert set(runs.loc[runs["arm"] == "dense, equal seconds", "steps"]) == {20}


def test_refusals():
    with pytest.raises(ValueError, match="use one of dense"):
        language.make("sparse", 0, 32)
    with pytest.raises(ValueError, match="at least one value"):
        sequences.evaluate_operator("MAX", [])
    assert isinstance(language.make("dense", 0, 32, width=32, layers=1), GPT) and SPARSE["gpt"]
