"""gather_mlp: the compiled kernel against its definition, any index, both other instruction sets, and what must be refused."""

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
from sheaf_kernels.gather_mlp import ACTIVATIONS, compiled, gather_mlp

ROOT = Path(__file__).resolve().parents[2]
# error against float64, relative to the same sums of absolute values: a sum that cancels is no better known than its terms
TOLERANCE = {torch.float64: 1e-15, torch.float32: 1e-6, torch.bfloat16: 4e-3}
DTYPES = pytest.mark.parametrize("dtype", list(TOLERANCE), ids=lambda d: str(d).removeprefix("torch."))
needs_kernel = pytest.mark.skipif(not compiled(), reason="the gather_mlp kernel is not built; run `make kernels`")
NAMES = ("x", "w1", "b1", "w2t", "b2")
VARIANT = """
import sys
import sheaf_kernels.build as b
flags = sys.argv[1].split()
b.FLAGS = tuple(g for f in b.FLAGS for g in (flags if f.startswith("-march") else [f]))
for op in ("gather_mlp", "gather_heads", "predict_topk"):
    made, said = b.build(op)
    if "-" in said or made is None:
        sys.exit(said)
sys.path.insert(0, sys.argv[2])
import test_gather_heads, test_gather_mlp, test_predict_topk
import torch
for dtype in (torch.float64, torch.float32, torch.bfloat16):
    for batch, d, f, k in ((1, 64, 90, 37), (3, 77, 50, 60)):
        test_gather_mlp.compare(test_gather_mlp.example(dtype, batch, d, f, seed=1), torch.arange(k) % f)
        test_predict_topk.compare(*test_predict_topk.example(dtype, batch, d, 9, f, seed=1), k=k % f)
    test_gather_heads.compare(dtype, batch=2, heads=4, width=6, d=30, tokens=9, kept=2, seed=1)
print("agrees")
"""


def example(dtype: torch.dtype, batch: int, d: int, f: int, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"x": (batch, d), "w1": (f, d), "b1": (f,), "w2t": (f, d), "b2": (d,)}
    return {name: torch.randn(shapes[name], generator=generator, dtype=torch.float64).to(dtype) for name in NAMES}


def compare(
    tensors: dict[str, Tensor], index: Tensor, activation: str = "relu", threshold: float | None = None, backend: str = "cpu"
) -> None:
    dtype = tensors["x"].dtype
    exact = {name: t.double() for name, t in tensors.items()}
    found = gather_mlp(*tensors.values(), index, activation, threshold, backend=backend)
    expected = gather_mlp(*exact.values(), index, activation, threshold, backend="reference")
    terms = gather_mlp(*(t.abs() for t in exact.values()), index, backend="reference")
    assert found.dtype == dtype and found.shape == expected.shape
    assert (found.double() - expected).norm() <= TOLERANCE[dtype] * terms.norm()


@needs_kernel
@DTYPES
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("batch", [1, 2, 3, 5, 8])
@pytest.mark.parametrize(("d", "f"), [(64, 256), (33, 50), (1, 3), (130, 17), (1024, 40)])
def test_the_kernel_computes_the_definition(dtype: torch.dtype, activation: str, batch: int, d: int, f: int) -> None:
    tensors = example(dtype, batch, d, f, seed=batch)
    for k in (0, 1, 3, f // 2, f):
        compare(tensors, torch.randperm(f, generator=torch.Generator().manual_seed(k))[:k], activation)


@needs_kernel
@DTYPES
@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    batch=st.integers(1, 8), d=st.integers(1, 70), f=st.integers(1, 60), seed=st.integers(0, 9), data=st.data(),
    narrow=st.booleans(),
)  # fmt: skip
def test_any_index_works_unsorted_repeated_or_padded(
    dtype: torch.dtype, batch: int, d: int, f: int, seed: int, data: st.DataObject, narrow: bool
) -> None:
    index = torch.tensor(data.draw(st.lists(st.integers(-1, f - 1), max_size=2 * f)), dtype=torch.int64)
    compare(example(dtype, batch, d, f, seed), index.to(torch.int32) if narrow else index)


@needs_kernel
@pytest.mark.parametrize("batch", [1, 4])
def test_rows_below_the_threshold_add_nothing(batch: int) -> None:
    tensors = example(torch.float64, batch, 40, 100, seed=0)
    for threshold in (0.0, 0.5, 5.0, 1e9):
        compare(tensors, torch.arange(100), threshold=threshold)
    everything = gather_mlp(*tensors.values(), torch.arange(100), backend="cpu")
    assert torch.equal(gather_mlp(*tensors.values(), torch.arange(100), threshold=0.0, backend="cpu"), everything)


