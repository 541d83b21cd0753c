"""Search for the largest products among a layer's rows, exact and approximate, timed against the product it should replace."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["recall_of", "searchers", "timed"]


def searchers(rows: Tensor, k: int, *, links: int = 16, build: int = 40, search: int = 0) -> dict[str, Callable[[Tensor], Any]]:
    """Ways to find the k rows with the largest product with a query [1, d]; each returns indices [1, k], best first.

    Args:
        rows: [n, d] float32.
        k: rows wanted, at most n.
        links, build, search: of the HNSW graph; the width of its search is 2 k when 0.

    Raises:
        ValueError: k does not fit.
    """
    import faiss

    n, d = rows.shape
    if not 0 < k <= n:
        raise ValueError(f"cannot find {k} of {n} rows; give 1 to {n}")
    matrix = np.ascontiguousarray(rows.numpy(), dtype=np.float32)
    faiss.omp_set_num_threads(torch.get_num_threads())
    flat = faiss.IndexFlatIP(d)
    flat.add(matrix)
    graph = faiss.IndexHNSWFlat(d, links, faiss.METRIC_INNER_PRODUCT)
    graph.hnsw.efConstruction = build
    graph.add(matrix)
    graph.hnsw.efSearch = search or 2 * k
    out = torch.empty(1, n)

    def dense(q: Tensor) -> Tensor:
        return torch.mm(q, rows.T, out=out)

    return {
        "dense product": dense,
        "dense product and top-k": lambda q: torch.topk(dense(q), k).indices,
        "faiss, exact": lambda q: flat.search(q.numpy(), k)[1],
        "faiss, HNSW": lambda q: graph.search(q.numpy(), k)[1],
    }


def timed(ways: dict[str, Callable[[Tensor], Any]], queries: Tensor) -> dict[str, list[float]]:
    """Seconds of every way and query, interleaved; the first query warms up and does not count."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for i, query in enumerate(queries):
        for name, way in ways.items():
            began = time.perf_counter()
            way(query[None])
            if i:
                found[name].append(time.perf_counter() - began)
    return found


def recall_of(found: Any, wanted: Tensor) -> float:
    """Share of the wanted rows, bool [n], among found indices."""
    indices = torch.as_tensor(np.asarray(found)).flatten()
    return float(wanted[indices[indices >= 0]].sum() / wanted.sum().clamp_min(1))
