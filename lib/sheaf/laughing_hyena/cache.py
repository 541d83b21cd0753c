"""What a layer keeps between tokens: the recurrence's state, the past inputs of a convolution, or keys and values.

Each class is one layer of one batch while it decodes: ``prefill`` takes a stretch of text, ``step`` one token of every sequence,
``nbytes`` is what is kept. The recurrence goes on from any state; the other two hold up to ``capacity`` tokens.
"""

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from sheaf.laughing_hyena.modal import ModalFilters
from sheaf.laughing_hyena.models import Attention, LongConv, long_convolve
from sheaf_kernels.modal_ssm import Modes, modal_mixer_step, modal_prefill, reference

__all__ = ["ATTENTION_FORMS", "CONVOLUTION_FORMS", "ConvolutionCache", "KVCache", "Layer", "Recurrence", "pack"]

ATTENTION_FORMS = ("sdpa", "matmul")
CONVOLUTION_FORMS = ("product", "bmm")
SHORT = 64  # tokens
AT_ONCE = 2**20  # products k v^T


class Layer(Protocol):
    """A mixer with memory."""

    def prefill(self, x: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, D]."""
        ...

    def step(self, x: Tensor) -> Tensor:
        """[B, D] -> [B, D]."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes kept between tokens."""
        ...


def pack(filters: ModalFilters, head_width: int, device: torch.device | str = "cpu") -> Modes:
    """Distilled filters, the feed-through in their h0, as the step kernels take them: float32, N x N channels a head.

    Raises:
        ValueError: a used pole lies on or outside the unit circle: the state would grow without bound.
    """
    if not filters.stable:
        raise ValueError(
            f"a pole has modulus {float(filters.radius.max()):.6g}; a recurrence needs all below 1, distil with a stable method"
        )
    f = filters.to(device, dtype=torch.complex64)
    return Modes.pack(f.poles, f.residues, f.h0, head_width**2)


def _short(mixer: LongConv) -> tuple[Tensor, Tensor | None]:
    return mixer.short.weight[
        :, 0
    ].T.detach().contiguous(), None if mixer.short.bias is None else mixer.short.bias.detach()


