"""Deja Vu on a GPU, at the widths of OPT-175B and OPT-30B: gathered MLP and heads by density, a layer, a whole decoder.

Every arm is captured in a CUDA graph, so that no arm waits for the host, and all arms of a table take turns in one run. Weights
of several layers are read one after the other, far more than the L2 cache holds. They are random: this times, it does not speak.
The limit is the memory bandwidth of the data sheet; what a plain read of 4 GB reaches stands beside it.
"""

import gc
import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from sheaf.dejavu.engine import Engine, Kept
from sheaf.dejavu.models import OPTConfig
from sheaf_kernels.gather_mlp import triton as shapes

__all__ = ["bandwidth", "heads", "layer", "left_out", "machine", "mlp", "opt_30b", "predictor", "samples", "speedup", "summary"]

DEVICE = "cuda"
NOMINAL = {"H200": 4800.0, "H100": 3350.0, "A100": 2039.0}  # GB/s of the data sheets
LAYERS = 4  # read in turn
TOKENS = 6  # steps of one timing
SIZES = {"opt-175b": ((512, 1000), Kept(48, 6144)), "opt-30b": ((300, 584), Kept(28, 3584))}  # predictors' ranks; 75 % in all

Rows = list[dict[str, Any]]


@cache
def machine() -> dict[str, float | str]:
    """Name, GB/s of the data sheet, and GB/s that reading 4 GB reaches, best of 10.

    Raises:
        RuntimeError: there is no CUDA device.
    """
    if not torch.cuda.is_available():
        raise RuntimeError("no GPU here; this needs one (see the gpu profile)")
    about = torch.cuda.get_device_properties(0)
    nominal = next((v for k, v in NOMINAL.items() if k in about.name), math.nan)
    big = torch.ones(2**30, device=DEVICE)
    out = torch.empty((), device=DEVICE)
    best = min(row["read"] for row in _alternate({"read": lambda: torch.sum(big, dim=0, out=out)}, 10))
    return {"device": about.name, "nominal GB/s": nominal, "read GB/s": 1e-6 * big.nbytes / best}


def _alternate(arms: dict[str, Callable[[], object]], rounds: int, before: Callable[[], object] | None = None) -> Rows:
    """Milliseconds of the device for every arm, in turn, each round starting with another; a first round is dropped."""
    names, kept = list(arms), []
    for turn in range(rounds + 1):
        row = {}
        for k in range(len(names)):
            name = names[(turn + k) % len(names)]
            if before:
                before()
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize()
            torch.cuda._sleep(200_000)  # lets the host queue everything before the clock starts
            start.record()
            arms[name]()
            end.record()
            torch.cuda.synchronize()
            row[name] = start.elapsed_time(end)
        if turn:
            kept.append(row)
    return kept


