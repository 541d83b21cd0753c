"""The shipped networks checked against their own description, and summed up in a table."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from sheaf.common.data import data_dir
from sheaf.decentralized.network import CASES, INSIDE_REGION, Network, city_pairs, load_case

__all__ = ["broken_cells", "broken_files", "described_case", "differing_files", "summary"]


def broken_files() -> list[str]:
    """Names of shipped files whose SHA-256 is not the recorded one."""
    folder = data_dir("decentralized")
    broken = []
    for line in (folder / "SHA256SUMS").read_text().splitlines():
        wanted, name = line.split(maxsplit=1)
        file = folder / name.strip().removeprefix("*")
        if not file.is_file() or hashlib.sha256(file.read_bytes()).hexdigest() != wanted:
            broken.append(name.strip())
    return broken


def differing_files(folder: Path) -> list[str]:
    """Names of data files in another copy of the facts whose content differs from the shipped file of that name."""
    shipped = data_dir("decentralized")
    names = [f.relative_to(folder) for f in sorted(folder.rglob("*")) if f.is_file() and f.suffix in (".csv", ".gz")]
    return [n.as_posix() for n in names if not (shipped / n).is_file() or (shipped / n).read_bytes() != (folder / n).read_bytes()]


def described_case(case: int) -> tuple[np.ndarray, np.ndarray]:
    """([64, 64] delay in ms, [64, 64] bandwidth in Gbit/s) of a case, built from its description (section 4) alone.

    The diagonal means nothing and is set to zero.

    Raises:
        ValueError: unknown case.
    """
    if case not in CASES:
        raise ValueError(f"case {case!r} is unknown; the cases are {', '.join(map(str, CASES))}")
    block = {1: np.arange(64) // 8, 2: np.r_[np.arange(32) // 4, np.arange(100, 132)], 3: np.arange(64) // 32,
             4: np.arange(64) // 16, 5: np.arange(64) // 8}[case]  # fmt: skip
    inside = {1: (0.0, 100.0), 2: (0.0, 100.0), 3: (1.0, 5.0)}.get(case, INSIDE_REGION)
    across = {1: (0.0, 3.125), 2: (0.0, 1.25), 3: (11.0, 1.12)}.get(case)
    if across is not None:
        values = np.where(block[:, None, None] == block[None, :, None], inside, across)
    else:
        places = {4: ["Virginia", "Oregon", "California", "Ohio"],
                  5: ["Oregon", "Virginia", "Ohio", "Tokyo", "Seoul", "London", "Frankfurt", "Ireland"]}[case]  # fmt: skip
        pairs = _us4_pairs() if case == 4 else city_pairs()
        table = np.array([[inside if a == b else pairs.get((a, b)) or pairs[b, a] for b in places] for a in places])
        values = table[block[:, None], block[None, :]]
    delay, bandwidth = values[..., 0].copy(), values[..., 1].copy()
    np.fill_diagonal(delay, 0)
    np.fill_diagonal(bandwidth, 0)
    return delay, bandwidth


def _us4_pairs() -> dict[tuple[str, str], tuple[float, float]]:
    table = pd.read_csv(data_dir("decentralized") / "region_pairs_us4.csv")
    return {(r.region_a, r.region_b): (r.delay_ms, r.bandwidth_gbps) for r in table.itertuples()}


def broken_cells(case: int) -> int:
    """Off-diagonal cells of a case's two matrices that differ from `described_case`."""
    delay, bandwidth = described_case(case)
    network = load_case(case)
    off = ~np.eye(64, dtype=bool)
    wrong_delay = ~np.isclose(network.delay * 1e3, delay, rtol=1e-9, atol=1e-9) & off
    wrong_rate = ~np.isclose(network.bandwidth, bandwidth, rtol=1e-9) & off
    return int(wrong_delay.sum() + wrong_rate.sum())


def summary(networks: Mapping[int, Network]) -> pd.DataFrame:
    """One row per network: devices, regions, and the delay and bandwidth inside and across regions (lowest to highest)."""
    rows = []
    for case, network in networks.items():
        labels = np.array(network.regions)
        single = np.array([r == "standalone" for r in labels])  # machines of one GPU share a label, not a machine
        same = (
            (labels[:, None] == labels[None, :])
            & ~np.eye(network.size, dtype=bool)
            & ~(single[:, None] & single[None, :])
        )
        across = ~same & ~np.eye(network.size, dtype=bool)

        def span(matrix: np.ndarray, where: np.ndarray) -> str:
            low, high = matrix[where].min(), matrix[where].max()
            return f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"

        rows.append({
            "case": case, "network": CASES.get(case, network.name), "devices": network.size,
            "blocks": len(set(labels[~single])) + int(single.sum()),
            "delay inside, ms": span(network.delay * 1e3, same), "across, ms": span(network.delay * 1e3, across),
            "bandwidth inside, Gbit/s": span(network.bandwidth, same), "across, Gbit/s": span(network.bandwidth, across),
        })  # fmt: skip
    return pd.DataFrame(rows)
