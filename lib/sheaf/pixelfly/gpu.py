"""The layers and the whole models of the paper on a GPU: our Triton kernel, cuBLAS and what else a user could take, in turn."""

import copy
import re
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sheaf.common.gpt import GPT, next_token_loss
from sheaf.common.stats import interval
from sheaf.pixelfly import count
from sheaf.pixelfly.layers import PixelflyLinear
from sheaf.pixelfly.models import GPT_PRESETS, SPARSE, build
from sheaf.pixelfly.patterns import Plan
from sheaf.pixelfly.tables import MODELS
from sheaf_kernels.block_sparse import gpu_benchmark
from sheaf_kernels.block_sparse.gpu_benchmark import LAYERS, Layer, cell_layout

__all__ = ["by_density", "forms", "layers", "left_out", "machine", "speedups", "step_ratios", "step_table", "steps"]

_CELLS, _FACTORS = 16, 3  # 4 of 16 cells in every row: a density of 1/4
_SEQUENCE = 512  # tokens of a sequence of GPT-2, as the published counts assume
Tick = Callable[[object], None] | None


@cache
def _rows(layer: Layer, rounds: int, factors: int = _FACTORS, cells: int = _CELLS) -> list[dict[str, Any]]:
    layout = cell_layout(layer.out, layer.in_, cells, factors)
    return gpu_benchmark.measure(layer, layout, rank=64, rounds=rounds, limits=machine())


@cache
def machine() -> dict[str, float | str]:
    """What this device reaches: name, dtype, tflops of a large cuBLAS product and gbytes_s of a copy.

    Raises:
        RuntimeError: no GPU.
    """
    return gpu_benchmark.machine()


def _shown(rows: Iterable[dict[str, Any]]) -> pd.DataFrame:
    names = {
        "layer": "layer", "density": "density", "pass": "pass", "arm": "arm", "ms": "ms", "limit_ms": "limit (ms)",
        "host_ms": "host (ms)", "tflops": "TFLOP/s", "gbytes_s": "GB/s", "speed_up": "speed-up",
    }  # fmt: skip
    return pd.DataFrame(rows)[list(names)].rename(columns=names)


def layers(rounds: int, tick: Tick = None) -> pd.DataFrame:
    """Every layer shape of the paper in bfloat16 at a density of 1/4, every arm, forward and backward.

    Returns:
        One row per layer, pass and arm: milliseconds of the device and of the host, the limit of the device (ms), TFLOP/s
        and GB/s by the layer's definition, and the speed-up over cuBLAS; medians over rounds.

    Raises:
        RuntimeError: no GPU, or a result is wrong.
    """
    found = []
    for layer in LAYERS:
        found += gpu_benchmark.summary(_rows(layer, rounds))
        if tick:
            tick(layer.name)
    return _shown(found)


def by_density(rounds: int, tick: Tick = None) -> pd.DataFrame:
    """The first layer of `LAYERS` at densities from 1/16 to 1/2, cells of its own size: columns of `layers`."""
    found = []
    for factors, cells in ((0, 16), (1, 16), (3, 16), (3, 8)):
        found += gpu_benchmark.summary(_rows(LAYERS[0], rounds, factors, cells))
        if tick:
            tick(factors)
    return _shown(found)


def forms() -> pd.DataFrame:
    """Which form of the kernel was the fastest for every product timed so far; columns of `triton_choice.choices`."""
    from sheaf_kernels.block_sparse import triton_choice  # needs Triton

    return pd.DataFrame(triton_choice.choices())


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


def _sparse(model: nn.Module, include: str, rank: int) -> nn.Module:
    """A copy with the published configuration in the place of its linear layers: 4 of 16 cells in a row, and a rank."""
    model = copy.deepcopy(model)
    wanted = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear) and re.search(include, n)]
    for i, (name, linear) in enumerate(wanted):
        out, in_ = linear.out_features, linear.in_features
        layout = cell_layout(out, in_, _CELLS, _FACTORS)
        parent, _, child = name.rpartition(".")
        new = PixelflyLinear(
            in_, out, Plan(layout.mask.numpy(), layout.block, rank), bias=linear.bias is not None,
            generator=torch.Generator().manual_seed(i),
        )  # fmt: skip
        setattr(model.get_submodule(parent), child, new)
    return model


