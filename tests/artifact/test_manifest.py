"""What makes a notebook run again and what does not: manifests and their differences in words."""

import json
import os
from pathlib import Path

import pytest
from toy_project import Toy

from sheaf.artifact.manifest import Digests, diff, notebook_manifest
from sheaf.artifact.sources import Sources, cpp_digest, python_digests
from sheaf.artifact.spec import load_paper


def manifest(toy: Toy, paper: str = "toy_a", name: str = "01_first", profile: str = "smoke", seed: int = 0) -> dict[str, str]:
    return notebook_manifest(load_paper(paper, toy.root), name, profile, seed, toy.root, Digests(toy.root))


def reasons(toy: Toy, before: dict[str, str], **which: str) -> list[str]:
    return diff(before, manifest(toy, **which))


def test_it_covers_what_the_notebook_reaches_and_nothing_else(toy: Toy) -> None:
    found = manifest(toy)
    assert "lib/sheaf/toy_a/first.py::count" in found
    assert "lib/sheaf/toy_a/shared.py::unit" in found, "reached through another module"
    assert "lib/sheaf/artifact/study.py::Study" in found, "reached through the lazy `from sheaf import Study`"
    assert "data/toy_a/facts.csv" in found
    assert {"package torch", "package numpy", "package python", "seed", "setting rounds"} <= set(found)
    assert not [key for key in found if "toy_b" in key or "second" in key or "launch" in key or "/report/" in key]


@pytest.mark.parametrize(
    "text",
    [
        "from sheaf.toy_a.shared import unit\n\n\n# a comment\ndef count(rounds):\n    return (rounds\n        * unit())\n",
        '"""What this is."""\nfrom sheaf.toy_a.shared import unit\ndef count(rounds):\n    "Doc."\n    return rounds * unit()',
    ],
    ids=["comment and layout", "docstring"],
)
def test_cosmetic_edits_change_nothing(toy: Toy, text: str) -> None:
    before = manifest(toy)
    toy.module("toy_a", "first", text)
    for path in toy.root.rglob("*.csv"):
        os.utime(path)
    assert reasons(toy, before) == []


def test_stored_outputs_and_metadata_of_the_notebook_do_not_count(toy: Toy) -> None:
    before = manifest(toy)
    path = toy.root / "notebooks" / "toy_a" / "01_first.ipynb"
    nb = json.loads(path.read_text())
    nb["cells"][2] |= {"outputs": [{"output_type": "stream", "name": "stdout", "text": "hello"}], "execution_count": 7}
    nb["cells"][2]["source"] = "".join(nb["cells"][2]["source"])  # both forms of a source are valid
    path.write_text(json.dumps(nb))
    assert reasons(toy, before) == []


def edit_module(toy: Toy) -> None:
    toy.module("toy_a", "shared", "def unit():\n    return 2\n")


def edit_cell(toy: Toy) -> None:
    path = toy.root / "notebooks" / "toy_a" / "01_first.ipynb"
    path.write_text(path.read_text().replace("# 01_first", "# The first"))


def edit_data(toy: Toy) -> None:
    (toy.root / "data" / "toy_a" / "facts.csv").write_text("a,b\n1,3\n")


def edit_setting(toy: Toy) -> None:
    path = toy.root / "notebooks" / "toy_a" / "paper.toml"
    path.write_text(path.read_text().replace("rounds = 2", "rounds = 3"))


def edit_claim(toy: Toy) -> None:
    path = toy.root / "notebooks" / "toy_a" / "paper.toml"
    path.write_text(path.read_text().replace('">= 1"', '">= 2"'))


def add_module(toy: Toy) -> None:
    toy.module("toy_a", "extra", "X = 1\n")
    toy.module("toy_a", "first", "from sheaf.toy_a import extra\n\n\ndef count(rounds):\n    return rounds * extra.X\n")


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (edit_module, ["lib/sheaf/toy_a/shared.py changed: unit"]),
        (edit_cell, ["notebooks/toy_a/01_first.ipynb changed: cell 1"]),
        (edit_data, ["data/toy_a/facts.csv changed"]),
        (edit_setting, ["setting rounds: 2 -> 3"]),
        (edit_claim, ["paper.toml claim C01 changed"]),
        (
            add_module,
            [
                "lib/sheaf/toy_a/extra.py is now used",
                "lib/sheaf/toy_a/first.py changed: top level, count",
                "lib/sheaf/toy_a/shared.py is no longer used",
            ],
        ),
    ],
)
def test_each_real_change_is_named(toy: Toy, edit, words: list[str]) -> None:
    before = manifest(toy)
    edit(toy)
    assert reasons(toy, before) == words


def test_a_change_reaches_only_dependants(toy: Toy) -> None:
    second, other = manifest(toy, name="02_second"), manifest(toy, "toy_b", "01_only")
    edit_module(toy)
    edit_cell(toy)
    assert reasons(toy, second, name="02_second") == []
    assert reasons(toy, other, paper="toy_b", name="01_only") == []


