"""The language models: Hyena, MultiHyena, an H3-like SSM and a GPT, one block structure with four mixers, and presets."""

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sheaf.laughing_hyena.modal import ModalFilters, powers

__all__ = [
    "Attention", "DiagonalFilter", "HyenaLM", "ImplicitFilter", "LM", "LMConfig", "LongConv", "MultiHyenaLM", "PRESETS",
    "long_convolve",
]  # fmt: skip

Kind = Literal["hyena", "multihyena", "h3", "gpt"]
TOEPLITZ_UP_TO = 512  # a longer sequence is convolved by FFT


@dataclass(frozen=True)
class LMConfig:
    """Shape of a model.

    ``heads`` is the number of filters a layer has in MultiHyena, of query heads in GPT; Hyena and H3 have one filter per
    channel and ignore it. ``kv_heads`` (GPT) below ``heads`` is grouped-query attention; 0 means as many.
    """

    kind: Kind
    vocab: int
    context: int
    width: int
    layers: int
    heads: int = 8
    kv_heads: int = 0
    expand: int = 2  # hidden width of the MLP in units of width
    taps: int = 3  # of the short convolution
    emb: int = 33  # position features of the implicit filter, odd
    filter_width: int = 64
    frequency: float = 14.0  # of its sines at the start, w
    state: int = 64  # nominal real state of an H3 filter

    def __post_init__(self) -> None:
        if self.kind not in ("hyena", "multihyena", "h3", "gpt"):
            raise ValueError(f"no model kind {self.kind!r}; use hyena, multihyena, h3 or gpt")
        if min(self.vocab, self.context, self.width, self.layers, self.expand, self.taps) < 1 or self.context < 2:
            raise ValueError(f"every size must be at least 1 and the context at least 2; got {self}")
        if self.kind in ("multihyena", "gpt") and (self.heads < 1 or self.width % self.heads):
            raise ValueError(f"width {self.width} is not a multiple of the {self.heads} heads")
        if self.kind == "gpt" and self.heads % self.groups:
            raise ValueError(f"{self.heads} query heads cannot share {self.groups} key-value heads evenly")
        if self.emb < 3 or self.emb % 2 == 0:
            raise ValueError(f"emb counts one time and pairs of waves, so it is odd and at least 3; got {self.emb}")

    @property
    def groups(self) -> int:
        """Key-value heads of the GPT."""
        return self.kv_heads or self.heads

    @property
    def filters(self) -> int:
        """Long filters per layer, C: the width in Hyena and H3, the heads in MultiHyena, none in GPT."""
        return {"hyena": self.width, "h3": self.width, "multihyena": self.heads, "gpt": 0}[self.kind]

    @classmethod
    def from_name(cls, name: str, **changes: object) -> "LMConfig":
        """A preset, with some sizes changed: ``LMConfig.from_name("hyena-153m", layers=2)``.

        Raises:
            ValueError: no such preset.
        """
        if name not in PRESETS:
            raise ValueError(f"no preset {name!r}; there are {', '.join(PRESETS)}")
        return replace(PRESETS[name], **changes)  # type: ignore[arg-type]

    def state_floats(self, order: int, tokens: int) -> int:
        """Numbers of state one sequence carries through decoding, all layers (section 3 and its cost statement).

        Args:
            order: real degree d of the distilled filters.
            tokens: t, position in the sequence; only the KV cache grows with it.
        """
        if self.kind == "gpt":
            return self.layers * 2 * (self.width // self.heads) * self.groups * tokens
        per_channel = self.width // self.filters  # N: a head's state holds N x N products
        return self.layers * (self.width * per_channel * order + 3 * self.width * (self.taps - 1))


_PILE = {"vocab": 50257, "context": 2048}
PRESETS = {
    "gpt-125m": LMConfig("gpt", **_PILE, width=768, layers=12, heads=12, expand=4),
    "gpt-355m": LMConfig("gpt", **_PILE, width=1024, layers=24, heads=16, expand=4),
    "gpt-1.3b": LMConfig("gpt", **_PILE, width=2048, layers=24, heads=16, expand=4),
    "gpt-1.3b-gqa": LMConfig("gpt", **_PILE, width=2048, layers=24, heads=16, kv_heads=2, expand=4),
    "hyena-153m": LMConfig("hyena", **_PILE, width=864, layers=18),
    "hyena-355m": LMConfig("hyena", **_PILE, width=1024, layers=36),
    "hyena-1.3b": LMConfig("hyena", **_PILE, width=2048, layers=36),
    "multihyena-153m": LMConfig("multihyena", **_PILE, width=864, layers=18, heads=8),
    "multihyena-355m": LMConfig("multihyena", **_PILE, width=1024, layers=36, heads=8),
    "multihyena-1.3b": LMConfig("multihyena", **_PILE, width=2048, layers=36, heads=8),
    "h3-125m": LMConfig("h3", **_PILE, width=768, layers=12, expand=4, taps=4),
}


class ImplicitFilter(nn.Module):
    """Hyena's long filter: a small sine network of the position, times a decaying window.

    Args:
        channels: filters, C.
        length: L, the context they are trained for.
        emb, width, frequency: of the network (position features, hidden width, w).
    """

    features: Tensor
    decay: Tensor

    def __init__(self, channels: int, length: int, emb: int = 33, width: int = 64, frequency: float = 14.0) -> None:
        super().__init__()
        self.length = length
        t, bands = torch.arange(length), (emb - 1) // 2
        waves = torch.linspace(1e-4, max(bands - 1, 1e-4), bands) * (2 * math.pi * t / length)[:, None]
        features = torch.cat([(t / (length - 1))[:, None], torch.cos(waves), -torch.sin(waves)], dim=1)
        slow, fast = math.log(100) / 1.5, math.log(100) / 0.3
        self.register_buffer("features", features, persistent=False)  # [L, emb]
        self.register_buffer("decay", torch.linspace(slow, fast, channels), persistent=False)  # [C]
        self.frequency = nn.Parameter(torch.full((width,), float(frequency)))  # one vector for all three sines
        self.layers = nn.ModuleList([nn.Linear(emb, width), nn.Linear(width, width), nn.Linear(width, width)])
        self.last = nn.Linear(width, channels, bias=False)

    def forward(self, length: int) -> Tensor:
        """The filters' first ``length`` values, [C, length].

        Raises:
            ValueError: longer than the context they are defined on.
        """
        if length > self.length:
            raise ValueError(f"the filters are defined for {self.length} steps; asked for {length}: distil them to go on")
        x = self.features[:length]
        for layer in self.layers:
            x = torch.sin(self.frequency * layer(x))
        time = self.features[:length, :1]
        return (self.last(x) * torch.exp(-time * self.decay)).T


class DiagonalFilter(nn.Module):
    """The long filter of an H3-like layer: a diagonal SSM with poles as in S4D-Lin, ``state`` / 2 complex modes."""

    def __init__(self, channels: int, state: int = 64) -> None:
        super().__init__()
        modes = max(1, state // 2)
        self.log_step = nn.Parameter(torch.empty(channels, 1).uniform_(math.log(1e-3), math.log(1e-1)))
        self.log_rate = nn.Parameter(torch.full((channels, modes), math.log(0.5)))
        self.angle = nn.Parameter((math.pi * torch.arange(modes)).repeat(channels, 1))
        self.read = nn.Parameter(torch.randn(channels, modes, 2) / modes**0.5)

    def poles(self) -> Tensor:
        """Complex [C, state / 2], inside the unit circle whatever the parameters."""
        return torch.exp(self.log_step.exp() * torch.complex(-self.log_rate.exp(), self.angle))

    def forward(self, length: int) -> Tensor:
        """The filters' first ``length`` values, [C, length]."""
        read = torch.view_as_complex(self.read) * self.log_step.exp() ** 0.5
        return torch.einsum("cm,cmt->ct", read, powers(self.poles(), length)).real


def long_convolve(q: Tensor, k: Tensor, v: Tensor, h: Tensor, how: Literal["auto", "toeplitz", "fft"] = "auto") -> Tensor:
    """Order-2 gated long convolution of heads (section 4): y_t = sum_{s<=t} h_{t-s} v_s (k_s . q_t).

    That is the outer product of k and v in every head, each of its N^2 entries convolved with the head's one filter, and
    contracted with q. With N = 1 it is Hyena: q * (h * (k v)).

    Args:
        q, k, v: [B, T, C, N].
        h: [C, T] or longer, the feed-through included.
        how: "toeplitz" multiplies by T x T matrices (cheaper for short sequences), "fft" follows the definition.

    Returns:
        [B, T, C, N].
    """
    b, t, c, n = q.shape
    h = h[:, :t]
    if how == "auto":
        how = "toeplitz" if t <= TOEPLITZ_UP_TO else "fft"
    if how == "toeplitz":
        # row i of the Hankel-like view is h[i - (T-1)] ... h[i]; flipped it meets s = 0 ... T-1
        matrix = F.pad(h, (t - 1, 0)).unfold(-1, t, 1).flip(-1)  # [C, T, T], lower triangular
        if n * n < t:  # fewer products k v^T than pairs of positions
            q, k, v = (x.permute(2, 1, 0, 3) for x in (q, k, v))  # [C, T, B, N]
            z = (k[..., :, None] * v[..., None, :]).reshape(c, t, b * n * n)
            mixed = torch.bmm(matrix, z).view(c, t, b, n, n)
            return (q[..., None] * mixed).sum(dim=-2).permute(2, 1, 0, 3)
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # [B, C, T, N]
        return (((q @ k.transpose(-1, -2)) * matrix) @ v).transpose(1, 2)
    z = torch.einsum("btci,btcj->bcijt", k, v)
    spectrum = torch.fft.rfft(z.float(), n=2 * t) * torch.fft.rfft(h.float(), n=2 * t)[:, None, None]
    convolved = torch.fft.irfft(spectrum, n=2 * t)[..., :t].to(q.dtype)
    return torch.einsum("bcijt,btci->btcj", convolved, q)


class LongConv(nn.Module):
    """The mixer of Hyena, MultiHyena and H3: project, convolve shortly, gate, convolve long, gate, project.

    Attributes:
        project_in: Linear(D, 3 D) to q, k, v in that order.
        short: depthwise causal convolution of the 3 D channels, ``taps`` taps; cut its output to the input's length.
        filter: module, length -> [C, length].
        feedthrough: [C], added to h_0.
        project_out: Linear(D, D).
        student: what stands in for the filters after `set_filters`; None in a trained model.
    """

    def __init__(self, config: LMConfig) -> None:
        super().__init__()
        d, c = config.width, config.filters
        self.channels, self.head_width = c, d // c
        self.project_in, self.project_out = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.short = nn.Conv1d(3 * d, 3 * d, config.taps, groups=3 * d, padding=config.taps - 1)
        self.filter: nn.Module
        if config.kind == "h3":
            self.filter = DiagonalFilter(c, config.state)
        else:
            self.filter = ImplicitFilter(c, config.context, config.emb, config.filter_width, config.frequency)
        self.feedthrough = nn.Parameter(torch.randn(c))
        self.student: ModalFilters | Tensor | None = None

    def filters(self, length: int) -> Tensor:
        """The trained long filters without the feed-through, [C, length]."""
        return self.filter(length)

    def effective(self, length: int) -> Tensor:
        """What the layer convolves with, [C, length]: the filters with the feed-through in h_0, or the student's."""
        if self.student is None:
            h = self.filters(length)
            return torch.cat([h[:, :1] + self.feedthrough[:, None], h[:, 1:]], dim=1)
        if isinstance(self.student, ModalFilters):
            h = self.student.impulse(length)
        else:
            h = F.pad(self.student, (0, max(0, length - self.student.shape[1])))[:, :length]
        return h.to(self.feedthrough.dtype)

    def set_filters(self, student: ModalFilters | Tensor | None) -> None:
        """Convolve with other filters, feed-through included: modal ones, an array [C, L], or None for the trained ones.

        Raises:
            ValueError: another number of filters than the layer has.
        """
        count = self.channels if student is None else len(student)
        if count != self.channels:
            raise ValueError(f"this layer has {self.channels} filters; got {count}")
        self.student = student

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """q, k, v of every head, each [B, T, C, N], after the short convolution; x [B, T, D]."""
        b, t, _ = x.shape
        mixed = self.short(self.project_in(x).transpose(1, 2))[..., :t].transpose(1, 2)
        q, k, v = mixed.view(b, t, 3, self.channels, self.head_width).unbind(2)
        return q, k, v

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, D], causal."""
        b, t, d = x.shape
        return self.project_out(long_convolve(*self.project(x), self.effective(t)).reshape(b, t, d))


class Attention(nn.Module):
    """Causal attention, multi-head or grouped-query. ``qkv``: Linear(D, (heads + 2 kv_heads) * head width), q first."""

    def __init__(self, config: LMConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_width = config.heads, config.groups, config.width // config.heads
        self.qkv = nn.Linear(config.width, (self.heads + 2 * self.kv_heads) * self.head_width)
        self.project_out = nn.Linear(config.width, config.width)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """q [B, heads, T, N], k and v [B, kv_heads, T, N]."""
        b, t, _ = x.shape
        sizes = [n * self.head_width for n in (self.heads, self.kv_heads, self.kv_heads)]
        q, k, v = (
            part.view(b, t, -1, self.head_width).transpose(1, 2) for part in self.qkv(x).split(sizes, dim=-1)
        )
        return q, k, v

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, D], causal."""
        q, k, v = self.project(x)
        grouped = self.kv_heads < self.heads
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)
        return self.project_out(attended.transpose(1, 2).reshape(x.shape))


