"""block_sparse on a GPU, by Triton: forward, input gradient and weight gradient, each tiled by groups of block rows.

    forward      z = x v;   y  = x W^T + z u^T + bias      `dds` on the layout, the low-rank term in the same sum
    backward     g = dy u;  dx = dy W  + g v^T             `dds` on the transposed layout
                 dW = dy^T x on the layout                 `sdd`, tokens split and added up in a fixed order
                 du = dy^T z,  dv = x^T g                  dense products (cuBLAS), as are z and g
The programs are in `triton_kernels.py`, the cut of a layout into tiles in `triton_tiles.py`. z is a product of its own: every
tile needs all of it, and x v reads all of x where a tile reads only some columns.

float32, bfloat16 and float16, sums in float32. Operands in float32 are multiplied as such, not as TF32, unless torch may use
TF32 for its own products (``torch.backends.cuda.matmul.fp32_precision = "tf32"`` or ``allow_tf32 = True``; off by default).

Tile shapes: a rule scores every candidate by its operations and its traffic, padding included; on a GPU the best few are timed
at the first call with a shape. SHEAF_TRITON_TUNE=0 keeps the rule's choice, and with it the order of sums across processes:
within one process equal calls give equal bits either way. With TRITON_INTERPRET=1 in the environment before Triton is imported
everything runs on CPU tensors, slowly, by the rule's choice.
"""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import triton
from torch import Tensor
from triton.runtime.errors import OutOfResources, PTXASError
from triton.testing import do_bench

from . import triton_kernels as kernels
from .layout import Layout
from .triton_tiles import Tiles, granule, tiles

__all__ = ["Config", "backward", "candidates", "forward", "linear", "supports"]

INTERPRETED = not isinstance(kernels.dds, triton.JITFunction)
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# Operations that a processor does in the time it takes to read one byte from the L2 cache: about 700 (16-bit), 350 (TF32) and
# 60 (float32) TFLOP/s against 5.5 TB/s on an H100 or H200. Only orders candidates.
_BALANCE = {"half": 127.0, "tf32": 64.0, "ieee": 11.0}
_TIMED = 6  # candidates
_INTERPRETED_PROCESSORS = 4  # makes sums over tokens split there too


