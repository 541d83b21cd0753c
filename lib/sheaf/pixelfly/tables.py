"""The tables of measured things: from samples per round or seed to rows with medians or means and 95 % intervals."""

import numpy as np
import pandas as pd
import torch
from scipy.stats import spearmanr

from sheaf.common.stats import interval
from sheaf.pixelfly import count
from sheaf.pixelfly.accuracy import differences
from sheaf.pixelfly.product import ProductButterflyLinear
from sheaf.pixelfly.speed import peak, ratio
from sheaf_kernels.block_sparse.benchmark import efficiency

__all__ = [
    "attention", "forms", "language", "layers", "listops", "low_rank", "ntk", "ntk_margin", "ntk_order", "parts", "peers",
    "shares", "split", "step_ratios", "steps", "worst_efficiency",
]  # fmt: skip

LAYER = ["in", "out", "block", "asked", "density", "dtype"]
MODELS = {  # preset -> published row and its dense twin
    "mixer-s16": "Pixelfly-M-S/16", "mixer-b16": "Pixelfly-M-B/16", "vit-s16": "Pixelfly-V-S/16", "vit-b16": "Pixelfly-V-B/16",
    "gpt2-small": "Pixelfly-small", "gpt2-medium": "Pixelfly-medium",
}  # fmt: skip
DENSE = ("dense, torch", "dense, own kernel")


def _efficiency(part: pd.DataFrame) -> np.ndarray:
    return np.array(efficiency(part.to_dict("records"), float(part["density"].iloc[0])))  # type: ignore[arg-type]


def layers(frame: pd.DataFrame) -> pd.DataFrame:
    """One row per layer of `speed.layers`: our time, the best dense arm and its time, speed-up and efficiency with bounds."""
    rows = []
    for keys, part in frame.groupby(LAYER, sort=False):
        in_, out, block, _, density, dtype = keys
        total = part.assign(seconds=part["forward_s"] + part["backward_s"])
        ours = total.loc[total["arm"] == "block sparse", "seconds"].median()
        dense = total[~total["arm"].str.startswith("block sparse")].groupby("arm")["seconds"].median()
        found = interval(_efficiency(part), "median")
        rows.append((f"{in_} to {out}", block, density, dtype, 1e3 * ours, dense.idxmin(), 1e3 * dense.min(),
                     found.estimate / density, found.estimate, found.low, found.high))  # fmt: skip
    columns = [
        "layer",
        "block",
        "density",
        "dtype",
        "ours (ms)",
        "best dense",
        "best dense (ms)",
        "speed-up",
        "x density",
        "low",
        "high",
    ]
    return pd.DataFrame(rows, columns=columns)


def worst_efficiency(frame: pd.DataFrame, block: int, density: float) -> np.ndarray:
    """Speed-up x density per round of the shape where its median is least; empty when nothing was measured there."""
    chosen = frame[(frame["block"] == block) & (frame["asked"] == density)]
    found = [_efficiency(part) for _, part in chosen.groupby(["in", "out"], sort=False)]
    return min(found, key=np.median) if found else np.array([])


def parts(runs: pd.DataFrame) -> pd.DataFrame:
    """What the two parts of Pixelfly add to accuracy, each with and without the other: points, paired by seed.

    Args:
        runs: of "pixelfly", "flat", "random block" and "random block + low rank", as `accuracy.diagnosis` and
            `diagnosis.random_and_rank` give them.
    """
    pairs = {
        "low rank beside a butterfly": ("pixelfly", "flat"),
        "low rank beside random blocks": ("random block + low rank", "random block"),
        "butterfly instead of random blocks": ("flat", "random block"),
        "the same beside a low rank": ("pixelfly", "random block + low rank"),
    }
    found = {name: interval(differences(runs, arm, base)) for name, (arm, base) in pairs.items()}
    rows = [(name, at.estimate, at.low, at.high, at.n) for name, at in found.items()]
    return pd.DataFrame(rows, columns=["part", "points", "low", "high", "seeds"])


