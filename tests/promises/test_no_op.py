"""What reruns, and why: nothing when nothing changed, exactly the dependants of every kind of real change."""

import json
import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from ledger import Promise
from toy_project import Toy, build

pytestmark = [
    pytest.mark.slow,
    pytest.mark.promise(
        "no-op",
        "Nothing runs when nothing changed; after a real change exactly what depends on it runs, and the reason is printed.",
        "every file touched, reformatted, commented, reordered, moved with its folder or copied: no job; each kind of real "
        "change, seed, variable and package version included: the set of notebooks that run is compared, and the reason",
    ),
]
FIRST, SECOND, ONLY = "toy_a/01_first", "toy_a/02_second", "toy_b/01_only"
ALL = {FIRST, SECOND, ONLY}
EXTRA = 'kernels = ["adder"]'
CPP = "// adds\nint add(int a, int b) {\n  return a + b;\n}\n"
SECOND_CODE = "import toypack\n\n\ndef count(rounds):\n    return rounds + 1\n\n\ndef unused():\n    return 0\n"
CONSTANT = "EXTRA = 2\n\n\ndef count(rounds):\n    return rounds + EXTRA\n"
Change = Callable[[Toy], dict[str, str] | list[str] | None]  # what to pass to the command: variables or words


def project(root: Path) -> Toy:
    """The toy with what else a paper can depend on: a kernel, a package, settings of one notebook, a named variable."""
    toy = build(root)
    package = root / "kernels" / "sheaf_kernels"
    (package / "adder").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "build.py").write_text("")
    (package / "adder" / "__init__.py").write_text('"""Adds."""\n\n\ndef add(a, b):\n    return a + b\n')
    (package / "adder" / "cpu.cpp").write_text(CPP)
    spec = toy.paper("toy_b", ["01_only"], extra=EXTRA)
    spec.write_text(spec.read_text().replace("timeout = 300\n", 'timeout = 300\nenvironment = ["TOY_ENDPOINT"]\n'))
    spec = toy.paper("toy_a", ["01_first", "02_second"])
    spec.write_text(spec.read_text().replace("rounds = 4\n", "rounds = 4\n[profiles.laptop.02_second]\nspeed = 1\n"))
    toy.module("toy_b", "more", "def count(rounds):\n    return rounds + 2\n")
    release(toy, "1.0")
    (root / "site" / "toypack.py").write_text("")
    toy.module("toy_a", "second", SECOND_CODE)
    return toy


def release(toy: Toy, version: str) -> None:
    """Install a version of the package that toy_a/02_second imports."""
    shutil.rmtree(toy.root / "site" / "toypack-1.0.dist-info", ignore_errors=True)
    folder = toy.root / "site" / f"toypack-{version}.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: toypack\nVersion: {version}\n")


def variables(toy: Toy) -> dict[str, str]:
    paths = [toy.root / "lib", toy.root / "kernels", toy.root / "site"]
    return {"PYTHONPATH": os.pathsep.join(map(str, paths)), "TOY_ENDPOINT": "http://one.example"}


def reproduce(toy: Toy, *words: str, **env: str) -> tuple[set[str], str, int]:
    """Which notebooks ran or would run, what was printed, and the exit code."""
    done = toy.sheaf("reproduce", "--profile", "laptop", "--jobs", "2", *words, **(variables(toy) | env))
    names = re.findall(r"^  (\S+/\S+) (?:would run|runs):", done.stdout, re.MULTILINE)
    return set(names), done.stdout + done.stderr, done.returncode


def edit(name: str, old: str, new: str) -> Change:
    def change(toy: Toy) -> None:
        file = toy.root / name
        assert old in file.read_text(), f"{old!r} is not in {name}"
        file.write_text(file.read_text().replace(old, new, 1))

    return change


def write(name: str, text: str | None) -> Change:
    def change(toy: Toy) -> None:
        file = toy.root / name
        if text is None:
            file.unlink()
        else:
            file.write_text(text)

    return change


def cells(name: str, work: Callable[[dict], None]) -> Change:
    """Change a notebook as an editor would: its JSON."""

    def change(toy: Toy) -> None:
        file = toy.root / name
        nb = json.loads(file.read_text())
        work(nb)
        file.write_text(json.dumps(nb))

    return change


