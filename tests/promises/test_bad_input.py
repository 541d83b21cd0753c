"""Bad input at the command line: malformed declarations, notebooks, records, tables and state are one sentence each."""

import json
import shutil
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drive import Said, command, process
from ledger import Promise
from malformed import BYTES, VALUES, mutated, places, toml
from report_project import notebook, tame
from toy_project import build
from watch import writes

from sheaf.artifact.record import digest, file_digest

pytestmark = [
    pytest.mark.promise(
        "bad-input",
        "Whatever is malformed is named in one sentence, with its file and field; nothing is written elsewhere.",
        "values no file should hold at every place of declarations, notebooks, records, tables, matrices, traces, "
        "checkpoints, archives and replies; damaged bytes; links, bombs and pickles",
    ),
    pytest.mark.filterwarnings("ignore"),
]

DECLARED = """
[paper]
id = "toy_b"
title = "A toy"
authors = ["A. Toy"]
venue = "Toys"
year = 2024
arxiv = "2206.01288"
summary = "Counts."
kernels = []
external = ["big"]
[paper.report]
scope = "all"
[[notebook]]
name = "01_only"
title = "Part"
timeout = 60
environment = ["TOY_MODE"]
[profiles.smoke]
rounds = 2
[profiles.smoke.01_only]
sizes = [1, 2]
[profiles.laptop]
rounds = 4
[[table]]
id = "T01"
title = "Counts"
where = "section 1"
notebook = "01_only"
profiles = ["smoke", "laptop"]
[[figure]]
id = "F01"
title = "Counts"
where = "section 1"
notebook = "01_only"
missing = "no data"
[[claim]]
id = "C01"
says = "it counts"
where = "section 1"
notebook = "01_only"
published = 6
unit = "x"
reproduced_if = ">= 1"
statistic = "exact"
reported = "memory"
profiles = ["smoke", "laptop"]
"""
TEXTS = {  # TOML that no value makes
    "unclosed": "[paper",
    "twice": "[paper]\n[paper]\n",
    "key twice": "[paper]\nid = 1\nid = 2\n",
    "a table for a list": "[notebook]\n",
    "deep dots": "a" + ".a" * 5000 + " = 1\n",
    "deep lists": "a = " + "[" * 3000 + "]" * 3000 + "\n",
    "deep tables": "a = " + "{a=" * 3000 + "1" + "}" * 3000 + "\n",
    "digits": "a = " + "9" * 6000 + "\n",
    "a date": "paper = 2024-01-01\n",
    "UTF-16": DECLARED.encode("utf-16").decode("latin-1"),
    "carriage returns": DECLARED.replace("\n", "\r"),
    "settings as deep as TOML goes": DECLARED + "[profiles.gpu]\nx = " + "[" * 400 + "]" * 400 + "\n",
    "a control character": DECLARED.replace("Counts.", "Coun\x07ts."),
    "a list of papers": "[[paper]]\nid = 'toy_b'\n",
}
ASKED = (
    ("check",),
    ("status", "--profile", "smoke"),
    ("why", "toy_b", "--profile", "smoke"),
    ("data",),
    ("reproduce", "--profile", "smoke", "--dry-run"),
    ("report",),
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project of one paper, not yet run."""
    toy = build(tmp_path / "project")
    shutil.rmtree(toy.root / "notebooks" / "toy_a")
    facts = toy.root / "data" / "toy_a" / "facts.csv"
    facts.with_name("SHA256SUMS").write_text(f"{file_digest(facts)}  facts.csv\n")
    (toy.root / "notebooks/toy_b/paper.toml").write_text(DECLARED)
    return toy.root


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    """A project of one paper with records, tables, a figure and executed notebooks."""
    root = tmp_path / "project"
    root.mkdir()
    (root / "pyproject.toml").write_text("")
    tame(root)
    assert command(root, "report").code == 0  # once: drawing libraries make their own caches in the home folder
    return root


def ask(promise: Promise, root: Path, words: tuple[str, ...], what: str, *names: str) -> Said:
    """Run a command on the project as it is now: 0, or 1 with sentences that name every one of ``names``."""
    with writes(root) as outside:
        said = command(root, *words)
    told = said.code == 0 or (said.code == 1 and said.err.startswith("sheaf: ") and all(n in said.err for n in names))
    short = words[0] in ("check", "data", "report") or said.err.count("\n") <= 1
    kept = not said.bare and told and short and not outside
    promise.trial(kept, f"`sheaf {words[0]}`, {what}: exit {said.code}, {outside[:2]}, ...{said.err[-260:]!r}")
    return said


def some(promise: Promise, cases: list[Any], full: int, fast: int, seed: int) -> list[Any]:
    """As many cases as fit, spread over all."""
    count = min(len(cases), promise.size(full, fast))
    return [cases[i] for i in sorted(np.random.default_rng(seed).choice(len(cases), count, replace=False))]


def values(node: Any) -> Iterator[tuple[str, Any]]:
    """(what was done, the changed copy) for every place and every value, and for every place left out."""
    for at in places(node):
        shown = ".".join(map(str, at))
        yield f"without {shown}", mutated(node, at, None, drop=True)
        for name, value in VALUES.items():
            yield f"{name} at {shown}", mutated(node, at, value)


@pytest.mark.slow
def test_declarations(promise: Promise, root: Path) -> None:
    file = root / "notebooks/toy_b/paper.toml"
    for k, (what, spoilt) in enumerate(some(promise, list(values(tomllib.loads(DECLARED))), 600, 30, 1)):
        file.write_text(toml(spoilt), encoding="utf-8", errors="surrogatepass")
        said = ask(promise, root, ASKED[k % len(ASKED)], what, "toy_b")
        field = what.rpartition(" ")[2].split(".")
        if said.code == 1 and "toy_b/paper.toml: " in said.err and "not valid TOML" not in said.err:
            promise.trial(
                any(f in said.err for f in field if not f.isdigit()),
                f"{what}: the field is not named: {said.err[:200]}",
            )
    for k, (what, text) in enumerate(TEXTS.items()):
        file.write_text(text, encoding="utf-8", errors="surrogatepass")
        ask(promise, root, ASKED[k % len(ASKED)], f"TOML, {what}", "notebooks/toy_b/paper.toml")
    for k, (what, data) in enumerate(BYTES.items()):
        file.write_bytes(data)
        ask(promise, root, ASKED[k % len(ASKED)], f"bytes, {what}", "notebooks/toy_b/paper.toml")
    for words in ASKED:
        file.unlink()
        file.symlink_to("/etc/shadow" if words[0] == "check" else "/dev/null")
        ask(promise, root, words, "a link", "toy_b")


OUTPUTS = [
    {"output_type": "stream", "name": "stdout", "text": ["said\n"]},
    {
        "output_type": "execute_result",
        "execution_count": 3,
        "metadata": {},
        "data": {"text/plain": ["1"], "text/html": "<b>1</b>"},
    },
    {
        "output_type": "display_data",
        "metadata": {"image/png": {"width": 3}},
        "data": {"image/png": "iVBO", "image/svg+xml": "<svg/>"},
    },
    {"output_type": "error", "ename": "E", "evalue": "e", "traceback": ["t"]},
]


@pytest.mark.slow
def test_notebooks(promise: Promise, root: Path) -> None:
    file = root / "notebooks/toy_b/01_only.ipynb"
    sound = json.loads(file.read_text())
    sound["cells"][2]["outputs"] = OUTPUTS
    asked = [words for words in ASKED if words[0] in ("check", "status", "why", "reproduce")]
    for k, (what, spoilt) in enumerate(some(promise, list(values(sound)), 400, 30, 2)):
        file.write_text(json.dumps(spoilt))
        ask(promise, root, asked[k % len(asked)], what, "toy_b/01_only.ipynb")
    sources = {
        "brackets": "(" * 5000,
        "a long sum": "x = " + "+".join("1" * 3000),
        "NUL": "x = '\0'",
        "half a character": "x = '\ud800'",
        "negations": "x = " + "-" * 5000 + "1",
        "attributes": "a" + ".a" * 5000,
        "digits": "x = " + "9" * 6000,
        "magic": "%%bash\nexit 1",
        "indented": "   x = 1",
        "a tab": "if x:\n\ty = 1\n        z = 2",
        "f-strings": "f'" + "{x" * 200,
        "lambdas": "lambda: " * 3000 + "1",
    }
    for k, (what, source) in enumerate(sources.items()):
        file.write_text(json.dumps(mutated(sound, ("cells", 2, "source"), source)))
        ask(promise, root, asked[k % len(asked)], f"source, {what}", "toy_b/01_only.ipynb")
    for k, (what, data) in enumerate(BYTES.items()):
        file.write_bytes(data)
        ask(promise, root, asked[k % len(asked)], f"bytes, {what}", "toy_b/01_only.ipynb")
    file.write_bytes(b"\xef\xbb\xbf" + json.dumps(sound).encode())
    ask(promise, root, ("check",), "a byte order mark", "toy_b/01_only.ipynb")
    file.unlink()
    file.mkdir()
    for words in asked:
        ask(promise, root, words, "a folder of that name", "toy_b/01_only.ipynb")


def seal(root: Path, change: Callable[[dict[str, Any]], dict[str, Any]], name: str = "01_network") -> None:
    """Write a changed record over the part of one notebook and over the whole, each with a digest that fits."""
    folder = root / "results/laptop/decentralized"
    for file in (folder / f"records/{name}.json", folder / "record.json"):
        record = change(json.loads(file.read_text()))
        if isinstance(record, dict):
            record["digest"] = digest(record)
        file.write_text(json.dumps(record))


@pytest.mark.slow
def test_records(promise: Promise, recorded: Path, tmp_path: Path) -> None:
    part = json.loads((recorded / "results/laptop/decentralized/records/01_network.json").read_text())
    shutil.copytree(recorded / "results", tmp_path / "kept")
    asked = (("check",), ("report",))
    for k, at in enumerate(some(promise, [p for p in places(part) if p != ("digest",)], 200, 12, 3)):
        name, value = list(VALUES.items())[k % len(VALUES)]
        shutil.rmtree(recorded / "results")
        shutil.copytree(tmp_path / "kept", recorded / "results")

        def change(
            record: dict[str, Any], at: tuple[Any, ...] = at, value: Any = value, drop: bool = k % 7 == 0
        ) -> dict[str, Any]:
            try:
                return mutated(record, at, value, drop)
            except (KeyError, IndexError):  # the whole has no such place
                return record

        seal(recorded, change)
        ask(promise, recorded, asked[k % 3 == 0], f"{name} at {'.'.join(map(str, at))}")
    for k, (what, data) in enumerate(some(promise, list(BYTES.items()), 100, 6, 5)):
        for file in ("records/01_network.json", "record.json"):
            shutil.rmtree(recorded / "results")
            shutil.copytree(tmp_path / "kept", recorded / "results")
            (recorded / "results/laptop/decentralized" / file).write_bytes(data)
            ask(promise, recorded, asked[k % 2], f"{file} bytes, {what}", "results/laptop/decentralized/record")


@pytest.mark.slow
def test_executed_notebooks_and_tables_in_the_report(promise: Promise, recorded: Path) -> None:
    folder = recorded / "results/laptop/decentralized"
    file, page = folder / "notebooks/01_network.ipynb", recorded / "results/laptop/decentralized.html"
    notebook(file)
    sound = json.loads(file.read_text())
    sound["cells"][1]["outputs"] += OUTPUTS
    for what, spoilt in some(promise, list(values(sound)), 100, 8, 4):
        file.write_text(json.dumps(spoilt))
        ask(promise, recorded, ("report",), f"executed notebook, {what}", "01_network")
    tables = BYTES | {
        "a huge cell": b"a\n" + b"x" * 200_000,
        "unbalanced": b'a,b\n"1,2\n',
        "ragged": b"a,b\n1\n1,2,3\n",
        "many columns": b"a," * 50_000 + b"\n",
        "only a head": b"a,b\n",
        "line breaks in cells": b'a\n"1\n\n2"\n',
        "formulas": b"a\n=cmd|' /C calc'!A0\n",
        "BOM": b"\xef\xbb\xbfa\n1\n",
    }
    for what, data in some(promise, list(tables.items()), 100, 8, 6):
        (folder / "tables/T1.csv").write_bytes(data)
        sha = file_digest(folder / "tables/T1.csv")
        seal(recorded, lambda record, sha=sha: mutated(record, ("entries", "T1", "sha256"), sha))
        ask(promise, recorded, ("report",), f"table, {what}", "T1")
        promise.trial(
            page.stat().st_size <= 2_000_000 and "Throughput" in page.read_text(), f"table, {what}: the page stands"
        )


def test_state_that_a_crash_damaged(promise: Promise, root: Path) -> None:
    """What the runner keeps for itself costs a rerun when it is damaged, and nothing else."""
    state = root / ".sheaf"
    files = ["digests.json", "lock", "plan.json"] + [
        f"{kind}/smoke/toy_b/01_only.json" for kind in ("done", "failed", "manifests")
    ]
    asked = [words for words in ASKED if words[0] in ("status", "why", "reproduce")]
    forms = BYTES | {
        "a list of lists": b"[[]]",
        "wrong kinds": b'{"manifest": [], "outputs": 3, "why": {"a": 1}}',
        "half": b'{"manifest": {',
    }
    for k, (what, data) in enumerate(forms.items()):
        for name in files:
            (state / name).parent.mkdir(parents=True, exist_ok=True)
            (state / name).write_bytes(data)
        said = ask(promise, root, asked[k % len(asked)], f"state, {what}")
        promise.trial(said.code == 0, f"state, {what}: exit {said.code} {said.err[-200:]}")
    (state / "digests.json").write_text(json.dumps({str(root / "data/toy_a/facts.csv"): 7, "x": [1, 2]}))
    ask(promise, root, asked[0], "digests of wrong kinds")


def test_checksums(promise: Promise, root: Path) -> None:
    sums = root / "data/toy_a/SHA256SUMS"
    good = f"{file_digest(root / 'data/toy_a/facts.csv')}  facts.csv\n"
    lines = {
        "points out": f"{'0' * 64}  ../../pyproject.toml\n",
        "absolute": f"{'0' * 64}  /etc/passwd\n",
        "one blank": good.replace("  ", " "),
        "short": good[3:],
        "NUL": good.replace("facts", "fa\0cts"),
        "twice": good + good.replace(good[:4], "0000"),
    }
    for what, data in BYTES.items() | {(k, v.encode()) for k, v in lines.items()}:
        sums.write_bytes(data)
        said = ask(promise, root, ("data",), f"checksums, {what}", "data/toy_a")
        promise.trial(said.code == 1 or what == "blanks", f"checksums, {what}: accepted, {said.out}")


@pytest.mark.slow
def test_in_a_process_of_its_own(promise: Promise, root: Path) -> None:
    """A sample as a user calls it: the same sentence, exit code 1."""
    file = root / "notebooks/toy_b/paper.toml"
    cases = [
        BYTES["a pickle"],
        b"[paper",
        BYTES["deep lists"],
        BYTES["not UTF-8"],
        TEXTS["digits"].encode(),
        toml({"paper": 7}).encode(),
    ]
    for k, data in enumerate(cases[: promise.size(6, 1)]):
        file.write_bytes(data)
        for words in ASKED if promise.full else ASKED[k : k + 1]:
            said = process(root, *words)
            kept = said.code == 1 and not said.bare and "toy_b/paper.toml" in said.err
            promise.trial(kept, f"`sheaf {words[0]}` on {data[:20]!r}: {said.code} {said.err[-200:]}")
