"""One source of dependencies: pyproject.toml, constraints.txt, requirements.lock and environment.yml agree."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
DECLARED = [Requirement(line) for group in (PROJECT["dependencies"], *EXTRAS.values()) for line in group]


def pins() -> dict[str, Version]:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[A-Za-z0-9_.!+-]+", line) for line in lines), "every line is name==version"
    found = {canonicalize_name(name): Version(version) for name, version in (line.split("==") for line in lines)}
    assert len(found) == len(lines), "a package is pinned twice"
    return found


@pytest.mark.parametrize("requirement", DECLARED, ids=str)
def test_every_dependency_is_pinned_within_its_bounds(requirement: Requirement) -> None:
    pinned = pins().get(canonicalize_name(requirement.name))
    assert pinned is not None, f"{requirement.name} is in pyproject.toml but not in constraints.txt"
    assert requirement.specifier.contains(pinned), f"constraints.txt has {requirement.name} {pinned}, outside {requirement}"


def test_no_dependency_is_declared_twice() -> None:
    names = [canonicalize_name(r.name) for r in DECLARED]
    assert len(set(names)) == len(names)


def test_torch_is_the_tested_one() -> None:
    assert pins()["torch"] == Version("2.13.0")


def test_conda_installs_the_same_through_pip() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    plain = [d for d in environment["dependencies"] if isinstance(d, str)]
    (through_pip,) = (d["pip"] for d in environment["dependencies"] if isinstance(d, dict))
    assert through_pip == ["-c constraints.txt", f"-e .[{','.join(EXTRAS)}]"]
    allowed = {"python", "pip", "make", "cxx-compiler"}
    assert {re.split(r"[ =<>]", d)[0] for d in plain} == allowed, "packages come from pip, or versions could differ"
    python = next(d for d in plain if d.startswith("python")).removeprefix("python=")
    assert Requirement(f"python{PROJECT['requires-python']}").specifier.contains(Version(python))


def locked() -> dict[str, tuple[Version, list[str]]]:
    """Name -> version and digests of every entry of requirements.lock."""
    text = re.sub(r"^#.*\n", "", (ROOT / "requirements.lock").read_text(), flags=re.MULTILINE).replace("\\\n", "")
    entries = [re.fullmatch(r"([A-Za-z0-9_.-]+)==(\S+)((?: +--hash=sha256:[0-9a-f]{64})+) *", line) for line in text.splitlines()]
    assert all(entries), "every entry is name==version with one digest or more, and nothing else (no address of an index)"
    found = {canonicalize_name(e[1]): (Version(e[2]), re.findall(r"[0-9a-f]{64}", e[3])) for e in entries if e}
    assert len(found) == len(entries), "a package is locked twice"
    return found


def test_the_lock_holds_what_is_pinned() -> None:
    assert {name: version for name, (version, _) in locked().items()} == {n: v for n, v in pins().items() if n != "torch"}


def test_no_two_packages_share_a_file() -> None:
    digests = [digest for _, of_one in locked().values() for digest in of_one]
    assert len(set(digests)) == len(digests)


def test_set_up_installs_the_lock_and_torch_by_version() -> None:
    setup = (ROOT / "lib" / "sheaf" / "artifact" / "setup.sh").read_text()
    installs = [line for line in setup.splitlines() if line.startswith('step "')]
    by_digest = [line for line in installs if '"${hashed[@]}" -r' in line]
    assert "--require-hashes --no-deps" in setup and len(by_digest) == 2
    (torch, itself) = (line for line in installs if line not in by_digest)
    assert "torch==" in torch and "-c constraints.txt" in torch
    assert "--no-deps --no-build-isolation -e ." in itself
    assert "requirements.lock" in re.search(r"^READY := .*sha256sum.*$", (ROOT / "Makefile").read_text(), re.MULTILINE)[0]


@pytest.mark.parametrize(
    "file", ["LICENSE", "SECURITY.md", "environment.yml", "constraints.txt", "requirements.lock", "CITATION.cff"]
)
def test_what_a_stranger_expects_is_there(file: str) -> None:
    assert (ROOT / file).stat().st_size > 0


def test_the_licence_is_named_alike_everywhere() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text and "Version 2.0, January 2004" in text and "END OF TERMS AND CONDITIONS" in text
    assert PROJECT["license"] == "Apache-2.0"
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["license"] == "Apache-2.0"
