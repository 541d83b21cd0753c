"""A decode engine at real widths: blocks of random weights, dense or sparse, to time what a token takes, never what it says.

The sparse step reads only the chosen rows: predictor, selection, heads with their missing keys and values made up for, neurons.
The dense step is torch's own, or the same kernels with everything chosen. Weights are laid out once, a row per neuron and a slab
per head, and shared by all arms; `copies` keeps W2 and Wo a second time the way torch likes them. Norms and residuals are in,
embeddings and the output layer are not, unless asked for. On a GPU nothing waits for the host: a graph can capture a step.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sheaf.dejavu.models import OPTConfig
from sheaf_kernels.gather_heads import gather_heads
from sheaf_kernels.gather_mlp import gather_mlp
from sheaf_kernels.memory import huge
from sheaf_kernels.predict_topk import predict_topk

__all__ = ["AHEAD", "Engine", "Kept", "Weights"]

AHEAD = ("none", "half")  # predict from the input of the sub-block itself, or from that of the sub-block before it


@dataclass(frozen=True)
class Kept:
    """How many heads and neurons of a block a token reads."""

    heads: int
    neurons: int


@dataclass
class Weights:
    """One block: wqkv [3, H, hd, d], wot [H, hd, d], w1 and w2t [f, d], biases, predictors a and b of heads and neurons."""

    wqkv: Tensor
    bqkv: Tensor
    wot: Tensor
    bo: Tensor
    w1: Tensor
    b1: Tensor
    w2t: Tensor
    b2: Tensor
    heads: tuple[Tensor, Tensor]
    neurons: tuple[Tensor, Tensor]
    wo: Tensor | None = None  # [d, d], torch's layout
    w2: Tensor | None = None  # [d, f]


class Engine:
    """Blocks of one shape with caches, and the ways to take a step through them.

    Args:
        config: widths, heads, and how many blocks; the vocabulary is used only with ``output``.
        ranks: of the predictors of heads and neurons.
        capacity: tokens of the cache.
        copies: keep W2 and Wo in torch's layout as well, for the dense arm.
        output: end with the tied output layer, dense in every arm.
        seed: of weights and inputs.
    """

    def __init__(
        self, config: OPTConfig, *, ranks: tuple[int, int], capacity: int, batch: int = 1,
        dtype: torch.dtype = torch.float32, device: str = "cpu", copies: bool = True, output: bool = False, seed: int = 0,
    ) -> None:  # fmt: skip
        self.config, self.ranks, self.capacity, self.batch, self.dtype = config, ranks, capacity, batch, dtype
        self.device = torch.device(device)
        self._generator = torch.Generator(self.device).manual_seed(seed)
        d, f, heads, width = config.width, config.ffn, config.heads, config.head
        # memory of its own for every block, filled from one pool of numbers: what is in it does not change the time
        self._pool = torch.randn(2**22, generator=self._generator, device=self.device).mul_(0.5 * d**-0.5).to(dtype)
        self.blocks = []
        for _ in range(config.layers):
            wot, w2t = self._fill(heads, width, d), self._fill(f, d)
            self.blocks.append(Weights(
                self._fill(3, heads, width, d), self._fill(3, heads, width), wot, self._fill(d),
                self._fill(f, d), self._fill(f), w2t, self._fill(d),
                (self._fill(ranks[0], d), self._draw(heads, ranks[0])), (self._fill(ranks[1], d), self._draw(f, ranks[1])),
                self._transposed(wot.view(d, d)) if copies else None, self._transposed(w2t) if copies else None,
            ))  # fmt: skip
        self.unembed = self._fill(config.vocab, d) if output else None
        shape = (config.layers, batch, heads, capacity, width)
        self.keys, self.values = self._fill(*shape), self._fill(*shape)
        self.inputs = self._fill(config.layers, batch, capacity, d)
        self.filled = torch.zeros(config.layers, heads, dtype=torch.int64, device=self.device)
        self.all_heads = torch.arange(heads, device=self.device)
        self.all_neurons = torch.arange(f, device=self.device)
        self._side = torch.cuda.Stream() if self.device.type == "cuda" else None
        self._alive: list[Tensor] = []  # what a second stream reads must outlive the call that made it

    def _fill(self, *shape: int) -> Tensor:
        if self.device.type == "cpu":
            out = huge(*shape, dtype=self.dtype)
        else:
            out = torch.empty(shape, dtype=self.dtype, device=self.device)
        flat, size = out.view(-1), len(self._pool)
        for start in range(0, flat.numel(), size):
            part = flat[start : start + size]
            part.copy_(self._pool[: len(part)])
        return out

    def _transposed(self, w: Tensor) -> Tensor:
        shape = (w.shape[1], w.shape[0])
        out = huge(*shape, dtype=w.dtype) if w.device.type == "cpu" else w.new_empty(shape)
        return out.copy_(w.T)

    def _draw(self, *shape: int) -> Tensor:
        numbers = torch.randn(shape, generator=self._generator, device=self.device)
        return huge(*shape, dtype=self.dtype).copy_(numbers) if self.device.type == "cpu" else numbers.to(self.dtype)

    def tokens(self, n: int) -> Tensor:
        """Residual streams at the bottom of the first block, [n, B, d]."""
        return self._draw(n, self.batch, self.config.width)

    def prompt(self, length: int) -> None:
        """The state after a prompt: every head has keys and values of ``length`` positions."""
        self.filled.fill_(length)

    # ------------------------------------------------------------------------------------------------------------- dense

    def dense_attention(self, h: Tensor, i: int, length: int) -> Tensor:
        """What the attention of block i adds, by torch: h is normed, [B, d]."""
        w, (d, heads, width) = self.blocks[i], (self.config.width, self.config.heads, self.config.head)
        qkv = F.linear(h, w.wqkv.view(3 * d, d), w.bqkv.view(3 * d)).view(len(h), 3, heads, width)
        self.keys[i, :, :, length], self.values[i, :, :, length] = qkv[:, 1], qkv[:, 2]
        seen = slice(0, length + 1)
        out = F.scaled_dot_product_attention(qkv[:, 0, :, None], self.keys[i, :, :, seen], self.values[i, :, :, seen])
        flat = out.reshape(len(h), d)
        return torch.addmm(w.bo, flat, w.wot.view(d, d)) if w.wo is None else F.linear(flat, w.wo, w.bo)

    def dense_mlp(self, h: Tensor, i: int) -> Tensor:
        """What the MLP of block i adds, by torch."""
        w = self.blocks[i]
        hidden = F.linear(h, w.w1, w.b1).relu_()
        return torch.addmm(w.b2, hidden, w.w2t) if w.w2 is None else F.linear(hidden, w.w2, w.b2)

    def dense(self, x: Tensor, length: int) -> Tensor:
        """A dense step by torch: [B, d] -> [B, d], or logits with an output layer."""
        for i in range(self.config.layers):
            x = x + self.dense_attention(self._norm(x), i, length)
            x = x + self.dense_mlp(self._norm(x), i)
        return self._end(x)

    def own_dense(self, x: Tensor, length: int | Tensor) -> Tensor:
        """A dense step by the gathering kernels, with every head and neuron chosen."""
        for i in range(self.config.layers):
            x = x + self.attention(self._norm(x), i, length, self.all_heads, made_up=False)
            x = x + self.mlp(self._norm(x), i, self.all_neurons)
        return self._end(x)

    # ------------------------------------------------------------------------------------------------------------ sparse

    def attention(self, h: Tensor, i: int, length: int | Tensor, heads: Tensor, made_up: bool = True) -> Tensor:
        """What the chosen heads of block i add."""
        w = self.blocks[i]
        q, k, v = ((w.wqkv[j], w.bqkv[j]) for j in range(3))
        extra = (self.inputs[i], self.filled[i]) if made_up else (None, None)
        return gather_heads(h, *q, *k, *v, w.wot, w.bo, self.keys[i], self.values[i], length, heads, *extra)

    def mlp(self, h: Tensor, i: int, neurons: Tensor, threshold: float | None = None) -> Tensor:
        """What the chosen neurons of block i add."""
        w = self.blocks[i]
        return gather_mlp(h, w.w1, w.b1, w.w2t, w.b2, neurons, "relu", threshold)

    def predict(self, x: Tensor, i: int, unit: str, k: int) -> Tensor:
        """Indices of the k heads or neurons of block i that its predictor names."""
        a, b = self.blocks[i].heads if unit == "heads" else self.blocks[i].neurons
        return predict_topk(x, a, b, k)

    def sparse(self, x: Tensor, length: int | Tensor, kept: Kept, ahead: str = "none") -> Tensor:
        """A sparse step. With ``ahead`` "half" a predictor sees the input of the sub-block before, and on a GPU runs beside it.

        Raises:
            ValueError: an unknown ``ahead``.
        """
        if ahead not in AHEAD:
            raise ValueError(f"ahead is {ahead!r}; use one of {', '.join(AHEAD)}")
        last = self.config.layers - 1
        heads = self.predict(x, 0, "heads", kept.heads)
        neurons: Tensor | None = None
        for i in range(self.config.layers):
            if ahead == "half":
                neurons = self._beside(x, i, "neurons", kept.neurons)
            elif i:
                heads = self.predict(x, i, "heads", kept.heads)
            x = x + self.attention(self._norm(x), i, length, heads)
            if ahead == "half":
                self._join()
                heads = self._beside(x, i + 1, "heads", kept.heads) if i < last else heads
            else:
                neurons = self.predict(x, i, "neurons", kept.neurons)
            assert neurons is not None
            x = x + self.mlp(self._norm(x), i, neurons)
            if ahead == "half":
                self._join()
        return self._end(x)

    def told(self, x: Tensor, length: int | Tensor, heads: list[Tensor], neurons: list[Tensor]) -> Tensor:
        """A sparse step whose choice costs nothing: what the predictors may cost at most is the difference."""
        for i in range(self.config.layers):
            x = x + self.attention(self._norm(x), i, length, heads[i])
            x = x + self.mlp(self._norm(x), i, neurons[i])
        return self._end(x)

    def release(self) -> None:
        """Forget what a second stream may still have been reading; call it when the device is done."""
        self._alive.clear()

    def _beside(self, x: Tensor, i: int, unit: str, k: int) -> Tensor:
        if self._side is None:
            return self.predict(x, i, unit, k)
        self._side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._side):
            index = self.predict(x, i, unit, k)
        self._alive += [x, index]
        return index

    def _join(self) -> None:
        if self._side is not None:
            torch.cuda.current_stream().wait_stream(self._side)

    def _norm(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:])

    def _end(self, x: Tensor) -> Tensor:
        return x if self.unembed is None else F.linear(self._norm(x), self.unembed)