@needs_kernel
def test_rows_that_are_not_chosen_are_not_read() -> None:
    tensors = example(torch.float32, 1, 32, 20, seed=0)
    expected = gather_mlp(*tensors.values(), torch.tensor([3, 7]), backend="cpu")
    for name in ("w1", "b1", "w2t"):
        keep = tensors[name][[3, 7]].clone()
        tensors[name].fill_(torch.nan)
        tensors[name][[3, 7]] = keep
    assert torch.equal(gather_mlp(*tensors.values(), torch.tensor([3, 7]), backend="cpu"), expected)


@needs_kernel
def test_threads_change_nothing_but_rounding_and_equal_calls_give_equal_bits() -> None:
    tensors, before = example(torch.float32, 2, 256, 512, seed=0), torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            compare(tensors, torch.arange(0, 512, 3))
            results.append([gather_mlp(*tensors.values(), torch.arange(0, 512, 3), backend="cpu") for _ in range(3)])
            assert all(torch.equal(r, results[-1][0]) for r in results[-1])
    finally:
        torch.set_num_threads(before)


@needs_kernel
def test_nan_is_passed_on() -> None:
    tensors = example(torch.float32, 1, 8, 8, seed=0)
    tensors["x"][0, 0] = torch.nan
    assert gather_mlp(*tensors.values(), torch.tensor([1]), backend="cpu").isnan().all()


@needs_kernel
def test_it_runs_inside_a_compiled_graph() -> None:
    tensors, index = example(torch.float32, 2, 16, 32, seed=0), torch.tensor([4, 2, 9])
    torch.library.opcheck(torch.ops.sheaf.gather_mlp.default, (*tensors.values(), index, 0, -1.0))


@pytest.mark.slow
@pytest.mark.skipif(build.compiler() is None, reason="no C++ compiler here; install g++")
@pytest.mark.parametrize("flags", ["-march=x86-64", "-march=x86-64-v3"], ids=["plain", "avx2"])
def test_other_processors_compute_the_same(flags: str, tmp_path: Path) -> None:
    if "v3" in flags and "avx512f" not in build._processor():
        pytest.skip("this processor's own form is the AVX2 one, which every other test checks")
    path = f"{ROOT / 'lib'}:{ROOT / 'kernels'}"
    done = subprocess.run(
        [sys.executable, "-c", VARIANT, flags, str(Path(__file__).parent)], capture_output=True, text=True, timeout=280,
        env={**os.environ, "PYTHONPATH": path, "SHEAF_BUILD": str(tmp_path)}, check=False,
    )  # fmt: skip
    assert done.stdout.strip().endswith("agrees"), done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.skipif(build.compiler() is None, reason="no C++ compiler here; install g++")
@pytest.mark.parametrize("flags", ["-mavx512f -mavx512bw -mavx512bf16 -mfma", "-mavx512f -mfma"], ids=["bf16", "avx512"])
def test_the_avx512_forms_compile(flags: str, tmp_path: Path) -> None:
    compile_ = build._commands("gather_mlp", str(build.compiler()), tmp_path)[0]
    changed = [g for f in compile_ for g in (flags.split() if f == "-march=native" else ["-O1"] if f == "-O3" else [f])]
    done = subprocess.run(changed, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# ------------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"w2t": torch.zeros(8, 20)}, "w2t must have shape .20, 8.*transposed"),
        ({"b1": torch.zeros(8)}, "b1 must have shape"),
        ({"x": torch.zeros(8)}, "x must be .B, d"),
        ({"w1": torch.zeros(20, 8, dtype=torch.float64)}, "w1 is torch.float64"),
        ({"index": torch.zeros(2)}, "index must be"),
        ({"activation": "tanh"}, "activation 'tanh' is unknown"),
        ({"threshold": -1.0}, "must be at least 0"),
        ({"backend": "cuda"}, "backend 'cuda' is unknown"),
    ],
)
def test_bad_input_is_named(change: dict[str, object], said: str) -> None:
    arguments: dict[str, object] = {**example(torch.float32, 1, 8, 20, seed=0), "index": torch.tensor([1])} | change
    with pytest.raises(ValueError, match=said):
        gather_mlp(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("backend", ["reference", pytest.param("cpu", marks=needs_kernel)])
def test_an_index_out_of_range_is_refused(backend: str) -> None:
    with pytest.raises(IndexError):
        gather_mlp(*example(torch.float32, 1, 8, 20, seed=0).values(), torch.tensor([20]), backend=backend)
