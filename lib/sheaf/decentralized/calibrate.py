"""Fitting the simulators' constants, on uniform-network timings and nothing else.

`fit` reads the 85 timings of the paper's system on one uniform network at a time, `fit_ring` Megatron's timings on uniform
networks. Neither reads a timing of the five cases or of FluidStack: those are what the simulators are judged on, and a
test watches that the files with them stay closed here.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
import pandas as pd
from scipy.optimize import least_squares

from sheaf.decentralized.baselines import RingParameters, one_forward_one_backward
from sheaf.decentralized.published import megatron_degrees, uniform_timings
from sheaf.decentralized.simulate import Parameters, sweep
from sheaf.decentralized.workload import Workload

__all__ = [
    "FITTED", "OUTLIER", "Fit", "bootstrap", "fit", "fit_ring", "leave_one_out", "megatron_uniform", "predict_ring",
    "predict_uniform",
]

# Parameters.barrier is not among them and stays 1: its form has no free factor
FITTED = ("launch", "layer", "update", "goodput", "occupancy", "contention")
FITTED_RING = ("launch", "layer", "latency", "goodput")
OUTLIER = 591.65  # seconds, Megatron P2T4 at 40 layers: a typing slip, left out of the fit
_STAGES = 8
_UNIFORM = {"64xp3.2xlarge": (0.1, 10.0), "10ms_1Gbps": (10.0, 1.0), "50ms_1Gbps": (50.0, 1.0)}  # ms, Gbit/s


@dataclass(frozen=True, eq=False)
class Fit:
    """Fitted constants of the paper's system and how well they hold.

    Attributes:
        parameters: for `sheaf.decentralized.simulate.Simulator`.
        timings: the rows fitted on, with ``predicted`` seconds and ``error`` (relative).
        rms: root mean square of log(predicted / measured) over those rows.
    """

    parameters: Parameters
    timings: pd.DataFrame
    rms: float


@dataclass(frozen=True)
class _Row:
    work: Workload
    mode: str


@cache
def _job(experiment: str, column: str) -> _Row:
    """The workload and data-parallel mode behind one cell of the uniform timings."""
    match experiment:
        case "homogeneous64_B1024_layers_per_stage":
            return _Row(Workload(layers=_STAGES * int(column)), "central")
        case "single_pipeline_b64_layers":
            return _Row(Workload(layers=_STAGES * int(column), batch=64, pipelines=1), "none")
        case "single_pipeline_L3_batch":
            return _Row(Workload(batch=int(column), pipelines=1, accumulation=int(column)), "none")
        case "dp_mode_b96_L3" if column == "single":
            return _Row(Workload(batch=96, pipelines=1, accumulation=96), "none")
        case "dp_mode_b96_L3":
            mode, replicas = column.split("_dp")
            return _Row(Workload(batch=96 * int(replicas), pipelines=int(replicas), accumulation=96), mode)
    raise ValueError(f"experiment {experiment!r} is unknown; see sheaf.decentralized.published.uniform_timings")


def predict_uniform(parameters: Parameters, timings: pd.DataFrame) -> np.ndarray:
    """[rows] seconds on uniform networks: the numbers of `Simulator.iteration`, for many rows at once.

    Args:
        timings: columns experiment, column, delay_ms, bandwidth_gbps, as `uniform_timings` returns them.
    """
    jobs = [_job(e, str(c)) for e, c in zip(timings["experiment"], timings["column"], strict=True)]
    delay = timings["delay_ms"].to_numpy(dtype=float) / 1e3
    wire = parameters.goodput * timings["bandwidth_gbps"].to_numpy(dtype=float) * 1e9
    transfer = np.array([j.work.activation_bits for j in jobs]) / wire
    compute = np.array([parameters.compute(j.work) for j in jobs])
    count = np.array([j.work.per_step for j in jobs])
    shape = np.column_stack([compute, transfer, delay, count])
    unique, where = np.unique(shape, axis=0, return_inverse=True)
    once = np.zeros(len(unique))
    for m in np.unique(unique[:, 4]):
        rows = np.flatnonzero(unique[:, 4] == m)
        hops = np.ones((rows.size, _STAGES - 1))
        for direction in (0, 1):
            stage = np.repeat(unique[rows, direction, None], _STAGES, axis=1)
            busy = parameters.occupancy * unique[rows, 2, None]
            stage[:, :-1] += busy
            stage[:, 1:] += busy
            _, end = sweep(stage, unique[rows, 2, None] * hops, unique[rows, 3, None] * hops, int(m))
            once[rows] += end.max(axis=(1, 2))
    steps = np.array([j.work.steps for j in jobs])
    rounds = np.array([int(np.ceil(np.log2(j.work.pipelines * _STAGES))) for j in jobs])
    seconds = steps * once[where.ravel()] + parameters.barrier * (2 * steps + 1) * rounds * delay
    replicas = np.array([j.work.pipelines for j in jobs])
    gradient = np.array([8 * j.work.gradient_bytes.max() for j in jobs]) / wire
    central = 2 * (gradient + (replicas - 1) * delay)
    sharded = 2 * (replicas - 1) * (delay + parameters.contention * gradient / replicas)
    mode = np.array([j.mode for j in jobs])
    seconds += np.where(mode == "central", central, np.where(mode == "sharded", sharded, 0.0))
    return seconds + parameters.update * np.array([j.work.stage_parameters.max() for j in jobs]) / 1e9


def _calibration_rows(timings: pd.DataFrame | None) -> pd.DataFrame:
    frame = uniform_timings() if timings is None else timings
    # the batch-64 column repeats the three-layer column of another experiment, number for number
    again = (frame["experiment"] == "single_pipeline_L3_batch") & (frame["column"].astype(str) == "64")
    return frame[~again].reset_index(drop=True)


def _solve(rows: pd.DataFrame, start: Parameters) -> Parameters:
    measured = np.log(rows["seconds"].to_numpy(dtype=float))
    guess = np.array([getattr(start, name) for name in FITTED])

    def residual(values: np.ndarray) -> np.ndarray:
        found = Parameters(**dict(zip(FITTED, map(float, values), strict=True)))
        return np.log(predict_uniform(found, rows)) - measured

    above = [1.0 if name in ("goodput", "occupancy") else 10.0 for name in FITTED]
    solved = least_squares(residual, guess, x_scale=guess, bounds=(1e-9, above), ftol=1e-12, xtol=1e-12)
    return Parameters(**dict(zip(FITTED, map(float, solved.x), strict=True)))


def fit(timings: pd.DataFrame | None = None) -> Fit:
    """Least squares on the log of the uniform timings, six constants.

    Args:
        timings: rows like those of `uniform_timings`; None = all of them (80 distinct cells of 85).

    Raises:
        ValueError: fewer rows than constants, or an experiment that is not known.
    """
    rows = _calibration_rows(timings)
    if len(rows) < len(FITTED):
        raise ValueError(f"{len(rows)} timings cannot fix {len(FITTED)} constants; give more rows")
    found = _solve(rows, Parameters(occupancy=0.1, contention=1.3))
    predicted = predict_uniform(found, rows)
    rows = rows.assign(predicted=predicted, error=predicted / rows["seconds"] - 1)
    return Fit(found, rows, float(np.sqrt(np.mean(np.log(rows["predicted"] / rows["seconds"]) ** 2))))


def bootstrap(resamples: int = 100, seed: int = 0) -> pd.DataFrame:
    """95% percentile intervals of the constants, rows resampled with replacement.

    Returns:
        parameter, estimate, low, high; ``barrier`` is fixed and not listed.
    """
    if resamples < 2:
        raise ValueError(f"resamples = {resamples}; give at least 2")
    rows, rng, best = _calibration_rows(None), np.random.default_rng(seed), fit().parameters
    drawn = []
    for _ in range(resamples):
        found = _solve(rows.iloc[rng.integers(len(rows), size=len(rows))].reset_index(drop=True), best)
        drawn.append([getattr(found, name) for name in FITTED])
    low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
    return pd.DataFrame({"parameter": FITTED, "estimate": [getattr(best, n) for n in FITTED], "low": low, "high": high})


def leave_one_out(by: str = "network") -> pd.DataFrame:
    """Each group predicted by a fit on the others: one row per group with the number of cells and rms log error.

    Args:
        by: "network" (delay and bandwidth) or "experiment".
    """
    rows = _calibration_rows(None)
    if by == "network":
        key = rows["delay_ms"].astype(str) + " ms, " + rows["bandwidth_gbps"].astype(str) + " Gbit/s"
    elif by == "experiment":
        key = rows["experiment"]
    else:
        raise ValueError(f"by = {by!r} is unknown; use 'network' or 'experiment'")
    best, found = fit().parameters, []
    for name in key.unique():
        held = rows[key == name].reset_index(drop=True)
        others = _solve(rows[key != name].reset_index(drop=True), best)
        error = np.log(predict_uniform(others, held) / held["seconds"].to_numpy())
        rms = float(np.sqrt(np.mean(error**2)))
        found.append({"left_out": name, "cells": len(held), "rms": rms, "bias": float(error.mean())})
    return pd.DataFrame(found)


def megatron_uniform() -> pd.DataFrame:
    """Megatron's timings on uniform networks with delay_ms, bandwidth_gbps and the degrees P, T, D; the outlier is marked."""
    frame = megatron_degrees()
    frame = frame[frame["network"].isin(_UNIFORM)].reset_index(drop=True)
    degrees = frame["config"].str.extract(r"P(?P<P>\d+)T(?P<T>\d+)D(?P<D>\d+)").astype(int)
    delay, rate = zip(*frame["network"].map(_UNIFORM), strict=True)
    return frame.assign(delay_ms=delay, bandwidth_gbps=rate, **degrees, outlier=frame["seconds"] == OUTLIER)


