"""The cost model: operations and bytes of a token, dense and sparse, and the time they take at least (paper, section 2).

Weights of a block: 4 d^2 in attention, 8 d^2 in the MLP; biases, norms and the output layer are left out, as in the paper. A
token costs two operations and one read per weight; a prompt shares the reads, generation does not. What the paper calls GB are
GiB, and it divides them by bandwidths in units of 10^9, which is kept here so that its cells come out.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from sheaf.dejavu.models import PRESETS, OPTConfig

__all__ = [
    "PAPER_RANKS", "Cluster", "bound", "cells", "largest_error", "parts", "scaled_ranks", "sizes", "sparse_parts", "speedup",
    "step_bytes", "table_1", "table_2",
]  # fmt: skip

PAPER_RANKS = (512, 1000)  # of the predictors of heads and of neurons, in the paper's latency code
HALF = 2  # bytes of a number in 16 bits
GIB = 2**30


@dataclass(frozen=True)
class Cluster:
    """A100s that share every layer, at their data sheet's speed; communication is free."""

    gpus: int
    tflops: float = 312.0
    tb_per_s: float = 2.0

    def compute_ms(self, tflop: float) -> float:
        """Milliseconds of so many tera-operations."""
        return 1e3 * tflop / (self.tflops * self.gpus)

    def io_ms(self, gib: float) -> float:
        """Milliseconds of reading so many of the paper's "GB"."""
        return gib / (self.tb_per_s * self.gpus)


def _weights(config: OPTConfig) -> tuple[int, int]:
    """Weights of attention and MLP of one block."""
    return 4 * config.width**2, 2 * config.width * config.ffn


def table_1(cluster: Cluster, config: OPTConfig = PRESETS["opt-175b"]) -> pd.DataFrame:
    """Prompting and generating 1 and 128 tokens: columns row, tflop, gib, compute_ms, io_ms."""
    weights = sum(_weights(config)) * config.layers
    rows = []
    for what in ("prompting", "generation"):
        for n in (1, 128):
            tflop = 2e-12 * weights * n
            gib = HALF * weights / GIB * (n if what == "generation" else 1)
            rows.append((f"{what} {n}", tflop, gib, cluster.compute_ms(tflop), cluster.io_ms(gib)))
    return pd.DataFrame(rows, columns=["row", "tflop", "gib", "compute_ms", "io_ms"])


def table_2(cluster: Cluster, config: OPTConfig = PRESETS["opt-175b"]) -> pd.DataFrame:
    """One block, one token: columns row, tflop, gib, compute_ms, io_ms."""
    rows = []
    for name, weights in zip(("attention", "MLP"), _weights(config), strict=True):
        tflop, gib = 2e-12 * weights, HALF * weights / GIB
        rows.append((name, tflop, gib, cluster.compute_ms(tflop), cluster.io_ms(gib)))
    return pd.DataFrame(rows, columns=["row", "tflop", "gib", "compute_ms", "io_ms"])


def _half_unit(printed: float) -> float:
    """Half a unit of the last digit of a printed number; of whole numbers with zeros at the end, of the last that is not zero."""
    text = np.format_float_positional(printed, trim="-")
    if "." in text:
        return 0.5 * 10.0 ** -len(text.split(".")[1])
    return 0.5 * 10.0 ** (len(text) - len(text.rstrip("0")))


def cells(printed: pd.DataFrame, table: str) -> pd.DataFrame:
    """Every printed cell of a table beside what the model gives.

    Args:
        printed: the shipped `cost.csv`.
        table: "table 1" or "table 2".

    Returns:
        Columns gpus, row, quantity, printed, model, error (relative), beyond rounding (the part of it that the printed digits do
        not explain), source, misprint (the cell that contradicts the paper's own formula).
    """
    rows = []
    for line in printed[printed["table"] == table].itertuples():
        model = (table_1 if table == "table 1" else table_2)(Cluster(int(line.gpus)))
        for quantity in ("tflop", "gib", "compute_ms", "io_ms"):
            said, ours = float(getattr(line, quantity)), float(model.loc[model["row"] == line.row, quantity].iloc[0])
            beyond = max(0.0, abs(ours - said) - _half_unit(said)) / said
            misprint = quantity == "compute_ms" and "misprinted" in str(line.source)
            source = str(line.source).split(";")[0]
            rows.append((line.gpus, line.row, quantity, said, ours, abs(ours / said - 1), beyond, source, misprint))
    columns = ["gpus", "row", "quantity", "printed", "model", "error", "beyond rounding", "source", "misprint"]
    return pd.DataFrame(rows, columns=columns)


