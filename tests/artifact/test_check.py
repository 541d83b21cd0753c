"""`sheaf check` finds every kind of disagreement: a sound project has none, and each mutation has its own."""

import json
import re
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from matplotlib.figure import Figure

from sheaf.artifact.check import check
from sheaf.artifact.record import digest, merge
from sheaf.artifact.study import Study

TOML = """
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
[profiles.smoke]
[profiles.laptop]
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
notebook = "02_b"
reproduced_if = "in [1, 2]"
profiles = ["gpu"]
[[claim]]
id = "C3"
says = "z is exact"
where = "abstract"
notebook = "02_b"
published = 1
unit = "s"
reproduced_if = "within 10% of 1"
statistic = "exact"
"""
PARAMETERS = 'profile = "smoke"\nseed = 0\nresults_dir = None'
OPEN = "from sheaf import Study\nstudy = Study('toy', notebook='{}', profile=profile, seed=seed, results_dir=results_dir)"
CELLS = {
    "01_a": [OPEN.format("01_a"), "study.table('T1', frame)", "study.figure('F1', fig)\nstudy.claim('C1', x)"],
    "02_b": [OPEN.format("02_b"), "for name in ['C2', 'C3']:\n    study.claim(name, z)"],
}
LAPTOP = "results/laptop/toy"


def code(source: str, k: int, tags: tuple[str, ...] = ()) -> dict[str, Any]:
    said = [{"output_type": "stream", "name": "stdout", "text": ["said\n"]}] if k > 2 else []
    meta = {"tags": list(tags)} if tags else {}
    return {"cell_type": "code", "id": f"c{k}", "metadata": meta, "source": source, "execution_count": k, "outputs": said}


def notebook(cells: list[str]) -> dict[str, Any]:
    body = [code(PARAMETERS, 1, ("parameters",)), *[code(c, k) for k, c in enumerate([*cells, "study.verdicts()"], 2)]]
    return {"cells": body, "metadata": {"kernelspec": {"name": "python3"}}, "nbformat": 4, "nbformat_minor": 5}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sound")
    (root / "pyproject.toml").write_text("")
    folder = root / "notebooks" / "toy"
    folder.mkdir(parents=True)
    (folder / "paper.toml").write_text(TOML)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHEAF_ROOT", str(root))
        patch.delenv("SHEAF_RESULTS", raising=False)
        for name, cells in CELLS.items():
            (folder / f"{name}.ipynb").write_text(json.dumps(notebook(cells)))
            study = Study("toy", notebook=name, profile="laptop")
            if name == "01_a":
                study.table("T1", pd.DataFrame({"a": [1.5]}), published=pd.DataFrame({"a": [1.6]}))
                study.figure("F1", Figure())
                study.claim("C1", [3.5, 4.0, 4.5, 4.1])
            else:
                study.claim("C2", [1.0, 2.0])
                study.claim("C3", [1.05])
            study.verdicts()
            executed = root / LAPTOP / "notebooks" / f"{name}.ipynb"
            executed.parent.mkdir(exist_ok=True)
            shutil.copy(folder / f"{name}.ipynb", executed)
        merge("toy", "laptop", root)
    return root


@pytest.fixture
def project(sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("SHEAF_RESULTS", raising=False)
    shutil.copytree(sound, tmp_path / "project")
    return tmp_path / "project"


def problems(root: Path) -> list[str]:
    return [str(problem) for problem in check(root)]


def test_a_sound_project_has_no_problem(project: Path) -> None:
    assert problems(project) == []


def edit_toml(root: Path, old: str, new: str) -> None:
    file = root / "notebooks" / "toy" / "paper.toml"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new, 1))


def edit_cells(root: Path, name: str, edit: Callable[[list[dict[str, Any]]], Any]) -> None:
    file = root / "notebooks" / "toy" / f"{name}.ipynb"
    nb = json.loads(file.read_text())
    edit(nb["cells"])
    file.write_text(json.dumps(nb))


def source(k: int, text: str) -> Callable[[Path], None]:
    return lambda root: edit_cells(root, "01_a", lambda cells: cells[k].update(source=text))


def toml(old: str, new: str) -> Callable[[Path], None]:
    return lambda root: edit_toml(root, old, new)


def cells(edit: Callable[[list[dict[str, Any]]], Any]) -> Callable[[Path], None]:
    return lambda root: edit_cells(root, "01_a", edit)


def said(k: int, text: str) -> Callable[[Path], None]:
    return cells(lambda c: c[k].update(outputs=[{"output_type": "stream", "name": "stdout", "text": [text]}]))


