"""Calibration: recovers known constants, stays within its own data, and never opens the timings it is judged on."""

import numpy as np
import pandas as pd
import pytest
from threadpoolctl import threadpool_limits

from sheaf.decentralized import calibrate, published
from sheaf.decentralized.baselines import RingParameters
from sheaf.decentralized.network import Network
from sheaf.decentralized.simulate import Parameters, Simulator

FORBIDDEN = ("iteration_seconds", "pflops", "F3c", "T9", "fluidstack")


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Fits of a few numbers: threads would only wait for each other, and for those of the tests beside."""
    with threadpool_limits(1):
        yield


def test_calibration_never_reads_what_it_is_judged_on(monkeypatch):
    """Every file pandas opens during a fit is seen, and none holds a timing of the cases or of FluidStack."""
    opened, read = [], pd.read_csv

    def watched(path, *args, **kwargs):
        opened.append(str(path))
        return read(path, *args, **kwargs)

    monkeypatch.setattr(pd, "read_csv", watched)
    published._read.cache_clear()
    calibrate.fit_ring.cache_clear()
    calibrate.fit()
    calibrate.fit_ring()
    calibrate.bootstrap(2)
    calibrate.leave_one_out()
    assert opened and not [path for path in opened if any(word in path.split("/")[-1] for word in FORBIDDEN)]
    assert {path.split("/")[-1] for path in opened} == {"dtfm_homogeneous_microbench.csv", "megatron_parallel_degrees_B1024.csv"}


def test_calibration_leaves_the_case_1_rows_of_megatron_out():
    rows = calibrate.megatron_uniform()
    assert len(rows) == 18 and not rows["network"].str.contains("16xlarge").any()


def test_fit_recovers_the_constants_that_made_the_timings():
    truth = Parameters(launch=0.015, layer=0.02, update=3, goodput=0.8, occupancy=0.05, contention=1.2)
    rows = published.uniform_timings()
    rows["seconds"] = calibrate.predict_uniform(truth, rows)
    found = calibrate.fit(rows)
    assert found.rms < 1e-3
    for name in calibrate.FITTED:
        assert getattr(found.parameters, name) == pytest.approx(getattr(truth, name), rel=0.02), name


def test_fit_of_the_real_timings_is_within_six_percent():
    found = calibrate.fit()
    assert found.rms < 0.06
    assert len(found.timings) == 80
    assert 0.8 < found.parameters.goodput < 1
    assert found.timings["error"].abs().max() < 0.25


def test_held_out_networks_are_predicted_nearly_as_well():
    for by, groups in (("network", 5), ("experiment", 4)):
        found = calibrate.leave_one_out(by)
        assert len(found) == groups and found["cells"].sum() == 80
        assert found["rms"].max() < 0.12


def test_bootstrap_interval_holds_the_estimate_and_repeats():
    found = calibrate.bootstrap(5, seed=3)
    assert list(found["parameter"]) == list(calibrate.FITTED)
    assert (found["low"] < found["high"]).all()
    assert ((found["low"] <= found["estimate"] * 1.05) & (found["high"] >= found["estimate"] * 0.95)).all()
    pd.testing.assert_frame_equal(calibrate.bootstrap(2, seed=4), calibrate.bootstrap(2, seed=4))


def test_many_rows_at_once_equal_the_simulator_one_by_one():
    rows = published.uniform_timings()
    parameters = calibrate.fit().parameters
    fast = calibrate.predict_uniform(parameters, rows)
    for i in range(0, len(rows), 7):
        row = rows.iloc[i]
        job = calibrate._job(row["experiment"], str(row["column"]))
        devices = job.work.pipelines * 8
        delay, rate = (np.full((devices, devices), row[name]) for name in ("delay_ms", "bandwidth_gbps"))
        network = Network.from_matrices(delay, rate)
        grid = np.arange(devices).reshape(-1, 8)
        assert Simulator(parameters, job.mode).iteration(network, grid, job.work).seconds == pytest.approx(fast[i])


def test_ring_fit_names_the_outlier_and_suggests_the_slip():
    found, rows = calibrate.fit_ring()
    assert isinstance(found, RingParameters)
    outlier = rows[rows["outlier"]]
    assert len(outlier) == 1 and outlier["predicted"].item() == pytest.approx(191.65, rel=0.1)
    assert rows[~rows["outlier"]]["error"].abs().max() < 0.2


def test_too_few_or_unknown_rows_are_refused():
    with pytest.raises(ValueError, match="cannot fix 6 constants"):
        calibrate.fit(published.uniform_timings().head(4))
    with pytest.raises(ValueError, match="is unknown"):
        calibrate.fit(published.uniform_timings().assign(experiment="other"))
    with pytest.raises(ValueError, match="'network' or 'experiment'"):
        calibrate.leave_one_out("seed")
    with pytest.raises(ValueError, match="at least 2"):
        calibrate.bootstrap(1)
