"""Whether the three gathering operations are right on a GPU, against float64: ``python -m sheaf_kernels.gather_mlp.gpu_check``.

Sizes that no tile divides, padding, repeats, thresholds, batches, heads that are made up for, ties, and a captured graph. With
TRITON_INTERPRET=1 the same checks run on a CPU. Prints a line for each; exit code 1 when one fails.
"""

import sys
import time
import traceback
from collections.abc import Callable

import torch
from torch import Tensor

from sheaf_kernels.gather_heads import gather_heads
from sheaf_kernels.gather_mlp import gather_mlp
from sheaf_kernels.gather_mlp.triton import INTERPRETED
from sheaf_kernels.predict_topk import predict_topk, reference

__all__ = ["CHECKS", "check_graph", "check_heads", "check_mlp", "check_predictor", "main"]

_mlp: Callable[..., Tensor] = gather_mlp  # called with lists of tensors below
_heads: Callable[..., Tensor] = gather_heads
# error of a whole tensor against float64 on the same numbers, relative to the sums of absolute values
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 6e-3, torch.float16: 8e-4}


def _device() -> str:
    return "cpu" if INTERPRETED else "cuda"


def _draw(generator: torch.Generator, *shape: int, dtype: torch.dtype, scale: float = 1.0) -> Tensor:
    return (torch.randn(shape, generator=generator) * scale).to(dtype).to(_device())


def _close(found: Tensor, expected: Tensor, size: Tensor, dtype: torch.dtype, what: str) -> None:
    error = float((found.double() - expected).norm() / size.norm().clamp_min(1e-30))
    if not error <= TOLERANCE[dtype]:
        raise AssertionError(f"{what}: relative error {error:.1e}, allowed {TOLERANCE[dtype]:.0e}")


def check_mlp(dtype: torch.dtype, batch: int, d: int, f: int, k: int, activation: str, threshold: float | None) -> None:
    """One call of gather_mlp with repeats and padding in its index."""
    generator = torch.Generator().manual_seed(d + f + k)
    x, w1, b1, w2t, b2 = (
        _draw(generator, *s, dtype=dtype, scale=d**-0.25) for s in ((batch, d), (f, d), (f,), (f, d), (d,))
    )
    index = torch.randint(-1, f, (k,), generator=generator).to(_device())
    found = _mlp(x, w1, b1, w2t, b2, index, activation, threshold, backend="triton")
    exact = [t.double() for t in (x, w1, b1, w2t, b2)]
    if threshold is not None:  # a row at the very threshold may go either way; move it so that none is there
        hidden = exact[0] @ exact[1].T + exact[2]
        threshold = float(threshold)
        near = ((hidden.abs() - threshold).abs() < 1e-2).any(0)
        index = torch.where(near[index.clamp_min(0)], -1, index)
        found = _mlp(x, w1, b1, w2t, b2, index, activation, threshold, backend="triton")
    expected = _mlp(*exact, index, activation, threshold, backend="reference")
    size = _mlp(*(t.abs() for t in exact), index, backend="reference")
    _close(found, expected, size, dtype, "gather_mlp")


def check_heads(dtype: torch.dtype, batch: int, heads: int, width: int, d: int, kept: int, tokens: int) -> None:
    """A run of decode steps with changing heads, made up for, against float64 with a cache that is always complete."""
    generator = torch.Generator().manual_seed(heads + width + d)
    slab, bias = (heads, width, d), (heads, width)
    weights = [
        _draw(generator, *s, dtype=dtype, scale=d**-0.5) for s in (slab, bias, slab, bias, slab, bias, slab, (d,))
    ]
    exact = [t.double() for t in weights]
    capacity, device = tokens + 3, _device()
    cache = [torch.full((batch, heads, capacity, width), float("nan"), dtype=dtype, device=device) for _ in range(2)]
    full = [torch.zeros(batch, heads, capacity, width, dtype=torch.float64, device=device) for _ in range(2)]
    inputs = torch.zeros(batch, capacity, d, dtype=dtype, device=device)
    filled = torch.zeros(heads, dtype=torch.int64, device=device)
    found, expected = [], []
    for t in range(tokens):
        x = _draw(generator, batch, d, dtype=dtype)
        chosen = torch.cat([torch.randperm(heads, generator=generator)[:kept], torch.tensor([-1])]).to(device)
        found.append(_heads(x, *weights, *cache, t, chosen, inputs, filled, backend="triton"))
        _heads(x.double(), *exact, *full, t, torch.arange(heads, device=device), backend="reference")
        expected.append(_heads(x.double(), *exact, *full, t, chosen, backend="reference"))
    one, other = torch.stack(found), torch.stack(expected)
    _close(one, other, other * 4, dtype, "gather_heads")


