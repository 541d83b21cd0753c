"""Speed on one CPU core: the gathered operations by density, and the time of a token with the predictor inside.

Seconds are CPU seconds of one thread, arms in turn in one run. Operations are timed with the caches emptied before each call; a
token reads several blocks of weights one after the other, which no cache holds. The divisor is always the best dense arm of the
run; int4 is another precision and never the divisor.
"""

from collections.abc import Callable, Iterable

import numpy as np
import pandas as pd
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from sheaf.common.stats import interval
from sheaf.dejavu import cost, llama_cpp
from sheaf.dejavu.engine import Engine, Kept
from sheaf.dejavu.models import OPTConfig
from sheaf_kernels.bench import one_core
from sheaf_kernels.gather_mlp import benchmark

__all__ = [
    "against_model", "efficiency", "gain", "heads", "mlp", "mlp_table", "model_of", "parts", "parts_table", "predictor", "ratio",
    "step_table", "steps", "summary", "worst",
]  # fmt: skip

Tick = Callable[[object], None] | None
Arms = dict[str, Callable[[], object]]


def mlp(
    d: int, f: int, densities: Iterable[float], rounds: int, dtypes: Iterable[str] = ("float32", "bfloat16"), tick: Tick = None
) -> pd.DataFrame:
    """The MLP by every arm: columns dtype, density, arm, round, seconds, bytes, d, f."""
    found = []
    for dtype in dtypes:
        found += benchmark.mlp(d, f, densities, dtype=getattr(torch, dtype), rounds=rounds)
        if tick:
            tick(dtype)
    return pd.DataFrame(found)


def heads(d: int, count: int, prompts: Iterable[int], kept: Iterable[int], rounds: int) -> pd.DataFrame:
    """One step of attention by number of chosen heads: columns prompt, kept, arm, round, seconds, bytes."""
    chosen = list(kept)
    return pd.DataFrame([row for prompt in prompts for row in benchmark.heads(d, count, prompt, chosen, rounds=rounds)])


def predictor(d: int, out: int, rank: int, k: int, rounds: int, dtypes: Iterable[str] = ("float32", "bfloat16")) -> pd.DataFrame:
    """Scores and selection: columns dtype, arm, round, seconds, bytes."""
    rows = [row for t in dtypes for row in benchmark.predictor(d, out, rank, k, dtype=getattr(torch, t), rounds=rounds)]
    return pd.DataFrame(rows)


# ------------------------------------------------------------------------------------------------------------------ ratios


