"""The rival of the long range arena: Reformer-like attention, and whole training steps by sequence length."""

import math
from collections.abc import Callable, Iterable
from functools import partial

import pandas as pd
import torch
import torch.nn.functional as F
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from sheaf.pixelfly.attention import attention_mask, block_sparse_attention
from sheaf.pixelfly.models import VisionConfig
from sheaf.pixelfly.sequences import SequenceClassifier
from sheaf.pixelfly.train import optimiser_of
from sheaf_kernels.bench import one_core
from sheaf_kernels.block_sparse.benchmark import alternate

__all__ = ["ARMS", "LSHAttention", "attention", "classifier", "lsh_attention", "steps"]

ARMS = ("dense", "pixelfly", "bigbird", "reformer-like")
HASHES = 2  # rounds, as in the arena's own settings
Tick = Callable[[object], None] | None


def lsh_attention(q: Tensor, v: Tensor, *, bucket: int = 32, hashes: int = HASHES, seed: int = 0) -> Tensor:
    """Attention within buckets of locality-sensitive hashing, as Reformer does it (Kitaev et al. 2020, section 2), not causal.

    Queries serve as keys, of unit length. Each of ``hashes`` rounds turns them by a random rotation, sorts them by the nearest
    axis, cuts the order into chunks and lets each query see the keys of its own hash in its chunk and in the one before; a token
    sees itself only where it sees nothing else. Rounds are joined by their softmax masses. Unlike the original, a key that two
    rounds found counts twice.

    Args:
        q, v: [batch, heads, T, d].
        bucket: tokens of a chunk; T is an even multiple of it.
        seed: of the rotations.

    Returns:
        [batch, heads, T, d].

    Raises:
        ValueError: T is no even multiple of the chunk.
    """
    n, h, t, d = q.shape
    chunks = t // bucket
    if chunks * bucket != t or chunks % 2:
        raise ValueError(f"{t} tokens are no even multiple of chunks of {bucket}; use {2 * bucket}, {4 * bucket}, ...")
    generator = torch.Generator().manual_seed(seed)
    turn = torch.randn(d, hashes, chunks // 2, generator=generator).to(q)
    outs, masses = [], []
    for r in range(hashes):
        turned = q.detach() @ turn[:, r]
        label = torch.cat([turned, -turned], dim=-1).argmax(dim=-1)  # [n, h, t]
        order = label.argsort(dim=-1, stable=True)
        back = order.argsort(dim=-1)
        pick = order[..., None].expand(n, h, t, d)
        qs, vs = (x.gather(2, pick).view(n, h, chunks, bucket, d) for x in (q, v))
        labels = label.gather(2, order).view(n, h, chunks, bucket)
        keys, values = _with_previous(F.normalize(qs, dim=-1)), _with_previous(vs)
        score = qs @ keys.transpose(-1, -2) / math.sqrt(d)
        score = score.masked_fill(labels[..., None] != _with_previous(labels)[..., None, :], -torch.inf)
        itself = torch.eye(bucket, 2 * bucket, dtype=torch.bool, device=q.device)
        score = torch.where(itself, score - 1e5, score)
        mass = score.logsumexp(dim=-1)
        out = (score - mass[..., None]).exp() @ values
        outs.append(out.view(n, h, t, d).gather(2, back[..., None].expand(n, h, t, d)))
        masses.append(mass.view(n, h, t).gather(2, back))
    weight = torch.stack(masses).softmax(dim=0)[..., None]
    return (torch.stack(outs) * weight).sum(dim=0)


def _with_previous(x: Tensor) -> Tensor:
    """Each chunk [..., chunks, bucket(, d)] followed by the one before it, the first by the last."""
    return torch.cat([x, x.roll(1, dims=2)], dim=3)


class LSHAttention(nn.Module):
    """`lsh_attention` with projections; queries and keys share theirs. x is [batch, T, width]."""

    def __init__(self, config: VisionConfig, bucket: int) -> None:
        super().__init__()
        w = config.width
        self.heads, self.bucket = config.heads, bucket
        self.q, self.v, self.out = nn.Linear(w, w), nn.Linear(w, w), nn.Linear(w, w)

    def forward(self, x: Tensor) -> Tensor:
        b, t, w = x.shape
        q, v = (f(x).view(b, t, self.heads, -1).transpose(1, 2) for f in (self.q, self.v))
        return self.out(lsh_attention(q, v, bucket=self.bucket).transpose(1, 2).reshape(b, t, w))


def classifier(arm: str, length: int, *, width: int = 64, layers: int = 2, block: int = 16, seed: int = 0) -> SequenceClassifier:
    """The small classifier of token ids [batch, length] with the attention of an arm of `ARMS`; a seed starts all arms alike.

    Raises:
        ValueError: unknown arm, or a length that the blocks do not tile.
    """
    if arm not in ARMS:
        raise ValueError(f"attention {arm!r} is unknown; use one of {', '.join(ARMS)}")
    if length % (2 * block):
        raise ValueError(f"{length} tokens are no even multiple of blocks of {block}")
    sparse = arm in ("pixelfly", "bigbird")
    model = SequenceClassifier(length, width, layers, seed, attention_mask(arm, length // block) if sparse else None, block)
    if arm == "reformer-like":
        config = VisionConfig("vit", width, layers, 2 * width, image=16, patch=16, heads=4, classes=10)
        weights = model.state_dict()
        for i, part in enumerate(model.blocks):
            own = LSHAttention(config, block)
            own.load_state_dict({name: weights[f"blocks.{i}.attention.{name}"] for name in own.state_dict()})
            part.attention = own
    return model


def attention(
    lengths: Iterable[int], *, block: int, heads: int, width: int, rounds: int, tick: Tick = None
) -> pd.DataFrame:
    """Forward and backward of attention alone, one thread, arms in turn; columns length, density, error, round, arm, seconds.

    The Reformer-like arm shares queries and keys, so its error, against dense attention on other keys, is not given.
    """
    found = []
    for length in lengths:
        generator = torch.Generator().manual_seed(length)
        q, k, v, dy = (torch.randn(1, heads, length, width, generator=generator) for _ in range(4))
        inputs = [t.requires_grad_() for t in (q, k, v)]
        mask = attention_mask("pixelfly", length // block)
        runs: dict[str, Callable[[], Tensor]] = {
            "dense, fused": partial(F.scaled_dot_product_attention, q, k, v),
            "pixelfly": partial(block_sparse_attention, q, k, v, mask, block),
            "reformer-like": partial(lsh_attention, q, v, bucket=block),
        }
        arms: dict[str, Callable[[], object]] = {
            name: partial(_gradients, run, [q, v] if name == "reformer-like" else inputs, dy) for name, run in runs.items()
        }
        with one_core(), threadpool_limits(1):
            whole = runs["dense, fused"]().detach()
            error = float((runs["pixelfly"]().detach() - whole).norm() / whole.norm())
            rows = alternate(arms, rounds)
        kept = {"dense, fused": 1.0, "pixelfly": float(mask.float().mean()), "reformer-like": HASHES * 2 * block / length}
        found += [
            {"length": length, "round": i, "arm": a, "seconds": s, "density": kept[a],
             "error": {"dense, fused": 0.0, "pixelfly": error}.get(a, math.nan)}
            for i, row in enumerate(rows) for a, s in row.items()
        ]  # fmt: skip
        if tick:
            tick(length)
    return pd.DataFrame(found)


def _gradients(run: Callable[[], Tensor], inputs: list[Tensor], dy: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(run(), inputs, dy)


def steps(
    lengths: Iterable[int], *, batch: int, rounds: int, width: int = 64, layers: int = 2, block: int = 64, tick: Tick = None
) -> pd.DataFrame:
    """Whole training steps of the classifier, AdamW included, one thread, arms in turn; columns length, round, arm, seconds."""
    found = []
    for length in lengths:
        data = torch.randint(1, 15, (batch, length), generator=torch.Generator().manual_seed(length)), torch.arange(batch) % 10
        arms: dict[str, Callable[[], object]] = {
            arm: _step(classifier(arm, length, width=width, layers=layers, block=block), data) for arm in ARMS
        }
        with one_core(), threadpool_limits(1):
            rows = alternate(arms, rounds)
        found += [{"length": length, "round": i, "arm": a, "seconds": s} for i, row in enumerate(rows) for a, s in row.items()]
        if tick:
            tick(length)
    return pd.DataFrame(found)


def _step(model: nn.Module, data: tuple[Tensor, Tensor]) -> Callable[[], None]:
    optimiser = optimiser_of(model, 1e-3, 0.01)

    def run() -> None:
        loss = F.cross_entropy(model(data[0]), data[1])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    return run
