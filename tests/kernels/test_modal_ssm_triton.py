"""modal_ssm on Triton under its interpreter: against the definition over odd shapes, and what the GPU check checks.

Triton reads TRITON_INTERPRET when it is imported, so everything runs in processes of their own.
"""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed; `pip install triton`")
SHAPES = """
from test_modal_ssm import compare_mixer, compare_step
for rows, order, repeat, batch in ((1, 1, 1, 1), (37, 5, 1, 7), (3, 4, 16, 3), (5, 2, 4, 2), (2, 3, 64, 1), (16, 9, 1, 0)):
    compare_step(rows, order, repeat, batch, 0, "triton")
for width, size, order, batch, taps, bias in (
    (5, 1, 2, 3, 3, True), (40, 1, 5, 2, 1, False), (24, 4, 3, 2, 3, True), (17, 1, 8, 4, 4, False), (33, 1, 8, 9, 2, True),
    (6, 2, 1, 0, 3, True),
):
    compare_mixer(width, size, order, batch, taps, bias, 0, "triton")
print("agrees")
"""
CANDIDATES = """
import torch
from sheaf_kernels.modal_ssm import triton
from test_modal_ssm import draw, modes_of, random_state
modes, z = modes_of(20, 6), draw(9, 20)
found = []
for config in triton.candidates(9, 6):
    state = random_state(modes, 9)
    found.append((triton.step(state, z, modes, config), state))
assert len(found) >= 2
assert all(torch.allclose(a, b, atol=1e-5) for pair in found[1:] for a, b in zip(pair, found[0]))
print("agrees")
"""


def run(*arguments: str, interpret: str = "1") -> subprocess.CompletedProcess[str]:
    path = f"{ROOT / 'lib'}:{ROOT / 'kernels'}:{Path(__file__).parent}"
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=250, check=False,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "TRITON_INTERPRET": interpret},
    )  # fmt: skip


@needs_triton
@pytest.mark.parametrize("code", [SHAPES, CANDIDATES], ids=["shapes", "candidates"])
def test_the_programs_compute_the_definition(code: str) -> None:
    done = run("-c", code)
    assert done.stdout.strip() == "agrees", done.stderr


@needs_triton
def test_what_the_gpu_check_checks_holds_under_the_interpreter() -> None:
    done = run("-m", "sheaf_kernels.modal_ssm.gpu_check")
    assert done.returncode == 0 and done.stdout.strip().endswith("passed"), done.stdout + done.stderr


@needs_triton
def test_tensors_on_a_cpu_are_refused_without_the_interpreter() -> None:
    code = "from test_modal_ssm import compare_step; compare_step(3, 2, 1, 1, 0, 'triton')"
    done = run("-c", code, interpret="0")
    assert "needs tensors on a CUDA device" in done.stderr
