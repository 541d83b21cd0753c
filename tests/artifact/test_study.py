"""Study and records: what a notebook asks for is stored, judged and checked; nothing is half-written or forgotten."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sheaf.artifact.record import RecordError, atomic_write, digest, load, merge
from sheaf.artifact.spec import SpecError
from sheaf.artifact.study import Study
from sheaf.common import plots

TOML = """
profiles.smoke = {seeds = 2}
profiles.laptop = {seeds = 4}
[paper]
id = "toy"
title = "A toy"
authors = ["A. Author"]
venue = "Nowhere"
year = 2020
summary = "Nothing."
[[notebook]]
name = "01_a"
title = "First"
[[notebook]]
name = "02_b"
title = "Second"
[[table]]
id = "T1"
title = "A table"
where = "table 1"
notebook = "01_a"
[[figure]]
id = "F1"
title = "A figure"
where = "figure 1"
notebook = "01_a"
[[figure]]
id = "F9"
title = "Cannot be made"
where = "figure 9"
notebook = "01_a"
missing = "its data were never published"
[[claim]]
id = "C1"
says = "x is large"
where = "abstract"
notebook = "01_a"
published = 4
reproduced_if = ">= 3"
[[claim]]
id = "C2"
says = "y is large"
where = "abstract"
notebook = "01_a"
reproduced_if = ">= 3"
profiles = ["laptop"]
[[claim]]
id = "C3"
says = "z is large"
where = "abstract"
notebook = "02_b"
reproduced_if = ">= 3"
"""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "notebooks" / "toy").mkdir(parents=True)
    (tmp_path / "notebooks" / "toy" / "paper.toml").write_text(TOML)
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.setenv("SHEAF_ROOT", str(tmp_path))
    for name in ("SHEAF_RESULTS", "SHEAF_SEEDS", "SHEAF_HEARTBEAT", "SHEAF_DATA"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def whole_run(profile: str = "smoke") -> Study:
    study = Study("toy", notebook="01_a", profile=profile)
    study.table("T1", pd.DataFrame({"x": [1.0, 2.5]}), published=pd.DataFrame({"x": [1.0, 2.0]}))
    fig, ax = plots.figure()
    ax.plot([0, 1])
    study.figure("F1", fig)
    study.claim("C1", [4.0, 4.1, 4.2])
    study.claim("C2", np.array([1.0, 1.1]))
    study.verdicts()
    return study


def test_a_whole_run_is_recorded(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole_run()
    assert capsys.readouterr().out.rstrip().endswith("sheaf: toy/01_a complete: T1, F1, F9, C1, C2")
    folder = root / "results" / "smoke" / "toy"
    part = load(folder / "records" / "01_a.json")
    made = part["entries"]
    assert made["C1"]["verdict"] == "reproduced" and made["C1"]["n"] == 3 and made["C1"]["published"] == 4
    assert made["C2"]["verdict"] == "out of reach" and "laptop" in made["C2"]["why"] and made["C2"]["measured"] is None
    assert made["F9"]["missing"] == "its data were never published"
    assert (folder / made["T1"]["file"]).read_text() == "x\n1\n2.5\n"
    assert (folder / made["T1"]["published_file"]).read_text() == "x\n1\n2\n"
    facts = part["notebooks"]["01_a"]["provenance"]
    assert {
        "commit",
        "dirty",
        "packages",
        "cpu",
        "cores",
        "seed",
        "settings",
        "wall_s",
        "cpu_s",
        "peak_mb",
        "data",
    } <= set(facts)
    assert str(root) not in json.dumps(part)


def test_merge_lists_what_has_not_run(root: Path) -> None:
    whole_run()
    record = load(merge("toy", "smoke", root))
    assert list(record["notebooks"]) == ["01_a"]
    assert record["entries"]["C3"]["missing"] == "its notebook has not been run"
    assert record["entries"]["C1"]["verdict"] == "reproduced"


def test_a_profile_that_can_test_the_claim_judges_it(root: Path) -> None:
    whole_run("laptop")
    made = load(root / "results/laptop/toy/records/01_a.json")["entries"]
    assert made["C2"]["verdict"] == "not reproduced"


def test_forgotten_entries_unknown_ids_and_wrong_kinds_are_refused(root: Path) -> None:
    study = Study("toy", notebook="01_a")
    with pytest.raises(RuntimeError, match=r"did not make T1, F1, C1"):
        study.verdicts()
    with pytest.raises(SpecError, match="no entry 'C3'"):
        study.claim("C3", [1, 2])
    with pytest.raises(SpecError, match="T1 is a table"):
        study.claim("T1", [1, 2])
    with pytest.raises(SpecError, match="no notebook '03_c'"):
        Study("toy", notebook="03_c")
    assert not (root / "results").exists()


@pytest.mark.parametrize("samples", [[], [float("nan"), 4.0], [float("inf"), 4.0], [4.0]])
def test_missing_or_invalid_samples_never_pass(
    root: Path, samples: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    Study("toy", notebook="01_a").claim("C1", samples)
    out = capsys.readouterr().out
    assert "no verdict" in out and "reproduced" not in out


@pytest.mark.parametrize("damage", ["value", "truncate", "binary", "format", "empty"])
def test_a_damaged_record_is_refused(root: Path, damage: str) -> None:
    whole_run()
    path = root / "results/smoke/toy/records/01_a.json"
    text = path.read_text()
    match damage:
        case "value":
            path.write_text(text.replace('"measured": 4.1', '"measured": 9.1', 1))
        case "truncate":
            path.write_text(text[: len(text) // 2])
        case "binary":
            path.write_bytes(b"\x00\xff" * 50)
        case "format":
            path.write_text(text.replace('"format": 1', '"format": 2', 1))
        case "empty":
            path.write_text("")
    assert path.read_bytes() != text.encode()
    with pytest.raises(RecordError, match="delete it and run the notebook again"):
        load(path)
    with pytest.raises(RecordError):
        merge("toy", "smoke", root)


def test_digest_ignores_key_order_but_no_value() -> None:
    assert digest({"a": 1, "b": [1.5, None]}) == digest({"b": [1.5, None], "a": 1, "digest": "x"})
    assert digest({"a": 1}) != digest({"a": 2})


def test_atomic_write_leaves_the_old_file_when_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "kept.txt"
    atomic_write(path, "old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        atomic_write(path, "new")
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["kept.txt"]


def test_seeds_and_generators_follow_the_seed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = Study("toy", notebook="01_a", profile="laptop", seed=5)
    assert study.seeds() == [5, 6, 7, 8] and study.seeds(2) == [5, 6]
    monkeypatch.setenv("SHEAF_SEEDS", "6")
    assert len(study.seeds()) == 6
    assert len(Study("toy", notebook="01_a").seeds()) == 2, "smoke never changes size"
    assert study.rng("a").random() == Study("toy", notebook="01_a", seed=5).rng("a").random() != study.rng("b").random()


def test_progress_beats_into_a_file_in_batch(root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    beat = tmp_path / "beat.jsonl"
    monkeypatch.setenv("SHEAF_HEARTBEAT", str(beat))
    assert list(Study("toy", notebook="01_a").progress(range(3), "counting")) == [0, 1, 2]
    lines = [json.loads(line) for line in beat.read_text().splitlines()]
    assert (
        [line["done"] for line in lines] == [0, 1, 2, 3] and lines[-1]["total"] == 3 and lines[0]["what"] == "counting"
    )
