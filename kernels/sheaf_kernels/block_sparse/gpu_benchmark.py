"""How fast a block-sparse layer is on a GPU against cuBLAS and against what else a user could take, at the papers' layer shapes.

What can be reached, for T tokens and a weight [out, in] of density d, on one H200 (cuBLAS at about 700 TFLOP/s in bfloat16,
memory at 4.2 TB/s, L2 cache to processors at about 5.5 TB/s; an H100 has the same processors and 3.35 TB/s of memory):
    Activations are read and written once whatever d is. At 25088 x 768 -> 3072 that takes 46 us, where the dense product takes
    169 us: no density makes a forward pass more than 3.7 times as fast, and 1 / d is out of reach below d = 1/4. The layers of
    the paper are bounded at 2.3 to 4.9. A V100 has 6 times less memory bandwidth but also 6 times less arithmetic, and there
    the same layer at d = 1/4 is bound by arithmetic: the claim depends on the generation of hardware.
    Traffic of tiles: a program that makes BM x BN outputs reads BM + BN operands for BM * BN multiply-adds, so the L2 cache
    allows 5.5e12 * BM * BN / (BM + BN) operations/s: 141 TFLOP/s at 128 x 32, a fifth of cuBLAS, 352 at 128 x 128, 469 at
    256 x 128. A kernel that tiles by blocks of 32 is slower than a dense product at any d above 0.2.
Hence tiles of several block rows (see `triton_tiles.py`): whole cells of the butterfly, and unions of cells where zeros are
cheaper than traffic. The floor to reach at d = 1/4 is 2.0 times cuBLAS forward and 1.6 forward and backward; the aim is 2.8.
At 25088 x 768 -> 3072 in cells of 48 x 192 the tiles that the rule puts first move 0.42, 0.64 and 0.72 GB through the L2
cache for y, dx and dW, padding included: 77, 116 and 131 us, against 169 each. That predicts 2.2 forward and 1.6 in all, and is
no measurement.

Times are of the device, by events, one call of every arm in turn, the L2 cache emptied before each; a wait on the device before
the first event lets the host queue a whole call, so that slow launches do not count. `host_ms` tells what they are: the
time per call of many calls in a row, seen by the host. Every arm goes through autograd, and is checked before it is timed.
"""

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .gpu_arms import Arm, arms, check, graph
from .layout import Layout

__all__ = ["LAYERS", "Layer", "alternate", "cell_layout", "limit_ms", "machine", "measure", "summary"]

_L2_BYTES = 256 * 2**20  # more than any cache
_WAIT_CYCLES = 2_000_000  # about a millisecond
_IN_A_ROW = 20


@dataclass(frozen=True)
class Layer:
    """Tokens and widths of a layer of the paper's models."""

    name: str
    tokens: int
    in_: int
    out: int


LAYERS = (
    Layer("Mixer-B channel", 25088, 768, 3072), Layer("Mixer-B channel, second", 25088, 3072, 768),
    Layer("Mixer-S channel", 100352, 512, 2048), Layer("Mixer-S channel, second", 100352, 2048, 512),
    Layer("ViT-S MLP", 25216, 768, 2304), Layer("ViT projection", 25216, 768, 768),
    Layer("GPT-2 small MLP", 16384, 768, 3072), Layer("GPT-2 medium MLP", 8192, 1024, 4096),
    Layer("4096 x 4096", 4096, 4096, 4096),
)  # fmt: skip


