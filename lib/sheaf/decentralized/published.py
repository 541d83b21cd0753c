"""The published numbers that ship with the project, as frames, and the ratios that the paper's claims rest on.

Everything is read from ``data/decentralized``; nothing is computed by the simulator. Section numbers refer to Yuan et al.,
"Decentralized Training of Foundation Models in Heterogeneous Environments" (2022).
"""

from functools import cache

import pandas as pd

from sheaf.common.data import data_dir

__all__ = [
    "CASES", "convergence", "convergence_ends", "fluidstack", "homogeneous", "iteration_seconds", "megatron_degrees", "pflops",
    "point_to_point", "speedups", "throughput_table", "uniform_timings",
]

CASES = ("1", "2", "3", "4", "5")
_MEGATRON_PLOTTED = {"1": "Megatron-P4T2", "2": "Megatron-P8", "3": "Megatron-P8-random", "4": "Megatron-P8-random",
                     "5": "Megatron-P8-random"}


@cache
def _read(name: str) -> pd.DataFrame:
    path = data_dir("decentralized") / name
    if not path.is_file():
        raise FileNotFoundError(f"data/decentralized/{name} is missing; restore it from the repository")
    return pd.read_csv(path, dtype={"case": str})


def iteration_seconds(case: int | str | None = None) -> pd.DataFrame:
    """The 874 measured iteration times: case, setting, system, seed (empty = a single run), seconds.

    ``case`` is 1 to 5, "fluidstack2" or "fluidstack3". Raises ValueError for another.
    """
    frame = _read("measured/iteration_seconds.csv")
    if case is None:
        return frame.copy()
    found = frame[frame["case"] == str(case)]
    if found.empty:
        raise ValueError(f"case {case!r} is unknown; the cases are {', '.join(frame['case'].unique())}")
    return found.reset_index(drop=True)


def pflops() -> pd.DataFrame:
    """The 303 reported throughputs: case, setting, system, pflops (recomputation counted)."""
    return _read("measured/pflops_reported.csv").copy()


def throughput_table(case: int | str, value: str = "pflops") -> pd.DataFrame:
    """Figure 3(c) of one case as printed: a row per setting, a column per system; value "pflops" or "seconds".

    "seconds" are means over seeds, computed from the measurements. Raises ValueError for an unknown case or value.
    """
    if value == "pflops":
        frame = pflops()
        frame = frame[frame["case"] == str(case)]
        if frame.empty:
            raise ValueError(f"case {case!r} is unknown; the cases are {', '.join(pflops()['case'].unique())}")
    elif value == "seconds":
        frame = iteration_seconds(case)
    else:
        raise ValueError(f"value {value!r} is unknown; use 'pflops' or 'seconds'")
    wide = frame.pivot_table(index="setting", columns="system", values=value, aggfunc="mean", sort=False)
    return wide.rename_axis(columns=None).reset_index()


def uniform_timings() -> pd.DataFrame:
    """The 85 timings of the paper's system on one uniform network at a time.

    Columns experiment, delay_ms, bandwidth_gbps, column (layers of a stage, batch or data-parallel mode), seconds.
    """
    return _read("measured/dtfm_homogeneous_microbench.csv").copy()


def homogeneous(experiment: str) -> pd.DataFrame:
    """One experiment of `uniform_timings` as printed: a row per network, a column per layers, batch or data-parallel mode."""
    frame = uniform_timings()
    found = frame[frame["experiment"] == experiment]
    if found.empty:
        raise ValueError(f"experiment {experiment!r} is unknown; there are {', '.join(frame['experiment'].unique())}")
    wide = found.pivot_table(index=["delay_ms", "bandwidth_gbps"], columns="column", values="seconds", sort=False)
    return wide.rename_axis(columns=None).reset_index()


def megatron_degrees() -> pd.DataFrame:
    """Megatron-LM timings at batch 1024: layers, network, config (PxTxD), microbatch, seconds; one known outlier (591.65 s)."""
    return _read("measured/megatron_parallel_degrees_B1024.csv").copy()


def point_to_point() -> pd.DataFrame:
    """Milliseconds to send 64 and 128 MB under gloo and NCCL; an empty cell is an unset delay or bandwidth."""
    return _read("measured/p2p_network_bench_ms.csv").copy()


def convergence() -> pd.DataFrame:
    """Figure 4 as stored by the authors: scheduler (our, hybrid, random), case, repetition, trial, best_cost.

    Every trial up to 200, then every tenth.
    """
    return _read("convergence/convergence_may2022.csv.gz").astype({"case": int})


def convergence_ends() -> pd.DataFrame:
    """The last best cost of every stored trace, with the traffic constants behind it.

    Columns case, scheduler, repetition, cost, c_pp_gb, c_dp_gb.
    """
    return _read("published/F4_end_values.csv").merge(_read("published/F4_constants.csv"), on="case").astype({"case": int})


