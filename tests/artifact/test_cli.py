"""The command line: bad input is one sentence and exit code 1, and the questions it answers without running anything."""

import hashlib
import subprocess

import pytest
from toy_project import Toy


def refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode == 1, done.stdout + done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("sheaf: error: ")
    for word in words:
        assert word in lines[0]


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["reproduce", "--papers", "toy_a,toy_z"], ["no paper 'toy_z'", "papers here: toy_a, toy_b"]),
        (["reproduce", "--profile", "huge"], ["no profile 'huge'", "smoke, laptop, gpu, paper"]),
        (["reproduce", "toy_a", "--profile", "gpu"], ["toy_a has no profile 'gpu'", "smoke, laptop"]),
        (["reproduce", "--executor", "cloud"], ["no executor 'cloud'", "local, slurm"]),
        (["reproduce", "--jobs", "many"], ["jobs is 'many'", "whole number"]),
        (["reproduce", "--jobs=-2"], ["jobs is -2"]),
        (["reproduce", "--seed", "1.5"], ["seed is '1.5'"]),
        (["run", "toy_a", "09_none", "--profile", "smoke"], ["toy_a has no notebook '09_none'", "01_first, 02_second"]),
        (["why", "toy_a/09_none", "--profile", "smoke"], ["toy_a has no notebook '09_none'"]),
        (["status", "toy_q"], ["no paper 'toy_q'"]),
        (["bogus"], ["bogus"]),
    ],
)
def test_bad_arguments_are_refused_in_one_sentence(toy: Toy, command: list[str], words: list[str]) -> None:
    refused(toy.sheaf(*command), *words)


def test_slurm_without_slurm_says_so(toy: Toy) -> None:
    (toy.root / "bin").mkdir()
    refused(toy.reproduce("--executor", "slurm", PATH=str(toy.root / "bin")), "sbatch", "EXECUTOR=local")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('venue = "Toys"', "venue = Toys", ["not valid TOML"]),
        ('venue = "Toys"\n', "", ["paper.venue", "required"]),
        ("year = 2024", 'year = "soon"', ["paper.year"]),
        ('reproduced_if = ">= 1"', 'reproduced_if = "about 1"', ["is not understood"]),
        ('notebook = "01_only"\n', 'notebook = "07_none"\n', ["07_none"]),
        ("timeout = 300", "timeout = -1", ["timeout"]),
    ],
)
def test_a_malformed_paper_toml_is_named(toy: Toy, old: str, new: str, words: list[str]) -> None:
    path = toy.root / "notebooks" / "toy_b" / "paper.toml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    refused(toy.reproduce(), "notebooks/toy_b/paper.toml", *words)


def test_a_listed_notebook_that_is_missing_is_named(toy: Toy) -> None:
    (toy.root / "notebooks" / "toy_b" / "01_only.ipynb").unlink()
    refused(toy.reproduce(), "toy_b/01_only.ipynb is listed in paper.toml but does not exist")


def test_outside_a_checkout_says_so(toy: Toy, tmp_path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = toy.sheaf("status", SHEAF_ROOT=str(elsewhere))
    refused(done, "no paper here")


def test_dry_run_status_and_why_touch_nothing(toy: Toy) -> None:
    dry = toy.reproduce("--papers", "toy_b toy_a", "--jobs", "", "--force", "", "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert "3 of 3 notebooks to run" in dry.stdout
    assert "toy_b/01_only would run: it has not been run to its end here" in dry.stdout
    status = toy.sheaf("status", "--profile", "smoke", "toy_a")
    assert [line.split()[:3] for line in status.stdout.splitlines()] == [
        ["toy_a/01_first", "never", "run"],
        ["toy_a/02_second", "never", "run"],
    ]
    why = toy.sheaf("why", "toy_a/02_second", "--profile", "smoke")
    assert why.stdout.splitlines()[0] == "toy_a/02_second: would run"
    assert [p.name for p in (toy.root / ".sheaf").iterdir()] == ["digests.json"], "a cache, and nothing that counts"
    assert not (toy.root / "results").exists()


def test_help_lists_the_commands(toy: Toy) -> None:
    done = toy.sheaf("--help")
    assert done.returncode == 0
    for name in ("reproduce", "status", "why", "report", "check", "store", "bench", "data"):
        assert f"    {name}" in done.stdout


def test_data_is_checked_against_its_sums(toy: Toy, tmp_path) -> None:
    folder = toy.root / "data" / "toy_a"
    digest = hashlib.sha256((folder / "facts.csv").read_bytes()).hexdigest()
    (folder / "SHA256SUMS").write_text(f"{digest}  ./facts.csv\n")
    toy.paper("toy_b", ["01_only"], extra='external = ["big"]')
    good = toy.sheaf("data")
    assert good.returncode == 0, good.stderr
    assert "data/toy_a: 1 files, intact" in good.stdout
    assert "external big (toy_b): absent" in good.stdout
    (folder / "facts.csv").write_text("a,b\n1,9\n")
    bad = toy.sheaf("data")
    assert bad.returncode == 1
    assert "data/toy_a/facts.csv differs; restore it" in bad.stderr


def test_report_joins_the_parts_of_a_record_again(toy: Toy) -> None:
    assert toy.sheaf("run", "toy_b", "01_only", "--profile", "smoke").returncode == 0
    record = toy.results("toy_b") / "record.json"
    record.unlink(missing_ok=True)
    done = toy.sheaf("report")
    assert done.returncode == 0, done.stderr
    assert '"C01"' in record.read_text()