def cell_layout(out: int, in_: int, cells: int, factors: int, block: int | None = None) -> Layout:
    """A flat butterfly of strides 1 to 2^(factors - 1) on cells x cells, of density (factors + 1) / cells without rounding.

    Args:
        cells: a power of two that divides both sides.
        block: edge of the stored blocks, a divisor of the cells' edges; the largest by default.

    Raises:
        ValueError: cells or blocks that do not fit.
    """
    if cells < 1 or cells & (cells - 1) or out % cells or in_ % cells:
        raise ValueError(f"{cells} x {cells} cells do not fit {out} x {in_}; use a power of two that divides both sides")
    if not 0 <= factors <= cells.bit_length() - 1:
        raise ValueError(f"{cells} cells have 0 to {cells.bit_length() - 1} factors; got {factors}")
    edge = math.gcd(out // cells, in_ // cells)
    block = edge if block is None else block
    if edge % block:
        raise ValueError(f"blocks of {block} do not fit cells of {out // cells} x {in_ // cells}; use a divisor of {edge}")
    i = torch.arange(cells)
    mask = i[:, None] == i
    for stride in range(factors):
        mask = mask | (i[:, None] ^ 2**stride == i)
    mask = mask.repeat_interleave(out // cells // block, 0).repeat_interleave(in_ // cells // block, 1)
    return Layout(mask, block)


def machine(dtype: torch.dtype = torch.bfloat16) -> dict[str, float | str]:
    """Limits measured on this device: multiply-adds of cuBLAS in TFLOP/s, and a copy's GB/s, the best of 20.

    Raises:
        RuntimeError: there is no CUDA device.
    """
    _need_cuda()
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=dtype) for _ in range(2))
    source = torch.empty(2**29, device="cuda", dtype=torch.float32)
    to = torch.empty_like(source)
    calls: dict[str, Callable[[], object]] = {"product": lambda: a @ b, "copy": lambda: to.copy_(source)}
    best = {name: min(row[name] for row in alternate(calls, 20)) for name in calls}
    return {
        "device": torch.cuda.get_device_name(), "dtype": str(dtype).removeprefix("torch."),
        "tflops": 2e-9 * 8192**3 / best["product"], "gbytes_s": 2e-6 * source.nbytes / best["copy"],
    }  # fmt: skip


def limit_ms(
    tokens: int, in_: int, out: int, multiplied: int, itemsize: int, both: bool, tflops: float, gbytes_s: float
) -> float:
    """Milliseconds below which a layer cannot be: the longer of its arithmetic and of moving every operand once.

    Args:
        multiplied: elements of the weight.
        both: forward and backward, three products, instead of forward.
        tflops, gbytes_s: what the device reaches, see ``machine``.
    """
    products = 3 if both else 1  # each of the three reads or writes both activations and the weight once
    operations = 2.0 * products * tokens * multiplied
    moved = products * itemsize * (tokens * (in_ + out) + multiplied)
    return max(1e-9 * operations / tflops, 1e-6 * moved / gbytes_s)


def measure(
    layer: Layer, layout: Layout, *, dtype: torch.dtype = torch.bfloat16, rank: int = 0, rounds: int = 20, seed: int = 0,
    limits: dict[str, float | str] | None = None,
) -> list[dict[str, float | str | int]]:  # fmt: skip
    """Time every arm of a layer, forward, and forward and backward.

    Args:
        layout: [layer.out, layer.in_]; see ``cell_layout``.
        rank: of the low-rank term of one more arm.
        limits: what ``machine`` gave; measured when absent.

    Returns:
        A dict per arm, pass and round: layer, tokens, in, out, density, block, dtype, arm, pass, round, ms, host_ms, limit_ms,
        tflops (only multiply-adds that the layer is defined by) and gbytes_s (every operand once). An arm that cannot run or
        whose result is wrong has one row with ``left_out``, the reason.

    Raises:
        RuntimeError: there is no CUDA device, or a result of this project's kernel or of cuBLAS is wrong.
        ValueError: the layout is not the layer's.
    """
    _need_cuda()
    if (layout.out_features, layout.in_features) != (layer.out, layer.in_):
        raise ValueError(f"the layout is {layout.out_features} x {layout.in_features}, the layer {layer.out} x {layer.in_}")
    random = torch.Generator("cuda").manual_seed(seed)
    x = torch.randn(layer.tokens, layer.in_, generator=random, device="cuda", dtype=dtype)
    dy = torch.randn(layer.tokens, layer.out, generator=random, device="cuda", dtype=dtype)
    limits = limits or machine(dtype)
    made, left_out = arms(x, layout, rank, seed)
    for name, arm in list(made.items()):
        try:
            wrong = check(arm, x, dy)
        except Exception as error:  # a peer may fail in any way of its own; what it says is kept
            if name.startswith(("block sparse", "cuBLAS")):
                raise
            wrong = f"{type(error).__name__}: {error}".splitlines()[0]
        if wrong is not None:
            if name.startswith(("block sparse", "cuBLAS")):
                raise RuntimeError(f"{name}: {wrong}; nothing was timed")
            left_out[name] = wrong
            del made[name]
    common: dict[str, float | str | int] = {
        "layer": layer.name, "tokens": layer.tokens, "in": layer.in_, "out": layer.out, "density": layout.density,
        "block": layout.block, "dtype": str(dtype).removeprefix("torch."),
    }  # fmt: skip
    rows: list[dict[str, float | str | int]] = [common | {"arm": k, "left_out": why} for k, why in left_out.items()]
    for both in (False, True):
        calls = {k: _call(a, dy, both) for k, a in made.items() if not both or a.dense_gradients is not None}
        host = {name: _host_ms(call) for name, call in calls.items()}
        for turn, taken in enumerate(alternate(calls, rounds)):
            for name, ms in taken.items():
                shape = (layer.tokens, layer.in_, layer.out, made[name].multiplied)
                operations = (6.0 if both else 2.0) * layer.tokens * made[name].multiplied
                moved = (3 if both else 1) * x.itemsize * (layer.tokens * (layer.in_ + layer.out) + made[name].multiplied)
                bound = limit_ms(*shape, x.itemsize, both, float(limits["tflops"]), float(limits["gbytes_s"]))
                rows.append(common | {
                    "arm": name, "pass": "forward and backward" if both else "forward", "round": turn, "ms": ms,
                    "host_ms": host[name], "limit_ms": bound, "tflops": 1e-9 * operations / ms, "gbytes_s": 1e-6 * moved / ms,
                })  # fmt: skip
    return rows


