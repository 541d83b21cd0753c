"""A decoder that reads only the rows its predictors name: dense in the prompt, sparse for every token after it.

Weights are laid out once, a row per neuron and a slab per head; a step gathers rows of the chosen neurons and slabs of the
chosen heads. Heads that were skipped lack keys and values of earlier tokens; these are computed from the kept inputs when the
head is next chosen, so that the result equals masking heads over a full cache (section 4.3).
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from sheaf.dejavu.masks import Record, count, record
from sheaf.dejavu.models import OPT
from sheaf.dejavu.predictors import Predictor, fit, flat, labels, step_of
from sheaf_kernels.gather_heads import gather_heads
from sheaf_kernels.gather_mlp import gather_mlp
from sheaf_kernels.predict_topk import predict_topk

__all__ = ["SparseOPT", "sparsify", "train_predictors"]


@dataclass
class _Layer:
    """Weights of one block as the kernels want them, its predictors, and its cache."""

    w1: Tensor
    b1: Tensor
    w2t: Tensor
    b2: Tensor
    q: tuple[Tensor, Tensor]
    k: tuple[Tensor, Tensor]
    v: tuple[Tensor, Tensor]
    out: tuple[Tensor, Tensor]
    neurons: Predictor | None
    heads: Predictor | None
    keys: Tensor = field(default_factory=lambda: torch.empty(0))
    values: Tensor = field(default_factory=lambda: torch.empty(0))
    inputs: Tensor = field(default_factory=lambda: torch.empty(0))
    filled: Tensor = field(default_factory=lambda: torch.empty(0))


class SparseOPT:
    """What `sparsify` returns: ``prefill`` a prompt, then ``step`` token by token, or ``generate``.

    ``chosen`` holds the indices of the last step by layer: (heads, neurons).
    """

    def __init__(self, model: OPT, layers: list[_Layer], kept: tuple[int, int], ahead: str, backend: str) -> None:
        self.model, self.config, self.layers = model, model.config, layers
        self.heads_kept, self.neurons_kept = kept
        self.ahead, self.backend, self.length = ahead, backend, 0
        self.chosen: list[tuple[Tensor, Tensor]] = []
        self._steps = {unit: step_of(unit, ahead) for unit in ("heads", "neurons")}

    @torch.no_grad()
    def prefill(self, ids: Tensor, capacity: int = 0) -> Tensor:
        """Read a prompt [batch, time] densely and fill the cache; logits of the token after it, [batch, vocab].

        Args:
            capacity: tokens the cache has room for; the model's context when 0.

        Raises:
            ValueError: the prompt does not fit.
        """
        batch, time = ids.shape
        room = capacity or self.config.context
        if not 0 < time <= room:
            raise ValueError(f"a prompt of {time} tokens does not fit a cache of {room}; give 1 to {room} tokens")
        x = self.model.embed(ids)
        for block, layer in zip(self.model.stack, self.layers, strict=True):
            h = block.norm1(x)
            layer.keys = x.new_zeros(batch, self.config.heads, room, self.config.head)
            layer.values, layer.inputs = torch.zeros_like(layer.keys), x.new_zeros(batch, room, self.config.width)
            layer.inputs[:, :time] = h
            layer.filled = torch.full((self.config.heads,), time)
            for cache, (weight, bias) in ((layer.keys, layer.k), (layer.values, layer.v)):
                cache[:, :, :time] = torch.einsum("btd,hed->bhte", h, weight) + bias[:, None]
            x = block(x)
        self.length = time
        return self.model.head(x[:, -1])

    @torch.no_grad()
    def step(self, ids: Tensor) -> Tensor:
        """One more token for every sequence, [batch] ids -> logits [batch, vocab]; reads only the chosen rows.

        Raises:
            RuntimeError: there was no prompt.
        """
        if not self.length:
            raise RuntimeError("there is no cache yet; call prefill with a prompt of at least one token")
        x = self.model.embed(ids[:, None], self.length)[:, 0]
        history, self.chosen = [], []
        for index, (block, layer) in enumerate(zip(self.model.stack, self.layers, strict=True)):
            history.append(x)
            heads = self._choose(layer.heads, self.heads_kept, self.config.heads, "heads", index, history)
            x = x + gather_heads(
                block.norm1(x), *layer.q, *layer.k, *layer.v, *layer.out, layer.keys, layer.values, self.length, heads,
                layer.inputs, layer.filled, backend=self.backend,
            )  # fmt: skip
            history.append(x)
            neurons = self._choose(layer.neurons, self.neurons_kept, self.config.ffn, "neurons", index, history)
            h = block.norm2(x)
            x = x + gather_mlp(
                h, layer.w1, layer.b1, layer.w2t, layer.b2, neurons, self.config.activation, backend=self.backend
            )
            self.chosen.append((heads, neurons))
        self.length += 1
        return self.model.head(x)

    def generate(self, ids: Tensor, tokens: int) -> Tensor:
        """The most likely continuation: [batch, time] -> [batch, time + tokens]."""
        logits = self.prefill(ids, ids.shape[1] + tokens)
        for left in range(tokens, 0, -1):
            ids = torch.cat([ids, logits.argmax(-1, keepdim=True)], 1)
            if left > 1:
                logits = self.step(ids[:, -1])
        return ids

    def _choose(self, predictor: Predictor | None, k: int, units: int, unit: str, layer: int, history: list[Tensor]) -> Tensor:
        if predictor is None:
            return torch.arange(units)
        seen = history[self._steps[unit](layer)]
        activation = "relu" if predictor.form == "relu" else "identity"
        return predict_topk(seen, predictor.a, predictor.b, k, activation=activation, backend=self.backend)


def sparsify(
    model: OPT, *, neurons: Sequence[Predictor | None] | None = None, heads: Sequence[Predictor | None] | None = None,
    mlp_density: float = 0.125, head_density: float = 0.5, ahead: str = "same", dense: Collection[int] = (),
    backend: str = "auto",
) -> SparseOPT:  # fmt: skip
    """A decoder that never reads the rows of skipped units.

    Args:
        model: trained; its embeddings, norms and prompt path are shared, its blocks' weights are copied into rows and slabs.
        neurons, heads: predictors by layer, None where a layer is dense; all dense when None.
        mlp_density, head_density: share of units read in predicted layers; a batch shares one union of that size.
        ahead: what the predictors see, one of `sheaf.dejavu.predictors.AHEAD`; must be what they were trained on.
        dense: layers that stay dense whatever predictors say.
        backend: of the kernels.

    Raises:
        ValueError: not one predictor (or None) a layer.
    """
    config = model.config
    for name, given in (("neurons", neurons), ("heads", heads)):
        if given is not None and len(given) != config.layers:
            raise ValueError(f"{name} has {len(given)} predictors, the model {config.layers} layers; give one a layer, or None")
    layers = []
    for i, block in enumerate(model.stack):
        slab = (config.heads, config.head, config.width)
        mine = [None if given is None or i in dense else given[i] for given in (neurons, heads)]

        def rows(m: nn.Linear, shape: tuple[int, ...] = slab) -> tuple[Tensor, Tensor]:
            return m.weight.view(shape).contiguous(), m.bias.view(shape[:2])

        out = (block.out.weight.T.contiguous().view(slab), block.out.bias)
        layers.append(_Layer(
            block.up.weight, block.up.bias, block.down.weight.T.contiguous(), block.down.bias,
            rows(block.q), rows(block.k), rows(block.v), out, mine[0], mine[1],
        ))  # fmt: skip
    kept = (count(head_density, config.heads), count(mlp_density, config.ffn))
    return SparseOPT(model, layers, kept, ahead, backend)


def train_predictors(
    model: OPT, ids: Tensor, *, unit: str = "neurons", ahead: str = "same", rank: int = 0, form: str = "linear",
    share: float = 0.5, epochs: int = 20, rate: float = 1e-3, batch: int = 1024, dense: Collection[int] = (0,), seed: int = 0,
) -> list[Predictor | None]:  # fmt: skip
    """Predictors for `sparsify` from a model and text, by algorithm 1: one a layer, None where a layer stays dense.

    Args:
        model: trained, such as `load_checkpoint` gives.
        ids: [n, time] token ids to record; the paper takes 500 documents. All of their residual streams are held in memory.
        unit, ahead: "neurons" or "heads", and what they see; give the same ``ahead`` to `sparsify`.
        rank: of the two matrices; the paper's 1000 of 12288 in proportion when 0.
        share: of heads, or of neurons of a GELU model, that count as needed.
        form, epochs, rate, batch, seed: of `sheaf.dejavu.predictors.fit`.
        dense: layers without a predictor.

    Raises:
        ValueError: unknown unit or distance.
    """
    step = step_of(unit, ahead)
    seen: list[Record] = [record(model, part) for part in ids.split(8)]
    made: list[Predictor | None] = []
    for layer in range(model.config.layers):
        if layer in dense:
            made.append(None)
            continue
        x = flat([r.history[step(layer)] for r in seen])
        y = flat([labels(r, unit, layer, share) for r in seen])
        made.append(fit(
            x, y, rank=rank or max(1, round(model.config.width * 1000 / 12288)), form=form, epochs=epochs, rate=rate, batch=batch,
            extra=0.0 if unit == "heads" else 0.005, seed=seed + layer,
        ))  # fmt: skip
    return made
