"""The client on an endpoint that behaves: caching, schemas, order, sharing, limits on concurrency."""

import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import BaseModel

from sheaf.common.fm import Client, FMError, NotConfigured, Reply, Request, RequestError, SchemaError, available
from sheaf.common.fm.fake_server import FakeServer, Fault, last_text

PNG = b"\x89PNG\r\n\x1a\n" + b"x"


class Step(BaseModel):
    action: str
    nth: int


def echo(body: dict) -> str:
    return last_text(body).upper()


def test_a_reply_is_paid_once_and_then_read_from_disk(serve: Callable, connect: Callable) -> None:
    server = serve(echo)
    first = connect(server).ask(Request("s", ["hello"]))
    assert (first.text, first.cached, first.finish_reason, first.model) == ("HELLO", False, "stop", "m (stand-in)")
    assert first.usage.input_tokens > 0 and not first.usage.estimated
    again = connect(server)  # a new client, as in a later run
    reply = again.ask(Request("s", ["hello"]))
    assert (reply.text, reply.cached, reply.usage) == ("HELLO", True, first.usage)
    assert len(server.bodies) == 1
    assert (again.counters.cached, again.counters.sent) == (1, 0)


def test_what_is_cached_needs_no_key_and_no_endpoint_that_answers(serve: Callable, connect: Callable) -> None:
    with FakeServer(echo) as server:
        connect(server).ask(Request("s", ["hello"]))
    assert connect(server, api_key=None).ask(Request("s", ["hello"])).text == "HELLO"


def test_without_a_cache_equal_requests_are_still_paid_once(serve: Callable, connect: Callable) -> None:
    server = serve(echo)
    client = connect(server, cache=None)
    assert [client.ask(Request("", ["a"])).cached for _ in range(3)] == [False, True, True]
    assert len(server.bodies) == 1


def test_samples_of_one_request_are_asked_apart(serve: Callable, connect: Callable) -> None:
    numbers = iter(range(9))
    client = connect(serve(lambda body: str(next(numbers))), concurrency=1)
    asked = [Request("", ["draw"], temperature=1.0, sample=i) for i in range(3)]
    assert [r.text for r in client.map(asked)] == ["0", "1", "2"]
    assert [r.text for r in client.map(asked)] == ["0", "1", "2"]


@pytest.mark.parametrize("damage", [b"", b"{", b"\x00\xff", b"[]", b'{"format": 1}'])
def test_damaged_entries_are_asked_again(serve: Callable, connect: Callable, tmp_path: Path, damage: bytes) -> None:
    server = serve(echo)
    reply = connect(server).ask(Request("", ["a"]))
    path = tmp_path / "cache" / "replies" / reply.key[:2] / f"{reply.key}.json"
    path.write_bytes(damage)
    assert connect(server).ask(Request("", ["a"])).text == "A"
    assert len(server.bodies) == 2
    assert json.loads(path.read_text())["answer"]["text"] == "A"


def test_an_entry_with_one_letter_changed_is_not_believed(serve: Callable, connect: Callable, tmp_path: Path) -> None:
    server = serve(lambda body: "yes indeed")
    reply = connect(server).ask(Request("", ["a"]))
    path = tmp_path / "cache" / "replies" / reply.key[:2] / f"{reply.key}.json"
    path.write_text(path.read_text().replace("yes indeed", "yes indexd"))
    assert connect(server).ask(Request("", ["a"])).text == "yes indeed"
    assert len(server.bodies) == 2


def test_a_reply_is_validated_against_its_schema(serve: Callable, connect: Callable) -> None:
    server = serve(lambda body: '```json\n{"action": "click", "nth": 2}\n```')
    client = connect(server)
    for _ in range(2):  # paid, then cached
        assert client.ask(Request("", ["x"], schema=Step)).parsed == Step(action="click", nth=2)
    assert server.bodies[0]["response_format"]["json_schema"]["name"] == "Step"


def test_a_misfit_is_sent_back_once_and_both_answers_are_kept(serve: Callable, connect: Callable) -> None:
    def answer(body: dict) -> str:
        return '{"action": "click", "nth": 1}' if len(body["messages"]) > 2 else '{"action": "click"}'

    server = serve(answer)
    client = connect(server)
    reply = client.ask(Request("s", ["x"], schema=Step))
    assert reply.parsed == Step(action="click", nth=1) and reply.reasked and not reply.cached
    assert "nth" in last_text(server.bodies[1]) and server.bodies[1]["messages"][2]["content"] == '{"action": "click"}'
    assert client.counters.parse_failures == 1
    assert client.spent().requests == 2 and client.spent().tokens == sum((reply.usage.input_tokens, reply.usage.output_tokens))
    assert connect(server).ask(Request("s", ["x"], schema=Step)).cached
    assert len(server.bodies) == 2


def test_two_misfits_end_the_request_and_are_never_paid_again(serve: Callable, connect: Callable) -> None:
    server = serve(lambda body: "I would rather not")
    for _ in range(3):
        with pytest.raises(SchemaError, match="Step") as caught:
            connect(server).ask(Request("", ["x"], schema=Step))
        assert caught.value.text == "I would rather not"
    assert len(server.bodies) == 2


