"""Loaders of the published tables, and the ratios behind the claims."""

import pytest

from sheaf.decentralized import published


def test_tables_have_their_rows():
    assert len(published.iteration_seconds()) == 874
    assert len(published.pflops()) == 303
    assert len(published.uniform_timings()) == 85
    assert published.homogeneous("dp_mode_b96_L3").shape == (5, 9)
    assert published.throughput_table(5).shape == (9, 7)
    assert published.fluidstack(2).shape == (11, 4)
    assert len(published.convergence_ends()) == 45
    assert set(published.convergence()["scheduler"]) == {"our", "hybrid", "random"}
    assert published.point_to_point()["nccl_64MB"].min() == 55
    assert (published.megatron_degrees()["seconds"] == 591.65).sum() == 1


def test_a_loaded_frame_may_be_changed_without_harm():
    for frame in (published.pflops(), published.iteration_seconds(), published.uniform_timings()):
        frame[frame.columns[-1]] = 0
    assert published.pflops()["pflops"].min() > 0
    assert published.iteration_seconds()["seconds"].min() > 0


def test_reported_pflops_are_flops_over_mean_seconds():
    from sheaf.decentralized.workload import Workload
    seconds = published.throughput_table(5, "seconds").set_index("setting")["DTFM-scheduled"]
    reported = published.throughput_table(5).set_index("setting")["DTFM-scheduled"]
    for setting, value in reported.items():
        assert Workload.setting(setting).pflops(seconds[setting]) == pytest.approx(value, rel=0.03)


def ratios(claim, reading):
    frame = published.speedups(claim)
    found = frame[frame["reading"] == reading]
    assert len(found), f"{claim} has no reading {reading}"
    return found


def test_c4_has_two_denominators():
    assert ratios("C4", "Megatron, random map")["reported_ratio"].round(2).unique() == [4.80]
    assert ratios("C4", "Megatron, placed by hand")["reported_ratio"].round(2).unique() == [2.72]
    assert ratios("C4", "Megatron, random map")["ratio"].mean() == pytest.approx(4.77, abs=0.01)
    assert len(published.speedups("C4")) == 6


def test_c4c_reaches_further_than_the_headline():
    found = ratios("C4c", "Megatron, random map")["reported_ratio"]
    assert (found.max(), found.min(), found.mean()) == pytest.approx((5.51, 3.24, 4.36), abs=0.01)
    placed = ratios("C4c", "Megatron, placed by hand")["reported_ratio"]
    assert (placed.min(), placed.max()) == pytest.approx((1.54, 2.96), abs=0.01)


def test_c5_in_both_readings():
    as_told = ratios("C5", "Megatron (best) in case 1").groupby("setting", sort=False)["reported_ratio"].first()
    assert list(as_told.round(2)) == [3.50, 2.52, 2.13, 3.32, 2.36, 1.89, 3.08, 2.19, 1.70]
    own = ratios("C5", "own system in case 1")["reported_ratio"]
    assert (own.min(), own.max()) == pytest.approx((2.31, 4.32), abs=0.01)


@pytest.mark.parametrize(("case", "low", "high", "mean"), [
    ("1", 1.47, 2.00, 1.75), ("2", 1.15, 1.24, 1.18), ("3", 1.21, 1.71, 1.40), ("4", 1.19, 1.48, 1.32), ("5", 1.83, 3.01, 2.41),
])
def test_c6_scheduler_ablation(case, low, high, mean):
    found = ratios("C6", "random map").query("case == @case")
    reported = found["reported_ratio"]
    assert (reported.min(), reported.max(), reported.mean()) == pytest.approx((low, high, mean), abs=0.01)
    assert len(found) == 27 and set(found["seed"]) == {2022, 2023, 2024}


@pytest.mark.parametrize(("case", "mean"), [("1", 1.30), ("2", 1.57), ("3", 1.65), ("4", 2.38), ("5", 4.36)])
def test_c7_megatron_as_plotted(case, mean):
    assert ratios("C7", "Megatron, as plotted").query("case == @case")["reported_ratio"].mean() == pytest.approx(mean, abs=0.01)


def test_hand_placed_megatron_wins_one_cell():
    found = ratios("C7", "Megatron, placed by hand")
    assert list(found[found["reported_ratio"] < 1]["setting"].unique()) == ["L40 B1024"]


def test_c8_and_c9():
    pipeline = ratios("C8", "DeepSpeed-PP").groupby("case")["reported_ratio"].mean()
    assert list(pipeline.round(1)) == [1.9, 1.4, 2.3, 2.1, 3.3]
    assert ratios("C8", "DeepSpeed-ZeRO3")["reported_ratio"].max() == pytest.approx(53, abs=0.5)
    cloud = ratios("C9", "Megatron, random map")["reported_ratio"]
    assert (cloud.min(), cloud.max()) == pytest.approx((1.8, 4.3), abs=0.03)
    assert len(ratios("C9", "random, GPUs shuffled")) == 27


@pytest.mark.parametrize("call", [
    lambda: published.speedups("C1"), lambda: published.throughput_table(6), lambda: published.throughput_table(1, "watts"),
    lambda: published.fluidstack(4), lambda: published.iteration_seconds("9"), lambda: published.homogeneous("x"),
])
def test_unknown_names_are_refused(call):
    with pytest.raises(ValueError, match=r"unknown|no ratios|regions = 4"):
        call()
