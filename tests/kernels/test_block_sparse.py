"""block_sparse: the compiled kernel against its definition, its gradients, odd shapes, and input that must be refused."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sheaf_kernels import build
from sheaf_kernels.block_sparse import Layout, block_sparse_linear, compiled, from_dense, to_dense

ROOT = Path(__file__).resolve().parents[2]
# error against float64, relative to the same sums of absolute values: a sum that cancels is no better known than its terms
TOLERANCE = {torch.float64: 1e-15, torch.float32: 1e-6, torch.bfloat16: 5e-3}
DTYPES = pytest.mark.parametrize("dtype", list(TOLERANCE), ids=lambda d: str(d).removeprefix("torch."))
needs_kernel = pytest.mark.skipif(not compiled(), reason="the block_sparse kernel is not built; run `make kernels`")
VARIANT = """
import sys
import sheaf_kernels.build as b
march, runs, tests = sys.argv[1:]
b.FLAGS = tuple(march if f.startswith("-march") else "-O1" if f == "-O3" else f for f in b.FLAGS)
made, said = b.build("block_sparse")
if made is None:
    sys.exit(said)
if runs == "no":
    sys.exit(print("compiles"))
sys.path.insert(0, tests)
from test_block_sparse import compare, example
import torch
for dtype in (torch.float64, torch.float32, torch.bfloat16):
    for block, rank in ((16, 0), (32, 16), (24, 5), (4, 3)):
        compare(*example(dtype, (4, 3), block, tokens=53, rank=rank, density=0.5, seed=1))
