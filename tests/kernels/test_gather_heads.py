"""gather_heads: the compiled kernel against its definition and a full cache, skipped heads made up for, what must be refused."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sheaf_kernels.gather_heads import compiled, gather_heads

TOLERANCE = {torch.float64: 1e-13, torch.float32: 2e-5, torch.bfloat16: 3e-2}
DTYPES = pytest.mark.parametrize("dtype", list(TOLERANCE), ids=lambda d: str(d).removeprefix("torch."))
needs_kernel = pytest.mark.skipif(not compiled(), reason="the gather_heads kernel is not built; run `make kernels`")


def weights(dtype: torch.dtype, heads: int, width: int, d: int, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    slab, bias = (heads, width, d), (heads, width)
    shapes = (slab, bias, slab, bias, slab, bias, slab, (d,))
    return [(torch.randn(s, generator=generator, dtype=torch.float64) * d**-0.5).to(dtype) for s in shapes]


def decode(
    dtype: torch.dtype, batch: int, given_: list[Tensor], xs: Tensor, chosen: list[Tensor], mode: str, backend: str
) -> Tensor:
    """Outputs [tokens, B, d]. mode "full": every head's cache is kept complete; "made up": skipped heads are made up for."""
    (heads, width, d), capacity = given_[0].shape, len(xs) + 1
    given_ = [t.to(dtype) for t in given_]
    keys, values = (torch.zeros(batch, heads, capacity, width, dtype=dtype) for _ in range(2))
    inputs, filled = torch.zeros(batch, capacity, d, dtype=dtype), torch.zeros(heads, dtype=torch.int64)
    out = []
    for t, x in enumerate(xs.to(dtype)):
        if mode == "full":
            gather_heads(x, *given_, keys, values, t, torch.arange(heads), backend=backend)
            out.append(gather_heads(x, *given_, keys, values, t, chosen[t], backend=backend))
        else:
            out.append(gather_heads(x, *given_, keys, values, t, chosen[t], inputs, filled, backend=backend))
            assert all(int(filled[h]) == t + 1 for h in chosen[t].tolist() if h >= 0)
    return torch.stack(out)


def compare(
    dtype: torch.dtype, batch: int, heads: int, width: int, d: int, tokens: int, kept: int, seed: int, backend: str = "cpu"
) -> None:
    generator = torch.Generator().manual_seed(seed)
    given_ = weights(dtype, heads, width, d, seed)
    xs = torch.randn(tokens, batch, d, generator=generator, dtype=torch.float64).to(dtype)
    chosen = [torch.randperm(heads, generator=generator)[:kept] for _ in range(tokens)]
    expected = decode(torch.float64, batch, given_, xs, chosen, "full", "reference")
    for mode in ("full", "made up"):
        found = decode(dtype, batch, given_, xs, chosen, mode, backend)
        assert found.dtype == dtype
        assert (found.double() - expected).norm() <= TOLERANCE[dtype] * expected.norm(), mode


@DTYPES
@pytest.mark.parametrize("backend", ["reference", pytest.param("cpu", marks=needs_kernel)])
@pytest.mark.parametrize(("batch", "heads", "width", "d"), [(1, 4, 16, 64), (3, 8, 4, 32), (2, 3, 5, 15), (8, 2, 8, 16)])
def test_skipped_heads_are_made_up_for_exactly(
    dtype: torch.dtype, backend: str, batch: int, heads: int, width: int, d: int
) -> None:
    for kept in (0, 1, heads // 2, heads):
        compare(dtype, batch, heads, width, d, tokens=7, kept=kept, seed=kept, backend=backend)


@needs_kernel
@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    batch=st.integers(1, 4), heads=st.integers(1, 6), width=st.integers(1, 9), d=st.integers(1, 40),
    tokens=st.integers(1, 12), seed=st.integers(0, 99), data=st.data(),
)  # fmt: skip
def test_any_shape_works(batch: int, heads: int, width: int, d: int, tokens: int, seed: int, data: st.DataObject) -> None:
    kept = data.draw(st.integers(0, heads))
    compare(torch.float64, batch, heads, width, d, tokens, kept, seed)


