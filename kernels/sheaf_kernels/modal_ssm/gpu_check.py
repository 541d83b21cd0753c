"""``python -m sheaf_kernels.modal_ssm.gpu_check``: a few seconds that tell whether the Triton kernels work on this GPU.

Compiles them, compares them with the definition in float64 over shapes and dtypes, replays them in a CUDA graph, and prints the
bandwidth of one shape. One line a check; exit code 1 when any fails. With TRITON_INTERPRET=1 it runs on CPU tensors, without the
graph and the bandwidth.
"""

import sys
import time
import traceback
from collections.abc import Callable

import torch
from torch import Tensor

from . import gpu_benchmark, modal_mixer_step, modal_prefill, modal_step, reference
from . import triton as backend
from .modes import Modes

__all__ = ["main"]

DEVICE = "cpu" if backend.INTERPRETED else "cuda"


def _error(found: Tensor, wanted: Tensor) -> float:
    return float((found.double().cpu() - wanted.double().cpu()).norm() / wanted.double().norm().clamp(min=1e-30))


def _double(modes: Modes) -> tuple[Tensor, Tensor, Tensor]:
    poles, residues, h0 = (t.cpu() for t in modes.expanded())
    return poles.to(torch.complex128), residues.to(torch.complex128), h0.double()


def _need(error: float, tolerance: float) -> str:
    if not error <= tolerance:
        raise AssertionError(f"relative error {error:.1e}, more than {tolerance:.0e}")
    return f"relative error {error:.1e}"


def check_step(channels: int, order: int, batch: int, repeat: int, dtype: torch.dtype) -> str:
    """Five steps; outputs in the input's precision, the state in float32."""
    modes = gpu_benchmark.random_modes(channels, order, DEVICE, repeat)
    state, exact = modes.new_state(batch), torch.zeros(batch, modes.channels, order, dtype=torch.complex128)
    g, worst = torch.Generator().manual_seed(1), 0.0
    for _ in range(5):
        z = torch.randn(batch, modes.channels, generator=g).to(dtype)
        y = modal_step(state, z.to(DEVICE), modes, "triton")
        wanted, exact = reference.step(exact, z.double(), *_double(modes))
        worst = max(worst, _error(y, wanted))
    _need(_error(torch.view_as_real(modes.to_complex(state)), torch.view_as_real(exact)), 1e-5)
    return _need(worst, 1e-5 if dtype == torch.float32 else 1e-2)


