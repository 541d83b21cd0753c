"""The layers of the paper on a GPU: our Triton kernel, cuBLAS and what else a user could take, timed in turn."""

from functools import cache
from typing import Any

import numpy as np
import pandas as pd

from sheaf_kernels.block_sparse import gpu_benchmark
from sheaf_kernels.block_sparse.gpu_benchmark import LAYERS, Layer, cell_layout

__all__ = ["layers", "left_out", "speedups"]

_CELLS, _FACTORS = 16, 3  # 4 of 16 cells in every row: a density of 1/4


@cache
def _rows(layer: Layer, rounds: int) -> list[dict[str, Any]]:
    layout = cell_layout(layer.out, layer.in_, _CELLS, _FACTORS)
    return gpu_benchmark.measure(layer, layout, rank=64, rounds=rounds, limits=_machine())


@cache
def _machine() -> dict[str, float | str]:
    return gpu_benchmark.machine()


def layers(rounds: int) -> pd.DataFrame:
    """Every layer shape of the paper in bfloat16 at a density of 1/4, every arm, forward and backward.

    Returns:
        One row per layer, pass and arm: milliseconds of the device and of the host, the limit of the device (ms), TFLOP/s
        and GB/s by the layer's definition, and the speed-up over cuBLAS; medians over rounds.

    Raises:
        RuntimeError: no GPU, or a result is wrong.
    """
    rows = [row for layer in LAYERS for row in gpu_benchmark.summary(_rows(layer, rounds))]
    names = {
        "layer": "layer", "pass": "pass", "arm": "arm", "ms": "ms", "limit_ms": "limit (ms)", "host_ms": "host (ms)",
        "tflops": "TFLOP/s", "gbytes_s": "GB/s", "speed_up": "speed-up",
    }  # fmt: skip
    return pd.DataFrame(rows)[list(names)].rename(columns=names)


def left_out(rounds: int) -> pd.DataFrame:
    """Arms that could not run at a layer, and the reason each gave."""
    rows = [(r["layer"], r["arm"], r["left_out"]) for layer in LAYERS for r in _rows(layer, rounds) if "left_out" in r]
    return pd.DataFrame(rows, columns=["layer", "arm", "reason"])


def speedups(what: str, rounds: int) -> np.ndarray:
    """25088 x 768 to 3072 at 1/4: time of cuBLAS over ours, per round; ``what`` is "forward" or "forward and backward".

    Raises:
        RuntimeError: no GPU, or a result is wrong.
    """
    timed = [r for r in _rows(LAYERS[0], rounds) if r.get("pass") == what]
    by_arm = {arm: np.array([r["ms"] for r in timed if r["arm"] == arm]) for arm in ("cuBLAS, dense", "block sparse")}
    return by_arm["cuBLAS, dense"] / by_arm["block sparse"]