def _captured(run: Callable[[], object]) -> Callable[[], None]:
    """A replay of ``run``, captured after two warm runs, which compile what has to be compiled."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = run()  # must live as long as the graph, which writes there

    def replay(results: object = results) -> None:
        graph.replay()

    return replay


def _try(arms: dict[str, Callable[[], object]], name: str, make: Callable[[], Callable[[], object]], left: Rows) -> None:
    try:
        arms[name] = make()
    except Exception as error:  # a rival that cannot run here is named, not hidden
        _wait()
        left.append({"arm": name, "left out": f"{type(error).__name__}: {str(error).splitlines()[0][:160]}"})


def _rows(timed: Rows, scale: float, **labels: object) -> Rows:
    return [{**labels, "round": i, "arm": a, "ms": t * scale} for i, row in enumerate(timed) for a, t in row.items()]


@cache
def _layers(tune: bool = True) -> Engine:
    config = OPTConfig.from_name("opt-175b", layers=LAYERS)
    engine = Engine(config, ranks=SIZES["opt-175b"][0], capacity=1024 + 2 * TOKENS, dtype=torch.float16, device=DEVICE)
    if tune:
        shapes.tune(config.width, config.ffn, torch.float16)
        shapes.tune(engine.ranks[1], config.ffn, torch.float16, k=config.ffn, kinds=("dot",))
    _check(engine)
    return engine


def _check(engine: Engine) -> None:
    x = engine.tokens(1)[0]
    prompt = engine.capacity // 2
    at = torch.full((), prompt, dtype=torch.int64, device=DEVICE)
    engine.prompt(prompt)
    right = engine.dense(x, prompt).float()
    ways = {
        "own dense": engine.own_dense(x, at),
        "sparse": engine.sparse(x, at, Kept(engine.config.heads, engine.config.ffn), "half"),
    }
    for name, found in ways.items():
        if not (found.float() - right).norm() <= 5e-2 * right.norm():
            raise RuntimeError(f"{name} and torch's dense step give different results; nothing was timed")
    _wait()
    engine.release()


def _wait() -> None:
    torch.cuda.synchronize()


# ------------------------------------------------------------------------------------------------------------ one operation


@cache
def mlp(rounds: int, densities: tuple[float, ...] = (0.05, 0.1, 0.15, 0.25, 0.5, 1.0)) -> pd.DataFrame:
    """The MLP of OPT-175B in float16, milliseconds per layer: columns density, round, arm, ms; rows with "left out" name a rival.

    Arms: gathered (ours), index then multiply, threshold (no predictor: W1 whole, rows of W2 above a threshold), and dense.
    """
    engine, left = _layers(), []  # type: Engine, Rows
    config, generator = engine.config, torch.Generator(DEVICE).manual_seed(1)
    h = F.layer_norm(engine.tokens(1)[0], (config.width,))
    found: Rows = []
    dense: dict[str, Callable[[], object]] = {}

    def every(run: Callable[[int], Tensor]) -> Callable[[], None]:
        return _captured(lambda: [run(i) for i in range(LAYERS)])

    def plain(i: int) -> Tensor:
        w = engine.blocks[i]
        return torch.addmm(w.b2, F.linear(h, w.w1, w.b1).relu_(), w.w2t)

    dense["dense, cuBLAS"] = every(lambda i: engine.dense_mlp(h, i))
    dense["dense, cuBLAS, W2 by rows"] = every(plain)
    dense["dense, our kernel"] = every(lambda i: engine.mlp(h, i, engine.all_neurons))
    _try(dense, "dense, int4 (torch)", lambda: every(_int4(engine)), left)
    found += _rows(_alternate(dense, rounds), 1 / LAYERS, density=1.0, k=config.ffn)
    hidden = F.linear(h, engine.blocks[0].w1, engine.blocks[0].b1).relu_().float()
    for density in densities:
        k = max(128, round(density * config.ffn / 128) * 128)
        chosen = [torch.randperm(config.ffn, device=DEVICE, generator=generator)[:k].sort().values for _ in range(LAYERS)]
        space = torch.empty(2, k, config.width, dtype=torch.float16, device=DEVICE)
        cut = float(hidden.flatten().topk(k).values[-1])

        def indexed(i: int, chosen: list[Tensor] = chosen, space: Tensor = space) -> Tensor:
            w = engine.blocks[i]
            torch.index_select(w.w1, 0, chosen[i], out=space[0])
            torch.index_select(w.w2t, 0, chosen[i], out=space[1])
            return torch.addmm(w.b2, F.linear(h, space[0], w.b1[chosen[i]]).relu_(), space[1])

        arms: dict[str, Callable[[], object]] = {
            "gathered": every(lambda i, chosen=chosen: engine.mlp(h, i, chosen[i])),  # type: ignore[misc]
            "index, then multiply": every(indexed),
            "threshold": every(lambda i, cut=cut: engine.mlp(h, i, engine.all_neurons, cut)),  # type: ignore[misc]
        }
        found += _rows(_alternate(arms, rounds), 1 / LAYERS, density=k / config.ffn, k=k)
    return pd.DataFrame(found + left)


def _int4(engine: Engine) -> Callable[[int], Tensor]:
    d, f = engine.config.width, engine.config.ffn
    h = engine.tokens(1)[0].bfloat16()
    packed, group = [], 128
    for _ in range(LAYERS):
        pair = []
        for out, in_ in ((f, d), (d, f)):
            codes = torch.randint(0, 255, (out, in_ // 2), dtype=torch.uint8, device=DEVICE)
            scales = torch.full((in_ // group, out, 2), 1e-3, dtype=torch.bfloat16, device=DEVICE)
            pair.append((torch.ops.aten._convert_weight_to_int4pack(codes, 8), scales))
        packed.append(pair)

    def run(i: int) -> Tensor:
        (one, s1), (two, s2) = packed[i]
        hidden = torch.ops.aten._weight_int4pack_mm(h, one, group, s1).relu_()
        return torch.ops.aten._weight_int4pack_mm(hidden, two, group, s2)

    return run


@cache
def heads(rounds: int, prompt: int = 128, kept: tuple[int, ...] = (8, 24, 40, 48, 96)) -> pd.DataFrame:
    """The attention of OPT-175B after a prompt, milliseconds per layer by how many of 96 heads are chosen."""
    engine, generator = _layers(), torch.Generator(DEVICE).manual_seed(2)
    h = F.layer_norm(engine.tokens(1)[0], (engine.config.width,))
    at = torch.full((), prompt, dtype=torch.int64, device=DEVICE)
    engine.prompt(prompt)
    arms = {"dense, cuBLAS": _captured(lambda: [engine.dense_attention(h, i, prompt) for i in range(LAYERS)])}
    for k in kept:
        chosen = [torch.randperm(engine.config.heads, device=DEVICE, generator=generator)[:k] for _ in range(LAYERS)]
        arms[f"{k} heads"] = _captured(
            lambda chosen=chosen: [engine.attention(h, i, at, chosen[i], made_up=False) for i in range(LAYERS)]  # type: ignore[misc]
        )
    found = pd.DataFrame(_rows(_alternate(arms, rounds), 1 / LAYERS, prompt=prompt))  # type: ignore[arg-type]
    count = found["arm"].str.extract(r"(\d+) heads")[0].astype(float)
    return found.assign(density=count.fillna(engine.config.heads) / engine.config.heads)


@cache
def predictor(rounds: int) -> pd.DataFrame:
    """The predictor of the MLP with its selection of 6144 of 49152, milliseconds: ours, torch's, and the products alone."""
    engine, k = _layers(), SIZES["opt-175b"][1].neurons
    x = engine.tokens(1)[0]

    def by_torch(i: int) -> Tensor:
        a, b = engine.blocks[i].neurons
        return F.linear(F.linear(x, a), b)[0].topk(k, sorted=False).indices

    def products(i: int) -> Tensor:
        a, b = engine.blocks[i].neurons
        return F.linear(F.linear(x, a), b)

    runs = {"ours": lambda i: engine.predict(x, i, "neurons", k), "torch, topk": by_torch, "torch, products only": products}
    arms: dict[str, Callable[[], object]] = {
        name: _captured(lambda run=run: [run(i) for i in range(LAYERS)]) for name, run in runs.items()  # type: ignore[misc]
    }
    return pd.DataFrame(_rows(_alternate(arms, rounds), 1 / LAYERS))


