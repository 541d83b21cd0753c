"""The predictor experiments: one job trains the predictors of a model for a unit and look-ahead, another compares rules."""

from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from sheaf.common.jobs import Job, run_all, tensors_of
from sheaf.dejavu import corpus, masks, models, predictors, sparsity, training
from sheaf.dejavu.masks import Masked, count, record
from sheaf.dejavu.predictors import Predictor, fit, labels, quality, step_of

__all__ = ["SHARES", "bank", "fit_predictors", "job_of", "losses", "lemma", "run"]

SHARES = (0.05, 0.1, 0.15, 0.25, 0.5, 0.75)
SOURCES = [models, masks, predictors, corpus, training, sparsity]
HEADS_LABELLED = 0.5  # share of the heads that count as needed


def job_of(model: Job, unit: str, ahead: str, settings: dict[str, Any], **changes: Any) -> Job:
    """The job of one bank of predictors: ``settings`` holds rank, epochs and documents; ``changes`` go over it."""
    base = {"form": "linear", "choose": "last", "share": HEADS_LABELLED if unit == "heads" else 0.25}
    return {"model": model, "unit": unit, "ahead": ahead, **base, **settings, **changes}


def fit_predictors(job: Job) -> dict[str, Any]:
    """Train a predictor a layer on training documents; qualities are of held-out documents that chose nothing.

    A job holds the training job of the ``model``, ``unit``, ``ahead``, ``rank``, ``form``, ``epochs``, ``documents``, ``share``
    of heads (or of neurons of a GELU model) labelled, and ``choose``: "recall" keeps the epoch with the best recall and stops
    early, as published; "last" keeps the last.
    """
    model = training.load(job["model"])
    text = corpus.load(job["model"]["data"], job["model"]["documents"])
    choosing = max(4, job["documents"] // 16)
    parts = {"train": text.train[: job["documents"]], "choose": text.train[-choosing:], "held": text.held[-choosing * 2 :]}
    seen = {name: record(model, part[:, :-1]) for name, part in parts.items()}
    step = step_of(job["unit"], job["ahead"])
    rows: list[dict[str, Any]] = []
    tensors: dict[str, Tensor] = {}

    def data(part: str, layer: int) -> tuple[Tensor, Tensor]:
        y = labels(seen[part], job["unit"], layer, job["share"])
        return seen[part].history[step(layer)].flatten(0, 1), y.flatten(0, 1)

    for layer in range(model.config.layers):
        made = fit(
            *data("train", layer), rank=job["rank"], form=job["form"], epochs=job["epochs"], rate=job.get("rate", 3e-3),
            held=data("choose", layer) if job["choose"] == "recall" else None, seed=layer,
            extra=0.0 if job["unit"] == "heads" else 0.005,
        )  # fmt: skip
        tensors |= {f"{layer}.a": made.a.data, f"{layer}.b": made.b.data}
        rows.append({"layer": layer, **asdict(quality(made, *data("held", layer)))})
    return {"layers": rows, "tensors": tensors}


def run(worker: Any, jobs: list[Job], **options: Any) -> list[dict[str, Any]]:
    """`run_all` with the sources of this paper's experiments; trains the models first that are not there yet."""
    wanted: list[Job] = []
    for job in jobs:
        model = job["model"]
        if model not in wanted:
            wanted.append(model)
    training.train_all(wanted, processes=options.get("processes"))
    return run_all(worker, jobs, paper="dejavu", sources=SOURCES, **options)


def bank(job: Job) -> list[Predictor]:
    """The predictors of a job by layer, trained here and now if they are not in the cache."""
    result = run(fit_predictors, [job], processes=1)[0]
    weights, made = tensors_of(result), []
    for layer in range(job["model"]["layers"]):
        a, b = weights[f"{layer}.a"], weights[f"{layer}.b"]
        predictor = Predictor(a.shape[1], b.shape[0], a.shape[0], job["form"])
        predictor.load_state_dict({"a": a, "b": b})
        made.append(predictor.eval().requires_grad_(False))
    return made


def losses(job: Job) -> dict[str, Any]:
    """Loss added on held-out text by every rule and share, MLP neurons, the first layer dense.

    A job holds ``model``, ``banks`` ({look-ahead: predictor job}), ``shares`` and ``evaluate``; the rivals "threshold" and
    "sign bits" come with ``rivals``.
    """
    model = training.load(job["model"])
    text = corpus.load(job["model"]["data"], job["model"]["documents"])
    sequences = text.held[: job["evaluate"]]
    means = sparsity.means_of(model, text.train[: job["evaluate"], :-1])[0]
    banks = {ahead: bank(b) for ahead, b in job["banks"].items()}
    dense, units, rows = training.loss_of(model, sequences), model.config.ffn, []

    def added(rule: masks.Rule) -> float:
        return sparsity.evaluate(model, sequences, lambda ids, seen: Masked(rule, dense={0})) - dense

    for share in job["shares"]:
        k = count(share, units)
        rules: dict[str, masks.Rule] = {
            "oracle": masks.oracle(k), "static": masks.fixed(means, k),
            "random": masks.random_units(k, torch.Generator().manual_seed(5)),
        }  # fmt: skip
        rules |= {f"predicted, {ahead}": masks.predicted(b, k, step_of("neurons", ahead)) for ahead, b in banks.items()}
        if job.get("rivals"):
            rules["sign bits"] = masks.sign_bits(model, k)
            thresholded = training.loss_of(model, sequences, tap=masks.Thresholded(share, dense={0}))
            rows.append({"rule": "threshold", "kept": k / units, "loss added": thresholded - dense})
        rows += [{"rule": name, "kept": k / units, "loss added": added(rule)} for name, rule in rules.items()]
    return {"dense": dense, "rows": rows}


def lemma(width: int = 64, neurons: int = 256, queries: int = 200, c: float = 0.9, seed: int = 0) -> dict[str, list[float]]:
    """Lemma 4.1 by computing: search with an activation at a distance, look at what the found neuron is worth to the right one.

    Unit vectors; the activation of the layer before lies at distance eps from the right one. For eps = 0.01 c tau (tau being the
    largest product), the best neuron for the former is worth at least 0.99 c tau to the latter.

    Returns:
        "distance" in units of c tau, "kept": smallest share of the largest product kept over the queries, "holds":
        share of queries for which the lemma's bound holds.
    """
    generator = torch.Generator().manual_seed(seed)
    unit = torch.nn.functional.normalize
    w = unit(torch.randn(neurons, width, generator=generator, dtype=torch.float64), dim=-1)
    x = unit(torch.randn(queries, width, generator=generator, dtype=torch.float64), dim=-1)
    tau = (x @ w.T).max(-1).values
    found: dict[str, list[float]] = {"distance": [], "kept": [], "holds": []}
    for distance in (0.0, 0.01, 0.1, 0.5, 1.0, 3.0):
        push = unit(torch.randn(queries, width, generator=generator, dtype=torch.float64), dim=-1)
        before = x + push * (distance * c * tau)[:, None]
        worth = (x * w[(before @ w.T).argmax(-1)]).sum(-1)
        found["distance"].append(distance)
        found["kept"].append(float((worth / tau).min()))
        found["holds"].append(float((worth >= 0.99 * c * tau).double().mean()))
    return found