def check_predictor(
    dtype: torch.dtype, batch: int, d: int, rank: int, out: int, k: int, threshold: float | None, relu: bool, reduce: str
) -> None:
    """The chosen units score no less than those left out, up to rounding; with tied whole numbers exactly the reference."""
    generator = torch.Generator().manual_seed(d + rank + out)
    activation = "relu" if relu else "identity"
    x, a, b = (_draw(generator, *s, dtype=dtype, scale=0.3) for s in ((batch, d), (rank, d), (out, rank)))
    index = predict_topk(x, a, b, k, threshold, activation, reduce, backend="triton")
    score = reference.scores(x.double(), a.double(), b.double(), activation, reduce)
    size = reference.scores(x.double().abs(), a.double().abs(), b.double().abs(), activation, reduce)
    slack = 10 * TOLERANCE[dtype] * float(size.max())
    chosen = index[index >= 0]
    if not torch.equal(chosen, chosen.unique()) or len(index) != k or bool((index[len(chosen) :] >= 0).any()):
        raise AssertionError("predict_topk: indices are not ascending and padded at the end")
    rest = torch.ones(out, dtype=torch.bool, device=score.device)
    rest[chosen] = False
    if threshold is None and len(chosen) != k:
        raise AssertionError(f"predict_topk: {len(chosen)} units instead of {k}")
    if threshold is not None and len(chosen) < k and bool((rest & (score > threshold + slack)).any()):
        raise AssertionError("predict_topk: a unit above the threshold is missing")
    if len(chosen) and bool(rest.any()) and len(chosen) == k and score[chosen].min() < score[rest].max() - slack:
        raise AssertionError("predict_topk: a better unit was left out")
    tied = torch.randint(-3, 4, (out, 1), generator=generator).to(dtype).to(_device())
    one = torch.ones(1, 1, dtype=dtype, device=_device())
    for limit in (threshold, None if threshold is not None else 0.5):
        for count in (k, min(k + 1, out)):
            expected = predict_topk(one, one, tied, count, limit, backend="reference")
            if not torch.equal(predict_topk(one, one, tied, count, limit, backend="triton"), expected):
                raise AssertionError("predict_topk: of tied scores others than the first were taken")


