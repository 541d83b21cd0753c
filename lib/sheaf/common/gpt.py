"""A causal GPT in one file: pre-norm blocks, learned positions, cut into pipeline stages where asked."""

from dataclasses import dataclass, replace
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["GPT", "PRESETS", "GPTConfig", "flat_gradient", "next_token_loss", "split"]


@dataclass(frozen=True)
class GPTConfig:
    """Shape of a model: ``layers`` blocks of ``width``, sequences of at most ``context`` tokens of ``vocab`` kinds."""

    vocab: int
    context: int
    width: int
    heads: int
    layers: int
    expand: int = 4  # hidden width of the MLP in units of width

    def __post_init__(self) -> None:
        if min(self.vocab, self.context, self.width, self.heads, self.layers, self.expand) < 1:
            raise ValueError(f"every size of a GPT must be at least 1; got {self}")
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of the {self.heads} heads")

    @classmethod
    def from_name(cls, name: str, **changes: int) -> "GPTConfig":
        """A preset, with some sizes changed: ``GPTConfig.from_name("tiny-live", layers=4)``.

        Raises:
            ValueError: no such preset.
        """
        if name not in PRESETS:
            raise ValueError(f"no GPT preset {name!r}; there are {', '.join(PRESETS)}")
        return replace(PRESETS[name], **changes)

    def block_parameters(self) -> int:
        """Parameters of one block: 4 w^2 for attention, 2 e w^2 for the MLP, and their biases and norms."""
        w, e = self.width, self.expand
        return (4 + 2 * e) * w * w + (4 + 1 + e) * w + 4 * w


PRESETS = {
    "tiny-test": GPTConfig(vocab=61, context=16, width=32, heads=4, layers=4),
    "tiny-live": GPTConfig(vocab=256, context=64, width=128, heads=4, layers=8),
    "gpt2-xl": GPTConfig(vocab=50257, context=1024, width=1600, heads=25, layers=48),
    "gpt3-xl": GPTConfig(vocab=50257, context=2048, width=2048, heads=16, layers=24),
}


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); x is [batch, time, width]."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        w = config.width
        self.heads = config.heads
        self.norm1, self.norm2 = nn.LayerNorm(w), nn.LayerNorm(w)
        self.qkv, self.out = nn.Linear(w, 3 * w), nn.Linear(w, w)
        self.up, self.down = nn.Linear(w, config.expand * w), nn.Linear(config.expand * w, w)

    def forward(self, x: Tensor) -> Tensor:
        b, t, w = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(b, t, 3, self.heads, w // self.heads).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)  # [b, heads, t, w / heads]
        x = x + self.out(attended.transpose(1, 2).reshape(b, t, w))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class GPT(nn.Module):
    """A whole model, or one stage of it.

    Every parameter draws its initial values from a generator of its own, seeded by ``seed`` and its name in the whole
    model: a stage built alone in its process holds exactly the weights it has in the whole, under the same names.

    Args:
        config: of the whole model.
        seed: of the initial weights.
        stage: (i, n): the i-th of n stages. Stage 0 holds the embeddings, the last one the final norm and the head.
    """

    def __init__(self, config: GPTConfig, seed: int = 0, stage: tuple[int, int] = (0, 1)) -> None:
        super().__init__()
        index, count = stage
        if not 0 <= index < count:
            raise ValueError(f"there is no stage {index} of {count}; stages count from 0")
        mine = split(config.layers, count)[index]
        self.config, self.is_first, self.is_last = config, index == 0, index == count - 1
        with torch.random.fork_rng(devices=[]):  # torch's own initial values, replaced below, leave no trace
            if self.is_first:
                self.tokens = nn.Embedding(config.vocab, config.width)
                self.positions = nn.Embedding(config.context, config.width)
            self.blocks = nn.ModuleDict({str(i): Block(config) for i in mine})
            if self.is_last:
                self.norm = nn.LayerNorm(config.width)
                self.head = nn.Linear(config.width, config.vocab, bias=False)
        self._initialise(seed)

    def stage(self, i: int, n: int) -> "GPT":
        """Stage ``i`` of ``n`` of this whole model, sharing its parameters.

        Raises:
            ValueError: this is not a whole model, or there is no such stage.
        """
        if not (self.is_first and self.is_last):
            raise ValueError("only a whole model can be cut into stages")
        mine = split(self.config.layers, n)
        if not 0 <= i < n:
            raise ValueError(f"there is no stage {i} of {n}; stages count from 0")
        part = GPT.__new__(GPT)
        nn.Module.__init__(part)
        part.config, part.is_first, part.is_last = self.config, i == 0, i == n - 1
        if part.is_first:
            part.tokens, part.positions = self.tokens, self.positions
        part.blocks = nn.ModuleDict({str(b): self.blocks[str(b)] for b in mine[i]})
        if part.is_last:
            part.norm, part.head = self.norm, self.head
        return part

    def forward(self, x: Tensor) -> Tensor:
        """[batch, time] token ids (stage 0) or [batch, time, width] -> [batch, time, width], or logits (last stage)."""
        if self.is_first:
            x = self.tokens(x) + self.positions(torch.arange(x.shape[1], device=x.device))
        for block in self.blocks.values():
            x = block(x)
        return self.head(self.norm(x)) if self.is_last else x

    def _initialise(self, seed: int) -> None:
        """GPT-2's rule: normal(0, 0.02), residual projections scaled by 1/sqrt(2 layers), zero biases."""
        for name, parameter in self.named_parameters():
            if parameter.dim() < 2:
                nn.init.constant_(parameter, float("norm" in name and name.endswith("weight")))
                continue
            spread = 0.02 / (2 * self.config.layers) ** 0.5 if ".out." in name or ".down." in name else 0.02
            generator = torch.Generator().manual_seed(seed * 1_000_003 + _code(name))
            with torch.no_grad():
                parameter.normal_(0.0, spread, generator=generator)


def next_token_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy in nats: logits [batch, time, vocab] against the tokens that follow, [batch, time]."""
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def split(layers: int, n: int) -> list[range]:
    """Block numbers of n stages, as even as possible, the first stages taking the remainder.

    Raises:
        ValueError: fewer than one block a stage.
    """
    if not 1 <= n <= layers:
        raise ValueError(f"{layers} blocks cannot be cut into {n} stages; use 1 to {layers}")
    base, rest = divmod(layers, n)
    starts = [i * base + min(i, rest) for i in range(n + 1)]
    return [range(a, b) for a, b in pairwise(starts)]


def flat_gradient(model: nn.Module) -> Tensor:
    """All gradients of a model as one vector, in the order of its parameters; zeros where a parameter got none."""
    return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in model.parameters()])


def _code(name: str) -> int:
    """A number for a parameter's name that is the same in every process, unlike hash()."""
    code = 0
    for byte in name.encode():
        code = (code * 257 + byte) % 1_000_003
    return code
