"""One training run of a language miniature: bytes of WikiText-2, or generated tokens, and a small GPT with an arm's pattern."""

import math
import time
from collections.abc import Iterable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from sheaf.common.data import external_dir
from sheaf.common.gpt import GPT, Block, next_token_loss
from sheaf.common.jobs import Job
from sheaf.common.text import synthetic_tokens, windows
from sheaf.pixelfly.attention import attention_mask, block_sparse_attention
from sheaf.pixelfly.layers import PixelflyLinear
from sheaf.pixelfly.models import SPARSE, build
from sheaf.pixelfly.sparsify import sparsify
from sheaf.pixelfly.train import cosine, optimiser_of

__all__ = ["ARMS", "BigBirdBlock", "corpus", "make", "perplexity", "train_language_model"]

ARMS = ("dense", "pixelfly", "bigbird attention", "random block")
DENSITY, BLOCK, ATTENTION_BLOCK = 0.25, 16, 8


@cache
def corpus() -> tuple[Tensor, Tensor, Tensor, str]:
    """Token ids 0..255 to train on, to choose rates on and to test on, and where they come from.

    WikiText-2's validation file (its last tenth is held out for the rates) and its test file under ``SHEAF_DATA``/text, else an
    order-2 Markov chain.
    """
    folder = external_dir("text")
    parts = []
    for name in ("valid", "test"):
        file = folder / "wikitext-2" / f"{name}.txt" if folder else None
        if file is None or not file.is_file():
            made = synthetic_tokens(3, 100_000, vocab=256, seed=5)
            return made[0], made[1], made[2], "generated tokens (an order-2 Markov chain)"
        parts.append(torch.frombuffer(bytearray(file.read_bytes()), dtype=torch.uint8).long())
    cut = len(parts[0]) * 9 // 10
    return (
        parts[0][:cut],
        parts[0][cut:],
        parts[1],
        "bytes of WikiText-2: trained on its validation file, tested on its test file",
    )


class BigBirdBlock(Block):
    """A GPT block whose scores exist only on BigBird's blocks: 3 local, 1 global, random ones, all causal."""

    mask: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """[batch, time, width] -> the same."""
        b, t, w = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(b, t, 3, self.heads, w // self.heads).permute(2, 0, 3, 1, 4)
        attended = block_sparse_attention(q, k, v, self.mask, ATTENTION_BLOCK, causal=True)
        x = x + self.out(attended.transpose(1, 2).reshape(b, t, w))
        return x + self.down(nn.functional.gelu(self.up(self.norm2(x))))


def make(arm: str, seed: int, context: int, **changes: int) -> GPT:
    """A small GPT with an arm's pattern in all its linear layers but the output.

    Raises:
        ValueError: unknown arm.
    """
    if arm not in ARMS:
        raise ValueError(f"arm {arm!r} is unknown; use one of {', '.join(ARMS)}")
    model = build("gpt-mini", seed, context=context, **changes)
    if not isinstance(model, GPT):
        raise TypeError("gpt-mini is no GPT")
    if arm == "bigbird attention":
        mask = attention_mask("bigbird", context // ATTENTION_BLOCK, seed=seed)
        for name, block in list(model.blocks.items()):
            sparse = BigBirdBlock(model.config)
            sparse.load_state_dict(block.state_dict())
            sparse.mask = mask
            model.blocks[name] = sparse
    elif arm != "dense":
        pattern = arm.replace(" ", "_")
        report = sparsify(
            model, DENSITY, pattern=pattern, block=BLOCK, include=SPARSE["gpt"], exclude="head", seed=seed
        )
        _start_as_dense(model, build("gpt-mini", seed, context=context, **changes), report.frame["layer"])
    return model


@torch.no_grad()
def _start_as_dense(model: nn.Module, dense: nn.Module, layers: Iterable[str]) -> None:
    """Scale sparse layers to the output variance that GPT-2's rule gives the dense ones, and begin with its zero biases.

    Sparse layers begin with a default nn.Linear's variance; at width 256 and 4 layers the rule's is 3 to 26 times smaller.
    """
    for name in layers:
        new, old = model.get_submodule(name), dense.get_submodule(name)
        if not isinstance(new, PixelflyLinear) or not isinstance(old, nn.Linear):
            raise TypeError(f"{name} is no Pixelfly layer in the place of a linear one")
        scale = float(old.weight.std()) * math.sqrt(3 * old.in_features)
        for part in (new.weight, new.u):
            if part is not None:
                part.mul_(scale)
        if new.bias is not None:
            new.bias.zero_()


@torch.no_grad()
def perplexity(model: nn.Module, tokens: Tensor, context: int, sequences: int = 64) -> float:
    """exp of the mean loss per byte on windows spread evenly over a text; every arm sees the same ones."""
    starts = torch.linspace(0, len(tokens) - context - 1, sequences).long()
    batch = tokens[starts[:, None] + torch.arange(context + 1)]
    model.eval()
    loss = sum(float(next_token_loss(model(part[:, :-1]), part[:, 1:])) * len(part) for part in batch.split(16))
    model.train()
    return math.exp(loss / sequences)


def train_language_model(job: Job) -> dict[str, Any]:
    """One run. A job holds arm, seed, steps, rate, on ("validation" or "test"), batch, context, width and layers.

    Returns perplexity per byte and CPU seconds per step.
    """
    train, held, test, _ = corpus()
    context = job["context"]
    model = make(job["arm"], job["seed"], context, width=job["width"], layers=job["layers"])
    optimiser = optimiser_of(model, job["rate"], decay=0.1)
    spent = 0.0
    for step in range(job["steps"]):
        batch = windows(train, job["batch"], context + 1, seed=job["seed"] * 1_000_003 + step)
        began = time.thread_time()
        for group in optimiser.param_groups:
            group["lr"] = job["rate"] * cosine(step, job["steps"])
        loss = next_token_loss(model(batch[:, :-1]), batch[:, 1:])
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        spent += time.thread_time() - began
    on = held if job["on"] == "validation" else test
    return {"perplexity": perplexity(model, on, context), "step_s": spent / job["steps"]}
