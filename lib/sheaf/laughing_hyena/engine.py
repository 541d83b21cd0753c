"""Text generation by any of the models: recurrent, with a cached convolution, with cached keys and values, or by recomputing.

    engine = Engine(model, filters)                    # distilled filters: constant time and memory per token
    tokens = engine.generate(prompt, 200, temperature=0.8, generator=random)
An `Engine` holds what is shared (weights, packed filters), a `Session` what one batch has seen so far.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from sheaf.laughing_hyena.cache import ConvolutionCache, KVCache, Layer, Recurrence, pack
from sheaf.laughing_hyena.modal import ModalFilters
from sheaf.laughing_hyena.models import LM, Attention, Block, LMConfig, LongConv

__all__ = ["Engine", "Mode", "Session", "random_filters", "sample"]

Mode = Literal["auto", "recurrent", "cached", "recompute"]


def random_filters(config: LMConfig, order: int, seed: int = 0) -> list[ModalFilters]:
    """Stable filters of real degree ``order`` for every layer: stand-ins for distilled ones where only time and memory count.

    Raises:
        ValueError: an odd order, or a model without long filters.
    """
    if order < 2 or order % 2:
        raise ValueError(
            f"random filters have pairs of conjugate poles; the order must be even and positive, got {order}"
        )
    if not config.filters:
        raise ValueError(f"a {config.kind} model has no long filters")
    g, shape = torch.Generator().manual_seed(seed), (config.filters, order // 2)
    made = []
    for _ in range(config.layers):
        decay, angle = torch.rand(shape, generator=g), 3.1 * torch.rand(shape, generator=g)
        residues = torch.complex(torch.randn(shape, generator=g), torch.randn(shape, generator=g)) / order
        made.append(ModalFilters(torch.polar(0.5 + 0.499 * decay, angle), residues, torch.randn(shape[0], generator=g)))
    return made


class Engine:
    """Runs a model token by token.

    Args:
        model: any ``LM``.
        filters: distilled filters of every long convolution, first layer first, feed-through in h0; by default what the layers
            were given by ``set_filters``.
        mode: "recurrent" (long convolutions with modal filters), "cached" (past inputs, or keys and values), "recompute"
            (the whole text again for every token); "auto" is recurrent where there are modal filters, else cached.
        strategy: way through a prompt in recurrent mode, see ``sheaf_kernels.modal_ssm.modal_prefill``.
        backend: of the recurrent step, see ``sheaf_kernels.modal_ssm``; "eager" is torch's complex arithmetic.
        form: of cached convolutions and attention, see ``sheaf.laughing_hyena.cache``; the default of each when absent.

    Raises:
        ValueError: recurrent mode without a modal filter for every layer, or an unstable filter.
    """

    def __init__(
        self, model: LM, filters: Sequence[ModalFilters] | None = None, mode: Mode = "auto", *, strategy: str = "auto",
        backend: str = "auto", form: str | None = None,
    ) -> None:  # fmt: skip
        mixers = model.long_convolutions()
        found = (
            list(filters) if filters is not None else [m.student for m in mixers if isinstance(m.student, ModalFilters)]
        )
        if mode == "auto":
            mode = "recurrent" if mixers and len(found) == len(mixers) else "cached"
        if mode not in ("recurrent", "cached", "recompute"):
            raise ValueError(f"no mode {mode!r}; use auto, recurrent, cached or recompute")
        self.model, self.mode, self.strategy, self.backend, self.form = model.eval(), mode, strategy, backend, form
        self.device = model.tokens.weight.device
        self.blocks = [block for block in model.blocks if isinstance(block, Block)]
        self.modes = []
        if mode == "recurrent":
            if not mixers or len(found) != len(mixers):
                raise ValueError(
                    f"recurrent mode needs modal filters for each of {len(mixers)} long convolutions, got {len(found)}; "
                    "pass filters, or distil the model first"
                )
            self.modes = [pack(f, m.head_width, self.device) for f, m in zip(found, mixers, strict=True)]
        self.filters = found if filters is not None else None

    def session(self, batch: int, capacity: int = 0) -> "Session":
        """A batch that has seen nothing yet; ``capacity`` tokens must fit where a cache is kept."""
        return Session(self, batch, capacity)

    def layer(self, index: int, batch: int, capacity: int) -> Layer:
        """The memory of one layer."""
        mixer = self.blocks[index].mixer
        form = {} if self.form is None else {"form": self.form}
        if isinstance(mixer, Attention):
            return KVCache(mixer, batch, capacity, **form)
        assert isinstance(mixer, LongConv)
        if self.mode == "recurrent":
            return Recurrence(mixer, self.modes[index], batch, self.strategy, self.backend)
        if self.filters is not None:
            h = self.filters[index].to(self.device).impulse(capacity)
        else:
            h = mixer.effective(capacity)
        return ConvolutionCache(mixer, h, batch, capacity, **form)

    @torch.inference_mode()
    def generate(
        self,
        prompt: Tensor,
        steps: int,
        *,
        temperature: float = 0.0,
        top_k: int = 0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Prompt [B, T] and ``steps`` more tokens: [B, T + steps].

        Args:
            temperature: 0 takes the most likely token.
            top_k: sample among so many; 0 among all.
            generator: of the samples; needed when temperature is positive.

        Raises:
            ValueError: an empty prompt, or a temperature without a generator.
        """
        if prompt.ndim != 2 or not prompt.numel():
            raise ValueError(f"the prompt must be [batch, time] with at least one token; got {list(prompt.shape)}")
        session = self.session(prompt.shape[0], prompt.shape[1] + steps)
        logits, out = session.prefill(prompt), [prompt]
        for i in range(steps):
            tokens = sample(logits, temperature, top_k, generator)
            out.append(tokens[:, None])
            if i + 1 < steps:
                logits = session.step(tokens)
        return torch.cat(out, 1)


