"""Tensors in huge pages: shape, dtype, alignment, and memory that stays for as long as a view of it."""

import gc

import pytest
import torch

from sheaf_kernels.memory import huge


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("shape", [(3,), (5, 7), (3, 1001, 523)])
def test_it_is_an_ordinary_tensor(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    made = huge(*shape, dtype=dtype)
    assert made.shape == shape and made.dtype == dtype and made.is_contiguous()
    made.fill_(2)
    part = made.view(-1)[-1:]
    del made
    gc.collect()
    assert part.item() == 2


def test_large_ones_start_at_a_huge_page() -> None:
    assert huge(2**20).data_ptr() % 2**21 == 0