print("agrees")
"""


def example(
    dtype: torch.dtype,
    grid: tuple[int, int],
    block: int,
    tokens: int,
    rank: int,
    density: float,
    seed: int,
    bias: bool = True,
) -> tuple[Layout, dict[str, Tensor | None]]:
    generator = torch.Generator().manual_seed(seed)
    layout = Layout(torch.rand(grid, generator=generator) < density, block)

    def draw(*shape: int) -> Tensor:
        return (torch.randn(shape, generator=generator, dtype=torch.float64) * 0.5).to(dtype)

    out, in_ = layout.out_features, layout.in_features
    return layout, {
        "x": draw(tokens, in_), "weight": draw(layout.nnz, block, block), "bias": draw(out) if bias else None,
        "u": draw(out, rank) if rank else None, "v": draw(in_, rank) if rank else None, "dy": draw(tokens, out),
    }  # fmt: skip


def results(layout: Layout, tensors: dict[str, Tensor | None], backend: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """The output and every gradient."""
    leaf = {k: None if t is None else t.to(dtype).clone().requires_grad_(k != "dy") for k, t in tensors.items()}
    y = block_sparse_linear(leaf["x"], leaf["weight"], layout, leaf["bias"], leaf["u"], leaf["v"], backend=backend)
    y.backward(leaf["dy"])
    return {"y": y.detach()} | {k: t.grad for k, t in leaf.items() if t is not None and k != "dy"}


def compare(layout: Layout, tensors: dict[str, Tensor | None]) -> None:
    dtype = tensors["x"].dtype
    expected = results(layout, tensors, "reference", torch.float64)
    terms = results(layout, {k: None if t is None else t.abs() for k, t in tensors.items()}, "reference", torch.float64)
    for name, found in results(layout, tensors, "cpu", dtype).items():
        assert found.dtype == dtype and found.shape == expected[name].shape
        error, size = (found.double() - expected[name]).norm(), terms[name].norm()
        assert error <= TOLERANCE[dtype] * size, (name, float(error), float(size))


@needs_kernel
@DTYPES
@pytest.mark.parametrize("block", [1, 4, 5, 8, 16, 24, 32, 48, 64])
@pytest.mark.parametrize("rank", [0, 3, 16, 40])
def test_the_kernel_computes_the_definition_and_its_gradients(dtype: torch.dtype, block: int, rank: int) -> None:
    for tokens in (1, 7, 50, 301):
        compare(*example(dtype, (3, 5), block, tokens, rank, 0.5, seed=tokens))


@needs_kernel
@DTYPES
@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    rows=st.integers(1, 6), columns=st.integers(1, 6), block=st.sampled_from([2, 8, 16, 32]), tokens=st.integers(0, 120),
    rank=st.sampled_from([0, 1, 8]), density=st.floats(0, 1), seed=st.integers(0, 99), bias=st.booleans(),
)  # fmt: skip
def test_any_mask_works(
    dtype: torch.dtype,
    rows: int,
    columns: int,
    block: int,
    tokens: int,
    rank: int,
    density: float,
    seed: int,
    bias: bool,
) -> None:
    compare(*example(dtype, (rows, columns), block, tokens, rank, density, seed, bias))


@needs_kernel
@pytest.mark.parametrize("rank", [0, 2])
def test_gradients_agree_with_finite_differences(rank: int) -> None:
    layout, tensors = example(torch.float64, (2, 3), 4, 5, rank, 0.6, seed=3)
    names = [k for k in ("x", "weight", "bias", "u", "v") if tensors[k] is not None]

    def run(*values: Tensor) -> Tensor:
        given_ = dict(zip(names, values, strict=True))
        return block_sparse_linear(given_["x"], given_["weight"], layout, given_["bias"], given_.get("u"), given_.get("v"),
                                   backend="cpu")  # fmt: skip

    assert torch.autograd.gradcheck(run, tuple(tensors[k].clone().requires_grad_() for k in names))


@needs_kernel
def test_empty_rows_give_the_bias_and_empty_columns_no_gradient() -> None:
    mask = torch.tensor([[True, False], [False, False]])
    layout, tensors = example(torch.float32, (2, 2), 16, 30, 0, 1.0, seed=0)
    layout = Layout(mask, 16)
    tensors["weight"] = tensors["weight"][: layout.nnz]
    found = results(layout, tensors, "cpu", torch.float32)
    assert torch.equal(found["y"][:, 16:], tensors["bias"][16:].expand(30, 16))
    assert not found["x"][:, 16:].any() and found["x"][:, :16].any()


@needs_kernel
def test_strided_input_and_leading_axes() -> None:
    layout, tensors = example(torch.float32, (2, 3), 8, 4 * 6, 4, 0.7, seed=2)
    x = tensors["x"].reshape(4, 6, -1)
    whole = block_sparse_linear(x, tensors["weight"], layout, None, tensors["u"], tensors["v"], backend="cpu")
    strided = x.transpose(0, 1).contiguous().transpose(0, 1)
    assert not strided.is_contiguous() and whole.shape == (4, 6, layout.out_features)
    again = block_sparse_linear(strided, tensors["weight"], layout, None, tensors["u"], tensors["v"], backend="cpu")
    torch.testing.assert_close(again, whole, rtol=0, atol=0)


@needs_kernel
def test_threads_change_no_more_than_rounding() -> None:
    layout, tensors = example(torch.float32, (8, 4), 16, 700, 8, 0.4, seed=5)
    before = torch.get_num_threads()
    try:
        found = {}
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found[threads] = results(layout, tensors, "cpu", torch.float32)
            again = results(layout, tensors, "cpu", torch.float32)
            assert all(torch.equal(found[threads][k], again[k]) for k in again), (
                "the same threads must give the same bits"
            )
        for name in found[1]:
            torch.testing.assert_close(found[1][name], found[2][name], rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(found[1][name], found[3][name], rtol=1e-4, atol=1e-4)
    finally:
        torch.set_num_threads(before)


@needs_kernel
def test_autocast_computes_in_bfloat16() -> None:
    layout, tensors = example(torch.float32, (2, 2), 16, 20, 4, 1.0, seed=1)
    args = (tensors["x"], tensors["weight"], layout, tensors["bias"], tensors["u"], tensors["v"])
    with torch.autocast("cpu", torch.bfloat16):
        y = block_sparse_linear(*args)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), block_sparse_linear(*args), rtol=0.05, atol=0.1)


@needs_kernel
@pytest.mark.slow
@pytest.mark.parametrize(
    ("march", "needs"),
    [
        ("x86-64", ""), ("x86-64-v3", "avx2"), ("x86-64-v4", "avx512f"), ("cooperlake", "avx512_bf16"),
        ("sapphirerapids", "amx_bf16"),
    ],
)
def test_every_instruction_set_agrees(march: str, needs: str, tmp_path: Path) -> None:
    """Compiled everywhere, run where the processor can."""
    if platform.machine() != "x86_64":
        pytest.skip("instruction sets of x86-64")
    runs = needs in Path("/proc/cpuinfo").read_text().split() or not needs
    done = subprocess.run(
        [sys.executable, "-c", VARIANT, f"-march={march}", "yes" if runs else "no", str(Path(__file__).parent)],
        capture_output=True, text=True, timeout=250, check=False,
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'lib'}:{ROOT / 'kernels'}", "SHEAF_BUILD": str(tmp_path)},
    )  # fmt: skip
    assert done.stdout.strip() == ("agrees" if runs else "compiles"), done.stderr


@needs_kernel
@pytest.mark.parametrize(("block", "rank"), [(16, 0), (32, 0), (48, 5)])
def test_a_token_that_is_not_a_number_spoils_only_its_own_row(block: int, rank: int) -> None:
    """Padding is multiplied too: it must not carry one row's NaN into another, nor what scratch memory held before."""
    layout, tensors = example(torch.bfloat16, (3, 3), block, 70, rank, 0.7, seed=2)
    args = (tensors["weight"], layout, tensors["bias"], tensors["u"], tensors["v"])
    wanted = block_sparse_linear(tensors["x"], *args, backend="cpu")
    spoilt = tensors["x"].clone()
    spoilt[33] = float("nan")
    found = block_sparse_linear(spoilt, *args, backend="cpu")
    assert found[33].isnan().any()
    others = torch.arange(70) != 33
    assert torch.equal(found[others], wanted[others])
    assert torch.equal(block_sparse_linear(tensors["x"], *args, backend="cpu"), wanted)


