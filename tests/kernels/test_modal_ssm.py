"""modal_ssm: every backend and prefill strategy against the definition, long roll-outs, and input that must be refused."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sheaf_kernels import build
from sheaf_kernels.modal_ssm import (
    TILE,
    Modes,
    compiled,
    modal_mixer_step,
    modal_prefill,
    modal_step,
    reference,
)

ROOT = Path(__file__).resolve().parents[2]
EXACT = ("recurrent", "chunked", "vandermonde", "modal_fft", "scan")  # all but "canonical", which cancels
needs_kernel = pytest.mark.skipif(not compiled(), reason="the modal_ssm kernel is not built; run `make kernels`")
BACKENDS = [pytest.param("cpu", marks=needs_kernel), "reference"]
VARIANT = """
import sys
import sheaf_kernels.build as b
b.FLAGS = tuple(sys.argv[1] if f.startswith("-march") else f for f in b.FLAGS)
made, said = b.build("modal_ssm")
if made is None:
    sys.exit(said)
if sys.argv[2] == "run":
    sys.path.insert(0, sys.argv[3])
    from test_modal_ssm import compare_mixer, compare_prefill, compare_step
    for channels, modes, batch in ((1, 1, 1), (37, 5, 7), (64, 3, 4)):
        compare_step(channels, modes, 1, batch, 0)
        compare_prefill(channels, modes, 1, batch, 150, 0)
    compare_mixer(24, 4, 3, 5, 3, True, 0)
