"""How fast chosen rows are against the best dense MLP, heads against dense attention, and what choosing costs; on one CPU core.

Seconds are CPU seconds of one thread, all arms in turn, the caches emptied before each call. What a token needs at least is its
bytes over what a plain stream of reads reaches, which is measured in the same run. Weights lie in huge
pages where the system has them, except those in oneDNN's own format.
"""

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from threadpoolctl import threadpool_limits
from torch import Tensor

from sheaf_kernels.bench import benchmark, one_core, table
from sheaf_kernels.cpu_cache import last_level
from sheaf_kernels.gather_heads import gather_heads
from sheaf_kernels.memory import huge
from sheaf_kernels.predict_topk import predict_topk

from . import compiled, gather_mlp

__all__ = ["DENSITIES", "alternate", "heads", "mlp", "predictor", "stream"]

DENSITIES = (0.05, 0.1, 0.25, 0.5, 0.8)
_CACHE = max(96 * 2**20, 2 * last_level())  # bytes
Arms = dict[str, Callable[[], object]]
Key = TypeVar("Key")
Rows = list[dict[str, Any]]
_flush = torch.empty(0, dtype=torch.int64)


@contextmanager
def _single() -> Iterator[None]:
    with one_core(), threadpool_limits(1), torch.no_grad():
        yield


