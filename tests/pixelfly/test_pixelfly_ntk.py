"""The empirical NTK against its definition, which parameters count, distances and what their samples are."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import spearmanr
from torch import nn

from sheaf.pixelfly import ntk, tables
from sheaf.pixelfly.layers import MaskedLinear, PixelflyLinear
from sheaf.pixelfly.patterns import plan


def by_backward(model: nn.Module, x: torch.Tensor) -> np.ndarray:
    """The definition, one backward pass per input and output."""
    rows = []
    for one in x:
        outputs = model(one[None])[0]
        grads = [torch.autograd.grad(o, list(model.parameters()), retain_graph=True) for o in outputs]
        rows.append(torch.stack([torch.cat([g.flatten() for g in group]) for group in grads]))
    j = torch.stack(rows).double()  # [inputs, outputs, parameters]
    return torch.einsum("ncp,mcp->nm", j, j).numpy()


def inputs(n: int = 5, width: int = 8) -> torch.Tensor:
    return torch.randn(n, width, generator=torch.Generator().manual_seed(0))


def test_a_linear_model_has_the_kernel_one_computes_by_hand():
    model, x = nn.Linear(8, 3), inputs()
    expected = 3 * (x.double() @ x.double().T + 1)  # three outputs, each with its weights and bias
    assert ntk.kernel(model, x) == pytest.approx(expected.numpy(), rel=1e-5)


def test_the_kernel_is_the_definition():
    torch.manual_seed(0)
    sparse = PixelflyLinear(8, 8, plan("pixelfly", 8, 8, 2, 0.9), backend="reference")
    model = nn.Sequential(nn.Linear(8, 8), nn.GELU(), sparse, nn.LayerNorm(8), nn.Linear(8, 3))
    found = ntk.kernel(model, inputs())
    assert found == pytest.approx(by_backward(model, inputs()), rel=1e-4)
    assert found == pytest.approx(found.T) and np.linalg.eigvalsh(found).min() > -1e-4 * np.trace(found)


def test_masked_weights_are_no_parameters():
    x, mask = inputs(), torch.zeros(3, 8, dtype=torch.bool)
    mask[:, :2] = True
    expected = 3 * (x[:, :2].double() @ x[:, :2].double().T + 1)
    assert ntk.kernel(MaskedLinear(mask), x) == pytest.approx(expected.numpy(), rel=1e-5)


def test_distances_by_hand():
    k, dense = np.diag([2.0, 2.0]), np.diag([1.0, 1.0])
    assert ntk.distance(k, dense) == pytest.approx(1)
    assert ntk.distance(k, dense, "unit trace") == pytest.approx(0) == ntk.distance(k, dense, "unit norm")
    other = np.diag([1.0, 3.0])
    assert ntk.distance(other, dense, "unit trace") == pytest.approx(np.sqrt(2 * 0.25**2) / np.sqrt(0.5))
    with pytest.raises(ValueError, match="unit trace"):
        ntk.distance(k, dense, "other")


def test_samples_of_a_distance_depend_on_one_seed_each():
    """Else their spread says nothing about the seeds: changing one kernel may change one sample only."""
    rng = np.random.default_rng(0)
    found = {(arm, s): np.cov(rng.standard_normal((4, 9))) for arm in ("base", "dense", "pixelfly") for s in range(3)}
    before = ntk.distances(found).set_index(["arm", "seed", "norm"])["distance"]
    found["pixelfly", 1] = 2 * found["pixelfly", 1]
    after = ntk.distances(found).set_index(["arm", "seed", "norm"])["distance"]
    assert {k for k in before.index if before[k] != after[k]} == {("pixelfly", 1, "raw")}
    assert len(before) == 2 * 3 * 3 and "base" not in before.index.get_level_values("arm")


def test_kernels_of_the_miniature():
    seen: list[object] = []
    found = ntk.kernels("mixer-mini", "digits", ["dense", "pixelfly"], [0, 1], 3, tick=seen.append)
    assert set(found) == {(arm, s) for arm in ("base", "dense", "pixelfly") for s in (0, 1)} and len(seen) == 6
    assert all(k.shape == (3, 3) for k in found.values())
    assert not np.array_equal(found["base", 0], found["dense", 0])  # arms share no seed with the base


def test_the_rank_correlation_puts_its_estimate_before_the_resamples():
    rng = np.random.default_rng(0)
    arms = {"a": 0.1, "b": 0.2, "c": 0.3, "d": 0.4}  # true distances; accuracy falls with them
    rows = [(arm, seed, "raw", d + 0.2 * rng.random()) for arm, d in arms.items() for seed in range(5)]
    found = pd.DataFrame(rows, columns=["arm", "seed", "norm", "distance"])
    runs = found.assign(accuracy=90 - 10 * found["distance"] + rng.random(len(found)))
    expected = spearmanr(-found.groupby("arm")["distance"].mean(), runs.groupby("arm")["accuracy"].mean()).statistic
    draws = tables.ntk_order(found, runs, resamples=50)
    assert len(draws) == 51 and draws[0] == pytest.approx(expected)
