"""One training run of an image miniature: which arms there are, how a model gets an arm's pattern, what a run returns."""

from typing import Any

import torch
from torch import nn

from sheaf.common.jobs import Job
from sheaf.pixelfly import images
from sheaf.pixelfly.layers import MaskedLinear
from sheaf.pixelfly.models import SPARSE, build
from sheaf.pixelfly.rigl import erk_densities
from sheaf.pixelfly.sparsify import sparsify
from sheaf.pixelfly.train import accuracy, fit

__all__ = ["ARMS", "BLOCK", "DENSITY", "make", "train_image_model"]

DENSITY, BLOCK = 0.25, 8
# arm -> options of `sparsify`; every arm keeps DENSITY of the weights of the same layers
ARMS: dict[str, dict[str, Any]] = {
    "dense": {"pattern": "dense"}, "pixelfly": {"pattern": "pixelfly"}, "flat": {"pattern": "flat"},
    "random block": {"pattern": "random_block"}, "block diagonal": {"pattern": "block_diagonal"},
    "bigbird": {"pattern": "bigbird"}, "low rank": {"pattern": "low_rank"}, "rigl": {"pattern": "random_element"},
    "pixelfly, published start": {"pattern": "pixelfly", "init": "published"},
    "pixelfly, plain sum": {"pattern": "pixelfly", "mix": "sum"},
    "pixelfly, gate per token": {"pattern": "pixelfly", "mix": "token"},
    "pixelfly, a rank share of 1/2": {"pattern": "pixelfly", "rank_share": 0.5},
}  # fmt: skip


def make(model: str, arm: str, data: images.ImageData, seed: int, *, density: float = DENSITY, block: int = BLOCK,
         width: int = 0, layers: int = 0, include: str | None = None, **options: Any) -> tuple[nn.Module, float]:  # fmt: skip
    """A model with an arm's pattern in its sparse layers, and the density those layers really have.

    Raises:
        ValueError: unknown model or arm.
    """
    if arm not in ARMS:
        raise ValueError(f"arm {arm!r} is unknown; use one of {', '.join(ARMS)}")
    changes = {"image": data.side, "patch": data.patch, "channels": data.channels, "classes": data.classes}
    made = build(
        model, seed, **changes, **({"width": width} if width else {}), **({"layers": layers} if layers else {})
    )
    report = sparsify(
        made, density, block=block, include=include or SPARSE[model.split("-")[0]], seed=seed, **(ARMS[arm] | options)
    )
    if arm == "rigl":  # Erdős-Rényi-kernel densities instead of the same one everywhere
        masked = [m for m in made.modules() if isinstance(m, MaskedLinear)]
        shapes = [(m.out_features, m.in_features) for m in masked]
        for k, (layer, share) in enumerate(zip(masked, erk_densities(shapes, density), strict=True)):
            generator = torch.Generator().manual_seed(seed * 1_000_003 + 500 + k)
            flat = torch.zeros(layer.mask.numel(), dtype=torch.bool)
            flat[torch.randperm(len(flat), generator=generator)[: round(share * len(flat))]] = True
            fresh = MaskedLinear(flat.view_as(layer.mask), generator=generator)
            layer.load_state_dict(fresh.state_dict())
    return made, report.density


def train_image_model(job: Job) -> dict[str, Any]:
    """One training run; see `image_arms` for what a job holds. Returns accuracy in percent, density, seconds per step."""
    data = images.load(job["dataset"])
    keep = job["train"] or len(data.train[0])
    options = {k: job[k] for k in ("density", "block", "rank_share", "width", "include") if k in job}
    model, density = make(job["model"], job["arm"], data, job["seed"], **options)
    train = (data.train[0][:keep], data.train[1][:keep])
    history = fit(
        model, train, epochs=job["epochs"], rate=job["rate"], seed=job["seed"], flips=data.flips,
        shift=1 if data.side < 16 else 2,
        rigl_period=max(5, len(train[0]) // 128 * job["epochs"] // 30) if job["arm"] == "rigl" else None,
    )  # fmt: skip
    held = data.validation if job["on"] == "validation" else data.test
    return {
        "accuracy": 100 * accuracy(model, held), "sparse density": density, "loss": history.losses[-1],
        "step_s": history.seconds / history.steps,
    }  # fmt: skip
