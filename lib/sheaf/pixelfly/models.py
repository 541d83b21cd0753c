"""The models of the paper at their real shapes and as miniatures: MLP-Mixer, ViT, and GPT-2 (from sheaf.common.gpt).

Every weight that may become sparse is an nn.Linear with a regular name: blocks.<i>.channel.up, blocks.<i>.attention.q, ...
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sheaf.common.gpt import GPT, GPTConfig
from sheaf.pixelfly.attention import block_sparse_attention
from sheaf.pixelfly.budget import LayerType, Schema

__all__ = ["GPT_PRESETS", "PRESETS", "SPARSE", "Vision", "VisionConfig", "build", "schema", "tokens_of"]


@dataclass(frozen=True)
class VisionConfig:
    """An image model: ``layers`` blocks over the patches of square pictures.

    ``kind`` is "mixer" (token MLP and channel MLP) or "vit" (attention and MLP, with a class token). Widths in features.
    """

    kind: str
    width: int
    layers: int
    channel_hidden: int
    image: int = 224
    patch: int = 16
    token_hidden: int = 0  # mixer
    heads: int = 0  # vit
    qkv_bias: bool = True  # vit
    classes: int = 1000
    channels: int = 3

    def __post_init__(self) -> None:
        if self.kind not in ("mixer", "vit"):
            raise ValueError(f"an image model is a 'mixer' or a 'vit'; got {self.kind!r}")
        if self.image % self.patch or (self.kind == "vit" and (not self.heads or self.width % self.heads)):
            raise ValueError(f"patches must tile the picture and heads divide the width; got {self}")

    @property
    def patches(self) -> int:
        """Number of patches of a picture."""
        return (self.image // self.patch) ** 2

    @classmethod
    def from_name(cls, name: str, **changes: Any) -> "VisionConfig":
        """A preset, with some values changed.

        Raises:
            ValueError: no such preset.
        """
        if name not in PRESETS:
            raise ValueError(f"no preset {name!r} of an image model; there are {', '.join(PRESETS)}")
        return replace(PRESETS[name], **changes)


PRESETS = {
    "mixer-s16": VisionConfig("mixer", 512, 8, 2048, token_hidden=256),
    "mixer-b16": VisionConfig("mixer", 768, 12, 3072, token_hidden=384),
    # the older timm model of that name: 8 layers of 768, three times as wide inside, no bias on q, k and v
    "vit-s16": VisionConfig("vit", 768, 8, 2304, heads=8, qkv_bias=False),
    "vit-b16": VisionConfig("vit", 768, 12, 3072, heads=12),
    "mixer-mini": VisionConfig("mixer", 128, 2, 512, image=32, patch=4, token_hidden=64, classes=10),
    "vit-mini": VisionConfig("vit", 128, 2, 384, image=32, patch=4, heads=4, classes=10),
}
GPT_PRESETS = {
    "gpt2-small": GPTConfig(vocab=50257, context=1024, width=768, heads=12, layers=12),
    "gpt2-medium": GPTConfig(vocab=50257, context=1024, width=1024, heads=16, layers=24),
    "gpt-mini": GPTConfig(vocab=256, context=128, width=256, heads=4, layers=4),
}
# what the published counts say was sparse: the channel MLP of a Mixer, every linear layer of a ViT or GPT-2
SPARSE = {
    "mixer": r"channel\.(up|down)$",
    "vit": r"(mlp\.(up|down)|attention\.(q|k|v|out))$",
    "gpt": r"(qkv|out|up|down)$",
}


class MLP(nn.Module):
    """down(gelu(up(x)))."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x)))


class MixerBlock(nn.Module):
    """x + token MLP across patches, then x + channel MLP; x is [batch, patches, width]."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(config.width, eps=1e-6), nn.LayerNorm(config.width, eps=1e-6)
        self.token, self.channel = MLP(config.patches, config.token_hidden), MLP(config.width, config.channel_hidden)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.token(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channel(self.norm2(x))


class Attention(nn.Module):
    """Softmax attention over all tokens, or over the blocks of ``mask`` [T / b, T / b] when one is set."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        w, bias = config.width, config.qkv_bias
        self.heads = config.heads
        self.q, self.k, self.v = nn.Linear(w, w, bias), nn.Linear(w, w, bias), nn.Linear(w, w, bias)
        self.out = nn.Linear(w, w)
        self.mask: Tensor | None = None
        self.block = 1

    def forward(self, x: Tensor) -> Tensor:
        b, t, w = x.shape
        q, k, v = (f(x).view(b, t, self.heads, -1).transpose(1, 2) for f in (self.q, self.k, self.v))
        if self.mask is None:
            y = F.scaled_dot_product_attention(q, k, v)
        else:
            y = block_sparse_attention(q, k, v, self.mask, self.block)
        return self.out(y.transpose(1, 2).reshape(b, t, w))


