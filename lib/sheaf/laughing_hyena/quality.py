"""Quality after distillation: accuracy, loss and logits of trained models against order and method, with controls."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from sheaf.common.stats import interval
from sheaf.laughing_hyena.distillery import Method, distill_model
from sheaf.laughing_hyena.experiments import model_of
from sheaf.laughing_hyena.models import LM
from sheaf.laughing_hyena.tasks import ANSWER, Batch
from sheaf.laughing_hyena.training import BASE, test_batch

__all__ = ["METHODS_SHOWN", "TOLERANCE", "by_order", "logit_bins", "losses", "summary"]

METHODS_SHOWN: tuple[Method, ...] = ("modal", "balanced", "truncation", "fir")
TOLERANCE = 1e-2  # of the Hankel spectrum, which chooses the order that is judged
CHOSEN = "chosen"
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


def by_order(
    results: Sequence[dict[str, Any]], orders: Sequence[int], methods: Sequence[Method] = METHODS_SHOWN, *, sequences: int = 256,
    batch_for: Callable[[dict[str, Any], int], Batch] = test_batch, tick: Tick = None,
) -> pd.DataFrame:  # fmt: skip
    """Every trained model with its filters distilled: one row per model, method and order.

    Besides ``orders``, "modal" is run at the order that the Hankel spectrum asks for, per layer (its row has ``chosen`` true),
    and the filters are zeroed. Accuracy, loss, divergence (KL of teacher and student, nats) and agreement are over answers;
    the logit error is the relative l2 difference of all logits.
    """
    rows = []
    for r in results:
        full = BASE | r
        model, batch = model_of(r), batch_for(full, sequences)
        teacher = _logits(model, batch)
        head = {"kind": full["kind"], "task": full["task"], "seed": full["seed"]}

        def add(method: Method | str, order: int, student: Tensor, worst: float, teacher: Tensor = teacher,
                batch: Batch = batch, head: dict[str, Any] = head, chosen: bool = False) -> None:  # fmt: skip
            row = head | {"method": method, "order": order, "chosen": chosen} | _row(teacher, student, batch)
            rows.append(row | {"worst filter": worst})
            if tick:
                tick(method)

        add("base", 0, teacher, 0.0)
        plans: list[tuple[Method, int | None]] = [(m, d) for m in methods for d in orders]
        for method, order in [*plans, ("modal", None), ("zero", 1)]:
            how: dict[str, Any] = {"tol": TOLERANCE} if order is None else {"order": order}
            student, made = distill_model(model, length=full["length"], method=method, **how)
            worst = max(float(m.errors.max()) for m in made)
            used = max(m.order for m in made) if method != "zero" else 0
            add(method, used, _logits(student, batch), worst, chosen=order is None)
    return pd.DataFrame(rows)


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
    results: Sequence[dict[str, Any]], orders: Sequence[int], *, method: Method = "modal", bins: int = 10, sequences: int = 64
) -> pd.DataFrame:
    """Error of the logits by their size: all logits sorted by magnitude into ``bins`` equal parts.

    Returns:
        one row per model, order and bin (1 the smallest): relative error |student - teacher| / |teacher| of the bin, absolute
        root mean square error, and the mean magnitude.
    """
    rows = []
    for r in results:
        full = BASE | r
        model, batch = model_of(r), test_batch(full, sequences)
        teacher = _logits(model, batch).flatten()
        parts = teacher.abs().argsort().chunk(bins)
        for order in orders:
            student, _ = distill_model(model, order, length=full["length"], method=method)
            error = _logits(student, batch).flatten() - teacher
            for i, part in enumerate(parts, 1):
                size = teacher[part].norm()
                rows.append((full["kind"], full["task"], full["seed"], order, i, float(error[part].norm() / size),
                             float(error[part].square().mean().sqrt()), float(teacher[part].abs().mean())))  # fmt: skip
    return pd.DataFrame(rows, columns=["kind", "task", "seed", "order", "bin", "relative", "absolute", "magnitude"])