print("agrees")
"""


def modes_of(
    rows: int,
    order: int,
    repeat: int = 1,
    *,
    radius: float = 0.999,
    dtype: torch.dtype = torch.complex64,
    seed: int = 0,
) -> Modes:
    """Random stable modes, rounded to float32 whatever ``dtype`` is: both precisions then mean the same numbers."""
    g = torch.Generator().manual_seed(seed)
    poles = torch.polar(radius * torch.rand(rows, order, generator=g), 3.1 * torch.rand(rows, order, generator=g))
    residues = torch.complex(torch.randn(rows, order, generator=g), torch.randn(rows, order, generator=g))
    h0 = torch.randn(rows, generator=g)
    return Modes.pack(poles.to(dtype), residues.to(dtype), h0, repeat)


def double(modes: Modes) -> Modes:
    return Modes.pack(modes.poles.to(torch.complex128), modes.residues.to(torch.complex128), modes.h0, modes.repeat)


def random_state(modes: Modes, batch: int, seed: int = 1) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    shape = (batch, modes.channels, modes.order)
    return modes.from_complex(torch.complex(torch.randn(shape, generator=g), torch.randn(shape, generator=g)))


def close(found: Tensor, expected: Tensor, tolerance: float = 2e-6) -> None:
    """Relative error of a whole tensor against float64."""
    assert found.shape == expected.shape
    error, size = (found.double() - expected.double()).norm(), expected.double().norm()
    assert error <= tolerance * size + 1e-12, f"relative error {float(error / size):.2e}"


def draw(*shape: int, seed: int = 2) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def compare_step(rows: int, order: int, repeat: int, batch: int, seed: int, backend: str = "cpu") -> None:
    modes = modes_of(rows, order, repeat, seed=seed)
    exact = double(modes)
    state = random_state(modes, batch, seed)
    wanted = modes.to_complex(state).to(torch.complex128)
    for t in range(3):
        z = draw(batch, modes.channels, seed=seed + t)
        y = modal_step(state, z, modes, backend)
        y_wanted, wanted = reference.step(wanted, z.double(), *exact.expanded())
        assert y.dtype == z.dtype
        close(y, y_wanted)
        close(torch.view_as_real(modes.to_complex(state)), torch.view_as_real(wanted))


def compare_mixer(
    width: int, size: int, order: int, batch: int, taps: int, bias: bool, seed: int, backend: str = "cpu"
) -> None:
    rows, repeat = (width, 1) if size == 1 else (width // size, size * size)
    modes = modes_of(rows, order, repeat, seed=seed)
    exact = double(modes)
    state, history = random_state(modes, batch, seed), draw(batch, taps - 1, 3 * width, seed=seed)
    weight, offset = draw(taps, 3 * width, seed=seed + 1), draw(3 * width, seed=seed + 2) if bias else None
    wanted, past = modes.to_complex(state).to(torch.complex128), history.double()
    for t in range(3):
        qkv = draw(batch, 6 * width, seed=seed + t)[:, ::2]  # not contiguous
        y = modal_mixer_step(state, history, qkv, weight, offset, modes, size, backend)
        y_wanted, wanted, past = reference.mixer_step(
            wanted,
            past,
            qkv.double(),
            weight.double(),
            None if offset is None else offset.double(),
            *exact.expanded(),
            size,
        )
        close(y, y_wanted, 5e-6)
        close(torch.view_as_real(modes.to_complex(state)), torch.view_as_real(wanted), 5e-6)
        assert torch.equal(history, past.float())


def compare_prefill(
    rows: int, order: int, repeat: int, batch: int, length: int, seed: int, strategy: str = "recurrent",
    backend: str = "cpu", block: int | None = None,
) -> None:  # fmt: skip
    modes = modes_of(rows, order, repeat, seed=seed)
    exact = double(modes)
    z, start = draw(batch, modes.channels, length, seed=seed), random_state(modes, batch, seed)
    kept = start.clone()
    wanted, after = reference.prefill(z.double(), *exact.expanded(), modes.to_complex(start).to(torch.complex128))
    y, state = modal_prefill(z, modes, start, strategy, backend, block=block)
    assert y is not None and torch.equal(start, kept)
    close(y, wanted, 1e-5)
    close(torch.view_as_real(modes.to_complex(state)), torch.view_as_real(after), 1e-5)
    nothing, same = modal_prefill(z, modes, start, strategy, backend, outputs=False, block=block)
    assert nothing is None
    close(same, state, 1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    rows=st.integers(1, 40), order=st.integers(1, 9), repeat=st.sampled_from([1, 1, 4, 16, 64]), batch=st.integers(0, 9),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_a_step_computes_the_definition(
    backend: str, rows: int, order: int, repeat: int, batch: int, seed: int
) -> None:
    compare_step(rows, order, repeat, batch, seed, backend)


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    heads=st.integers(1, 20), size=st.sampled_from([1, 1, 2, 3, 4, 8]), order=st.integers(1, 5), batch=st.integers(0, 6),
    taps=st.integers(1, 4), bias=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
def test_a_mixer_step_computes_the_definition(
    backend: str, heads: int, size: int, order: int, batch: int, taps: int, bias: bool, seed: int
) -> None:
    compare_mixer(heads * size, size, order, batch, taps, bias, seed, backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("strategy", EXACT)
@pytest.mark.parametrize("repeat", [1, 4, 16])
def test_every_strategy_leaves_the_same_state(backend: str, strategy: str, repeat: int) -> None:
    for rows, order, batch, length, block in (
        (3, 4, 2, 150, None),
        (17, 2, 1, 1, 8),
        (2, 3, 3, 65, 8),
        (5, 1, 1, 7, 64),
    ):
        compare_prefill(rows, order, repeat, batch, length, length, strategy, backend, block)


@pytest.mark.parametrize("strategy", ["auto", "canonical", *EXACT])
def test_an_empty_prompt_changes_nothing(strategy: str) -> None:
    modes = modes_of(5, 2)
    start = random_state(modes, 3)
    y, state = modal_prefill(torch.zeros(3, 5, 0), modes, start, strategy)
    assert y is not None and y.shape == (3, 5, 0) and torch.equal(state, start)


def test_the_canonical_way_is_right_where_poles_lie_apart_and_fails_where_they_cluster() -> None:
    g = torch.Generator().manual_seed(0)
    errors = {}
    for name, span in (("apart", 3.0), ("clustered", 0.05)):
        angles = span * (torch.arange(8) + 0.5) / 8
        poles = torch.polar(torch.full((1, 8), 0.95), angles[None]).to(torch.complex128)
        modes = Modes.pack(poles, torch.ones_like(poles), torch.zeros(1))
        z = torch.randn(1, 1, 1024, generator=g, dtype=torch.float64)
        _, wanted = modal_prefill(z, modes, strategy="recurrent")
        _, found = modal_prefill(z, modes, strategy="canonical", outputs=False)
        errors[name] = float((found - wanted).norm() / wanted.norm())
    assert errors["apart"] < 1e-9 and not errors["clustered"] < 1e-3, errors


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_prompt_and_its_continuation_are_one_sequence(backend: str) -> None:
    modes = modes_of(20, 3)
    z = draw(4, 20, 90)
    whole, end = modal_prefill(z, modes, backend=backend)
    first, state = modal_prefill(z[..., :60], modes, backend=backend)
    rest = [modal_step(state, z[..., t], modes, backend) for t in range(60, 90)]
    assert whole is not None and first is not None
    close(torch.cat([first, torch.stack(rest, -1)], -1), whole)
    close(state, end)


def test_the_response_to_an_impulse_is_the_filter() -> None:
    modes = modes_of(6, 3, dtype=torch.complex128)
    z = torch.zeros(1, 6, 40, dtype=torch.float64)
    z[..., 0] = 1
    y, _ = modal_prefill(z, modes, strategy="recurrent")
    assert y is not None
    h = reference.impulse(*modes.expanded(), 40)
    close(y[0], h, 1e-12)
    t = torch.arange(1, 40)
    close(h[:, 1:], (modes.residues[..., None] * modes.poles[..., None] ** (t - 1)).sum(1).real, 1e-12)
    assert reference.impulse(*modes.expanded(), 1).shape == (6, 1) and reference.impulse(
        *modes.expanded(), 0
    ).shape == (6, 0)


def test_a_head_of_width_one_is_hyena() -> None:
    width, modes = 12, modes_of(12, 3)
    qkv, taps = draw(2, 36), draw(3, 36)
    state, history = modes.new_state(2), torch.zeros(2, 2, 36)
    y = modal_mixer_step(state, history, qkv, taps, None, modes)
    q, k, v = (qkv * taps[-1]).split(width, 1)
    close(y, q * modes.h0 * k * v)


@needs_kernel
def test_one_hundred_thousand_steps_stay_true() -> None:
    """|lambda| = 0.9999 in float32 against float64 with the same poles: rounding must neither grow nor leak."""
    order, steps = 8, 100_000
    poles = torch.polar(torch.full((TILE, order), 0.9999), torch.linspace(0, 3.1, TILE * order).view(TILE, order))
    modes = Modes.pack(poles, torch.ones_like(poles), torch.zeros(TILE))
    z = draw(1, TILE, steps)
    exact = double(modes)
    _, wanted = modal_prefill(z.double(), exact, strategy="vandermonde", outputs=False)
    _, state = modal_prefill(z, modes, strategy="recurrent", backend="cpu", outputs=False)
    close(state, wanted, 2e-5)
    for t in range(2000):  # the step kernel goes on from there
        modal_step(state, z[..., t], modes, "cpu")
    _, wanted = modal_prefill(z[..., :2000].double(), exact, wanted, strategy="vandermonde", outputs=False)
    close(state, wanted, 2e-5)
    for _ in range(100):  # without input everything dies away, and no rounding keeps it alive
        _, state = modal_prefill(torch.zeros(1, TILE, 4000), modes, state, "recurrent", "cpu", outputs=False)
    assert state.abs().max() < 1e-12


@needs_kernel
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inputs_keep_a_float32_state(dtype: torch.dtype) -> None:
    modes = modes_of(24, 2)
    state, z = modes.new_state(3), draw(3, 24).to(dtype)
    y = modal_step(state, z, modes, "cpu")
    assert y.dtype == dtype and state.dtype == torch.float32
    close(y, modes.h0 * z.double(), 1e-2)
    qkv, taps, history = draw(3, 72).to(dtype), draw(3, 72).to(dtype), torch.zeros(3, 2, 72, dtype=dtype)
    found = modal_mixer_step(modes.new_state(3), history, qkv, taps, None, modes, backend="cpu")
    wanted = modal_mixer_step(modes.new_state(3), torch.zeros(3, 2, 72), qkv.float(), taps.float(), None, modes)
    assert found.dtype == dtype and torch.equal(history[:, -1], qkv)
    close(found, wanted, 3e-2)


@needs_kernel
def test_threads_do_not_change_a_bit() -> None:
    before = torch.get_num_threads()
    modes, z = modes_of(640, 16), draw(16, 640)
    try:
        found = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            state = random_state(modes, 16)
            found.append((modal_step(state, z, modes, "cpu"), state))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(other, found[0], strict=True))


@needs_kernel
def test_the_operations_are_known_to_torch() -> None:
    modes = modes_of(20, 2)
    torch.library.opcheck(
        torch.ops.sheaf.modal_step_.default, (modes.new_state(2), draw(2, 20), modes.packed, modes.h0)
    )
    torch.library.opcheck(
        torch.ops.sheaf.modal_prefill_.default, (modes.new_state(2), draw(2, 20, 9), modes.packed, modes.h0, True)
    )
    torch.library.opcheck(
        torch.ops.sheaf.modal_mixer_step_.default,
        (modes.new_state(2), torch.zeros(2, 2, 60), draw(2, 60), draw(3, 60), None, modes.packed, modes.h0, 1),
    )


@needs_kernel
@pytest.mark.slow
@pytest.mark.parametrize("march", ["-march=x86-64", "-march=x86-64-v3", "-march=x86-64-v4"])
def test_every_instruction_set_agrees(march: str, tmp_path: Path) -> None:
    """What this processor cannot run must at least compile."""
    runs = torch.backends.cpu.get_cpu_capability().startswith(
        "AVX512" if march == "-march=x86-64-v4" else ("AVX512", "AVX2")
    )
    done = subprocess.run(
        [sys.executable, "-c", VARIANT, march, "run" if runs else "compile", str(Path(__file__).parent)],
        capture_output=True, text=True, timeout=250, check=False,
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'lib'}:{ROOT / 'kernels'}", "SHEAF_BUILD": str(tmp_path)},
    )  # fmt: skip
    assert done.stdout.strip() == "agrees", done.stderr


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    rows=st.integers(1, 40), order=st.integers(1, 5), repeat=st.sampled_from([1, 4, 16, 32]), batch=st.integers(0, 4)
)
def test_packing_loses_nothing(rows: int, order: int, repeat: int, batch: int) -> None:
    modes = modes_of(rows, order, repeat)
    state = draw(batch, modes.channels, order).to(torch.complex64)
    assert torch.equal(modes.to_complex(modes.from_complex(state)), state)
    assert modes.new_state(batch).nbytes == modes.state_bytes(batch)
    assert modes.packed.shape[0] == (rows if repeat % TILE == 0 else modes.tiles)
    moved = modes.to("cpu")
    assert torch.equal(moved.packed, modes.packed) and moved.channels == modes.channels


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"state": torch.zeros(2, 4)}, "as new_state"),
        ({"state": torch.zeros(3, 2, 2, 2, TILE)}, "the input of 4"),
        ({"z": torch.zeros(4, 19)}, "z must be"),
        ({"z": torch.zeros(4, 20, dtype=torch.int64)}, "inputs are float32"),
        ({"z": torch.zeros(4, 20, dtype=torch.float64)}, "inputs are float32"),
        ({"backend": "gpu"}, "unknown; use one of"),
        ({"state": torch.zeros(4, 2, 2, TILE, 2).transpose(3, 4)}, "contiguous"),
    ],
)
def test_bad_steps_are_named(change: dict[str, object], words: str) -> None:
    modes = modes_of(20, 2)
    arguments = {"state": modes.new_state(4), "z": torch.zeros(4, 20), "modes": modes} | change
    with pytest.raises(ValueError, match=words):
        modal_step(**arguments)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"qkv": torch.zeros(4, 59)}, "qkv must be"),
        ({"size": 2}, "qkv must be"),
        ({"taps": torch.zeros(3, 20)}, "taps must be"),
        ({"history": torch.zeros(4, 3, 60)}, "taps must be"),
        ({"bias": torch.zeros(20)}, "bias must be"),
        ({"bias": torch.zeros(60, dtype=torch.float64)}, "convert one"),
        ({"history": torch.zeros(4, 60, 2).transpose(1, 2)}, "contiguous"),
    ],
)
def test_bad_mixer_steps_are_named(change: dict[str, object], words: str) -> None:
    modes = modes_of(20, 2)
    arguments = {
        "state": modes.new_state(4), "history": torch.zeros(4, 2, 60), "qkv": torch.zeros(4, 60),
        "taps": torch.zeros(3, 60), "bias": None, "modes": modes,
    } | change  # fmt: skip
    with pytest.raises(ValueError, match=words):
        modal_mixer_step(**arguments)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"z": torch.zeros(4, 20)}, "time"),
        ({"strategy": "magic"}, "unknown; use one of auto, recurrent"),
        ({"block": 0}, "at least one token"),
        ({"modes": modes_of(20, 2, dtype=torch.complex128), "backend": "cpu"}, "float32"),
    ],
)
def test_bad_prompts_are_named(change: dict[str, object], words: str) -> None:
    arguments = {"z": torch.zeros(4, 20, 3), "modes": modes_of(20, 2)} | change
    with pytest.raises(ValueError, match=words):
        modal_prefill(**arguments)


@pytest.mark.parametrize(
    ("poles", "h0", "words"),
    [
        (torch.zeros(3, 0, dtype=torch.complex64), torch.zeros(3), "not empty"),
        (torch.zeros(3, 2), torch.zeros(3), "complex64 or complex128"),
        (torch.zeros(3, 2, dtype=torch.complex64), torch.zeros(2), "h0 must be real"),
    ],
)
def test_bad_modes_are_named(poles: Tensor, h0: Tensor, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Modes.pack(poles, poles, h0)


def test_building_is_known() -> None:
    assert "modal_ssm" in build.operations()
