"""The key goes to the endpoint and nowhere else: not into files, logs, errors, reprs or cassettes."""

import json
import logging
import pickle
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from sheaf.common.fm import Cassette, Client, FMError, Reply, Request
from sheaf.common.fm.fake_server import Fault, last_text
from sheaf.common.fm.transport import Redactor

KEY = "sk-canary-7f3a9b2c5d8e1f4a6b0c"


def spiteful(body: dict) -> str | Fault:
    """Quotes the key wherever an endpoint can put text."""
    text = last_text(body)
    if text.startswith("status"):
        return Fault("status", int(text.split()[1]), (("X-Key", KEY),), text=f"Incorrect API key provided: {KEY}")
    # The letter s as an escape: the key is not in the bytes, only in what they mean.
    escaped = json.dumps({"choices": [{"message": {"content": KEY}}], "model": KEY}).replace("sk-", "\\u0073k-")
    faults = {
        "html": Fault("raw", text=f"<html>{KEY}</html>"),
        "plain": Fault("status", 500, text=KEY),
        "wrapped": Fault("raw", text=json.dumps({"error": {"message": f"bad {KEY}"}})),
        "escaped": Fault("raw", text=escaped),
        "truncate": Fault("truncate"),
        "reset": Fault("reset"),
    }
    return faults.get(text, f"your key is {KEY}")


def test_the_key_is_in_no_file_message_log_or_repr(
    serve: Callable, connect: Callable, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server = serve(spiteful, key=KEY)
    tape = Cassette(tmp_path / "tape.jsonl", record=True)
    client = connect(server, max_retries=1, cassette=tape)
    texts = ["hello", f"my key is {KEY}", "html", "plain", "wrapped", "escaped", "truncate", "reset"]
    texts += [f"status {status}" for status in (400, 401, 403, 404, 429, 500)]
    results = client.map([Request(f"system {KEY}", [text]) for text in texts])
    replies = [r for r in results if isinstance(r, Reply)]
    errors = [r for r in results if isinstance(r, FMError)]
    assert len(replies) == 3 and len(errors) == 11
    assert {r.text for r in replies} == {"your key is <redacted>", "<redacted>"}
    shown = [repr(r) + str(r) for r in results] + ["".join(traceback.format_exception(e)) for e in errors]
    shown += [repr(client), repr(vars(client)), repr(vars(client._sender)), repr(client.counters), repr(tape)]
    shown += [repr(e.__cause__) + repr(e.__context__) for e in errors]
    shown += [caplog.text, *capfd.readouterr()]
    assert len(caplog.records) > len(texts)  # the libraries' own debug lines were looked through as well
    assert any("retried" in line or "failed" in line for line in caplog.messages)
    for text in shown:
        assert KEY not in text and KEY[3:] not in text
    files = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert {"tape.jsonl", "ledger.jsonl"} <= {p.name for p in files} and len(files) >= 5
    for path in files:
        assert KEY.encode() not in path.read_bytes() and KEY not in path.name


def test_wrong_keys_and_urls_are_refused_without_showing_them() -> None:
    for options in ({"api_key": KEY + " x"}, {"api_key": KEY + "\nX: y"}, {"base_url": f"https://user:{KEY}@host/v1"},
                    {"base_url": f"https://host/v1?api-key={KEY}"}):  # fmt: skip
        with pytest.raises(ValueError) as caught:
            Client("m", **options)
        assert KEY not in "".join(traceback.format_exception(caught.value))


def test_a_client_cannot_be_pickled_with_its_key() -> None:
    with pytest.raises((TypeError, AttributeError, pickle.PicklingError)):
        pickle.dumps(Client("m", api_key=KEY))


def test_keys_quoted_in_part_are_taken_out_of_messages() -> None:
    assert Redactor(None).message("Incorrect API key: sk-proj-****abcd. See") == "Incorrect API key: <redacted>. See"
    assert Redactor("none").text("none of these") == "none of these"  # a placeholder is not a secret


def test_no_redirect_carries_the_key_elsewhere(serve: Callable, connect: Callable) -> None:
    other = serve(lambda body: "caught")
    server = serve(lambda body: Fault("status", 307, (("Location", f"{other.url}/chat/completions"),)))
    with pytest.raises(FMError, match="redirect"):
        connect(server).ask(Request("", ["q"]))
    assert other.bodies == []