def test_seed_profile_and_number_of_seeds_count(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    assert diff(manifest(toy), manifest(toy, seed=1)) == ["seed: 0 -> 1"]
    assert diff(manifest(toy), manifest(toy, profile="laptop")) == ["setting rounds: 2 -> 4"]
    laptop = manifest(toy, profile="laptop")
    monkeypatch.setenv("SHEAF_SEEDS", "9")
    assert diff(laptop, manifest(toy, profile="laptop")) == ["setting SHEAF_SEEDS: not set -> 9"]


def test_named_variables_count_except_at_smoke(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TOY_MODEL", raising=False)
    path = toy.paper("toy_a", ["01_first", "02_second"])
    path.write_text(path.read_text().replace('name = "01_first"', 'name = "01_first"\nenvironment = ["TOY_MODEL"]', 1))
    smoke, laptop, other = manifest(toy), manifest(toy, profile="laptop"), manifest(toy, name="02_second", profile="laptop")
    monkeypatch.setenv("TOY_MODEL", "small")
    assert reasons(toy, smoke) == []
    assert reasons(toy, laptop, profile="laptop") == ["environment TOY_MODEL: not set -> small"]
    assert reasons(toy, other, name="02_second", profile="laptop") == []


def test_a_browser_counts_for_what_can_launch_one(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "browser" not in manifest(toy, profile="laptop")
    toy.module("toy_a", "shared", "from sheaf.common.browser import launch\n\ndef unit():\n    return launch\n")
    monkeypatch.setenv("SHEAF_CHROMIUM", "nowhere")
    assert manifest(toy, profile="laptop")["browser"] == "absent"


def test_external_data_counts_except_at_smoke(toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy.paper("toy_a", ["01_first", "02_second"], extra='external = ["big"]')
    monkeypatch.setenv("SHEAF_DATA", str(tmp_path / "elsewhere"))
    smoke, laptop = manifest(toy), manifest(toy, profile="laptop")
    (tmp_path / "elsewhere" / "big").mkdir(parents=True)
    (tmp_path / "elsewhere" / "big" / "rows.csv").write_text("1\n")
    assert reasons(toy, smoke) == []
    assert sorted(reasons(toy, laptop, profile="laptop")) == ["external/big was removed", "external/big/rows.csv is new"]


def test_kernel_sources_count_without_their_comments(toy: Toy) -> None:
    op = toy.root / "kernels" / "sheaf_kernels" / "adder"
    op.mkdir(parents=True)
    (op.parent / "__init__.py").touch()
    (op / "__init__.py").write_text("def add(a, b):\n    return a + b\n")
    (op / "cpu.cpp").write_text('// one\nint add(int a, int b) { return a + b; } // "x"\n')
    toy.paper("toy_a", ["01_first", "02_second"], extra='kernels = ["adder"]')
    before = manifest(toy)
    (op / "cpu.cpp").write_text("/* two\n lines */\n  int add(int a, int b) { return a + b; }\n")
    assert reasons(toy, before) == []
    (op / "cpu.cpp").write_text("int add(int a, int b) { return b + a; }\n")
    assert reasons(toy, before) == ["kernels/sheaf_kernels/adder/cpu.cpp changed"]


def test_a_comment_mark_inside_a_string_is_no_comment() -> None:
    assert cpp_digest('auto url = "http://a";') != cpp_digest('auto url = "http://b";')
    assert cpp_digest("char c = '\"'; // x") == cpp_digest("char c = '\"';")


def test_digests_are_per_definition() -> None:
    a = python_digests("x = 1\ndef f():\n    return 1\nclass A:\n    pass\n")
    b = python_digests("x = 1\nclass A:\n    'doc'\n\n\ndef f():\n    return 2\n")
    assert {name for name in a if a[name] != b[name]} == {"f"}


def test_a_module_named_in_a_string_is_reached(toy: Toy) -> None:
    modules, _ = Sources(toy.root).reach(["run(['torchrun', '-m', 'sheaf.toy_a.shared'])"])
    assert "sheaf.toy_a.shared" in modules


def test_magics_and_broken_cells_are_survived(toy: Toy) -> None:
    modules, outside = Sources(toy.root).reach(["%matplotlib inline\nfrom sheaf.toy_a import first\nimport numpy", "def ("])
    assert "sheaf.toy_a.first" in modules
    assert outside == {"numpy"}


def test_a_damaged_digest_cache_is_made_anew(toy: Toy) -> None:
    (toy.root / ".sheaf").mkdir()
    (toy.root / ".sheaf" / "digests.json").write_text("{")
    assert manifest(toy)["data/toy_a/facts.csv"]


def test_a_missing_or_broken_notebook_is_named(toy: Toy) -> None:
    path = toy.root / "notebooks" / "toy_a" / "01_first.ipynb"
    path.write_text("{}")
    with pytest.raises(ValueError, match=r"toy_a/01_first\.ipynb is not a readable notebook"):
        manifest(toy)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"01_first\.ipynb is listed in paper.toml but does not exist"):
        manifest(toy)