def _outputs(nb: dict) -> None:
    for number, cell in enumerate(nb["cells"]):
        if cell["cell_type"] == "code":
            cell |= {"execution_count": number + 1, "outputs": [{"output_type": "stream", "name": "stdout", "text": "x"}]}
        cell["metadata"] |= {"collapsed": False, "execution": {"iopub.status.busy": "2026-01-01T00:00:00Z"}}
    nb["metadata"]["widgets"] = {"state": {}}


def _touch(toy: Toy) -> None:
    for file in toy.root.rglob("*"):
        if file.is_file() and ".sheaf" not in file.parts:
            os.utime(file)


def _copy_over(toy: Toy) -> None:
    """Every source written anew with the same content, as a checkout of another branch and back does."""
    for file in [*toy.root.glob("notebooks/**/*"), *toy.root.glob("lib/**/*.py"), *toy.root.glob("data/**/*")]:
        if file.is_file():
            body = file.read_bytes()
            file.unlink()
            file.write_bytes(body)


TABLE_B = "results/laptop/toy_b/tables/T01.csv"
LIB_B = "lib/sheaf/toy_b/only.py"
SHARED, TOML_A, TOML_B = "lib/sheaf/toy_a/shared.py", "notebooks/toy_a/paper.toml", "notebooks/toy_b/paper.toml"
BOOK_A, BOOK_B, FACTS = "notebooks/toy_a/01_first.ipynb", "notebooks/toy_b/01_only.ipynb", "data/toy_a/facts.csv"
ADDER, STATS = "kernels/sheaf_kernels/adder/", "lib/sheaf/common/stats.py"
HARMLESS: dict[str, Change] = {
    "nothing": lambda toy: None,
    "every file touched": _touch,
    "every source written again": _copy_over,
    "a function reformatted, its docstring and comments changed": write(
        SHARED, '"""Said better."""\n\ndef unit():\n    # the one\n    return (\n        1\n    )\n'
    ),
    "functions reordered": write(
        "lib/sheaf/toy_a/second.py",
        "import toypack\n\n\ndef unused():\n    return 0\n\n\ndef count(rounds):\n    return rounds + 1\n",
    ),
    "paper.toml commented and spaced": edit(TOML_A, "rounds = 4", "# four\n\nrounds    =    4   # rounds"),
    "another summary of the paper": edit(TOML_A, "Counts.", "Counts again."),
    "C++ commented and reindented": write(
        ADDER + "cpu.cpp", "/* adds two */\nint add(int a, int b) {\n\n      return a + b;  // sum\n}\n"
    ),
    "outputs and metadata of a notebook": cells(BOOK_A, _outputs),
    "a notebook saved with other spacing": cells(BOOK_A, lambda nb: None),
    "a paper's module that nothing imports": write("lib/sheaf/toy_a/extra.py", "x = 1\n"),
    "a hidden file beside the data": write("data/toy_a/.notes", "x"),
    "a variable that nobody names": lambda toy: {"TOY_OTHER": "x"},
}
REAL: dict[str, tuple[Change, set[str], str]] = {
    "library function": (write(SHARED, '"""Shared."""\n\n\ndef unit():\n    """One."""\n    return 3\n'), {FIRST},
                         "lib/sheaf/toy_a/shared.py changed: unit"),
    "library constant": (write(LIB_B, CONSTANT), {ONLY}, LIB_B + " changed: "),
    "library module new": (write(LIB_B, "from sheaf.toy_b.more import count\n"), {ONLY}, "lib/sheaf/toy_b/more.py is now used"),
    "library of all papers": (edit(STATS, '\n__all__', "\nFRESH = 1\n__all__"), ALL, STATS + " changed: top level"),
    "kernel source": (edit(ADDER + "cpu.cpp", "a + b", "b + a"), {ONLY}, ADDER + "cpu.cpp changed"),
    "kernel function": (edit(ADDER + "__init__.py", "a + b", "b + a"), {ONLY}, ADDER + "__init__.py changed: add"),
    "setting of a paper": (edit(TOML_B, "rounds = 4", "rounds = 5"), {ONLY}, "setting rounds: 4 -> 5"),
    "setting of one notebook": (edit(TOML_A, "speed = 1", "speed = 2"), {SECOND}, "setting speed: 1 -> 2"),
    "criterion": (edit(TOML_A, '">= 1"', '">= 2"'), {FIRST}, "paper.toml claim C01 changed"),
    "title of a table": (edit(TOML_B, 'title = "Counts"', 'title = "Sums"'), {ONLY}, "paper.toml table T01 changed"),
    "data": (write(FACTS, "a,b\n1,3\n"), {FIRST, SECOND}, FACTS + " changed"),
    "data new": (write("data/toy_a/more.csv", "a\n"), {FIRST, SECOND}, "data/toy_a/more.csv is new"),
    "data removed": (write(FACTS, None), {FIRST, SECOND}, FACTS + " was removed"),
    "code cell": (edit(BOOK_B, "[value]", "[value, value]"), {ONLY}, f"{BOOK_B} changed: cell "),
    "prose": (edit(BOOK_A, "# 01_first", "# The first"), {FIRST}, f"{BOOK_A} changed: cell 1"),
    "cell removed": (cells(BOOK_A, lambda nb: nb["cells"].pop(0)), {FIRST}, f"{BOOK_A} changed: "),
    "seed": (lambda toy: ["--seed", "1"], ALL, "seed: 0 -> 1"),
    "variable that a notebook names": (lambda toy: {"TOY_ENDPOINT": "http://two.example"}, {ONLY}, "TOY_ENDPOINT: http://one"),
    "number of seeds": (lambda toy: {"SHEAF_SEEDS": "3"}, ALL, "setting SHEAF_SEEDS: not set -> 3"),
    "package version": (lambda toy: release(toy, "1.1"), {SECOND}, "package toypack: 1.0 -> 1.1"),
    "result edited": (write(TABLE_B, "count\n99\n"), {ONLY}, TABLE_B + " was changed after the run"),
    "result removed": (write(TABLE_B, None), {ONLY}, TABLE_B + " is missing"),
}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    toy = project(tmp_path_factory.mktemp("made") / "project")
    names, out, code = reproduce(toy)
    assert (names, code) == (ALL, 0), out
    return toy.root