def _convolve_shortly(u: Tensor, history: Tensor, taps: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """The depthwise convolution of u [B, T, W] after ``history`` [B, k - 1, W], and the history after it."""
    window = torch.cat([history, u], 1)
    t = u.shape[1]
    y = window[:, :t] * taps[0]
    for k in range(1, len(taps)):
        y = torch.addcmul(y, window[:, k : k + t], taps[k])
    return (y if bias is None else y + bias), window[:, t:].contiguous()


class Recurrence:
    """A long convolution in recurrent form.

    Args:
        mixer: the layer; its projections and short convolution are used as they are.
        modes: its distilled filters, see ``pack``.
        batch: sequences.
        strategy: of the prompt, see ``sheaf_kernels.modal_ssm.modal_prefill``.
        backend: of the step; "eager" is torch's complex arithmetic.
    """

    def __init__(
        self, mixer: LongConv, modes: Modes, batch: int, strategy: str = "auto", backend: str = "auto"
    ) -> None:
        self.mixer, self.modes, self.strategy, self.backend = mixer, modes, strategy, backend
        self.taps, self.bias = _short(mixer)
        self.history = self.taps.new_zeros(batch, len(self.taps) - 1, self.taps.shape[1])
        self.state = modes.new_state(batch)
        self._complex: Tensor | None = None  # the eager form's state

    @property
    def nbytes(self) -> int:
        """Bytes of the modal state and of the short convolution's past."""
        return self.state.nbytes + self.history.nbytes

    def prefill(self, x: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, D]: prompt and continuation are filtered alike, by the distilled filters."""
        b, t, d = x.shape
        n = self.mixer.head_width
        u, self.history = _convolve_shortly(self.mixer.project_in(x), self.history, self.taps, self.bias)
        q, k, v = u.view(b, t, 3, -1, n).unbind(2)  # [B, T, H, N]
        backend = "auto" if self.backend == "eager" else self.backend
        self._complex = None
        whole = self.strategy not in ("auto", "recurrent", "chunked")
        stretch = (
            t if whole or n == 1 else max(64, AT_ONCE // (b * d * n))
        )  # N products a channel: take what stays in the cache
        parts = []
        for i in range(0, t, stretch):
            now = slice(i, i + stretch)
            z = (k[:, now, ..., :, None] * v[:, now, ..., None, :]).flatten(2).transpose(1, 2).contiguous()
            y, self.state = modal_prefill(z, self.modes, self.state, self.strategy, backend)
            assert y is not None
            s = y.transpose(1, 2).reshape(b, -1, d // n, n, n).to(q.dtype)
            parts.append((q[:, now, ..., None] * s).sum(-2))
        return self.mixer.project_out(torch.cat(parts, 1).reshape(b, t, d))

    def step(self, x: Tensor) -> Tensor:
        """[B, D] -> [B, D], in time that does not depend on what came before."""
        qkv, n = self.mixer.project_in(x), self.mixer.head_width
        if self.backend != "eager":
            y = modal_mixer_step(self.state, self.history, qkv, self.taps, self.bias, self.modes, n, self.backend)
            return self.mixer.project_out(y)
        if self._complex is None:
            self._complex = self.modes.to_complex(self.state)
        u, self.history = reference.fir_step(self.history, qkv, self.taps, self.bias)
        q, k, v = u.view(len(x), 3, -1, n).unbind(1)
        z = (k[..., :, None] * v[..., None, :]).flatten(1)
        s, self._complex = reference.step(self._complex, z, *self.modes.expanded())
        return self.mixer.project_out((q[..., None] * s.view(*q.shape, n)).sum(-2).flatten(1))


class ConvolutionCache:
    """A long convolution that keeps its past inputs and sums over all of them at every token.

    Args:
        mixer: the layer.
        h: [C, capacity] or longer, the feed-through included.
        batch, capacity: sequences, and tokens that fit.
        form: "product" (multiply and sum) or "bmm" (a batched matrix product); heads wider than 1 have one form only, which
            keeps k and v and weighs k.q by the filter.
    """

    def __init__(self, mixer: LongConv, h: Tensor, batch: int, capacity: int, form: str = "product") -> None:
        if form not in CONVOLUTION_FORMS:
            raise ValueError(f"no form {form!r} of a cached convolution; use {' or '.join(CONVOLUTION_FORMS)}")
        if h.shape[1] < capacity:
            raise ValueError(
                f"the filters have {h.shape[1]} taps, fewer than the {capacity} tokens to hold; distil them to go on"
            )
        self.mixer, self.form, self.capacity, self.position = mixer, form, capacity, 0
        self.taps, self.bias = _short(mixer)
        self.history = self.taps.new_zeros(batch, len(self.taps) - 1, self.taps.shape[1])
        self.h = h[:, :capacity].to(self.taps.dtype)
        self.reversed = self.h.flip(1).contiguous()  # h_(t-s) of s = 0..t is a run of it
        c, n = mixer.channels, mixer.head_width
        shape = (batch, c, capacity) if form == "product" else (c, batch, capacity)
        self.past = (
            [self.taps.new_zeros(shape)] if n == 1 else [self.taps.new_zeros(batch, c, capacity, n) for _ in range(2)]
        )

    @property
    def nbytes(self) -> int:
        """Bytes of the past inputs, all that fit."""
        return sum(t.nbytes for t in self.past) + self.history.nbytes

    def prefill(self, x: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, D], from the first token only."""
        b, t, d = x.shape
        if self.position:
            raise ValueError("a cached convolution takes one prompt, at its beginning; go on with step")
        u, self.history = _convolve_shortly(self.mixer.project_in(x), self.history, self.taps, self.bias)
        q, k, v = u.view(b, t, 3, self.mixer.channels, -1).unbind(2)
        if self.mixer.head_width == 1:
            z = (k * v)[..., 0]  # [B, T, C]
            self.past[0][..., :t] = z.transpose(1, 2) if self.form == "product" else z.permute(2, 0, 1)
        else:
            for past, new in zip(self.past, (k, v), strict=True):
                past[:, :, :t] = new.transpose(1, 2)
        self.position = t
        by_fft = self.mixer.head_width == 1 and t > SHORT  # T x T matrices of every channel cost more than they save
        mixed = long_convolve(q, k, v, self.h, "fft" if by_fft else "auto")
        return self.mixer.project_out(mixed.reshape(b, t, d).to(x.dtype))

    def step(self, x: Tensor) -> Tensor:
        """[B, D] -> [B, D], in time and memory that grow with what came before."""
        u, history = reference.fir_step(self.history, self.mixer.project_in(x), self.taps, self.bias)
        self.history.copy_(history)
        t, c = self.position, self.mixer.channels
        _room(t, self.capacity)
        h = self.reversed[:, self.capacity - 1 - t :]
        q, k, v = u.view(len(x), 3, c, -1).unbind(1)
        if self.mixer.head_width > 1:
            self.past[0][:, :, t], self.past[1][:, :, t] = k, v
            weights = (self.past[0][:, :, : t + 1] @ q[..., None])[..., 0] * h  # [B, C, t + 1]
            y = (weights[..., None, :] @ self.past[1][:, :, : t + 1])[..., 0, :]
        elif self.form == "product":
            self.past[0][..., t] = (k * v)[..., 0]
            y = q * (self.past[0][..., : t + 1] * h).sum(-1, keepdim=True)
        else:
            self.past[0][..., t] = (k * v)[..., 0].T
            y = q * torch.bmm(self.past[0][..., : t + 1], h[..., None])[..., 0].T[..., None]
        self.position = t + 1
        return self.mixer.project_out(y.reshape(x.shape))


class KVCache:
    """Attention with a static cache of keys and values.

    Args:
        mixer: the layer, multi-head or grouped-query; queries that share a key-value head are handled as rows of one query.
        batch, capacity: sequences, and tokens that fit.
        form: "sdpa" (torch's fused attention) or "matmul" (two products and a softmax).
    """

    def __init__(self, mixer: Attention, batch: int, capacity: int, form: str = "sdpa") -> None:
        if form not in ATTENTION_FORMS:
            raise ValueError(f"no form {form!r} of cached attention; use {' or '.join(ATTENTION_FORMS)}")
        self.mixer, self.form, self.capacity, self.position = mixer, form, capacity, 0
        like = mixer.qkv.weight
        self.keys, self.values = (like.new_zeros(batch, mixer.kv_heads, capacity, mixer.head_width) for _ in range(2))

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values, all that fit."""
        return self.keys.nbytes + self.values.nbytes

    def prefill(self, x: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, D], from the first token only."""
        b, t, d = x.shape
        if self.position:
            raise ValueError("this cache takes one prompt, at its beginning; go on with step")
        q, k, v = self.mixer.project(x)
        self.keys[:, :, :t], self.values[:, :, :t] = k, v
        self.position = t
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=q.shape[1] > k.shape[1])
        return self.mixer.project_out(attended.transpose(1, 2).reshape(b, t, d))

    def step(self, x: Tensor) -> Tensor:
        """[B, D] -> [B, D], in time and memory that grow with what came before."""
        b, m, t = len(x), self.mixer, self.position
        _room(t, self.capacity)
        q, k, v = m.qkv(x).split([n * m.head_width for n in (m.heads, m.kv_heads, m.kv_heads)], dim=-1)
        self.keys[:, :, t], self.values[:, :, t] = k.view(b, m.kv_heads, -1), v.view(b, m.kv_heads, -1)
        q = q.view(b, m.kv_heads, m.heads // m.kv_heads, m.head_width)
        keys, values = self.keys[:, :, : t + 1], self.values[:, :, : t + 1]
        if self.form == "sdpa":
            y = F.scaled_dot_product_attention(q, keys, values)
        else:
            y = torch.softmax(q @ keys.transpose(-1, -2) * m.head_width**-0.5, dim=-1) @ values
        self.position = t + 1
        return m.project_out(y.reshape(b, -1))


def _room(position: int, capacity: int) -> None:
    if position >= capacity:
        raise ValueError(f"the cache holds {capacity} tokens and is full; start with a larger capacity")
