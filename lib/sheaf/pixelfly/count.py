"""Parameters and multiply-adds of the models by exact arithmetic, dense and sparse, beside the published counts.

The published "FLOPs" are multiply-adds of one example: 224 x 224 pictures, sequences of 512 tokens without the output layer.
"""

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from sheaf.common.data import data_dir
from sheaf.pixelfly.budget import LayerType
from sheaf.pixelfly.models import GPT_PRESETS, PRESETS, schema, tokens_of

__all__ = ["AUDITED", "Counts", "audit", "counts", "inconsistencies", "measured_counts", "published"]


@dataclass(frozen=True)
class Counts:
    """Parameters of a model and multiply-adds of one example."""

    parameters: int
    operations: int


# Published row -> preset, density and rank of its sparse layers (1 and 0 for a dense model).
AUDITED = {
    "Mixer-S/16": ("mixer-s16", 1.0, 0), "Pixelfly-M-S/16": ("mixer-s16", 0.25, 0),
    "Mixer-B/16": ("mixer-b16", 1.0, 0), "Pixelfly-M-B/16": ("mixer-b16", 0.25, 0),
    "ViT-S/16": ("vit-s16", 1.0, 0), "Pixelfly-V-S/16": ("vit-s16", 0.25, 32),
    "ViT-B/16": ("vit-b16", 1.0, 0), "Pixelfly-V-B/16": ("vit-b16", 0.25, 32),
    "GPT-2 small": ("gpt2-small", 1.0, 0), "BigBird-small": ("gpt2-small", 1.0, 0), "Pixelfly-small": ("gpt2-small", 0.25, 32),
    "GPT-2 medium": ("gpt2-medium", 1.0, 0), "BigBird-medium": ("gpt2-medium", 1.0, 0),
    "Pixelfly-medium": ("gpt2-medium", 0.25, 32),
}  # fmt: skip


def published(table: str) -> pd.DataFrame:
    """A table of published values: image_models, language_models, long_range_arena or t2t_vit.

    Raises:
        ValueError: no such table.
    """
    file = data_dir("pixelfly") / f"{table}.csv"
    if not file.is_file():
        known = ", ".join(sorted(p.stem for p in file.parent.glob("*.csv")))
        raise ValueError(f"no published table {table!r}; there are {known}")
    return pd.read_csv(file)


def _linear(layer: LayerType, density: float, rank: int) -> tuple[float, float]:
    """Weights and operations of all layers of one type; a low-rank term has rank * (out + in) weights."""
    if layer.fixed or (density == 1 and not rank):
        return layer.parameters, layer.operations
    weights = layer.count * (density * layer.out * layer.in_ + rank * (layer.out + layer.in_))
    return weights, weights * layer.tokens


def _scores(name: str, sequence: int) -> int:
    """Multiply-adds of q k^T and of the weighted sum of v, all pairs of tokens."""
    if name in GPT_PRESETS:
        g = GPT_PRESETS[name]
        return g.layers * 2 * sequence**2 * g.width
    c = PRESETS[name]
    return 0 if c.kind == "mixer" else c.layers * 2 * tokens_of(name) ** 2 * c.width


def _rest(name: str) -> int:
    """Parameters that are no matrix of the schema: biases, norms, positions, embeddings. GPT-2 ties its output layer."""
    if name in GPT_PRESETS:
        g = GPT_PRESETS[name]
        w, e = g.width, g.expand
        return (g.vocab + g.context) * w + g.layers * ((3 + 1 + e + 1) * w + 4 * w) + 2 * w
    c = PRESETS[name]
    w = c.width
    total = w + 2 * w + c.classes  # patch bias, final norm, classifier bias
    if c.kind == "mixer":
        return total + c.layers * (4 * w + c.token_hidden + c.patches + c.channel_hidden + w)
    biases = c.channel_hidden + w + w + (3 * w if c.qkv_bias else 0)
    return total + w + (c.patches + 1) * w + c.layers * (4 * w + biases)


