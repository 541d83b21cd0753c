"""Emulated links: arithmetic of the clock, real processes against it, and what happens when a process fails."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sheaf.common.launch import LaunchError, launch
from sheaf.common.link_table import LinkClock, LinkTable
from sheaf.common.links import measure_link

# ---------------------------------------------------------------- tables and clock


def test_a_message_waits_for_its_link_occupies_it_and_arrives_a_delay_later():
    clock = LinkClock(LinkTable.uniform(3, delay=0.5, bandwidth=800.0))
    assert clock.send(0, 1, 100, now=10.0) == (10.0, 11.0, 11.5)
    assert clock.send(0, 1, 200, now=10.2) == (11.0, 13.0, 13.5)  # behind the first
    assert clock.send(0, 2, 100, now=10.2) == (10.2, 11.2, 11.7)  # another link is free
    assert clock.send(1, 0, 100, now=10.2) == (10.2, 11.2, 11.7)  # full duplex
    assert clock.send(0, 1, 100, now=20.0).start == 20.0  # idle again


def test_a_shared_card_serialises_what_leaves_a_machine_and_nothing_else(tmp_path):
    table = LinkTable(np.zeros((4, 4)), np.full((4, 4), 800.0), machine=(0, 0, 1, 1), nic=400.0)
    clock = LinkClock(table, tmp_path / "card")
    other = LinkClock(table, tmp_path / "card")  # as another process of the group sees it
    assert clock.send(0, 1, 100, 0.0).left == 1.0  # inside the machine: link only
    assert clock.send(0, 2, 100, 0.0).left == 2.0  # the card halves the rate
    assert other.send(1, 3, 100, 0.0).left == 4.0  # and is shared with the machine's other rank
    assert other.send(2, 0, 100, 0.0).left == 2.0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 10_000), st.floats(0, 5)), max_size=30))
def test_messages_of_a_link_never_overtake_and_never_beat_the_arithmetic(messages):
    delay = np.array([[0, 1, 2], [3, 0, 4], [5, 6, 0]]) / 10
    table = LinkTable(delay, np.full((3, 3), 1e4))
    clock, last, now = LinkClock(table), {}, 0.0
    for src, dst, nbytes, pause in messages:
        if src == dst:
            continue
        now += pause
        passage = clock.send(src, dst, nbytes, now)
        assert passage.arrives >= now + nbytes * 8 / 1e4 + delay[src, dst] - 1e-9
        assert passage.start >= last.get((src, dst), 0.0)
        last[src, dst] = passage.left


def test_tables_survive_json_and_take_gigabits_from_a_network():
    class Net:
        delay = np.array([[0, 0.1], [0.2, 0]])
        bandwidth = np.array([[0, 2.0], [np.inf, 0]])

    table = LinkTable.from_network(Net())
    assert table.bandwidth[0, 1] == 2e9
    back = LinkTable.from_dict(table.to_dict())
    assert np.array_equal(back.bandwidth, table.bandwidth)
    assert np.array_equal(back.delay, table.delay)
    shared = LinkTable(np.zeros((2, 2)), np.ones((2, 2)), (0, 0), 5.0)
    assert LinkTable.from_dict(shared.to_dict()).machine == (0, 0)


@pytest.mark.parametrize(("delay", "bandwidth", "said"), [
    (np.zeros((2, 3)), np.ones((2, 3)), r"\[N, N\]"),
    (np.full((2, 2), -1.0), np.ones((2, 2)), "0 or more"),
    (np.full((2, 2), np.nan), np.ones((2, 2)), "finite"),
    (np.zeros((2, 2)), np.zeros((2, 2)), "above 0"),
])
def test_bad_tables_are_refused(delay, bandwidth, said):
    with pytest.raises(ValueError, match=said):
        LinkTable(delay, bandwidth)


def test_a_card_needs_its_machines():
    with pytest.raises(ValueError, match="together"):
        LinkTable(np.zeros((2, 2)), np.ones((2, 2)), nic=1.0)


# ---------------------------------------------------------------- real processes

WORKER = '''
import time
from pathlib import Path
import numpy as np, torch
from sheaf.common.launch import run_worker
from sheaf.common.links import EmulatedGroup, LinkTable

DELAY = np.array([[0, .05, .02], [.02, 0, .02], [.02, .02, 0]])

def main(payload, folder, emit):
    group = EmulatedGroup(LinkTable(DELAY, np.full((3, 3), 20e6)))
    rank = group.rank
    group.warm_up()

    # order and content: three messages of one tag, dtypes and shapes of all kinds, received in order
    things = [torch.arange(6, dtype=torch.float64).view(2, 3), torch.tensor([1, 2, 3], dtype=torch.int8),
              torch.tensor(2.5, dtype=torch.float16), torch.empty(0)]
    if rank == 0:
        for t in things: group.isend(t, 1, 5)
        held = torch.ones(1000); group.isend(held, 1, 6); held.zero_()  # reuse at once
    if rank == 1:
        got = [group.irecv(torch.empty_like(t), 0, 5) for t in things]
        kept = group.irecv(torch.empty(1000), 0, 6).wait()
        emit({"what": "content", "same": all(torch.equal(g.wait(), t) for g, t in zip(got, things)),
              "kept": bool((kept == 1).all())})

    # bandwidth and delay: two messages of 500 kB over 20 Mbit/s (0.2 s each), 0.05 s apart from the arithmetic
    big = torch.zeros(500_000, dtype=torch.uint8)
    receives = [group.irecv(torch.empty_like(big), 0, 7) for _ in range(2)] if rank == 1 else []
    start = group.align()
    if rank == 0: group.isend(big, 1, 7); group.isend(big, 1, 7)
    ends = [(r.wait(), time.monotonic() - start)[1] for r in receives]
    if rank == 1: emit({"what": "timing", "seconds": ends})

    # all_reduce over a subset and over all, odd sizes, equal bits everywhere
    group.align()
    before = group.traffic()["bytes"]
    x = torch.arange(7, dtype=torch.float64) * (rank + 1)
    group.all_reduce(x)
    sent = sum(group.traffic()["bytes"]) - sum(before)
    y = torch.full((2, 2), float(rank))
    if rank != 1: group.all_reduce(y, [0, 2], mean=True)
    z = torch.ones(1) * rank
    group.all_reduce(z)
    emit({"what": "reduce", "rank": rank, "all": x.tolist(), "some": y.view(-1).tolist(), "sent": sent, "one": z.tolist()})

    # the emulated barrier costs the longest delay towards each rank
    start = group.align()
    group.barrier()
    emit({"what": "barrier", "rank": rank, "seconds": time.monotonic() - start})
    t = group.traffic()
    emit({"what": "traffic", "rank": rank, "bytes": t["bytes"], "busy": t["busy"], "late": max(t["late"])})

    # a receiver that expects another size is told so
    if rank == 0: group.isend(torch.ones(4), 1, 9)
    if rank == 1:
        message = group.irecv(torch.empty(4), 0, 9); message.key = (0, 5)  # as if an earlier message had been lost
        try: message.wait()
        except RuntimeError as error: emit({"what": "order", "said": str(error)})
    group.flush()

    # shared card: ranks 0 and 1 on one machine send 100 kB each to rank 2 through 8 Mbit/s: 0.1 s and 0.2 s
    card = EmulatedGroup(LinkTable(np.zeros((3, 3)), np.full((3, 3), np.inf), (0, 0, 1), 8e6), nic_file=folder / "card")
    data = torch.zeros(100_000, dtype=torch.uint8)
    receives = [card.irecv(torch.empty_like(data), s, 11) for s in (0, 1)] if rank == 2 else []
    start = card.align()
    if rank < 2: card.isend(data, 2, 11)
    for r in receives: r.wait()
    if rank == 2: emit({"what": "card", "seconds": time.monotonic() - start})
    card.flush()
    try: EmulatedGroup(LinkTable.uniform(2, 0, 1e6))
    except ValueError as error: emit({"what": "size", "said": str(error)})

run_worker(main)
'''


@pytest.fixture(scope="module")
def group(tmp_path_factory) -> list[dict]:
    script = tmp_path_factory.mktemp("worker") / "worker.py"
    script.write_text(WORKER)
    return launch(script, {}, processes=3, timeout=120)


def of(group: list[dict], what: str) -> list[dict]:
    return [r for r in group if r["what"] == what]


def test_messages_keep_order_and_content_for_any_shape_and_type(group):
    (found,) = of(group, "content")
    assert found["same"]
    assert found["kept"]


def test_time_on_the_wire_is_bits_over_bandwidth_plus_delay(group):
    (found,) = of(group, "timing")
    first, second = found["seconds"]
    assert 0.99 < first / 0.25 < 2  # 0.2 s of transfer and 0.05 s of delay; never early
    assert 0.99 < second / 0.45 < 2  # the second waits for the link, the delay passes once


def test_all_reduce_sums_over_any_subset_and_sends_two_shards_a_pair(group):
    found = {r["rank"]: r for r in of(group, "reduce")}
    assert all(r["all"] == [6.0 * i for i in range(7)] for r in found.values())
    assert found[0]["some"] == found[2]["some"] == [1.0] * 4
    assert found[1]["some"] == [1.0] * 4  # not a member: untouched, rank 1 holds ones
    assert all(r["one"] == [3.0] for r in found.values())
    # 7 doubles in shards of 3, 2, 2: a rank sends the others' shards once and its own to both
    assert [found[r]["sent"] for r in range(3)] == [(4 + 6) * 8, (5 + 4) * 8, (5 + 4) * 8]


def test_a_barrier_takes_the_longest_delay_towards_each_rank(group):
    for found in of(group, "barrier"):
        ideal = {0: 0.02, 1: 0.05, 2: 0.02}[found["rank"]]
        assert found["seconds"] >= 0.95 * ideal
    seconds = {f["rank"]: f["seconds"] for f in of(group, "barrier")}
    assert seconds[1] > seconds[0]


def test_bytes_and_busy_time_are_counted_per_link(group):
    found = {r["rank"]: r for r in of(group, "traffic")}
    sent = 48 + 3 + 2 + 0 + 4000 + 1_000_000  # content and timing; the reductions come on top
    extra = found[0]["bytes"][1] - sent
    assert 0 < extra < 200
    assert found[0]["busy"][1] == pytest.approx(found[0]["bytes"][1] * 8 / 20e6)
    assert found[0]["bytes"][0] == 0


def test_a_lost_message_is_noticed(group):
    (found,) = of(group, "order")
    assert "expected number 4" in found["said"]


def test_ranks_of_one_machine_share_their_card(group):
    (found,) = of(group, "card")
    assert 0.99 < found["seconds"] / 0.2 < 2.5


def test_a_table_of_another_size_is_refused(group):
    assert all("2 ranks, the group has 3" in r["said"] for r in of(group, "size"))


def test_the_self_check_agrees_with_arithmetic():
    (found,) = measure_link(1_000_000, bandwidth=20e6, delay=0.05, repetitions=1)
    assert found.ideal == pytest.approx(0.45)
    assert 0.99 < found.measured / found.ideal < 2


# ---------------------------------------------------------------- failures

FAILING = '''
import os, signal, sys, time
import torch, torch.distributed as dist
from sheaf.common.launch import run_worker

def main(payload, folder, emit):
    rank = dist.get_rank()
    emit({"rank": rank, "pid": os.getpid()})
    dist.barrier()
    if rank == 1:
        if payload["how"] == "raise": raise ValueError("the shelf is empty")
        if payload["how"] == "kill": os.kill(os.getpid(), signal.SIGKILL)
    if payload["how"] == "hang": time.sleep(600)
    dist.recv(torch.zeros(1), 1 if rank != 1 else 0)

run_worker(main)
'''


@pytest.mark.parametrize(("how", "said"), [
    ("raise", r"rank 1 of 2 .* after 2 records \(ValueError: the shelf is empty\)"),
    ("kill", r"rank 1 of 2 .* \(killed by signal 9\)"),
    ("hang", r"did not finish within 8 s and were stopped after \d records"),
])
def test_a_failed_group_says_who_and_why_and_leaves_nobody_behind(tmp_path: Path, how: str, said: str):
    script, kept = tmp_path / "failing.py", tmp_path / "kept.jsonl"
    script.write_text(FAILING)
    limit = 8 if how == "hang" else 60
    with pytest.raises(LaunchError, match=said) as error:
        launch(script, {"how": how}, processes=2, timeout=limit, records=kept)
    if how != "hang":  # a busy machine may take the 8 s to start
        assert len(error.value.records) == 2
    assert len(kept.read_text().splitlines()) == len(error.value.records)
    if how == "raise":
        assert error.value.rank == 1
        assert "in main" in error.value.detail
    gone = [r["pid"] for r in error.value.records]
    deadline = time.monotonic() + 10
    while any(psutil.pid_exists(p) for p in gone) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(psutil.pid_exists(p) for p in gone)


def test_bad_launches_are_refused_before_anything_starts():
    with pytest.raises(ValueError, match="at least 1 process"):
        launch("x", {}, processes=0, timeout=1)
    with pytest.raises(ValueError, match="plain JSON"):
        launch("x", {"a": object()}, processes=1, timeout=1)


# ---------------------------------------------------------------- namespaces


def test_namespaces_refuse_what_they_cannot_shape():
    from sheaf.common.links_netns import NamespaceNetwork

    with pytest.raises(ValueError, match="shared network cards"):
        NamespaceNetwork(LinkTable(np.zeros((2, 2)), np.ones((2, 2)), (0, 0), 1.0))


def test_a_machine_without_the_tools_is_told_what_to_install(monkeypatch):
    from sheaf.common.links_netns import probe

    monkeypatch.setattr("shutil.which", lambda tool: None if tool == "tc" else f"/bin/{tool}")
    found = probe()
    assert not found.rate
    assert "need" in found.why or "Linux only" in found.why


def test_a_namespace_is_used_only_after_its_holder_is_ready(tmp_path: Path):
    """`unshare` enters the namespace first and maps the user afterwards; in between nobody has rights in there."""
    from sheaf.common.links_netns import NamespaceNetwork, NamespacesUnavailable

    network, ready = NamespaceNetwork(LinkTable.uniform(2, 0.0, 1e6)), tmp_path / "ready"
    holder = network._hold(["sh", "-c", 'sleep 0.5; touch "$0"; exec "$@"', str(ready)])
    try:
        assert ready.exists()
        assert holder.poll() is None
    finally:
        holder.kill()
        holder.communicate()
    with pytest.raises(NamespacesUnavailable, match="no rights here"):
        network._hold(["sh", "-c", "echo no rights here >&2; exit 1"])


@pytest.mark.netns
def test_the_kernel_shapes_a_link_in_namespaces():
    from sheaf.common.links_netns import NamespaceNetwork, probe

    support = probe()
    if not support.rate:
        pytest.skip(support.why)
    table = LinkTable.uniform(2, 0.05, 40e6)
    with NamespaceNetwork(table) as network:
        found = measure_link(2_000_000, 40e6, 0.05, repetitions=2, hosts=network.hosts, emulated=network.remaining)
        holders = [int(prefix[2]) for prefix in network.hosts.prefixes]
    # packet headers cost about 5 %; a 16 kB burst passes at once
    assert all(0.95 < r.measured / r.ideal < 2 for r in found)
    assert not any(psutil.pid_exists(p) for p in holders)


def test_a_killed_starter_takes_its_group_along(tmp_path: Path):
    script, kept = tmp_path / "failing.py", tmp_path / "kept.jsonl"
    script.write_text(FAILING)
    code = ("import sys; from pathlib import Path; from sheaf.common.launch import launch; "
            "launch(Path(sys.argv[1]), {'how': 'hang'}, processes=2, timeout=100, records=Path(sys.argv[2]))")
    starter = subprocess.Popen([sys.executable, "-c", code, str(script), str(kept)])
    deadline = time.monotonic() + 60
    while not (kept.exists() and len(kept.read_text().splitlines()) == 2) and time.monotonic() < deadline:
        time.sleep(0.05)
    family = psutil.Process(starter.pid).children(recursive=True)
    starter.kill()
    starter.wait()
    assert len(family) >= 3  # torchrun and its two workers
    _, alive = psutil.wait_procs(family, timeout=20)
    assert not alive
