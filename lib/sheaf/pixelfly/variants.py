"""Ablations that change a model after `sparsify`: how far a butterfly reaches, and a budget split by the exact solution."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from sheaf.common.jobs import Job
from sheaf.pixelfly import images, masks
from sheaf.pixelfly.accuracy import image_arms
from sheaf.pixelfly.budget import allocate_by_rule, allocate_exactly
from sheaf.pixelfly.diagnosis import replace_masks
from sheaf.pixelfly.miniature import make
from sheaf.pixelfly.models import build, schema
from sheaf.pixelfly.sparsify import sparsify
from sheaf.pixelfly.train import accuracy, fit

__all__ = ["REACHES", "reaches", "solved", "solved_splits", "train_reach", "train_solved", "with_reach"]

REACHES = (4, 8, 16)  # maximum strides; below 4 a quarter of the blocks does not fit
BLOCK = 4  # 32 cells at the miniature's width, so that strides reach 16
SOLVED_DENSITY = 0.5  # at a quarter the exact solution of this model is the rule's
_NAMES = {  # layer type of the schema -> layers of the model
    "attention q, k, v": r"attention\.(q|k|v)$", "attention out": r"attention\.out$", "mlp up": r"mlp\.up$",
    "mlp down": r"mlp\.down$",
}  # fmt: skip


def with_reach(rows: int, columns: int, nnz: int, stride: int) -> np.ndarray:
    """A union of stretched butterfly supports j = i xor s with every power of two up to ``stride`` among the s.

    The supports that remain take the smallest other s below 2 ``stride``; so all masks have the same number of blocks and
    differ in how far they reach. Within groups of 2 ``stride`` cells, as a flat butterfly of that maximum stride.

    Raises:
        ValueError: ``nnz`` is no whole number of supports, or they do not fit below 2 ``stride``.
    """
    cells = min(rows, columns)
    supports, rest = divmod(nnz * cells, rows * columns)
    powers = [0, *(2**i for i in range(stride.bit_length()))]
    order = powers + [s for s in range(2 * stride) if s not in powers]
    if rest or not len(powers) <= supports <= len(order) or 2 * stride > cells:
        raise ValueError(f"{nnz} blocks of {rows} x {columns} cannot reach exactly {stride}; use a stride that fits")
    i = np.arange(cells)
    small = np.zeros((cells, cells), dtype=bool)
    for s in order[:supports]:
        small[i, i ^ s] = True
    return masks.stretch(small, rows, columns)


def _run(job: Job, model: Any, data: images.ImageData, density: float) -> dict[str, Any]:
    keep = job["train"] or len(data.train[0])
    history = fit(
        model, (data.train[0][:keep], data.train[1][:keep]), epochs=job["epochs"], rate=job["rate"], seed=job["seed"],
        flips=data.flips, shift=1 if data.side < 16 else 2,
    )  # fmt: skip
    held = data.validation if job["on"] == "validation" else data.test
    return {"accuracy": 100 * accuracy(model, held), "sparse density": density, "loss": history.losses[-1]}


def train_reach(job: Job) -> dict[str, Any]:
    """A flat butterfly whose blocks reach as far as job["stride"]; otherwise as `miniature.train_image_model`."""
    data = images.load(job["dataset"])
    model, density = make(job["model"], "flat", data, job["seed"], block=BLOCK)

    def draw(mask: np.ndarray, _: int, __: int) -> np.ndarray:
        rows, columns = mask.shape
        return with_reach(rows, columns, int(mask.sum()), job["stride"])

    replace_masks(model, job["seed"], draw)
    return _run(job, model, data, density)


def reaches(dataset: str, rates: Iterable[float], seeds: Iterable[int], **options: Any) -> pd.DataFrame:
    """Accuracy of the Mixer miniature per maximum stride, at equal parameters; tuned rates."""
    rates, seeds = list(rates), list(seeds)
    runs = [
        image_arms("mixer-mini", dataset, ["flat"], rates, seeds, worker=train_reach, stride=s, **options)[0]
        for s in REACHES
    ]
    return pd.concat([r.assign(reach=s) for r, s in zip(runs, REACHES, strict=True)], ignore_index=True)


def solved() -> pd.DataFrame:
    """Densities of the ViT miniature's layer types at half of the operations: by the rule, and by the integer program."""
    types = schema("vit-mini")
    found = {"rule": allocate_by_rule(types, SOLVED_DENSITY), "exact": allocate_exactly(types, SOLVED_DENSITY, block=8)}
    return pd.DataFrame(found).rename_axis("layer type").reset_index()


def train_solved(job: Job) -> dict[str, Any]:
    """The ViT miniature with flat butterflies at the densities of column job["by"] of `solved`; 1 stays dense."""
    data = images.load(job["dataset"])
    model = build(
        job["model"], job["seed"], image=data.side, patch=data.patch, channels=data.channels, classes=data.classes
    )
    densities = solved().set_index("layer type")[job["by"]]
    for k, (name, density) in enumerate(densities.items()):
        if density < 1:
            sparsify(model, density, pattern="flat", block=8, include=_NAMES[str(name)], seed=job["seed"] * 10 + k)
    return _run(job, model, data, SOLVED_DENSITY)


def solved_splits(dataset: str, rates: Iterable[float], seeds: Iterable[int], **options: Any) -> pd.DataFrame:
    """Accuracy of the ViT miniature at half of the operations, split by the rule and by the exact solution; tuned rates."""
    rates, seeds = list(rates), list(seeds)
    names = {"rule": "half: the rule", "exact": "half: the exact solution"}
    runs = [
        image_arms("vit-mini", dataset, ["flat"], rates, seeds, worker=train_solved, by=by, **options)[0].assign(
            split=name
        )
        for by, name in names.items()
    ]
    return pd.concat(runs, ignore_index=True)
