"""The Hankel operator of a filter: products by FFT, leading eigenpairs of many filters at once, rank, order selection."""

from collections.abc import Iterator
from typing import Literal

import torch
from scipy.fft import next_fast_len
from torch import Tensor

__all__ = ["Section", "apply", "choose_order", "effective_rank", "leading", "section_size", "spectrum", "tail_of"]

Section = Literal["padded", "half"]
DENSE_UP_TO = 256  # rows up to which a dense eigendecomposition is cheaper than products
_CHUNK = 1 << 23  # float64 numbers of a Krylov basis held at once


def tail_of(filters: Tensor) -> Tensor:
    """What a recurrence has to reproduce: h_1, h_2, ... in float64, [C, L - 1]. h_0 is the feed-through and is kept exactly.

    Raises:
        ValueError: not an array of real filters with at least two samples, or values that are not finite.
    """
    if filters.dim() != 2 or filters.shape[1] < 2 or filters.is_complex():
        raise ValueError(f"filters are real numbers [C, L] with L >= 2; got {tuple(filters.shape)} of {filters.dtype}")
    if not bool(torch.isfinite(filters).all()):
        raise ValueError("the filters hold values that are not finite; train or clip them first")
    return filters.detach()[:, 1:].double()


def section_size(samples: int, section: Section) -> int:
    """Rows of the finite section of ``samples`` values h_1 ... h_samples.

    "padded": all of them, zeros beyond the last: exact for the filter that ends there, and what the theory of Adamyan, Arov and
    Krein speaks of. "half": only what was seen, h_1 ... h_2m in m rows (the shift needs one sample more than the section).
    """
    if section not in ("padded", "half"):
        raise ValueError(f"section {section!r} is unknown; use 'padded' or 'half'")
    return samples if section == "padded" else samples // 2


def apply(tail: Tensor, x: Tensor, rows: int) -> Tensor:
    """(S x)_i = sum_j h_{1+i+j} x_j for i < rows by FFT: tail [C, n], zeros beyond; x [C, m, k]; -> [C, rows, k]."""
    n, m = tail.shape[1], x.shape[1]
    size = next_fast_len(max(m + rows, n), real=True)  # what wraps around falls before the rows that are read
    spectrum_h = torch.fft.rfft(tail, n=size)[:, None]
    spectrum_x = torch.fft.rfft(x.flip(1).transpose(1, 2), n=size)
    return torch.fft.irfft(spectrum_h * spectrum_x, n=size)[..., m - 1 : m - 1 + rows].transpose(1, 2)


def dense(tail: Tensor, size: int) -> Tensor:
    """The section itself, [C, size, size]."""
    grown = torch.nn.functional.pad(tail, (0, max(0, 2 * size - 1 - tail.shape[1])))
    return grown.unfold(1, size, 1)[:, :size]


def leading(tail: Tensor, k: int, section: Section = "padded", *, steps: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    """The k eigenpairs of largest modulus of every filter's Hankel section; singular values are the moduli.

    Small sections are decomposed densely. Larger ones by block Krylov iteration from a random block, products by FFT, with a
    Rayleigh-Ritz step: the vectors are orthonormal even where the iteration has not converged.

    Args:
        tail: [C, n], h_1 ... h_n in float64.
        k: pairs; capped at the section's rows.
        steps: products after the first block; more for spectra that decay slowly.
        seed: of the random block.

    Returns:
        eigenvalues [C, k], by falling modulus, and vectors [C, rows, k].
    """
    size = section_size(tail.shape[1], section)
    k = min(k, size)
    parts = [_leading(part, size, k, steps, seed) for part in _chunks(tail, size, k, steps)]
    return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])