class Session:
    """One batch of sequences of equal length; see ``Engine.session``."""

    def __init__(self, engine: Engine, batch: int, capacity: int) -> None:
        self.engine, self.batch, self.position = engine, batch, 0
        self.seen = torch.zeros(batch, 0, dtype=torch.long, device=engine.device)  # of "recompute" only
        self.layers: list[Layer] = []
        if engine.mode != "recompute":
            self.layers = [engine.layer(i, batch, capacity) for i in range(len(engine.blocks))]

    @property
    def nbytes(self) -> int:
        """Bytes kept between tokens, all layers."""
        return sum(layer.nbytes for layer in self.layers) + self.seen.nbytes

    @torch.inference_mode()
    def prefill(self, tokens: Tensor) -> Tensor:
        """[B, T] -> logits of the token that follows, [B, vocab]."""
        model = self.engine.model
        if self.engine.mode == "recompute":
            self.seen = torch.cat([self.seen, tokens], 1)
            return model(self.seen)[:, -1]
        x = model.embed(tokens, self.position)
        self.position += tokens.shape[1]
        for block, layer in zip(self.engine.blocks, self.layers, strict=True):
            x = block.mlp(x + layer.prefill(block.norm1(x)))
        return model.head(x[:, -1])

    @torch.inference_mode()
    def step(self, tokens: Tensor) -> Tensor:
        """[B] -> logits of the token that follows, [B, vocab]."""
        model = self.engine.model
        if self.engine.mode == "recompute":
            return self.prefill(tokens[:, None])
        x = model.embed(tokens[:, None], self.position)[:, 0]
        self.position += 1
        for block, layer in zip(self.engine.blocks, self.layers, strict=True):
            x = block.mlp(x + layer.step(block.norm1(x)))
        return model.head(x)


def sample(
    logits: Tensor, temperature: float = 0.0, top_k: int = 0, generator: torch.Generator | None = None
) -> Tensor:
    """Tokens [B] drawn from logits [B, vocab]; see ``Engine.generate``.

    Raises:
        ValueError: a negative temperature, or a positive one without a generator.
    """
    if temperature == 0:
        return logits.argmax(-1)
    if temperature < 0 or generator is None:
        raise ValueError(
            f"temperature {temperature} needs to be positive and a generator to draw with; 0 takes the most likely token"
        )
    logits = logits.float() / temperature
    if 0 < top_k < logits.shape[-1]:
        least = logits.topk(top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < least, float("-inf"))
    return torch.multinomial(torch.softmax(logits, -1), 1, generator=generator)[:, 0]
