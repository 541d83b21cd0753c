"""Variants of the miniatures: masks of a given reach, replaced masks, and a split solved exactly."""

import numpy as np
import pytest
import torch

from sheaf.pixelfly import variants
from sheaf.pixelfly.budget import allocate_exactly
from sheaf.pixelfly.diagnosis import replace_masks
from sheaf.pixelfly.layers import PixelflyLinear
from sheaf.pixelfly.models import build, schema
from sheaf.pixelfly.sparsify import sparsify


@pytest.mark.parametrize("shape", [(32, 32), (128, 32), (32, 128)])
@pytest.mark.parametrize("stride", variants.REACHES)
def test_masks_of_every_reach_have_as_many_blocks_and_reach_just_as_far(shape: tuple[int, int], stride: int) -> None:
    rows, columns = shape
    mask = variants.with_reach(rows, columns, rows * columns // 4, stride)
    assert mask.sum() == rows * columns // 4
    cells = min(shape)
    i, j = np.nonzero(mask)
    far = (i * cells // rows) ^ (j * cells // columns)
    assert stride <= far.max() < 2 * stride, "a stride beyond the group, or not even the stride itself"
    assert {0, *(2**k for k in range(stride.bit_length()))} <= set(far.tolist())


@pytest.mark.parametrize(("nnz", "stride"), [(257, 4), (96, 8), (256, 32), (512, 4)])
def test_a_reach_that_does_not_fit_is_refused(nnz: int, stride: int) -> None:
    with pytest.raises(ValueError, match="cannot reach exactly"):
        variants.with_reach(32, 32, nnz, stride)


def test_replaced_masks_keep_their_number_of_blocks() -> None:
    model = build("mixer-mini", 0)
    sparsify(model, 0.25, pattern="flat", block=4, include=r"channel", seed=0)
    before = [m.layout.nnz for m in model.modules() if isinstance(m, PixelflyLinear)]
    assert replace_masks(model, 0, lambda m, _, __: variants.with_reach(*m.shape, int(m.sum()), 4)) == len(before)
    after = [m for m in model.modules() if isinstance(m, PixelflyLinear)]
    assert [m.layout.nnz for m in after] == before
    assert not np.asarray(after[0].mask)[: len(after[0].mask) // 2, after[0].mask.shape[1] // 2 :].any()
    with pytest.raises(ValueError, match="must be"):
        replace_masks(model, 0, lambda m, _, __: np.ones(m.shape, bool))


def test_both_splits_spend_half_of_the_operations_and_differ() -> None:
    types = {t.name: t for t in schema("vit-mini") if not t.fixed}
    table = variants.solved().set_index("layer type")
    whole = sum(t.operations for t in types.values())
    for by in ("rule", "exact"):
        spent = sum(types[str(name)].operations * d for name, d in table[by].items())
        assert spent <= variants.SOLVED_DENSITY * whole * (1 + 1e-9)
        assert spent >= 0.98 * variants.SOLVED_DENSITY * whole, "a split that leaves its budget would be no fair rival"
    assert not np.allclose(table["rule"], table["exact"])
    assert allocate_exactly(schema("vit-mini"), 0.25, 8) == pytest.approx(dict.fromkeys(types, 0.25)), (
        "as the module says"
    )


@pytest.mark.parametrize("by", ["rule", "exact"])
def test_a_solved_split_trains_with_the_weights_it_promises(by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[torch.nn.Module] = []
    monkeypatch.setattr(variants, "_run", lambda job, model, data, density: made.append(model) or {})
    variants.train_solved({"dataset": "digits", "model": "vit-mini", "seed": 0, "by": by})
    types = {t.name: t for t in schema("vit-mini") if not t.fixed}
    wanted = sum(types[str(n)].parameters * d for n, d in variants.solved().set_index("layer type")[by].items())
    blocks = [(name, m) for name, m in made[0].named_modules() if name.split(".")[0] == "blocks"]
    kept = sum(
        m.layout.nnz * m.block**2 if isinstance(m, PixelflyLinear) else m.weight.numel()
        for _, m in blocks if isinstance(m, PixelflyLinear | torch.nn.Linear)
    )  # fmt: skip
    assert kept == pytest.approx(wanted, rel=0.01)
