"""Masks: butterfly in all its forms, the patterns it is compared with, and the density that hardware blocks leave of them.

Every mask is a numpy bool array, over elements or over the grid of square blocks of a matrix [out, in] (block rows first).
"""

import numpy as np

__all__ = [
    "actual_density", "block_diagonal", "butterfly_factor", "coarsen", "expected_actual_density", "flat_butterfly", "global_",
    "grid_layout", "local", "nominal_density", "random_blocks", "random_elements", "stretch", "stretched_layout", "strided",
    "strides",
]  # fmt: skip


def _power_of_two(n: int, what: str) -> None:
    if n < 1 or n & (n - 1):
        raise ValueError(f"{what} must be a power of two; got {n}")


def butterfly_factor(n: int, stride: int) -> np.ndarray:
    """Support [n, n] of one butterfly factor: i = j or j = i xor stride (paper, section 3, definition of a factor matrix).

    The factor B_k of the paper has stride k / 2. For an n that is no power of two, partners beyond the end are dropped.

    Raises:
        ValueError: the stride is no power of two.
    """
    _power_of_two(stride, "a stride")
    i = np.arange(n)
    return (i[:, None] == i) | (i[:, None] ^ stride == i)


def strides(max_stride: int) -> tuple[int, ...]:
    """1, 2, 4, ... up to ``max_stride``; none for 0.

    Raises:
        ValueError: not 0 and no power of two.
    """
    if max_stride == 0:
        return ()
    _power_of_two(max_stride, "a maximum stride")
    return tuple(2**i for i in range(max_stride.bit_length()))


def flat_butterfly(n: int, max_stride: int) -> np.ndarray:
    """Support [n, n] of the flat butterfly: the union of all factors up to ``max_stride`` (paper, section 3).

    Every row of an n that is a power of two has 1 + log2(2 max_stride) entries; 0 keeps the diagonal alone.
    """
    mask = np.eye(n, dtype=bool)
    for stride in strides(max_stride):
        mask |= butterfly_factor(n, stride)
    return mask


