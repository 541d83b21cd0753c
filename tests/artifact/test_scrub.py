"""Scrubbing: machine paths and secrets go wherever they stand, everything else stays as it was."""

import json
import os
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sheaf.artifact.scrub import find_leaks, notebook_leaks, scrub_notebook, scrub_text

CANARY = "canary-0123456789"
AROUND = ["{}", "at {}:3", '"{}"', "({})", "<td>{}</td>", "file://{}", "\x1b[32m{}\x1b[39m", "a\\n{}\\nb", "x={},", "[{}]"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "it's a project"


@pytest.mark.parametrize("around", AROUND)
def test_paths_go_wherever_they_stand(root: Path, around: str) -> None:
    for path, instead in [
        (f"{root}/lib/x.py", "<project>/lib/x.py"),
        (f"{sys.prefix}/lib/y.py", "<venv>/lib/y.py"),
        (f"{Path(os.__file__).parent}/json/decoder.py", "<python>/json/decoder.py"),
        (f"{Path.home()}/z", "~/z"),
        ("/home/somebody/z", "~/z"),
        ("/Users/somebody/z", "~/z"),
        ("/tmp/tmpab12/z", "<tmp>/z"),
        ("/tmp/ipykernel_77/123.py", "<cell>"),
    ]:
        assert scrub_text(around.format(path), root) == around.format(instead)
        assert len(find_leaks(around.format(path), root)) == 1
        assert find_leaks(around.format(instead), root) == []


@pytest.mark.parametrize("text", [
    "results/laptop/toy/tables/T1.csv", "a/tmp/b", "lib/home/x/y", "1/2", "~/x", "/", "https://arxiv.org/abs/2206.01288",
    "tmp/x", "and/or", "<project>/home/x/y", "8/64 devices", "notebooks/toy/01_a.ipynb", "TOKEN=", "sk-learn", "/tmp",
])  # fmt: skip
def test_other_text_stays(root: Path, text: str) -> None:
    assert scrub_text(text, root) == text
    assert find_leaks(text, root) == []


@pytest.mark.parametrize("name", ["OPENAI_API_KEY", "hf_token", "DB_PASSWORD", "MySecretThing"])
def test_values_of_secret_variables_go(root: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, CANARY)
    assert scrub_text(f"key={CANARY}!", root) == "key=<redacted>!"
    assert find_leaks(f"key={CANARY}!", root) == ["a secret: the value of an environment variable"]


def test_short_values_and_other_variables_are_no_secrets(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USE_KEY", "1")
    monkeypatch.setenv("EDITOR_NAME", CANARY)
    assert scrub_text(f"1 {CANARY}", root) == f"1 {CANARY}"


@pytest.mark.parametrize("secret", [
    "sk-" + "a1B2" * 8, "ghp_" + "a1B2" * 9, "hf_" + "a1B2" * 8, "AKIA" + "A1B2" * 4, "github_pat_" + "a1_B" * 12,
])  # fmt: skip
def test_credentials_are_known_by_their_form(root: Path, secret: str) -> None:
    assert secret not in scrub_text(f"Bearer {secret}", root)
    assert find_leaks(f"Bearer {secret}", root)


def test_user_and_password_of_an_address_go(root: Path) -> None:
    assert scrub_text("https://me:pass@host/x", root) == "https://<redacted>@host/x"


def test_a_leak_is_named_without_repeating_the_secret(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", CANARY)
    assert CANARY not in " ".join(find_leaks(f"{CANARY} {root}/x", root))


def test_every_part_of_a_notebook_is_scrubbed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", CANARY)
    bad = f"{CANARY} {root}/x"
    nb = {
        "metadata": {"papermill": {"input_path": bad}},
        "cells": [
            {"cell_type": "markdown", "source": [bad + "\n", "more"]},
            {"cell_type": "code", "source": bad, "outputs": [
                {"output_type": "stream", "text": ["x\n", bad]},
                {"output_type": "error", "evalue": bad, "traceback": [bad, "y"]},
                {"output_type": "display_data", "data": {"text/html": [bad], "image/svg+xml": bad, "image/png": "/tmp/abc/def"}},
            ]},
        ],
    }  # fmt: skip
    before = json.dumps(nb)
    clean = scrub_notebook(nb, root)
    assert json.dumps(nb) == before
    assert CANARY not in json.dumps(clean) and str(root) not in json.dumps(clean)
    assert clean["cells"][1]["outputs"][2]["data"]["image/png"] == "/tmp/abc/def", "a picture's letters are no path"
    assert notebook_leaks(nb, root) and notebook_leaks(clean, root) == []


def test_a_secret_over_several_lines_is_found(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRIVATE_KEY", "BEGIN\nabcdef\nEND")
    nb = {"cells": [{"source": ["BEGIN\n", "abcdef\n", "END\n"]}]}
    assert notebook_leaks(nb, root)
    assert "abcdef" not in json.dumps(scrub_notebook(nb, root))


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=60), st.sampled_from(["{root}/a", "~", "{home}/b", "/tmp/q/r", "plain"]), st.text(max_size=60))
def test_scrubbed_text_has_no_leak_and_stays_so(before: str, middle: str, after: str) -> None:
    root = Path("/srv/some project")
    clean = scrub_text(before + middle.format(root=root, home=Path.home()) + after, root)
    assert scrub_text(clean, root) == clean
    assert find_leaks(clean, root) == []