def _empty_caches() -> None:
    """Fill the caches with other data by reading it, as the layers before do: what was written would have to be written back."""
    global _flush
    if not _flush.numel():
        _flush = torch.zeros(_CACHE // 8, dtype=torch.int64)
    _flush.sum()


def alternate(
    arms: Mapping[Key, Callable[[], object]], rounds: int, before: Callable[[], object] = _empty_caches
) -> list[dict[Key, float]]:
    """CPU seconds of this thread for every arm, in turn, after what is done before each; a first round is dropped."""
    names, kept = list(arms), []
    for turn in range(rounds + 1):
        row = {}
        for k in range(len(names)):
            name = names[(turn + k) % len(names)]
            before()
            began = time.thread_time()
            arms[name]()
            row[name] = time.thread_time() - began
        if turn:
            kept.append(row)
    return kept


def _rows(timed: list[dict[str, float]], **labels: object) -> Rows:
    return [{**labels, "round": i, "arm": a, "seconds": t} for i, row in enumerate(timed) for a, t in row.items()]


def stream(x: Tensor) -> Callable[[], object]:
    """An arm that reads a tensor once and does next to nothing with it: what the memory gives."""
    out = torch.empty((), dtype=torch.int64)
    words = x.view(torch.int64) if x.dtype != torch.int64 else x
    return lambda: torch.sum(words, dim=0, out=out)


def _onednn(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Callable[[], object]:
    """oneDNN in float32 on weights in its own format, its best case."""
    x_, first, second = x.to_mkldnn(), w1.to_mkldnn(), w2.to_mkldnn()
    linear = torch.ops.aten.mkldnn_linear
    return lambda: linear(linear(x_, first, b1).relu_(), second, b2)


def _int4(x: Tensor, weights: tuple[Tensor, Tensor], group: int = 128) -> Callable[[], object]:
    """torch's int4 layers on weights rounded per group, without biases; raises where this build or processor has none."""
    packed = []
    for w in weights:
        out, in_ = w.shape
        grouped = w.float().view(out, in_ // group, group)
        scale = grouped.abs().amax(2).clamp_min(1e-8) / 7
        codes = ((grouped / scale[..., None]).round().clamp(-8, 7) + 8).to(torch.int32).view(out, in_)
        pair = torch.stack([scale, torch.zeros_like(scale)], 2).transpose(0, 1).contiguous().to(x.dtype)
        packed.append((torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, 1), pair))
    product = torch.ops.aten._weight_int4pack_mm_for_cpu

    def run() -> Tensor:
        hidden = product(x, packed[0][0], group, packed[0][1]).relu_()
        return product(hidden, packed[1][0], group, packed[1][1])

    expected = F.linear(F.linear(x, weights[0]).relu_(), weights[1]).float()
    if not (run().float() - expected).norm() <= 0.3 * expected.norm():
        raise RuntimeError("the int4 layers give other numbers")
    return run


def mlp(
    d: int, f: int, densities: Iterable[float], *, dtype: torch.dtype = torch.float32, rounds: int = 9, seed: int = 0
) -> Rows:
    """The MLP at batch 1 by every dense way and, per density, by the gathering kernel and its rivals.

    The chosen neurons are the most active ones, in ascending order. Rows with arm, density, round, seconds, and the
    ``bytes`` of weights that the arm reads; dense arms stand at density 1, as does "stream", a plain read of W1.

    Raises:
        RuntimeError: the kernel is not built, or an arm gives other results than the dense layer.
    """
    if not compiled():
        raise RuntimeError("the gather_mlp kernel is not built; run `make kernels`")
    random = torch.Generator().manual_seed(seed)
    w1, w2t, w2 = huge(f, d, dtype=dtype), huge(f, d, dtype=dtype), huge(d, f, dtype=dtype)
    for w in (w1, w2t):
        w.copy_(torch.randn(f, d, generator=random) * d**-0.5)
    w2.copy_(w2t.T)
    x, b1, b2 = (torch.randn(*s, generator=random).to(dtype) for s in ((1, d), (f,), (d,)))
    every = torch.arange(f)
    hidden = F.linear(x.float(), w1.float(), b1.float()).relu_()[0]
    size = w1.element_size()

    def ours(index: Tensor, threshold: float | None = None) -> Callable[[], Tensor]:
        operator, limit = torch.ops.sheaf.gather_mlp, -1.0 if threshold is None else threshold
        return lambda: operator(x, w1, b1, w2t, b2, index, 0, limit)

    with _single():
        dense: Arms = {
            "dense, torch": lambda: F.linear(F.linear(x, w1, b1).relu_(), w2, b2),
            "dense, torch, W2 by rows": lambda: torch.mv(w2t.T, F.linear(x, w1, b1).relu_()[0]).add_(b2)[None],
            "dense, our kernel": ours(every),
        }
        if dtype == torch.float32 and torch.backends.mkldnn.is_available():
            dense["dense, oneDNN"] = _onednn(x, w1, b1, w2, b2)
        right = dense["dense, torch"]().float()  # type: ignore[attr-defined]
        for name, arm in dense.items():
            _same(name, arm(), right)
        with suppress(RuntimeError, AttributeError, NotImplementedError):  # a rival that not every build of torch has
            dense["dense, int4 (torch)"] = _int4(x, (w1, w2))
        dense["stream"] = stream(w1.view(-1))
        arms: dict[tuple[str, float], Callable[[], object]] = {(name, 1.0): arm for name, arm in dense.items()}
        moved = {(name, 1.0): 2.0 * f * d * size for name in dense}
        moved["stream", 1.0], moved["dense, int4 (torch)", 1.0] = 1.0 * f * d * size, f * d * (1 + size / 32)
        wanted = [max(1, round(density * f)) for density in densities]
        space = torch.empty(2, max(wanted, default=0), d, dtype=dtype)
        for k in wanted:
            best = hidden.topk(k)
            index, cut = best.indices.sort().values, float(best.values[-1]) * (1 - 1e-6)
            first, second, columns = space[0, :k], space[1, :k], space[1, :k].view(d, k)

            def indexed(index: Tensor = index, first: Tensor = first, second: Tensor = second) -> Tensor:
                torch.index_select(w1, 0, index, out=first)
                torch.index_select(w2t, 0, index, out=second)
                # as a vector: torch's matrix product of this shape is thirty times slower in bfloat16
                return torch.mv(second.T, F.linear(x, first, b1[index]).relu_()[0]).add_(b2)[None]

            def by_columns(index: Tensor = index, first: Tensor = first, columns: Tensor = columns) -> Tensor:
                torch.index_select(w1, 0, index, out=first)
                torch.index_select(w2, 1, index, out=columns)
                return F.linear(F.linear(x, first, b1[index]).relu_(), columns, b2)

            reference = gather_mlp(x, w1, b1, w2t, b2, index, backend="reference").float()
            ways = {
                "gathered": (ours(index), 2 * k), "index, then multiply": (indexed, 6 * k),
                "index, W2 by columns": (by_columns, 6 * k), "threshold": (ours(every, max(cut, 0.0)), f + k),
            }  # fmt: skip
            for name, (arm, rows) in ways.items():
                if name != "threshold":  # may differ by a row that lies at the very threshold
                    _same(name, arm(), reference)
                arms[name, k / f], moved[name, k / f] = arm, 1.0 * rows * d * size
        found = [
            {"arm": arm, "density": density, "round": i, "seconds": seconds, "bytes": moved[arm, density]}
            for i, row in enumerate(alternate(arms, rounds)) for (arm, density), seconds in row.items()
        ]  # fmt: skip
    return [{**row, "d": d, "f": f, "dtype": str(dtype).removeprefix("torch.")} for row in found]


def _same(name: str, found: Any, right: Tensor) -> None:
    found = (found.to_dense() if found.is_mkldnn else found).float()
    if not (found - right).norm() <= 3e-2 * right.norm():
        raise RuntimeError(f"{name} and its reference give different results; nothing was timed")


def heads(
    d: int, count: int, prompt: int, kept: Iterable[int], *, dtype: torch.dtype = torch.float32, rounds: int = 9, seed: int = 0
) -> Rows:
    """One decode step of attention by torch and by the gathering kernel, per number of chosen heads; caches complete."""
    random, width = torch.Generator().manual_seed(seed), d // count
    fused, wot, wo = huge(3, count, width, d, dtype=dtype), huge(count, width, d, dtype=dtype), huge(d, d, dtype=dtype)
    for w in (fused, wot):
        w.copy_(torch.randn(w.shape, generator=random) * d**-0.5)
    wo.copy_(wot.view(d, d).T)
    bias, bo, x = torch.zeros(count, width, dtype=dtype), torch.zeros(d, dtype=dtype), torch.randn(1, d).to(dtype)
    keys, values = (torch.randn(1, count, prompt + 1, width, generator=random).to(dtype) for _ in range(2))

    def ours(chosen: Tensor) -> Callable[[], Tensor]:
        q, k, v = fused
        return lambda: gather_heads(x, q, bias, k, bias, v, bias, wot, bo, keys, values, prompt, chosen, backend="cpu")

    def by_torch() -> Tensor:
        q, k, v = F.linear(x, fused.view(3 * d, d)).view(3, count, width)
        keys[0, :, prompt], values[0, :, prompt] = k, v
        return F.linear(F.scaled_dot_product_attention(q[None, :, None], keys, values).reshape(1, d), wo)

    with _single():
        arms: Arms = {"dense, torch": by_torch, "dense, our kernel": ours(torch.arange(count))}
        _same("our dense attention", arms["dense, our kernel"](), arms["dense, torch"]().float())  # type: ignore[attr-defined]
        for k in kept:
            arms[f"gathered, {k} heads"] = ours(torch.randperm(count, generator=random)[:k].sort().values)
        timed = alternate(arms, rounds)
    each = (4 * width * d + 2 * prompt * width) * x.element_size()
    rows = _rows(timed, d=d, heads=count, prompt=prompt, dtype=str(dtype).removeprefix("torch."))
    for row in rows:
        row["kept"] = int(row["arm"].split()[1]) if "gathered" in row["arm"] else count
        row["bytes"] = each * row["kept"]
    return rows


def predictor(
    d: int, out: int, rank: int, k: int, *, dtype: torch.dtype = torch.float32, rounds: int = 9, seed: int = 0
) -> Rows:
    """Scores of all units and the k best of them: in one step, by torch, and torch's products without the selection."""
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(1, d, generator=random).to(dtype)
    a, b = (huge(*s, dtype=dtype).copy_(torch.randn(s, generator=random)) for s in ((rank, d), (out, rank)))
    with _single():
        timed = alternate({
            "ours": lambda: predict_topk(x, a, b, k, backend="cpu"),
            "torch, topk": lambda: F.linear(F.linear(x, a), b)[0].topk(k, sorted=False).indices.sort(),
            "torch, products only": lambda: F.linear(F.linear(x, a), b),
        }, rounds)  # fmt: skip
    return _rows(timed, d=d, out=out, rank=rank, k=k, bytes=rank * (d + out) * x.element_size(),
                 dtype=str(dtype).removeprefix("torch."))  # fmt: skip


@benchmark("gather_mlp/density")
def by_density() -> str:
    """d = 4096, f = 16384, float32 and bfloat16: milliseconds, GB/s and speed-up x density over the best dense arm."""
    lines: list[tuple[object, ...]] = []
    for dtype in (torch.float32, torch.bfloat16):
        rows = mlp(4096, 16384, DENSITIES, dtype=dtype, rounds=7)
        keys = dict.fromkeys((row["density"], row["arm"]) for row in rows)
        times = {key: statistics.median(r["seconds"] for r in rows if (r["density"], r["arm"]) == key) for key in keys}
        best = min(t for (_, arm), t in times.items() if arm.startswith("dense") and "int4" not in arm)
        for (density, arm), t in times.items():
            moved = next(r["bytes"] for r in rows if (r["density"], r["arm"]) == (density, arm))
            name = f"{str(dtype).removeprefix('torch.')}, {arm}"
            lines.append((name, f"{density:.2f}", f"{1e3 * t:.2f}", f"{1e-9 * moved / t:.1f}", f"{best / t * density:.2f}"))
    return table(("arm", "density", "ms", "GB/s", "speed-up x density"), lines)


def _shown(rows: Rows) -> str:
    arms = dict.fromkeys(row["arm"] for row in rows)
    lines = []
    for arm in arms:
        mine = [row for row in rows if row["arm"] == arm]
        seconds = statistics.median(row["seconds"] for row in mine)
        lines.append((arm, f"{1e3 * seconds:.2f}", f"{1e-9 * mine[0]['bytes'] / seconds:.1f}"))
    return table(("arm", "ms", "GB/s"), lines)


@benchmark("gather_heads/decode")
def by_heads() -> str:
    """One step of attention at d = 4096, 32 heads, after 128 tokens, float32: milliseconds and GB/s."""
    return _shown(heads(4096, 32, 128, (8, 16, 24), rounds=7))


@benchmark("predict_topk/select")
def by_predictor() -> str:
    """2048 of 16384 neurons named by a predictor of rank 332 at d = 4096, float32: milliseconds and GB/s."""
    return _shown(predictor(4096, 16384, 332, 2048, rounds=7))
