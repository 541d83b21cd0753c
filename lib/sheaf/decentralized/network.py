"""Networks of devices: pairwise delay and bandwidth, the five published cases, and networks drawn from the city table.

Section numbers refer to Yuan et al., "Decentralized Training of Foundation Models in Heterogeneous Environments" (2022).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from sheaf.common.data import data_dir

__all__ = [
    "CASES", "Network", "city_pairs", "fluidstack_three_region", "fluidstack_two_region", "load_case", "random_cities",
    "rank_maps",
]

CASES = {
    1: "data centre, on demand", 2: "data centre, spot", 3: "multi data centre", 4: "regional", 5: "world-wide",
}
_STEMS = {
    1: "case1_datacenter_on_demand", 2: "case2_datacenter_spot", 3: "case3_multi_datacenter", 4: "case4_regional",
    5: "case5_worldwide",
}
INSIDE_REGION = (5.0, 2.0)  # ms, Gbit/s between two machines of one region in cases 4 and 5, as the scheduler saw them


@dataclass(frozen=True, eq=False)
class Network:
    """N devices and the links between them; row = sender, column = receiver.

    Attributes:
        name: shown in tables.
        delay: [N, N] one-way delay in seconds. The diagonal is not used.
        bandwidth: [N, N] in Gbit/s. The diagonal is not used; infinity means a free link.
        regions: the label of each device.
        speed: [N] compute speed relative to the reference device (1).
        memory: [N] device memory in GB (infinite when unknown).

    Raises:
        ValueError: matrices that are not square, do not agree in shape, or hold NaN, negative or infinite delay, zero
            bandwidth, or a device without any link. The sentence names the row and column and says what to change.
    """

    name: str
    delay: np.ndarray
    bandwidth: np.ndarray
    regions: tuple[str, ...] = ()
    speed: np.ndarray = field(default_factory=lambda: np.empty(0))
    memory: np.ndarray = field(default_factory=lambda: np.empty(0))

    def __post_init__(self) -> None:
        delay, bandwidth = np.array(self.delay, dtype=np.float64), np.array(self.bandwidth, dtype=np.float64)
        _check_links(delay, bandwidth)
        n = len(delay)
        regions = tuple(str(r) for r in self.regions) or tuple(["all"] * n)
        if len(regions) != n:
            raise ValueError(f"{len(regions)} region labels for {n} devices; give one label per device")
        speed = _per_device(self.speed, n, 1.0, "speed")
        memory = _per_device(self.memory, n, np.inf, "memory")
        if not np.isfinite(speed).all():
            raise ValueError("speed must be finite: it is relative to the reference device, which has speed 1")
        for array in (delay, bandwidth, speed, memory):
            array.flags.writeable = False
        for key, value in (("delay", delay), ("bandwidth", bandwidth), ("regions", regions), ("speed", speed),
                           ("memory", memory)):
            object.__setattr__(self, key, value)

    @property
    def size(self) -> int:
        """Number of devices."""
        return len(self.delay)

    @property
    def is_symmetric(self) -> bool:
        """Whether every link is the same in both directions."""
        return bool(np.array_equal(self.delay, self.delay.T) and np.array_equal(self.bandwidth, self.bandwidth.T))

    @classmethod
    def from_matrices(
        cls, delay_ms: ArrayLike, bandwidth_gbps: ArrayLike, regions: Iterable[str] | None = None, name: str = "",
        speed: ArrayLike | None = None, memory_gb: ArrayLike | None = None,
    ) -> "Network":
        """From [N, N] delay in milliseconds and bandwidth in Gbit/s; raises ValueError as the class does."""
        return cls(
            name, np.asarray(delay_ms, dtype=np.float64) / 1e3, np.asarray(bandwidth_gbps, dtype=np.float64),
            tuple(regions) if regions is not None else (),
            np.empty(0) if speed is None else np.asarray(speed, dtype=np.float64),
            np.empty(0) if memory_gb is None else np.asarray(memory_gb, dtype=np.float64),
        )

    @classmethod
    def from_csv(
        cls, delay_csv: str | Path, bandwidth_csv: str | Path, regions_csv: str | Path | None = None, name: str = "",
    ) -> "Network":
        """From two header-less N x N CSV files (milliseconds, Gbit/s) and, if given, a ``device,region`` file.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: a cell is no number, rows have unequal length, or the matrices make no network.
        """
        regions = _read_regions(regions_csv) if regions_csv is not None else None
        delay, bandwidth = _read_matrix(delay_csv), _read_matrix(bandwidth_csv)
        return cls.from_matrices(delay, bandwidth, regions, name or Path(delay_csv).stem)

    @classmethod
    def from_regions(
        cls, counts: Mapping[str, int], pairs: Mapping[tuple[str, str], tuple[float, float]],
        inside: tuple[float, float] | Mapping[str, tuple[float, float]] = INSIDE_REGION, name: str = "",
    ) -> "Network":
        """``counts`` devices in each region, in that order.

        Args:
            counts: devices per region.
            pairs: (from, to) -> (delay ms, Gbit/s); a pair given in one direction only holds for both.
            inside: (ms, Gbit/s) between two devices of one region, the same for all or one per region.

        Raises:
            ValueError: a pair of regions or an inside value is missing, or a count is not positive.
        """
        names = list(counts)
        if bad := [r for r in names if counts[r] < 1]:
            raise ValueError(f"region {bad[0]!r} has {counts[bad[0]]} devices; give at least 1 or leave the region out")
        links = np.empty((len(names), len(names), 2))
        for i, a in enumerate(names):
            for j, b in enumerate(names):
                if i == j:
                    found = inside.get(a) if isinstance(inside, Mapping) else inside
                else:
                    found = pairs.get((a, b), pairs.get((b, a)))
                if found is None:
                    raise ValueError(f"no delay and bandwidth between {a!r} and {b!r}; add the pair ({a!r}, {b!r})")
                links[i, j] = found
        index = np.repeat(np.arange(len(names)), [counts[r] for r in names])
        matrix = links[index][:, index]
        return cls.from_matrices(matrix[..., 0], matrix[..., 1], [names[i] for i in index], name)

    def symmetric(self, how: str = "mean") -> "Network":
        """Both directions of a link made equal: their "mean", or the "worst" (larger delay, smaller bandwidth)."""
        if how == "mean":
            delay, bandwidth = (self.delay + self.delay.T) / 2, (self.bandwidth + self.bandwidth.T) / 2
        elif how == "worst":
            delay, bandwidth = np.maximum(self.delay, self.delay.T), np.minimum(self.bandwidth, self.bandwidth.T)
        else:
            raise ValueError(f"how = {how!r} is unknown; use 'mean' or 'worst'")
        return replace(self, delay=delay, bandwidth=bandwidth)

    def select(self, devices: Iterable[int]) -> "Network":
        """The network of these devices, in this order; raises ValueError for an unknown or repeated device."""
        keep = list(devices)
        if bad := [d for d in keep if not 0 <= d < self.size]:
            raise ValueError(f"device {bad[0]} does not exist; this network has devices 0 to {self.size - 1}")
        if len(set(keep)) != len(keep):
            raise ValueError("a device was named twice; name each device once")
        at = np.asarray(keep, dtype=int)
        return Network(
            self.name, self.delay[np.ix_(at, at)], self.bandwidth[np.ix_(at, at)],
            tuple(self.regions[d] for d in keep), self.speed[at], self.memory[at],
        )

    def without(self, devices: Iterable[int]) -> "Network":
        """The network after these devices left; the others keep their order and move up."""
        gone = set(devices)
        if bad := [d for d in gone if not 0 <= d < self.size]:
            raise ValueError(f"device {bad[0]} does not exist; this network has devices 0 to {self.size - 1}")
        return self.select(d for d in range(self.size) if d not in gone)


def _check_links(delay: np.ndarray, bandwidth: np.ndarray) -> None:
    for name, matrix in (("delay", delay), ("bandwidth", bandwidth)):
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
            raise ValueError(f"the {name} matrix must be square, one row and column per device; got shape {matrix.shape}")
    if delay.shape != bandwidth.shape:
        raise ValueError(f"delay is {delay.shape} but bandwidth is {bandwidth.shape}; give both for the same devices")
    if len(delay) < 2:
        raise ValueError(f"a network needs at least 2 devices; got {len(delay)}")
    off = ~np.eye(len(delay), dtype=bool)
    for name, matrix in (("delay", delay), ("bandwidth", bandwidth)):
        _refuse(np.isnan(matrix) & off, f"{name}[{{}}, {{}}] is not a number; fill in a measured value")
        _refuse((matrix < 0) & off, f"{name}[{{}}, {{}}] is negative; give a value of at least 0")
    dead = ~np.isfinite(delay) | (bandwidth == 0)
    alone = (dead | ~off).all(axis=1) | (dead | ~off).all(axis=0)
    if alone.any():
        device = int(np.flatnonzero(alone)[0])
        raise ValueError(f"device {device} is disconnected (row or column {device} has no usable link); leave it out")
    _refuse((bandwidth == 0) & off, "bandwidth[{}, {}] is zero; give the bandwidth of the path that traffic would take")
    _refuse(~np.isfinite(delay) & off, "delay[{}, {}] is infinite; give the delay of the path that traffic would take")


def _refuse(bad: np.ndarray, sentence: str) -> None:
    if bad.any():
        raise ValueError(sentence.format(*(int(i) for i in np.argwhere(bad)[0])))


def _per_device(values: ArrayLike, n: int, default: float, what: str) -> np.ndarray:
    array = np.array(values, dtype=np.float64).ravel()
    if array.size == 0:
        return np.full(n, default)
    if array.size != n:
        raise ValueError(f"{array.size} values of {what} for {n} devices; give one per device")
    if bad := [i for i in range(n) if not array[i] > 0]:
        raise ValueError(f"{what}[{bad[0]}] is {array[bad[0]]}; it must be positive")
    return array


def _existing(path: str | Path) -> Path:
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; give a CSV file")
    return path


def _read_matrix(path: str | Path) -> np.ndarray:
    path = _existing(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{path.name} is not text; give a CSV file of numbers") from None
    rows = [line.split(",") for line in text.splitlines() if line.strip()]
    if not rows:
        raise ValueError(f"{path.name} is empty; give one line of numbers per device")
    for i, row in enumerate(rows):
        if len(row) != len(rows[0]):
            raise ValueError(f"{path.name} row {i} has {len(row)} cells, row 0 has {len(rows[0])}; the matrix must be square")
        for j, cell in enumerate(row):
            try:
                float(cell)
            except ValueError:
                where = f"{path.name} row {i}, column {j}"
                raise ValueError(f"{where}: {cell.strip()!r} is not a number; the file has no header") from None
    return np.array([[float(cell) for cell in row] for row in rows])


def _read_regions(path: str | Path) -> list[str]:
    path = _existing(path)
    try:
        table = pd.read_csv(path)
    except ValueError as error:  # no text, no columns, rows of unequal length
        raise ValueError(f"the regions file {path.name} is not a CSV file with the columns device,region ({error})") from None
    if list(table.columns) != ["device", "region"]:
        raise ValueError(f"{path.name} needs the columns device,region; it has {','.join(table.columns)}")
    if not pd.api.types.is_numeric_dtype(table["device"]):
        raise ValueError(f"{path.name}: the regions' column device holds something that is no number; give 0, 1, ...")
    return table.sort_values("device")["region"].astype(str).tolist()


def load_case(case: int, variant: str = "scheduler") -> Network:
    """One of the paper's five networks of 64 devices.

    Args:
        case: 1 to 5, see ``CASES``.
        variant: "scheduler" (what the search saw) or "tc" (what was set on the machines: 10 ms instead of 5 ms inside a
            region in cases 4 and 5; the same matrices otherwise).
    """
    if case not in CASES:
        raise ValueError(f"case {case!r} is unknown; the cases are {', '.join(f'{k} ({v})' for k, v in CASES.items())}")
    if variant not in ("scheduler", "tc"):
        raise ValueError(f"variant {variant!r} is unknown; use 'scheduler' or 'tc'")
    folder, stem = data_dir("decentralized") / "matrices", _STEMS[case]
    suffix = "_tc" if variant == "tc" and case in (4, 5) else ""
    return Network.from_csv(
        folder / f"{stem}_delay_ms{suffix}.csv", folder / f"{stem}_bandwidth_gbps.csv", folder / f"{stem}_regions.csv",
        f"case {case}: {CASES[case]}",
    )


@cache
def city_pairs() -> dict[tuple[str, str], tuple[float, float]]:
    """The measured table of 10 cities, 45 pairs: (a, b) -> (one-way delay ms, Gbit/s)."""
    table = pd.read_csv(_existing(data_dir("decentralized") / "region_pairs.csv"))
    return {(r.region_a, r.region_b): (float(r.delay_ms), float(r.bandwidth_gbps)) for r in table.itertuples()}


def random_cities(n_devices: int, n_regions: int, seed: int) -> Network:
    """``n_devices`` devices, each in one of ``n_regions`` cities drawn from the city table; no city stays empty.

    Inside a city 5 ms and 2 Gbit/s, as in case 5. Raises ValueError when the counts cannot be met.
    """
    pairs = city_pairs()
    cities = list(dict.fromkeys(name for pair in pairs for name in pair))
    if not 1 <= n_regions <= min(len(cities), n_devices):
        raise ValueError(f"n_regions = {n_regions} is not in 1..{min(len(cities), n_devices)} (10 cities, {n_devices} devices)")
    rng = np.random.default_rng(seed)
    chosen = [cities[i] for i in rng.choice(len(cities), n_regions, replace=False)]
    counts = np.ones(n_regions, dtype=int) + rng.multinomial(n_devices - n_regions, np.full(n_regions, 1 / n_regions))
    return Network.from_regions(
        {c: int(k) for c, k in zip(chosen, counts, strict=True)}, pairs, name=f"{n_devices} devices in {n_regions} cities",
    )


def fluidstack_two_region(per_region: int = 16) -> Network:
    """The FluidStack cloud, US East and Middle; 32 GPUs (4 pipelines of 8 stages) by default, both directions measured."""
    return _fluidstack("two", per_region)


def fluidstack_three_region(per_region: int = 16) -> Network:
    """The FluidStack cloud, US East, Middle and West: strongly asymmetric; 48 GPUs by default."""
    return _fluidstack("three", per_region)


def _fluidstack(which: str, per_region: int) -> Network:
    table = pd.read_csv(_existing(data_dir("decentralized") / f"fluidstack_{which}_region.csv"))
    links = {(r.region_from, r.region_to): (float(r.delay_ms), float(r.bandwidth_gbps)) for r in table.itertuples()}
    inside = {a: link for (a, b), link in links.items() if a == b}
    regions = list(dict.fromkeys(table["region_from"]))
    if missing := [r for r in regions if r not in inside]:
        # the three-region log gives no inside values; those of the two-region log are the same provider's machines
        known = list(inside.values()) or list(_inside_two_region().values())
        typical = (float(np.mean([k[0] for k in known])), float(np.mean([k[1] for k in known])))
        inside |= dict.fromkeys(missing, typical)
    return Network.from_regions(dict.fromkeys(regions, per_region), links, inside, f"FluidStack, {which} regions")


def _inside_two_region() -> dict[str, tuple[float, float]]:
    table = pd.read_csv(_existing(data_dir("decentralized") / "fluidstack_two_region.csv"))
    same = table[table["region_from"] == table["region_to"]]
    return {r.region_from: (float(r.delay_ms), float(r.bandwidth_gbps)) for r in same.itertuples()}


def rank_maps() -> dict[int, np.ndarray]:
    """The three random maps used without the scheduler: seed -> [64] rank of each device (rank = pipeline * 8 + stage)."""
    table = pd.read_csv(_existing(data_dir("decentralized") / "measured" / "rank_maps.csv"))
    return {
        int(seed): group.sort_values("device")["rank"].to_numpy(dtype=np.int64) for seed, group in table.groupby("seed")
    }
