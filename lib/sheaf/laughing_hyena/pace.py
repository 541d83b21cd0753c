"""How fast a large bank of filters is distilled, in pieces that sample the whole, beside pyMOR at equal error."""

import importlib.util
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from sheaf.laughing_hyena.distillery import distill
from sheaf.laughing_hyena.hankel import tail_of
from sheaf.laughing_hyena.interpolate import fit_newton
from sheaf.laughing_hyena.modal import ModalFilters
from sheaf.laughing_hyena.norms import relative_error
from sheaf.laughing_hyena.truncation import Modes, balanced

__all__ = ["has_oracle", "oracle", "pace"]

PIECES = 6


def _timed(piece: Tensor, order: int) -> tuple[float, float, Modes, Modes]:
    """Seconds of both methods on a part of the bank, and what they found."""
    tail = tail_of(piece)
    start = time.perf_counter()
    first = balanced(tail, order)
    middle = time.perf_counter()
    second = fit_newton(tail, first)
    return middle - start, time.perf_counter() - start, first, second


def pace(filters: Tensor, order: int = 16, *, threads: int = 2, tick: Callable[[object], None] | None = None) -> pd.DataFrame:
    """Seconds for the whole bank, one sample per piece of it, by balanced truncation and by interpolation started from it.

    A piece is cut into ``threads`` parts that run side by side, each on one thread; the slowest part counts.

    Returns:
        one row per piece: seconds of both scaled to the whole bank ("modal" includes its start), median and largest relative
        error of both, unstable filters of both.
    """
    rows = []
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for piece in filters.chunk(PIECES):
            parts = piece.chunk(threads)
            done = list(pool.map(_timed, parts, [order] * len(parts)))
            whole = len(filters) / len(piece)
            slowest = max(d[0] for d in done), max(d[1] for d in done)
            row: dict[str, float] = {"balanced (s)": whole * slowest[0], "modal (s)": whole * slowest[1]}
            for name, modes in (("balanced", [d[2] for d in done]), ("modal", [d[3] for d in done])):
                found = ModalFilters.cat([ModalFilters(*m, part[:, 0]) for m, part in zip(modes, parts, strict=True)])
                errors = relative_error(piece, found.impulse(piece.shape[1]))
                row |= {f"{name} median": float(errors.median()), f"{name} largest": float(errors.max()),
                        f"{name} unstable": int((found.radius >= 1).sum())}  # fmt: skip
            rows.append(row)
            if tick:
                tick(row)
    return pd.DataFrame(rows)


def has_oracle() -> bool:
    """Whether pyMOR is installed."""
    return importlib.util.find_spec("pymor") is not None


def oracle(filters: Tensor, order: int, ours_per_filter: float) -> pd.DataFrame:
    """pyMOR's eigensystem realisation, exact and randomised, filter by filter: seconds and error beside ours.

    Args:
        filters: [C, L], a few.
        ours_per_filter: our seconds per filter within its bank, on the same machine. pyMOR may use all of its cores.

    Returns:
        one row per filter: seconds and relative error of both, our error, and the ratios of time and error.
    """
    from pymor.core.logger import set_log_levels
    from pymor.reductors.era import ERAReductor, RandomizedERAReductor

    set_log_levels({"pymor": "ERROR"})
    mine = distill(filters, order, method="balanced").errors
    rows = []
    for i, h in enumerate(filters):
        data = h[1:, None, None].numpy()
        row: dict[str, float] = {"filter": i, "ours error": float(mine[i]), "ours (s)": ours_per_filter}
        for name, reductor in (("pyMOR", ERAReductor), ("pyMOR, randomised", RandomizedERAReductor)):
            start = time.perf_counter()
            a, b, c, *_ = reductor(data, 1.0).reduce(order).to_matrices()
            row[f"{name} (s)"] = time.perf_counter() - start
            response, x = np.zeros(len(data) + 1), np.asarray(b)
            response[0] = float(h[0])
            for t in range(1, len(response)):
                response[t] = (np.asarray(c) @ x).item()
                x = np.asarray(a) @ x
            row[f"{name} error"] = float(relative_error(h[None], torch.from_numpy(response)[None]))
        rows.append(row)
    return pd.DataFrame(rows)
