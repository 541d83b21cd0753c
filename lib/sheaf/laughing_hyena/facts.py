"""What can be counted or shown without training: published values, sizes, state, fresh filters, leakage from the future."""

from dataclasses import replace

import pandas as pd
import torch
from torch import Tensor

from sheaf.common.data import data_dir
from sheaf.laughing_hyena.modal import ModalFilters
from sheaf.laughing_hyena.models import LM, PRESETS, ImplicitFilter, LMConfig, long_convolve
from sheaf_kernels.modal_ssm import Modes, modal_prefill

__all__ = ["difference_of_one", "fresh_filters", "leakage", "published", "sizes", "states"]


def published(name: str) -> pd.DataFrame:
    """One of the tables of published values in ``data/laughing_hyena``.

    Raises:
        FileNotFoundError: no such table.
    """
    file = data_dir("laughing_hyena") / f"{name}.csv"
    if not file.is_file():
        known = ", ".join(sorted(f.stem for f in file.parent.glob("*.csv")))
        raise FileNotFoundError(f"no table {name!r} of published values; there are {known}")
    return pd.read_csv(file)


def sizes() -> pd.DataFrame:
    """One row per preset: published and counted parameters in millions (models built without memory), filters per layer."""
    printed = published("sizes").set_index("preset")["parameters_m"]
    rows = []
    for name, config in PRESETS.items():
        with torch.device("meta"):
            count = LM(config).parameter_count() / 1e6
        known = float(printed[name]) if name in printed.index else float("nan")
        rows.append((name, config.layers, config.width, config.filters, known, count, 100 * (count / known - 1)))
    columns = ["preset", "layers", "width", "filters per layer", "published (M)", "counted (M)", "deviation (%)"]
    return pd.DataFrame(rows, columns=columns)


def states(order: int = 16, positions: tuple[int, ...] = (64, 512, 2048, 16384)) -> pd.DataFrame:
    """Numbers of state one sequence carries per layer at the 1.3B shapes, by position; and where a KV cache becomes larger.

    Args:
        order: real degree of the distilled filters.
    """
    variants = {
        "GPT, multi-head": PRESETS["gpt-1.3b"], "GPT, 2 key-value heads": PRESETS["gpt-1.3b-gqa"],
        "Laughing Hyena": PRESETS["hyena-1.3b"],
        "Laughing MultiHyena, 8 heads of 256": PRESETS["multihyena-1.3b"],
        "Laughing MultiHyena, 256 heads of 8": replace(PRESETS["multihyena-1.3b"], heads=256),
    }  # fmt: skip
    cache = PRESETS["gpt-1.3b"]
    rows = []
    for name, config in variants.items():
        at = [config.state_floats(order, t) // config.layers for t in positions]
        even = float("nan") if config.kind == "gpt" else config.state_floats(order, 1) / config.layers / (2 * cache.width)
        rows.append((name, *at, even))
    return pd.DataFrame(rows, columns=["model", *(f"t = {t}" for t in positions), "smaller than a KV cache from t ="])


def fresh_filters(frequency: float, channels: int = 6, length: int = 256, seed: int = 0) -> Tensor:
    """Long filters before any training, [channels, length], slowest window first."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ImplicitFilter(channels, length, 33, 64, frequency)(length).detach()


def difference_of_one(seed: int = 0) -> float:
    """Largest relative difference of the logits of Hyena and of a MultiHyena with a head per channel and the same weights."""
    config = LMConfig("hyena", vocab=64, context=96, width=24, layers=2)
    hyena, multi = LM(config, seed), LM(replace(config, kind="multihyena", heads=config.width), seed + 1)
    multi.load_state_dict(hyena.state_dict())
    tokens = torch.randint(64, (4, 96), generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        one, other = hyena(tokens), multi(tokens)
    return float((one - other).abs().max() / one.abs().max())


def leakage(length: int = 1024, disturbance: float = 1e10, seed: int = 0) -> pd.DataFrame:
    """What a huge input at the last step changes before it: an FFT spreads its rounding over all steps, a recurrence cannot.

    Returns:
        one row per way: largest change of the outputs before the disturbance, and that over their own size.
    """
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(1, length, 4, 1, generator=g)
    loud = z.clone()
    loud[:, -1] = disturbance
    pole = torch.polar(torch.rand(4, 8, generator=g) * 0.3 + 0.69, torch.rand(4, 8, generator=g) * 3.0)
    residue = torch.complex(*torch.randn(2, 4, 8, generator=g))
    filters = ModalFilters(pole, residue, torch.zeros(4))
    modes = Modes.pack(pole, residue, filters.h0)
    one = torch.ones_like(z)
    h = filters.impulse(length)

    def convolved(x: Tensor) -> Tensor:
        return long_convolve(one, one, x, h, "fft")[0, :, :, 0].T

    def recurrent(x: Tensor, strategy: str) -> Tensor:
        y, _ = modal_prefill(x[..., 0].transpose(1, 2).contiguous(), modes, strategy=strategy)
        assert y is not None
        return y[0]

    rows = []
    for name, way in (
        ("convolution by FFT", convolved),
        ("recurrence, step by step", lambda x: recurrent(x, "recurrent")),
        ("recurrence, by chunks", lambda x: recurrent(x, "chunked")),
    ):
        quiet, after = way(z)[:, :-1], way(loud)[:, :-1]
        change = float((quiet - after).abs().max())
        rows.append((name, change, change / float(quiet.abs().max())))
    return pd.DataFrame(rows, columns=["way", "change in the past", "relative"])