def stretch(mask: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """A mask [r, c] drawn larger or smaller: cell (i, j) takes the value at (i r // rows, j c // columns)."""
    if rows < 1 or columns < 1:
        raise ValueError(f"a mask needs at least one row and column; got {rows} x {columns}")
    at_rows = np.arange(rows) * mask.shape[0] // rows
    return mask[at_rows][:, np.arange(columns) * mask.shape[1] // columns]


def _grid(out: int, in_: int, block: int) -> tuple[int, int]:
    if block < 1 or out % block or in_ % block or min(out, in_) < block:
        raise ValueError(
            f"a {out} x {in_} matrix does not divide into blocks of {block}; use a common divisor of both sides"
        )
    return out // block, in_ // block


def grid_layout(out: int, in_: int, block: int, max_stride: int) -> np.ndarray:
    """Flat block butterfly of a matrix, directly on its block grid; the longer side repeats cells of the shorter one.

    Raises:
        ValueError: the block does not divide the matrix.
    """
    rows, columns = _grid(out, in_, block)
    return stretch(flat_butterfly(min(rows, columns), max_stride), rows, columns)


def stretched_layout(
    out: int, in_: int, block: int, cells: int, factors: int, global_size: int = 0, shuffle: bool = False
) -> np.ndarray:
    """Flat block butterfly as it was released: a small butterfly stretched over the elements, then cut into hardware blocks.

    Strides 2^0 to 2^(factors - 1) on ``cells`` x ``cells``, every cell stretched to out / cells x in / cells elements;
    ``global_size`` first rows and columns of elements are added; a block is kept when any of its elements is. Where cells
    are no multiple of the block, more is kept than asked for. ``shuffle`` permutes the columns of cells, so that neighbours
    come from different groups.

    Raises:
        ValueError: sides that are no multiples of the block or of ``cells``, or too many factors.
    """
    rows, columns = _grid(out, in_, block)
    _power_of_two(cells, "the number of cells")
    if out % cells or in_ % cells:
        raise ValueError(
            f"a {out} x {in_} matrix does not divide into {cells} x {cells} cells; use a divisor of both sides"
        )
    if not 0 <= factors <= cells.bit_length() - 1:
        raise ValueError(f"{cells} cells have 0 to {cells.bit_length() - 1} factors; got {factors}")
    small = flat_butterfly(cells, 2 ** (factors - 1) if factors else 0)
    if shuffle:
        groups = 2 ** (cells.bit_length() - 1 - factors)
        small = small[:, np.arange(cells).reshape(groups, -1).T.reshape(-1)]
    edges = [np.arange(n) * block * cells // side for n, side in ((rows, out), (columns, in_))]
    ends = [((np.arange(n) + 1) * block - 1) * cells // side for n, side in ((rows, out), (columns, in_))]
    # number of kept cells above and left of every corner: a block is kept when the cells it touches hold any
    total = np.pad(small.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    (r0, c0), (r1, c1) = edges, (e + 1 for e in ends)
    mask = total[r1][:, c1] - total[r0][:, c1] - total[r1][:, c0] + total[r0][:, c0] > 0
    wide = -(-global_size // block)
    mask[:wide], mask[:, :wide] = mask[:wide] | (wide > 0), mask[:, :wide] | (wide > 0)
    return mask


def local(rows: int, columns: int, window: int) -> np.ndarray:
    """A band around the (stretched) diagonal, ``window`` wide, 1 being the diagonal alone."""
    n = min(rows, columns)
    i = np.arange(n)
    return stretch(np.abs(i[:, None] - i) <= (window - 1) // 2, rows, columns)


def global_(rows: int, columns: int, width: int) -> np.ndarray:
    """The first ``width`` rows and columns."""
    mask = np.zeros((rows, columns), dtype=bool)
    mask[:width], mask[:, :width] = True, True
    return mask


def strided(rows: int, columns: int, stride: int) -> np.ndarray:
    """Every ``stride``-th diagonal, as in the Sparse Transformer."""
    i, j = np.arange(rows)[:, None], np.arange(columns)
    return np.asarray((i - j) % stride == 0)


def block_diagonal(rows: int, columns: int, groups: int) -> np.ndarray:
    """``groups`` dense blocks along the diagonal, as even as possible."""
    return np.asarray(np.arange(rows)[:, None] * groups // rows == np.arange(columns) * groups // columns)


def random_blocks(rows: int, columns: int, nnz: int, rng: np.random.Generator) -> np.ndarray:
    """``nnz`` random cells; no row and no column stays empty when there are enough of them.

    Raises:
        ValueError: more cells than there are.
    """
    if not 0 <= nnz <= rows * columns:
        raise ValueError(f"a mask of {rows} x {columns} holds 0 to {rows * columns} blocks; got {nnz}")
    mask = np.zeros((rows, columns), dtype=bool)
    n = max(rows, columns)
    if nnz >= n:  # a random path through all rows and columns first
        mask[rng.permutation(n) % rows, rng.permutation(n) % columns] = True
    free = np.flatnonzero(~mask)
    mask.flat[rng.choice(free, nnz - int(mask.sum()), replace=False)] = True
    return mask


def random_elements(out: int, in_: int, nnz: int, rng: np.random.Generator) -> np.ndarray:
    """``nnz`` random elements of a matrix [out, in]."""
    mask = np.zeros(out * in_, dtype=bool)
    mask[rng.choice(out * in_, nnz, replace=False)] = True
    return mask.reshape(out, in_)


def coarsen(mask: np.ndarray, block: int) -> np.ndarray:
    """The blocks that a mask touches: kept when any element is set. Sides are padded up to whole blocks."""
    rows, columns = (-(-s // block) for s in mask.shape)
    padded = np.zeros((rows * block, columns * block), dtype=bool)
    padded[: mask.shape[0], : mask.shape[1]] = mask
    return np.asarray(padded.reshape(rows, block, columns, block).any(axis=(1, 3)))


def nominal_density(mask: np.ndarray) -> float:
    """Share of the entries that are set."""
    return float(mask.mean())


def actual_density(mask: np.ndarray, block: int) -> float:
    """Share of the hardware blocks that a mask of elements touches (paper, section 2)."""
    return float(coarsen(mask, block).mean())


def expected_actual_density(density: float, element_block: int, device_block: int) -> float:
    """Expected share of device blocks touched when every element block is kept with probability ``density``.

    1 - (1 - p)^m for the m element blocks that a device block meets; an element block larger than the device's fills it.
    Blocks that straddle device blocks (6 in 32) are counted where they lie, averaged over all positions.

    Raises:
        ValueError: a density outside of [0, 1].
    """
    if not 0 <= density <= 1:
        raise ValueError(f"a density lies between 0 and 1; got {density}")
    period = int(np.lcm(element_block, device_block))
    starts = np.arange(0, period, device_block)
    met = (
        (starts + device_block - 1) // element_block - starts // element_block + 1
    )  # element blocks met along one side
    return float(np.mean(1 - (1 - density) ** (met[:, None] * met)))
