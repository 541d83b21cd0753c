"""From Hankel eigenvectors to recurrences: balanced truncation, modal truncation, Prony, and least-squares residues."""

import torch
from torch import Tensor

from sheaf.laughing_hyena.hankel import Section, apply, leading, section_size
from sheaf.laughing_hyena.modal import powers

__all__ = ["Modes", "balanced", "compact", "least_squares", "modal_truncation", "modes_of", "prony", "realise"]

Modes = tuple[Tensor, Tensor]  # poles and residues, complex [C, m]; unused slots have residue 0
LARGER = (4, 8, 16, 32)  # by how much the realisations exceed the order that modal truncation cuts them to


def realise(tail: Tensor, order: int, section: Section = "padded", *, steps: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """State matrices A [C, d, d], B [C, d], C [C, d] with h_t = C A^(t-1) B: Kung's eigensystem realisation (section 3.6).

    On the padded section A = U^T P U with orthonormal U and the shift P, similar to the balanced form without its division by
    small singular values; its norm is at most 1, so the recurrence is stable whatever was truncated. On the half section the
    shifted Hankel matrix uses the one sample more that it needs, and nothing guarantees stability.

    Args:
        tail: [C, n] float64.
        order: d.
    """
    values, v = leading(tail, order, section, steps=steps)
    u = v * torch.sign(values)[:, None]
    if section == "padded":
        a = u[:, :-1].transpose(1, 2) @ u[:, 1:]
        return a, values.abs() * v[:, 0], u[:, 0]
    size = section_size(tail.shape[1], section)
    kept = values.abs() > 1e-10 * values[:, :1].abs()  # smaller ones are rounding, and would be divided by
    root = torch.where(kept, values.abs(), torch.ones_like(values)).sqrt()
    shifted = apply(tail, v, size + 1)[:, 1:]
    scale = kept / root
    a = (u * scale[:, None]).transpose(1, 2) @ (shifted * scale[:, None])
    return a, kept * root * v[:, 0], kept * root * u[:, 0]


def modes_of(a: Tensor, b: Tensor, c: Tensor) -> Modes:
    """Poles and residues of state matrices; of a conjugate pair the upper pole, with twice its residue."""
    poles, x = torch.linalg.eig(a)
    try:
        weights = torch.linalg.solve(x, b[..., None].to(x.dtype))[..., 0]
    except torch.linalg.LinAlgError:  # a defective matrix: least squares instead
        weights = torch.linalg.lstsq(x, b[..., None].to(x.dtype), driver="gelsd").solution[..., 0]
    residues = torch.einsum("ci,cin->cn", c.to(x.dtype), x) * weights
    lone = torch.where(poles.imag == 0, residues.real, 0).to(residues.dtype)
    residues = torch.where(poles.imag > 0, 2 * residues, lone)
    return compact(poles, residues)


def compact(poles: Tensor, residues: Tensor) -> Modes:
    """Used slots first, by falling modulus of the residue, and no more of them than the fullest filter needs."""
    used = residues != 0
    m = max(1, int(used.sum(dim=1).max()))
    chosen = residues.abs().argsort(dim=1, descending=True)[:, :m]
    poles, residues = poles.gather(1, chosen), residues.gather(1, chosen)
    return torch.where(residues != 0, poles, torch.zeros_like(poles)), residues


def balanced(tail: Tensor, order: int, section: Section = "padded", *, steps: int = 4) -> Modes:
    """Balanced truncation to real degree d; on the padded section stable, and within 2 sum_{k>d} sigma_k in H-infinity."""
    return modes_of(*realise(tail, order, section, steps=steps))


def modal_truncation(tail: Tensor, order: int) -> Modes:
    """The modes of a larger realisation with the largest |R| / (1 - |lambda|), pairs kept together, up to ``order``.

    How much larger matters a good deal, so each filter gets the best in l2 of the realisations of `LARGER` more.
    """
    size = section_size(tail.shape[1], "padded")
    found: Modes | None = None
    least = torch.full((len(tail),), torch.inf, dtype=tail.dtype)
    for high in sorted({min(order + more, size - 1) for more in LARGER}):
        poles, residues = balanced(tail, max(order, high))
        weight = residues.abs() / (1 - poles.abs()).clamp(min=1e-12)
        chosen = weight.argsort(dim=1, descending=True)
        poles, residues = poles.gather(1, chosen), residues.gather(1, chosen)
        degree = torch.where(residues == 0, 0, torch.where(poles.imag == 0, 1, 2))
        modes = compact(poles, torch.where(degree.cumsum(dim=1) <= order, residues, 0))
        error = (tail - torch.einsum("cm,cmt->ct", modes[1], powers(modes[0], tail.shape[1])).real).norm(dim=1)
        if found is None:
            found, least = modes, error
            continue
        m = max(found[0].shape[1], modes[0].shape[1])
        old, new = ([torch.nn.functional.pad(x, (0, m - x.shape[1])) for x in pair] for pair in (found, modes))
        better = (error < least)[:, None]
        found = (torch.where(better, new[0], old[0]), torch.where(better, new[1], old[1]))
        least = torch.minimum(least, error)
    assert found is not None
    return compact(*found)


def prony(tail: Tensor, order: int) -> Modes:
    """Poles of the half section (the matrix pencil), reflected into the unit circle, and residues by least squares."""
    poles, residues = balanced(tail, order, "half")
    radius = poles.abs()
    poles = torch.where(radius >= 1, poles / radius.clamp(min=1e-300).square(), poles)
    return poles, least_squares(tail, poles, residues != 0)


def features(poles: Tensor, used: Tensor, length: int) -> Tensor:
    """Real columns whose combination by Re R and Im R is the response: [C, length, 2 m], zero for what may not be used."""
    e = powers(poles, length).transpose(1, 2)  # [C, length, m]
    complex_mode = used & (poles.imag != 0)
    return torch.cat([e.real * used[:, None], -e.imag * complex_mode[:, None]], dim=2)


def least_squares(tail: Tensor, poles: Tensor, used: Tensor) -> Tensor:
    """The residues, complex [C, m], that fit the tail [C, n] best in l2 for given poles; real ones for real poles."""
    v = features(poles, used, tail.shape[1])
    gram = v.transpose(1, 2) @ v
    scale = gram.diagonal(dim1=1, dim2=2).clamp(min=1e-300).rsqrt()
    unit = gram * scale[:, None] * scale[..., None]
    unit = unit + torch.diag_embed(torch.where(gram.diagonal(dim1=1, dim2=2) > 0, 1e-12, 1.0))
    right = (v.transpose(1, 2) @ tail[..., None])[..., 0] * scale
    found = torch.linalg.solve(unit, right) * scale
    m = poles.shape[1]
    return torch.complex(found[:, :m], found[:, m:]) * used