def summary(rows: list[dict[str, float | str | int]]) -> list[dict[str, float | str | int]]:
    """One dict per layer, layout, arm and pass: medians, and the median over rounds of cuBLAS's time over the arm's."""
    timed = [r for r in rows if "ms" in r]
    same = ("layer", "tokens", "in", "out", "density", "block", "dtype", "pass")
    dense = {(*(r[k] for k in same), r["round"]): float(r["ms"]) for r in timed if r["arm"] == "cuBLAS, dense"}
    groups: dict[tuple[Any, ...], list[dict[str, float | str | int]]] = {}
    for row in timed:
        groups.setdefault((*(row[k] for k in same), row["arm"]), []).append(row)
    result = []
    for key, group in groups.items():
        ratios = [dense[(*key[:-1], r["round"])] / float(r["ms"]) for r in group if (*key[:-1], r["round"]) in dense]
        medians = {k: statistics.median(float(r[k]) for r in group) for k in ("ms", "host_ms", "limit_ms", "tflops", "gbytes_s")}
        speed_up = statistics.median(ratios) if ratios else math.nan
        result.append(dict(zip((*same, "arm"), key, strict=True)) | medians | {"speed_up": speed_up})
    return result


def _need_cuda() -> None:
    if not torch.cuda.is_available():
        raise RuntimeError("this benchmark needs a CUDA GPU and a torch built for it; there is none here")


def _call(arm: Arm, dy: Tensor, both: bool) -> Callable[[], object]:
    if both:
        own_dy = arm.own_dy(dy).contiguous()

        def step() -> object:
            y, leaves = graph(arm)
            return torch.autograd.grad(y, leaves, own_dy)

        return step

    def forward() -> object:
        with torch.no_grad():
            return arm.run(arm.x, *arm.parameters)

    return forward


def alternate(calls: Mapping[str, Callable[[], object]], rounds: int) -> Iterator[dict[str, float]]:
    """Milliseconds on the device for every call, in turn, each round starting with another; two first rounds are dropped.

    Before the first event the device waits for three times as long as the host took to queue the call, a millisecond at the
    least: a device that catches up with a host in Python would time the host.
    """
    flush = torch.empty(_L2_BYTES, dtype=torch.uint8, device="cuda")
    names = list(calls)
    waits = {name: max(_WAIT_CYCLES, int(3 * _WAIT_CYCLES * _queued_ms(call))) for name, call in calls.items()}
    for turn in range(rounds + 2):
        taken = {}
        for k in range(len(names)):
            name = names[(turn + k) % len(names)]
            began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize()
            flush.zero_()
            torch.cuda._sleep(waits[name])
            began.record()
            calls[name]()
            ended.record()
            ended.synchronize()
            taken[name] = began.elapsed_time(ended)
        if turn >= 2:
            yield taken


def _queued_ms(call: Callable[[], object]) -> float:
    """Milliseconds until the host has queued a call, the second time it is made."""
    call()
    torch.cuda.synchronize()
    began = time.perf_counter()
    call()
    queued = 1e3 * (time.perf_counter() - began)
    torch.cuda.synchronize()
    return queued


def _host_ms(call: Callable[[], object]) -> float:
    call()
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(_IN_A_ROW):
        call()
    torch.cuda.synchronize()
    return 1e3 * (time.perf_counter() - began) / _IN_A_ROW
