"""Speed: layers, butterfly forms, whole training steps and attention, always against the best dense way in the same run.

Seconds are CPU seconds of one thread, arms in turn. Every function returns one row per arm and round.
"""

import copy
import statistics
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from scipy.stats import spearmanr
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from sheaf.common.gpt import GPT, next_token_loss
from sheaf.common.stats import bootstrap_samples
from sheaf.pixelfly import cost
from sheaf.pixelfly.attention import attention_mask, block_sparse_attention, masked_attention
from sheaf.pixelfly.layers import MaskedLinear, PixelflyLinear
from sheaf.pixelfly.masks import coarsen
from sheaf.pixelfly.models import GPT_PRESETS, SPARSE, build
from sheaf.pixelfly.patterns import Plan, plan
from sheaf.pixelfly.product import ProductButterflyLinear
from sheaf.pixelfly.sparsify import sparsify
from sheaf_kernels.bench import one_core
from sheaf_kernels.block_sparse import Layout, from_dense
from sheaf_kernels.block_sparse.benchmark import alternate, dense_arms, layer, peak, sparse_arm
from sheaf_kernels.block_sparse.peers import monarch, peers

__all__ = [
    "attention", "butterfly_forms", "by_density", "layers", "lowrank_cost", "masked_speedup", "medians", "one_layer", "peak",
    "rank_of_latency", "ratio", "steps", "unstructured_step",
]  # fmt: skip

Tick = Callable[[object], None] | None


def _tidy(rows: list[dict[str, float]], **labels: object) -> pd.DataFrame:
    tidy = [{**labels, "round": i, "arm": a, "seconds": t} for i, row in enumerate(rows) for a, t in row.items()]
    return pd.DataFrame(tidy)


def ratio(frame: pd.DataFrame, slow: str | Sequence[str], fast: str) -> np.ndarray:
    """Seconds of ``slow`` over those of ``fast``, one value per round; of several names, the one with the least median."""
    table = frame.pivot_table(index="round", columns="arm", values="seconds")
    names = [slow] if isinstance(slow, str) else [name for name in slow if name in table]
    best = min(names, key=lambda name: table[name].median())
    return (table[best] / table[fast]).to_numpy()


def layers(
    shapes: Iterable[tuple[int, int]], densities: Iterable[float], blocks: Iterable[int], *, tokens: int, rounds: int,
    dtype: torch.dtype = torch.float32, rank: int = 0, pattern: str = "flat", tick: Tick = None,
) -> pd.DataFrame:  # fmt: skip
    """One linear layer, dense and block sparse with the paper's pattern, forward and backward.

    Args:
        shapes: (in, out).
        densities: of the blocks, as near as the grid allows.
        rank: of the low-rank term of an arm of its own.

    Returns:
        Columns in, out, block, density (actual), dtype, round, arm, forward_s, backward_s.
    """
    found = []
    for in_, out in shapes:
        for block in blocks:
            for density in densities:
                chosen = plan(pattern, out, in_, block, density)
                layout = Layout(torch.from_numpy(chosen.mask), block)
                rows = layer(in_, out, layout, tokens=tokens, dtype=dtype, rank=rank, rounds=rounds)
                labels = {"in": in_, "out": out, "block": block, "asked": density, "density": layout.density}
                found.append(pd.DataFrame(rows).assign(**labels, dtype=str(dtype).removeprefix("torch.")))
                if tick:
                    tick((in_, out, block, density))
    return pd.concat(found, ignore_index=True)


