"""Requests: what is refused, what is sent, and that their identity changes with every field."""

import base64
import dataclasses
from pathlib import Path

import pytest
from pydantic import BaseModel

from sheaf.common.fm import Request, RequestError
from sheaf.common.fm.request import prepare

PNG = b"\x89PNG\r\n\x1a\n" + b"one"
JPEG = b"\xff\xd8\xff" + b"two"


class Step(BaseModel):
    action: str
    nth: int = 0


class Other(BaseModel):
    action: str


def test_text_and_images_are_sent_in_order_as_data_urls(tmp_path: Path) -> None:
    (tmp_path / "frame.png").write_bytes(PNG)
    made = prepare(Request("sys", ["before", tmp_path / "frame.png", "between", JPEG]), "m", "host")
    system, user = made.wire()["messages"]
    assert system == {"role": "system", "content": "sys"}
    assert [part["type"] for part in user["content"]] == ["text", "image_url", "text", "image_url"]
    urls = [part["image_url"]["url"] for part in user["content"][1::2]]
    assert [url.split(",")[0] for url in urls] == ["data:image/png;base64", "data:image/jpeg;base64"]
    assert [base64.b64decode(url.split(",")[1]) for url in urls] == [PNG, JPEG]
    assert [part["text"] for part in user["content"][::2]] == ["before", "between"]


def test_only_the_first_images_are_kept_under_the_cap() -> None:
    pictures = [PNG + bytes([i]) for i in range(5)]
    made = prepare(Request("", ["look", *pictures]), "m", "host", max_images=2)
    sent = [p["image_url"]["url"] for p in made.wire()["messages"][0]["content"] if p["type"] == "image_url"]
    assert made.images_dropped == 3
    assert [base64.b64decode(url.split(",")[1]) for url in sent] == pictures[:2]


def test_a_schema_is_sent_as_a_strict_json_schema() -> None:
    sent = prepare(Request("", ["x"], schema=Step), "m", "host").wire()["response_format"]
    assert sent["type"] == "json_schema"
    assert sent["json_schema"]["strict"] is True
    assert sent["json_schema"]["schema"]["required"] == ["action", "nth"]
    assert sent["json_schema"]["schema"]["additionalProperties"] is False


def test_parameters_left_to_the_endpoint_are_not_sent() -> None:
    body = prepare(Request("", ["x"], temperature=None), "m", "host", tokens_name="max_completion_tokens").wire()
    assert set(body) == {"model", "messages", "max_completion_tokens"}


def test_the_key_changes_with_every_field_and_with_nothing_else() -> None:
    base = Request("s", ["a", PNG], schema=Step, model="m", max_tokens=10, temperature=0.0, seed=1)
    changes = [
        {"system": "t"}, {"parts": ["b", PNG]}, {"parts": ["a", PNG + b"!"]}, {"parts": [PNG, "a"]}, {"parts": ["a", JPEG]},
        {"schema": Other}, {"schema": None}, {"max_tokens": 11}, {"temperature": 0.1}, {"temperature": None}, {"seed": 2},
        {"seed": None}, {"sample": 1},
    ]  # fmt: skip
    variants = [base, *(dataclasses.replace(base, **change) for change in changes)]
    keys = [prepare(r, "m", "host").key for r in variants]
    keys += [prepare(base, "m2", "host").key, prepare(base, "m", "host2").key]
    assert len(set(keys)) == len(keys)
    assert prepare(dataclasses.replace(base), "m", "host").key == keys[0]


def test_the_fingerprint_leaves_the_endpoint_out() -> None:
    here, there = (prepare(Request("", ["x"]), "m", host) for host in ("a", "b"))
    assert here.fingerprint == there.fingerprint and here.key != there.key


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"parts": []}, "empty"), ({"parts": "text"}, "list"), ({"parts": [1]}, "int"), ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": 3.0}, "0 to 2"),
    ],
)  # fmt: skip
def test_wrong_requests_are_refused_with_what_is_accepted(change: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Request(**({"system": "", "parts": ["x"]} | change))


def test_unusable_images_are_named(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("plain")
    unusable = [(tmp_path / "gone.png", r"gone\.png"), (tmp_path / "notes.txt", "neither PNG nor JPEG"), (b"GIF89a", "neither")]
    for part, said in unusable:
        with pytest.raises(RequestError, match=said):
            prepare(Request("", [part]), "m", "host")
