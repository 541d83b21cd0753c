"""The Triton step on a GPU: milliseconds and bandwidth by shape, beside the memory's own limit, all arms in turn.

A step must read and write the state once: 16 m bytes a channel and sequence, m complex modes in float32. Everything else (inputs,
outputs, parameters, which are shared by the batch) is counted too. The limit is what a copy of 1 GB reaches on the same device.
"""

import statistics
from collections.abc import Callable

import torch

from . import reference
from .modes import Modes

__all__ = ["SHAPES", "copy_gbytes_s", "interleaved", "measure", "random_modes", "step_bytes"]

# channels, modes, batch: one layer of the 1.3B model at orders 16 and 64, and states well beyond any cache
SHAPES = ((2048, 8, 1), (2048, 8, 64), (2048, 8, 1024), (2048, 32, 1024), (2048, 8, 8192))
_FLUSH = 2**28  # bytes, more than any cache


def random_modes(channels: int, order: int, device: torch.device | str, repeat: int = 1, seed: int = 0) -> Modes:
    """Stable modes of random angle and decay."""
    g = torch.Generator().manual_seed(seed)
    poles = torch.polar(
        0.5 + 0.499 * torch.rand(channels, order, generator=g), 3.1 * torch.rand(channels, order, generator=g)
    )
    residues = torch.complex(*torch.randn(2, channels, order, generator=g).unbind(0)) / order
    return Modes.pack(poles, residues, torch.randn(channels, generator=g), repeat).to(device)


def step_bytes(channels: int, order: int, batch: int, itemsize: int) -> int:
    """Bytes that a step must move: state twice, parameters and feed-through once, input and output."""
    return 4 * (4 * order * channels * batch + 4 * order * channels + channels) + 2 * itemsize * channels * batch


def interleaved(calls: dict[str, Callable[[], object]], rounds: int, flush: bool = True) -> list[dict[str, float]]:
    """Milliseconds on the device for every call, in turn, each round starting with another; two first rounds are dropped.

    Raises:
        RuntimeError: there is no CUDA device.
    """
    if not torch.cuda.is_available():
        raise RuntimeError("this benchmark needs a CUDA GPU and a torch built for it; there is none here")
    empty = torch.empty(_FLUSH if flush else 4, dtype=torch.uint8, device="cuda")
    names, kept = list(calls), []
    for turn in range(rounds + 2):
        row = {}
        for k in range(len(names)):
            name = names[(turn + k) % len(names)]
            began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            empty.zero_()
            torch.cuda._sleep(200_000)  # lets the host queue the call: slow launches do not count
            began.record()
            calls[name]()
            ended.record()
            ended.synchronize()
            row[name] = began.elapsed_time(ended)
        if turn >= 2:
            kept.append(row)
    return kept


def copy_gbytes_s(rounds: int = 10) -> float:
    """GB/s of the best copy of 1 GB, read and written.

    Raises:
        RuntimeError: there is no CUDA device.
    """
    if not torch.cuda.is_available():
        raise RuntimeError("this benchmark needs a CUDA GPU and a torch built for it; there is none here")
    a = torch.empty(2**28, device="cuda")
    b = torch.empty_like(a)
    best = min(row["copy"] for row in interleaved({"copy": lambda: b.copy_(a)}, rounds))
    return 2e-6 * a.nbytes / best


def measure(
    channels: int, order: int, batch: int, rounds: int, limit: float, dtype: torch.dtype = torch.bfloat16
) -> list[dict[str, float | int | str]]:
    """A step by this kernel and, where its copies of the state fit, by torch's complex arithmetic.

    Args:
        limit: GB/s of the device, as ``copy_gbytes_s`` gives them.

    Returns:
        A dict per arm and round: channels, order (real, 2 m), batch, arm, round, ms, gbytes_s, share (of the limit).

    Raises:
        RuntimeError: there is no CUDA device, or Triton is not installed.
    """
    from . import modal_step

    modes = random_modes(channels, order, "cuda")
    state, z = modes.new_state(batch), torch.randn(batch, channels, device="cuda", dtype=dtype)
    calls: dict[str, Callable[[], object]] = {"fused": lambda: modal_step(state, z, modes, "triton")}
    if state.nbytes <= 2**31:
        other, parameters = modes.to_complex(state), modes.expanded()
        calls["torch, complex"] = lambda: reference.step(other, z.float(), *parameters)
    moved = step_bytes(channels, order, batch, z.element_size())
    rows: list[dict[str, float | int | str]] = []
    for turn, taken in enumerate(interleaved(calls, rounds)):
        for arm, ms in taken.items():
            speed = 1e-6 * moved / ms
            rows.append({"channels": channels, "order": 2 * order, "batch": batch, "arm": arm, "round": turn, "ms": ms,
                         "gbytes_s": speed, "share": speed / limit})  # fmt: skip
    return rows


def median_share(rows: list[dict[str, float | int | str]], arm: str = "fused") -> float:
    """Median share of the limit that an arm reaches."""
    return statistics.median(float(r["share"]) for r in rows if r["arm"] == arm)
