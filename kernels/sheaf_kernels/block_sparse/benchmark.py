"""How fast a block-sparse layer is against the best dense one: oneDNN, MKL, OpenBLAS and this kernel with every block kept.

Seconds are CPU seconds of one thread, all arms in turn in one run. A dense layer is three matrix products (output, input
gradient, weight gradient) with nothing else around them; ours is the whole operator, packing and reduction included.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from scipy.linalg import blas
from threadpoolctl import threadpool_limits
from torch import Tensor

from sheaf_kernels.bench import benchmark, one_core, table

from . import compiled
from .layout import Layout, from_dense, to_dense

__all__ = ["Arm", "alternate", "check", "dense_arms", "efficiency", "layer", "peak", "regular_layout", "sparse_arm"]

Arm = tuple[Callable[[], object], Callable[[], object]]  # forward, backward
SHAPES = ((512, 2048), (2048, 512), (768, 3072), (3072, 768), (768, 768))


def regular_layout(out: int, in_: int, block: int, density: float, seed: int = 0) -> Layout:
    """Random blocks, equally many in every block row, as a flat butterfly has."""
    random = torch.Generator().manual_seed(seed)
    rows, columns = out // block, in_ // block
    kept = max(1, round(density * columns))
    mask = torch.zeros(rows, columns, dtype=torch.bool)
    for row in mask:
        row[torch.randperm(columns, generator=random)[:kept]] = True
    return Layout(mask, block)


def alternate(arms: dict[str, Callable[[], object]], rounds: int) -> list[dict[str, float]]:
    """CPU seconds of this thread for every arm, in turn, each round starting with another arm; a first round is dropped."""
    names, kept = list(arms), []
    for turn in range(rounds + 1):
        row = {}
        for k in range(len(names)):
            name = names[(turn + k) % len(names)]
            began = time.thread_time()
            arms[name]()
            row[name] = time.thread_time() - began
        if turn:
            kept.append(row)
    return kept


def _onednn(x: Tensor, matrix: Tensor, dy: Tensor) -> Arm:
    """oneDNN in float32, on tensors already in its own format, transposes included: its best case."""
    x_, w_, dy_ = x.to_mkldnn(), matrix.to_mkldnn(), dy.to_mkldnn()
    w_t, dy_t, x_t = (t.T.contiguous().to_mkldnn() for t in (matrix, dy, x))
    linear = torch.ops.aten.mkldnn_linear
    return lambda: linear(x_, w_), lambda: (linear(dy_, w_t), linear(dy_t, x_t))


def _openblas(x: Tensor, matrix: Tensor, dy: Tensor) -> Arm:
    a, w, d = x.numpy(), matrix.numpy(), dy.numpy()
    return (
        lambda: blas.sgemm(1.0, w.T, a.T, trans_a=1),
        lambda: (blas.sgemm(1.0, w.T, d.T), blas.sgemm(1.0, a.T, d.T, trans_b=1)),
    )


def dense_arms(x: Tensor, matrix: Tensor, dy: Tensor, block: int = 32) -> dict[str, Arm]:
    """Every dense layer there is here: x [T, in], matrix [out, in], dy [T, out], all float32 or all bfloat16."""
    arms: dict[str, Arm] = {"torch": (lambda: F.linear(x, matrix), lambda: (dy @ matrix, dy.T @ x))}
    if x.dtype == torch.float32:
        arms["OpenBLAS"] = _openblas(x, matrix, dy)
        if torch.backends.mkldnn.is_available():
            arms["oneDNN"] = _onednn(x, matrix, dy)
    full = Layout(torch.ones(matrix.shape[0] // block, matrix.shape[1] // block, dtype=torch.bool), block)
    arms["own, all blocks"] = sparse_arm(x, from_dense(matrix, full).contiguous(), full, dy)
    return arms


def sparse_arm(
    x: Tensor, weight: Tensor, layout: Layout, dy: Tensor, u: Tensor | None = None, v: Tensor | None = None
) -> Arm:
    """The compiled kernel; the backward pass starts from the z = x v that the forward pass of training keeps.

    Raises:
        RuntimeError: the kernel is not built.
    """
    if not compiled():
        raise RuntimeError("the block_sparse kernel is not built; run `make kernels`")
    forward, backward = torch.ops.sheaf.block_sparse_forward, torch.ops.sheaf.block_sparse_backward
    z = x.new_empty(len(x), 0) if v is None else x @ v
    return (
        lambda: forward(x, weight, layout.mask, None, u, v),
        lambda: backward(dy, x, z, weight, layout.mask, u, v, True),
    )


def check(arm: Arm, x: Tensor, matrix: Tensor, dy: Tensor, layout: Layout) -> None:
    """Raises RuntimeError when a sparse arm without low rank does not give what the dense matrix gives."""
    results: Any = (arm[0](), arm[1]())
    y, dx, dw = results[0][0], results[1][0], results[1][1]
    tolerance = 2e-2 if x.dtype == torch.bfloat16 else 1e-4
    wanted = (x.float() @ matrix.float().T, dy.float() @ matrix.float(), from_dense(dy.float().T @ x.float(), layout))
    for found, right in zip((y, dx, dw), wanted, strict=True):
        if not (found.float() - right).norm() <= tolerance * right.norm():
            raise RuntimeError("the block-sparse layer and the dense one give different results; nothing was timed")


def layer(
    in_: int,
    out: int,
    layout: Layout,
    *,
    tokens: int = 1568,
    dtype: torch.dtype = torch.float32,
    rank: int = 0,
    rounds: int = 9,
    seed: int = 0,
    dense: bool = True,
) -> list[dict[str, float | str | int]]:
    """CPU seconds of one layer by every dense arm and by the block-sparse kernel.

    Args:
        in_, out: widths; the layout's.
        layout: kept blocks.
        tokens: rows of the activations.
        rank: of the low-rank term of the arm "block sparse + low rank", added when positive.
        rounds: kept rounds.
        dense: also time the dense arms.

    Returns:
        One dict per round and arm: arm, round, forward_s, backward_s.

    Raises:
        RuntimeError: the kernel is not built, or its result is wrong.
    """
    random = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random).to(dtype)

    x, dy, matrix = draw(tokens, in_), draw(tokens, out), draw(out, in_)
    weight = from_dense(matrix, layout).contiguous()
    arms: dict[str, Arm] = {"block sparse": sparse_arm(x, weight, layout, dy)}
    with one_core(), threadpool_limits(1):
        check(arms["block sparse"], x, to_dense(weight, layout), dy, layout)
        if rank:
            arms["block sparse + low rank"] = sparse_arm(x, weight, layout, dy, draw(out, rank), draw(in_, rank))
        if dense:
            arms |= dense_arms(x, matrix, dy)
        forward = alternate({name: arm[0] for name, arm in arms.items()}, rounds)
        backward = alternate({name: arm[1] for name, arm in arms.items()}, rounds)
    return [
        {"arm": name, "round": i, "forward_s": forward[i][name], "backward_s": backward[i][name]}
        for i in range(rounds) for name in arms
    ]  # fmt: skip


def efficiency(samples: Sequence[dict[str, float | str | int]], density: float, what: str = "both") -> list[float]:
    """Speed-up over the best dense arm times density, one value per round; 1 is what the operations alone allow.

    The best dense arm is the one with the smallest median, forward and backward each on its own, and every round of ours is
    divided into the same round of it. ``what``: "forward" or "both".
    """
    passes = ("forward_s",) if what == "forward" else ("forward_s", "backward_s")
    rounds = range(1 + max(int(s["round"]) for s in samples))
    at = {(str(s["arm"]), int(s["round"])): s for s in samples}
    rivals = {str(s["arm"]) for s in samples} - {"block sparse", "block sparse + low rank"}
    best = {p: min(rivals, key=lambda a, p=p: statistics.median(float(at[a, r][p]) for r in rounds)) for p in passes}  # type: ignore[misc]
    return [
        density * sum(float(at[best[p], r][p]) for p in passes) / sum(float(at["block sparse", r][p]) for p in passes)
        for r in rounds
    ]


def peak(dtype: torch.dtype = torch.float32, rounds: int = 5, size: int = 768) -> float:
    """Operations per second that the best dense arm reaches here on one core: the limit beside every figure."""
    random = torch.Generator().manual_seed(0)
    x, w, dy = (torch.randn(size, size, generator=random).to(dtype) for _ in range(3))
    with one_core(), threadpool_limits(1):
        arms = {name: arm[0] for name, arm in dense_arms(x, w, dy).items()}
        best = min(min(row[name] for row in alternate(arms, rounds)) for name in arms)
    return 2.0 * size**3 / best


def _report(block: int, density: float, dtype: torch.dtype, rounds: int, rank: int = 0) -> str:
    rows = []
    for in_, out in SHAPES:
        layout = regular_layout(out, in_, block, density)
        samples = layer(in_, out, layout, dtype=dtype, rounds=rounds, rank=rank)
        time_of: dict[str, float] = {
            str(s["arm"]): statistics.median(
                float(r["forward_s"]) + float(r["backward_s"]) for r in samples if r["arm"] == s["arm"]
            ) for s in samples
        }  # fmt: skip
        ours = time_of.pop("block sparse")
        low = time_of.pop("block sparse + low rank", None)
        name = min(time_of, key=lambda a: time_of[a])
        found = efficiency(samples, layout.density)
        share = "" if low is None else f"{(low / ours - 1) / (rank * (in_ + out) / (layout.nnz * block * block)):.2f}"
        rows.append((
            f"{in_} -> {out}", f"{layout.density:.3f}", f"{1e3 * ours:.2f}", f"{1e3 * time_of[name]:.2f}", name,
            f"{3 * 2e-9 * 1568 * in_ * out * layout.density / ours:.0f}", f"{statistics.median(found) / layout.density:.2f}",
            f"{statistics.median(found):.2f} [{min(found):.2f}, {max(found):.2f}]", share,
        ))  # fmt: skip
    header = (
        "layer", "density", "ours ms", "best dense ms", "best dense", "Gop/s", "speed-up", "x density", "low rank",
    )  # fmt: skip
    keep = len(header) if rank else len(header) - 1
    return (
        f"1568 tokens, forward and backward, one core; the best dense reaches {peak(dtype) / 1e9:.0f} Gop/s\n"
        + table(header[:keep], [r[:keep] for r in rows])
    )


@benchmark("block_sparse/float32-b32-quarter")
def b32_quarter(rounds: int = 9) -> str:
    """Blocks of 32 at a quarter, with the cost of rank 32 in the same pass."""
    return _report(32, 0.25, torch.float32, rounds, rank=32)


@benchmark("block_sparse/float32-b32-half")
def b32_half(rounds: int = 9) -> str:
    """Blocks of 32 at a half."""
    return _report(32, 0.5, torch.float32, rounds)


@benchmark("block_sparse/float32-b16-quarter")
def b16_quarter(rounds: int = 9) -> str:
    """Blocks of 16 at a quarter."""
    return _report(16, 0.25, torch.float32, rounds)


@benchmark("block_sparse/bfloat16-b32-quarter")
def bfloat16_quarter(rounds: int = 9) -> str:
    """bfloat16, blocks of 32 at a quarter."""
    return _report(32, 0.25, torch.bfloat16, rounds)
