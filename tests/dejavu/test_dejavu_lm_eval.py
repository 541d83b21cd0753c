"""The model class for lm-evaluation-harness: scores equal log-probabilities; under the real harness where it is installed."""

from pathlib import Path

import pytest
import torch

from sheaf.dejavu import corpus, masks
from sheaf.dejavu.lm_eval_model import Scorer, harness_model, write_tasks
from sheaf.dejavu.models import OPT, OPTConfig
from sheaf.dejavu.predictors import Predictor
from sheaf.dejavu.sparsify import sparsify


@pytest.fixture(scope="module")
def text() -> corpus.Corpus:
    return corpus.load("facts", 16)


@pytest.fixture(scope="module")
def model(text: corpus.Corpus) -> OPT:
    made = OPT(OPTConfig(24, 2, 4, vocab=len(text.vocabulary), context=64), seed=1)
    with torch.no_grad():
        for p in made.parameters():
            p.mul_(3)
    return made.eval().requires_grad_(False)


def test_scores_are_sums_of_log_probabilities(model: OPT) -> None:
    context, after = [5, 9, 3], [7, 2]
    wanted = model(torch.tensor([[*context, *after]])).log_softmax(-1)[0]
    score, said = Scorer(model)(context, after)
    assert score == pytest.approx(float(wanted[2, 7] + wanted[3, 2]), abs=1e-4) and not said
    best = [int(wanted[2].argmax())]
    assert Scorer(model)(context, best)[1]


def test_a_sparse_decoder_that_reads_all_scores_like_the_dense_model(model: OPT) -> None:
    dense, sparse = Scorer(model), Scorer(sparsify(model))
    assert sparse([5, 9, 3], [7, 2, 4])[0] == pytest.approx(dense([5, 9, 3], [7, 2, 4])[0], abs=1e-3)
    never = lambda said: False  # noqa: E731
    assert sparse.generate([5, 9, 3], 6, never) == dense.generate([5, 9, 3], 6, never)
    assert len(dense.generate([1] * 62, 9, never)) == 2  # the context ends


def test_masks_and_predictors_count(model: OPT) -> None:
    masked = Scorer(model, lambda: masks.Masked(masks.oracle(3)))
    assert masked([5, 9, 3], [7])[0] != pytest.approx(Scorer(model)([5, 9, 3], [7])[0], abs=1e-4)
    bank = [Predictor(24, 96, 4, seed=i) for i in range(2)]
    few = Scorer(sparsify(model, neurons=bank, mlp_density=0.05))
    assert few([5, 9, 3], [7, 2, 4])[0] != pytest.approx(Scorer(model)([5, 9, 3], [7, 2, 4])[0], abs=1e-4)


def test_refusals(model: OPT) -> None:
    with pytest.raises(ValueError, match="at least one token"):
        Scorer(model)([], [1])
    with pytest.raises(ValueError, match="no room"):
        Scorer(model)([1], [1] * 64)
    with pytest.raises(ValueError, match="dense model"):
        Scorer(sparsify(model), lambda: None)


def test_under_the_real_harness(model: OPT, text: corpus.Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lm_eval = pytest.importorskip("lm_eval")
    tasks = pytest.importorskip("lm_eval.tasks")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    questions = {task: corpus.task_items(task, 12) for task in ("place", "world")}
    names = write_tasks(tmp_path, questions)
    manager = tasks.TaskManager(include_path=str(tmp_path), include_defaults=False)
    wrapped = harness_model(model, text.encode, text.decode)
    found = lm_eval.simple_evaluate(wrapped, tasks=names, task_manager=manager, bootstrap_iters=0, log_samples=False)
    scorer = Scorer(model)
    for name, items in zip(names, questions.values(), strict=True):
        right = [
            max(range(len(i.choices)), key=lambda c: scorer(text.encode(i.context), text.encode(i.choices[c]))[0]) == i.answer
            for i in items
        ]
        assert found["results"][name]["acc,none"] == pytest.approx(sum(right) / len(right))


def test_whole_texts_and_stops(model: OPT, text: corpus.Corpus) -> None:
    pytest.importorskip("lm_eval")
    wrapped = harness_model(model, text.encode, text.decode)

    class Request:
        def __init__(self, *args: object) -> None:
            self.args = args

    words = text.decode(text.train[5][:60])
    (score,) = wrapped.loglikelihood_rolling([Request(words)])
    ids = text.encode(words)
    logits = model(torch.tensor([[0, *ids]])).log_softmax(-1)[0]
    assert score == pytest.approx(float(logits[:-1].gather(1, torch.tensor(ids)[:, None]).sum()), abs=1e-3)
    long = " ".join([words] * 4)
    assert wrapped.loglikelihood_rolling([Request(long)])[0] < score
    (said,) = wrapped.generate_until([Request(words, {"until": ["."], "max_gen_toks": 4})])
    assert len(said.split()) <= 4 and "." not in said


def test_without_the_harness_it_says_what_to_install(model: OPT, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "lm_eval.api.model", None)
    with pytest.raises(ModuleNotFoundError, match="pip install"):
        harness_model(model, lambda t: [0], lambda i: "")
