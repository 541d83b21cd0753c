"""An endpoint that misbehaves on purpose: nothing is lost, nothing is paid twice, nothing is repeated in vain."""

import logging
import random
import threading
import time
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path

import pytest

from sheaf.common.fm import Backoff, EndpointError, FMError, Reply, Request, UnansweredError
from sheaf.common.fm.fake_server import Fault, last_text
from sheaf.common.fm.transport import Failure, Transport

TRANSIENT = {
    "429": Fault("status", 429, (("Retry-After", "0"),)),
    "500": Fault("status", 500),
    "503": Fault("status", 503),
    "408": Fault("status", 408),
    "stall": Fault("stall", seconds=2),
    "truncate": Fault("truncate"),
    "malformed": Fault("malformed"),
    "reset": Fault("reset"),
    "html": Fault("raw", text="<html>Bad gateway</html>"),
    "empty": Fault("raw", text=""),
    "no choices": Fault("raw", text='{"choices": []}'),
    "wrapped": Fault("raw", text='{"error": {"code": 429, "message": "slow down"}}'),
    "null": Fault("raw", text="null"),
}


def failing(faults: list[Fault]) -> Callable[[dict], str | Fault]:
    """Each request meets the faults in turn, then gets an answer."""
    met: dict[str, int] = {}
    lock = threading.Lock()

    def answer(body: dict) -> str | Fault:
        text = last_text(body)
        with lock:
            met[text] = met.get(text, 0) + 1
            turn = met[text]
        return faults[turn - 1] if turn <= len(faults) else f"answer to {text}"

    return answer


@pytest.mark.parametrize("name", TRANSIENT)
def test_a_passing_fault_is_outlived(serve: Callable, connect: Callable, name: str) -> None:
    server = serve(failing([TRANSIENT[name]] * 2))
    client = connect(server, timeout=0.5 if name == "stall" else 5)
    assert client.ask(Request("", ["q"])).text == "answer to q"
    assert client.counters.retries == 2 and len(server.bodies) == 3
    assert client.ask(Request("", ["q"])).cached and len(server.bodies) == 3


@pytest.mark.parametrize("name", TRANSIENT)
def test_a_lasting_fault_ends_after_the_allowed_attempts(serve: Callable, connect: Callable, name: str) -> None:
    server = serve(failing([TRANSIENT[name]] * 99))
    client = connect(server, timeout=0.1 if name == "stall" else 5, max_retries=2)
    with pytest.raises(UnansweredError, match="in 3 attempts") as caught:
        client.ask(Request("", ["q"]))
    assert caught.value.attempts == len(server.bodies) == 3
    assert len(client.cache) == 0


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422, 302])
def test_a_final_refusal_is_not_repeated(serve: Callable, connect: Callable, status: int) -> None:
    fault = Fault("status", status, (("Location", "http://127.0.0.1:9/"),) if status == 302 else (), text="not like this")
    server = serve(failing([fault] * 99))
    with pytest.raises(EndpointError, match="redirect" if status == 302 else "not like this") as caught:
        connect(server).ask(Request("", ["q"]))
    assert caught.value.status == status and len(server.bodies) == 1


def test_an_empty_account_is_not_asked_again(serve: Callable, connect: Callable) -> None:
    text = '{"error": {"code": 429, "message": "x"}}'
    server = serve(lambda body: Fault("raw", text=text.replace("429", '"insufficient_quota"').replace("x", "pay first")))
    with pytest.raises(EndpointError, match="pay first"):
        connect(server).ask(Request("", ["q"]))
    assert len(server.bodies) == 1


def test_a_storm_of_429_and_worse_loses_nothing_and_pays_nothing_twice(serve: Callable, connect: Callable) -> None:
    rng, lock = random.Random(5), threading.Lock()
    faults = [f for name, f in TRANSIENT.items() if name != "stall"]

    def answer(body: dict) -> str | Fault:
        with lock:
            bad = rng.random() < 0.6
            fault = rng.choice(faults)
        return fault if bad else last_text(body)

    server = serve(answer)
    asked = [Request("", [f"q{i}"]) for i in range(60)]
    results = connect(server, max_retries=2).map(asked)
    kept = {place for place, r in enumerate(results) if isinstance(r, Reply)}
    assert 0 < len(kept) < 60  # the storm is stronger than two retries: some are left for the next call
    while not all(isinstance(r, Reply) for r in results):
        results = connect(server, max_retries=2).map(asked)
        assert all(results[place].cached for place in kept)
    assert [r.text for r in results] == [f"q{i}" for i in range(60)]
    assert len(server.answered) == 60 and set(server.answered.values()) == {1}


@pytest.mark.parametrize(
    "header",
    [("Retry-After", "0.3"), ("retry-after-ms", "300"), ("Retry-After", "date")],
)
def test_retry_after_is_honoured_by_every_worker(serve: Callable, connect: Callable, header: tuple[str, str]) -> None:
    arrived: list[float] = []

    def answer(body: dict) -> str | Fault:
        arrived.append(time.monotonic())
        if len(arrived) > 1:
            return "ok"
        value = formatdate(time.time() + 2, usegmt=True) if header[1] == "date" else header[1]
        return Fault("status", 429, ((header[0], value),))

    client = connect(serve(answer), concurrency=1)
    client.map([Request("", ["a"]), Request("", ["b"])])
    assert arrived[1] - arrived[0] >= 0.3 and len(arrived) == 3


