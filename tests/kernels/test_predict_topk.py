"""predict_topk: the compiled kernel against its definition, ties, thresholds, unions over a batch, and what must be refused."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sheaf_kernels.predict_topk import compiled, predict_topk, reference

TOLERANCE = {torch.float64: 1e-13, torch.float32: 1e-5, torch.bfloat16: 2e-2}
DTYPES = pytest.mark.parametrize("dtype", list(TOLERANCE), ids=lambda d: str(d).removeprefix("torch."))
needs_kernel = pytest.mark.skipif(not compiled(), reason="the predict_topk kernel is not built; run `make kernels`")


def example(dtype: torch.dtype, batch: int, d: int, rank: int, out: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x, a, b = (
        torch.randn(s, generator=generator, dtype=torch.float64).to(dtype) for s in ((batch, d), (rank, d), (out, rank))
    )
    return x, a, b


def compare(
    x: Tensor, a: Tensor, b: Tensor, k: int, threshold: float | None = None, activation: str = "identity",
    reduce: str = "sum", backend: str = "cpu",
) -> None:  # fmt: skip
    """Same units up to rounding: what was chosen scores no less than the best that was not, within the tolerance."""
    score = reference.scores(x.double(), a.double(), b.double(), activation, reduce)
    slack = TOLERANCE[a.dtype] * float(
        reference.scores(x.double().abs(), a.double().abs(), b.double().abs(), activation, reduce).max()
    )
    index = predict_topk(x, a, b, k, threshold, activation, reduce, backend=backend)
    assert index.shape == (k,) and index.dtype == torch.int64
    chosen = index[index >= 0]
    assert torch.equal(chosen, chosen.unique())  # ascending, none twice
    assert torch.equal(index[len(chosen) :], torch.full((k - len(chosen),), -1))
    rest = torch.ones(len(b), dtype=torch.bool)
    rest[chosen] = False
    if threshold is None:
        assert len(chosen) == k
    else:
        assert not len(chosen) or score[chosen].min() > threshold - slack
        missed = rest & (score > threshold + slack)
        assert len(chosen) == k or not missed.any()
    if len(chosen) == k and k and rest.any():
        assert score[chosen].min() >= score[rest].max() - slack


@needs_kernel
@DTYPES
@pytest.mark.parametrize("activation", ["identity", "relu"])
@pytest.mark.parametrize("reduce", ["sum", "max"])
@pytest.mark.parametrize("batch", [1, 3, 8])
def test_the_kernel_computes_the_definition(dtype: torch.dtype, activation: str, reduce: str, batch: int) -> None:
    for d, rank, out in ((40, 8, 300), (33, 5, 17), (64, 1, 1)):
        tensors = example(dtype, batch, d, rank, out, seed=batch)
        for k in {0, 1, out // 3, out}:
            compare(*tensors, k, None, activation, reduce)
            compare(*tensors, k, 1.0, activation, reduce)


@needs_kernel
@settings(max_examples=60, deadline=None, derandomize=True)
@given(values=st.lists(st.integers(-4, 4), min_size=1, max_size=60), data=st.data())
def test_of_equal_scores_the_first_are_taken(values: list[int], data: st.DataObject) -> None:
    k = data.draw(st.integers(0, len(values)))
    threshold = data.draw(st.sampled_from([None, -2.0, 0.0, 3.5]))
    for dtype in TOLERANCE:
        arguments = (torch.ones(1, 1, dtype=dtype), torch.ones(1, 1, dtype=dtype), torch.tensor(values, dtype=dtype)[:, None], k)
        expected = predict_topk(*arguments, threshold, backend="reference")
        assert torch.equal(predict_topk(*arguments, threshold, backend="cpu"), expected)


@needs_kernel
def test_scores_of_any_size_are_ordered() -> None:
    values = torch.tensor([-1e30, 3e38, -0.0, 0.0, 1e-40, -1e-40, 5.0, float("inf"), float("-inf"), 4.9999995])
    one = torch.ones(1, 1)
    for k in range(len(values) + 1):
        expected = predict_topk(one, one, values[:, None], k, backend="reference")
        assert torch.equal(predict_topk(one, one, values[:, None], k, backend="cpu"), expected)


@needs_kernel
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_predictor_may_be_of_another_dtype_and_threads_do_not_matter(threads: int) -> None:
    x, a, b = example(torch.float64, 2, 512, 64, 1000, seed=0)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        for one in TOLERANCE:
            for other in TOLERANCE:
                compare(x.to(one), a.to(other), b.to(other), k=100)
    finally:
        torch.set_num_threads(before)


@needs_kernel
def test_it_runs_inside_a_compiled_graph() -> None:
    tensors = example(torch.float32, 1, 16, 4, 30, seed=0)
    torch.library.opcheck(torch.ops.sheaf.predict_topk.default, (*tensors, 5, float("-inf"), False, False))


# ------------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"k": 31}, "between 0 and the 30 units"),
        ({"k": -1}, "between 0 and the 30 units"),
        ({"b": torch.zeros(30, 5)}, "b .out, r."),
        ({"x": torch.zeros(16)}, "x must be"),
        ({"a": torch.zeros(4, 16, dtype=torch.float64)}, "one dtype"),
        ({"activation": "gelu"}, "'identity' or 'relu'"),
        ({"reduce": "mean"}, "'sum' or 'max'"),
        ({"backend": "fast"}, "backend 'fast' is unknown"),
    ],
)
def test_bad_input_is_named(change: dict[str, object], said: str) -> None:
    arguments = dict(zip("xab", example(torch.float32, 1, 16, 4, 30, seed=0), strict=True)) | {"k": 3} | change
    with pytest.raises(ValueError, match=said):
        predict_topk(**arguments)  # type: ignore[arg-type]
