"""block_sparse on Triton: against its definition (under the interpreter where there is no GPU), the tiles, the GPU benchmark.

Triton reads TRITON_INTERPRET when it is imported, so every check runs in one process of its own that answers line by line.
"""

import json
import math
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sheaf_kernels.block_sparse import Layout, block_sparse_linear, from_dense, gpu_benchmark, reference, to_dense
from sheaf_kernels.block_sparse.triton_groups import groups
from sheaf_kernels.block_sparse.triton_tiles import granule, tiles

ROOT = Path(__file__).resolve().parents[2]
# relative error of a whole tensor against float64: sums are float32, inputs and results have 8 and 11 bits
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 6e-3, torch.float16: 8e-4}
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed; `pip install triton`")
CHECKS: dict[str, Callable[..., None]] = {}


def check(function: Callable[..., None]) -> Callable[..., None]:
    CHECKS[function.__name__] = function
    return function


def serve() -> None:
    """Answer every line of standard input, the name of a check and its arguments, with what went wrong or null."""
    for line in sys.stdin:
        name, arguments = json.loads(line)
        try:
            CHECKS[name](**arguments)
            said = None
        except Exception:
            said = traceback.format_exc()
        print(json.dumps({"wrong": said}), flush=True)


@pytest.fixture(scope="module")
def ask() -> Iterator[Callable[..., None]]:
    interpreter = {} if DEVICE == "cuda" else {"TRITON_INTERPRET": "1"}
    path = f"{ROOT / 'lib'}:{ROOT / 'kernels'}:{Path(__file__).parent}"
    worker = subprocess.Popen(
        [sys.executable, "-c", "import test_block_sparse_triton as t; t.serve()"], text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "SHEAF_TRITON_TUNE": "0", **interpreter},
    )  # fmt: skip

    def run(name: str, **arguments: Any) -> None:
        worker.stdin.write(json.dumps([name, arguments]) + "\n")
        worker.stdin.flush()
        line = worker.stdout.readline()
        assert line, "the process that runs the kernels died"
        wrong = json.loads(line)["wrong"]
        assert wrong is None, wrong

    yield run
    worker.stdin.close()
    worker.wait(30)


# ---------------------------------------------------------------------------------------------------------------- examples


