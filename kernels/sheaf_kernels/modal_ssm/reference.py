"""What modal_ssm computes, in plain torch on any device and real dtype: the definitions that every kernel is tested against.

Massaroli et al. 2023, section 3 (modal canonical form), in the shifted convention: h_0 is a feed-through, the state is causal
    y_t = Re sum_n R_n x_t,n + h_0 z_t        x_t+1,n = lambda_n x_t,n + z_t
so that h_t = Re sum_n R_n lambda_n^(t-1) for t >= 1.
"""

import torch
from torch import Tensor

__all__ = ["fir_step", "impulse", "mixer_step", "prefill", "step"]


def step(state: Tensor, z: Tensor, poles: Tensor, residues: Tensor, h0: Tensor) -> tuple[Tensor, Tensor]:
    """One token: (y [B, C], next state) from state complex [B, C, m], z [B, C], poles and residues [C, m], h0 [C]."""
    y = (residues * state).sum(-1).real + h0 * z
    return y.to(z.dtype), poles * state + z[..., None]


def prefill(
    z: Tensor, poles: Tensor, residues: Tensor, h0: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """T tokens, one after the other: (y [B, C, T], state after the last) from z [B, C, T]; the state starts at 0."""
    if state is None:
        state = poles.new_zeros(z.shape[0], *poles.shape)
    outputs = []
    for t in range(z.shape[-1]):
        y, state = step(state, z[..., t], poles, residues, h0)
        outputs.append(y)
    return (torch.stack(outputs, -1) if outputs else torch.zeros_like(z)), state


def impulse(poles: Tensor, residues: Tensor, h0: Tensor, length: int) -> Tensor:
    """h_0 .. h_(length-1) [C, length]."""
    if length < 1:
        return h0.new_zeros(len(h0), 0)
    powers = torch.ones(*poles.shape, max(length - 1, 1), dtype=poles.dtype, device=poles.device)
    powers[..., 1:] = poles[..., None]
    powers = powers.cumprod(-1)[..., : length - 1]
    return torch.cat([h0[:, None], (residues[..., None] * powers).sum(1).real], 1)


def fir_step(history: Tensor, u: Tensor, taps: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """A causal depthwise convolution, one token: (taps[-1] u_t + taps[-2] u_(t-1) + ... + bias, next history).

    history [B, k - 1, W] holds the last inputs, the oldest first; u [B, W]; taps [k, W]: ``conv.weight[:, 0].T`` of an
    ``nn.Conv1d`` on an input padded on the left; bias [W].
    """
    window = torch.cat([history, u[:, None]], 1)
    y = (window * taps).sum(1)
    return (y if bias is None else y + bias), window[:, 1:]


def mixer_step(
    state: Tensor, history: Tensor, qkv: Tensor, taps: Tensor, bias: Tensor | None, poles: Tensor, residues: Tensor,
    h0: Tensor, size: int = 1,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The whole mixer of a (Multi)Hyena block, one token: (y [B, D], next state, next history).

    q, k, v are the thirds of the short convolution of qkv [B, 3 D], each in D / N heads of ``size`` N; z = k v^T [B, D / N, N, N]
    goes through the recurrence, C = D N channels, and q is contracted with the first of the two axes: y_j = sum_i q_i s_ij.
    """
    u, history = fir_step(history, qkv, taps, bias)
    q, k, v = u.view(u.shape[0], 3, u.shape[1] // (3 * size), size).unbind(1)
    s, state = step(state, (k[..., :, None] * v[..., None, :]).flatten(1), poles, residues, h0)
    y = torch.einsum("bhi,bhij->bhj", q, s.view(*q.shape, size))
    return y.flatten(1), state, history
