"""How far a recurrence is from a filter: l2, Hankel, H-infinity and l1 norms of the difference, and the bounds between them."""

import math

import pandas as pd
import torch
from torch import Tensor

from sheaf.laughing_hyena.hankel import leading, spectrum, tail_of
from sheaf.laughing_hyena.modal import ModalFilters

__all__ = ["chain", "hankel_norm", "peak_gain", "relative_error"]

OVERSAMPLING = 16  # frequencies per sample of a response


def relative_error(filters: Tensor, response: Tensor) -> Tensor:
    """|h - h^|_2 / |h|_2 over t = 1 ... L-1, [C] float64; both [C, L]. h_0 is not counted: it is kept exactly."""
    h, other = tail_of(filters), tail_of(response)
    return (h - other).norm(dim=1) / h.norm(dim=1).clamp(min=1e-300)


def hankel_norm(sequence: Tensor, size: int) -> Tensor:
    """Largest singular value of the size x size section of sequences e_1, e_2, ... [C, n], zeros beyond; [C]."""
    grown = torch.nn.functional.pad(sequence, (0, max(0, 2 * size - 1 - sequence.shape[1])))[:, : 2 * size - 1]
    # as the "half" section of 2 size samples
    return leading(torch.nn.functional.pad(grown, (0, 1)), 1, "half")[0][:, 0].abs()


def peak_gain(sequence: Tensor) -> Tensor:
    """Largest |sum_t e_t z^-t| on the unit circle, [C]: the maximum over a fine grid, which it exceeds by less than 0.5 %."""
    n = sequence.shape[1]
    return torch.fft.rfft(sequence, n=OVERSAMPLING * n).abs().amax(dim=1)


def _gain(filters: Tensor, student: ModalFilters) -> Tensor:
    """H-infinity norm of filter - recurrence with the recurrence's infinite response, by its rational function; [C]."""
    tail = tail_of(filters)
    count = OVERSAMPLING * tail.shape[1]
    teacher = torch.fft.rfft(tail, n=count)  # sum h_{t+1} z^-t
    z = torch.exp(2j * math.pi * torch.arange(count // 2 + 1, dtype=torch.float64) / count)
    wide = student.to(dtype=torch.complex128)
    answer = torch.zeros_like(teacher)
    for poles, residues in zip(wide.poles.T, wide.residues.T, strict=True):
        one = residues[:, None] / (1 - poles[:, None] / z)
        other = residues.conj()[:, None] / (1 - poles.conj()[:, None] / z)
        answer += (one + other) / 2
    return (teacher - answer).abs().amax(dim=1)


def chain(filters: Tensor, student: ModalFilters, order: int) -> pd.DataFrame:
    """The norms of filter - recurrence and what the theory says of them (section 3.5), one row per filter.

    The filter is taken as zero beyond its end, the recurrence as it goes on. With S the n x n section of n = L - 1 samples:
    sigma_{d+1} <= |S - S^|, |h - h^|_2 <= |S - S^| <= |H - H^|_inf <= |h - h^|_1 over 2n - 1 samples.

    Returns:
        columns floor (sigma_{d+1}), bound (2 sum_{k>d} sigma_k), l2, hankel, hinf, l1, gain (H-infinity with the infinite
        response), and the booleans above_floor, ordered, within_bound.
    """
    tail = tail_of(filters)
    n = tail.shape[1]
    values = spectrum(filters)
    answer = student.to(dtype=torch.complex128).impulse(2 * n)[:, 1:]
    error = torch.nn.functional.pad(tail, (0, n - 1)) - answer
    floor = values[:, order] if order < n else torch.zeros_like(values[:, 0])
    found = {
        "floor": floor, "bound": 2 * values[:, order:].sum(dim=1), "l2": error[:, :n].norm(dim=1),
        "hankel": hankel_norm(error, n), "hinf": peak_gain(error), "l1": error.abs().sum(dim=1), "gain": _gain(filters, student),
    }  # fmt: skip
    slack = 1e-9 * (values[:, 0] + found["l1"])  # rounding, in proportion to what is compared
    widened = found["hinf"] / math.cos(math.pi / (2 * OVERSAMPLING))
    found["above_floor"] = found["hankel"] + slack >= floor
    found["ordered"] = (
        (found["l2"] <= found["hankel"] + slack) & (found["hankel"] <= widened + slack) & (found["hinf"] <= found["l1"] + slack)
    )
    found["within_bound"] = found["gain"] <= found["bound"] + slack
    return pd.DataFrame({name: column.numpy() for name, column in found.items()})