def predict_ring(parameters: RingParameters, timings: pd.DataFrame) -> np.ndarray:
    """[rows] seconds of Megatron P x T x D at batch 1024 on uniform networks, by the same recurrence as `RingSimulator`."""
    seconds = np.empty(len(timings))
    rows = timings.reset_index(drop=True)
    for stages in sorted({int(p) for p in rows["P"]}):
        at = np.flatnonzero(rows["P"].to_numpy() == stages)
        part = rows.iloc[at]
        count = 1024 // int(part["D"].iloc[0])
        tensor, layers = part["T"].to_numpy(dtype=float), part["layers"].to_numpy(dtype=float) / stages
        delay, wire = part["delay_ms"].to_numpy() / 1e3, parameters.goodput * part["bandwidth_gbps"].to_numpy() * 1e9
        bits = Workload().activation_bits
        reduce = 2 * (tensor - 1) / tensor * bits / wire + 2 * (tensor - 1) * delay
        each = parameters.layer * layers / tensor / 4
        forward = parameters.launch / 2 + each + 2 * layers * reduce
        backward = parameters.launch / 2 + 3 * each + 4 * layers * reduce
        hops = np.repeat((bits / wire + parameters.latency * delay)[:, None], stages - 1, axis=1)
        forward, backward = (np.repeat(cost[:, None], stages, axis=1) for cost in (forward, backward))
        pipeline = one_forward_one_backward(forward, backward, hops, hops, count)
        work = Workload()
        held = (layers * (12 * work.hidden**2 + 13 * work.hidden) + (work.vocabulary + work.seq) * work.hidden) / tensor
        data = part["D"].to_numpy(dtype=float)
        seconds[at] = pipeline + 2 * (data - 1) / data * 16 * held / wire + 2 * (data - 1) * delay
    return seconds


@cache
def fit_ring() -> tuple[RingParameters, pd.DataFrame]:
    """Megatron's four constants by least squares on the log of its uniform timings; the outlier is left out.

    Returns:
        the constants, and the rows with ``predicted`` and ``error`` (the outlier included, for the eye).
    """
    rows = megatron_uniform()
    used = rows[~rows["outlier"]]
    start = RingParameters()
    guess = np.array([getattr(start, name) for name in FITTED_RING])

    def build(values: np.ndarray) -> RingParameters:
        return RingParameters(**dict(zip(FITTED_RING, map(float, values), strict=True)))

    def residual(values: np.ndarray) -> np.ndarray:
        return np.log(predict_ring(build(values), used) / used["seconds"].to_numpy())

    solved = least_squares(residual, guess, x_scale=guess, bounds=(1e-9, [10.0, 10.0, 10.0, 1.0]), ftol=1e-12, xtol=1e-12)
    found = build(solved.x)
    predicted = predict_ring(found, rows)
    return found, rows.assign(predicted=predicted, error=predicted / rows["seconds"] - 1)
