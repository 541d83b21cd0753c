"""Supply chain: one changed bit in data that ships, in a lock or in a package is refused before it is used."""

import hashlib
import os
import random
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from drive import REPO, at, command
from ledger import Promise

from sheaf.artifact.inventory import SUMS, damaged

pytestmark = pytest.mark.promise(
    "supply-chain", "Data that ships and packages that set-up installs are the published files, or they are refused before use.",
    "a bit flipped in every data file and every line of their lists, files taken away, added and replaced; a digit of a lock "
    "and a byte of a package changed",
)  # fmt: skip
PAPERS = sorted(folder.name for folder in (REPO / "data").glob("*/") if folder.name != "external")
SETUP = REPO / "lib" / "sheaf" / "artifact" / "setup.sh"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what declares the papers, and of their data."""
    root = tmp_path_factory.mktemp("project")
    for part in ("notebooks", "data"):
        shutil.copytree(REPO / part, root / part, ignore=shutil.ignore_patterns("external", ".ipynb_checkpoints"))
    shutil.copy(REPO / "pyproject.toml", root)
    return root


def flipped(data: bytes, at: int, bit: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]


def refused(root: Path, paper: str, *words: str, names: str) -> str:
    """What is wrong with how a command met damaged data: empty when it refused, named the file and ran nothing."""
    said = command(root, *words)
    if said.code != 1 or said.bare:
        return f"exit code {said.code}: {said.text[-300:]}"
    if f"data/{paper}/{names}" not in said.err:
        return f"does not name data/{paper}/{names}: {said.err[-300:]}"
    started = [p for kind in ("heartbeat", "work", "nbval") for p in (root / ".sheaf" / kind).rglob("*.jsonl")]
    return f"started {started}" if started else ""


def first(paper: str) -> str:
    return min((REPO / "notebooks" / paper).glob("*.ipynb")).stem


@pytest.mark.parametrize("paper", PAPERS)
def test_a_flipped_bit_in_a_data_file(promise: Promise, project: Path, paper: str) -> None:
    folder, draw = project / "data" / paper, random.Random(paper)
    promise.trial((folder / SUMS).is_file() and not damaged(folder), f"data/{paper} is pinned and intact")
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != SUMS)
    for file in files if promise.full else draw.sample(files, min(4, len(files))):
        sound = file.read_bytes()
        for _ in range(promise.size(full=3, fast=1)):
            file.write_bytes(flipped(sound, draw.randrange(len(sound)), draw.randrange(8)))
            name = file.relative_to(folder).as_posix()
            wrong = refused(project, paper, "run", paper, first(paper), "--profile", "smoke", names=name)
            promise.trial(not wrong, f"a bit of data/{paper}/{name}: {wrong}")
        file.write_bytes(sound)
    promise.trial(not damaged(folder), f"data/{paper} is whole again")


@pytest.mark.parametrize("paper", PAPERS)
def test_a_flipped_bit_in_a_list_of_digests(promise: Promise, project: Path, paper: str) -> None:
    sums, draw = project / "data" / paper / SUMS, random.Random(paper)
    sound = sums.read_bytes()
    starts = [m.start() for m in re.finditer(rb"^", sound, re.MULTILINE) if m.start() < len(sound)]
    ends = [*starts[1:], len(sound)]
    lines = list(zip(starts, ends, strict=True))
    for start, end in lines if promise.full else draw.sample(lines, 2):
        spots = {draw.randrange(start, start + 64), draw.randrange(start + 64, end), end - 1}  # digest, name, line's end
        for spot in spots:
            sums.write_bytes(flipped(sound, spot, draw.randrange(8)))
            wrong = refused(project, paper, "run", paper, first(paper), "--profile", "smoke", names="")
            promise.trial(not wrong, f"byte {spot} of data/{paper}/{SUMS}: {wrong}")
    sums.write_bytes(sound)


@pytest.mark.parametrize("paper", PAPERS)
def test_every_way_to_use_data_refuses_it(promise: Promise, project: Path, paper: str) -> None:
    folder = project / "data" / paper
    file = max((p for p in folder.rglob("*") if p.is_file() and p.name != SUMS), key=lambda p: p.stat().st_size)
    name, sound, added = file.relative_to(folder).as_posix(), file.read_bytes(), folder / "added.csv"
    ways = [("run", paper, first(paper)), ("reproduce", "--profile", "smoke", paper), ("store", paper), ("data",)]
    if not promise.full:
        ways = ways[PAPERS.index(paper) % 4 :][:1]
    changes = {
        "cut short": lambda: file.write_bytes(sound[:-1]),
        "emptied": lambda: file.write_bytes(b""),
        "taken away": file.unlink,
        "a link to another": lambda: (file.unlink(), file.symlink_to(folder / SUMS)),
        "longer": lambda: file.write_bytes(sound + b"\n"),
        "another one added": lambda: added.write_text("a\n1\n"),
    }
    for what, change in changes.items():
        change()
        for words in ways:
            wrong = refused(project, paper, *words, names=added.name if added.exists() else name)
            promise.trial(not wrong, f"data/{paper}/{name} {what}, `sheaf {words[0]}`: {wrong}")
        if file.is_symlink():
            file.unlink()
        file.write_bytes(sound)
        added.unlink(missing_ok=True)
    (folder / ".DS_Store").write_text("a file manager's own")
    said = command(project, "data")
    promise.trial(said.code == 0, f"a hidden file beside the data is let be: {said.err[-300:]}")
    if promise.full:
        file.write_bytes(flipped(sound, len(sound) // 2, 0))
        with at(project):
            env = os.environ | {"PYTHONPATH": os.pathsep.join(str(REPO / part) for part in ("lib", "kernels"))}
        words = ["-q", "-p", "sheaf.artifact.nbval_plugin", "--nbval", "-x", f"notebooks/{paper}/{first(paper)}.ipynb"]
        done = subprocess.run([sys.executable, "-m", "pytest", *words], cwd=project, env=env, capture_output=True, text=True)
        promise.trial(f"data/{paper}/{name} differs" in done.stdout, f"nbval: {done.stdout[-300:]}")
        file.write_bytes(sound)


# ---- packages


def wheel(folder: Path, name: str = "sheafling", version: str = "1.0") -> Path:
    """The smallest package that pip installs."""
    path, info = folder / f"{name}-{version}-py3-none-any.whl", f"{name}-{version}.dist-info"
    content = {
        f"{name}.py": "answer = 42\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: a test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": "".join(f"{f},,\n" for f in (f"{name}.py", *(f"{info}/{k}" for k in ("METADATA", "WHEEL", "RECORD")))),
    }  # fmt: skip
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in content.items():
            archive.writestr(file, text)
    return path


def lock(package: Path) -> str:
    """The entry of a package in a lock."""
    return f"{package.name.split('-')[0]}==1.0 \\\n    --hash=sha256:{hashlib.sha256(package.read_bytes()).hexdigest()}\n"


def install(folder: Path, target: Path, requirements: str) -> subprocess.CompletedProcess[str]:
    """pip as set-up calls it, without an index."""
    (options,) = re.findall(r"^hashed=\((.*)\)$", SETUP.read_text(), re.MULTILINE)
    (folder / "requirements.lock").write_text(requirements)
    words = ["--isolated", "install", "--no-index", "--find-links", str(folder), "--target", str(target), *options.split()]
    words = [sys.executable, "-m", "pip", *words, "-r", str(folder / "requirements.lock")]
    return subprocess.run(words, capture_output=True, text=True, check=False)


def test_a_changed_digit_or_byte_of_a_package(promise: Promise, tmp_path: Path) -> None:
    package, draw = wheel(tmp_path), random.Random(0)
    sound, good = package.read_bytes(), lock(package)
    if promise.full:
        done = install(tmp_path, tmp_path / "good", good)
        promise.trial((tmp_path / "good/sheafling.py").is_file(), f"the locked package is installed: {done.stderr[-300:]}")
    start, target = good.index("sha256:") + 7, tmp_path / "bad"

    def tried(what: str, requirements: str) -> None:
        done = install(tmp_path, target, requirements)
        told = "hashes" in done.stderr.lower()
        promise.trial(done.returncode != 0 and told and not list(target.glob("*")), f"{what}: {done.stdout}{done.stderr[-300:]}")

    for spot in draw.sample(range(64), promise.size(full=12, fast=1)):
        digit = "0123456789abcdef"[(int(good[start + spot], 16) + draw.randrange(1, 16)) % 16]
        tried(f"digit {spot} of the lock", good[: start + spot] + digit + good[start + spot + 1 :])
    for spot in draw.sample(range(len(sound)), promise.size(full=12, fast=1)):
        package.write_bytes(flipped(sound, spot, draw.randrange(8)))
        tried(f"byte {spot} of the package", good)
    package.write_bytes(sound)
    if promise.full:
        tried("an entry without its digest", good.partition(" ")[0] + "\n")


def test_set_up_says_what_to_do(promise: Promise, tmp_path: Path) -> None:
    """setup.sh itself: the first step meets a package that is not the locked one."""
    package = wheel(tmp_path, "setuptools")
    (tmp_path / "requirements.lock").write_text(lock(package))
    package.write_bytes(flipped(package.read_bytes(), 40, 1))
    if promise.full:  # a virtual environment takes seconds to make
        words = ["bash", str(SETUP), sys.executable, "venv"]
        env = os.environ | {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path)}
        done = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
        told = "not the file that requirements.lock names" in done.stderr and "cache purge" in done.stderr
        promise.trial(done.returncode == 1 and told, f"set-up: {done.stdout}{done.stderr}")
    promise.trial("--require-hashes" in SETUP.read_text(), "set-up asks for digests")