class Block(nn.Module):
    """x + mixer(norm(x)), then x + MLP(norm(x))."""

    def __init__(self, config: LMConfig) -> None:
        super().__init__()
        d = config.width
        self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.mixer: LongConv | Attention = Attention(config) if config.kind == "gpt" else LongConv(config)
        self.up, self.down = nn.Linear(d, config.expand * d), nn.Linear(config.expand * d, d)

    def mlp(self, x: Tensor) -> Tensor:
        """The second half of the block, residual included."""
        return x + self.down(F.gelu(self.up(self.norm2(x))))

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, D]."""
        return self.mlp(x + self.mixer(self.norm1(x)))


class LM(nn.Module):
    """Any of the four models; embeddings and head share their weights. Only the GPT has learned positions.

    Args:
        config: shape and kind.
        seed: of the initial weights.
    """

    def __init__(self, config: LMConfig, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.tokens = nn.Embedding(config.vocab, config.width)
            self.positions = nn.Embedding(config.context, config.width) if config.kind == "gpt" else None
            self.blocks = nn.ModuleList([Block(config) for _ in range(config.layers)])
            self.norm = nn.LayerNorm(config.width)
            self._initialise()

    def _initialise(self) -> None:
        """Linear layers start as torch has them; embeddings small, residual branches scaled by 1 / sqrt(2 layers)."""
        with torch.no_grad():
            for table in (self.tokens, self.positions):
                if table is not None:
                    table.weight.normal_(0.0, 0.02)
            for name, parameter in self.blocks.named_parameters():
                if ".project_out." in name or ".down." in name:
                    parameter.mul_((2 * self.config.layers) ** -0.5 if name.endswith("weight") else 0.0)

    def embed(self, tokens: Tensor, start: int = 0) -> Tensor:
        """[B, T] token ids, the first at position ``start``, -> [B, T, D]."""
        x = self.tokens(tokens)
        if self.positions is not None:
            x = x + self.positions(torch.arange(start, start + tokens.shape[1], device=tokens.device))
        return x

    def head(self, x: Tensor) -> Tensor:
        """[..., D] -> logits [..., vocab]."""
        return F.linear(self.norm(x), self.tokens.weight)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, T] token ids -> logits [B, T, vocab]."""
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(x)

    def long_convolutions(self) -> list[LongConv]:
        """The long-convolution mixers, first layer first; empty for a GPT."""
        return [block.mixer for block in self.blocks if isinstance(block.mixer, LongConv)]

    def parameter_count(self) -> int:
        """All parameters, shared ones once."""
        return sum(p.numel() for p in self.parameters())


def HyenaLM(config: LMConfig, seed: int = 0) -> LM:
    """An `LM` of kind hyena; a config of another kind is changed to it."""
    return LM(replace(config, kind="hyena"), seed)


def MultiHyenaLM(config: LMConfig, seed: int = 0) -> LM:
    """An `LM` of kind multihyena; a config of another kind is changed to it."""
    return LM(replace(config, kind="multihyena"), seed)