class ViTBlock(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(config.width, eps=1e-6), nn.LayerNorm(config.width, eps=1e-6)
        self.attention, self.mlp = Attention(config), MLP(config.width, config.channel_hidden)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Vision(nn.Module):
    """An image model: pictures [batch, channels, image, image] -> logits [batch, classes].

    Args:
        config: sizes.
        seed: of the initial weights: torch's defaults, drawn in a fixed order.
    """

    def __init__(self, config: VisionConfig, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.embed = nn.Conv2d(config.channels, config.width, config.patch, config.patch)
            if config.kind == "vit":
                self.token = nn.Parameter(torch.zeros(1, 1, config.width))
                self.positions = nn.Parameter(torch.randn(1, config.patches + 1, config.width) * 0.02)
            block = MixerBlock if config.kind == "mixer" else ViTBlock
            self.blocks = nn.ModuleList([block(config) for _ in range(config.layers)])
            self.norm = nn.LayerNorm(config.width, eps=1e-6)
            self.head = nn.Linear(config.width, config.classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)  # [batch, patches, width]
        if self.config.kind == "vit":
            x = torch.cat([self.token.expand(len(x), -1, -1), x], dim=1) + self.positions
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return self.head(x[:, 0] if self.config.kind == "vit" else x.mean(1))


def build(name: str, seed: int = 0, **changes: int) -> Vision | GPT:
    """A model by the name of its preset; ``changes`` to its sizes.

    Raises:
        ValueError: no such preset.
    """
    if name in PRESETS:
        return Vision(VisionConfig.from_name(name, **changes), seed)
    if name in GPT_PRESETS:
        return GPT(replace(GPT_PRESETS[name], **changes), seed)
    raise ValueError(f"no preset {name!r}; there are {', '.join([*PRESETS, *GPT_PRESETS])}")


def tokens_of(name: str, sequence: int = 512) -> int:
    """Tokens of one example: patches of a picture (and the class token of a ViT), or the length of a sequence."""
    if name in GPT_PRESETS:
        return sequence
    config = VisionConfig.from_name(name)
    return config.patches + (config.kind == "vit")


def schema(name: str, sequence: int = 512) -> Schema:
    """The model schema of the recipe (paper, section 3): every type of linear layer, its shape, count and tokens.

    Types that a released configuration never made sparse (token MLP, embedding, classifier) are marked as fixed.
    """
    t = tokens_of(name, sequence)
    if name in GPT_PRESETS:
        g = GPT_PRESETS[name]
        w, h = g.width, g.expand * g.width
        return (
            LayerType("attention q, k, v", w, w, 3 * g.layers, t), LayerType("attention out", w, w, g.layers, t),
            LayerType("mlp up", h, w, g.layers, t), LayerType("mlp down", w, h, g.layers, t),
        )  # fmt: skip
    c = VisionConfig.from_name(name)
    mlp = (
        LayerType("mlp up", c.channel_hidden, c.width, c.layers, t),
        LayerType("mlp down", c.width, c.channel_hidden, c.layers, t),
    )  # fmt: skip
    patch = LayerType("patch embedding", c.width, c.channels * c.patch**2, 1, c.patches, fixed=True)
    head = LayerType("classifier", c.classes, c.width, 1, 1, fixed=True)
    if c.kind == "mixer":
        token = (
            LayerType("token up", c.token_hidden, c.patches, c.layers, c.width, fixed=True),
            LayerType("token down", c.patches, c.token_hidden, c.layers, c.width, fixed=True),
        )
        return (patch, *token, *mlp, head)
    attention = (
        LayerType("attention q, k, v", c.width, c.width, 3 * c.layers, t),
        LayerType("attention out", c.width, c.width, c.layers, t),
    )
    return (patch, *attention, *mlp, head)
