"""Quality after distillation: accuracy, loss and logits of trained models against order and method, with controls."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from sheaf.common import text
from sheaf.common.jobs import Job, Worker, run_all
from sheaf.common.stats import interval
from sheaf.laughing_hyena import (
    distillery,
    echo,
    hankel,
    interpolate,
    modal,
    models,
    norms,
    tasks,
    training,
    truncation,
)
from sheaf.laughing_hyena.distillery import Method, distill_model
from sheaf.laughing_hyena.experiments import model_of
from sheaf.laughing_hyena.models import LM
from sheaf.laughing_hyena.tasks import ANSWER, Batch
from sheaf.laughing_hyena.training import BASE, test_batch

__all__ = ["METHODS_SHOWN", "TOLERANCE", "bins_of", "by_order", "evaluate", "logit_bins", "losses", "summary"]

METHODS_SHOWN: tuple[Method, ...] = ("modal", "balanced", "truncation", "fir")
TOLERANCE = 1e-2  # of the Hankel spectrum, which chooses the order that is judged
MEASURED = ("curve", "test", "cpu", "parameters")  # of a training's result
METHOD = (distillery, hankel, interpolate, modal, truncation, norms, models, tasks, training, echo, text)  # what decides the rows
Tick = Callable[[object], None] | None


@torch.no_grad()
def _logits(model: LM, batch: Batch) -> Tensor:
    return torch.cat([model(part) for part in batch.tokens.split(64)])


def _row(teacher: Tensor, student: Tensor, batch: Batch) -> dict[str, float]:
    asked = batch.kind == ANSWER
    p, q, right = teacher[asked], student[asked], batch.targets[asked]
    log_p, log_q = p.log_softmax(dim=1), q.log_softmax(dim=1)
    return {
        "accuracy": 100 * float((q.argmax(dim=1) == right).float().mean()),
        "loss": float(-log_q.gather(1, right[:, None]).mean()),
        "divergence": float((log_p.exp() * (log_p - log_q)).sum(dim=1).mean()),
        "agreement": 100 * float((p.argmax(dim=1) == q.argmax(dim=1)).float().mean()),
        "logit error": float((student - teacher).norm() / teacher.norm()),
    }


def _job(result: dict[str, Any], **more: Any) -> Job:
    """A trained model as part of a job: its own values and its checkpoint, not what was measured on it."""
    return {"model": {k: v for k, v in result.items() if k not in MEASURED}, **more}


def _run(worker: Worker, jobs: list[Job], tick: Tick, processes: int | None) -> pd.DataFrame:
    text_there = any((BASE | job["model"])["task"] == "text" for job in jobs)
    found = run_all(
        worker, jobs, paper="laughing_hyena", sources=METHOD, data=tasks.corpus().origin if text_there else "",
        processes=processes, progress=tick,
    )  # fmt: skip
    return pd.DataFrame([row for result in found for row in result["rows"]])


def _batch(model: Job, sequences: int) -> Batch:
    return (echo.batch_for_tests if "lag" in model else test_batch)(model, sequences)


def by_order(
    results: Sequence[dict[str, Any]], orders: Sequence[int], methods: Sequence[Method] = METHODS_SHOWN, *, sequences: int = 256,
    tick: Tick = None, processes: int | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Every trained model with its filters distilled: one row per model, method and order.

    Besides ``orders``, "modal" is run at the order that the Hankel spectrum asks for, per layer (its row has ``chosen`` true),
    and the filters are zeroed. Accuracy, loss, divergence (KL of teacher and student, nats) and agreement are over answers;
    the logit error is the relative l2 difference of all logits.

    Args:
        tick: called once per finished model; what is finished is kept.
        processes: how many models at once.
    """
    jobs = [_job(r, orders=list(orders), methods=list(methods), sequences=sequences) for r in results]
    return _run(evaluate, jobs, tick, processes)