@pytest.fixture
def toy(made: Path, tmp_path: Path) -> Toy:
    return fresh(made, tmp_path / "project")


def fresh(made: Path, root: Path) -> Toy:
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(made, root, symlinks=True)
    return Toy(root)


def asked(given: dict[str, str] | list[str] | None) -> tuple[list[str], dict[str, str]]:
    return (given, {}) if isinstance(given, list) else ([], given or {})


def test_nothing_changed_is_no_job(promise: Promise, made: Path, tmp_path: Path) -> None:
    slowest = 0.0
    for what in list(HARMLESS)[:: promise.size(full=1, fast=3)]:
        change = HARMLESS[what]
        toy = fresh(made, tmp_path / "project")  # the folder moved as well
        words, env = asked(change(toy))
        before = {p: p.stat().st_mtime_ns for p in (toy.root / "results").rglob("*") if p.is_file()}
        begun = time.monotonic()
        names, out, code = reproduce(toy, *words, **env)
        slowest = max(slowest, time.monotonic() - begun)
        same = before == {p: p.stat().st_mtime_ns for p in (toy.root / "results").rglob("*") if p.is_file()}
        ok = not names and code == 0 and "nothing to run, all 3 notebooks are up to date" in out
        shown = "another summary" in what  # which the paper's page shows, so it is written anew
        promise.trial(ok and (same or shown), f"{what}: {sorted(names)} ran, code {code}, results same: {same}\n{out[-300:]}")
    promise.figures["run with nothing to do, s"] = round(slowest, 1)


def test_a_real_change_runs_its_dependants_and_says_why(promise: Promise, made: Path, tmp_path: Path) -> None:
    for what in list(REAL)[:: promise.size(full=1, fast=3)]:
        change, dependants, reason = REAL[what]
        toy = fresh(made, tmp_path / "project")
        words, env = asked(change(toy))
        names, out, _ = reproduce(toy, "--dry-run", *words, **env)
        told = f"{what}: {sorted(names)} would run, not {sorted(dependants)}:\n{out}"
        promise.trial(names == dependants and reason in out, told)
        if not promise.full and what != "library function":
            continue
        copies = {p: p.stat().st_mtime_ns for p in (toy.root / "results").rglob("notebooks/*.ipynb")}
        names, out, code = reproduce(toy, *words, **env)
        ran = {f"{p.parent.parent.name}/{p.stem}" for p, stamp in copies.items() if p.stat().st_mtime_ns != stamp}
        ok = code == 0 and names == ran == dependants and reason in out
        promise.trial(ok, f"{what}: {sorted(ran)} ran, code {code}, not {sorted(dependants)}:\n{out[-500:]}")
        names, out, code = reproduce(toy, *words, **env)
        promise.trial(not names and code == 0, f"{what}: once done, {sorted(names)} would run again")
