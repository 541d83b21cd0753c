"""Hankel spectra of trained filters: effective ranks by layer and moment of the training, and the fast spectrum against SVD."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from sheaf.laughing_hyena.experiments import filters_at
from sheaf.laughing_hyena.hankel import Section, dense, effective_rank, section_size, spectrum, tail_of
from sheaf.laughing_hyena.models import ImplicitFilter
from sheaf.laughing_hyena.training import BASE

__all__ = ["TOLERANCES", "at_scale", "bank", "falls", "ranks", "singular_values", "summary", "trained_rank"]

TOLERANCES = (1e-1, 1e-2, 1e-3)
SECTIONS: tuple[Section, ...] = ("half", "padded")


def ranks(results: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Effective ranks of every layer's filters at every kept moment: medians over filters, a row per tolerance and section."""
    rows = []
    for r in results:
        full = BASE | r
        for (step, layer), filters in filters_at(r).items():
            for section in SECTIONS:
                values = spectrum(filters, section=section)
                for tol in TOLERANCES:
                    rank = float(effective_rank(values, tol).double().quantile(0.5))
                    rows.append((full["kind"], full["frequency"], full["seed"], layer, step, section, tol, rank))
    return pd.DataFrame(rows, columns=["kind", "frequency", "seed", "layer", "step", "section", "tol", "rank"])


def _ends(table: pd.DataFrame, section: Section, tol: float) -> pd.DataFrame:
    chosen = table[(table["section"] == section) & (table["tol"] == tol)]
    keys = ["kind", "frequency", "seed", "layer"]
    first = chosen.sort_values("step").groupby(keys)["rank"].agg(["first", "last"])
    return first.reset_index()


def falls(table: pd.DataFrame, kind: str, frequency: float, tol: float = 1e-2, section: Section = "half") -> np.ndarray:
    """Trained over initial median rank, one value per seed and layer."""
    ends = _ends(table, section, tol)
    mine = ends[(ends["kind"] == kind) & (ends["frequency"] == frequency)]
    return (mine["last"] / mine["first"]).to_numpy()


def trained_rank(table: pd.DataFrame, kind: str, frequency: float, tol: float = 1e-2, section: Section = "half") -> pd.Series:
    """Median rank after training, one value per (seed, layer)."""
    ends = _ends(table, section, tol)
    mine = ends[(ends["kind"] == kind) & (ends["frequency"] == frequency)]
    return mine.set_index(["seed", "layer"])["last"].sort_index()


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """One row per model, frequency, layer and section: mean over seeds of the median rank, initial -> trained, per tolerance."""
    rows = []
    keys = ["kind", "frequency", "layer", "section"]
    for key, part in table.groupby(keys, sort=False):
        row = dict(zip(keys, key, strict=True))
        for tol in TOLERANCES:
            at = part[part["tol"] == tol]
            ends = at[at["step"] == at["step"].min()]["rank"].mean(), at[at["step"] == at["step"].max()]["rank"].mean()
            row[f"rank at {tol:g}"] = f"{ends[0]:.1f} -> {ends[1]:.1f}"
        rows.append(row)
    return pd.DataFrame(rows).sort_values(["kind", "frequency", "section", "layer"]).reset_index(drop=True)


def singular_values(result: dict[str, Any], section: Section = "half") -> dict[str, list[np.ndarray]]:
    """"initial" and "trained" -> per layer the relative singular values of all filters, [C, k]."""
    found = filters_at(result)
    steps = sorted({step for step, _ in found})
    layers = sorted({layer for _, layer in found})
    made = {}
    for name, step in (("initial", steps[0]), ("trained", steps[-1])):
        values = [spectrum(found[step, layer], section=section) for layer in layers]
        made[name] = [(v / v[:, :1]).numpy() for v in values]
    return made


def bank(many: int, length: int, frequencies: Sequence[float] = (1.0, 4.0, 14.0), seed: int = 0) -> Tensor:
    """Untrained filters of the 153M model's kind, [many, length], an equal share per sine frequency: smooth to rough."""
    share = -(-many // len(frequencies))
    parts = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for frequency in frequencies:
            parts.append(ImplicitFilter(share, length, 33, 64, frequency)(length).detach())
    mixed = torch.stack(parts, dim=1).flatten(0, 1)  # neighbours differ, so that a part of the bank is like the whole
    return mixed[:many].double()


def at_scale(length: int, frequencies: Sequence[float], k: int = 16, filters: int = 2) -> pd.DataFrame:
    """The first k singular values by products and by a dense SVD: largest relative difference, seconds per filter of both."""
    rows = []
    for frequency in frequencies:
        h = bank(filters, length, [frequency])
        size = section_size(length - 1, "padded")
        start = time.perf_counter()
        exact = torch.linalg.svdvals(dense(tail_of(h), size))[:, :k]
        middle = time.perf_counter()
        fast = spectrum(h, k)
        end = time.perf_counter()
        worst = float(((fast - exact).abs() / exact).max())
        rows.append((frequency, size, worst, (middle - start) / filters, (end - middle) / filters))
    columns = ["frequency", "rows", "largest relative difference", "SVD (s per filter)", "fast (s per filter)"]
    return pd.DataFrame(rows, columns=columns)