@needs_kernel
def test_repeats_count_padding_does_not_and_threads_change_only_rounding() -> None:
    given_ = weights(torch.float64, 4, 8, 32, seed=0)
    x = torch.randn(2, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    before = torch.get_num_threads()

    def run(heads: list[int]) -> Tensor:
        cache = [torch.zeros(2, 4, 3, 8, dtype=torch.float64) for _ in range(2)]
        return gather_heads(x, *given_, *cache, 0, torch.tensor(heads, dtype=torch.int32), backend="cpu") - given_[-1]

    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            torch.testing.assert_close(run([2, -1, 2, 0]), 2 * run([2]) + run([0]), rtol=1e-12, atol=1e-12)
            assert not run([]).any() and not run([-1]).any()
    finally:
        torch.set_num_threads(before)


@needs_kernel
def test_heads_that_are_not_chosen_are_neither_read_nor_written() -> None:
    given_ = weights(torch.float32, 4, 8, 32, seed=0)
    for tensor in given_[:-1]:
        tensor[1] = torch.nan
    cache = [torch.full((1, 4, 3, 8), torch.nan) for _ in range(2)]
    y = gather_heads(torch.ones(1, 32), *given_, *cache, 0, torch.tensor([0, 3]), backend="cpu")
    assert y.isfinite().all()
    for tensor in cache:
        assert tensor[:, [1, 2]].isnan().all() and tensor[:, [0, 3], 0].isfinite().all() and tensor[:, :, 1:].isnan().all()


@needs_kernel
def test_large_scores_do_not_overflow() -> None:
    given_ = [t * 100 for t in weights(torch.float32, 2, 8, 16, seed=0)]
    xs = torch.randn(6, 1, 16, generator=torch.Generator().manual_seed(0)) * 10
    chosen = [torch.tensor([0, 1])] * 6
    expected = decode(torch.float64, 1, given_, xs, chosen, "full", "reference")
    found = decode(torch.float32, 1, given_, xs, chosen, "full", "cpu")
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


@needs_kernel
def test_it_runs_inside_a_compiled_graph() -> None:
    given_ = weights(torch.float32, 2, 4, 8, seed=0)
    cache = [torch.zeros(1, 2, 3, 4) for _ in range(2)]
    extra = (torch.zeros(1, 3, 8), torch.zeros(2, dtype=torch.int64))
    torch.library.opcheck(
        torch.ops.sheaf.gather_heads.default,
        (torch.ones(1, 8), *given_, *cache, torch.tensor(1), torch.tensor([1]), *extra),
        test_utils=("test_schema", "test_faketensor"),
    )


# ------------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"length": 3}, "room for 3 tokens"),
        ({"length": -1}, "room for 3 tokens"),
        ({"wot": torch.zeros(8, 8)}, "wot must have shape"),
        ({"keys": torch.zeros(1, 2, 3, 5)}, "keys must have shape"),
        ({"keys": torch.zeros(1, 2, 4, 3).transpose(2, 3)}, "must be contiguous"),
        ({"x": torch.zeros(1, 8, dtype=torch.float64)}, "convert one of them"),
        ({"heads": torch.zeros(1, 1, dtype=torch.int64)}, "heads must be"),
        ({"filled": torch.zeros(2, dtype=torch.int64)}, "give inputs too"),
        ({"filled": torch.zeros(3, dtype=torch.int64), "inputs": torch.zeros(1, 3, 8)}, "filled must be"),
        ({"backend": "gpu"}, "backend 'gpu' is unknown"),
    ],
)
def test_bad_input_is_named(change: dict[str, object], said: str) -> None:
    names = ("wq", "bq", "wk", "bk", "wv", "bv", "wot", "bo")
    arguments: dict[str, object] = dict(zip(names, weights(torch.float32, 2, 4, 8, seed=0), strict=True))
    arguments |= {
        "x": torch.ones(1, 8), "keys": torch.zeros(1, 2, 3, 4), "values": torch.zeros(1, 2, 3, 4), "length": 0,
        "heads": torch.tensor([0]),
    } | change  # fmt: skip
    with pytest.raises(ValueError, match=said):
        gather_heads(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("backend", ["reference", pytest.param("cpu", marks=needs_kernel)])
def test_a_head_out_of_range_is_refused(backend: str) -> None:
    cache = [torch.zeros(1, 2, 3, 4) for _ in range(2)]
    with pytest.raises(IndexError):
        gather_heads(
            torch.ones(1, 8), *weights(torch.float32, 2, 4, 8, seed=0), *cache, 0, torch.tensor([2]), backend=backend
        )
