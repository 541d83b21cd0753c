"""An OPT-like decoder in one file: pre-norm blocks whose heads and neurons can be watched and masked, presets up to 175B."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["OPT", "POSITION_OFFSET", "PRESETS", "Block", "OPTConfig", "Tap"]

POSITION_OFFSET = 2  # OPT's first token has position 2
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "gelu": F.gelu}


@dataclass(frozen=True)
class OPTConfig:
    """Shape of a decoder: ``layers`` blocks of ``width`` with ``heads`` heads and ``ffn`` neurons, ``activation`` between."""

    width: int
    layers: int
    heads: int
    vocab: int = 50272
    context: int = 2048
    ffn: int = 0  # neurons of an MLP; 4 * width when 0
    activation: str = "relu"

    def __post_init__(self) -> None:
        if self.ffn == 0:
            object.__setattr__(self, "ffn", 4 * self.width)
        if min(self.width, self.layers, self.heads, self.vocab, self.context, self.ffn) < 1:
            raise ValueError(f"every size of an OPT must be at least 1; got {self}")
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of the {self.heads} heads")
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation {self.activation!r} is unknown; use one of {', '.join(ACTIVATIONS)}")

    @classmethod
    def from_name(cls, name: str, **changes: Any) -> "OPTConfig":
        """A preset, with some sizes changed: ``OPTConfig.from_name("opt-125m", layers=2)``.

        Raises:
            ValueError: no such preset.
        """
        if name not in PRESETS:
            raise ValueError(f"no OPT preset {name!r}; there are {', '.join(PRESETS)}")
        return replace(PRESETS[name], **changes)

    @property
    def head(self) -> int:
        """Width of a head."""
        return self.width // self.heads


PRESETS = {
    "opt-125m": OPTConfig(768, 12, 12),
    "opt-1.3b": OPTConfig(2048, 24, 32),
    "opt-2.7b": OPTConfig(2560, 32, 32),
    "opt-6.7b": OPTConfig(4096, 32, 32),
    "opt-13b": OPTConfig(5120, 40, 40),
    "opt-30b": OPTConfig(7168, 48, 56),
    "opt-66b": OPTConfig(9216, 64, 72),
    "opt-175b": OPTConfig(12288, 96, 96),
    "mini": OPTConfig(96, 6, 8, vocab=512, context=96),
}


class Tap:
    """What a forward pass asks on its way; this one changes nothing. Subclasses record or mask.

    ``layer`` counts from 0. ``x`` is the residual stream [batch, time, width] before the norm of the sub-block.
    """

    def heads(self, layer: int, x: Tensor, out: Tensor) -> Tensor:
        """Outputs of the heads before the output projection, [batch, time, heads, head]."""
        return out

    def neurons(self, layer: int, x: Tensor, a: Tensor) -> Tensor:
        """Activations of the MLP, [batch, time, ffn]."""
        return a

    def normed(self, layer: int, site: str, h: Tensor) -> Tensor:
        """Input of a sub-block after its norm, [batch, time, width]; ``site`` is "attention" or "mlp"."""
        return h


class Block(nn.Module):
    """x1 = x + attention(x); then x1 + mlp(x1): section 3.1 of the paper, biases everywhere."""

    def __init__(self, config: OPTConfig) -> None:
        super().__init__()
        w = config.width
        self.config = config
        self.norm1, self.norm2 = nn.LayerNorm(w), nn.LayerNorm(w)
        self.q, self.k, self.v, self.out = nn.Linear(w, w), nn.Linear(w, w), nn.Linear(w, w), nn.Linear(w, w)
        self.up, self.down = nn.Linear(w, config.ffn), nn.Linear(config.ffn, w)

    def attention(self, x: Tensor, layer: int = 0, tap: Tap | None = None) -> Tensor:
        """What attention adds to the residual stream: [batch, time, width] -> the same."""
        b, t, w = x.shape
        h = self.norm1(x)
        h = tap.normed(layer, "attention", h) if tap else h
        shape = (b, t, self.config.heads, self.config.head)
        q, k, v = (m(h).view(shape).transpose(1, 2) for m in (self.q, self.k, self.v))
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)  # [b, t, heads, head]
        out = tap.heads(layer, x, out) if tap else out
        return self.out(out.reshape(b, t, w))

    def attention_maps(self, x: Tensor) -> Tensor:
        """Attention weights of every head, [batch, heads, time, time], for looking at."""
        b, t, _ = x.shape
        h = self.norm1(x)
        q, k = (m(h).view(b, t, self.config.heads, self.config.head).transpose(1, 2) for m in (self.q, self.k))
        scores = q @ k.mT * self.config.head**-0.5
        later = torch.ones(t, t, dtype=torch.bool, device=x.device).triu(1)
        return scores.masked_fill(later, float("-inf")).softmax(-1)

    def mlp(self, x: Tensor, layer: int = 0, tap: Tap | None = None) -> Tensor:
        """What the MLP adds to the residual stream: [batch, time, width] -> the same."""
        h = self.norm2(x)
        h = tap.normed(layer, "mlp", h) if tap else h
        a = ACTIVATIONS[self.config.activation](self.up(h))
        return self.down(tap.neurons(layer, x, a) if tap else a)

    def forward(self, x: Tensor, layer: int = 0, tap: Tap | None = None) -> Tensor:
        x = x + self.attention(x, layer, tap)
        return x + self.mlp(x, layer, tap)


class OPT(nn.Module):
    """A whole decoder with learned positions and a tied head.

    Args:
        config: its shape.
        seed: of the initial weights; None leaves them as they are, for a checkpoint to fill.
    """

    def __init__(self, config: OPTConfig, seed: int | None = 0) -> None:
        super().__init__()
        self.config = config
        with torch.random.fork_rng(devices=[]):
            self.tokens = nn.Embedding(config.vocab, config.width)
            self.positions = nn.Embedding(config.context + POSITION_OFFSET, config.width)
            self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
            self.norm = nn.LayerNorm(config.width)
        if seed is not None:
            self._initialise(torch.Generator().manual_seed(seed))

    @property
    def stack(self) -> list[Block]:
        """The blocks in order."""
        return cast(list[Block], list(self.blocks))

    def embed(self, ids: Tensor, start: int = 0) -> Tensor:
        """Token and position embeddings: [batch, time] ids at positions start, start + 1, ... -> [batch, time, width].

        Raises:
            ValueError: more tokens than the model has positions for.
        """
        last = start + ids.shape[1]
        if last > self.config.context:
            raise ValueError(f"{last} tokens do not fit a context of {self.config.context}; give a shorter text")
        at = torch.arange(start, last, device=ids.device) + POSITION_OFFSET
        return self.tokens(ids) + self.positions(at)

    def head(self, x: Tensor) -> Tensor:
        """Logits of the next token: [..., width] -> [..., vocab]."""
        return F.linear(self.norm(x), self.tokens.weight)

    def forward(self, ids: Tensor, tap: Tap | None = None) -> Tensor:
        """[batch, time] token ids -> logits [batch, time, vocab]."""
        x = self.embed(ids)
        for layer, block in enumerate(self.stack):
            x = block(x, layer, tap)
        return self.head(x)

    @torch.no_grad()
    def _initialise(self, generator: torch.Generator) -> None:
        """Normal with deviation 0.4/sqrt(width), residual projections over sqrt(2 layers), zero biases, waves for positions."""
        spread = 0.4 / self.config.width**0.5
        for name, parameter in self.named_parameters():
            if parameter.dim() < 2:
                parameter.fill_(float("norm" in name and name.endswith("weight")))
                continue
            last = name.endswith(("out.weight", "down.weight"))
            parameter.normal_(0.0, spread / (2 * self.config.layers) ** 0.5 if last else spread, generator=generator)
        self.positions.weight.copy_(2**0.5 * spread * _waves(*self.positions.weight.shape))


def _waves(n: int, width: int) -> Tensor:
    """Sines and cosines of n positions, [n, width]: a start from which looking one token back is soon learnt."""
    at = torch.arange(n)[:, None] * 1000.0 ** (-torch.arange(0, width, 2) / width)
    return torch.stack([at.sin(), at.cos()], -1).flatten(1)[:, :width]