def fluidstack(regions: int = 2) -> pd.DataFrame:
    """The FluidStack throughputs (PFLOPS), a row per setting, a column per system; two regions (table T9) or three."""
    if regions not in (2, 3):
        raise ValueError(f"regions = {regions}; FluidStack was measured with 2 and 3")
    return throughput_table(f"fluidstack{regions}")


def speedups(claim: str) -> pd.DataFrame:
    """The ratios behind one claim, per setting and seed.

    Claims:
        C4: scheduled over Megatron in case 5, L40 B4096, with the random rank maps (published as 4.8) and with Megatron
            placed by hand (2.72). C4c: the same over all nine settings.
        C5: cost of the slow network: case 1 over case 5, against "Megatron (best)" in case 1 as published (1.7 to 3.5),
            and against the paper's own system in case 1.
        C6: scheduled over random rank map, cases 1 to 5. C7: over Megatron as plotted (hand-tuned in cases 1 and 2, random
            map in 3 to 5) and, in cases 3 to 5, placed by hand.
        C8: over DeepSpeed, both kinds. C9: FluidStack, two regions, over Megatron and over both random variants.

    Returns:
        claim, case, setting, reading (what is divided), seed, ratio, reported_ratio. Equal seeds are paired; a run without a
        seed is paired with all three seeds of the other. `reported_ratio` divides the published PFLOPS and is empty where a
        system has none.

    Raises:
        ValueError: the claim has no ratios here.
    """
    rows: list[pd.DataFrame] = []
    if claim in ("C4", "C4c"):
        rows += [_ratio("5", "DTFM-scheduled", "5", system, reading) for system, reading in (
            ("Megatron-P8-random", "Megatron, random map"), ("Megatron-P8-placed", "Megatron, placed by hand"))]
    elif claim == "C5":
        rows.append(_ratio("1", "Megatron-P4T2", "5", "DTFM-scheduled", "Megatron (best) in case 1", "Megatron-best"))
        rows.append(_ratio("1", "DTFM-scheduled", "5", "DTFM-scheduled", "own system in case 1"))
    elif claim == "C6":
        rows += [_ratio(c, "DTFM-scheduled", c, "DTFM-random", "random map") for c in CASES]
    elif claim == "C7":
        reported = {"1": "Megatron-best", "2": "Megatron-P8-best"}
        rows += [_ratio(c, "DTFM-scheduled", c, system, "Megatron, as plotted", None, reported.get(c))
                 for c, system in _MEGATRON_PLOTTED.items()]
        rows += [_ratio(c, "DTFM-scheduled", c, "Megatron-P8-placed", "Megatron, placed by hand") for c in CASES[2:]]
    elif claim == "C8":
        rows += [_ratio(c, "DTFM-scheduled", c, system, system) for c in CASES for system in ("DeepSpeed-PP", "DeepSpeed-ZeRO3")]
    elif claim == "C9":
        case = "fluidstack2"
        rows += [_ratio(case, "DTFM-scheduled", case, system, reading, None, reported) for system, reading, reported in (
            ("Megatron-P8-random", "Megatron, random map", None),
            ("DTFM-random-fair", "random, nodes shuffled", "DTFM-random"),
            ("DTFM-random-complete", "random, GPUs shuffled", None))]
    else:
        raise ValueError(f"claim {claim!r} has no ratios here; use C4, C4c, C5, C6, C7, C8 or C9")
    found = pd.concat(rows, ignore_index=True)
    if claim == "C4":
        found = found[found["setting"] == "L40 B4096"].reset_index(drop=True)
    found.insert(0, "claim", claim)
    return found


def _ratio(
    fast_case: str, fast: str, slow_case: str, slow: str, reading: str, reported_fast: str | None = None,
    reported_slow: str | None = None,
) -> pd.DataFrame:
    """Seconds of ``slow`` over seconds of ``fast``, per setting and seed, with the ratio of reported PFLOPS beside it."""
    times = iteration_seconds()
    left = times[(times["case"] == slow_case) & (times["system"] == slow)][["setting", "seed", "seconds"]]
    right = times[(times["case"] == fast_case) & (times["system"] == fast)][["setting", "seed", "seconds"]]
    keys = ["setting", "seed"] if left["seed"].notna().all() and right["seed"].notna().all() else ["setting"]
    pairs = left.merge(right, on=keys, suffixes=("_slow", "_fast"))
    seed = pairs["seed"] if "seed" in pairs else pairs["seed_fast"].fillna(pairs["seed_slow"])
    found = pd.DataFrame({
        "case": slow_case, "setting": pairs["setting"], "reading": reading, "seed": seed.astype("Int64"),
        "ratio": pairs["seconds_slow"] / pairs["seconds_fast"],
    })
    upper, lower = _reported(fast_case, reported_fast or fast), _reported(slow_case, reported_slow or slow)
    found["reported_ratio"] = found["setting"].map(upper) / found["setting"].map(lower)
    return found


def _reported(case: str, system: str) -> dict[str, float]:
    table = pflops()
    table = table[(table["case"] == case) & (table["system"] == system)]
    return dict(zip(table["setting"], table["pflops"], strict=True))
