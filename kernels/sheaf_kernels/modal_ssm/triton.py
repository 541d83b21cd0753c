"""modal_ssm on a GPU, by Triton: the decode step, and the step of a whole Hyena mixer. The programs are in `triton_kernels.py`.

A step is bound by memory: it reads and writes 8 m bytes of state for every channel and sequence and computes 12 m operations
on them. How many sequences a program takes and on how many warps is chosen by a rule, and at the first call with a shape by
timing the best few candidates on a copy of the state. SHEAF_TRITON_TUNE=0 keeps the rule's choice; so does a call that is being
captured in a CUDA graph: call once before. With TRITON_INTERPRET=1 in the environment before Triton is imported everything runs
on CPU tensors, slowly, by the rule's choice.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from . import reference
from . import triton_kernels as kernels
from .modes import TILE, Modes

__all__ = ["Config", "candidates", "mixer_step", "step"]

INTERPRETED = not isinstance(kernels.step, triton.JITFunction)
_AIM = 2048  # numbers of state, real parts, a program should hold: 16 a thread on four warps
_TIMED = 4  # candidates
_chosen: dict[tuple[object, ...], "Config"] = {}


@dataclass(frozen=True)
class Config:
    """Sequences of a program and warps that run it."""

    sequences: int
    warps: int


def candidates(batch: int, order: int) -> list[Config]:
    """Shapes of a program for ``order`` modes and ``batch`` sequences, the rule's choice first."""
    modes = triton.next_power_of_2(order)
    most = triton.next_power_of_2(max(1, batch))
    found = []
    for aim, per_thread in ((_AIM, 16), (_AIM // 2, 16), (2 * _AIM, 16), (_AIM, 8), (_AIM // 4, 8)):
        sequences = max(1, min(most, aim // (modes * TILE)))
        warps = max(1, min(8, sequences * modes * TILE // (32 * per_thread)))
        config = Config(sequences, warps)
        if config not in found:
            found.append(config)
    return found[:_TIMED]


def step(state: Tensor, z: Tensor, modes: Modes, config: Config | None = None) -> Tensor:
    """y [B, C] from contiguous z [B, C] in any floating dtype; ``state`` is moved on in place.

    Raises:
        ValueError: tensors on a CPU without the interpreter.
    """
    _check(z)
    y = torch.empty_like(z)

    def run(chosen: Config, on: Tensor) -> None:
        kernels.step[_grid(modes, z, chosen)](
            on, z, modes.packed, modes.h0, y, z.shape[0], modes.channels, modes.order, modes.tiles_per_group,
            BB=chosen.sequences, M=triton.next_power_of_2(modes.order), num_warps=chosen.warps,
        )  # fmt: skip

    _launch("step", run, state, modes, z, config)
    return y


def mixer_step(
    state: Tensor, history: Tensor, qkv: Tensor, taps: Tensor, bias: Tensor | None, modes: Modes, size: int = 1,
    config: Config | None = None,
) -> Tensor:  # fmt: skip
    """y [B, D] from contiguous qkv [B, 3 D]; ``state`` and ``history`` are moved on in place.

    Heads wider than 1 compute their products and contractions by torch around the step.

    Raises:
        ValueError: tensors on a CPU without the interpreter.
    """
    _check(qkv)
    if size > 1:
        u, after = reference.fir_step(history, qkv, taps, bias)
        history.copy_(after)
        q, k, v = u.view(u.shape[0], 3, u.shape[1] // (3 * size), size).unbind(1)
        s = step(state, (k[..., :, None] * v[..., None, :]).flatten(1), modes, config)
        return torch.einsum("bhi,bhij->bhj", q, s.view(*q.shape, size)).flatten(1)
    y = qkv.new_empty(qkv.shape[0], modes.channels)

    def run(chosen: Config, on: Tensor) -> None:
        past = history if on is state else history.clone()
        kernels.mixer_step[_grid(modes, qkv, chosen)](
            on, past, qkv, taps, bias, modes.packed, modes.h0, y, qkv.shape[0], modes.channels, modes.order,
            modes.tiles_per_group, BB=chosen.sequences, M=triton.next_power_of_2(modes.order), K=taps.shape[0],
            HAS_BIAS=bias is not None, num_warps=chosen.warps,
        )  # fmt: skip

    _launch("mixer_step", run, state, modes, qkv, config)
    return y


def _grid(modes: Modes, z: Tensor, config: Config) -> tuple[int, int]:
    return modes.tiles, triton.cdiv(z.shape[0], config.sequences)


def _check(z: Tensor) -> None:
    if z.device.type != "cuda" and not INTERPRETED:
        raise ValueError(
            f"the Triton kernel needs tensors on a CUDA device, got {z.device}; use backend='cpu', "
            "or set TRITON_INTERPRET=1 before Python starts"
        )


def _launch(
    what: str, run: Callable[[Config, Tensor], None], state: Tensor, modes: Modes, z: Tensor, config: Config | None
) -> None:
    if not z.shape[0]:
        return
    if config is None:
        key = (what, z.device, z.dtype, z.shape[0], modes.channels, modes.order)
        config = _chosen.get(key)
        if config is None:
            possible = candidates(z.shape[0], modes.order)
            config = possible[0]
            if len(possible) > 1 and _may_time(state):
                scratch = state.clone()
                config = min(possible, key=lambda c: _milliseconds(run, c, scratch))
            if not (z.is_cuda and torch.cuda.is_current_stream_capturing()):
                _chosen[key] = config
    run(config, state)


def _may_time(state: Tensor) -> bool:
    if INTERPRETED or not state.is_cuda or os.environ.get("SHEAF_TRITON_TUNE") == "0":
        return False
    return not torch.cuda.is_current_stream_capturing() and torch.cuda.mem_get_info()[0] > 2 * state.nbytes


def _milliseconds(run: Callable[[Config, Tensor], None], config: Config, scratch: Tensor) -> float:
    """The least of five calls, after one that compiles."""
    run(config, scratch)
    times = []
    for _ in range(5):
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        began.record()
        run(config, scratch)
        ended.record()
        ended.synchronize()
        times.append(began.elapsed_time(ended))
    return min(times)
