"""Distillation error against order and method: relative l2, Hankel norm beside its floor, stability, and the chain of norms."""

from collections.abc import Callable, Sequence

import pandas as pd
from torch import Tensor

from sheaf.laughing_hyena.distillery import METHODS, Distilled, Method, distill
from sheaf.laughing_hyena.hankel import spectrum
from sheaf.laughing_hyena.interpolate import Objective
from sheaf.laughing_hyena.norms import chain

__all__ = ["COMPARED", "OTHERS", "against_best", "by_order", "chains", "objectives", "sections", "violations"]

COMPARED: tuple[Method, ...] = ("modal", "modal-grid", "balanced", "prony", "truncation", "fir")
OTHERS: tuple[Method, ...] = ("balanced", "prony", "truncation", "fir")  # what modal interpolation has to beat
Tick = Callable[[object], None] | None


def by_order(
    banks: dict[str, Tensor], orders: Sequence[int], methods: Sequence[Method] = COMPARED, *, gradient_steps: int = 600,
    tick: Tick = None,
) -> tuple[pd.DataFrame, dict[tuple[str, Method, int], Distilled]]:
    """Every bank by every method to every order; ``gradient_steps`` are those of "modal-grid".

    Returns:
        one row per bank, order and method with min, median and max relative l2 error over its filters and the number of unstable
        ones; and the distilled filters themselves.
    """
    rows, kept = [], {}
    for name, filters in banks.items():
        for order in orders:
            for method in methods:
                found = distill(filters, order, method=method, steps=gradient_steps if method == "modal-grid" else None)
                e = found.errors
                rows.append((name, order, method, float(e.min()), float(e.median()), float(e.max()), found.unstable))
                kept[name, method, order] = found
                if tick:
                    tick(method)
    columns = ["filters", "order", "method", "least", "median", "largest", "unstable"]
    return pd.DataFrame(rows, columns=columns), kept


def against_best(table: pd.DataFrame, method: Method, others: Sequence[Method] = OTHERS) -> pd.Series:
    """Median error of a method over the best of the others, per bank and order."""
    wide = table.pivot_table(index=["filters", "order"], columns="method", values="median")
    return wide[method] / wide[list(others)].min(axis=1)


def chains(banks: dict[str, Tensor], kept: dict[tuple[str, Method, int], Distilled]) -> pd.DataFrame:
    """The norms of every stable recurrence's error, one row per filter: `norms.chain` with bank, method and order."""
    parts = []
    for (name, method, order), found in kept.items():
        if found.modal is not None:
            stable = found.modal.radius < 1
            if bool(stable.any()):
                part = chain(banks[name][stable], found.modal.select(stable.nonzero()[:, 0]), order)
                parts.append(part.assign(filters=name, method=method, order=order))
    return pd.concat(parts, ignore_index=True)


def violations(found: pd.DataFrame) -> pd.DataFrame:
    """Per method: filters checked, and how many break the floor, the order of the norms, and the bound of balanced truncation."""
    rows = []
    for method, part in found.groupby("method", sort=False):
        bound = int((~part["within_bound"]).sum()) if method == "balanced" else -1
        above = (part["hankel"] / part["floor"].clip(lower=1e-300))[part["floor"] > 1e-9].median()
        rows.append((METHODS[method], len(part), int((~part["above_floor"]).sum()), int((~part["ordered"]).sum()),
                     bound if bound >= 0 else "-", above))  # fmt: skip
    columns = ["method", "filters", "below the floor", "norms out of order", "beyond the bound", "Hankel error / floor, median"]
    return pd.DataFrame(rows, columns=columns)


def objectives(filters: Tensor, order: int, steps: int = 300) -> pd.DataFrame:
    """Modal interpolation from a grid by every objective: median over filters of each norm of the error, as a share."""
    rows = []
    plans: list[tuple[str, Method, Objective]] = [
        ("l2, time", "modal-grid", "l2"), ("H2, mean over frequencies", "modal-grid", "h2"),
        ("H-infinity, p-norm over frequencies", "modal-grid", "hinf"), ("l2, residues solved for", "projection", "l2"),
    ]  # fmt: skip
    for name, method, objective in plans:
        found = distill(filters, order, method=method, objective=objective, steps=steps)
        assert found.modal is not None
        checked = chain(filters, found.modal, order)
        size = spectrum(filters)[:, 0].numpy()
        rows.append((name, float(found.errors.median()), float((checked["hankel"] / size).median()),
                     float((checked["hinf"] / size).median()), float((checked["l1"] / size).median())))  # fmt: skip
    columns = ["objective", "relative l2", "Hankel / sigma 1", "H-infinity / sigma 1", "l1 / sigma 1"]
    return pd.DataFrame(rows, columns=columns)


def sections(banks: dict[str, Tensor], orders: Sequence[int], far: int = 4) -> pd.DataFrame:
    """Balanced truncation on both sections: median and largest error, unstable filters, and size beyond L, to ``far`` lengths."""
    rows = []
    for name, filters in banks.items():
        length = filters.shape[1]
        for order in orders:
            for method in ("balanced", "balanced-half"):
                found = distill(filters, order, method=method)  # type: ignore[arg-type]
                beyond = found.impulse(far * length)[:, length:].abs().amax() / filters.abs().amax()
                rows.append((name, order, "padded" if method == "balanced" else "half", float(found.errors.median()),
                             float(found.errors.max()), found.unstable, float(beyond)))  # fmt: skip
    columns = ["filters", "order", "section", "median", "largest", "unstable", "largest value beyond L"]
    return pd.DataFrame(rows, columns=columns)
