"""Search for the largest products among a layer's rows, exact and approximate, timed against the product it should replace."""

import importlib.util
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from sheaf.dejavu.masks import count, record, top
from sheaf.dejavu.models import OPT

__all__ = ["available", "measure", "recall_of", "searchers", "timed", "trained_recall"]


def available() -> bool:
    """Whether faiss is installed."""
    return importlib.util.find_spec("faiss") is not None


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


def measure(width: int, neurons: int, queries: int, share: float = 0.1, seed: int = 0) -> tuple[pd.DataFrame, np.ndarray]:
    """Time every search on random rows [neurons, width]: medians, and the faster search over the dense product by query.

    A share of the rows is looked for. The graph is built beforehand and its time is not counted.
    """
    generator = torch.Generator().manual_seed(seed)
    rows, asked = (torch.randn(n, width, generator=generator) for n in (neurons, queries + 1))
    k = count(share, neurons)
    ways = searchers(rows, k)
    seconds = timed(ways, asked)
    wanted = torch.zeros(neurons, dtype=torch.bool)
    wanted[torch.topk(asked[0] @ rows.T, k).indices] = True
    table = pd.DataFrame([
        {"way": name, "ms": 1e3 * float(np.median(s)),
         "over the dense product": float(np.median(s) / np.median(seconds["dense product"])),
         "recall of the largest": 1.0 if name == "dense product" else recall_of(ways[name](asked[:1]), wanted)}
        for name, s in seconds.items()
    ])  # fmt: skip
    fastest = np.minimum(seconds["faiss, exact"], seconds["faiss, HNSW"])
    return table, fastest / np.asarray(seconds["dense product"])


def trained_recall(model: OPT, ids: Tensor, share: float = 0.1, queries: int = 100) -> float:
    """Recall by HNSW of a trained layer's largest pre-activations: rows of W1 with their bias, inputs with a one added.

    The middle layer; the ``share`` of the neurons with the largest values is looked for, for so many tokens.
    """
    layer = model.config.layers // 2
    block = model.stack[layer]
    h = block.norm2(record(model, ids).history[2 * layer + 1]).flatten(0, 1)[:queries]
    rows = torch.cat([block.up.weight, block.up.bias[:, None]], 1)
    asked = torch.cat([h, torch.ones(len(h), 1)], 1)
    k = count(share, len(rows))
    find = searchers(rows, k)["faiss, HNSW"]
    wanted = top(asked @ rows.T, k)
    return float(np.mean([recall_of(find(q[None]), w) for q, w in zip(asked, wanted, strict=True)]))
