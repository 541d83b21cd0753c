"""Budgets: refused before sending, kept over runs, held under concurrency, and what counts as spent."""

import fcntl
import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from sheaf.common.fm import Budget, BudgetError, Ledger, Reply, Request, Spent, UnansweredError
from sheaf.common.fm.fake_server import Fault, last_text


def echo(body: dict) -> str:
    return last_text(body)


def test_requests_stop_at_the_limit_and_over_runs(serve: Callable, connect: Callable) -> None:
    server = serve(echo)
    budget = Budget(max_requests=5)
    results = connect(server, budget=budget).map([Request("", [str(i)]) for i in range(8)])
    assert sum(isinstance(r, Reply) for r in results) == 5 == len(server.bodies)
    later = connect(server, budget=budget)  # the ledger remembers
    with pytest.raises(BudgetError, match=r"5 requests would be exceeded: 5 spent"):
        later.ask(Request("", ["new"]))
    answered = next(i for i, r in enumerate(results) if isinstance(r, Reply))
    assert later.ask(Request("", [str(answered)])).cached  # what is stored costs nothing
    assert len(server.bodies) == 5


@pytest.mark.parametrize("limit", ["tokens", "usd"])
def test_limits_hold_under_concurrency(serve: Callable, connect: Callable, limit: str) -> None:
    server = serve(echo, latency=0.005)
    prices = {"usd_per_million_input": 10.0, "usd_per_million_output": 30.0}
    budget = Budget(max_tokens=3000) if limit == "tokens" else Budget(max_usd=0.03, **prices)
    clients = [connect(server, budget=budget, concurrency=8) for _ in range(2)]
    asked = [Request("", [f"{i} " + "word " * 20], max_tokens=100) for i in range(120)]
    groups: list[list] = [[], []]
    threads = [
        threading.Thread(target=lambda k=k: groups[k].extend(clients[k].map(asked[k::2]))) for k in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    answered = [r for group in groups for r in group if isinstance(r, Reply)]
    refused = [r for group in groups for r in group if isinstance(r, BudgetError)]
    assert len(answered) + len(refused) == 120 and answered and refused
    total = sum((budget.cost(r.usage) for r in answered), Spent())
    spent = clients[0].spent()
    assert (spent.requests, spent.tokens) == (total.requests, total.tokens) and spent.usd == pytest.approx(total.usd)
    if limit == "tokens":
        # Held, and used up to less than one more estimate: an estimate under way delays, it does not refuse.
        assert 3000 - 400 < spent.tokens <= 3000
    else:
        assert 0 < spent.usd <= 0.03
    assert sum(server.answered.values()) == len(answered)


def test_own_requests_under_way_delay_but_do_not_refuse(serve: Callable, connect: Callable) -> None:
    client = connect(serve(echo, latency=0.02), budget=Budget(max_tokens=1500), concurrency=8)
    results = client.map([Request("", [f"q{i}"], max_tokens=1000) for i in range(8)])  # two estimates exceed the limit
    assert all(isinstance(r, Reply) for r in results)


def test_refusals_are_free_and_lost_answers_are_not(serve: Callable, connect: Callable) -> None:
    def answer(body: dict) -> Fault:
        return Fault("status", 500) if last_text(body) == "free" else Fault("truncate")

    client = connect(serve(answer), max_retries=1)
    with pytest.raises(UnansweredError):
        client.ask(Request("", ["free"]))
    assert client.spent() == Spent()
    with pytest.raises(UnansweredError):
        client.ask(Request("", ["lost"], max_tokens=500))
    spent = client.spent()
    assert spent.requests == 2 and spent.tokens > 1000


def test_the_estimate_bounds_what_is_charged(serve: Callable, connect: Callable) -> None:
    client = connect(serve(echo), budget=Budget(max_tokens=120))
    with pytest.raises(BudgetError, match="120 tokens"):
        client.ask(Request("", ["x"], max_tokens=121))
    with pytest.raises(BudgetError):
        client.ask(Request("", ["é" * 60], max_tokens=1))
    assert client.counters.sent == 0
    with pytest.raises(BudgetError):
        client.ask(Request("", [b"\x89PNG\r\n\x1a\n"], max_tokens=1))


def test_accounts_of_one_ledger_are_apart(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    small, other = Budget(max_requests=1, name="small"), Budget(max_requests=1, name="other")
    for budget in (small, other):
        ledger.settle(ledger.reserve(budget, Spent(1, 10, 0.5)), budget, "answered", Spent(1, 4, 0.25))
    assert ledger.spent("small") == ledger.spent("other") == Spent(1, 4, 0.25)
    with pytest.raises(BudgetError, match="small"):
        ledger.reserve(small, Spent(1, 1, 0))


def test_a_ledger_reads_what_another_wrote_and_outlives_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    one, two, budget = Ledger(path), Ledger(path), Budget()
    entry = one.reserve(budget, Spent(1, 100))
    assert two.spent() == Spent(1, 100)  # under way counts at its estimate
    one.settle(entry, budget, "answered", Spent(1, 30))
    with path.open("a") as file:
        file.write('{"id": "cut sh')
    two.reserve(budget, Spent(1, 7))
    assert Ledger(path).spent() == one.spent() == two.spent() == Spent(2, 37)
    assert json.loads(path.read_text().splitlines()[-1])["outcome"] == "reserved"


def test_a_ledger_that_was_removed_begins_at_nothing(tmp_path: Path) -> None:
    ledger, budget = Ledger(tmp_path / "ledger.jsonl"), Budget(max_requests=1)
    ledger.settle(ledger.reserve(budget, Spent(1, 5)), budget, "answered", Spent(1, 5))
    (tmp_path / "ledger.jsonl").unlink()
    assert ledger.spent() == Spent()
    ledger.reserve(budget, Spent(1, 5))


@pytest.mark.parametrize("wrong", [{"max_usd": 1.0}, {"max_usd": 1.0, "usd_per_million_input": 1.0}, {"max_requests": -1}])
def test_senseless_budgets_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError):
        Budget(**wrong)


def test_a_limit_in_the_environment_that_is_no_number_is_named() -> None:
    with pytest.raises(ValueError, match="SHEAF_FM_MAX_USD"):
        Budget.from_environment({"SHEAF_FM_MAX_USD": "five"})


HAMMER = """
import sys
from pathlib import Path
from sheaf.common.fm import Budget, BudgetError, Ledger, Spent
ledger, budget, taken = Ledger(Path(sys.argv[1])), Budget(max_requests=300), 0
try:
    while True:
        ledger.settle(ledger.reserve(budget, Spent(1, 3)), budget, "answered", Spent(1, 2))
        taken += 1
except BudgetError:
    print(taken)
"""


def test_processes_hammering_one_ledger_take_exactly_what_there_is(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    command = [sys.executable, "-c", HAMMER, str(path)]
    jobs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    taken = [int(job.communicate(timeout=60)[0]) for job in jobs]
    assert sum(taken) == 300
    assert Ledger(path).spent() == Spent(300, 600)
    assert len(path.read_text().splitlines()) == 600


def test_a_ledger_is_locked_while_it_is_read_and_written(tmp_path: Path) -> None:
    ledger, budget, done = Ledger(tmp_path / "ledger.jsonl"), Budget(), threading.Event()
    ledger.reserve(budget, Spent(1, 1))
    with (tmp_path / "ledger.jsonl").open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        thread = threading.Thread(target=lambda: (ledger.reserve(budget, Spent(1, 1)), done.set()))
        thread.start()
        assert not done.wait(0.2)
    thread.join()
    assert ledger.spent() == Spent(2, 2)
