"""The Triton forms of gather_mlp, gather_heads and predict_topk: `gpu_check`, under the interpreter where there is no GPU.

Triton reads TRITON_INTERPRET when it is imported, so the checks run in one process of their own, a line of output for each.
"""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
NAMES = [
    "mlp, one token", "mlp, batch of 3, GELU", "mlp, batch of 8", "mlp, threshold", "mlp, threshold, batch of 2",
    "mlp, nothing chosen", "heads, one token at a time", "heads, batch of 3, odd width", "heads, none chosen", "predictor",
    "predictor, threshold, ReLU, batch of 3", "predictor, largest of a batch", "all in a graph",
]  # fmt: skip
REFUSED = """
import torch
from sheaf_kernels.gather_mlp import gather_mlp
w = torch.zeros(4, 4, dtype=torch.float64)
try:
    gather_mlp(w, w, w[0], w, w[0], torch.tensor([1]), backend="triton")
except ValueError as error:
    print(error)
"""
pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed; `pip install triton`")


def run(*arguments: str) -> str:
    interpreter = {} if torch.cuda.is_available() else {"TRITON_INTERPRET": "1"}
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=280, check=False,
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'lib'}:{ROOT / 'kernels'}", "OMP_NUM_THREADS": "1", **interpreter},
    )  # fmt: skip
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def said() -> str:
    return run("-m", "sheaf_kernels.gather_mlp.gpu_check")


@pytest.mark.parametrize("name", NAMES)
def test_the_triton_form_agrees_with_the_reference(said: str, name: str) -> None:
    assert f"{name}: agrees" in said.splitlines(), said


def test_every_check_is_known_here(said: str) -> None:
    checked = [line.rsplit(":", 1)[0] for line in said.splitlines() if line.endswith(": agrees")]
    assert checked[: len(NAMES)] == NAMES


def test_a_dtype_that_triton_does_not_take_is_named() -> None:
    assert "takes float32, bfloat16 and float16" in run("-c", REFUSED)
