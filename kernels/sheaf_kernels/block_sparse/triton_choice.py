"""Which program and which tile shape a product of a layer takes on a GPU: candidates, a rule that ranks them, and timing.

Three forms compete (`triton_kernels.py`, `triton_groups.py`):
    tiled     weights and columns are read step by step; takes any layout
    resident  a program keeps all weights of its rows in shared memory and streams tokens past them: activations are the only
              traffic. For 16-bit layers whose rows read few columns, as the widening layers of a butterfly do.
    groups    closed groups of the layout as dense products of cuBLAS
The rule scores tiled and resident shapes by their operations and their traffic, padding included; on a GPU the best few of each
form are timed at the first call with a shape, with the bias and the low-rank term of that call. SHEAF_TRITON_TUNE=0 keeps the
rule's choice among tiled shapes, and with it the order of sums across processes.
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
from .triton_groups import groups
from .triton_tiles import Tiles, granule, tiles

__all__ = ["DTYPES", "GROUPS", "INTERPRETED", "Config", "candidates", "choices", "choose", "cut", "precision", "resident"]

INTERPRETED = not isinstance(kernels.dds, triton.JITFunction)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# Operations that a processor does in the time it takes to read one byte from the L2 cache: about 700 (16-bit), 350 (TF32) and
# 60 (float32) TFLOP/s against 5.5 TB/s on an H100 or H200. Only orders candidates.
_BALANCE = {"half": 127.0, "tf32": 64.0, "ieee": 11.0}
_TIMED = 3  # candidates of each form
_MOST_STEPS = 8  # of columns that a resident program unrolls
_SHARED = 227 * 1024  # bytes of shared memory that programs of one processor of an H100 or H200 share
_REGISTERS = 200  # of a thread of a resident program that may hold sums and the next tokens


@dataclass(frozen=True)
class Config:
    """Shape of a program: m tokens (per step of the sum in `sdd`), n + n2 rows of a tile, k columns read at once.

    ``form`` is "tiled", "resident" or "groups"; n2 is for resident programs, whose rows need not be a power of two.
    """

    m: int
    n: int
    k: int
    warps: int
    stages: int
    form: str = "tiled"
    n2: int = 0

    @property
    def height(self) -> int:
        """Rows of a tile."""
        return self.n + self.n2

    def bytes(self, itemsize: int, over_tokens: bool, steps: int = 0) -> int:
        """Shared memory of the operands in flight; the indices of columns take every other stage of `dds`.

        Args:
            steps: of columns, the low-rank term's included, that a resident program keeps.
        """
        if self.form == "groups":
            return 0
        if self.form == "resident":
            return steps * self.k * (self.height + self.m) * itemsize
        if over_tokens:
            return self.m * (self.n + self.k) * self.stages * itemsize
        return self.k * (self.m + self.n) * ((self.stages + 1) // 2) * itemsize


    def at_once(self, itemsize: int, steps: int) -> int:
        """Resident programs that a processor holds side by side: two when shared memory and registers allow."""
        small = self.bytes(itemsize, False, steps) <= _SHARED // 2 and self.warps * self.height <= 1024
        return 2 if small else 1


GROUPS = Config(0, 0, 0, 0, 0, "groups")
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
_RESIDENT_ROWS = ((256, 0), (128, 64), (128, 16), (128, 0), (64, 32), (64, 0), (32, 16), (32, 0))
_RESIDENT_TOKENS = ((64, 4), (128, 8))  # m, warps: a warp holds the sums of 16 tokens


def precision(dtype: torch.dtype) -> str:
    """Triton's name for how products of this dtype are to be made, after torch's own setting."""
    if dtype != torch.float32:
        return "ieee"  # without meaning for 16-bit products
    return "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "ieee"


def cut(layout: Layout, config: Config, transposed: bool, device: torch.device | None = None) -> Tiles:
    """The tiles of a layout for programs of this shape."""
    edge = granule(layout.block, min(config.n2 or config.n, config.n, config.k, 64))
    return tiles(layout, transposed, edge, config.height // edge, config.k // edge, device or torch.device("cpu"))


def candidates(layout: Layout, dtype: torch.dtype, what: str) -> list[tuple[Config, bool]]:
    """Tiled shapes for one of the three products, best first by the rule, with whether rows of tiles are block columns.

    Args:
        what: "forward", "input gradient" or "weight gradient".

    Raises:
        ValueError: another product, or a layout or dtype that this backend does not take.
    """
    if what not in ("forward", "input gradient", "weight gradient"):
        raise ValueError(f"{what!r} is no product of a layer; use 'forward', 'input gradient' or 'weight gradient'")
    if dtype not in DTYPES:
        raise ValueError(
            f"the Triton kernel takes float32, bfloat16 and float16; got {dtype}, use backend='reference' for it"
        )
    granule(layout.block, 16)
    over_tokens = what == "weight gradient"
    single = dtype == torch.float32
    table = (_SDD_SINGLE if single else _SDD_HALF) if over_tokens else (_DDS_SINGLE if single else _DDS_HALF)
    orientations = (False, True) if over_tokens else (what == "input gradient",)
    both = [(config, transposed) for config in table for transposed in orientations]
    balance = _BALANCE[precision(dtype) if single else "half"]
    return sorted(both, key=lambda c: _score(cut(layout, *c), c[0], dtype.itemsize, balance, over_tokens))


def resident(layout: Layout, dtype: torch.dtype, what: str, rank: int = 0) -> list[tuple[Config, bool]]:
    """Resident shapes for "forward" or "input gradient", best first by the rule; none for what cannot be resident.

    Every tile has to read the same number of columns, few enough to unroll, and its weights have to fit beside the tokens in
    flight.
    """
    if dtype == torch.float32 or what not in ("forward", "input gradient"):
        return []
    transposed = what == "input gradient"
    found = []
    for n, n2 in _RESIDENT_ROWS:
        config = Config(64, n, 64, 4, 1, "resident", n2)
        whole = layout.in_features if transposed else layout.out_features
        if config.height > whole or config.height % granule(layout.block, min(n2 or n, 64)):
            continue
        t = cut(layout, config, transposed)
        counts = t.starts.diff()
        steps = int(counts[0]) * t.granule // config.k
        if not steps or int(counts.min()) != int(counts.max()) or steps + -(-rank // config.k) > _MOST_STEPS:
            continue
        traffic = t.entries * t.granule * max(2 * config.height / _BALANCE["half"], dtype.itemsize)
        steps += -(-rank // config.k)
        if config.height // 2 + 16 * steps > _REGISTERS:
            continue
        for order, (m, warps) in enumerate(_RESIDENT_TOKENS):
            shape = Config(m, n, 64, warps, 1, "resident", n2)
            if shape.bytes(dtype.itemsize, False, steps) <= _SHARED:
                found.append((traffic, order, shape))
    return [(shape, transposed) for _, _, shape in sorted(found, key=lambda f: f[:2])]


def _score(t: Tiles, config: Config, itemsize: int, balance: float, over_tokens: bool) -> float:
    """Time per token, in bytes of L2 traffic: the slower of arithmetic and reading."""
    columns = t.entries * t.granule
    if over_tokens:
        reads = (1 + config.n / config.k) * itemsize
    else:
        reads = (1 + config.n / config.m) * itemsize
    return columns * max(2 * config.n / balance, reads)


_choices: dict[tuple[Any, ...], tuple[Config, bool]] = {}


def choose(
    what: str, layout: Layout, x: Tensor, bias: bool, rank: int, run: Callable[[Config, bool], None]
) -> tuple[Config, bool]:
    """The form and shape for this product: the rule's first that fits the device, or the fastest of the first few of each form.

    Args:
        bias: whether this call adds one.
        rank: of this call's low-rank term.
        run: makes the product with a shape.
    """
    over_tokens = what == "weight gradient"
    key = (what, layout, x.dtype, precision(x.dtype), bias, rank, (len(x) - 1).bit_length(), x.device)
    if key in _choices:
        return _choices[key]
    ranked = candidates(layout, x.dtype, what)
    if INTERPRETED:
        return ranked[0]
    room = getattr(torch.cuda.get_device_properties(x.device), "shared_memory_per_block_optin", 99 * 1024)
    ranked = [c for c in ranked if c[0].bytes(x.dtype.itemsize, over_tokens) <= room] or ranked[-1:]
    if os.environ.get("SHEAF_TRITON_TUNE", "1") == "0" or torch.cuda.is_current_stream_capturing():
        return ranked[0]
    timed = ranked[:_TIMED] + resident(layout, x.dtype, what, rank)[:_TIMED]
    if groups(layout) is not None:
        timed.append((GROUPS, what == "input gradient"))
    with on_device(x):
        _choices[key] = _fastest(timed, run)
    return _choices[key]


def choices() -> list[dict[str, Any]]:
    """What was timed and taken in this process: product, widths, dtype, bias, rank, at most so many tokens, and the shape."""
    return [
        {"what": what, "out": layout.out_features, "in": layout.in_features, "dtype": str(dtype).removeprefix("torch."),
         "bias": bias, "rank": rank, "tokens": 2**bits, "form": config.form, "tile": f"{config.m} x {config.height} x {config.k}"}
        for (what, layout, dtype, _, bias, rank, bits, _), (config, _) in _choices.items()
    ]  # fmt: skip


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


@lru_cache
def processors(device: torch.device) -> int:
    """Multiprocessors of a GPU; a few under the interpreter, which makes sums over tokens split there too."""
    return 4 if INTERPRETED else torch.cuda.get_device_properties(device).multi_processor_count


def on_device(x: Tensor) -> torch.cuda.device:
    """Triton launches on the current device; -1 changes nothing."""
    return torch.cuda.device(x.device if x.is_cuda else -1)
