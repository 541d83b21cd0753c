"""The theorems as computations: containment, the flat approximation, rank, and sparse plus low rank on clustered attention."""

import numpy as np
import pandas as pd

from sheaf.pixelfly import masks

__all__ = ["clustered", "containment", "flat_errors", "ranks", "separation", "slope"]


def _factor(n: int, block: int, stride: int, rng: np.random.Generator) -> np.ndarray:
    support = masks.butterfly_factor(n // block, stride)
    return np.kron(support, np.ones((block, block))) * rng.standard_normal((n, n))


def containment(n: int, block: int, seed: int) -> dict[str, float]:
    """Block butterflies of block b are block butterflies of block 2b.

    The two factors of least stride multiply to a factor of block 2b and stride 1; every other factor has the support of a
    block-2b factor of half its stride. Returns the largest absolute entry outside of the supports, for both statements.
    """
    rng = np.random.default_rng([seed, n, block])
    strides = masks.strides(n // block // 2)
    wide = np.ones((2 * block, 2 * block))
    product = _factor(n, block, strides[1], rng) @ _factor(n, block, strides[0], rng)
    inside = np.kron(masks.butterfly_factor(n // (2 * block), 1), wide) > 0
    outside = 0.0
    for stride in strides[1:]:
        support = np.kron(masks.butterfly_factor(n // (2 * block), stride // 2), wide) > 0
        outside = max(outside, float(np.abs(_factor(n, block, stride, rng)[~support]).max(initial=0.0)))
    return {"product of two": float(np.abs(product[~inside]).max(initial=0.0)), "other factors": outside}


def flat_errors(n: int, block: int, steps: np.ndarray, seed: int) -> np.ndarray:
    """Frobenius error of I + step * sum B_i against the product of all (I + step * B_i), for every step (paper, section 4)."""
    rng = np.random.default_rng([seed, n])
    factors = [_factor(n, block, s, rng) / np.sqrt(2 * block) for s in masks.strides(n // block // 2)]
    total, eye = sum(factors), np.eye(n)
    errors = []
    for step in steps:
        product = eye
        for factor in factors:
            product = (eye + step * factor) @ product
        errors.append(np.linalg.norm(product - (eye + step * total)))
    return np.array(errors)


def slope(steps: np.ndarray, errors: np.ndarray) -> float:
    """Slope of log error over log step by least squares; 2 for a first-order approximation."""
    return float(np.polyfit(np.log(steps), np.log(errors), 1)[0])


def ranks(n: int, block: int, seed: int) -> pd.DataFrame:
    """Numerical rank of random flat block butterflies, beside that of a low-rank matrix of equal parameters."""
    rng = np.random.default_rng([seed, n])
    rows = []
    for stride in (0, *masks.strides(n // block // 2)):
        support = np.kron(masks.flat_butterfly(n // block, stride), np.ones((block, block)))
        matrix = support * rng.standard_normal((n, n))
        rows.append(
            (stride, int(support.sum()), int(np.linalg.matrix_rank(matrix)) / n, min(1.0, support.sum() / (2 * n) / n))
        )
    return pd.DataFrame(rows, columns=["max stride", "parameters", "rank / n, flat butterfly", "rank / n, low rank"])


def clustered(n: int, clusters: int, spread: float, beta: float, seed: int, width: int = 32) -> np.ndarray:
    """exp(beta Q Q^T) [n, n] for unit rows of Q around ``clusters`` random centres, normed by its largest entry."""
    rng = np.random.default_rng([seed, n, clusters])
    centres = rng.standard_normal((clusters, width))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    q = np.repeat(centres, n // clusters, axis=0)
    q = q + spread * rng.standard_normal(q.shape) / np.sqrt(width)
    q /= np.linalg.norm(q, axis=1, keepdims=True)
    return np.exp(beta * (q @ q.T - 1))


def _best_low_rank(matrix: np.ndarray, rank: int) -> np.ndarray:
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    return (left[:, :rank] * values[:rank]) @ right[:rank]


def _best_both(matrix: np.ndarray, support: np.ndarray, rank: int, turns: int = 20) -> np.ndarray:
    """Sparse on a given support plus low rank, by turns; every turn lowers the error."""
    sparse = matrix * support
    for _ in range(turns):
        low = _best_low_rank(matrix - sparse, rank)
        sparse = (matrix - low) * support
    return low + sparse


def separation(
    n: int,
    spreads: tuple[float, ...] = (0.1, 0.3, 0.6),
    betas: tuple[float, ...] = (2.0, 5.0, 10.0),
    clusters: int = 16,
    seed: int = 0,
) -> pd.DataFrame:
    """Relative Frobenius error of approximating clustered attention at equal parameters (paper, section 4).

    Three ways with n^2 / 6 or so parameters: flat block butterfly with blocks of n / clusters and a stride, low rank only, and
    half of the strides with the parameters they free given to a rank. One row per spread, beta and way.
    """
    block = n // clusters
    flat = np.kron(masks.flat_butterfly(clusters, 2), np.ones((block, block))) > 0
    fewer = np.kron(masks.flat_butterfly(clusters, 1), np.ones((block, block))) > 0
    rank = (int(flat.sum()) - int(fewer.sum())) // (2 * n)
    alone = int(flat.sum()) // (2 * n)
    rows = []
    for spread in spreads:
        for beta in betas:
            matrix = clustered(n, clusters, spread, beta, seed)
            norm = np.linalg.norm(matrix)
            ways = {
                "sparse": matrix * flat, "low rank": _best_low_rank(matrix, alone),
                "sparse + low rank": _best_both(matrix, fewer, rank),
            }  # fmt: skip
            rows += [(spread, beta, way, float(np.linalg.norm(matrix - found) / norm)) for way, found in ways.items()]
    return pd.DataFrame(rows, columns=["spread", "beta", "way", "error"])