@dataclass(frozen=True)
class Config:
    """Shape of a program: m tokens (per step of the sum in `sdd`), n rows of a tile, k columns read at once."""

    m: int
    n: int
    k: int
    warps: int
    stages: int

    def bytes(self, itemsize: int, over_tokens: bool) -> int:
        """Shared memory of the operands in flight; the indices of columns take every other stage of `dds`."""
        if over_tokens:
            return self.m * (self.n + self.k) * self.stages * itemsize
        return self.k * (self.m + self.n) * ((self.stages + 1) // 2) * itemsize


_DDS_HALF = tuple(
    Config(*c) for c in (
        (128, 256, 64, 8, 5), (256, 128, 64, 8, 5), (128, 128, 64, 8, 5), (128, 128, 64, 4, 3), (256, 64, 64, 8, 5),
        (128, 64, 64, 4, 5), (256, 32, 64, 8, 5), (128, 32, 64, 4, 5), (128, 16, 64, 4, 5),
    )
)  # fmt: skip
_DDS_SINGLE = tuple(
    Config(*c) for c in ((128, 128, 32, 8, 3), (128, 64, 32, 4, 3), (64, 64, 32, 4, 3), (64, 32, 32, 4, 3), (64, 16, 32, 4, 3))
)
_SDD_HALF = tuple(
    Config(*c) for c in (
        (64, 128, 128, 8, 4), (64, 128, 64, 4, 4), (64, 64, 128, 4, 4), (64, 64, 64, 4, 4), (64, 64, 32, 4, 4),
        (64, 32, 64, 4, 4), (64, 32, 32, 4, 4), (64, 16, 16, 4, 4),
    )
)  # fmt: skip
_SDD_SINGLE = tuple(
    Config(*c) for c in ((32, 128, 64, 8, 3), (32, 64, 64, 4, 3), (32, 64, 32, 4, 3), (32, 32, 32, 4, 3), (32, 16, 16, 4, 3))
)


def supports(layout: Layout, dtype: torch.dtype) -> bool:
    """Whether this backend takes such a layer."""
    return dtype in _DTYPES and layout.block % 16 == 0


def candidates(layout: Layout, dtype: torch.dtype, what: str) -> list[tuple[Config, bool]]:
    """Tile shapes for one of the three products, best first by the rule, with whether rows of tiles are block columns.

    Args:
        what: "forward", "input gradient" or "weight gradient".

    Raises:
        ValueError: another product, or a layout or dtype that this backend does not take.
    """
    if what not in ("forward", "input gradient", "weight gradient"):
        raise ValueError(f"{what!r} is no product of a layer; use 'forward', 'input gradient' or 'weight gradient'")
    if dtype not in _DTYPES:
        raise ValueError(
            f"the Triton kernel takes float32, bfloat16 and float16; got {dtype}, use backend='reference' for it"
        )
    granule(layout.block, 16)
    over_tokens = what == "weight gradient"
    single = dtype == torch.float32
    table = (_SDD_SINGLE if single else _SDD_HALF) if over_tokens else (_DDS_SINGLE if single else _DDS_HALF)
    orientations = (False, True) if over_tokens else (what == "input gradient",)
    both = [(config, transposed) for config in table for transposed in orientations]
    balance = _BALANCE[_precision(dtype) if single else "half"]
    return sorted(both, key=lambda c: _score(_tiles(layout, *c), c[0], dtype.itemsize, balance, over_tokens))


def forward(
    x: Tensor, weight: Tensor, layout: Layout, bias: Tensor | None = None, u: Tensor | None = None, v: Tensor | None = None,
    *, config: Config | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """y [T, out] = x W^T + (x v) u^T + bias, and z = x v [T, r] for the backward pass, [T, 0] without low rank.

    Args:
        x: [T, in]; any strides.
        weight: [nnz, b, b], b a multiple of 16.
        layout: which blocks exist.
        bias: [out].
        u, v: [out, r] and [in, r], both or neither.
        config: tile shape; chosen when absent.

    Raises:
        ValueError: a dtype or block that this backend does not take, or tensors on a CPU without the interpreter.
    """
    z = x.new_empty(len(x), 0) if v is None else x @ v
    return _dds(x, weight, layout, False, bias, z, u, config), z


def backward(
    dy: Tensor, x: Tensor, z: Tensor, weight: Tensor, layout: Layout, u: Tensor | None = None, v: Tensor | None = None,
    *, wants_dx: bool = True, config: Config | None = None, weight_config: tuple[Config, bool] | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients (dx, dweight, du, dv) from dy [T, out] and what ``forward`` was given and gave; empty where not wanted.

    Args:
        config, weight_config: tile shapes of the input gradient and of the weight gradient (with whether rows of tiles are
            block columns); chosen when absent.

    Raises:
        ValueError: as ``forward``.
    """
    g = dy.new_empty(len(dy), 0) if u is None else dy @ u
    dx = _dds(dy, weight, layout, True, None, g, v, config) if wants_dx else dy.new_empty(0)
    dweight = _sdd(dy, x, weight, layout, weight_config)
    if u is None:
        return dx, dweight, dy.new_empty(0), dy.new_empty(0)
    return dx, dweight, dy.T @ z, x.T @ g


def linear(
    x: Tensor, weight: Tensor, layout: Layout, bias: Tensor | None = None, u: Tensor | None = None, v: Tensor | None = None
) -> Tensor:
    """``forward``'s y with gradients for every tensor; also under ``torch.compile``.

    Raises:
        ValueError: as ``forward``.
    """
    return _forward_op(x, weight, layout.mask, bias, u, v)[0]


def _dds(
    x: Tensor, weight: Tensor, layout: Layout, transposed: bool, bias: Tensor | None, z: Tensor, u: Tensor | None,
    config: Config | None,
) -> Tensor:  # fmt: skip
    _check(x, layout)
    x, z, weight = _rows(x), _rows(z), weight.contiguous()
    u = None if u is None or not u.shape[1] else _rows(u)
    bias = None if bias is None else bias.contiguous()
    tokens = len(x)
    y = x.new_empty(tokens, layout.in_features if transposed else layout.out_features)
    if not tokens:
        return y
    rank = 0 if u is None else u.shape[1]

    def run(chosen: Config, _: bool) -> None:
        t = _tiles(layout, chosen, transposed, x.device)
        tail = triton.cdiv(rank, chosen.k) * (chosen.k // t.granule)  # granules of the low-rank term in every tile
        entries = t.entries + t.count * tail
        packed = x.new_empty(entries * t.granule, chosen.n)
        if entries:
            kernels.pack[(entries,)](
                weight, u, packed, t.source, t.starts, t.owner, t.rows,
                t.entries, rank, tail, 0 if u is None else u.stride(0), t.row_stride, t.column_stride,
                S=t.granule, BN=chosen.n, STEP=chosen.k // t.granule, LOW_RANK=rank > 0, num_warps=4,
            )  # fmt: skip
        kernels.dds[(t.count * triton.cdiv(tokens, chosen.m),)](
            x, z, packed, t.rows, t.columns, t.starts, bias, y,
            tokens, t.count, rank, tail, x.stride(0), z.stride(0), y.stride(0),
            S=t.granule, BM=chosen.m, BN=chosen.n, BK=chosen.k, HAS_BIAS=bias is not None, LOW_RANK=rank > 0,
            PRECISION=_precision(x.dtype), WIDEN=_widen(x.dtype), num_warps=chosen.warps, num_stages=chosen.stages,
        )  # fmt: skip

    if config is None:
        what = "input gradient" if transposed else "forward"
        config, _ = _chosen(what, layout, x, rank > 0, run)
    with _device(x):
        run(config, transposed)
    return y


def _sdd(dy: Tensor, x: Tensor, weight: Tensor, layout: Layout, config: tuple[Config, bool] | None) -> Tensor:
    _check(x, layout)
    dy, x = _rows(dy), _rows(x)
    tokens, precision = len(x), _precision(x.dtype)
    if not tokens or not layout.nnz:
        return torch.zeros_like(weight, memory_format=torch.contiguous_format)
    dweight = torch.empty_like(weight, memory_format=torch.contiguous_format)

    def run(chosen: Config, transposed: bool) -> None:
        t = _tiles(layout, chosen, transposed, x.device, over_tokens=True)
        left, right = (x, dy) if transposed else (dy, x)
        steps = len(t.owner)
        # about two programs per processor, but at least eight steps of the sum in each
        splits = max(1, min(triton.cdiv(2 * _processors(x.device), steps), triton.cdiv(tokens, 8 * chosen.m)))
        share = triton.cdiv(triton.cdiv(tokens, splits), chosen.m) * chosen.m
        splits = triton.cdiv(tokens, share)
        parts = dweight if splits == 1 else x.new_empty(splits, weight.numel(), dtype=torch.float32)
        kernels.sdd[(steps, splits)](
            left, right, t.rows, t.columns, t.source, t.owner, parts,
            tokens, share, left.stride(0), right.stride(0), weight.numel(), t.row_stride, t.column_stride,
            S=t.granule, BM=chosen.m, BN=chosen.n, BK=chosen.k, PRECISION=precision, WIDEN=_widen(x.dtype),
            num_warps=chosen.warps, num_stages=chosen.stages,
        )  # fmt: skip
        if splits > 1:
            dweight.view(-1).copy_(parts.sum(0))

    if config is None:
        config = _chosen("weight gradient", layout, x, False, run)
    with _device(x):
        run(*config)
    return dweight


def _tiles(
    layout: Layout, config: Config, transposed: bool, device: torch.device | None = None, over_tokens: bool = False
) -> Tiles:
    edge = granule(layout.block, min(config.n, config.k, 64))
    return tiles(layout, transposed, edge, config.n // edge, config.k // edge, device or torch.device("cpu"))


def _score(t: Tiles, config: Config, itemsize: int, balance: float, over_tokens: bool) -> float:
    """Time per token, in bytes of L2 traffic: the slower of arithmetic and reading."""
    columns = t.entries * t.granule
    if over_tokens:
        reads = (1 + config.n / config.k) * itemsize
    else:
        reads = (1 + config.n / config.m) * itemsize
    return columns * max(2 * config.n / balance, reads)


_choices: dict[tuple[Any, ...], tuple[Config, bool]] = {}


def _chosen(
    what: str, layout: Layout, x: Tensor, low_rank: bool, run: Callable[[Config, bool], None]
) -> tuple[Config, bool]:
    """The tile shape for this product: the rule's first that fits the device, or the fastest of its first few."""
    over_tokens = what == "weight gradient"
    key = (what, layout, x.dtype, _precision(x.dtype), low_rank, (len(x) - 1).bit_length(), x.device)
    if key in _choices:
        return _choices[key]
    ranked = candidates(layout, x.dtype, what)
    if INTERPRETED:
        return ranked[0]
    room = getattr(torch.cuda.get_device_properties(x.device), "shared_memory_per_block_optin", 99 * 1024)
    ranked = [c for c in ranked if c[0].bytes(x.dtype.itemsize, over_tokens) <= room] or ranked[-1:]
    if os.environ.get("SHEAF_TRITON_TUNE", "1") == "0" or torch.cuda.is_current_stream_capturing():
        return ranked[0]
    with _device(x):
        _choices[key] = _fastest(ranked[:_TIMED], run)
    return _choices[key]


def _fastest(ranked: Iterable[tuple[Config, bool]], run: Callable[[Config, bool], None]) -> tuple[Config, bool]:
    timed = []
    for config, transposed in ranked:
        try:
            milliseconds = do_bench(lambda c=config, t=transposed: run(c, t), 5, 20, return_mode="median")
        except (OutOfResources, PTXASError):  # registers or shared memory of this device
            continue
        timed.append((milliseconds, config, transposed))
    if not timed:
        raise RuntimeError("no tile shape fits this GPU; use backend='reference'")
    return min(timed, key=lambda c: c[0])[1:]


def _precision(dtype: torch.dtype) -> str:
    if dtype != torch.float32:
        return "ieee"  # without meaning for 16-bit products
    return "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "ieee"


def _widen(dtype: torch.dtype) -> bool:
    return INTERPRETED and dtype == torch.bfloat16


@lru_cache
def _processors(device: torch.device) -> int:
    return _INTERPRETED_PROCESSORS if INTERPRETED else torch.cuda.get_device_properties(device).multi_processor_count


def _device(x: Tensor) -> torch.cuda.device:
    return torch.cuda.device(x.device if x.is_cuda else -1)  # Triton launches on the current device; -1 changes nothing


def _rows(t: Tensor) -> Tensor:
    """The tensor itself when its rows are contiguous, at whatever distance."""
    return t if t.stride(-1) == 1 or not t.numel() else t.contiguous()


def _check(x: Tensor, layout: Layout) -> None:
    if not x.is_cuda and not INTERPRETED:
        raise ValueError(f"the Triton kernel runs on a GPU; got tensors on {x.device}, use another backend or move them")
    if x.dtype not in _DTYPES:
        raise ValueError(f"the Triton kernel takes float32, bfloat16 and float16; got {x.dtype}, use backend='reference'")
    granule(layout.block, 16)
    if layout.nnz * layout.block**2 >= 2**31:
        raise ValueError("the Triton kernel addresses fewer than 2^31 weights; split the layer")


@lru_cache(maxsize=512)
def _layout(mask: bytes, rows: int, columns: int, block: int) -> Layout:
    return Layout(torch.frombuffer(bytearray(mask), dtype=torch.bool).reshape(rows, columns), block)


def _layout_of(mask: Tensor, weight: Tensor) -> Layout:
    return _layout(mask.numpy().tobytes(), *mask.shape, weight.shape[1])


@torch.library.custom_op("sheaf::block_sparse_triton", mutates_args=())
def _forward_op(
    x: Tensor, weight: Tensor, mask: Tensor, bias: Tensor | None, u: Tensor | None, v: Tensor | None
) -> tuple[Tensor, Tensor]:
    return forward(x, weight, _layout_of(mask, weight), bias, u, v)


@torch.library.custom_op("sheaf::block_sparse_triton_backward", mutates_args=())
def _backward_op(
    dy: Tensor, x: Tensor, z: Tensor, weight: Tensor, mask: Tensor, u: Tensor | None, v: Tensor | None, wants_dx: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return backward(dy, x, z, weight, _layout_of(mask, weight), u, v, wants_dx=wants_dx)


@_forward_op.register_fake
def _(
    x: Tensor, weight: Tensor, mask: Tensor, bias: Tensor | None, u: Tensor | None, v: Tensor | None
) -> tuple[Tensor, Tensor]:
    y = x.new_empty(x.shape[0], mask.shape[0] * weight.shape[1])
    return y, x.new_empty(x.shape[0], 0 if v is None else v.shape[1])


@_backward_op.register_fake
def _(
    dy: Tensor, x: Tensor, z: Tensor, weight: Tensor, mask: Tensor, u: Tensor | None, v: Tensor | None, wants_dx: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dx, dw, du, dv = (
        x.new_empty(0) if t is None else x.new_empty(t.shape) for t in (x if wants_dx else None, weight, u, v)
    )
    return dx, dw, du, dv


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, weight, mask, bias, u, v = inputs
    ctx.save_for_backward(x, weight, mask, u, v, output[1])
    ctx.has_bias = bias is not None


def _gradients(ctx: Any, dy: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, mask, u, v, z = ctx.saved_tensors
    wants_dx = ctx.needs_input_grad[0]
    dx, dweight, du, dv = _backward_op(dy, x, z, weight, mask, u, v, wants_dx)
    dbias = dy.sum(0) if ctx.has_bias else None
    return dx if wants_dx else None, dweight, None, dbias, *((None, None) if u is None else (du, dv))


_forward_op.register_autograd(_gradients, setup_context=_keep)
