"""How long the placement search takes, compiled and in plain Python on one core each, and how it grows with the network.

Weights are random and symmetric, as spread out as those of the paper's world-wide case: 8 regions, links inside fast.
"""

import statistics
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sheaf_kernels.bench import benchmark, one_core, table

from . import search

__all__ = ["compare", "growth", "weights"]

GROUPS = 8
POPULATION = 100


def weights(devices: int, seed: int = 0, regions: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    """pp, dp, cut [N, N] in seconds: devices in regions, links between two regions alike, those inside one much faster."""
    random = torch.Generator().manual_seed(seed)
    where = torch.arange(devices) * regions // devices
    delay = torch.rand(regions, regions, generator=random, dtype=torch.float64).mul(0.2).add(0.03)
    rate = torch.rand(regions, regions, generator=random, dtype=torch.float64).mul(0.8).add(0.3)  # Gbit/s
    delay.fill_diagonal_(0.005), rate.fill_diagonal_(2.0)
    delay, rate = torch.maximum(delay, delay.T)[where][:, where], torch.minimum(rate, rate.T)[where][:, where]
    pp, plain = delay + 0.47 * 8 / rate, delay + 0.65 * 8 / rate  # GB of activations, of gradients
    dp = 2 * (delay + 0.65 * 8 / (devices // GROUPS * rate))
    found = pp, dp, pp - plain
    for matrix in found:
        matrix.fill_diagonal_(0)
    return found


def _seconds(function: Callable[[], object]) -> float:
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def compare(
    evaluations: int = 5000, reference_evaluations: int = 600, rounds: int = 3, seed: int = 0, devices: int = 64,
    groups: int = GROUPS,
) -> list[dict[str, float]]:
    """Seconds of a whole search, compiled and in plain Python, taken in turn on one core each.

    The reference is not run to the end. The first 100 evaluations only cost random partitions, the others also run a local
    search and take longer, so both are timed and each is scaled by its own number: 100 random partitions as they are, plus
    the seconds of a trial times ``evaluations - 100``. The compiled search runs whole. Trials of plain Python get a little
    dearer later in a search, so the scaled seconds are on the low side (a whole run took 16.7 s where they said 14.9 s).

    Args:
        evaluations: of the search that is compared.
        reference_evaluations: how many the reference runs; more than 100, of which 100 are the random start. With fewer
            ``evaluations`` than that the reference runs them all.
        rounds: pairs of timings.

    Returns:
        One dict per round: compiled_s, reference_s (scaled), reference_measured_s (spent), start_s and trial_s (of one
        evaluation in the reference), ratio.

    Raises:
        ValueError: reference_evaluations or rounds too small.
        RuntimeError: the kernel is not built, or the results of the two differ.
    """
    population = min(POPULATION, evaluations)
    run = min(reference_evaluations, evaluations)
    if rounds < 1 or evaluations < 1 or (run <= population < evaluations):
        raise ValueError(
            f"needs at least 1 round and evaluation, and more reference evaluations than the {population} of the random start; "
            f"got rounds={rounds}, evaluations={evaluations}, reference_evaluations={reference_evaluations}"
        )
    matrices = weights(devices, seed)

    def arm(count: int, backend: str) -> tuple[Tensor, Tensor]:
        return search(*matrices, [seed], groups, count, population, "paper", backend=backend)

    samples = []
    with one_core():
        compiled, plain = arm(run, "cpu"), arm(run, "reference")
        if not all(torch.equal(a, b) for a, b in zip(compiled, plain, strict=True)):
            raise RuntimeError("the compiled search and its reference give different results; nothing was timed")
        for _ in range(rounds):
            # the start alone and the start with some trials: their difference is the time of the trials
            fast = _seconds(lambda: arm(evaluations, "cpu"))
            start = _seconds(lambda: arm(population, "reference"))
            both = _seconds(lambda: arm(run, "reference")) if run > population else start
            trial = (both - start) / (run - population) if run > population else 0.0
            whole = start + trial * (evaluations - population)
            samples.append({
                "compiled_s": fast, "reference_s": whole, "reference_measured_s": start + both, "start_s": start / population,
                "trial_s": trial, "ratio": whole / fast,
            })  # fmt: skip
    return samples


def growth(
    devices: Sequence[int] = (64, 128, 256, 512), evaluations: int = 1000, population: int = POPULATION, rounds: int = 3,
    seed: int = 0,
) -> list[dict[str, float]]:
    """Milliseconds per evaluation of the compiled search, 8 groups, one core: devices, start_ms, trial_ms (medians)."""
    rows = []
    with one_core():
        for n in devices:
            matrices = weights(n, seed)

            def run(count: int, matrices: tuple[Tensor, Tensor, Tensor] = matrices) -> float:
                return _seconds(lambda: search(*matrices, [seed], GROUPS, count, population, "paper", backend="cpu"))

            run(evaluations)  # caches and clock settle
            pairs = [(run(population), run(evaluations)) for _ in range(rounds)]
            start = statistics.median(a for a, _ in pairs) / population
            trial = statistics.median(b - a for a, b in pairs) / (evaluations - population)
            rows.append({"devices": n, "start_ms": 1e3 * start, "trial_ms": 1e3 * trial})
    return rows


def _spread(values: Sequence[float], form: str = ".3g") -> str:
    return f"{statistics.median(values):{form}} [{min(values):{form}}, {max(values):{form}}]"


@benchmark("placement/search")
def search_benchmark(evaluations: int = 5000, reference_evaluations: int = 600, rounds: int = 5) -> str:
    """A whole search, compiled against plain Python."""
    samples = compare(evaluations, reference_evaluations, rounds)
    column = {key: [s[key] for s in samples] for key in samples[0]}
    rows = [
        (name, _spread(column[key]), f"{evaluations / statistics.median(column[key]):,.0f}")
        for name, key in (("compiled", "compiled_s"), ("plain Python", "reference_s"))
    ]
    run = min(reference_evaluations, evaluations)
    start, trial = (1e3 * statistics.median(column[key]) for key in ("start_s", "trial_s"))
    return "\n".join([
        f"{evaluations:,} evaluations, 64 devices in 8 groups of 8, rule 'paper', one core each",
        f"median [least, most] of {rounds} rounds, both sides in turn; results of {run} evaluations were equal before timing",
        table(("search", "seconds", "evaluations/s"), rows),
        f"plain Python / compiled: {_spread(column['ratio'])}",
        f"The seconds of plain Python are scaled from {run} evaluations per round: {start:.3g} ms for each of the random",
        f"partitions at the start and {trial:.3g} ms for each trial with its local search.",
    ])  # fmt: skip


@benchmark("placement/growth")
def growth_benchmark(devices: Sequence[int] = (64, 128, 256, 512), evaluations: int = 1000, rounds: int = 3) -> str:
    """Time per evaluation of the compiled search as the network grows."""
    rows = growth(devices, evaluations, min(POPULATION, evaluations // 2), rounds)
    lines = [
        (r["devices"], f"{r['start_ms']:.3g}", f"{r['trial_ms']:.3g}", f"{r['trial_ms'] / rows[0]['trial_ms']:.3g}") for r in rows
    ]
    return "compiled, 8 groups, one core, medians\n" + table(("devices", "ms per random start", "ms per trial", "growth"), lines)
