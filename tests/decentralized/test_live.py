"""The live check: its two models in closed form, a real launch against a single process, and how results are compared."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from sheaf.common.gpt import GPT
from sheaf.common.links import LinkTable
from sheaf.common.links_netns import probe
from sheaf.decentralized.live import (
    LaunchError,
    LiveJob,
    Workload,
    compare,
    order_agreement,
    placements,
    plan,
    predict,
    run_live,
    tables,
)

SMALL = Workload(width=32, heads=4, layers_per_stage=1, vocab=64, length=16, micro_batch=1, micro_batches=3)
GRIDS = placements(0)


def job(links: LinkTable | None, placement: str = "stages inside", work: Workload = SMALL, **more) -> LiveJob:
    return LiveJob("t", placement, work, links, GRIDS[placement], **more)


# ---------------------------------------------------------------- models


def test_event_model_of_one_uniform_network_is_the_textbook_formula():
    delay, rate, m, stages = 0.01, 1e6, SMALL.micro_batches, SMALL.stages
    found = predict(job(LinkTable.uniform(8, delay, rate)))
    hop = SMALL.activation_bytes() * 8 / rate
    # fill the pipeline once, then one micro-batch a hop time
    assert found.forward == pytest.approx((stages - 1) * (delay + hop) + (m - 1) * hop)
    assert found.backward == pytest.approx(found.forward)
    dp = 2 * (delay + max(SMALL.gradient_bytes()) / 2 * 8 / rate)
    assert found.gradients == pytest.approx(dp, rel=1e-3)
    assert found.comm_dp == pytest.approx(dp)
    assert found.comm_pp == pytest.approx(2 * (stages - 1) * (delay + m * hop))
    assert found.iteration == pytest.approx(2 * found.forward + dp + 3 * delay, rel=1e-3)  # and three barriers


def test_without_links_only_computing_takes_time():
    found = predict(job(None), compute=(0.1, 0.2))
    fill = SMALL.stages + SMALL.micro_batches - 1
    assert found.forward == pytest.approx(0.1 * fill)
    assert found.iteration == pytest.approx(0.3 * fill)
    assert predict(job(None)).iteration == 0.0


def test_computing_hides_behind_slow_links_and_the_other_way_round():
    links = LinkTable.uniform(8, 0.0, SMALL.activation_bytes() * 8.0)  # one second a hop
    alone, busy = predict(job(links)).forward, predict(job(links), compute=(0.5, 0.5)).forward
    assert alone == pytest.approx(5.0)
    assert busy == pytest.approx(alone + SMALL.stages * 0.5)  # the first and, at each later stage, the last micro-batch


def test_a_shared_card_slows_the_prediction_down():
    free = LinkTable.uniform(8, 0.001, 1e8)
    card = replace(free, machine=(0, 0, 0, 0, 1, 1, 1, 1), nic=1e8)
    assert predict(job(card, "pipelines inside")).gradients > 1.5 * predict(job(free, "pipelines inside")).gradients


def test_each_table_favours_what_its_name_says_by_both_models():
    found = {name: {g: predict(LiveJob(name, g, t.workload, t.links, grid)) for g, grid in GRIDS.items()}
             for name, t in tables().items()}
    for cost in ("iteration", "comm"):
        best = {name: min(arms, key=lambda g: getattr(arms[g], cost)) for name, arms in found.items()}
        assert best["gradients"] == tables()["gradients"].favours == "stages inside"
        assert best["activations"] == tables()["activations"].favours == "pipelines inside"
        same = [getattr(p, cost) for p in found["homogeneous"].values()]
        assert max(same) == pytest.approx(min(same))
    ratio = {name: t.traffic_ratio for name, t in tables().items()}
    assert ratio["gradients"] > 1 > ratio["activations"]


def test_time_scale_stretches_all_communication():
    slow, fast = tables(1.0)["gradients"], tables(0.25)["gradients"]
    a, b = (predict(LiveJob("t", "r", t.workload, t.links, GRIDS["random"])).iteration for t in (slow, fast))
    assert a == pytest.approx(4 * b)


def test_placements_are_permutations_and_do_what_they_say():
    for stages, pipelines in ((4, 2), (4, 4), (6, 2)):
        n = stages * pipelines
        grids = {k: np.array(g) for k, g in placements(3, stages=stages, pipelines=pipelines).items()}
        region = np.arange(n) >= n // 2
        assert all(sorted(g.ravel()) == list(range(n)) for g in grids.values())
        assert all(g.shape == (pipelines, stages) for g in grids.values())
        inside = {k: region[g] for k, g in grids.items()}
        for kind in ("stages inside", "alternating"):  # a stage's group never spans regions
            assert (inside[kind] == inside[kind][0]).all()
        assert (inside["pipelines inside"] == inside["pipelines inside"][:, :1]).all()
        assert (np.diff(inside["stages inside"][0].astype(int)) != 0).sum() == 1
        assert (np.diff(inside["alternating"][0].astype(int)) != 0).sum() == stages - 1
    assert placements(1)["random"] != placements(2)["random"]
    assert placements(1) == placements(1)


def test_sizes_of_messages_are_those_of_the_model():
    for work in (SMALL, Workload()):
        sizes = [sum(p.numel() for p in GPT(work.config, 0, (i, work.stages)).parameters()) * 4 for i in range(work.stages)]
        assert work.gradient_bytes() == sizes


# ---------------------------------------------------------------- a real launch


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    table = replace(tables(0.5)["gradients"], workload=replace(tables()["gradients"].workload, micro_batches=2))
    jobs = [j for j in plan([table], repetitions=2, iterations=1, training_iterations=6)
            if j.links is None or j.placement in ("stages inside", "pipelines inside")]
    kept = tmp_path_factory.mktemp("live") / "records.jsonl"
    seen: list[dict] = []
    return jobs, run_live(jobs, timeout=200, records=kept, on_record=seen.append), kept, seen


def test_gradients_equal_those_of_a_single_process(live):
    found = live[1].gradients
    assert len(found) == 2 * 8  # two precisions, every stage of every pipeline
    assert found[found.dtype == "float32"].max_relative_error.max() <= 1e-5
    assert found[found.dtype == "float64"].max_relative_error.max() <= 1e-12
    assert (found.norm > 0).all()
    for _, group in found.groupby(["dtype", "stage"]):
        assert group.norm.nunique() == 1  # all pipelines of a stage hold the very same gradient


def test_the_loss_falls_and_does_not_depend_on_the_placement(live):
    times = live[1].times
    loss = times[times.placement == "training"].loss.to_numpy()
    assert len(loss) == 6
    assert loss[-1] < loss[0] - 0.3
    shaped = times[(times.table == "gradients") & (times.step == 0)]
    assert shaped.loss.nunique() == 1


def test_bytes_on_the_links_are_those_of_the_schedule(live):
    jobs, run = live[:2]
    for shaped in (j for j in jobs if j.links is not None):
        work, grid = shaped.workload, np.array(shaped.grid)
        mine = run.links.query("table == @shaped.table and placement == @shaped.placement and repetition == 0")
        sent = mine.set_index(["src", "dst"])
        hop = work.micro_batches * work.activation_bytes()
        for s in range(work.stages - 1):
            assert sent.bytes[grid[0, s], grid[0, s + 1]] == hop == sent.bytes[grid[0, s + 1], grid[0, s]]
        for s, nbytes in enumerate(work.gradient_bytes()):
            assert sent.bytes[grid[0, s], grid[1, s]] == pytest.approx(nbytes, abs=8)
        assert len(sent) == 2 * 2 * (work.stages - 1) + 2 * work.stages


def test_measured_times_respect_the_links_and_the_predicted_order(live):
    jobs, run = live[:2]
    frame = compare(run, jobs)
    assert (frame.seconds > 0.98 * frame.predicted).all()  # nothing arrives before it can
    assert (frame.dp_seconds > 0.98 * frame.dp_predicted).all()
    assert frame.n.tolist() == [2, 2]
    agree = order_agreement(frame)
    assert agree.agrees.all()
    assert agree.faster.tolist() == ["stages inside"]


def test_every_measurement_is_kept_as_it_comes(live):
    jobs, run, kept, seen = live
    lines = [json.loads(line) for line in kept.read_text().splitlines()]
    assert lines == seen
    assert len(lines) == sum(j.repetitions for j in jobs)
    assert len(run.times) == sum(j.repetitions * j.iterations for j in jobs)


# ---------------------------------------------------------------- comparing, refusing


def test_order_agreement_leaves_ties_out_and_reports_a_broken_order():
    frame = pd.DataFrame({
        "table": "t", "placement": ["a", "b", "c"], "predicted": [1.0, 1.05, 2.0], "comm": [3.0, 2.0, 1.0],
        "seconds": [1.2, 1.1, 2.2], "low": [1.1, 1.0, 2.1], "high": [1.3, 1.2, 2.3],
    })
    by_model = order_agreement(frame, tie=0.1)
    assert set(zip(by_model.faster, by_model.slower, strict=True)) == {("a", "c"), ("b", "c")}
    assert by_model.agrees.all()
    assert by_model.apart.all()
    assert order_agreement(frame, "comm").agrees.tolist() == [False, False, True]
    assert order_agreement(frame.iloc[:0]).empty


def test_bad_jobs_are_refused_with_a_fix(tmp_path):
    with pytest.raises(ValueError, match=r"each device 0\.\.7 once"):
        LiveJob("t", "p", SMALL, None, ((0, 1, 2, 3), (4, 5, 6, 6)))
    with pytest.raises(ValueError, match="link table has 4 devices"):
        LiveJob("t", "p", SMALL, LinkTable.uniform(4, 0, 1), GRIDS["random"])
    with pytest.raises(ValueError, match="float32 or float64"):
        job(None, dtype="float16")
    with pytest.raises(ValueError, match="vocabulary of 256"):
        replace(SMALL, text=str(tmp_path))
    with pytest.raises(ValueError, match="one size"):
        run_live([])
    with pytest.raises(ValueError, match="time_scale"):
        tables(0)
    with pytest.raises(FileNotFoundError, match=r"no \*\.txt file"):
        run_live([job(None, work=replace(SMALL, vocab=256, text=str(tmp_path)))])


def test_a_run_that_takes_too_long_ends_with_one_sentence():
    with pytest.raises(LaunchError, match="did not finish within 2 s"):
        run_live([job(None)], timeout=2)


def test_namespaces_take_one_network_at_a_time():
    near, far = LinkTable.uniform(8, 0.001, 1e8), LinkTable.uniform(8, 0.01, 1e8)
    for jobs in ([job(near), job(far)], [job(None)]):
        with pytest.raises(ValueError, match="one network at a time"):
            run_live(jobs, namespaces=True)


@pytest.mark.netns
def test_the_kernel_shapes_the_links_of_a_live_run():
    support = probe()
    if not support.rate:
        pytest.skip(support.why)
    links = LinkTable.of_regions([0] * 4 + [1] * 4, inside=(0.002, 100e6), across=(0.03, 5e6))
    work = replace(SMALL, width=96)  # gradients large enough that the burst of a class, 16 kB, is a small part
    jobs = [job(links, name, work, iterations=1, repetitions=2, gradients=True) for name in ("stages inside", "pipelines inside")]
    run = run_live(jobs, namespaces=True, timeout=120)
    assert run.gradients["max_relative_error"].max() < 1e-5
    took = run.times.groupby("placement")["iteration"].min()
    for each in jobs:  # never much faster than the links allow
        assert took[each.placement] > 0.8 * predict(each).iteration
