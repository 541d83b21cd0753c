"""paper.toml: good files load; bad ones get one sentence with file, key and fix."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sheaf.artifact.spec import SpecError, load_paper

GOOD = """
[paper]
id = "toy"
title = "A toy"
authors = ["A. Author"]
venue = "Nowhere"
year = 2020
summary = "Nothing."
[profiles.smoke]
size = 2
[profiles.smoke.02_b]
size = 3
[profiles.laptop]
[[notebook]]
name = "01_a"
title = "First"
[[notebook]]
name = "02_b"
title = "Second"
[[claim]]
id = "C1"
says = "it holds"
where = "abstract"
notebook = "01_a"
reproduced_if = ">= 1"
"""


def project(root: Path, text: str) -> Path:
    folder = root / "notebooks" / "toy"
    folder.mkdir(parents=True, exist_ok=True)
    (root / "pyproject.toml").touch()
    (folder / "paper.toml").write_text(text, encoding="utf-8")
    return root


def test_good_file_loads_and_notebook_settings_lie_over_general_ones(tmp_path: Path) -> None:
    paper = load_paper("toy", project(tmp_path, GOOD))
    assert paper.settings("smoke", "01_a") == {"size": 2}
    assert paper.settings("smoke", "02_b") == {"size": 3}
    assert [entry.id for _, entry in paper.entries("01_a")] == ["C1"]


@pytest.mark.parametrize(
    ("old", "new", "names"),
    [
        ('id = "toy"', 'id = "other"', ["paper.id", "folder"]),
        ('venue = "Nowhere"\n', "", ["paper.venue", "required"]),
        ("year = 2020", 'year = "soon"', ["paper.year", "soon"]),
        ("year = 2020", "year = 2020\nyaer = 1", ["paper.yaer", "not known"]),
        ("year = 2020", 'year = 2020\nexternal = ["../elsewhere"]', ["paper.external.0", "../elsewhere"]),
        ('reproduced_if = ">= 1"', 'reproduced_if = ">= 1"\npublished = nan', ["claim.0.published", "finite"]),
        ("[profiles.smoke.02_b]\nsize = 3", "02_b = 3", ["profiles.smoke.02_b", "a table"]),
        ('">= 1"', '"about 1"', ["reproduced_if", "about 1", "within p% of x"]),
        ('">= 1"', '"in [2, 1]"', ["accepts no value"]),
        ('notebook = "01_a"', 'notebook = "09_z"', ["C1", "09_z", "01_a"]),
        ("[profiles.laptop]", "[profiles.tablet]", ["profiles"]),
        ("[profiles.laptop]\n", "", ["profiles.laptop", "missing"]),
        ('name = "02_b"', 'name = "01_a"', ["distinct"]),
        ('id = "C1"', 'id = "../C1"', ["id", "../C1"]),
        ("[paper]", "[paper", ["not valid TOML"]),
    ],
)
def test_bad_file_is_explained(tmp_path: Path, old: str, new: str, names: list[str]) -> None:
    assert old in GOOD
    with pytest.raises(SpecError) as caught:
        load_paper("toy", project(tmp_path, GOOD.replace(old, new, 1)))
    message = str(caught.value)
    assert message.startswith("notebooks/toy/paper.toml: ") and "\n" not in message.split("not valid TOML")[0]
    for name in names:
        assert name in message


def test_duplicate_ids_unknown_paper_and_profile(tmp_path: Path) -> None:
    again = GOOD + GOOD[GOOD.index("[[claim]]") :]
    root = project(tmp_path, again)
    with pytest.raises(SpecError, match="used twice"):
        load_paper("toy", root)
    with pytest.raises(SpecError, match="no paper 'nope'; papers here: toy"):
        load_paper("nope", root)
    with pytest.raises(SpecError, match="no profile 'gpu'"):
        load_paper("toy", project(tmp_path, GOOD)).settings("gpu")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, len(GOOD)), st.text(max_size=12))
def test_no_mutation_escapes_as_another_error(tmp_path: Path, at: int, junk: str) -> None:
    root = project(tmp_path, GOOD)
    (root / "notebooks/toy/paper.toml").write_bytes((GOOD[:at] + junk + GOOD[at:]).encode("utf-8", "surrogatepass"))
    try:
        load_paper("toy", root)
    except SpecError as error:
        assert "notebooks/toy/paper.toml" in str(error)


def test_deep_nesting_is_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(SpecError):
        load_paper("toy", project(tmp_path, "x = " + "[" * 5000 + "]" * 5000))
