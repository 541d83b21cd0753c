"""The hardware cost model: touching one element costs its whole block (paper, section 2), and what a pattern costs by it."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from sheaf.pixelfly import masks

__all__ = ["Device", "appendix_masks", "cost", "density_table"]


@dataclass(frozen=True)
class Device:
    """A device that reads and multiplies whole blocks; prices per block access and per operation in any one unit of time."""

    name: str
    block: int = 32
    per_block: float = 1.0
    per_operation: float = 0.0


def cost(mask: np.ndarray, device: Device, tokens: int = 1) -> dict[str, float]:
    """Cost of multiplying ``tokens`` rows with a matrix of this support [out, in].

    Cost = per_block * (blocks of weights touched + blocks of activations) + per_operation * 2 * tokens * touched * block^2.
    """
    touched = int(masks.coarsen(mask, device.block).sum())
    rows = -(-tokens // device.block)
    activations = rows * sum(-(-side // device.block) for side in mask.shape)
    operations = 2 * tokens * touched * device.block**2
    return {
        "blocks touched": touched, "activation blocks": activations, "operations": operations,
        "cost": device.per_block * (touched + activations) + device.per_operation * operations,
    }  # fmt: skip


def appendix_masks(
    size: int, seed: int, blocks: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
) -> list[tuple[str, int, float, np.ndarray]]:
    """The masks of the appendix' microbenchmark: (pattern, element block, nominal density, mask [size, size]).

    Random element blocks at densities from 1.25 % to 20 %, flat butterflies of element blocks (strides spread over the whole
    matrix), and Pixelfly's flat block butterfly on 32 x 32 blocks at the densities nearest to them.
    """
    rng = np.random.default_rng([seed, size])
    found = []
    for block in blocks:
        cells = size // block
        for density in (0.0125, 0.05, 0.2):
            mask = masks.random_blocks(cells, cells, max(1, round(density * cells * cells)), rng)
            found.append(("random", block, density, np.kron(mask, np.ones((block, block), dtype=bool))))
        stride = cells // 2
        flat = masks.flat_butterfly(cells, stride)
        found.append(("butterfly", block, float(flat.mean()), np.kron(flat, np.ones((block, block), dtype=bool))))
    for stride in (0, 1, 4, size // 64):
        flat = masks.flat_butterfly(size // 32, stride)
        found.append(("Pixelfly", 32, float(flat.mean()), np.kron(flat, np.ones((32, 32), dtype=bool))))
    return found


def density_table(size: int, seed: int = 0, device_block: int = 32) -> pd.DataFrame:
    """Density asked for and density left by hardware blocks, exact for these masks; for random ones the expectation too.

    Columns: pattern, element block, nominal density, actual density, expected, blocks touched.
    """
    rows = []
    for pattern, block, nominal, mask in appendix_masks(size, seed):
        actual = masks.actual_density(mask, device_block)
        expected = masks.expected_actual_density(nominal, block, device_block) if pattern == "random" else np.nan
        rows.append((pattern, block, nominal, actual, expected, int(masks.coarsen(mask, device_block).sum())))
    columns = ["pattern", "element block", "nominal density", "actual density", "expected", "blocks touched"]
    return pd.DataFrame(rows, columns=columns)
