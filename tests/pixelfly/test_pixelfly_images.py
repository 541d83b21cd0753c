"""Pictures: splits that do not overlap, standardised channels, the CIFAR file read as described, refusals."""

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sheaf.pixelfly import images


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("SHEAF_DATA", str(tmp_path))
    images.load.cache_clear()
    yield
    images.load.cache_clear()


def stored(folder: Path, n: int = 40, **leave_out: bool) -> np.ndarray:
    """A CIFAR file of plain pictures of one colour each, in the format of the real one; the colours."""
    colours = np.random.default_rng(0).integers(0, 255, (n, 3), dtype=np.uint8)
    files = []
    for colour in colours:
        buffer = io.BytesIO()
        Image.fromarray(np.broadcast_to(colour, (32, 32, 3)).copy()).save(buffer, "JPEG", quality=100, subsampling=0)
        files.append(np.frombuffer(buffer.getvalue(), dtype=np.uint8))
    arrays = {
        "bytes": np.concatenate(files), "offsets": np.cumsum([0, *map(len, files)]), "label": np.arange(n) % 10,
        "is_train": np.arange(n) < n - 10,
    }  # fmt: skip
    target = folder / "pixelfly" / "cifar10-jpeg-subset"
    target.mkdir(parents=True)
    np.savez(target / "cifar10_jpeg_subset.npz", **{k: v for k, v in arrays.items() if k not in leave_out})
    return colours


def rows(*parts: tuple[torch.Tensor, torch.Tensor]) -> list[bytes]:
    return [row.numpy().tobytes() for x, _ in parts for row in x]


def test_digits_are_split_without_overlap():
    data = images.load("digits")
    assert (len(data.train[1]), len(data.validation[1]), len(data.test[1])) == (1168, 129, 500)
    together = rows(data.train, data.validation, data.test)
    assert len(set(together)) == len(together) == 1797
    assert (data.side, data.channels, data.classes) == (8, 1, 10) and data.side % data.patch == 0


def test_channels_are_standardised_over_the_training_pictures():
    data = images.load("digits")
    x = torch.cat([data.train[0], data.validation[0]])
    assert x.mean().item() == pytest.approx(0, abs=1e-5) and x.std().item() == pytest.approx(1, abs=1e-3)


def test_auto_takes_digits_when_cifar_is_absent():
    assert images.load("auto").name == "digits"


def test_the_cifar_file_is_read_as_described(tmp_path: Path):
    colours = stored(tmp_path)
    data = images.load("auto")
    assert data.name == "cifar" and data.flips and data.side == 32 and data.channels == 3
    assert len(data.train[1]) == 27 and len(data.validation[1]) == 3 and len(data.test[1]) == 10
    assert data.test[1].tolist() == [i % 10 for i in range(30, 40)]
    # a picture of one colour stays one; standardising is affine, so colours keep their order
    pixel = data.test[0][:, :, 5, 7].numpy()
    assert float((data.test[0].amax((2, 3)) - data.test[0].amin((2, 3))).max()) < 0.1
    for channel in range(3):
        order = np.argsort(colours[30:, channel])
        assert (np.diff(pixel[order, channel]) > -0.05).all()


def test_a_cifar_file_of_another_kind_is_refused(tmp_path: Path):
    stored(tmp_path, is_train=True)
    with pytest.raises(ValueError, match="lacks is_train"):
        images.load("cifar")


def test_refusals():
    with pytest.raises(FileNotFoundError, match="SHEAF_DATA"):
        images.load("cifar")
    with pytest.raises(ValueError, match="use one of auto, cifar, digits"):
        images.load("mnist")


def test_data_have_a_fingerprint_of_their_own():
    data = images.load("digits")
    other = replace(data, test=(data.test[0] + 0, data.test[1].flip(0)))
    assert data.digest() == replace(data, origin="elsewhere").digest() != other.digest()