def _data(name: str, batch: int) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    if name in GPT_PRESETS:
        x = torch.randint(GPT_PRESETS[name].vocab, (batch, _SEQUENCE), generator=random)
        return x.cuda(), x.roll(-1, 1).cuda()
    return torch.randn(batch, 3, 224, 224, generator=random).cuda(), (torch.arange(batch) % 1000).cuda()


def _step(model: nn.Module, run: Callable[[Tensor], Tensor], data: tuple[Tensor, Tensor]) -> Callable[[], None]:
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    loss_of = next_token_loss if isinstance(model, GPT) else F.cross_entropy

    def step() -> None:
        with torch.autocast("cuda", torch.bfloat16):
            loss = loss_of(run(data[0]).float(), data[1])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    return step


def steps(batches: dict[str, int], rounds: int, compiled: Sequence[str] = (), tick: Tick = None) -> pd.DataFrame:
    """Whole training steps of the paper's models, full depth, bfloat16 autocast with AdamW: dense and Pixelfly in turn.

    Mixers have blocks only, as their published counts say; the others a rank of 32 as well.

    Args:
        batches: examples per step, by the name of a preset; sequences of 512 tokens for GPT-2.
        compiled: models that are measured through torch.compile too, both arms.

    Returns:
        Columns model, arm ("dense", "pixelfly", and the same with ", compiled"), round, ms.

    Raises:
        RuntimeError: no GPU.
    """
    if not torch.cuda.is_available():
        raise RuntimeError("these steps need a CUDA GPU and a torch built for it; there is none here")
    found = []
    for name, batch in batches.items():
        family = name.split("-")[0].removesuffix("2")
        changes = {"context": _SEQUENCE} if name in GPT_PRESETS else {}
        dense: nn.Module = build(name, **changes)
        models = {"dense": dense.cuda(), "pixelfly": _sparse(dense, SPARSE[family], 0 if family == "mixer" else 32).cuda()}
        data = _data(name, batch)
        calls = {arm: _step(model, model, data) for arm, model in models.items()}
        if name in compiled:
            calls |= {f"{arm}, compiled": _step(model, torch.compile(model), data) for arm, model in models.items()}
        for call in calls.values():
            call()
        for turn, taken in enumerate(gpu_benchmark.alternate(calls, rounds)):
            found += [(name, arm, turn, ms) for arm, ms in taken.items()]
        del dense, models, calls, data
        torch.cuda.empty_cache()
        if tick:
            tick(name)
    return pd.DataFrame(found, columns=["model", "arm", "round", "ms"])


def step_ratios(frame: pd.DataFrame, model: str, suffix: str = "") -> np.ndarray:
    """Dense time over Pixelfly time per round; empty when the model was not measured."""
    table = frame[frame["model"] == model].pivot_table(index="round", columns="arm", values="ms")
    arms = (f"dense{suffix}", f"pixelfly{suffix}")
    return (table[arms[0]] / table[arms[1]]).to_numpy() if set(arms) <= set(table.columns) else np.array([])


def step_table(frame: pd.DataFrame) -> pd.DataFrame:
    """One row per model and way of running: milliseconds, speed-up with its interval, published, and by operations alone."""
    printed = pd.concat([count.published("image_models"), count.published("language_models")]).set_index("model")["speedup"]
    rows = []
    for name in frame["model"].unique():
        row = MODELS[name]
        limit = count.counts(name).operations / count.counts(name, *count.AUDITED[row][1:]).operations
        for way, suffix in (("eager", ""), ("torch.compile", ", compiled")):
            ratios = step_ratios(frame, name, suffix)
            if not len(ratios):
                continue
            part = frame[frame["model"] == name].groupby("arm")["ms"].median()
            gain = interval(ratios, "median")
            rows.append((name, way, part[f"dense{suffix}"], part[f"pixelfly{suffix}"], gain.estimate, gain.low, gain.high,
                         printed[row], limit))  # fmt: skip
    columns = ["model", "run", "dense (ms)", "Pixelfly (ms)", "speed-up", "low", "high", "published", "by operations"]
    return pd.DataFrame(rows, columns=columns)
