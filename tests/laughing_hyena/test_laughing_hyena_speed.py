"""Decoding and prefill measured: what is timed is the same work, what is reported adds up, errors are where they should be."""

import numpy as np
import pandas as pd
import pytest
import torch

from sheaf.laughing_hyena import decoding_charts as charts
from sheaf.laughing_hyena import gpu, prefill, speed
from sheaf.laughing_hyena.models import LMConfig
from sheaf_kernels.modal_ssm import compiled

SMALL = speed.Shape(width=32, layers=1, heads=4, kv_heads=2, vocab=32, order=8)
needs_kernel = pytest.mark.skipif(not compiled(), reason="the modal_ssm kernel is not built; run `make kernels`")


def test_every_arm_is_timed_where_it_fits() -> None:
    frame = speed.decoding(SMALL, [16, 32], [1, 4], 2, budget=1e9)
    assert set(frame["arm"]) == set(speed.ARMS) and (frame["seconds"] > 0).all()
    assert (frame.groupby(["batch", "position", "arm"])["round"].nunique() == 2).all()
    tight = speed.decoding(SMALL, [32], [4], 2, budget=4 * speed.formula(speed.engines(SMALL, 64)[speed.OURS], 8, 0))
    assert speed.OURS in set(tight["arm"]) and speed.MHA[0] not in set(tight["arm"])
    table = charts.decode_table(frame)
    assert len(table) == 2 * len(speed.ARMS)


def test_a_placed_session_has_the_bytes_and_the_position_of_a_real_one() -> None:
    for name, engine in speed.engines(SMALL, 40).items():
        session, real = speed.placed(engine, 3, 20, 4), engine.session(3, 24)
        real.prefill(torch.zeros(3, 20, dtype=torch.long))
        assert session.nbytes == real.nbytes, name
        before = [getattr(layer, "position", None) for layer in real.layers]
        assert before == [getattr(layer, "position", None) for layer in session.layers], name
        assert session.step(torch.zeros(3, dtype=torch.long)).isfinite().all(), name


def test_the_formula_counts_what_sessions_hold() -> None:
    table = speed.memory(SMALL, 2, 8, [8, 24])
    assert (table["formula"] == table["measured"]).all()
    ours = table[table["arm"] == "distilled Hyena"]["measured"]
    assert ours.nunique() == 1
    assert (table[table["arm"] == "Transformer"]["measured"].diff().dropna() > 0).all()


def test_ratios_take_the_better_rival() -> None:
    rows = [(arm, i, s) for i in range(3) for arm, s in (("a", 4.0), ("b", 2.0 + i), ("c", 1.0))]
    frame = pd.DataFrame(rows, columns=["arm", "round", "seconds"])
    assert speed.best(frame, ["a", "b"]) == "b"
    assert speed.ratio(frame, ["a", "b"], "c").tolist() == [2, 3, 4]
    with pytest.raises(ValueError, match="none of"):
        speed.best(frame, ["d"])


def test_slopes_are_those_of_power_laws() -> None:
    rows = [(p, i, (i + 1) * p**power) for i, power in enumerate((0.0, 1.0)) for p in (4, 16, 64)]
    assert speed.slopes(pd.DataFrame(rows, columns=["position", "round", "seconds"])) == pytest.approx([0, 1])


def test_a_peak_is_of_the_best_arm_and_batch() -> None:
    rows = [(b, arm, i, v + i) for b, arm, v in ((1, "x", 5), (4, "x", 9), (4, "y", 7)) for i in range(2)]
    frame = pd.DataFrame(rows, columns=["batch", "arm", "round", "tokens_s"])
    assert speed.peaks(frame, ["x", "y"]).tolist() == [9, 10]
    assert speed.peaks(frame, "y").tolist() == [7, 8]


def test_requests_add_up() -> None:
    frame = speed.throughput(SMALL, 16, 8, [1, 4], 2, 1e9)
    total = frame["prefill_s"] + frame["decode_s"]
    assert np.allclose(frame["tokens_s"], frame["batch"] * 8 / total)
    assert frame.groupby("batch")["arm"].nunique().tolist() == [5, 5]  # one form of every way
    assert len(charts.groups(frame, ["batch"], "tokens_s", larger=True)) == 10
    assert len(charts.throughput_table(frame)) == 10


@needs_kernel
def test_all_strategies_but_the_canonical_are_exact() -> None:
    frame = prefill.strategies(16, 8, [64, 200], 2)
    exact = frame[frame["strategy"].isin(prefill.EXACT)]
    assert set(exact["strategy"]) == set(prefill.EXACT) and exact["error"].max() < 1e-5
    table = prefill.summary(frame)
    assert table.groupby("tokens")["times the fastest"].min().tolist() == [1, 1]


def test_the_canonical_form_gets_worse_with_order_and_clusters() -> None:
    table = prefill.canonical([4, 16], 1024, 32, 0)
    single = table[table["precision"] == "float32"].set_index(["order", "poles"])
    assert single.loc[(4, "spread"), "median error"] <= 1e-3
    worst = single.loc[(16, "within 0.3 rad")]
    assert worst["not finite"] > 0 or worst["largest error"] >= 1


def test_hand_over_drift_and_roll_out() -> None:
    assert prefill.handover(SMALL, 70, 10) < 1e-4
    drift = prefill.drift(20_000)
    assert drift["steps"].tolist() == [10, 100, 1000, 10_000, 20_000] and drift["error"].max() < 1e-4
    far = prefill.roll_out(SMALL, 16, 8)
    assert far["tokens"].tolist() == [16, 32, 64, 128] and far["finite"].all()


@pytest.mark.parametrize(("error", "power"), [(2e-7, 1e-6), (1e-3, 1e-3), (0.0, 0.0), (0.5, 1.0)])
def test_errors_are_rounded_up(error: float, power: float) -> None:
    assert prefill.up_to(error) == pytest.approx(power)
    assert prefill.up_to(float("inf")) == float("inf")


def test_what_bytes_predict_at_the_papers_size() -> None:
    table = gpu.predicted(768).set_index("arm")["state (MB)"]
    assert table["Transformer"] == 151.0 and table["Transformer GQA"] == 18.9 and table["Hyena, cached"] == 113.2
    assert table["distilled Hyena"] == 4.7
    assert LMConfig.from_name("hyena-1.3b").state_floats(16, 0) * 4 > 4.7e6


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_measurements_say_so() -> None:
    for call in (gpu.check, lambda: gpu.throughput(2, 1.0), lambda: gpu.steps(2)):
        with pytest.raises(RuntimeError, match="CUDA"):
            call()


def test_gpu_peaks_and_gaps() -> None:
    rows = [
        {"arm": a, "batch": b, "round": i, "tokens_s": v + i, "decode_tokens_s": v, "prefill_ms": 1, "step_ms": 1, "limit_ms": 1,
         "state_gb": 1}
        for a, b, v in (("distilled Hyena", 4, 20), ("Transformer", 1, 4), ("Transformer", 4, 9)) for i in range(2)
    ]  # fmt: skip
    frame = pd.DataFrame([*rows, {"arm": "Transformer", "batch": 16, "left_out": "out of memory"}])
    assert gpu.peak(frame, ["Transformer"]).tolist() == [9, 10]
    assert gpu.speedup(frame, ["Transformer"]) == pytest.approx([20 / 9, 2.1])
    assert gpu.unmeasured(frame) == "Transformer at batch 16: out of memory"
    assert len(charts.gpu_table(frame)) == 3
    assert charts.gpu_throughput(frame) is not None
