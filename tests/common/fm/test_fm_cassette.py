"""Cassettes: what was recorded is replayed without network or key, and what was not is named."""

import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import BaseModel

from sheaf.common.fm import Answer, Cassette, CassetteError, Client, Request, Usage
from sheaf.common.fm.fake_server import last_text
from sheaf.common.fm.request import prepare
from sheaf.common.fm.transport import Redactor


class Word(BaseModel):
    word: str


def answer(body: dict) -> str:
    text = last_text(body)
    return '{"word": "fixed"}' if "schema" in text else '{"wrd": 1}' if text == "misfit" else f"about {text}"


@pytest.fixture
def tape(serve: Callable, connect: Callable, tmp_path: Path) -> Path:
    client = connect(serve(answer), cassette=Cassette(tmp_path / "tape.jsonl", record=True))
    client.map([Request("s", [text]) for text in ("a", "b", "a")])
    client.ask(Request("s", ["misfit"], schema=Word))
    return tmp_path / "tape.jsonl"


def test_replay_needs_no_network_and_no_key(tape: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise AssertionError("the network was touched")

    monkeypatch.setattr(socket, "socket", refuse)
    client = Client("m", cassette=Cassette(tape))
    assert client.available() and len(client.cassette) == 4
    assert [client.ask(Request("s", [t])).text for t in ("b", "a")] == ["about b", "about a"]
    reply = client.ask(Request("s", ["misfit"], schema=Word))  # the second ask was recorded as well
    assert reply.parsed == Word(word="fixed") and reply.reasked and reply.cached
    assert client.counters.sent == 0


def test_a_missing_request_is_named_with_the_nearest(tape: Path) -> None:
    client = Client("m", cassette=Cassette(tape))
    with pytest.raises(CassetteError, match=r"tape\.jsonl holds 4 replies, none to 'never asked' \(model m"):
        client.ask(Request("s", ["never asked"]))
    with pytest.raises(CassetteError, match="differs in temperature"):
        client.ask(Request("s", ["a"], temperature=0.5))
    with pytest.raises(CassetteError, match="differs in model"):
        client.ask(Request("s", ["a"], model="n"))


def test_recording_again_adds_nothing_twice(serve: Callable, connect: Callable, tape: Path) -> None:
    before = tape.read_text()
    client = connect(serve(answer), cassette=Cassette(tape, record=True))
    client.ask(Request("s", ["a"]))
    assert tape.read_text() == before
    client.ask(Request("s", ["c"]))
    assert len(Cassette(tape)) == 5


def test_what_is_cached_is_recorded_as_well(serve: Callable, connect: Callable, tmp_path: Path) -> None:
    server = serve(answer)
    connect(server).ask(Request("", ["a"]))
    connect(server, cassette=Cassette(tmp_path / "new.jsonl", record=True)).ask(Request("", ["a"]))
    assert len(Cassette(tmp_path / "new.jsonl")) == 1 and len(server.bodies) == 1


def test_unusable_cassettes_say_so(tmp_path: Path) -> None:
    with pytest.raises(CassetteError, match=r"no cassette gone\.jsonl"):
        Cassette(tmp_path / "gone.jsonl")
    (tmp_path / "bad.jsonl").write_text('{"fingerprint": "x"}\n')
    with pytest.raises(CassetteError, match="line 1"):
        Cassette(tmp_path / "bad.jsonl")


def test_a_cassette_redacts_what_an_older_cache_may_hold(tmp_path: Path) -> None:
    secret = "canary-0123456789"
    tape = Cassette(tmp_path / "tape.jsonl", record=True)
    made = prepare(Request("", [f"text {secret}"]), "m", "host")
    tape.add(made, Answer(f"answer {secret}", "stop", "m", Usage(1, 1)), Redactor(secret).value)
    assert secret not in tape.path.read_text()
    assert Cassette(tape.path).get(made).text == "answer <redacted>"