def lowrank_cost(frame: pd.DataFrame, rank: int) -> np.ndarray:
    """Extra time of the low-rank term over the sparse layer's time, divided by the same ratio of operations, one per round.

    All layers of the frame (as `layers` gives it with that rank) are added up first: the extra time of one small layer is noise.
    """
    total = frame.assign(seconds=frame["forward_s"] + frame["backward_s"])
    sums = total[total["arm"].str.startswith("block sparse")].pivot_table(
        index="round", columns="arm", values="seconds", aggfunc="sum"
    )
    shapes = frame.drop_duplicates(["in", "out", "block", "asked"])
    share = (rank * (shapes["in"] + shapes["out"])).sum() / (shapes["density"] * shapes["in"] * shapes["out"]).sum()
    return ((sums["block sparse + low rank"] / sums["block sparse"] - 1) / share).to_numpy()


def one_layer(
    in_: int, out: int, *, block: int, density: float, tokens: int, rounds: int, seed: int = 0
) -> pd.DataFrame:
    """One layer by every way to compute it: dense ones, this kernel in both precisions, and the peers.

    Columns: arm, round, forward_s, backward_s (NaN where a peer has none).
    """
    chosen = plan("flat", out, in_, block, density)
    layout = Layout(torch.from_numpy(chosen.mask), block)
    random = torch.Generator().manual_seed(seed)
    x, dy, matrix = (torch.randn(s, generator=random) for s in ((tokens, in_), (tokens, out), (out, in_)))
    weight = from_dense(matrix, layout).contiguous()
    half = [t.bfloat16() for t in (x, matrix, dy)]
    with one_core(), threadpool_limits(1):
        arms = {f"dense, {name}": arm for name, arm in dense_arms(x, matrix, dy).items()}
        arms["dense bfloat16, torch"] = dense_arms(half[0], half[1], half[2])["torch"]
        arms["block sparse (this kernel)"] = sparse_arm(x, weight, layout, dy)
        arms["block sparse bfloat16 (this kernel)"] = sparse_arm(half[0], weight.bfloat16(), layout, half[2])
        arms |= peers(x, weight, layout, dy)
        rival, parameters = monarch(x, out, dy, weight.numel())
        arms[f"Monarch, {parameters / weight.numel():.2f} of the weights"] = rival
        forward = alternate({k: a[0] for k, a in arms.items()}, rounds)
        backward = alternate({k: a[1] for k, a in arms.items()}, rounds)
    rows = [
        (k, i, forward[i][k], np.nan if "forward only" in k else backward[i][k]) for i in range(rounds) for k in arms
    ]
    return pd.DataFrame(rows, columns=["arm", "round", "forward_s", "backward_s"])


def masked_speedup(frame: pd.DataFrame) -> np.ndarray:
    """Dense time over masked-dense time, forward and backward by the same library, one value per round of `one_layer`."""
    total = frame.assign(seconds=frame["forward_s"] + frame["backward_s"])
    return ratio(total, "dense, torch", "masked dense")


def by_density(
    size: int, tokens: int, rounds: int, seed: int, device_block: int = 32, tick: Tick = None
) -> pd.DataFrame:
    """Forward time of the appendix' masks on hardware blocks: what is computed is every block that a mask touches.

    Columns: pattern, element block, nominal density, actual density, round, arm, seconds.
    """
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(tokens, size, generator=random)
    arms, about = {}, {}
    for pattern, block, nominal, mask in cost.appendix_masks(size, seed):
        touched = coarsen(mask, device_block)
        layout = Layout(torch.from_numpy(touched), device_block)
        weight = torch.randn(layout.nnz, device_block, device_block, generator=random)
        name = f"{pattern} {block} {nominal:.4f}"
        arms[name] = sparse_arm(x, weight, layout, x)[0]
        about[name] = (pattern, block, nominal, layout.density)
    with one_core(), threadpool_limits(1):
        rows = alternate(arms, rounds)
    if tick:
        tick(size)
    frame = _tidy(rows)
    labels = pd.DataFrame.from_dict(
        about, orient="index", columns=["pattern", "element block", "nominal density", "actual density"]
    )
    return frame.join(labels, on="arm")