# ------------------------------------------------------------------------------------------------------------- whole steps


def _block(x: Tensor, w: dict[str, Tensor], keys: Tensor, values: Tensor, length: int) -> Tensor:
    """One dense block as a function of tensors, for torch.compile."""
    heads, width = keys.shape[1], keys.shape[3]
    h = F.layer_norm(x, x.shape[-1:])
    qkv = F.linear(h, w["wqkv"], w["bqkv"]).view(len(h), 3, heads, width)
    keys[:, :, length], values[:, :, length] = qkv[:, 1], qkv[:, 2]
    seen = slice(0, length + 1)
    out = F.scaled_dot_product_attention(qkv[:, 0, :, None], keys[:, :, seen], values[:, :, seen])
    x = x + F.linear(out.reshape(len(h), heads * width), w["wo"], w["bo"])
    return x + F.linear(F.linear(F.layer_norm(x, x.shape[-1:]), w["w1"], w["b1"]).relu(), w["w2"], w["b2"])


def _compiled(engine: Engine, length: int) -> Callable[[Tensor], Tensor]:
    d, block = engine.config.width, torch.compile(_block, dynamic=False)
    weights = []
    for w in engine.blocks:
        assert w.wo is not None and w.w2 is not None
        weights.append({
            "wqkv": w.wqkv.view(3 * d, d), "bqkv": w.bqkv.view(-1), "wo": w.wo, "bo": w.bo, "w1": w.w1, "b1": w.b1,
            "w2": w.w2, "b2": w.b2,
        })  # fmt: skip

    def run(x: Tensor) -> Tensor:
        for i, w in enumerate(weights):
            x = block(x, w, engine.keys[i], engine.values[i], length)
        return x

    return run


def _steps(engine: Engine, prompt: int, kept: Kept, rounds: int, compile_too: bool) -> Rows:
    """TOKENS steps after a prompt by every arm; sparse arms choose anew for every token and make up for what heads missed."""
    at = torch.zeros((), dtype=torch.int64, device=DEVICE)
    xs, middle, left = engine.tokens(32), prompt + TOKENS // 2, []  # type: Tensor, int, Rows
    generator = torch.Generator(DEVICE).manual_seed(3)

    def chosen(units: int, k: int) -> list[Tensor]:
        return [torch.randperm(units, device=DEVICE, generator=generator)[:k].sort().values for _ in engine.blocks]

    told = chosen(engine.config.heads, kept.heads), chosen(engine.config.ffn, kept.neurons)

    def reset() -> None:
        at.fill_(prompt)
        engine.prompt(prompt)

    def moving(step: Callable[[Tensor], Tensor]) -> Callable[[], object]:
        def run() -> Tensor:
            out = step(xs.index_select(0, at.remainder(32).reshape(1))[0])
            at.add_(1)
            return out

        replay = _captured(run)
        return lambda: [replay() for _ in range(TOKENS)]

    arms: dict[str, Callable[[], object]] = {}
    reset()
    arms["dense, cuBLAS"] = moving(lambda x: engine.dense(x, middle))
    if compile_too:
        _try(arms, "dense, torch.compile", lambda: moving(_compiled(engine, middle)), left)
    for name, step in {
        "dense, our kernels": lambda x: engine.own_dense(x, at),
        "sparse, no look-ahead": lambda x: engine.sparse(x, at, kept, "none"),
        "sparse, look-ahead": lambda x: engine.sparse(x, at, kept, "half"),
        "sparse, told which": lambda x: engine.told(x, at, *told),
    }.items():
        reset()
        arms[name] = moving(step)
    eager = "dense, launched by the host"
    arms[eager] = lambda: [engine.dense(xs[0], middle) for _ in range(TOKENS)]
    timed = _alternate(arms, rounds, before=reset)
    engine.release()
    return _rows(timed, 1 / (TOKENS * engine.config.layers), prompt=prompt) + [{**row, "prompt": prompt} for row in left]


