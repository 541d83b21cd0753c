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
    """The kernel of every arm and seed on the same training pictures."""
    data = images.load(dataset)
    x = data.train[0][:inputs]
    found = {}
    for arm in arms:
        for seed in seeds:
            made, _ = make(model, arm, data, seed, backend="reference")
            found[arm, seed] = kernel(made, x)
            if tick:
                tick(arm)
    return found


def distances(found: dict[tuple[str, int], np.ndarray]) -> pd.DataFrame:
    """Distance of every arm to the dense kernel, both averaged over seeds but one, so that the seeds give samples.

    Leaving out seed s on both sides gives sample s; the floor, arm "dense, other seeds", is the distance between the averages of
    two halves of the dense seeds that are left.

    Columns: arm, seed (left out), norm, distance.
    """
    arms = list(dict.fromkeys(arm for arm, _ in found))
    seeds = sorted({seed for _, seed in found})
    rows = []
    for out in seeds:
        rest = [s for s in seeds if s != out] or seeds
        dense = np.mean([found["dense", s] for s in rest], axis=0)
        halves = [np.mean([found["dense", s] for s in half], axis=0) for half in (rest[::2], rest[1::2] or rest)]
        for norm in NORMS:
            rows.append(("dense, other seeds", out, norm, distance(halves[0], halves[1], norm)))
            for arm in arms:
                if arm != "dense":
                    rows.append((arm, out, norm, distance(np.mean([found[arm, s] for s in rest], axis=0), dense, norm)))
    return pd.DataFrame(rows, columns=["arm", "seed", "norm", "distance"])
