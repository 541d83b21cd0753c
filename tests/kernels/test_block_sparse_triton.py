"""The Triton form of block_sparse under Triton's interpreter, on the CPU, against the definition."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CHECK = """
import sys, numpy, torch
import triton.runtime.interpreter as interpreter

class Kind(type):
    __instancecheck__ = lambda cls, value: isinstance(value, int)

class Integer(int, metaclass=Kind):
    # Triton 3.6's interpreter calls int() on arrays of one element, which numpy 2.4 refuses
    def __new__(cls, value=0, *rest):
        return int(value.item() if isinstance(value, numpy.ndarray) else value, *rest)

interpreter.int = Integer
from sheaf_kernels.block_sparse import Layout, block_sparse_linear
sys.path.insert(0, sys.argv[1])
from test_block_sparse import example
dtype = getattr(torch, sys.argv[2])
tolerance = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}[dtype]

def run(layout, tensors, backend, kind):
    leaf = {k: None if t is None else t.to(kind).clone().requires_grad_(k != "dy") for k, t in tensors.items()}
    y = block_sparse_linear(leaf["x"], leaf["weight"], layout, leaf["bias"], leaf["u"], leaf["v"], backend=backend)
    y.backward(leaf["dy"])
    return {"y": y.detach()} | {k: t.grad for k, t in leaf.items() if t is not None and k != "dy"}

cell = torch.eye(2, dtype=torch.bool).repeat_interleave(3, 0)  # rows that share their inputs form groups
for grid, block, tokens, rank, density in [
    ((3, 2), 16, 37, 0, 0.6), ((2, 3), 32, 20, 16, 0.5), ((2, 2), 48, 17, 5, 0.7), ((1, 2), 64, 33, 0, 1.0),
    ((3, 3), 16, 1, 3, 0.0), (None, 16, 40, 8, 0),
]:
    layout, tensors = example(torch.float32, grid or (6, 2), block, tokens, rank, density, seed=block)
    if grid is None:
        layout = Layout(cell, block)
        tensors["weight"] = torch.randn(layout.nnz, block, block, generator=torch.Generator().manual_seed(1))
    tensors = {k: None if t is None else t.to(dtype) for k, t in tensors.items()}
    expected = run(layout, tensors, "reference", torch.float64)
    for name, found in run(layout, tensors, "triton", dtype).items():
        error = (found.double() - expected[name]).norm()
        assert error <= tolerance * expected[name].norm().clamp_min(1e-6), (grid, block, name, float(error))
print("agrees")
"""
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed here")


@needs_triton
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_triton_kernel_computes_the_definition_and_its_gradients(dtype: str) -> None:
    # a process of its own: the interpreter is chosen when Triton is imported
    done = subprocess.run(
        [sys.executable, "-c", CHECK, str(Path(__file__).parent), dtype],
        capture_output=True, text=True, timeout=250, check=False,
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'lib'}:{ROOT / 'kernels'}", "TRITON_INTERPRET": "1"},
    )  # fmt: skip
    assert done.stdout.strip() == "agrees", done.stderr


@needs_triton
def test_without_a_gpu_it_says_what_to_use() -> None:
    code = """
import torch
from sheaf_kernels.block_sparse import Layout, block_sparse_linear
try:
    block_sparse_linear(torch.zeros(2, 16), torch.zeros(1, 16, 16), Layout(torch.ones(1, 1), 16), backend="triton")
except ValueError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=False,
        env={**{k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"},
             "PYTHONPATH": f"{ROOT / 'lib'}:{ROOT / 'kernels'}"},
    )  # fmt: skip
    assert "needs a GPU" in done.stdout and "backend='cpu'" in done.stdout