def test_dense_and_back() -> None:
    layout, tensors = example(torch.float64, (3, 4), 5, 1, 0, 0.5, seed=7)
    matrix = to_dense(tensors["weight"], layout)
    assert torch.equal(from_dense(matrix, layout), tensors["weight"])
    kept = layout.mask.repeat_interleave(5, 0).repeat_interleave(5, 1)
    assert not matrix[~kept].any()
    assert torch.equal(to_dense(from_dense(matrix.T, layout.transposed()), layout.transposed()), matrix.T)


def test_layouts_are_values() -> None:
    mask = torch.eye(3, dtype=torch.bool)
    assert Layout(mask, 4) == Layout(mask.clone(), 4) and len({Layout(mask, 4), Layout(mask.clone(), 4)}) == 1
    assert Layout(mask, 4) != Layout(mask, 8) and Layout(mask, 4) != Layout(~mask, 4)
    assert Layout(mask, 4).density == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"x": torch.zeros(2, 7)}, "x must have shape"),
        ({"weight": torch.zeros(1, 4, 4)}, "weight must have shape"),
        ({"bias": torch.zeros(3)}, "bias must have shape"),
        ({"u": torch.zeros(8, 2)}, "needs both u"),
        ({"u": torch.zeros(8, 2), "v": torch.zeros(8, 3)}, "must have shape"),
        ({"bias": torch.zeros(8, dtype=torch.float64)}, "convert one"),
        ({"backend": "gpu"}, "unknown; use one of"),
    ],
)
def test_bad_input_is_named(change: dict[str, object], words: str) -> None:
    layout = Layout(torch.ones(2, 2, dtype=torch.bool), 4)
    arguments = {"x": torch.zeros(2, 8), "weight": torch.zeros(4, 4, 4), "layout": layout} | change
    with pytest.raises(ValueError, match=words):
        block_sparse_linear(**arguments)


@pytest.mark.parametrize(("mask", "block"), [(torch.zeros(0, 2), 4), (torch.ones(3), 4), (torch.ones(2, 2), 0)])
def test_bad_layouts_are_refused(mask: Tensor, block: int) -> None:
    with pytest.raises(ValueError):
        Layout(mask, block)


def test_building_is_known() -> None:
    assert "block_sparse" in build.operations()


@needs_kernel
def test_every_peer_computes_the_same_product() -> None:
    from sheaf_kernels.block_sparse.benchmark import dense_arms, regular_layout, sparse_arm
    from sheaf_kernels.block_sparse.peers import monarch, peers

    layout = regular_layout(64, 128, 16, 0.25)
    random = torch.Generator().manual_seed(0)
    x, dy = torch.randn(24, 128, generator=random), torch.randn(24, 64, generator=random)
    weight = torch.randn(layout.nnz, 16, 16, generator=random)
    matrix = to_dense(weight, layout)
    arms = peers(x, weight, layout, dy) | dense_arms(x, matrix, dy, 16) | {"ours": sparse_arm(x, weight, layout, dy)}
    assert len(arms) >= 8
    for name, (forward, backward) in arms.items():
        y = forward()
        y = y[0] if isinstance(y, tuple) else y
        y = torch.as_tensor(y.to_dense() if isinstance(y, Tensor) and y.is_mkldnn else y)
        y = y if y.shape == (24, 64) else y.T
        torch.testing.assert_close(y, x @ matrix.T, rtol=1e-4, atol=1e-3, msg=name)
        backward()
    arm, parameters = monarch(x, 64, dy, layout.nnz * 256)
    assert arm[0]().shape == (24, 64) and len(arm[1]()) == 3
    assert abs(parameters / (layout.nnz * 256) - 1) < 0.5


def test_the_efficiency_is_against_the_best_dense_arm() -> None:
    from sheaf_kernels.block_sparse.benchmark import efficiency

    times = {"block sparse": (1.0, 2.0), "slow": (9.0, 9.0), "fast forward": (3.0, 9.0), "fast backward": (9.0, 6.0)}
    samples = [
        {"arm": arm, "round": i, "forward_s": f, "backward_s": b} for i in range(3) for arm, (f, b) in times.items()
    ]
    assert efficiency(samples, 0.25) == pytest.approx([0.25 * (3 + 6) / 3] * 3)
    assert efficiency(samples, 0.25, "forward") == pytest.approx([0.75] * 3)