def peers(frame: pd.DataFrame, in_: int, out: int, tokens: int) -> pd.DataFrame:
    """One row per way to compute a layer: milliseconds, and time of the best float32 dense over it, forward and in all."""
    table = 1e3 * frame.groupby("arm", sort=False)[["forward_s", "backward_s"]].median()
    total = table["forward_s"] + table["backward_s"]
    dense = [a for a in table.index if a.startswith("dense, ")]
    best_forward, best = table.loc[dense, "forward_s"].min(), total[dense].min()
    limit = 3e3 * 2 * tokens * in_ * out * 0.25 / peak(torch.float32)
    shown = pd.DataFrame({
        "way": table.index, "forward (ms)": table["forward_s"].to_numpy(), "backward (ms)": table["backward_s"].to_numpy(),
        "best dense / this, forward": (best_forward / table["forward_s"]).to_numpy(),
        "best dense / this, both": (best / total).to_numpy(),
    })  # fmt: skip
    name = "limit: a quarter of the operations at the dense peak"
    floor = pd.DataFrame([(name, limit / 3, 2 * limit / 3, best_forward / (limit / 3),
                           best / limit)], columns=shown.columns)  # fmt: skip
    return pd.concat([shown, floor], ignore_index=True)


def forms(frame: pd.DataFrame, block: int) -> pd.DataFrame:
    """Flat against product butterfly per width: milliseconds, their ratio with bounds, and the ratio of operations."""
    rows = []
    for (width, what), part in frame.groupby(["width", "what"], sort=False):
        at = 1e3 * part.groupby("arm")["seconds"].median()
        found = interval(ratio(part, "product", "flat"), "median")
        rows.append((width, what, at["flat"], at["product"], found.estimate, found.low, found.high,
                     ProductButterflyLinear.ratio(width // block)))  # fmt: skip
    columns = ["width", "what", "flat (ms)", "product (ms)", "product / flat", "low", "high", "ratio of operations"]
    return pd.DataFrame(rows, columns=columns)


def low_rank(frame: pd.DataFrame, rank: int) -> pd.DataFrame:
    """What a rank adds to every layer: share of the operations, share of the time."""
    rows = []
    for keys, part in frame.groupby(LAYER, sort=False):
        in_, out, block, _, density, _ = keys
        total = part.assign(seconds=part["forward_s"] + part["backward_s"]).groupby("arm")["seconds"].median()
        operations = rank * (in_ + out) / (density * in_ * out)
        time = total["block sparse + low rank"] / total["block sparse"] - 1
        rows.append((f"{in_} to {out}", block, rank, operations, time, time / operations))
    columns = ["layer", "block", "rank", "operations added", "time added", "time / operations"]
    return pd.DataFrame(rows, columns=columns)


def step_ratios(frame: pd.DataFrame, dtype: str = "float32") -> dict[str, np.ndarray]:
    """Per model: seconds of the better dense arm over Pixelfly's, one value per round."""
    chosen = frame[frame["dtype"] == dtype]
    return {str(model): ratio(part, DENSE, "pixelfly") for model, part in chosen.groupby("model", sort=False)}


def steps(frame: pd.DataFrame) -> pd.DataFrame:
    """One row per model and precision: milliseconds of the arms, speed-up with bounds, published, and by operations alone."""
    printed = pd.concat([count.published("image_models"), count.published("language_models")]).set_index("model")[
        "speedup"
    ]
    rows = []
    for dtype in frame["dtype"].unique():
        found = step_ratios(frame, dtype)
        for model, samples in found.items():
            part = frame[(frame["model"] == model) & (frame["dtype"] == dtype)]
            at = 1e3 * part.groupby("arm")["seconds"].median()
            gain = interval(samples, "median")
            row = MODELS[model]
            limit = count.counts(model).operations / count.counts(model, *count.AUDITED[row][1:]).operations
            name = row.replace("Pixelfly-M-", "Mixer-").replace("Pixelfly-V-", "ViT-").replace("Pixelfly-", "GPT-2 ")
            rows.append(
                (
                    name,
                    dtype,
                    *(at[a] for a in (*DENSE, "pixelfly")),
                    gain.estimate,
                    gain.low,
                    gain.high,
                    printed[row],
                    limit,
                )
            )
    columns = [
        "model",
        "dtype",
        "torch (ms)",
        "own dense (ms)",
        "Pixelfly (ms)",
        "speed-up",
        "low",
        "high",
        "published",
        "limit",
    ]
    return pd.DataFrame(rows, columns=columns)


def _means(frame: pd.DataFrame, by: str, value: str) -> pd.DataFrame:
    rows = []
    for key, part in frame.groupby(by, sort=False):
        found = interval(part[value].to_numpy())
        rows.append((key, found.estimate, found.low, found.high, found.n))
    return pd.DataFrame(rows, columns=[by, value, "low", "high", "seeds"])


def language(runs: pd.DataFrame) -> pd.DataFrame:
    """One row per arm: perplexity with bounds, its distance to dense in percent, rate, steps and time per step."""
    table = _means(runs, "arm", "perplexity")
    about = runs.groupby("arm", sort=False).agg({"rate": "first", "steps": "first", "step_s": "median"})
    dense = float(table.loc[table["arm"] == "dense", "perplexity"].iloc[0])
    table["over dense (%)"] = 100 * (table["perplexity"] / dense - 1)
    table["rate"], table["steps"] = about["rate"].to_numpy(), about["steps"].to_numpy()
    table["step (ms)"] = 1e3 * about["step_s"].to_numpy()
    table["dense step / this"] = float(about.loc["dense", "step_s"]) / about["step_s"].to_numpy()
    return table


def attention(frame: pd.DataFrame) -> pd.DataFrame:
    """One row per length and way: share of the scores, relative error, milliseconds, speed-up over fused dense with bounds."""
    rows = []
    for length, part in frame.groupby("length", sort=False):
        for arm, mine in part.groupby("arm", sort=False):
            gain = interval(ratio(part, "dense, fused", str(arm)), "median")
            rows.append((length, arm, mine["density"].iloc[0], mine["error"].iloc[0], 1e3 * mine["seconds"].median(),
                         gain.estimate, gain.low, gain.high))  # fmt: skip
    return pd.DataFrame(rows, columns=["tokens", "way", "scores kept", "error", "ms", "speed-up", "low", "high"])


def listops(runs: pd.DataFrame) -> pd.DataFrame:
    """One row per attention: accuracy in percent with bounds, beside always saying the most frequent value."""
    table = _means(runs, "arm", "accuracy")
    table["most frequent value"] = runs.groupby("arm", sort=False)["most frequent value"].mean().to_numpy()
    return table


def ntk(found: pd.DataFrame, summary: pd.DataFrame) -> pd.DataFrame:
    """One row per pattern: the three distances (to two digits: single precision gives no more everywhere) and accuracy."""
    table = found.pivot_table(index="arm", columns="norm", values="distance", sort=False).round(2)
    table.columns.name = None
    return table.join(summary.set_index("arm")[["accuracy (%)", "low", "high"]]).reset_index()


def ntk_margin(found: pd.DataFrame, norm: str) -> np.ndarray:
    """Per left-out seed: distance of the nearest other pattern less Pixelfly's and the seed floor; above 0 supports the paper."""
    table = found[found["norm"] == norm].pivot_table(index="seed", columns="arm", values="distance")
    others = table.drop(columns=["dense", "pixelfly"]).min(axis=1)
    return (others - table["pixelfly"] - table["dense"]).to_numpy()


def ntk_order(found: pd.DataFrame, runs: pd.DataFrame, resamples: int = 2000) -> np.ndarray:
    """Rank correlation between closeness in raw NTK and accuracy over all sparse patterns: the estimate, then resampled seeds."""
    distance = found[found["norm"] == "raw"].pivot_table(index="seed", columns="arm", values="distance")
    accuracy = runs.pivot_table(index="seed", columns="arm", values="accuracy")
    arms = [a for a in distance if a != "dense" and a in accuracy]
    rng = np.random.default_rng(0)
    draws = [float(spearmanr(-distance[arms].mean(), accuracy[arms].mean()).statistic)]
    for _ in range(resamples):
        a = distance.iloc[rng.integers(len(distance), size=len(distance))][arms].mean()
        b = accuracy.iloc[rng.integers(len(accuracy), size=len(accuracy))][arms].mean()
        draws.append(float(spearmanr(-a, b).statistic))
    return np.array(draws)


def shares(rank: pd.DataFrame, sizes: pd.DataFrame, strides: pd.DataFrame) -> pd.DataFrame:
    """Accuracy per low-rank share, per block and per maximum stride, with bounds."""
    parts = [
        _means(frame, column, "accuracy").rename(columns={column: "value"}).assign(varied=name)
        for frame, column, name in (
            (rank, "share", "low-rank share"), (sizes, "size", "block (flat)"),
            (strides, "reach", "maximum stride (flat, blocks of 4)"),
        )
    ]  # fmt: skip
    return pd.concat(parts, ignore_index=True)[["varied", "value", "accuracy", "low", "high", "seeds"]]


def split(runs: pd.DataFrame) -> pd.DataFrame:
    """Accuracy per split of the budget, with bounds."""
    return _means(runs, "split", "accuracy")