def evaluate(job: Job) -> dict[str, Any]:
    """One trained model under all methods and orders: "rows" of `by_order`."""
    full = BASE | job["model"]
    model, batch = model_of(job["model"]), _batch(full, job["sequences"])
    teacher = _logits(model, batch)
    head = {"kind": full["kind"], "task": full["task"], "seed": full["seed"]}

    def row(method: str, order: int, student: Tensor, worst: float, chosen: bool = False) -> dict[str, Any]:
        about = {"method": method, "order": order, "chosen": chosen}
        return head | about | _row(teacher, student, batch) | {"worst filter": worst}

    rows = [row("base", 0, teacher, 0.0)]
    plans: list[tuple[Method, int | None]] = [(m, d) for m in job["methods"] for d in job["orders"]]
    for method, order in [*plans, ("modal", None), ("zero", 1)]:
        how: dict[str, Any] = {"tol": TOLERANCE} if order is None else {"order": order}
        student, made = distill_model(model, length=full["length"], method=method, **how)
        used = max(m.order for m in made) if method != "zero" else 0
        worst = max(float(m.errors.max()) for m in made)
        rows.append(row(method, used, _logits(student, batch), worst, chosen=order is None))
    return {"rows": rows}


def losses(table: pd.DataFrame, kind: str, method: str, order: int | None = None, against: str = "base") -> np.ndarray:
    """Accuracy points lost per seed: that of ``against`` (same order, or the base) minus the method's.

    Args:
        order: None is the order that the spectrum asked for; ignored for "zero".
    """
    mine = table[table["kind"] == kind]

    def accuracy(name: str) -> pd.Series:
        part = mine[mine["method"] == name]
        if name not in ("base", "zero"):
            part = part[part["chosen"]] if order is None else part[(part["order"] == order) & ~part["chosen"]]
        return part.set_index("seed")["accuracy"].sort_index()

    return (accuracy(against) - accuracy(method)).to_numpy()


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """One row per model, method and order: mean accuracy over seeds with its interval, and the other measures' means."""
    rows = []
    keys = ["kind", "method", "order", "chosen"]
    grouped = table.assign(order=np.where(table["chosen"], -1, table["order"])).groupby(keys, sort=False)
    for key, part in grouped:
        kind, method, order, chosen = key
        shown = "asked for: " + "/".join(str(o) for o in sorted(set(table.loc[part.index, "order"]))) if chosen else order
        row = {"model": kind, "method": method, "order": "-" if method in ("base", "zero") else shown}
        if len(part) > 1:
            found = interval(part["accuracy"].to_numpy())
            row |= {"accuracy (%)": found.estimate, "low": found.low, "high": found.high}
        else:
            row |= {"accuracy (%)": float(part["accuracy"].iloc[0])}
        for name in ("loss", "divergence", "agreement", "logit error", "worst filter"):
            row[name] = part[name].mean()
        rows.append(row | {"seeds": len(part)})
    return pd.DataFrame(rows)


def logit_bins(
    results: Sequence[dict[str, Any]], orders: Sequence[int], *, method: Method = "modal", bins: int = 10, sequences: int = 64,
    tick: Tick = None, processes: int | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Error of the logits by their size: all logits sorted by magnitude into ``bins`` equal parts.

    Returns:
        one row per model, order and bin (1 the smallest): relative error |student - teacher| / |teacher| of the bin, absolute
        root mean square error, and the mean magnitude.
    """
    jobs = [_job(r, orders=list(orders), method=method, bins=bins, sequences=sequences) for r in results]
    return _run(bins_of, jobs, tick, processes)


def bins_of(job: Job) -> dict[str, Any]:
    """One trained model's "rows" of `logit_bins`."""
    full = BASE | job["model"]
    model, batch = model_of(job["model"]), _batch(full, job["sequences"])
    teacher = _logits(model, batch).flatten()
    parts = teacher.abs().argsort().chunk(job["bins"])
    rows = []
    for order in job["orders"]:
        student, _ = distill_model(model, order, length=full["length"], method=job["method"])
        error = _logits(student, batch).flatten() - teacher
        for i, part in enumerate(parts, 1):
            rows.append({
                "kind": full["kind"], "task": full["task"], "seed": full["seed"], "order": order, "bin": i,
                "relative": float(error[part].norm() / teacher[part].norm()),
                "absolute": float(error[part].square().mean().sqrt()), "magnitude": float(teacher[part].abs().mean()),
            })  # fmt: skip
    return {"rows": rows}