def counts(name: str, density: float = 1.0, rank: int = 0, sequence: int = 512) -> Counts:
    """A preset with every layer of its schema at one density and rank; layers fixed by the schema stay dense.

    Args:
        name: of a preset of `models`.
        density: of the block-sparse part.
        rank: of the low-rank term.
        sequence: tokens of an example of GPT-2.
    """
    parts = [_linear(layer, density, rank) for layer in schema(name, sequence)]
    weights, operations = (sum(p[i] for p in parts) for i in (0, 1))
    return Counts(round(weights) + _rest(name), round(operations) + _scores(name, sequence))


def measured_counts(
    model: Callable[[], nn.Module], example: torch.Size | tuple[int, ...], integer: bool = False
) -> Counts:
    """The same by building the model without memory and letting torch count: the check on the arithmetic.

    Args:
        model: builds it.
        example: shape of the input, batch included.
        integer: the input holds token ids.
    """
    with torch.device("meta"):
        made = model()
        x = torch.zeros(example, dtype=torch.long) if integer else torch.zeros(example)
        with FlopCounterMode(display=False) as counter:
            made(x)
    return Counts(sum(p.numel() for p in made.parameters()), counter.get_total_flops() // 2)


def _decimals(text: str) -> int:
    return len(text.split(".")[1]) if "." in text else 0


def audit(table: str) -> pd.DataFrame:
    """Published and counted parameters and operations, one row per model.

    A cell agrees when our count, rounded to the digits printed, is the published one. Columns: model, configuration,
    parameters published and counted (M), agrees, operations published and counted (G), agrees.
    """
    printed = pd.read_csv(data_dir("pixelfly") / f"{table}.csv", dtype=str)
    rows = []
    for row in printed.to_dict("records"):
        preset, density, rank = AUDITED[row["model"]]
        ours = counts(preset, density, rank)
        what = "dense" if density == 1 else f"density {density:g}" + (f" + rank {rank}" if rank else "")
        cells = []
        for key, value in (("parameters_m", ours.parameters / 1e6), ("operations_g", ours.operations / 1e9)):
            digits = _decimals(row[key])
            # half a unit of the last printed digit, so that both ways of rounding a five count as agreement
            agrees = abs(value - float(row[key])) <= 0.5 * 10**-digits * (1 + 1e-9)
            cells += [float(row[key]), value, agrees]
        rows.append((row["model"], preset, what, *cells))
    columns = ["model", "preset", "configuration", "parameters published (M)", "parameters counted (M)", "parameters agree",
               "operations published (G)", "operations counted (G)", "operations agree"]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


def _density_for(name: str, target: float, what: str) -> float:
    """Density of all sparse layers, low rank included, at which a count equals the published one."""
    dense, diagonal = (getattr(counts(name, d), what) for d in (1.0, 0.0))
    return (target - diagonal) / (dense - diagonal)


def inconsistencies() -> pd.DataFrame:
    """Published cells that no configuration explains, with the arithmetic that says so."""
    small, medium = (counts(n) for n in ("gpt2-small", "gpt2-medium"))
    floor = {n: counts(n).operations - _scores(n, 512) for n in ("gpt2-small", "gpt2-medium")}
    by_parameters = _density_for("gpt2-medium", 203e6, "parameters")
    by_operations = _density_for("gpt2-medium", 27e9, "operations")
    vit = counts("vit-s16", 0.25, 32)
    rows = [
        ("GPT-2 small, parameters", "117M", f"{small.parameters / 1e6:.1f}M", "117M is the label of a release, not the count"),
        ("GPT-2 medium, parameters", "345M", f"{medium.parameters / 1e6:.1f}M", "345M is the label of a release, not the count"),
        ("BigBird-small, operations", "40.2G", f">= {floor['gpt2-small'] / 1e9:.1f}G",
         "sparse attention removes scores only; without any scores this much is left"),
        ("BigBird-medium, operations", "134G", f">= {floor['gpt2-medium'] / 1e9:.1f}G",
         "sparse attention removes scores only; without any scores this much is left"),
        ("Pixelfly-medium, both counts", "203M and 27G", f"densities {by_parameters:.2f} and {by_operations:.2f}",
         "one density of the linear layers cannot give both"),
        ("Pixelfly-V-S/16, parameters", "16.9M", f"{vit.parameters / 1e6:.1f}M",
         "density 1/4 and rank 32 fit ViT-B/16 to the digit, and this model only nearly"),
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["cell", "published", "counted", "why"])
