"""Small pictures to train on: a subset of CIFAR-10 when the user has it, scikit-learn's handwritten digits otherwise."""

import hashlib
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor

from sheaf.common.data import external_dir

__all__ = ["DATASETS", "ImageData", "load"]

DATASETS = ("auto", "cifar", "digits")


@dataclass(frozen=True, eq=False)
class ImageData:
    """Pictures [n, channels, side, side] float32 with zero mean and unit deviation per channel, labels [n] int64.

    ``validation`` is a part of the training pictures that no model trains on; rates are chosen on it, never on ``test``.
    """

    name: str
    origin: str
    train: tuple[Tensor, Tensor]
    validation: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    classes: int
    patch: int  # edge of a patch: 16 patches for a model
    flips: bool  # a mirrored picture is still one

    def digest(self) -> str:
        """A fingerprint of every picture, label and split."""
        found = hashlib.sha256()
        for tensor in (*self.train, *self.validation, *self.test):
            found.update(str(tuple(tensor.shape)).encode() + tensor.contiguous().numpy().tobytes())
        return found.hexdigest()[:16]

    @property
    def side(self) -> int:
        """Edge of a picture in pixels."""
        return int(self.train[0].shape[-1])

    @property
    def channels(self) -> int:
        """3 for colour, 1 for grey."""
        return int(self.train[0].shape[1])


def _prepared(
    name: str,
    origin: str,
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    patch: int,
    flips: bool,
) -> ImageData:
    order = np.random.default_rng(0).permutation(len(train[0]))
    x, y = train[0][order], train[1][order]
    mean, deviation = x.mean((0, 2, 3), keepdims=True), x.std((0, 2, 3), keepdims=True)
    held = len(x) // 10

    def pair(a: np.ndarray, b: np.ndarray) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(((a - mean) / deviation).astype(np.float32)), torch.from_numpy(b.astype(np.int64))

    classes = int(y.max()) + 1
    return ImageData(
        name, origin, pair(x[held:], y[held:]), pair(x[:held], y[:held]), pair(*test), classes, patch, flips
    )


def _digits() -> ImageData:
    found = load_digits()
    x, y = found.images[:, None] / 16.0, found.target
    order = np.random.default_rng(1).permutation(len(x))
    train, test = order[:1297], order[1297:]
    origin = "1,797 handwritten digits of 8 x 8 pixels (scikit-learn)"
    return _prepared("digits", origin, (x[train], y[train]), (x[test], y[test]), patch=2, flips=False)


def _cifar_file() -> Path | None:
    folder = external_dir("pixelfly")
    file = folder / "cifar10-jpeg-subset" / "cifar10_jpeg_subset.npz" if folder else None
    return file if file and file.is_file() else None


def _cifar(file: Path) -> ImageData:
    with np.load(file, allow_pickle=False) as stored:
        if missing := {"bytes", "offsets", "label", "is_train"} - set(stored.files):
            raise ValueError(
                f"{file.name} lacks {', '.join(sorted(missing))}; it is not the subset described in data/README.md"
            )
        data, offsets, label, is_train = (stored[k] for k in ("bytes", "offsets", "label", "is_train"))
    pictures = [data[a:b].tobytes() for a, b in pairwise(offsets)]
    x = np.stack([np.asarray(Image.open(BytesIO(p)).convert("RGB")) for p in pictures]).transpose(0, 3, 1, 2) / 255.0
    train = is_train.astype(bool)
    origin = "12,000 pictures of CIFAR-10 (JPEG copies, 32 x 32)"
    return _prepared("cifar", origin, (x[train], label[train]), (x[~train], label[~train]), patch=8, flips=True)


@cache
def load(name: str = "auto") -> ImageData:
    """A data set: "cifar", "digits", or "auto" for CIFAR-10 when ``SHEAF_DATA`` holds it and digits otherwise.

    Raises:
        ValueError: unknown name, or a CIFAR file of another kind.
        FileNotFoundError: "cifar" was asked for and is not there.
    """
    if name not in DATASETS:
        raise ValueError(f"data set {name!r} is unknown; use one of {', '.join(DATASETS)}")
    file = _cifar_file() if name != "digits" else None
    if name == "cifar" and file is None:
        raise FileNotFoundError(
            "no CIFAR-10 subset: set SHEAF_DATA to a folder with pixelfly/cifar10-jpeg-subset/cifar10_jpeg_subset.npz"
        )
    return _cifar(file) if file else _digits()