def test_map_keeps_the_order_and_the_good_ones(serve: Callable, connect: Callable, tmp_path: Path) -> None:
    def answer(body: dict) -> str | Fault:
        return Fault("status", status=400, text="no") if last_text(body) == "q3" else echo(body)

    client = connect(serve(answer, latency=0.002))
    asked = [Request("", [f"q{i}"]) for i in range(12)]
    asked[7] = Request("", [tmp_path / "missing.png"])
    seen: list[tuple[int, int]] = []
    replies = client.map(asked, progress=lambda done, total: seen.append((done, total)))
    assert [r.text if isinstance(r, Reply) else type(r).__name__ for r in replies] == [
        "Q0", "Q1", "Q2", "EndpointError", "Q4", "Q5", "Q6", "RequestError", "Q8", "Q9", "Q10", "Q11",
    ]  # fmt: skip
    assert isinstance(replies[7], RequestError) and isinstance(replies[3], FMError)
    assert seen == [(i, 12) for i in range(1, 13)]
    assert client.map([]) == []


def test_equal_requests_under_way_are_sent_once(serve: Callable, connect: Callable) -> None:
    server = serve(echo, latency=0.1)
    client = connect(server, concurrency=6)
    replies = client.map([Request("", ["same"])] * 6)
    assert [r.text for r in replies] == ["SAME"] * 6
    assert sum(not r.cached for r in replies) == 1 and len(server.bodies) == 1
    assert client.counters.shared + client.counters.cached == 5


def test_no_more_than_the_allowed_number_are_under_way(serve: Callable, connect: Callable) -> None:
    server = serve(echo, latency=0.02)
    client = connect(server, concurrency=3)
    threads = [threading.Thread(target=client.ask, args=(Request("", [str(i)]),)) for i in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert server.most_open == 3 and sum(server.answered.values()) == 12


def test_dropped_images_are_counted(serve: Callable, connect: Callable) -> None:
    client = connect(serve(echo), max_images=16)
    reply = client.ask(Request("", ["look", *[PNG + bytes([i]) for i in range(20)]]))
    assert reply.images_dropped == client.counters.images_dropped == 4


def test_an_interrupt_stores_what_is_under_way_and_sends_no_more(serve: Callable, connect: Callable, tmp_path: Path) -> None:
    server = serve(echo, latency=0.1)
    client = connect(server, concurrency=2)

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        client.map([Request("", [str(i)]) for i in range(20)], progress=stop)
    sent = len(server.bodies)
    assert sent < 20 and len(client.cache) == sent == sum(server.answered.values())
    client.map([Request("", [str(i)]) for i in range(20)])
    assert len(server.bodies) == 20


def test_a_second_line_of_clients_in_one_process_shares_by_claim(serve: Callable, connect: Callable) -> None:
    server = serve(echo, latency=0.1)
    clients = [connect(server) for _ in range(4)]
    threads = [threading.Thread(target=c.ask, args=(Request("", ["same"]),)) for c in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(server.bodies) == 1


@pytest.mark.parametrize(
    ("environ", "usable"),
    [
        ({}, False), ({"OPENAI_API_KEY": "k" * 20}, False), ({"SHEAF_FM_MODEL": "m"}, False),
        ({"OPENAI_API_KEY": " ", "SHEAF_FM_MODEL": "m"}, False), ({"OPENAI_API_KEY": "k" * 20, "SHEAF_FM_MODEL": "m"}, True),
        ({"OPENAI_BASE_URL": "http://127.0.0.1:9/v1", "SHEAF_FM_MODEL": "m"}, True),
    ],
)  # fmt: skip
def test_the_environment_says_whether_there_is_an_endpoint(environ: dict, usable: bool, tmp_path: Path) -> None:
    client = Client.from_environment(environ, cache=tmp_path)
    assert available(environ) == client.available() == usable
    if not usable:
        with pytest.raises(NotConfigured, match="OPENAI_API_KEY"):
            client.ask(Request("", ["x"]))


def test_the_environment_names_model_endpoint_and_limits(serve: Callable, tmp_path: Path) -> None:
    server = serve(echo, key="k" * 20)
    environ = {
        "OPENAI_API_KEY": "k" * 20 + "\n", "OPENAI_BASE_URL": server.url, "SHEAF_FM_MODEL": "named", "SHEAF_FM_MAX_REQUESTS": "7",
    }  # fmt: skip
    with Client.from_environment(environ, cache=tmp_path) as client:
        assert client.ask(Request("", ["x"])).model == "named (stand-in)"
        assert client.ask(Request("", ["x"], model="other")).model == "other (stand-in)"
    assert client.budget.max_requests == 7


@pytest.mark.parametrize(
    "options",
    [
        {"concurrency": 0}, {"timeout": 0}, {"max_retries": -1}, {"max_images": -1}, {"tokens_name": "tokens"},
        {"base_url": "ftp://host/v1"}, {"base_url": "host"}, {"base_url": "https://u:p@host/v1"},
        {"base_url": "https://host/v1?key=1"}, {"api_key": "two words"}, {"api_key": "clé"},
    ],
)  # fmt: skip
def test_settings_that_cannot_work_are_refused(options: dict) -> None:
    with pytest.raises(ValueError):
        Client("m", **options)


def test_a_client_reopens_after_close(serve: Callable, connect: Callable) -> None:
    client = connect(serve(echo))
    client.ask(Request("", ["a"]))
    client.close()
    assert client.ask(Request("", ["b"])).text == "B"
