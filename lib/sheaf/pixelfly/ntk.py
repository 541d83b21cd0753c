"""The empirical neural tangent kernel at the start of training, and how far a sparse model's is from the dense one's."""

from collections.abc import Callable, Iterable

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from sheaf.pixelfly import images
from sheaf.pixelfly.layers import MaskedLinear
from sheaf.pixelfly.miniature import make

__all__ = ["NORMS", "distance", "distances", "kernel", "kernels"]

NORMS = ("raw", "unit trace", "unit norm")


def kernel(model: nn.Module, x: Tensor) -> np.ndarray:
    """K [m, m] = sum over outputs c of <d f_c(x_i) / d theta, d f_c(x_j) / d theta>, theta the trainable parameters.

    Weights that a mask removes are no parameters and do not count.

    Args:
        model: one that torch.func can trace: sparse layers with backend="reference".
        x: [m, ...] inputs.
    """
    parameters = {k: p.detach() for k, p in model.named_parameters()}
    buffers = dict(model.named_buffers())
    masks = {f"{k}.weight": m.mask for k, m in model.named_modules() if isinstance(m, MaskedLinear)}

    def output(theta: dict[str, Tensor], one: Tensor, c: int) -> Tensor:
        return functional_call(model, (theta, buffers), (one[None],))[0, c]

    with torch.no_grad():
        outputs = model(x[:1]).shape[1]
    total = torch.zeros(len(x), len(x), dtype=torch.float64)
    model.eval()
    for c in range(outputs):
        rows = vmap(grad(output), in_dims=(None, 0, None))(parameters, x, c)
        for name, g in rows.items():
            flat = (g * masks[name] if name in masks else g).reshape(len(x), -1).double()
            total += flat @ flat.T
    return total.numpy()


def distance(k: np.ndarray, dense: np.ndarray, norm: str = "raw") -> float:
    """||K - K_dense|| / ||K_dense|| (Frobenius), after both are scaled to unit trace or unit norm where asked.

    Raises:
        ValueError: unknown norm.
    """
    if norm not in NORMS:
        raise ValueError(f"norm {norm!r} is unknown; use one of {', '.join(NORMS)}")
    if norm == "unit trace":
        k, dense = k / np.trace(k), dense / np.trace(dense)
    elif norm == "unit norm":
        k, dense = k / np.linalg.norm(k), dense / np.linalg.norm(dense)
    return float(np.linalg.norm(k - dense) / np.linalg.norm(dense))


def kernels(
    model: str, dataset: str, arms: Iterable[str], seeds: Iterable[int], inputs: int,
    tick: Callable[[object], None] | None = None,
) -> dict[tuple[str, int], np.ndarray]:  # fmt: skip
    """The kernel of every arm and seed on the same training pictures, and of the dense model with seeds of its own.

    Arms share no seed with the base they are compared with: what is equal by the seed alone would make them look near. The arm
    "dense" against the base is the floor, the distance that seeds alone make.

    Returns:
        (arm, seed) -> [m, m], the base as arm "base".
    """
    data = images.load(dataset)
    x = data.train[0][:inputs]
    found = {}
    for arm in ("base", *arms):
        for seed in seeds:
            pattern, own = ("dense", seed) if arm == "base" else (arm, 500 + seed)
            made, _ = make(model, pattern, data, own, backend="reference")
            found[arm, seed] = kernel(made, x)
            if tick:
                tick(arm)
    return found


def distances(found: dict[tuple[str, int], np.ndarray]) -> pd.DataFrame:
    """Distance of every single kernel to the base averaged over its seeds: independent samples, one per arm and seed.

    Averages that leave one seed out would share all others: their spread is that of the seeds divided by n - 1, and an
    interval from it covers the truth half of the time instead of 95%.

    Columns: arm, seed, norm, distance. The rows of "dense" are the seed floor.
    """
    base = np.mean([k for (arm, _), k in found.items() if arm == "base"], axis=0)
    rows = [
        (arm, seed, norm, distance(k, base, norm))
        for (arm, seed), k in found.items()
        if arm != "base"
        for norm in NORMS
    ]
    return pd.DataFrame(rows, columns=["arm", "seed", "norm", "distance"])
