"""How fast a step is against torch's complex arithmetic and against the memory, and what the ways through a prompt cost.

Seconds are CPU seconds of one thread, all arms in turn in one run. Orders are real degrees: 2 m for m complex modes.
"""

import math
import statistics
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from sheaf_kernels.bench import benchmark, one_core, table
from sheaf_kernels.block_sparse.benchmark import alternate

from . import compiled, modal_prefill, modal_step, reference
from .gpu_benchmark import random_modes
from .modes import Modes

__all__ = ["bandwidth_arms", "eager_arms", "prefill_arms", "steady", "step_arms"]

Arms = dict[str, Callable[[], object]]


def _need_kernel() -> None:
    if not compiled():
        raise RuntimeError("the modal_ssm kernel is not built; run `make kernels`")


def steady(arms: Arms, rounds: int, seconds: float = 0.002) -> list[dict[str, float]]:
    """Seconds of one call of every arm, in turn, each timed over as many calls as fill ``seconds``.

    A single call of microseconds would time how fast the caches forget the arm before.
    """
    once = alternate(arms, 1)[0]
    times = {name: max(1, min(100, math.ceil(seconds / max(once[name], 1e-6)))) for name in arms}

    def repeat(name: str) -> None:
        for _ in range(times[name]):
            arms[name]()

    rows = alternate({name: partial(repeat, name) for name in arms}, rounds)
    return [{name: taken / times[name] for name, taken in row.items()} for row in rows]


def eager_arms(modes: Modes, z: Tensor) -> Arms:
    """The step as torch users write it, with a state of complex numbers [B, C, m], in three ways."""
    poles, residues, h0 = modes.expanded()
    b, real = z.shape[0], torch.stack([residues.real, -residues.imag], -1).flatten(1)
    states = [torch.zeros(b, modes.channels, modes.order, dtype=poles.dtype) for _ in range(3)]

    def product() -> Tensor:
        y, states[0] = reference.step(states[0], z, poles, residues, h0)
        return y

    def einsum() -> Tensor:
        y = torch.einsum("bcm,cm->bc", states[1], residues).real + h0 * z
        states[1] = poles * states[1] + z[..., None]
        return y

    def in_place() -> Tensor:
        y = torch.linalg.vecdot(torch.view_as_real(states[2]).flatten(2), real).add_(h0 * z)
        states[2].mul_(poles).add_(z[..., None])
        return y

    return {"torch, product and sum": product, "torch, einsum": einsum, "torch, in place": in_place}


def step_arms(channels: int, order: int, batch: int, seed: int = 0) -> Arms:
    """This kernel's step and torch's, checked against each other.

    Raises:
        RuntimeError: the kernel is not built, or results differ.
    """
    _need_kernel()
    modes = random_modes(channels, order // 2, "cpu", seed=seed)
    z = torch.randn(batch, channels, generator=torch.Generator().manual_seed(seed))
    state = modes.new_state(batch)
    arms: Arms = {"fused (this kernel)": lambda: modal_step(state, z, modes, "cpu")}
    arms |= eager_arms(modes, z)
    for _ in range(2):
        results = {name: arm() for name, arm in arms.items()}
    first = results["fused (this kernel)"]
    for name, found in results.items():
        if not torch.allclose(found, first, rtol=1e-3, atol=1e-3):  # type: ignore[arg-type]
            raise RuntimeError(f"{name} gives other results than the kernel; nothing was timed")
    return arms


def bandwidth_arms(channels: int, order: int, batch: int, seed: int = 0) -> tuple[Arms, dict[str, int]]:
    """The step of a state that exceeds the caches, beside what moves the same memory and computes next to nothing.

    Returns:
        The arms, and the bytes each reads and writes.

    Raises:
        RuntimeError: the kernel is not built.
    """
    _need_kernel()
    modes = random_modes(channels, order // 2, "cpu", seed=seed)
    z = torch.randn(batch, channels, generator=torch.Generator().manual_seed(seed))
    state = modes.new_state(batch)
    like, source = torch.zeros_like(state), torch.zeros_like(state)
    arms: Arms = {
        "fused (this kernel)": lambda: modal_step(state, z, modes, "cpu"),
        "scale in place": lambda: like.mul_(0.999),
        "copy": lambda: like.copy_(source),
        "add in place": lambda: like.add_(source),
    }
    moved = {"fused (this kernel)": 2, "scale in place": 2, "copy": 2, "add in place": 3}
    return arms, {name: times * state.nbytes for name, times in moved.items()}


def prefill_arms(
    channels: int, order: int, length: int, batch: int = 1, outputs: bool = False, seed: int = 0
) -> tuple[Arms, Modes, Tensor]:
    """Every way to the state after a prompt: the arms give (y or None, packed state), the modes and the input that they share."""
    modes = random_modes(channels, order // 2, "cpu", seed=seed)
    z = torch.randn(batch, channels, length, generator=torch.Generator().manual_seed(seed))

    def arm(strategy: str, backend: str) -> Callable[[], object]:
        return lambda: modal_prefill(z, modes, strategy=strategy, backend=backend, outputs=outputs)

    names = {"recurrent, torch": ("recurrent", "reference")}
    if compiled():
        names["recurrent, compiled"] = ("recurrent", "cpu")
    names |= {s: (s, "auto") for s in ("chunked", "vandermonde", "scan", "modal_fft", "canonical")}
    return {name: arm(*how) for name, how in names.items()}, modes, z


@benchmark("modal_ssm/step")
def _step() -> str:
    rows = []
    with one_core():
        for batch, order in ((1, 16), (16, 16), (1, 64), (16, 64)):
            times = steady(step_arms(512, order, batch), 9)
            median = {name: statistics.median(row[name] for row in times) for name in times[0]}
            fused = median.pop("fused (this kernel)")
            best = min(median, key=median.__getitem__)
            speed_up = f"{median[best] / fused:.1f}x"
            rows.append(
                (f"batch {batch}, order {order}", f"{1e6 * fused:.1f}", f"{1e6 * median[best]:.1f}", speed_up, best)
            )
        arms, moved = bandwidth_arms(8192, 64, 64)
        times = alternate(arms, 7)
    speed = {n: moved[n] / statistics.median(row[n] for row in times) / 1e9 for n in moved}
    lines = table(("512 channels", "fused us", "torch us", "speed-up", "best torch"), rows)
    return f"{lines}\nstate of 128 MiB, GB/s read and written: " + ", ".join(f"{n} {v:.1f}" for n, v in speed.items())


@benchmark("modal_ssm/prefill")
def _prefill() -> str:
    rows = []
    with one_core():
        for length in (2048, 8192):
            arms, _, _ = prefill_arms(64, 16, length)
            del arms["recurrent, torch"]  # seconds
            times = alternate(arms, 3)
            rows.append((f"{length} tokens", *(f"{1e3 * statistics.median(r[n] for r in times):.2f}" for n in arms)))
    return table(("64 channels, order 16, ms", *arms), rows)
