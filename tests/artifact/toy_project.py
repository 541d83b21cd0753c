"""A small project with two toy papers in a temporary folder, and what is needed to run and break it."""

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
PARAMETERS = 'profile = "smoke"\nseed = 0\nresults_dir = None'

PAPER = """
[paper]
id = "{id}"
title = "A toy paper called {id}"
authors = ["A. Toy"]
venue = "Toys"
year = 2024
summary = "Counts."
{extra}
{notebooks}
[profiles.smoke]
rounds = 2
[profiles.laptop]
rounds = 4
"""
NOTEBOOK = '[[notebook]]\nname = "{name}"\ntitle = "Part {name}"\ntimeout = {timeout}\n'
CLAIM = (
    '[[claim]]\nid = "{id}"\nsays = "it counts"\nwhere = "section 1"\nnotebook = "{name}"\npublished = 6\n'
    'reproduced_if = ">= 1"\nstatistic = "exact"\nprofiles = ["smoke", "laptop"]\n'
)
TABLE = '[[table]]\nid = "{id}"\ntitle = "Counts"\nwhere = "section 1"\nnotebook = "{name}"\n'


def cell(source: str, kind: str = "code", tags: tuple[str, ...] = (), number: int = 0) -> dict:
    body = {"cell_type": kind, "id": f"cell-{number}", "metadata": {"tags": list(tags)} if tags else {}}
    body["source"] = source.splitlines(keepends=True)
    return body | ({"execution_count": None, "outputs": []} if kind == "code" else {})


@dataclass
class Toy:
    """The toy project: paths, edits, and its command line run as a user would run it."""

    root: Path

    def env(self, **more: str) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith("SHEAF_") or k == "SHEAF_KERNELS"}
        kept |= {"PYTHONPATH": f"{self.root / 'lib'}{os.pathsep}{self.root / 'kernels'}", "OMP_NUM_THREADS": "1"}
        return kept | more

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "sheaf", *words]

    def sheaf(self, *words: str, timeout: float = 300, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*words), cwd=self.root, env=self.env(**env), capture_output=True, text=True, timeout=timeout
        )

    def reproduce(self, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
        return self.sheaf("reproduce", "--profile", "smoke", *words, **env)

    def start(self, *words: str, **env: str) -> subprocess.Popen[str]:
        """Start a command in a session of its own, as a terminal would."""
        return subprocess.Popen(
            self.command(*words), cwd=self.root, env=self.env(**env), text=True, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def notebook(self, paper: str, name: str, *code: str) -> Path:
        """Write a notebook: title, parameters, then the given cells."""
        cells = [cell(f"# {name}", "markdown", number=1), cell(PARAMETERS, tags=("parameters",), number=2)]
        cells += [cell(source, number=k) for k, source in enumerate(code, 3)]
        path = self.root / "notebooks" / paper / f"{name}.ipynb"
        meta = {
            "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
            "language_info": {"name": "python"},
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"cells": cells, "metadata": meta, "nbformat": 4, "nbformat_minor": 5}, indent=1))
        return path

    def good(self, paper: str, name: str, *before: str, module: str | None = None) -> Path:
        """A notebook that completes: it calls its library function, states one table and one claim."""
        module = module or f"sheaf.{paper}.{name[3:]}"
        short = name[:2]
        return self.notebook(
            paper, name, *before,
            f"import pandas as pd\nfrom sheaf import Study\nfrom {module} import count\n"
            f'study = Study("{paper}", notebook="{name}", profile=profile, seed=seed, results_dir=results_dir)',
            f'value = count(study.settings["rounds"])\nstudy.table("T{short}", pd.DataFrame({{"count": [value]}}))',
            f'study.claim("C{short}", [value])',
            "study.verdicts()",
        )  # fmt: skip

    def paper(self, paper: str, names: list[str], timeout: int = 300, extra: str = "") -> Path:
        """Write paper.toml for these notebooks."""
        body = "".join(NOTEBOOK.format(name=n, timeout=timeout) for n in names)
        for n in names:
            body += TABLE.format(id=f"T{n[:2]}", name=n) + CLAIM.format(id=f"C{n[:2]}", name=n)
        path = self.root / "notebooks" / paper / "paper.toml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(PAPER.format(id=paper, notebooks=body, extra=extra))
        return path

    def module(self, paper: str, name: str, text: str) -> Path:
        path = self.root / "lib" / "sheaf" / paper / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        (path.parent / "__init__.py").touch()
        path.write_text(text)
        return path

    def results(self, paper: str, profile: str = "smoke") -> Path:
        return self.root / "results" / profile / paper

    def done(self, paper: str, name: str, profile: str = "smoke") -> Path:
        return self.root / ".sheaf" / "done" / profile / paper / f"{name}.json"

    def wait_for(self, path: Path, seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not path.exists():
            assert time.monotonic() < end, f"{path.name} did not appear in {seconds:g} s"
            time.sleep(0.1)


def build(root: Path) -> Toy:
    """Two papers: toy_a (two notebooks sharing a module) and toy_b (one)."""
    root.mkdir(parents=True, exist_ok=True)
    shutil.copy(REPO / "Snakefile", root)
    (root / "pyproject.toml").write_text("[project]\nname = 'toy'\n")
    for name in ("__init__.py", "__main__.py", "common", "artifact"):
        source, target = REPO / "lib" / "sheaf" / name, root / "lib" / "sheaf" / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
    toy = Toy(root)
    toy.module("toy_a", "shared", '"""Shared."""\n\n\ndef unit():\n    """One."""\n    return 1\n')
    toy.module("toy_a", "first", "from sheaf.toy_a.shared import unit\n\n\ndef count(rounds):\n    return rounds * unit()\n")
    toy.module("toy_a", "second", "def count(rounds):\n    return rounds + 1\n\n\ndef unused():\n    return 0\n")
    toy.module("toy_b", "only", "def count(rounds):\n    return rounds + 2\n")
    (root / "data" / "toy_a").mkdir(parents=True)
    (root / "data" / "toy_a" / "facts.csv").write_text("a,b\n1,2\n")
    toy.paper("toy_a", ["01_first", "02_second"])
    toy.paper("toy_b", ["01_only"])
    for paper, name in (("toy_a", "01_first"), ("toy_a", "02_second"), ("toy_b", "01_only")):
        toy.good(paper, name)
    return toy