def record(edit: Callable[[dict[str, Any]], Any], part: str = "01_a") -> Callable[[Path], None]:
    """A record changed and sealed again: what a wrong program would write, not a damaged file."""

    def mutate(root: Path) -> None:
        for file in (root / LAPTOP / "records" / f"{part}.json", root / LAPTOP / "record.json"):
            found = json.loads(file.read_text())
            edit(found)
            found["digest"] = digest(found)
            file.write_text(json.dumps(found))

    return mutate


def entry(id: str, part: str = "01_a", **changes: Any) -> Callable[[Path], None]:
    return record(lambda found: found["entries"][id].update(changes), part)


def outdated(root: Path) -> None:
    """A part written after the merge."""
    before = (root / LAPTOP / "record.json").read_bytes()
    record(lambda found: found["entries"]["C1"].update(note="new"))(root)
    (root / LAPTOP / "record.json").write_bytes(before)


def file(name: str, text: str) -> Callable[[Path], None]:
    def mutate(root: Path) -> None:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)

    return mutate


IGNORE = ["nbval-ignore-output"]
ERROR = [{"output_type": "error", "ename": "E", "evalue": "e", "traceback": ["t"]}]
STDERR = [{"output_type": "stream", "name": "stderr", "text": ["Warning\n"]}]
MUTATIONS: dict[str, tuple[Callable[[Path], None], str]] = {
    # paper.toml
    "toml does not parse": (toml("[paper]", "[paper"), r"notebooks/toy/paper.toml: .*not valid TOML"),
    "toml has an unknown key": (toml("year = 2020", "yaer = 2020"), r"paper.toml: paper.year: .*required"),
    "toml has a bad criterion": (toml(">= 3", "about 3"), r"paper.toml: claim.0.reproduced_if: .*not understood"),
    "notebook has no file": (lambda r: (r / "notebooks/toy/02_b.ipynb").unlink(), r"paper.toml: notebook 02_b: has no file"),
    "notebook is not listed": (
        lambda r: shutil.copy(r / "notebooks/toy/01_a.ipynb", r / "notebooks/toy/03_c.ipynb"), r"does not list 03_c.ipynb",
    ),
    "folder has no toml": (file("notebooks/stray/01_a.ipynb", "{}"), r"notebooks/stray: paper.toml: is missing"),
    "kernel is unknown": (toml("year = 2020", 'year = 2020\nkernels = ["none"]'), r"paper.kernels: names 'none'"),
    # the notebook's shape
    "notebook is damaged": (file("notebooks/toy/01_a.ipynb", "{"), r"toy/01_a.ipynb: the file: is not a readable notebook"),
    "tour is damaged": (file("notebooks/start_here.ipynb", "{"), r"start_here.ipynb: the file: is not a readable notebook"),
    "no parameters cell": (cells(lambda c: c[0].update(metadata={})), r"parameters: 0 cells are tagged"),
    "two parameters cells": (cells(lambda c: c[1].update(metadata=c[0]["metadata"])), r"parameters: 2 cells are tagged"),
    "another profile": (source(0, PARAMETERS.replace("smoke", "laptop")), r"parameters: profile is not 'smoke'"),
    "no seed": (source(0, 'profile = "smoke"\nresults_dir = None'), r"parameters: seed is not 0"),
    "seed is false": (source(0, PARAMETERS.replace("= 0", "= False")), r"parameters: seed is not 0"),
    "results go somewhere": (source(0, PARAMETERS.replace("None", "'x'")), r"parameters: results_dir is not None"),
    "one parameter more": (source(0, PARAMETERS + "\nspeed = 3"), r"parameters: speed is not a parameter"),
    "no closing cell": (cells(lambda c: c.pop()), r"last cell: does not call study.verdicts"),
    "something after the closing cell": (cells(lambda c: c.append(code("x = 1", 9))), r"last cell: does not call"),
    "long cell": (source(3, "study.figure('F1', f)\nstudy.claim('C1', x)\n" + "x = 1\n" * 24), r"cell 4: has 26 lines"),
    "not Python": (source(2, "study.table('T1', )("), r"cell 3: is not valid Python"),
    # ids
    "id is misspelt": (source(2, "study.table('T2', frame)"), r"T2: study.table\('T2'\) makes an entry which paper.toml lacks"),
    "entry is forgotten": (source(2, "x = 1"), r"T1: paper.toml assigns this table to the notebook"),
    "id of another notebook": (source(2, "study.table('T1', f)\nstudy.claim('C2', x)"), r"C2: .*assigns to 02_b"),
    "id of another kind": (source(2, "study.figure('T1', f)"), r"T1: is a table in paper.toml; call study.table"),
    "id of no entry is put together": (source(2, "study.table('T1', f)\nstudy.table(f'X{1}', f)"), r"f'X\{1\}': makes no table"),
    "id is put together of anything": (source(2, "study.table('T1', f)\nstudy.table(f'{a}{b}', f)"), r"its id cannot be read"),
    "id is computed": (source(2, "study.table('T1', f)\nstudy.table('T' + n, f)"), r"study.table: its id cannot"),
    "looped id is misspelt": (
        lambda r: edit_cells(r, "02_b", lambda c: c[2].update(source="for n in ['C2', 'C4']:\n    study.claim(n, z)")),
        r"02_b.ipynb: C3: paper.toml assigns this claim",
    ),
    "toml has one entry more": (
        toml("[[claim]]", '[[table]]\nid = "T8"\ntitle = "t"\nwhere = "w"\nnotebook = "02_b"\n[[claim]]'), r"02_b.ipynb: T8:",
    ),
    # stored outputs
    "no outputs": (cells(lambda c: [x.update(outputs=[]) for x in c]), r"outputs: no stored outputs"),
    "a cell was never run": (cells(lambda c: c[2].update(execution_count=None, outputs=[])), r"cells \[3\] were never run"),
    "a traceback is stored": (cells(lambda c: c[2].update(outputs=ERROR)), r"cell 3 stores a traceback"),
    "stderr is stored": (cells(lambda c: c[2].update(outputs=STDERR)), r"cell 3 stores text from stderr"),
    "most are ignored": (
        cells(lambda c: [x.update(metadata={"tags": IGNORE}) for x in c[2:4]]), r"2 of 3 cells with outputs are ignored",
    ),
    "most are ignored by comments": (
        cells(lambda c: [x.update(source="# NBVAL_IGNORE_OUTPUT\n" + x["source"]) for x in c[2:4]]), r"2 of 3 cells",
    ),
    # leaks
    "home folder in an output": (said(2, "/home/somebody/x\n"), r"01_a.ipynb: stored text: holds a machine path: /home/somebody"),
    "secret in an output": (said(2, "canary-0123456789\n"), r"01_a.ipynb: stored text: holds a secret"),
    "secret in a source": (source(2, "study.table('T1', 'canary-0123456789')"), r"01_a.ipynb: stored text: holds a secret"),
    "path in a table": (file("results/laptop/toy/tables/X.csv", "a\n/home/somebody/x\n"), r"tables/X.csv: stored text: holds"),
    "secret in the report": (file("results/index.html", "<p>canary-0123456789</p>"), r"results/index.html: .*secret"),
    "path in the README": (file("README.md", "see /home/somebody/x"), r"README.md: stored text: holds a machine path"),
    "secret in an executed notebook": (
        file(f"{LAPTOP}/notebooks/01_a.ipynb", json.dumps({"cells": [{"source": "canary-0123456789"}]})),
        rf"{LAPTOP}/notebooks/01_a.ipynb: .*secret",
    ),
    # records
    "record is damaged": (file(f"{LAPTOP}/records/01_a.json", "{"), r"records/01_a.json: the file: cannot be read"),
    "record was edited": (
        lambda r: (f := r / LAPTOP / "record.json").write_text(f.read_text().replace("reproduced", "inconclusive", 1)),
        r"record.json: the file: changed after it was written",
    ),
    "record is of an old format": (record(lambda f: f.update(format=0)), r"not a record of format 1"),
    "record has no entries": (record(lambda f: f.pop("entries")), r"entries or notebooks are not there"),
    "record is of another paper": (record(lambda f: f.update(paper="other")), r"paper: is 'other' but the folder says 'toy'"),
    "record is of another profile": (record(lambda f: f.update(profile="gpu")), r"profile: is 'gpu' but the folder"),
    "record of an unknown id": (record(lambda f: f["entries"].update(Z9={})), r"Z9: is not in paper.toml"),
    "record of an unlisted notebook": (
        lambda r: (r / LAPTOP / "records/01_a.json").rename(r / LAPTOP / "records/09_z.json"), r"09_z: is a notebook that",
    ),
    "results of no paper": (file("results/laptop/stray/record.json", "{}"), r"stray: is the result of no paper"),
    "merged record is missing": (lambda r: (r / LAPTOP / "record.json").unlink(), r"record.json: the file: is missing"),
    "merged record is older than its part": (outdated, r"record.json: C1: differs from what its notebook recorded"),
    "merged record lacks an entry": (record(lambda f: f["entries"].pop("C1")), r"record.json: C1: is in paper.toml but not in"),
    "executed notebook is gone": (
        lambda r: (r / LAPTOP / "notebooks/01_a.ipynb").unlink(), r"01_a: its executed notebook notebooks/01_a.ipynb is not",
    ),
    "entry of another notebook": (entry("C1", notebook="02_b"), r"C1: notebook is '02_b', in paper.toml '01_a'"),
    "entry of another kind": (entry("T1", kind="figure"), r"T1: kind is 'figure', in paper.toml 'table'"),
    # claims
    "criterion was moved in paper.toml": (toml(">= 3", ">= 3.9"), r"C1: criterion is '>= 3', in paper.toml '>= 3.9'"),
    "criterion was moved in the record": (entry("C1", criterion=">= 1"), r"C1: criterion is '>= 1', in paper.toml '>= 3'"),
    "published value was moved": (entry("C1", published=3.0), r"C1: published is 3.0, in paper.toml 4.0"),
    "unit was changed": (entry("C3", "02_b", unit="ms"), r"C3: unit is 'ms', in paper.toml 's'"),
    "statistic was changed": (entry("C1", statistic="exact"), r"C1: statistic is 'exact', in paper.toml 'mean'"),
    "verdict was typed": (entry("C1", verdict="not reproduced"), r"C1: verdict is 'not reproduced', but its samples give 'rep"),
    "samples were changed": (entry("C1", samples=[1.0, 1.1]), r"C1: verdict is 'reproduced', but its samples give 'not rep"),
    "mean was changed": (entry("C1", measured=4.8), r"C1: measured is 4.8, but its samples give 4.025"),
    "interval was narrowed": (entry("C1", low=4.0), r"C1: low is 4.0, but its samples give"),
    "n was raised": (entry("C1", n=400), r"C1: n is 400, but its samples give 4"),
    "samples are no numbers": (entry("C1", samples=["x"]), r"C1: its samples are not numbers"),
    "samples are not finite": (entry("C1", samples=["nan", 4.0]), r"C1: verdict is 'reproduced', but its samples give 'no verd"),
    "samples are missing": (entry("C1", samples=[]), r"C1: verdict is 'reproduced', but its samples give 'no verdict'"),
    "out of reach was passed": (entry("C2", "02_b", verdict="reproduced"), r"C2: verdict is 'reproduced' where nothing could"),
    "in reach was evaded": (entry("C1", verdict="out of reach"), r"C1: verdict is 'out of reach', but its samples give 'rep"),
    # files
    "table is gone": (lambda r: (r / LAPTOP / "tables/T1.csv").unlink(), r"T1: its file 'tables/T1.csv' is not there"),
    "table was edited": (file(f"{LAPTOP}/tables/T1.csv", "a\n1.6\n"), r"T1: tables/T1.csv is not the file that was recorded"),
    "figure was edited": (file(f"{LAPTOP}/figures/F1.svg", "<svg/>"), r"F1: figures/F1.svg is not the file"),
    "published table is gone": (lambda r: (r / LAPTOP / "tables/T1.published.csv").unlink(), r"T1: its published_file"),
    "file lies outside": (entry("T1", file="../../../pyproject.toml"), r"T1: its file '../../../pyproject.toml' is not there"),
}  # fmt: skip


@pytest.mark.parametrize("kind", MUTATIONS)
def test_every_mutation_is_found(kind: str, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOY_API_KEY", "canary-0123456789")
    mutate, expected = MUTATIONS[kind]
    mutate(project)
    found = problems(project)
    assert any(re.search(expected, line) for line in found), found
    assert all(line.count(": ") >= 2 and "; " in line for line in found), "file: key: what; fix"
    assert not any("canary-0123456789" in line or str(project) in line for line in found)


@pytest.mark.parametrize("text", ["study.table(f'T{number}', frame)", "for name in ['T1']:\n    study.table(name, frame)"])
def test_ids_may_be_looped_over(text: str, project: Path) -> None:
    source(2, text)(project)
    assert problems(project) == []


def test_a_mutation_is_one_problem_and_not_an_avalanche(project: Path) -> None:
    entry("C3", "02_b", unit="ms")(project)
    assert len(problems(project)) == 2  # in the part and in the merged record


def test_the_toy_is_valid_toml() -> None:
    assert tomllib.loads(TOML)["paper"]["id"] == "toy"
