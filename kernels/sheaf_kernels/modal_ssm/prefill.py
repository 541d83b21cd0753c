"""Ways to get the state that a prompt leaves behind, in plain torch: one block of time at a time, at once, by FFT, by scan.

For T tokens and m modes a channel, x(T) = lambda^T x(0) + sum_t lambda^(T-1-t) z_t:
    strategy      operations        extra memory   what it is
    recurrent     m T, in sequence  m              the definition; compiled where the kernel is built
    chunked       (m + K) T, GEMM   m K + T m / K  blocks of K tokens: x <- lambda^K x + V z_block
    vandermonde   m T, one GEMM     m T            a single block of T tokens; the state only
    modal_fft     m T log T         m T            convolution of every mode with z by FFT, of which one sample is used
    scan          m T log T         m T            doubling: all states, log T passes
    canonical     T log T           T              one FFT division by the denominator, then companion to modal form
The first two columns count per channel and sequence. `canonical` (real degree d = 2 m) is the cheapest on paper; it forms the
polynomial of all poles, whose coefficients cancel: it loses all digits when poles cluster, and is here to show that.
Powers of poles are computed in float64 and rounded once.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from . import reference
from .modes import Modes

__all__ = ["STRATEGIES", "powers", "run"]

_AT_ONCE = 2**24  # complex numbers that modal_fft and scan hold at a time
_BLOCK = 64


def powers(poles: Tensor, exponents: Tensor) -> Tensor:
    """poles [..., m] to the given whole powers [k]: [..., m, k]; 0^0 = 1."""
    real, imaginary = poles.real.double()[..., None], poles.imag.double()[..., None]
    at = exponents.to(device=poles.device, dtype=torch.float64)
    return torch.polar(torch.hypot(real, imaginary) ** at, torch.atan2(imaginary, real) * at).to(poles.dtype)


def run(
    z: Tensor, modes: Modes, state: Tensor, strategy: str, outputs: bool, block: int | None
) -> tuple[Tensor | None, Tensor]:
    """(y [B, C, T] or None, complex state [B, C, m]) from z [B, C, T] and the complex state before it."""
    if strategy == "recurrent":
        every, state = reference.prefill(z, *modes.expanded(), state)
        return (every if outputs else None), state
    if not z.shape[-1]:
        return (torch.zeros_like(z) if outputs else None), state
    if strategy == "chunked":
        return _chunked(z, modes, state, outputs, block or _BLOCK)
    y = _outputs_by_fft(z, modes, state) if outputs else None
    poles = modes.expanded()[0]
    decayed = powers(poles, torch.tensor([z.shape[-1]]))[..., 0] * state
    return y, decayed + STRATEGIES[strategy](z.to(modes.h0.dtype), modes)


def _rows(t: Tensor, modes: Modes) -> Tensor:
    """[B, C, ...] -> [H, B * repeat, ...]: all that shares a row of poles together."""
    batch, tail = t.shape[0], t.shape[2:]
    return t.reshape(batch, -1, modes.repeat, *tail).transpose(0, 1).reshape(-1, batch * modes.repeat, *tail)


def _channels(t: Tensor, modes: Modes) -> Tensor:
    """The inverse of ``_rows``."""
    tail = t.shape[2:]
    return t.reshape(t.shape[0], -1, modes.repeat, *tail).transpose(0, 1).reshape(-1, modes.channels, *tail)


def _real(t: Tensor) -> Tensor:
    """Complex [..., m] -> real [..., 2 m]: real parts, then imaginary parts."""
    return torch.cat([t.real, t.imag], -1)


def _chunked(z: Tensor, modes: Modes, state: Tensor, outputs: bool, block: int) -> tuple[Tensor | None, Tensor]:
    length = z.shape[-1]
    block = min(block, length)
    whole = length - length % block
    if whole < length:
        first, state = _chunked(z[..., :whole], modes, state, outputs, block)
        last, state = _chunked(z[..., whole:], modes, state, outputs, length - whole)
        return (torch.cat([first, last], -1) if first is not None and last is not None else None), state
    poles, residues = modes.poles, modes.residues
    rows = _rows(z, modes).to(modes.h0.dtype)
    inputs = rows.reshape(len(rows), -1, block)  # [H, B repeat chunks, K]
    shape = (len(rows), rows.shape[1], whole // block)
    reversed_ = powers(poles, torch.arange(block - 1, -1, -1))  # [H, m, K]
    added = inputs @ _real(reversed_.transpose(1, 2))  # [H, B repeat chunks, 2 m]
    added = torch.complex(*(part.contiguous() for part in added.chunk(2, -1))).view(*shape, -1)
    jump = powers(poles, torch.tensor([block]))[..., 0][:, None]  # [H, 1, m]
    now, before = _rows(state, modes), []
    for k in range(shape[2]):
        before.append(now)
        now = added[:, :, k] + jump * now
    state = _channels(now, modes)
    if not outputs:
        return None, state
    response = residues[..., None] * powers(poles, torch.arange(block))  # [H, m, K]
    y = _real(torch.stack(before, 2)).flatten(1, 2) @ torch.cat([response.real, -response.imag], 1)
    impulse = response.real.sum(1)  # h_1 .. h_K
    lag = torch.arange(block, device=z.device)[None] - torch.arange(block, device=z.device)[:, None]  # input, output
    within = torch.where(lag > 0, impulse[:, (lag - 1).clamp(min=0)], 0.0)
    y = torch.baddbmm(y, inputs, within)
    y = _channels(y.view(len(rows), -1, whole), modes) + modes.h0[:, None] * z
    return y.to(z.dtype), state


def _outputs_by_fft(z: Tensor, modes: Modes, state: Tensor) -> Tensor:
    length = z.shape[-1]
    poles, residues, h0 = modes.expanded()
    n = 2 * length
    h = reference.impulse(poles, residues, h0, length)
    y = torch.fft.irfft(torch.fft.rfft(z.to(h.dtype), n) * torch.fft.rfft(h, n), n)[..., :length]
    if state.abs().max() > 0:
        response = residues[..., None] * powers(poles, torch.arange(length))
        y = y + torch.einsum("bcm,cmt->bct", state, response).real
    return y.to(z.dtype)


def _vandermonde(z: Tensor, modes: Modes) -> Tensor:
    matrix = powers(modes.poles, torch.arange(z.shape[-1] - 1, -1, -1)).transpose(1, 2)
    found = _rows(z, modes) @ _real(matrix)
    return _channels(torch.complex(*(part.contiguous() for part in found.chunk(2, -1))), modes)


def _by_channels(z: Tensor, modes: Modes, each: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Run ``each`` on z [B, c, T] and poles [c, m] for a few channels at a time, so that [B, c, m, T] stays small."""
    poles = modes.expanded()[0]
    count = max(1, _AT_ONCE // max(1, z.shape[0] * modes.order * 2 * z.shape[-1]))
    return torch.cat([each(a, b) for a, b in zip(z.split(count, 1), poles.split(count), strict=True)], 1)


def _modal_fft(z: Tensor, modes: Modes) -> Tensor:
    def each(z: Tensor, poles: Tensor) -> Tensor:
        length = z.shape[-1]
        spectrum = torch.fft.fft(powers(poles, torch.arange(length)), 2 * length)  # [c, m, 2 T]
        product = torch.fft.fft(z, 2 * length)[:, :, None] * spectrum
        return torch.fft.ifft(product)[..., length - 1]

    return _by_channels(z, modes, each)


def _scan(z: Tensor, modes: Modes) -> Tensor:
    def each(z: Tensor, poles: Tensor) -> Tensor:
        x = z[:, :, None].to(poles.dtype).repeat(1, 1, poles.shape[1], 1)
        shift = 1
        while shift < z.shape[-1]:
            factor = powers(poles, torch.tensor([shift]))
            x = torch.cat([x[..., :shift], torch.addcmul(x[..., shift:], factor, x[..., :-shift])], -1)
            shift *= 2
        return x[..., -1]

    return _by_channels(z, modes, each)


def _canonical(z: Tensor, modes: Modes) -> Tensor:
    poles = modes.expanded()[0]  # [C, m]
    length, degree = z.shape[-1], 2 * poles.shape[1]
    roots = torch.cat([poles, poles.conj()], 1)
    den = torch.ones(len(roots), 1, dtype=poles.dtype, device=poles.device)
    for n in range(degree):
        zero = den.new_zeros(len(den), 1)
        den = torch.cat([den, zero], 1) - roots[:, n : n + 1] * torch.cat([zero, den], 1)
    size = 2 * max(length, degree)
    v = torch.fft.irfft(torch.fft.rfft(z, size) / torch.fft.rfft(den.real, size), size)[..., :length]
    recent = v.flip(-1)[..., :degree]  # v_(T-1), v_(T-2), ...
    c, found = torch.ones_like(poles), torch.zeros(*z.shape[:2], poles.shape[1], dtype=poles.dtype, device=z.device)
    for j in range(recent.shape[-1]):
        if j:
            c = den[:, j : j + 1].real + poles * c
        found = found + c * recent[..., j, None]
    return found


STRATEGIES: dict[str, Callable[[Tensor, Modes], Tensor]] = {
    "vandermonde": _vandermonde,
    "modal_fft": _modal_fft,
    "scan": _scan,
    "canonical": _canonical,
}
