"""The layers of the paper on a GPU: our Triton kernel against cuBLAS, by CUDA events, in turn, with a cold cache."""

import statistics
from collections.abc import Callable
from functools import cache

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from sheaf.pixelfly.hardware import LAYERS, Layer
from sheaf.pixelfly.patterns import plan
from sheaf_kernels.block_sparse import Layout, block_sparse_linear, from_dense

__all__ = ["layers", "speedups"]


def _milliseconds(arms: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Time of every arm in every round, in turn; the second-level cache is overwritten before each."""
    flush = torch.empty(256 << 20, dtype=torch.uint8, device="cuda")
    found: dict[str, list[float]] = {name: [] for name in arms}
    for turn in range(rounds + 3):
        for name, run in arms.items():
            flush.zero_()
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            run()
            end.record()
            torch.cuda.synchronize()
            if turn >= 3:
                found[name].append(start.elapsed_time(end))
    return found


@cache
def _measure(layer: Layer, density: float, rounds: int, block: int = 32) -> dict[str, dict[str, list[float]]]:
    if not torch.cuda.is_available():
        raise RuntimeError("no CUDA device here; the GPU profile needs one")
    generator = torch.Generator("cuda").manual_seed(0)
    kind = {"device": "cuda", "dtype": torch.bfloat16}
    x, w, dy = (
        torch.randn(s, generator=generator, **kind)  # type: ignore[call-overload]
        for s in ((layer.tokens, layer.in_), (layer.out, layer.in_), (layer.tokens, layer.out))
    )
    layout = Layout(torch.from_numpy(plan("flat", layer.out, layer.in_, block, density).mask), block)
    blocks = from_dense(w, layout).contiguous()
    x.requires_grad_(), w.requires_grad_(), blocks.requires_grad_()

    def dense() -> torch.Tensor:
        return F.linear(x, w)

    def sparse() -> torch.Tensor:
        return block_sparse_linear(x, blocks, layout, backend="triton")

    def both(run: Callable[[], torch.Tensor], weight: torch.Tensor) -> object:
        return torch.autograd.grad(run(), [x, weight], dy)

    return {
        "forward": _milliseconds({"cuBLAS": dense, "ours": sparse}, rounds),
        "both": _milliseconds({"cuBLAS": lambda: both(dense, w), "ours": lambda: both(sparse, blocks)}, rounds),
    }


def layers(rounds: int, density: float = 0.25) -> pd.DataFrame:
    """Every layer shape of the paper in bfloat16: milliseconds, speed-up, Top/s and GB/s.

    Raises:
        RuntimeError: no GPU.
    """
    rows = []
    for layer in LAYERS:
        for what, times in _measure(layer, density, rounds).items():
            dense, ours = (statistics.median(times[k]) for k in ("cuBLAS", "ours"))
            products = 1 if what == "forward" else 3
            operations = products * 2 * layer.tokens * layer.in_ * layer.out * density
            traffic = products * 2 * layer.tokens * (layer.in_ + layer.out)
            rows.append((layer.name, what, dense, ours, dense / ours, operations / ours / 1e9, traffic / ours / 1e6))
    return pd.DataFrame(rows, columns=["layer", "what", "cuBLAS (ms)", "ours (ms)", "speed-up", "Top/s", "GB/s"])


def speedups(what: str, rounds: int = 15) -> np.ndarray:
    """25088 x 768 to 3072 at a quarter: cuBLAS time over ours per round, ``what`` being "forward" or "both"."""
    times = _measure(LAYERS[1], 0.25, rounds)[what]
    return np.array(times["cuBLAS"]) / np.array(times["ours"])