def rank_of_latency(frame: pd.DataFrame, density: str) -> np.ndarray:
    """Spearman correlation of median time with a density: the estimate, then its bootstrap over masks."""
    table = frame.groupby("arm").agg({"seconds": "median", density: "first"}).to_numpy()
    return bootstrap_samples(lambda i: float(spearmanr(*table[i].T).statistic), np.arange(len(table)))


def butterfly_forms(widths: Iterable[int], block: int, tokens: int, rounds: int, tick: Tick = None) -> pd.DataFrame:
    """Flat (all strides) and product butterfly of one block, by the same kernel, forward and whole step.

    Columns: width, what ("forward", "forward and backward"), round, arm, seconds.
    """
    found = []
    for width in widths:
        generator = torch.Generator().manual_seed(width)
        cells = width // block
        flat = plan("flat", width, width, block, (1 + np.log2(cells)) / cells)
        forms: dict[str, nn.Module] = {
            "flat": PixelflyLinear(width, width, flat, bias=False, generator=generator),
            "product": ProductButterflyLinear(width, block, generator=generator),
        }
        x = torch.randn(tokens, width, generator=generator, requires_grad=True)
        dy = torch.randn(tokens, width, generator=generator)

        def forward(form: nn.Module, x: Tensor = x) -> Tensor:
            with torch.no_grad():
                return form(x)

        def both(form: nn.Module, x: Tensor = x, dy: Tensor = dy) -> None:
            torch.autograd.grad(form(x), [x, *form.parameters()], dy)

        with one_core(), threadpool_limits(1):
            for what, run in (("forward", forward), ("forward and backward", both)):
                rows = alternate({k: lambda f=f, run=run: run(f) for k, f in forms.items()}, rounds)  # type: ignore[misc]
                found.append(_tidy(rows, width=width, what=what))
        if tick:
            tick(width)
    return pd.concat(found, ignore_index=True)