def test_one_workers_retry_after_holds_the_others_back(serve: Callable, connect: Callable) -> None:
    arrived: list[float] = []

    def answer(body: dict) -> str | Fault:
        arrived.append(time.monotonic())
        return Fault("status", 429, (("Retry-After", "0.4"),)) if len(arrived) == 1 else "ok"

    client = connect(serve(answer))
    first = threading.Thread(target=client.ask, args=(Request("", ["a"]),))
    first.start()
    while client.counters.retries == 0:
        time.sleep(0.005)
    client.ask(Request("", ["b"]))
    first.join()
    assert min(arrived[1:]) - arrived[0] >= 0.4


def test_a_retry_after_beyond_patience_is_reported_at_once(serve: Callable, connect: Callable) -> None:
    server = serve(lambda body: Fault("status", 429, (("Retry-After", "3600"),)))
    with pytest.raises(UnansweredError, match="3600 s"):
        connect(server).ask(Request("", ["q"]))
    assert len(server.bodies) == 1


@pytest.mark.parametrize("nonsense", ["soon", "nan", "-5", ""])
def test_a_senseless_retry_after_is_ignored(serve: Callable, connect: Callable, nonsense: str) -> None:
    server = serve(failing([Fault("status", 429, (("Retry-After", nonsense),))]))
    assert connect(server).ask(Request("", ["q"])).text == "answer to q"


def test_a_slow_body_is_read_to_its_end(serve: Callable, connect: Callable) -> None:
    server = serve(lambda body: Fault("slow", seconds=1.0, text="worth the wait"))
    client = connect(server, timeout=0.6)  # it is longer than the allowed silence, and never that silent
    assert client.ask(Request("", ["q"])).text == "worth the wait" and len(server.bodies) == 1


def test_a_body_that_trickles_ends_at_the_deadline(serve: Callable, connect: Callable) -> None:
    server = serve(lambda body: Fault("slow", seconds=9, text="too late"))
    begun = time.monotonic()
    with pytest.raises(UnansweredError, match=r"within 0\.3 s"):
        connect(server, timeout=1, deadline=0.3, max_retries=0).ask(Request("", ["q"]))
    assert time.monotonic() - begun < 4  # not the nine that the body takes


def test_an_endpoint_that_is_not_there_costs_nothing(serve: Callable, connect: Callable) -> None:
    server = serve(lambda body: "x")
    client = connect(server, base_url="http://127.0.0.1:9/v1", max_retries=1)
    with pytest.raises(UnansweredError, match="connection"):
        client.ask(Request("", ["q"]))
    assert client.spent().requests == 0


def test_an_answer_without_usage_is_charged_at_the_bound(serve: Callable, connect: Callable) -> None:
    text = '{"choices": [{"message": {"content": "hi"}}]}'
    client = connect(serve(lambda body: Fault("raw", text=text)))
    reply = client.ask(Request("", ["q"], max_tokens=50))
    assert (reply.text, reply.usage.estimated, reply.usage.output_tokens) == ("hi", True, 50)


def test_a_cache_that_cannot_be_written_stops_before_paying(serve: Callable, connect: Callable, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file in the way")
    server = serve(lambda body: "x")
    with pytest.raises(FMError, match="cannot be written"):
        connect(server).ask(Request("", ["q"]))
    assert server.bodies == []


def test_a_disk_that_fills_up_after_paying_loses_no_answer(
    serve: Callable, connect: Callable, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    server = serve(lambda body: "x")
    client = connect(server)
    monkeypatch.setattr("sheaf.common.fm.cache.os.fsync", full)
    with caplog.at_level(logging.WARNING):
        assert client.ask(Request("", ["q"])).text == "x"
    assert client.ask(Request("", ["q"])).cached and len(server.bodies) == 1
    assert "No space left" in caplog.text
    assert not list(client.cache.folder.rglob("*.part"))


def test_waits_double_up_to_the_longest_with_jitter() -> None:
    rng, backoff = random.Random(1), Backoff(first=1, longest=5)
    waits = [[backoff.wait(n, None, rng) for _ in range(200)] for n in (1, 2, 3, 4, 9)]
    for found, most in zip(waits, (1, 2, 4, 5, 5), strict=True):
        assert most / 2 <= min(found) < most * 0.6 and most * 0.9 < max(found) <= most
    assert 7 <= backoff.wait(1, 7.0, rng) <= 8


def test_the_library_does_not_repeat_by_itself(serve: Callable) -> None:
    server = serve(failing([Fault("status", 500)] * 9))
    transport = Transport(server.url, None, 5, 5, 1)
    body = {"model": "m", "messages": [{"role": "user", "content": "q"}]}
    result = transport.send(body, bound=None)  # type: ignore[arg-type]
    transport.close()
    assert isinstance(result, Failure) and result.status == 500 and len(server.bodies) == 1


def test_an_interrupt_ends_the_waits_between_attempts(serve: Callable, connect: Callable) -> None:
    server = serve(lambda body: "ok" if last_text(body) == "good" else Fault("status", 500))
    client = connect(server, concurrency=2, backoff=Backoff(first=60, longest=60))

    def stop(done: int, total: int) -> None:
        while client.counters.retries == 0:  # the other one is waiting now
            time.sleep(0.005)
        raise KeyboardInterrupt

    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        client.map([Request("", ["good"]), Request("", ["bad"])], progress=stop)
    assert time.monotonic() - begun < 25 and len(server.bodies) == 2  # not the half minute that it would wait