def _chunks(tail: Tensor, size: int, k: int, steps: int) -> Iterator[Tensor]:
    width = size if size <= DENSE_UP_TO else (k + 4) * (steps + 1)
    return iter(tail.split(max(1, _CHUNK // (size * width))))


def _leading(tail: Tensor, size: int, k: int, steps: int, seed: int) -> tuple[Tensor, Tensor]:
    if size <= max(DENSE_UP_TO, (k + 4) * (steps + 1)):
        values, vectors = torch.linalg.eigh(dense(tail, size))
        chosen = values.abs().argsort(dim=1, descending=True)[:, :k]
        return values.gather(1, chosen), vectors.gather(2, chosen[:, None].expand(-1, size, -1))
    generator = torch.Generator().manual_seed(seed)
    block = torch.randn(1, size, k + 4, generator=generator, dtype=tail.dtype).expand(len(tail), -1, -1)
    # the first block already lies near the range of S
    block = _orthonormal(apply(tail, block, size), None)
    basis, images = [block], [apply(tail, block, size)]
    for _ in range(steps):
        block = _orthonormal(images[-1], torch.cat(basis, dim=2))
        basis.append(block)
        images.append(apply(tail, block, size))
    q, image = torch.cat(basis, dim=2), torch.cat(images, dim=2)
    small = q.transpose(1, 2) @ image
    values, rotation = torch.linalg.eigh((small + small.transpose(1, 2)) / 2)
    chosen = values.abs().argsort(dim=1, descending=True)[:, :k]
    rotation = rotation.gather(2, chosen[:, None].expand(-1, rotation.shape[1], -1))
    return values.gather(1, chosen), q @ rotation


def _orthonormal(x: Tensor, against: Tensor | None) -> Tensor:
    """An orthonormal basis of x [C, n, b], orthogonal to ``against`` too."""
    for _ in range(2):  # twice is enough
        if against is not None:
            x = x - against @ (against.transpose(1, 2) @ x)
        x = torch.linalg.qr(x).Q
    return x


def spectrum(
    filters: Tensor, k: int | None = None, section: Section = "padded", *, steps: int | None = None, tol: float = 1e-4,
    seed: int = 0,
) -> Tensor:  # fmt: skip
    """Hankel singular values of filters [C, L], falling, the first k (all when None), [C, k] float64.

    Args:
        steps: of the Krylov iteration; when None they are doubled until no value moves by more than ``tol`` of itself.
    """
    tail = tail_of(filters)
    size = section_size(tail.shape[1], section)
    if k is None or size <= DENSE_UP_TO:
        values = torch.linalg.eigvalsh(dense(tail, size)).abs().sort(dim=1, descending=True).values
        return values if k is None else values[:, :k]
    if steps is not None:
        return leading(tail, k, section, steps=steps, seed=seed)[0].abs()
    found, tried = leading(tail, k, section, steps=4, seed=seed)[0].abs(), 4
    while (k + 4) * (tried + 1) < size:  # beyond, the decomposition is dense
        tried *= 2
        before, found = found, leading(tail, k, section, steps=tried, seed=seed)[0].abs()
        if bool(((found - before).abs() <= tol * found).all()):
            break
    return found


def effective_rank(values: Tensor, tol: float) -> Tensor:
    """The smallest d with sigma_{d+1} < tol sigma_1, [C] int64, from falling singular values [C, k]; k where there is none."""
    return (values >= tol * values[:, :1]).sum(dim=1)


def choose_order(filters: Tensor, tol: float = 1e-2, *, quantile: float = 1.0, section: Section = "half") -> int:
    """The order that the Hankel spectrum asks for (section 3): the effective rank, as a quantile over filters, made even.

    Args:
        filters: [C, L].
        tol: of sigma_{d+1} / sigma_1.
        quantile: 1 covers every filter, 0.5 half of them.

    Raises:
        ValueError: a tolerance or a quantile outside (0, 1].
    """
    if not 0 < tol <= 1 or not 0 < quantile <= 1:
        raise ValueError(f"tolerance and quantile lie in (0, 1]; got {tol} and {quantile}")
    ranks = effective_rank(spectrum(filters, None if filters.shape[1] <= 1024 else 128, section), tol).double()
    rank = int(torch.quantile(ranks, quantile, interpolation="higher"))
    return max(2, rank + rank % 2)