def _own_dense(model: nn.Module, block: int = 32) -> None:
    """Put this kernel with every block kept in the place of a model's linear layers: the other dense rival."""
    for parent in list(model.modules()):
        for child, linear in list(parent.named_children()):
            if not isinstance(linear, nn.Linear) or child == "head":
                continue
            if not (linear.in_features % block or linear.out_features % block):
                mask = np.ones((linear.out_features // block, linear.in_features // block), dtype=bool)
                setattr(parent, child, PixelflyLinear.from_linear(linear, Plan(mask, block)))


def _step_of(model: nn.Module, batch: tuple[Tensor, Tensor], dtype: torch.dtype) -> Callable[[], None]:
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4)
    loss_of = next_token_loss if isinstance(model, GPT) else F.cross_entropy

    def run() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            loss = loss_of(model(batch[0]).float(), batch[1])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    return run


def steps(
    name: str, *, depth: int, batch: int, tokens: int, rounds: int, density: float = 0.25, rank_share: float = 0.25,
    block: int = 32, dtypes: Sequence[torch.dtype] = (torch.float32, torch.bfloat16), tick: Tick = None,
) -> pd.DataFrame:  # fmt: skip
    """A whole training step at a model's real widths, ``depth`` blocks deep: forward, backward and AdamW.

    The embedding, classifier and (for GPT-2) a vocabulary of 512 stay dense in both. Dense arms: torch's layers, and this kernel
    with every block kept. Mixers have blocks only, as their published counts say; the others a rank as well.

    Columns: model, dtype, round, arm ("dense, torch", "dense, own kernel", "pixelfly"), seconds.
    """
    found = []
    include = SPARSE[name.split("-")[0].removesuffix("2")]
    for dtype in dtypes:
        if name in GPT_PRESETS:
            base = build(name, layers=depth, vocab=512, context=tokens)
            x = torch.randint(512, (max(1, batch), tokens), generator=torch.Generator().manual_seed(0))
            data = (x, x.roll(-1, 1))
        else:
            base = build(name, layers=depth)
            x = torch.randn(max(1, batch), 3, 224, 224, generator=torch.Generator().manual_seed(0))
            data = (x, torch.arange(max(1, batch)) % 10)
        own, sparse = copy.deepcopy(base), copy.deepcopy(base)
        _own_dense(own)
        share = 0.0 if name.startswith("mixer") else rank_share
        sparsify(sparse, density, block=block, include=include, rank_share=share)
        models = {"dense, torch": base, "dense, own kernel": own, "pixelfly": sparse}
        with one_core(), threadpool_limits(1):
            rows = alternate({k: _step_of(m, data, dtype) for k, m in models.items()}, rounds)
        found.append(_tidy(rows, model=name, dtype=str(dtype).removeprefix("torch.")))
        if tick:
            tick((name, dtype))
    return pd.concat(found, ignore_index=True)


def unstructured_step(width: int, hidden: int, density: float, tokens: int, rounds: int) -> pd.DataFrame:
    """A training step of a two-layer MLP, dense and with the unstructured masks that RigL trains. Columns round, arm, seconds."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(tokens, width, generator=generator), torch.randn(tokens, width, generator=generator)

    def mlp(sparse: bool) -> nn.Module:
        if not sparse:
            return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
        kept = [torch.rand(s, generator=generator) < density for s in ((hidden, width), (width, hidden))]
        return nn.Sequential(MaskedLinear(kept[0]), nn.GELU(), MaskedLinear(kept[1]))

    def step_of(model: nn.Module) -> Callable[[], None]:
        optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4)

        def run() -> None:
            loss = (model(x) - y).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()

        return run

    with one_core(), threadpool_limits(1):
        return _tidy(alternate({"dense": step_of(mlp(False)), "unstructured mask": step_of(mlp(True))}, rounds))


def _gradients(run: Callable[..., Tensor], inputs: list[Tensor], dy: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(run(*inputs), inputs, dy)


def attention(
    lengths: Iterable[int], *, block: int, heads: int, width: int, rounds: int,
    patterns: Sequence[str] = ("flat", "pixelfly", "bigbird"), tick: Tick = None,
) -> pd.DataFrame:  # fmt: skip
    """Forward and backward of attention alone: torch's fused dense kernel, a masked dense one, and block-sparse patterns.

    Columns: length, density (of the scores), error (relative to dense attention on the same random inputs), round, arm, seconds.
    """
    found = []
    for length in lengths:
        generator = torch.Generator().manual_seed(length)
        q, k, v, dy = (torch.randn(1, heads, length, width, generator=generator) for _ in range(4))
        inputs = [t.requires_grad_() for t in (q, k, v)]
        masks = {p: attention_mask(p, length // block) for p in patterns}
        sparse = {name: partial(block_sparse_attention, mask=mask, block=block) for name, mask in masks.items()}
        masked = partial(masked_attention, mask=masks[patterns[0]], block=block)
        runs: dict[str, Callable[..., Tensor]] = {
            "dense, fused": F.scaled_dot_product_attention,
            "dense, masked": masked,
            **sparse,
        }
        with one_core(), threadpool_limits(1):
            whole = F.scaled_dot_product_attention(q, k, v).detach()
            errors = {n: float((r(q, k, v).detach() - whole).norm() / whole.norm()) for n, r in runs.items()}
            rows = alternate({n: partial(_gradients, r, inputs, dy) for n, r in runs.items()}, rounds)
        density = {n: float(m.float().mean()) for n, m in masks.items()}
        frame = _tidy(rows, length=length)
        found.append(frame.assign(density=frame["arm"].map(density).fillna(1.0), error=frame["arm"].map(errors)))
        if tick:
            tick(length)
    return pd.concat(found, ignore_index=True)


def medians(frame: pd.DataFrame, by: list[str], scale: float = 1e3) -> pd.Series:
    """Median seconds per group, times ``scale``."""
    return frame.groupby(by, sort=False)["seconds"].agg(lambda s: scale * statistics.median(s))
