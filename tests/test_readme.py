"""What the README tells a reader to type exists, and the citation names this version."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
PAGES = sorted(p.name for p in ROOT.glob("*.md"))


def code(page: str) -> str:
    """The fenced blocks and inline code of a page: prose may say 'make sure'."""
    text = (ROOT / page).read_text()
    fenced = re.findall(r"^```[a-z]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return "\n".join([*fenced, *re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))])


@pytest.mark.parametrize("page", PAGES)
def test_commands_on_the_page_are_make_targets(page: str) -> None:
    named = set(re.findall(r"\bmake ([a-z][a-z-]*)", code(page)))
    assert named <= TARGETS, f"{page} names {sorted(named - TARGETS)}, which make does not know"


def test_readme_names_the_two_commands() -> None:
    assert {"reproduce", "test"} <= set(re.findall(r"\bmake ([a-z][a-z-]*)", code("README.md")))


@pytest.mark.parametrize("page", PAGES)
def test_links_to_files_lead_somewhere(page: str) -> None:
    links = re.findall(r"\]\(([^)#\s]+)", (ROOT / page).read_text()) + re.findall(r'src="([^"]+)"', (ROOT / page).read_text())
    local = [link for link in links if not re.match(r"[a-z]+:", link)]
    missing = [link for link in local if not (ROOT / link).exists()]
    assert not missing, f"{page} links to {missing}"


def test_variables_on_the_page_are_known_to_make() -> None:
    known = set(re.findall(r"^([A-Z]+)\s*\?=", (ROOT / "Makefile").read_text(), re.MULTILINE)) | {"SHEAF_PYTHON", "SEEDS"}
    for page in PAGES:
        used = set(re.findall(r"\bmake [a-z-]+ .*?\b([A-Z_]+)=", code(page)))
        assert used <= known, f"{page} sets {sorted(used - known)}"


def test_help_lists_the_documented_targets() -> None:
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for target in ("reproduce", "test", "lab", "report", "bench", "kernels", "data", "lint", "clean"):
        assert f"make {target}" in shown
    for variable in ("PAPERS", "PROFILE", "JOBS", "EXECUTOR", "SEED", "FORCE"):
        assert variable in shown


def test_citation_names_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert citation["version"] == project["version"]
    assert {"cff-version", "message", "title", "authors", "type"} <= citation.keys()


def test_citation_lists_every_paper() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    cited = {reference["title"] for reference in citation["references"]}
    for file in (ROOT / "notebooks").glob("*/paper.toml"):
        card = tomllib.loads(file.read_text())["paper"]
        assert card["title"] in cited, f"CITATION.cff does not list {card['title']!r}"


def test_ci_runs_make_test_and_nothing_else() -> None:
    script = ROOT / ".ci" / "run"
    commands = [line for line in script.read_text().splitlines() if line and not line.startswith(("#", "set ", "cd "))]
    assert commands == ["make test"]
    assert script.stat().st_mode & 0o111