def make_layout(kind: str, rows: int, columns: int, block: int) -> Layout:
    if kind == "full":
        return Layout(torch.ones(rows, columns, dtype=torch.bool), block)
    if kind == "pairs":  # stride 1 on 4 cells: two closed groups
        i = torch.arange(4)
        small = (i[:, None] == i) | (i[:, None] ^ 1 == i)
        return Layout(small[torch.arange(rows) * 4 // rows][:, torch.arange(columns) * 4 // columns], block)
    if kind == "butterfly":  # strides 1 and 2 on 4 cells, stretched
        i = torch.arange(4)
        small = (i[:, None] == i) | (i[:, None] ^ 1 == i) | (i[:, None] ^ 2 == i)
        return Layout(small[torch.arange(rows) * 4 // rows][:, torch.arange(columns) * 4 // columns], block)
    mask = torch.rand(rows, columns, generator=torch.Generator().manual_seed(rows * columns)) < 0.5
    mask[rows // 2], mask[:, columns // 2] = False, False
    return Layout(mask, block)


def draw(layout: Layout, tokens: int, rank: int, dtype: torch.dtype, bias: bool = True) -> dict[str, Tensor | None]:
    random = torch.Generator().manual_seed(tokens)

    def normal(*shape: int) -> Tensor:
        return (torch.randn(shape, generator=random, dtype=torch.float64) * 0.5).to(DEVICE, dtype)

    out, in_ = layout.out_features, layout.in_features
    return {
        "x": normal(tokens, in_), "weight": normal(layout.nnz, layout.block, layout.block),
        "bias": normal(out) if bias else None, "u": normal(out, rank) if rank else None,
        "v": normal(in_, rank) if rank else None, "dy": normal(tokens, out),
    }  # fmt: skip


def results(layout: Layout, tensors: dict[str, Tensor | None], linear: Callable[..., Tensor]) -> dict[str, Tensor]:
    """The output and every gradient."""
    leaf = {k: None if t is None else t.detach().clone().requires_grad_(k != "dy") for k, t in tensors.items()}
    y = linear(leaf["x"], leaf["weight"], layout, leaf["bias"], leaf["u"], leaf["v"])
    y.backward(leaf["dy"])
    return {"y": y.detach()} | {k: t.grad for k, t in leaf.items() if t is not None and k != "dy"}


def expected_of(layout: Layout, tensors: dict[str, Tensor | None]) -> dict[str, Tensor]:
    doubled = {k: None if t is None else t.double() for k, t in tensors.items()}
    return results(layout, doubled, reference.linear)


def close(found: Tensor, expected: Tensor, what: str) -> None:
    assert found.shape == expected.shape, f"{what}: {tuple(found.shape)} is not {tuple(expected.shape)}"
    error = float((found.double() - expected).norm() / expected.norm().clamp_min(1e-300)) if expected.numel() else 0.0
    assert error < TOLERANCE[found.dtype], f"{what} is off by {error:.1e}"


# ------------------------------------------------------------------------------------------------- checks, in the worker


@check
def agrees(kind: str, grid: list[int], block: int, tokens: int, rank: int, dtype: str, bias: bool = True) -> None:
    from sheaf_kernels.block_sparse import triton

    layout = make_layout(kind, *grid, block)
    tensors = draw(layout, tokens, rank, getattr(torch, dtype), bias)
    expected = expected_of(layout, tensors)
    for name, found in results(layout, tensors, triton.linear).items():
        assert found.dtype == tensors["x"].dtype
        close(found, expected[name], name)


def shapes(layout: Layout, dtype: torch.dtype, what: str, rank: int) -> list[Any]:
    """Every tiled shape, and of the resident ones the best of three numbers of rows."""
    from sheaf_kernels.block_sparse import triton, triton_choice

    apart = {c.height: (c, t) for c, t in triton_choice.resident(layout, dtype, what, rank)}
    return [*triton.candidates(layout, dtype, what), *list(apart.values())[:3]]


@check
def every_tile_shape_agrees(kind: str, grid: list[int], block: int, dtype: str, resident: bool) -> None:
    from sheaf_kernels.block_sparse import triton, triton_choice, triton_groups

    layout = make_layout(kind, *grid, block)
    assert bool(triton_choice.resident(layout, getattr(torch, dtype), "forward", 24)) == resident
    tensors = draw(layout, 67, 24, getattr(torch, dtype), bias=False)
    expected = expected_of(layout, tensors)
    x, weight, dy, u, v = (tensors[k] for k in ("x", "weight", "dy", "u", "v"))
    other = [(triton_choice.GROUPS, True)] if triton_groups.groups(layout) else []
    for config, _ in [*shapes(layout, x.dtype, "forward", u.shape[1]), *other]:
        y, z = triton.forward(x, weight, layout, None, u, v, config=config)
        close(y, expected["y"], f"y by {config}")
    weight_shapes = iter([*other, *triton.candidates(layout, x.dtype, "weight gradient")])
    for config, _ in [*shapes(layout, x.dtype, "input gradient", u.shape[1]), *other]:
        chosen = next(weight_shapes, None)
        dx, dweight, du, dv = triton.backward(dy, x, z, weight, layout, u, v, config=config, weight_config=chosen)
        for name, found in (("x", dx), ("weight", dweight), ("u", du), ("v", dv)):
            close(found, expected[name], f"d{name} by {config} and {chosen}")
    for chosen in weight_shapes:
        close(triton.backward(dy, x, z, weight, layout, u, v, wants_dx=False, weight_config=chosen)[1], expected["weight"],
              f"dweight by {chosen}")  # fmt: skip


@check
def empty_rows_and_columns_are_exact() -> None:
    from sheaf_kernels.block_sparse import triton

    layout = Layout(torch.tensor([[True, False, True], [False, False, False]]), 16)
    tensors = draw(layout, 30, 0, torch.float32)
    found = results(layout, tensors, triton.linear)
    assert torch.equal(found["y"][:, 16:], tensors["bias"][16:].expand(30, 16))
    assert not found["x"][:, 16:32].any() and found["x"][:, :16].any() and found["x"][:, 32:].any()


@check
def nothing_at_all_works() -> None:
    from sheaf_kernels.block_sparse import triton

    empty = Layout(torch.zeros(2, 3, dtype=torch.bool), 16)
    for layout, tokens in ((empty, 20), (make_layout("full", 2, 3, 16), 0), (empty, 0)):
        for rank in (0, 8):
            tensors = draw(layout, tokens, rank, torch.float32)
            expected = expected_of(layout, tensors)
            for name, found in results(layout, tensors, triton.linear).items():
                close(found, expected[name], name)


@check
def strides_change_nothing() -> None:
    from sheaf_kernels.block_sparse import triton

    layout = make_layout("random", 5, 3, 32)
    given_ = draw(layout, 41, 20, torch.float32)
    wide = torch.cat([given_["x"], given_["x"]], 1)
    other = given_ | {
        "x": wide[:, : layout.in_features], "weight": given_["weight"].transpose(1, 2).contiguous().transpose(1, 2),
        "u": given_["u"].T.contiguous().T, "v": given_["v"].T.contiguous().T,
    }  # fmt: skip
    y, z = triton.forward(*(given_[k] for k in ("x", "weight")), layout, *(given_[k] for k in ("bias", "u", "v")))
    again, z2 = triton.forward(*(other[k] for k in ("x", "weight")), layout, *(other[k] for k in ("bias", "u", "v")))
    torch.testing.assert_close(again, y, rtol=1e-6, atol=1e-6)
    dy = given_["dy"].T.contiguous().T
    for found, right in zip(
        triton.backward(dy, other["x"], z2, other["weight"], layout, other["u"], other["v"]),
        triton.backward(given_["dy"], given_["x"], z, given_["weight"], layout, given_["u"], given_["v"]), strict=True,
    ):  # fmt: skip
        torch.testing.assert_close(found, right, rtol=1e-5, atol=1e-5)


@check
def equal_calls_give_equal_bits() -> None:
    from sheaf_kernels.block_sparse import triton

    layout = make_layout("random", 3, 4, 16)
    tensors = draw(layout, 700, 16, torch.float32)  # enough tokens for several partial sums
    first, second = (results(layout, tensors, triton.linear) for _ in range(2))
    assert all(torch.equal(first[k], second[k]) for k in first)


@check
def the_public_function_and_its_registration_hold() -> None:
    layout = make_layout("butterfly", 4, 8, 16)
    tensors = draw(layout, 12, 16, torch.float32)
    x, weight, bias, u, v = (tensors[k] for k in ("x", "weight", "bias", "u", "v"))
    y = block_sparse_linear(x.reshape(3, 4, -1), weight, layout, bias, u, v, backend="triton")
    close(y.reshape(12, -1), reference.linear(*(t.double() for t in (x, weight)), layout, bias.double(), u.double(), v.double()),
          "y")  # fmt: skip
    leaves = [t.requires_grad_() for t in (x, weight, bias, u, v)]
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(
        torch.ops.sheaf.block_sparse_triton.default, (*leaves[:2], layout.mask, *leaves[2:]), test_utils=tests
    )


@check
def the_fastest_shape_that_fits_is_taken() -> None:
    from triton.runtime.errors import OutOfResources

    from sheaf_kernels.block_sparse import triton, triton_choice

    ranked = triton.candidates(make_layout("full", 2, 2, 32), torch.bfloat16, "weight gradient")[:4]

    def run(config: object, transposed: bool) -> None:
        if (config, transposed) == ranked[0]:
            raise OutOfResources(2, 1, "shared memory")

    times = iter((3.0, 1.0, 2.0))

    def timer(function: Callable[[], None], *_: object, **__: object) -> float:
        function()
        return next(times)

    before, triton_choice.do_bench = triton_choice.do_bench, timer
    try:
        assert triton_choice._fastest(ranked, run) == ranked[2]
        with pytest.raises(RuntimeError, match="no tile shape fits"):
            triton_choice._fastest(ranked[:1], run)
    finally:
        triton_choice.do_bench = before


@check
def bad_input_is_named() -> None:
    from sheaf_kernels.block_sparse import triton

    layout, odd = make_layout("full", 1, 2, 16), make_layout("full", 1, 2, 24)
    ones = torch.ones(3, 32, device=DEVICE)
    weight = torch.ones(2, 16, 16, device=DEVICE)
    assert triton.supports(layout, torch.bfloat16) and not triton.supports(odd, torch.bfloat16)
    assert not triton.supports(layout, torch.float64)
    with pytest.raises(ValueError, match="float32, bfloat16 and float16"):
        triton.forward(ones.double(), weight.double(), layout)
    with pytest.raises(ValueError, match="multiples of 16; got 24"):
        triton.forward(torch.ones(3, 48, device=DEVICE), torch.ones(2, 24, 24, device=DEVICE), odd)
    with pytest.raises(ValueError, match="no product of a layer"):
        triton.candidates(layout, torch.float32, "sideways")


@check
def every_arm_of_the_benchmark_is_right(dtype: str) -> None:
    from sheaf_kernels.block_sparse import gpu_arms

    layout = gpu_benchmark.cell_layout(256, 128, 4, 1, 16)
    random = torch.Generator().manual_seed(0)
    x, dy = (torch.randn(96, n, generator=random).to(DEVICE, getattr(torch, dtype)) for n in (128, 256))
    made, left_out = gpu_arms.arms(x, layout, rank=8)
    assert not set(left_out) - {"blksprs", "2:4 semi-structured"}
    kept = {k: a for k, a in made.items() if k not in ("blksprs", "2:4 semi-structured", "torch BSR")}
    assert len(kept) == 7
    for name, arm in kept.items():
        assert gpu_arms.check(arm, x, dy) is None, name
    broken = gpu_arms.Arm(lambda a, w: a @ w.T * 1.1, x, kept["cuBLAS, dense"].parameters, kept["cuBLAS, dense"].matrix, 1, 1)
    assert "result is off" in gpu_arms.check(broken, x, dy)


def compiled_for_hopper(name: str, config: Any, fixed: dict[str, Any]) -> Any:
    """A program of bfloat16 layers, compiled without a GPU."""
    from triton import compile as build
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from sheaf_kernels.block_sparse import triton_kernels

    program = getattr(triton_kernels, name)
    values = {"x", "z", "packed", "bias", "y", "left", "right", "out", "weight", "u"}
    tables = {"rows", "columns", "starts", "source", "owner"}
    fixed = {
        "S": 32, "BM": config.m, "BN": config.height, "BK": config.k, "HAS_BIAS": True, "PRECISION": "ieee", "WIDEN": False,
        **fixed,
    }  # fmt: skip
    fixed = {k: v for k, v in fixed.items() if k in program.arg_names}
    types = {
        n: "constexpr" if n in fixed else "*bf16" if n in values else "*i32" if n in tables else "i32" for n in program.arg_names
    }
    if name == "dds_resident":  # a stride of 1 is compiled in
        types["column_stride"], fixed = "constexpr", fixed | {"column_stride": 1}
    aligned = {(i,): [["tt.divisibility", 16]] for i, n in enumerate(program.arg_names) if n not in (*fixed, "tiles", "tail")}
    return build(
        ASTSource(fn=program, signature=types, constexprs=fixed, attrs=aligned), target=GPUTarget("cuda", 90, 32),
        options={"num_warps": config.warps, "num_stages": config.stages},
    )  # fmt: skip


@check
def programs_for_a_hopper_gpu_use_its_tensor_cores() -> None:
    """Compiled without a GPU: every form for 16-bit layers of the paper multiplies by wgmma and copies 16 bytes at once."""
    from sheaf_kernels.block_sparse import triton, triton_choice

    layout = gpu_benchmark.cell_layout(2048, 512, 16, 3)
    for name, what, rank in (
        ("dds", "forward", 32), ("dds", "input gradient", 0), ("sdd", "weight gradient", 0), ("dds_resident", "forward", 64),
    ):  # fmt: skip
        resident = name == "dds_resident"
        config, _ = (triton_choice.resident(layout, torch.bfloat16, what, rank) if resident else
                     triton.candidates(layout, torch.bfloat16, what))[0]  # fmt: skip
        low, steps = -(-rank // config.k), 128 // config.k
        fixed = {"LOW_RANK": rank > 0, "N1": config.n, "N2": config.n2, "STEPS": steps, "LOW": low}
        made = compiled_for_hopper(name, config, fixed)
        assert "wgmma.mma_async" in made.asm["ptx"] and "mma.sync" not in made.asm["ptx"], what
        assert ("ld.global.v4" if resident else "cp.async.cg.shared.global") in made.asm["ptx"], what
        room = config.bytes(2, name == "sdd", steps + low)
        scratch = config.m * max(config.n, config.n2) * 2 if resident else 0  # in which it may turn its results before storing
        assert 0.9 * room <= made.metadata.shared <= 1.1 * room + 1024 + scratch, f"{what}: {made.metadata.shared} is not {room}"
    for low_rank in (False, True):
        compiled_for_hopper("pack", triton_choice.Config(64, 128, 64, 4, 2), {"STEP": 2, "LOW_RANK": low_rank})


# -------------------------------------------------------------------------------------------------------------------- tests


@needs_triton
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize(
    ("kind", "grid", "block", "tokens", "rank"),
    [
        ("butterfly", (16, 4), 32, 129, 0), ("butterfly", (4, 16), 32, 65, 32), ("butterfly", (8, 8), 48, 67, 40),
        ("random", (7, 5), 16, 37, 0), ("random", (5, 7), 64, 130, 16), ("random", (3, 5), 48, 1, 3),
        ("full", (2, 3), 64, 63, 0), ("full", (3, 2), 16, 257, 72), ("butterfly", (4, 4), 128, 31, 5),
    ],
)  # fmt: skip
def test_it_computes_the_definition_and_its_gradients(
    ask: Callable[..., None], dtype: str, kind: str, grid: tuple[int, int], block: int, tokens: int, rank: int
) -> None:
    ask("agrees", kind=kind, grid=grid, block=block, tokens=tokens, rank=rank, dtype=dtype, bias=tokens % 3 != 0)


@needs_triton
@pytest.mark.parametrize(
    ("kind", "grid", "block", "dtype", "resident"),
    [
        ("butterfly", (4, 6), 32, "bfloat16", True), ("pairs", (8, 4), 48, "float16", True),
        ("pairs", (4, 8), 16, "bfloat16", True), ("random", (4, 6), 48, "float32", False),
    ],
)  # fmt: skip
def test_the_choice_of_form_and_tiles_does_not_matter(
    ask: Callable[..., None], kind: str, grid: tuple[int, int], block: int, dtype: str, resident: int
) -> None:
    ask("every_tile_shape_agrees", kind=kind, grid=grid, block=block, dtype=dtype, resident=resident)


@needs_triton
@pytest.mark.parametrize(
    "name",
    [
        "empty_rows_and_columns_are_exact", "nothing_at_all_works", "strides_change_nothing", "equal_calls_give_equal_bits",
        "the_public_function_and_its_registration_hold", "bad_input_is_named",
        "the_fastest_shape_that_fits_is_taken",
    ],
)  # fmt: skip
def test_in_the_worker(ask: Callable[..., None], name: str) -> None:
    ask(name)


@needs_triton
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_arm_of_the_benchmark_computes_the_layer(ask: Callable[..., None], dtype: str) -> None:
    ask("every_arm_of_the_benchmark_is_right", dtype=dtype)


@needs_triton
def test_without_the_interpreter_it_compiles_for_a_gpu_and_refuses_cpu_tensors(tmp_path: Path) -> None:
    code = (
        "import torch, test_block_sparse_triton as t\n"
        "from sheaf_kernels.block_sparse import triton\n"
        "t.programs_for_a_hopper_gpu_use_its_tensor_cores()\n"
        "try: triton.linear(torch.ones(2, 16), torch.ones(1, 16, 16), t.make_layout('full', 1, 1, 16))\n"
        "except ValueError as error: print(error)\n"
    )
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    path = f"{ROOT / 'lib'}:{ROOT / 'kernels'}:{Path(__file__).parent}"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False,
        env={**env, "PYTHONPATH": path, "TRITON_CACHE_DIR": str(tmp_path)},
    )  # fmt: skip
    assert "runs on a GPU; got tensors on cpu" in done.stdout, done.stderr


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    rows=st.integers(1, 9), columns=st.integers(1, 9), block=st.sampled_from([16, 32, 48, 64]), transposed=st.booleans(),
    height=st.sampled_from([1, 2, 4, 8]), step=st.sampled_from([1, 2, 4]), density=st.floats(0, 1), seed=st.integers(0, 99),
)  # fmt: skip
def test_tiles_hold_every_weight_once(
    rows: int, columns: int, block: int, transposed: bool, height: int, step: int, density: float, seed: int
) -> None:
    layout = Layout(torch.rand(rows, columns, generator=torch.Generator().manual_seed(seed)) < density, block)
    edge = granule(block, 16)
    t = tiles(layout, transposed, edge, height, step)
    weight = torch.arange(1.0, layout.nnz * block * block + 1)
    matrix = torch.zeros(layout.in_features, layout.out_features) if transposed else torch.zeros(*_sides(layout))
    for i in range(t.count):
        for j in range(int(t.starts[i]), int(t.starts[i + 1])):
            for row, begin in zip(t.rows[i].tolist(), t.source[j].tolist(), strict=True):
                if begin >= 0:
                    n, k = torch.arange(edge)[:, None], torch.arange(edge)
                    at = matrix[row * edge :][:edge, int(t.columns[j]) * edge :][:, :edge]
                    at += weight[begin + n * t.row_stride + k * t.column_stride]
    right = to_dense(weight.view(layout.nnz, block, block), layout)
    assert torch.equal(matrix, right.T if transposed else right)
    assert sorted(r for r in t.rows.flatten().tolist() if r >= 0) == list(range(len(matrix) // edge))
    assert not (t.starts % step).any() and len(t.owner) * step == t.entries
    assert ((t.columns >= 0) & (t.columns < matrix.shape[1] // edge)).all()
    single = tiles(layout, transposed, edge, 1, step)
    assert t.entries + t.count <= single.entries + single.count  # no worse than a row a tile


def _sides(layout: Layout) -> tuple[int, int]:
    return layout.out_features, layout.in_features


def test_tiles_are_the_cells_of_a_butterfly() -> None:
    layout = gpu_benchmark.cell_layout(2048, 512, 16, 3, 32)  # cells of 128 x 32
    whole = tiles(layout, False, 32, 4, 2)
    assert whole.count == 16 and whole.entries * 4 == layout.nnz  # a cell is a tile, nothing is padding
    union = tiles(layout, True, 32, 8, 2)  # eight cells of the group that strides 1, 2 and 4 stay in
    assert union.count == 2 and union.entries * 8 == 2 * layout.nnz
    scattered = Layout(torch.eye(4, dtype=torch.bool).repeat(4, 1), 32)  # equal rows that lie apart
    assert tiles(scattered, False, 32, 4, 1).entries == 4


def test_the_benchmark_counts_and_refuses() -> None:
    layout = gpu_benchmark.cell_layout(3072, 768, 16, 3)
    assert layout.density == 0.25 and layout.block == 48 and (layout.mask.sum(1) == 4).all()
    ms = gpu_benchmark.limit_ms(25088, 768, 3072, 768 * 3072, 2, False, 700, 4200)
    assert ms == pytest.approx(2 * 25088 * 768 * 3072 / 700e9)  # bound by arithmetic
    assert gpu_benchmark.limit_ms(25088, 768, 3072, 768 * 3072 // 8, 2, True, 700, 4200) == pytest.approx(0.1379, rel=0.01)
    with pytest.raises(ValueError, match="power of two"):
        gpu_benchmark.cell_layout(3072, 768, 12, 1)
    with pytest.raises(ValueError, match="divisor of 48"):
        gpu_benchmark.cell_layout(3072, 768, 16, 3, 32)
    rows: list[dict[str, Any]] = [
        {"layer": "l", "tokens": 1, "in": 1, "out": 1, "density": 1.0, "block": 16, "dtype": "d", "pass": "forward", "arm": arm,
         "round": i, "ms": ms, "host_ms": ms, "limit_ms": 1.0, "tflops": 1.0, "gbytes_s": 1.0}
        for arm, times in (("cuBLAS, dense", (4.0, 6.0, 50.0)), ("block sparse", (2.0, 2.0, 25.0))) for i, ms in enumerate(times)
    ]  # fmt: skip
    found = {r["arm"]: r for r in gpu_benchmark.summary([*rows, {"layer": "l", "arm": "peer", "left_out": "not installed"}])}
    assert found["block sparse"]["speed_up"] == 2 and found["cuBLAS, dense"]["speed_up"] == 1 and "peer" not in found
    assert math.isnan(gpu_benchmark.summary(rows[3:])[0]["speed_up"])
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="needs a CUDA GPU"):
            gpu_benchmark.measure(gpu_benchmark.LAYERS[0], layout)


def test_dense_blocks_round_trip_in_the_form_that_peers_use() -> None:
    full = Layout(torch.ones(4, 2, dtype=torch.bool), 16)
    x = torch.randn(64, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(to_dense(from_dense(x, full), full), x)


@pytest.mark.parametrize(("kind", "grid", "count"), [("pairs", (8, 16), 2), ("butterfly", (4, 4), None), ("full", (2, 3), None)])
def test_closed_groups_are_the_runs_a_layout_never_leaves(kind: str, grid: tuple[int, int], count: int | None) -> None:
    layout = make_layout(kind, *grid, 16)
    found = groups(layout)
    assert (found and found.count) == count
    if found:
        weight = torch.randn(layout.nnz, 16, 16)
        dense = torch.zeros(found.count, found.rows, found.columns)
        dense.view(-1)[found.index] = weight.reshape(-1)
        assert torch.equal(torch.block_diag(*dense), to_dense(weight, layout))
