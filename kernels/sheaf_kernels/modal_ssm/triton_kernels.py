"""The two Triton programs of modal_ssm: a step of the recurrence, and the step of a Hyena mixer around it.

A program takes one tile of 16 channels of BB sequences. The state [batch, tiles, m, 2, 16] is read once
and written once, in runs of 32 m floats; the parameters of the tile are read once for all BB sequences. M is the number of modes
rounded up to a power of 2, K the taps of the short convolution. Arithmetic is float32 whatever the inputs are.
"""

import triton
import triton.language as tl

__all__ = ["mixer_step", "step"]


@triton.jit
def _advance(
    state: tl.tensor, packed: tl.tensor, z: tl.tensor, tile: tl.tensor, b: tl.tensor, lane: tl.tensor, batch: tl.tensor,
    modes: tl.tensor, shared: tl.tensor, M: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """Re(R x) [BB, 16] of the states of sequences ``b``, which move on by the input z [BB, 16]."""
    n = tl.arange(0, M)
    parameters = packed + (tile // shared).to(tl.int64) * modes * 64 + n[:, None] * 64 + lane[None, :]
    used = (n < modes)[:, None] & (lane >= 0)[None, :]
    lr = tl.load(parameters, mask=used, other=0.0)[None, :, :]
    li = tl.load(parameters + 16, mask=used, other=0.0)[None, :, :]
    rr = tl.load(parameters + 32, mask=used, other=0.0)[None, :, :]
    ri = tl.load(parameters + 48, mask=used, other=0.0)[None, :, :]
    first = state + (b.to(tl.int64) * tl.num_programs(0) + tile)[:, None, None] * modes * 32
    at = first + (n * 32)[None, :, None] + lane[None, None, :]
    kept = (b < batch)[:, None, None] & used[None, :, :]
    xr = tl.load(at, mask=kept, other=0.0)
    xi = tl.load(at + 16, mask=kept, other=0.0)
    y = tl.sum(rr * xr - ri * xi, axis=1)
    tl.store(at, lr * xr - li * xi + z[:, None, :], mask=kept)
    tl.store(at + 16, lr * xi + li * xr, mask=kept)
    return y


@triton.jit
def step(
    state: tl.tensor, z: tl.tensor, packed: tl.tensor, h0: tl.tensor, y: tl.tensor, batch: tl.tensor, channels: tl.tensor,
    modes: tl.tensor, shared: tl.tensor, BB: tl.constexpr, M: tl.constexpr,
) -> None:  # fmt: skip
    """y [batch, channels] = Re(R x) + h0 z, then x <- lambda x + z."""
    tile = tl.program_id(0)
    b = tl.program_id(1) * BB + tl.arange(0, BB)
    lane = tl.arange(0, 16)
    c = tile * 16 + lane
    kept = (b < batch)[:, None] & (c < channels)[None, :]
    place = b.to(tl.int64)[:, None] * channels + c[None, :]
    value = tl.load(z + place, mask=kept, other=0.0).to(tl.float32)
    direct = tl.load(h0 + c, mask=c < channels, other=0.0)
    s = _advance(state, packed, value, tile, b, lane, batch, modes, shared, M)
    tl.store(y + place, (s + direct[None, :] * value).to(y.dtype.element_ty), mask=kept)


@triton.jit
def _convolve(
    u: tl.tensor, history: tl.tensor, taps: tl.tensor, bias: tl.tensor, b: tl.tensor, c: tl.tensor, width: tl.tensor,
    kept: tl.tensor, valid: tl.tensor, K: tl.constexpr, HAS_BIAS: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """The short convolution of channels ``c`` of ``width``: [BB, 16]; their history moves on by one token."""
    new = tl.load(u + b.to(tl.int64)[:, None] * width + c[None, :], mask=kept, other=0.0)
    weight = tl.load(taps + (K - 1) * width + c, mask=valid, other=0.0).to(tl.float32)
    result = new.to(tl.float32) * weight[None, :]
    if HAS_BIAS:
        result += tl.load(bias + c, mask=valid, other=0.0).to(tl.float32)[None, :]
    past = history + b.to(tl.int64)[:, None] * (K - 1) * width + c[None, :]
    for k in tl.static_range(K - 1):
        weight = tl.load(taps + k * width + c, mask=valid, other=0.0).to(tl.float32)
        old = tl.load(past + k * width, mask=kept, other=0.0)
        result += old.to(tl.float32) * weight[None, :]
        if k > 0:
            tl.store(past + (k - 1) * width, old, mask=kept)
    if K > 1:
        tl.store(past + (K - 2) * width, new, mask=kept)
    return result


@triton.jit
def mixer_step(
    state: tl.tensor, history: tl.tensor, qkv: tl.tensor, taps: tl.tensor, bias: tl.tensor, packed: tl.tensor, h0: tl.tensor,
    y: tl.tensor, batch: tl.tensor, channels: tl.tensor, modes: tl.tensor, shared: tl.tensor, BB: tl.constexpr,
    M: tl.constexpr, K: tl.constexpr, HAS_BIAS: tl.constexpr,
) -> None:  # fmt: skip
    """The whole mixer of a Hyena block: y = q s, s the recurrence of z = k v, and q, k, v the short convolution of qkv."""
    tile = tl.program_id(0)
    b = tl.program_id(1) * BB + tl.arange(0, BB)
    lane = tl.arange(0, 16)
    c = tile * 16 + lane
    valid = c < channels
    kept = (b < batch)[:, None] & valid[None, :]
    width = 3 * channels
    q = _convolve(qkv, history, taps, bias, b, c, width, kept, valid, K, HAS_BIAS)
    k = _convolve(qkv, history, taps, bias, b, c + channels, width, kept, valid, K, HAS_BIAS)
    v = _convolve(qkv, history, taps, bias, b, c + 2 * channels, width, kept, valid, K, HAS_BIAS)
    z = k * v
    direct = tl.load(h0 + c, mask=valid, other=0.0)
    s = _advance(state, packed, z, tile, b, lane, batch, modes, shared, M) + direct[None, :] * z
    tl.store(y + b.to(tl.int64)[:, None] * channels + c[None, :], (q * s).to(y.dtype.element_ty), mask=kept)