@cache
def layer(rounds: int, prompts: tuple[int, ...] = (128, 1024)) -> pd.DataFrame:
    """A layer of OPT-175B at 75 % sparsity, milliseconds per layer and token: columns prompt, round, arm, ms."""
    engine, kept = _layers(), SIZES["opt-175b"][1]
    return pd.DataFrame([row for p in prompts for row in _steps(engine, p, kept, rounds, compile_too=p == prompts[0])])


@cache
def opt_30b(rounds: int, prompt: int = 128) -> pd.DataFrame:
    """All 48 layers of OPT-30B's shape and its output layer, milliseconds per layer and token; 62 GB of weights.

    Raises:
        RuntimeError: the weights do not fit.
    """
    _layers.cache_clear()
    gc.collect()
    torch.cuda.empty_cache()
    ranks, kept = SIZES["opt-30b"]
    config = OPTConfig.from_name("opt-30b")
    free = torch.cuda.mem_get_info()[0]
    if free < 66e9:
        raise RuntimeError(f"OPT-30B's shape takes 66 GB with its predictors and cache; {free / 1e9:.0f} GB are free")
    engine = Engine(
        config, ranks=ranks, capacity=prompt + 2 * TOKENS, dtype=torch.float16, device=DEVICE, copies=False, output=True
    )
    _check(engine)
    return pd.DataFrame(_steps(engine, prompt, kept, rounds, compile_too=False))


# ---------------------------------------------------------------------------------------------------------------- results


def samples(frame: pd.DataFrame, arm: str, **where: float) -> np.ndarray:
    """Milliseconds of one arm, one per round; of the arms that start with ``arm``, the one with the least median."""
    for column, value in where.items():
        frame = frame[(frame[column] - value).abs() < 5e-3]
    table = frame.dropna(subset=["ms"]).pivot_table(index="round", columns="arm", values="ms")
    names = [name for name in table.columns if name.startswith(arm)]
    if not names:
        return np.array([])
    return table[min(names, key=lambda name: table[name].median())].to_numpy()


def speedup(frame: pd.DataFrame, arm: str, **where: float) -> np.ndarray:
    """How many times faster than the best dense arm, one value per round; int4 is another precision and does not count."""
    ours = samples(frame, arm, **where)
    where.pop("density", None)
    dense = frame[~frame["arm"].str.contains("int4")]
    return samples(dense, "dense", **where) / ours


def bandwidth(rounds: int, density: float) -> np.ndarray:
    """Share of the data sheet's bandwidth that the gathered MLP of OPT-175B reaches at a density, one value per round."""
    frame = mlp(rounds)
    near = frame[(frame["arm"] == "gathered") & ((frame["density"] - density).abs() < 5e-3)]
    moved = 2 * near["k"] * OPTConfig.from_name("opt-175b").width * 2
    return (moved / (near["ms"] * 1e-3) / (float(machine()["nominal GB/s"]) * 1e9)).to_numpy()


def left_out(frame: pd.DataFrame) -> str:
    """A sentence on the rivals that could not run here."""
    if "left out" not in frame or frame["left out"].isna().all():
        return "Every rival ran."
    rows = frame.dropna(subset=["left out"]).drop_duplicates("arm")
    return "Left out: " + "; ".join(f"{arm} ({why})" for arm, why in zip(rows["arm"], rows["left out"], strict=True))


def summary(frame: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Median milliseconds per arm and group, with the range of the rounds."""
    kept = frame.dropna(subset=["ms"])
    table = kept.groupby([*by, "arm"], sort=False)["ms"].agg(["median", "min", "max"]).reset_index()
    return table.rename(columns={"median": "ms", "min": "least", "max": "most"})