def check_graph() -> None:
    """A captured graph of all three operations gives what the reference gives for new inputs and a new length."""
    if INTERPRETED:
        return
    generator, dtype, d, f, heads, width = torch.Generator().manual_seed(0), torch.bfloat16, 1000, 3000, 6, 64
    x = _draw(generator, 1, d, dtype=dtype)
    mlp = [_draw(generator, *s, dtype=dtype, scale=d**-0.25) for s in ((f, d), (f,), (f, d), (d,))]
    slab, bias = (heads, width, d), (heads, width)
    attention = [_draw(generator, *s, dtype=dtype, scale=d**-0.5) for s in (slab, bias, slab, bias, slab, bias, slab, (d,))]
    a, b = (_draw(generator, *s, dtype=dtype, scale=0.3) for s in ((90, d), (f, 90)))
    cache = [torch.zeros(1, heads, 70, width, dtype=dtype, device="cuda") for _ in range(2)]
    length, chosen = torch.zeros((), dtype=torch.int64, device="cuda"), torch.tensor([4, 1], device="cuda")

    def step() -> tuple[Tensor, Tensor, Tensor]:
        index = predict_topk(x, a, b, 300, backend="triton")
        return (
            _heads(x, *attention, *cache, length, chosen, backend="triton"),
            _mlp(x, *mlp, index, backend="triton"), index,
        )  # fmt: skip

    step()
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        found = step()
    exact_cache = [c.double() for c in cache]
    for t in range(66):
        x.copy_(_draw(generator, 1, d, dtype=dtype))
        length.fill_(t)
        graph.replay()
        exact = [v.double() for v in attention]
        expected = _heads(x.double(), *exact, *exact_cache, t, chosen, backend="reference")
    _close(found[0], expected, expected * 4, dtype, "gather_heads in a graph")
    weights = [v.double() for v in mlp]
    expected = _mlp(x.double(), *weights, found[2], backend="reference")
    size = _mlp(x.double().abs(), *(v.abs() for v in weights), found[2], backend="reference")
    _close(found[1], expected, size, dtype, "gather_mlp in a graph")


Check = tuple[str, Callable[..., None], tuple[object, ...]]


def _checks() -> list[Check]:
    half, single = (torch.bfloat16, torch.float32) if INTERPRETED else (torch.float16, torch.float32)
    return [
        ("mlp, one token", check_mlp, (single, 1, 200, 300, 61, "relu", None)),
        ("mlp, batch of 3, GELU", check_mlp, (half, 3, 129, 70, 90, "gelu", None)),
        ("mlp, batch of 8", check_mlp, (torch.bfloat16, 8, 256, 64, 33, "identity", None)),
        ("mlp, threshold", check_mlp, (single, 1, 96, 200, 200, "relu", 0.4)),
        ("mlp, threshold, batch of 2", check_mlp, (half, 2, 96, 100, 50, "relu", 0.3)),
        ("mlp, nothing chosen", check_mlp, (single, 2, 40, 30, 0, "relu", None)),
        ("heads, one token at a time", check_heads, (single, 1, 5, 16, 70, 2, 9)),
        ("heads, batch of 3, odd width", check_heads, (half, 3, 4, 12, 50, 1, 7)),
        ("heads, none chosen", check_heads, (single, 1, 3, 8, 32, 0, 2)),
        ("predictor", check_predictor, (single, 1, 150, 30, 500, 77, None, False, "sum")),
        ("predictor, threshold, ReLU, batch of 3", check_predictor, (half, 3, 64, 20, 300, 200, 1.0, True, "sum")),
        ("predictor, largest of a batch", check_predictor, (torch.bfloat16, 4, 64, 17, 130, 1, None, False, "max")),
        ("all in a graph", check_graph, ()),
    ]


CHECKS = _checks()
_BIG: list[Check] = [  # only on a GPU: the papers' widths
    ("mlp at 175B width", check_mlp, (torch.float16, 1, 12288, 4000, 1500, "relu", None)),
    ("heads at 175B width", check_heads, (torch.bfloat16, 1, 4, 128, 12288, 2, 70)),
    ("predictor at 175B width", check_predictor, (torch.float16, 1, 12288, 1000, 49152, 4864, None, False, "sum")),
]


def main() -> int:
    """Run every check; 0 when all hold, 1 when one does not, 2 without a GPU."""
    if not INTERPRETED and not torch.cuda.is_available():
        print("no GPU here; TRITON_INTERPRET=1 runs the checks on the CPU, slowly")
        return 2
    failed, began = 0, time.monotonic()
    for name, check, arguments in CHECKS + ([] if INTERPRETED else _BIG):
        try:
            check(*arguments)
            said = "agrees"
        except Exception:
            failed += 1
            said = "FAILED\n" + traceback.format_exc()
        print(f"{name}: {said}", flush=True)
    print(f"{failed} failed, {time.monotonic() - began:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