def check_mixer(width: int, size: int, order: int, batch: int, taps: int, bias: bool, dtype: torch.dtype) -> str:
    """Eight steps of a whole mixer; the history must match bit by bit."""
    rows, repeat = (width, 1) if size == 1 else (width // size, size * size)
    modes = gpu_benchmark.random_modes(rows, order, DEVICE, repeat)
    g, worst = torch.Generator().manual_seed(1), 0.0
    weight = torch.randn(taps, 3 * width, generator=g).to(dtype)
    offset = torch.randn(3 * width, generator=g).to(dtype) if bias else None
    history = torch.zeros(batch, taps - 1, 3 * width, dtype=dtype, device=DEVICE)
    state, past = modes.new_state(batch), torch.zeros(batch, taps - 1, 3 * width, dtype=torch.float64)
    exact = torch.zeros(batch, modes.channels, order, dtype=torch.complex128)
    on_device = (weight.to(DEVICE), None if offset is None else offset.to(DEVICE))
    for _ in range(8):
        qkv = torch.randn(batch, 3 * width, generator=g).to(dtype)
        y = modal_mixer_step(state, history, qkv.to(DEVICE), *on_device, modes, size, "triton")
        wanted, exact, past = reference.mixer_step(
            exact,
            past,
            qkv.double(),
            weight.double(),
            None if offset is None else offset.double(),
            *_double(modes),
            size,
        )
        worst = max(worst, _error(y, wanted))
        if not torch.equal(history.double().cpu(), past):
            raise AssertionError("the history of the short convolution differs")
    return _need(worst, 1e-5 if dtype == torch.float32 else 3e-2)


def check_prefill() -> str:
    """Blocks of a prompt on the device against the definition."""
    modes = gpu_benchmark.random_modes(24, 4, DEVICE)
    z = torch.randn(3, 24, 200, generator=torch.Generator().manual_seed(2))
    y, state = modal_prefill(z.to(DEVICE), modes, strategy="chunked", backend="triton")
    wanted, after = reference.prefill(z.double(), *_double(modes))
    _need(_error(torch.view_as_real(modes.to_complex(state)), torch.view_as_real(after)), 1e-4)
    return _need(_error(y, wanted), 1e-4)  # type: ignore[arg-type]


def check_graph() -> str:
    """A captured step must move the state on at every replay, as eager calls do."""
    if DEVICE == "cpu":
        return "skipped: no CUDA graph under the interpreter"
    modes = gpu_benchmark.random_modes(2048, 8, DEVICE)
    z = torch.randn(8, 2048, device=DEVICE, dtype=torch.bfloat16)
    eager, captured = modes.new_state(8), modes.new_state(8)
    for _ in range(4):
        wanted = modal_step(eager, z, modes, "triton")
    modal_step(captured, z, modes, "triton")
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = modal_step(captured, z, modes, "triton")
    for _ in range(3):
        graph.replay()
    torch.cuda.synchronize()
    if not (torch.equal(y, wanted) and torch.equal(eager, captured)):
        raise AssertionError("replaying a captured step gives other numbers than calling it")
    return "replays as it runs"


def check_bandwidth() -> str:
    """Not a test: one number to look at, and which program shape was chosen."""
    if DEVICE == "cpu":
        return "skipped: nothing to time under the interpreter"
    limit = gpu_benchmark.copy_gbytes_s(5)
    said = []
    for channels, order, batch in ((2048, 8, 1024), (2048, 32, 512)):
        share = gpu_benchmark.median_share(gpu_benchmark.measure(channels, order, batch, 5, limit))
        said.append(f"{channels} x {2 * order} x {batch}: {share:.0%}")
    return f"of a copy's {limit:.0f} GB/s: {', '.join(said)}; " + ", ".join(
        f"{k[0]} batch {k[3]} order {2 * int(k[5])}: {v.sequences} x {v.warps} warps"  # type: ignore[call-overload]
        for k, v in backend._chosen.items()
    )


def main() -> int:
    """Run every check; returns the exit code."""
    half, single = torch.bfloat16, torch.float32
    width = 2048 if DEVICE == "cuda" else 48
    steps = [
        (width, 8, 5, 1, half), (100, 5, 3, 1, single), (3, 4, 7, 64, single), (33, 32, 2, 1, half), (16, 1, 1, 1, single),
        (5, 3, 4, 4, single),
    ]  # fmt: skip
    mixers = [
        (width, 1, 8, 4, 3, True, half), (40, 1, 5, 9, 2, False, single), (33, 1, 8, 3, 4, True, single),
        (17, 1, 2, 2, 1, True, half), (64, 8, 4, 3, 3, True, half),
    ]  # fmt: skip
    checks: list[tuple[str, Callable[[], str]]] = [
        *((f"step {a[:4]} {str(a[4])[6:]}", lambda a=a: check_step(*a)) for a in steps),  # type: ignore[misc]
        *((f"mixer {a[:6]} {str(a[6])[6:]}", lambda a=a: check_mixer(*a)) for a in mixers),  # type: ignore[misc]
        ("prefill", check_prefill), ("CUDA graph", check_graph), ("bandwidth", check_bandwidth),
    ]  # fmt: skip
    began, failed = time.monotonic(), 0
    print(f"modal_ssm on {torch.cuda.get_device_name() if DEVICE == 'cuda' else 'the interpreter'}")
    for name, check in checks:
        try:
            said = check()
        except Exception:  # every check reports, whatever it dies of
            failed += 1
            said = "FAILED " + traceback.format_exc(limit=-2).strip()
        print(f"{time.monotonic() - began:5.1f} s  {name}: {said}", flush=True)
    print("FAILED" if failed else "passed")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