def largest_error(found: pd.DataFrame) -> float:
    """Largest error beyond rounding of the cells that were read in the paper, the misprinted one aside."""
    return float(found.loc[(found["source"] != "memory") & ~found["misprint"], "beyond rounding"].max())


def parts(
    config: OPTConfig, heads: float, neurons: float, ranks: tuple[int, int], prompt: int, itemsize: int = HALF
) -> dict[str, float]:
    """Bytes that a sparse token reads, all blocks together, by what they are.

    Args:
        heads, neurons: shares that are read.
        ranks: of the predictors of heads and neurons, 0 for none.
        prompt: tokens in the cache.
    """
    attention, mlp = _weights(config)
    predictors = ranks[0] * (config.width + config.heads) + ranks[1] * (config.width + config.ffn)
    each = {
        "attention weights": heads * attention, "MLP weights": neurons * mlp, "predictors": predictors,
        "keys and values": heads * 2 * prompt * config.width,
    }  # fmt: skip
    return {name: float(itemsize * config.layers * numbers) for name, numbers in each.items()}


def step_bytes(
    config: OPTConfig, heads: float = 1, neurons: float = 1, ranks: tuple[int, int] = (0, 0), prompt: int = 0,
    itemsize: int = HALF,
) -> float:  # fmt: skip
    """Bytes of a token; dense by default."""
    return sum(parts(config, heads, neurons, ranks, prompt, itemsize).values())


def speedup(config: OPTConfig, heads: float, neurons: float, ranks: tuple[int, int], prompt: int) -> float:
    """Bytes of a dense token over those of a sparse one: what a kernel at the memory's speed gains."""
    return step_bytes(config, prompt=prompt) / step_bytes(config, heads, neurons, ranks, prompt)


def scaled_ranks(config: OPTConfig) -> tuple[int, int]:
    """Ranks in the proportion to the width that they have in OPT-175B, to a multiple of 16; the paper's own at its width."""
    share = config.width / PRESETS["opt-175b"].width
    if share == 1:
        return PAPER_RANKS
    return max(16, round(PAPER_RANKS[0] * share / 16) * 16), max(16, round(PAPER_RANKS[1] * share / 16) * 16)


def sizes(heads: float = 0.5, neurons: float = 0.125, prompt: int = 128) -> pd.DataFrame:
    """Every OPT size: GiB a dense token reads, the share left at this sparsity without and with predictors, the bound."""
    rows = []
    for name, config in PRESETS.items():
        if name == "mini":
            continue
        ranks = scaled_ranks(config)
        dense = step_bytes(config, prompt=prompt)
        bare, whole = (step_bytes(config, heads, neurons, r, prompt) / dense for r in ((0, 0), ranks))
        cache = parts(config, 1, 1, (0, 0), prompt)["keys and values"] / dense
        rows.append((name, dense / GIB, cache, bare, ranks[1], whole, 1 / whole))
    columns = ["model", "dense GiB", "of it cache", "left, no predictor", "rank", "left, with predictor", "speed-up bound"]
    return pd.DataFrame(rows, columns=columns)


def sparse_parts(config: OPTConfig, prompts: Sequence[int], heads: float = 5 / 12, neurons: float = 0.1) -> pd.DataFrame:
    """Where the bytes go at the paper's latency setting, in % of the dense token, by prompt; the last column is the bound."""
    rows = []
    for prompt in prompts:
        dense = step_bytes(config, prompt=prompt)
        split = parts(config, heads, neurons, PAPER_RANKS, prompt)
        shares = {name: 100 * bytes_ / dense for name, bytes_ in split.items()}
        rows.append({"prompt": prompt, **shares, "sum": sum(shares.values()), "speed-up bound": 100 / sum(shares.values())})
    return pd.DataFrame(rows)


def bound(config: OPTConfig, sparsities: np.ndarray, prompt: int, ranks: tuple[int, int] = PAPER_RANKS) -> np.ndarray:
    """Largest speed-up against the share of heads and of neurons that is skipped."""
    return np.array([speedup(config, 1 - s, 1 - s, ranks, prompt) for s in sparsities])
