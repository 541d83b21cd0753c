"""Rooflines from V100 to H200: how much a sparse layer can gain at most, and what a tile's traffic allows."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

__all__ = ["DEVICES", "LAYERS", "Accelerator", "Layer", "bounds", "largest_speedup", "tile_limits"]


@dataclass(frozen=True)
class Accelerator:
    """Peak 16-bit matrix operations per second (dense) and memory bytes per second, from the maker's data sheet.

    ``reached`` is the share of the peak that a dense library product is taken to reach, ``bandwidth_reached`` that of the
    memory: assumptions, the same for all.
    """

    name: str
    year: int
    operations: float
    bandwidth: float
    reached: float = 0.71
    bandwidth_reached: float = 0.875


# NVIDIA data sheets: V100 SXM2, A100 SXM4 80 GB, H100 SXM5, H200 SXM (without sparsity)
DEVICES = (
    Accelerator("V100", 2017, 125e12, 0.9e12), Accelerator("A100", 2020, 312e12, 2.039e12),
    Accelerator("H100", 2022, 989e12, 3.35e12), Accelerator("H200", 2024, 989e12, 4.8e12),
)  # fmt: skip


@dataclass(frozen=True)
class Layer:
    """tokens x in -> out, a layer of the paper at its batch size per device."""

    name: str
    tokens: int
    in_: int
    out: int


LAYERS = (
    Layer("Mixer-S channel", 100352, 512, 2048), Layer("Mixer-B channel", 25088, 768, 3072), Layer("ViT-S MLP", 25216, 768, 2304),
    Layer("ViT q, k, v, out", 25216, 768, 768), Layer("GPT-2 small MLP", 16384, 768, 3072),
    Layer("GPT-2 medium MLP", 8192, 1024, 4096), Layer("microbenchmark", 4096, 4096, 4096),
)  # fmt: skip


def _times(device: Accelerator, layer: Layer, density: float) -> tuple[float, float]:
    """Seconds that operations take and that 16-bit traffic takes: activations once, kept weights once."""
    operations = 2 * layer.tokens * layer.in_ * layer.out * density
    traffic = 2 * (layer.tokens * (layer.in_ + layer.out) + density * layer.in_ * layer.out)
    return operations / (device.operations * device.reached), traffic / (device.bandwidth * device.bandwidth_reached)


def largest_speedup(device: Accelerator, layer: Layer, density: float) -> float:
    """Dense time over sparse time when both run at the roofline: at most 1 / density, less where activations bind."""
    return max(_times(device, layer, 1.0)) / max(_times(device, layer, density))


def bounds(densities: tuple[float, ...] = (0.5, 0.25, 0.125, 0.0625)) -> pd.DataFrame:
    """One row per device and layer: dense time and activation floor in microseconds, largest speed-up per density."""
    rows = []
    for device in DEVICES:
        for layer in LAYERS:
            floor = _times(device, layer, 0.0)[1]
            gains = [largest_speedup(device, layer, d) for d in densities]
            rows.append((device.name, layer.name, f"{layer.tokens} x {layer.in_} -> {layer.out}",
                         1e6 * max(_times(device, layer, 1.0)), 1e6 * floor, *gains))  # fmt: skip
    columns = ["device", "layer", "shape", "dense (us)", "activations (us)", *(f"at {d:g}" for d in densities)]
    return pd.DataFrame(rows, columns=columns)


def tile_limits(device: Accelerator, cache_bandwidth: float = 5.5e12) -> pd.DataFrame:
    """Operations per second that a tile of rows x columns allows when both factors of every step come from the shared cache.

    A step of k multiplies 2 rows columns k operations out of 2 (rows + columns) k bytes: bandwidth * rows * columns /
    (rows + columns). Tiles as narrow as a 32-wide block starve; tiles as wide as a butterfly cell do not.
    """
    tiles = [(128, 32), (128, 64), (128, 128), (256, 128), (128, 192)]
    limit = [cache_bandwidth * m * n / (m + n) for m, n in tiles]
    dense = device.operations * device.reached
    return pd.DataFrame({
        "tile": [f"{m} x {n}" for m, n in tiles], "Top/s": np.array(limit) / 1e12,
        "of the dense product": np.minimum(1, np.array(limit) / dense),
    })  # fmt: skip