def _by_round(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.pivot_table(index="round", columns="arm", values="seconds")


def _best(table: pd.DataFrame, start: str) -> np.ndarray:
    if start in table:
        return table[start].to_numpy()
    names = [name for name in table if name.startswith(start) and "int4" not in name]
    return table[min(names, key=lambda name: table[name].median())].to_numpy()


def ratio(frame: pd.DataFrame, slow: str, fast: str) -> np.ndarray:
    """Seconds of one arm over another's, per round; a name that is no arm means the best of those that start so."""
    table = _by_round(frame)
    return _best(table, slow) / _best(table, fast)


def efficiency(frame: pd.DataFrame, density: float, arm: str = "gathered") -> np.ndarray:
    """Speed-up of an arm over the best dense MLP at a density, times that density; per round of one dtype of `mlp`."""
    at = frame[np.isclose(frame["density"], density, atol=1e-3)]
    return _best(_by_round(frame[frame["density"] == 1]), "dense") / _best(_by_round(at), arm) * density


def gain(frame: pd.DataFrame, density: float, over: str) -> np.ndarray:
    """Seconds of another arm (or "dense", the best) over those of the gathered one at a density, per round."""
    at = _by_round(frame[np.isclose(frame["density"], density, atol=1e-3)])
    rival = _by_round(frame[frame["density"] == 1]) if over == "dense" else at
    return _best(rival, over) / _best(at, "gathered")


def worst(samples: Iterable[np.ndarray]) -> np.ndarray:
    """Of several samples the one with the least median."""
    return min(samples, key=np.median, default=np.array([]))


def mlp_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Per dtype, density and arm: milliseconds, GB/s read, share of what a plain stream reaches, speed-up and x density."""
    rows = []
    for dtype, part in frame.groupby("dtype", sort=False):
        dense = part[part["density"] == 1]
        plain = (dense.loc[dense["arm"] == "stream", "bytes"] / dense.loc[dense["arm"] == "stream", "seconds"]).median()
        best = _best(_by_round(dense), "dense")
        for (density, arm), one in part.groupby(["density", "arm"], sort=False):
            if arm == "stream":
                continue
            seconds = _by_round(one)[arm].to_numpy()
            found = interval(best / seconds, "median")
            speed = one["bytes"].iloc[0] / np.median(seconds)
            rows.append((dtype, density, arm, 1e3 * np.median(seconds), 1e-9 * speed, speed / plain, found.estimate, found.low,
                         found.high, found.estimate * density))  # fmt: skip
    columns = ["dtype", "density", "arm", "ms", "GB/s", "of stream", "speed-up", "low", "high", "x density"]
    return pd.DataFrame(rows, columns=columns)


def summary(frame: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Per group and arm: median milliseconds with its interval, GB/s, and speed-up over the group's best dense arm, if any."""
    rows = []
    for keys, part in frame.groupby(by, sort=False):
        table = _by_round(part)
        dense = _best(table, "dense") if any(name.startswith("dense") for name in table) else None
        for arm in part["arm"].drop_duplicates():
            at = interval(1e3 * table[arm].to_numpy(), "median")
            moved = part.loc[part["arm"] == arm, "bytes"].iloc[0] if "bytes" in part else np.nan
            faster = np.nan if dense is None else float(np.median(dense / table[arm].to_numpy()))
            rows.append((*keys, arm, at.estimate, at.low, at.high, 1e-6 * moved / at.estimate, faster))
    return pd.DataFrame(rows, columns=[*by, "arm", "ms", "low", "high", "GB/s", "speed-up"])


# ------------------------------------------------------------------------------------------------------------------ a token


def model_of(settings: dict) -> tuple[OPTConfig, tuple[int, int], Kept]:
    """Shape, ranks of the predictors and what a token keeps, from a notebook's settings: width, heads, layers, kept shares."""
    config = OPTConfig(settings["width"], settings["layers"], settings["heads"])
    kept = Kept(round(settings["keep_heads"] * config.heads), round(settings["keep_neurons"] * config.ffn))
    return config, cost.scaled_ranks(config), kept


def _check(engine: Engine, prompt: int) -> None:
    x, everything = engine.tokens(1)[0], Kept(engine.config.heads, engine.config.ffn)
    engine.prompt(prompt)
    right = engine.dense(x, prompt).float()
    for name, found in (("our dense", engine.own_dense(x, prompt)), ("our sparse", engine.sparse(x, prompt, everything))):
        if not (found.float() - right).norm() <= 5e-2 * right.norm():
            raise RuntimeError(f"{name} step and torch's give different results; nothing was timed")


def steps(
    config: OPTConfig, ranks: tuple[int, int], kept: Kept, prompts: Iterable[int], *, tokens: int, rounds: int,
    dtype: str = "float32", seed: int = 0, tick: Tick = None,
) -> pd.DataFrame:  # fmt: skip
    """Seconds of a token after prompts of several lengths: columns dtype, prompt, arm, round, seconds.

    Every timing is ``tokens`` steps in a row, which start from a full cache; sparse ones choose anew at each token and make up
    for keys and values that heads missed. "told" is a sparse step whose choice is free: what the predictors cost is the rest.
    llama.cpp is one of the dense arms where it is installed.
    """
    lengths, found = list(prompts), []
    random = torch.Generator().manual_seed(seed)
    with one_core(), threadpool_limits(1), torch.no_grad():
        engine = Engine(config, ranks=ranks, capacity=max(lengths) + tokens, dtype=getattr(torch, dtype), seed=seed)
        _check(engine, min(lengths))
        xs = engine.tokens(tokens)
        peer = None if llama_cpp.missing() else llama_cpp.LlamaCpp(engine, xs[:, 0], max(lengths))
        for prompt in lengths:
            choice = [
                [[torch.randperm(n, generator=random)[:k].sort().values for _ in range(config.layers)]
                 for n, k in ((config.heads, kept.heads), (config.ffn, kept.neurons))]
                for _ in range(tokens)
            ]  # fmt: skip

            def run(step: Callable[[Tensor, int, int], object], prompt: int = prompt) -> Callable[[], object]:
                return lambda: [step(xs[t], prompt + t, t) for t in range(tokens)]

            arms: Arms = {
                "dense, torch": run(lambda x, n, t: engine.dense(x, n)),
                "dense, our kernels": run(lambda x, n, t: engine.own_dense(x, n)),
                "sparse": run(lambda x, n, t: engine.sparse(x, n, kept)),
                "sparse, told which": run(lambda x, n, t, choice=choice: engine.told(x, n, *choice[t])),  # type: ignore[misc]
            }

            def fill(prompt: int = prompt) -> None:
                engine.prompt(prompt)
                if peer:
                    peer.prompt(prompt)

            if peer:
                arms["dense, llama.cpp"] = run(lambda x, n, t, peer=peer: peer.step(t))  # type: ignore[misc]
            timed = benchmark.alternate(arms, rounds, fill)
            found += [
                {"dtype": dtype, "prompt": prompt, "round": i, "arm": arm, "seconds": t / tokens}
                for i, row in enumerate(timed) for arm, t in row.items()
            ]  # fmt: skip
            if tick:
                tick(prompt)
    return pd.DataFrame(found)


def step_table(frame: pd.DataFrame, config: OPTConfig, ranks: tuple[int, int], kept: Kept) -> pd.DataFrame:
    """`summary` of `steps`, with the speed-up that the bytes of the cost model allow, and those bytes in MB (10^6)."""
    table = summary(frame, ["dtype", "prompt"]).drop(columns="GB/s")
    shares = kept.heads / config.heads, kept.neurons / config.ffn
    allowed = {"sparse": ranks, "sparse, told which": (0, 0)}
    each = list(zip(table["dtype"], table["prompt"], table["arm"], strict=True))
    table["MB"] = [
        1e-6 * cost.step_bytes(config, *read, allowed.get(arm, (0, 0)), prompt, itemsize=getattr(torch, dtype).itemsize)
        for dtype, prompt, arm in each
        for read in [shares if arm in allowed else (1.0, 1.0)]
    ]
    table["by bytes"] = [
        cost.speedup(config, *shares, allowed[arm], prompt) if arm in allowed else 1.0
        for _, prompt, arm in each
    ]
    return table


def against_model(
    frame: pd.DataFrame, config: OPTConfig, ranks: tuple[int, int], kept: Kept, short: int, long: int
) -> np.ndarray:
    """How the speed-up changes from one prompt to a longer one, measured over modelled, per round of one dtype of `steps`."""
    shares = kept.heads / config.heads, kept.neurons / config.ffn
    measured = [ratio(frame[frame["prompt"] == p], "dense", "sparse") for p in (short, long)]
    modelled = [cost.speedup(config, *shares, ranks, p) for p in (short, long)]
    return (measured[1] / measured[0]) / (modelled[1] / modelled[0])


def parts(
    config: OPTConfig, ranks: tuple[int, int], kept: Kept, prompt: int, *, rounds: int, dtype: str = "float32", seed: int = 0
) -> pd.DataFrame:
    """Where a token's time goes: every part over all layers, dense (torch) and sparse: columns arm, round, seconds."""
    with one_core(), threadpool_limits(1), torch.no_grad():
        engine = Engine(config, ranks=ranks, capacity=prompt + 1, dtype=getattr(torch, dtype), seed=seed)
        x, every = engine.tokens(1)[0], range(config.layers)
        h = engine._norm(x)
        chosen = [(engine.predict(x, i, "heads", kept.heads), engine.predict(x, i, "neurons", kept.neurons)) for i in every]
        engine.prompt(prompt)
        arms: Arms = {
            "dense: whole token": lambda: engine.dense(x, prompt),
            "dense: attention": lambda: [engine.dense_attention(h, i, prompt) for i in every],
            "dense: MLP": lambda: [engine.dense_mlp(h, i) for i in every],
            "sparse: whole token": lambda: engine.sparse(x, prompt, kept),
            "sparse: attention": lambda: [engine.attention(h, i, prompt, chosen[i][0]) for i in every],
            "sparse: MLP": lambda: [engine.mlp(h, i, chosen[i][1]) for i in every],
            "sparse: predictors": lambda: [
                (engine.predict(x, i, "heads", kept.heads), engine.predict(x, i, "neurons", kept.neurons)) for i in every
            ],
        }
        timed = benchmark.alternate(arms, rounds, lambda: engine.prompt(prompt))
    return pd.DataFrame([{"round": i, "arm": a, "seconds": t} for i, row in enumerate(timed) for a, t in row.items()])


def parts_table(frame: pd.DataFrame, published: pd.DataFrame) -> pd.DataFrame:
    """Median milliseconds of every part and its share of the token, dense and sparse; "others" is what is left of the whole."""
    median = 1e3 * frame.groupby("arm", sort=False)["seconds"].median()
    said = dict(zip(published["part"], published["ms"], strict=True))
    rows = []
    for step in ("dense", "sparse"):
        whole = median[f"{step}: whole token"]
        mine = {arm.split(": ")[1]: t for arm, t in median.items() if arm.startswith(step) and "whole" not in arm}
        mine["others"] = max(0.0, whole - sum(mine.values()))
        for part, t in mine.items():
            paper = said.get(part, np.nan) if step == "dense" else np.nan
            rows.append((step, part, t, t / whole, paper, paper / sum(said.values())))
    return pd.DataFrame(rows, columns=["step", "part", "ms", "share", "published ms", "published share"])
