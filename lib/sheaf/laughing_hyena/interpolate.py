"""Modal interpolation: poles and residues fitted to many filters at once, by damped Gauss-Newton or by gradient steps."""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from sheaf.laughing_hyena.modal import powers
from sheaf.laughing_hyena.truncation import Modes, least_squares

__all__ = ["Objective", "fit_gradient", "fit_newton", "grid_start"]

Objective = Literal["l2", "h2", "hinf"]
_CHUNK = 1 << 23  # float64 numbers of a Jacobian held at once
SURROGATE = 16  # p of the p-norm over frequencies that stands in for the maximum
SMALLEST_RATE = 1e-7  # of decay: the largest modulus a fit may reach is exp(-1e-7)


def grid_start(tail: Tensor, order: int) -> Modes:
    """The start that needs no realisation: angles evenly over [0, pi), time constants spread from 2 to n, fitted residues."""
    channels, n = tail.shape
    m = max(1, order // 2)
    angle = math.pi * (torch.arange(m, dtype=tail.dtype) + 0.5) / m
    constants = torch.logspace(math.log10(2.0), math.log10(max(n, 3)), m, dtype=tail.dtype).flip(0)
    poles = torch.polar(torch.exp(-1 / constants), angle).expand(channels, -1).contiguous()
    return poles, least_squares(tail, poles, torch.ones_like(poles, dtype=torch.bool))


def _split(modes: Modes) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(rho, theta, real part, imaginary part) with lambda = exp(-exp(rho) + i theta): stable whatever the numbers."""
    poles, residues = modes
    radius = poles.abs().clamp(1e-8, math.exp(-SMALLEST_RATE))
    return torch.log(-torch.log(radius)), poles.angle(), residues.real.clone(), residues.imag.clone()


def _poles(rho: Tensor, theta: Tensor, real: Tensor) -> Tensor:
    radius = torch.exp(-torch.exp(rho).clamp(min=SMALLEST_RATE))
    sign = torch.where(theta.abs() > 1, -1.0, 1.0)  # a real pole stays on its side of 0, exactly real
    return torch.complex(torch.where(real, radius * sign, radius * theta.cos()), torch.where(real, 0.0, radius * theta.sin()))


def _response(poles: Tensor, residues: Tensor, n: int) -> Tensor:
    return torch.einsum("cm,cmt->ct", residues, powers(poles, n)).real


def fit_newton(
    tail: Tensor, start: Modes, *, steps: int = 30, tol: float = 1e-5, tick: Callable[[object], None] | None = None
) -> Modes:
    """Least l2 error by Levenberg and Marquardt's damped Gauss-Newton steps on poles and residues together (section 3.2).

    Each filter has its own damping and takes a step only when its error falls, so none ends worse than it began. Real modes
    stay real, so the degree stays that of the start.

    Args:
        tail: [C, n] float64.
        start: modes to begin from, with no pole outside the unit circle used.
        steps: at most; a chunk of filters stops when none of them gains more than ``tol`` of its error.
        tick: called once per finished chunk of filters.
    """
    size = 4 * start[0].shape[1] * tail.shape[1]
    rows = max(1, _CHUNK // size)
    done = []
    for i in range(0, len(tail), rows):
        done.append(_newton(tail[i : i + rows], (start[0][i : i + rows], start[1][i : i + rows]), steps, tol))
        if tick:
            tick(i)
    return torch.cat([d[0] for d in done]), torch.cat([d[1] for d in done])


def _newton(tail: Tensor, start: Modes, steps: int, tol: float) -> Modes:
    n = tail.shape[1]
    used, real = start[1] != 0, start[0].imag == 0
    rho, theta, re, im = _split(start)
    t = torch.arange(n, dtype=tail.dtype)
    damping = torch.full((len(tail), 1), 1e-3, dtype=tail.dtype)
    free = torch.cat([used, used & ~real, used, used & ~real], dim=1)  # rho, theta, Re R, Im R
    e = powers(_poles(rho, theta, real), n)
    error = tail - torch.einsum("cm,cmt->ct", torch.complex(re, im), e).real
    loss = error.square().sum(dim=1)
    for _ in range(steps):
        mode = torch.complex(re, im)[..., None] * e  # [C, m, n]
        columns = [-torch.exp(rho)[..., None] * mode.real * t, -mode.imag * t, e.real, -e.imag]
        jacobian = torch.cat(columns, dim=1) * free[..., None]  # [C, 4 m, n]
        gram = jacobian @ jacobian.transpose(1, 2)
        slope = (jacobian @ error[..., None])[..., 0]
        diagonal = gram.diagonal(dim1=1, dim2=2)
        floor = 1e-12 * diagonal.amax(dim=1, keepdim=True) + 1e-300
        scale = diagonal.clamp(min=floor).rsqrt()
        unit = gram * scale[:, None] * scale[..., None] + torch.diag_embed(damping.expand(-1, gram.shape[1]) + 1e-12)
        step = torch.linalg.solve(unit, slope * scale) * scale * free
        moved = [p + s for p, s in zip((rho, theta, re, im), step.chunk(4, dim=1), strict=True)]
        moved[0] = moved[0].clamp(math.log(SMALLEST_RATE), 4.0)
        e_new = powers(_poles(moved[0], moved[1], real), n)
        error_new = tail - torch.einsum("cm,cmt->ct", torch.complex(moved[2], moved[3]), e_new).real
        loss_new = error_new.square().sum(dim=1)
        better = loss_new < loss  # False for NaN
        gain = torch.where(better, (loss - loss_new) / loss.clamp(min=1e-300), torch.zeros_like(loss))
        take = better[:, None]
        rho, theta, re, im = (torch.where(take, b, a) for a, b in zip((rho, theta, re, im), moved, strict=True))
        e = torch.where(take[..., None], e_new, e)
        error, loss = torch.where(take, error_new, error), torch.where(better, loss_new, loss)
        damping = torch.where(take, damping / 4, damping * 6).clamp(1e-12, 1e12)
        if not bool((gain > tol).any()) and bool((better | (damping[:, 0] > 10)).all()):
            break
    return torch.where(used, _poles(rho, theta, real), 0), torch.complex(re, torch.where(real, 0.0, im)) * used


def fit_gradient(
    tail: Tensor, start: Modes, objective: Objective = "l2", *, steps: int = 600, rate: float = 0.03, projected: bool = False
) -> Modes:
    """Adam on all filters at once, each filter's loss divided by its norm, cosine schedule: the paper's own way (section 3.2).

    Args:
        tail: [C, n] float64.
        objective: "l2" in time; "h2", the mean square over 2n frequencies of the zero-padded difference, equal to l2 by
            Parseval; "hinf", a p-norm over frequencies in place of their maximum. Both in frequency compare the truncated
            responses, not the infinite rational function.
        projected: variable projection: only the poles move, the residues are solved for at every step.

    Returns:
        The best modes seen by each filter, the start included.

    Raises:
        ValueError: an unknown objective.
    """
    if objective not in ("l2", "h2", "hinf"):
        raise ValueError(f"objective {objective!r} is unknown; use l2, h2 or hinf")
    n = tail.shape[1]
    used, real = start[1] != 0, start[0].imag == 0
    parameters = [p.requires_grad_() for p in _split(start)]
    rho, theta, re, im = parameters
    moving = parameters[:2] if projected else parameters
    optimiser = torch.optim.Adam(moving, lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    norm = tail.square().sum(dim=1).clamp(min=1e-300)
    best = torch.full_like(norm, torch.inf)
    kept = (start[0].clone(), start[1].clone())
    for _ in range(steps + 1):
        poles = _poles(rho, theta, real)
        if projected:
            residues = least_squares(tail, poles.detach(), used)  # at their optimum their own slope is zero
        else:
            residues = torch.complex(re, torch.where(real, 0.0, im)) * used
        loss = _loss(tail - _response(poles, residues, n), objective) / norm
        with torch.no_grad():
            better = (loss < best)[:, None]
            kept = (torch.where(better, poles, kept[0]), torch.where(better, residues, kept[1]))
            best = torch.minimum(best, torch.nan_to_num(loss, nan=torch.inf))
        optimiser.zero_grad()
        loss.sum().backward()
        optimiser.step()
        schedule.step()
    return torch.where(used, kept[0].detach(), 0), kept[1].detach() * used


def _loss(error: Tensor, objective: Objective) -> Tensor:
    if objective == "l2":
        return error.square().sum(dim=1)
    n = 2 * error.shape[1]
    power = torch.fft.fft(error, n=n).abs().square()
    if objective == "h2":
        return power.mean(dim=1)
    largest = power.amax(dim=1, keepdim=True).detach().clamp(min=1e-300)
    return (largest * (power / largest).pow(SURROGATE / 2).mean(dim=1, keepdim=True).pow(2 / SURROGATE))[:, 0]
