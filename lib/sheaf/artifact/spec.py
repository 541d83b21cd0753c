"""paper.toml: what a paper claims and shows, and what would count as reproducing it, fixed before any run."""

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from sheaf.artifact.paths import paper_dir, paper_ids
from sheaf.artifact.verdict import parse_criterion

__all__ = ["PROFILES", "Claim", "Figure", "Notebook", "Paper", "PaperCard", "SpecError", "Table", "load_paper"]

PROFILES = ("smoke", "laptop", "gpu", "paper")
Profile = Literal["smoke", "laptop", "gpu", "paper"]
Id = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_.-]*$", max_length=40)]
Text = Annotated[str, Field(min_length=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=80)]  # of a folder: never a path to elsewhere
Finite = Annotated[float, Field(allow_inf_nan=False)]


class SpecError(ValueError):
    """A paper.toml that cannot be used; the message names the file, the key and the fix."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PaperCard(_Strict):
    """Who wrote the paper, and what its notebooks reach outside the library."""

    id: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    title: Text
    authors: list[Text] = Field(min_length=1)
    venue: Text
    year: int
    arxiv: str | None = None
    summary: Text
    kernels: list[Name] = []  # operations of sheaf_kernels, built before the first notebook
    external: list[Name] = []  # folders under SHEAF_DATA that notebooks use when present
    report: dict[str, Text] = {}  # reproduction-report fields: scope, methodology, results, easy, difficult, ...


class Notebook(_Strict):
    """One notebook of the series."""

    name: Annotated[str, Field(pattern=r"^\d\d_[a-z0-9_]+$")]
    title: Text
    timeout: Annotated[int, Field(gt=0)] = 900  # seconds of wall time before the run is stopped
    environment: list[str] = []  # variables beyond SHEAF_DATA that change what it does; never one that holds a secret


class _Entry(_Strict):
    id: Id
    where: Text  # where it stands in the paper, or "added" when it is ours
    notebook: str
    profiles: list[Profile] = Field(default=["smoke", "laptop", "gpu"], min_length=1)


class Table(_Entry):
    """A table of the paper, or one added here."""

    title: Text
    missing: Text | None = None  # why it cannot be made


class Figure(Table):
    """A figure of the paper, or one added here."""


class Claim(_Entry):
    """A statement that can be wrong: published value, criterion, and how its samples are judged."""

    says: Text
    published: Finite | str | None = None
    unit: str = ""
    reproduced_if: str
    statistic: Literal["mean", "median", "proportion", "bootstrap", "exact"] = "mean"
    reported: Literal["memory"] | None = None  # the published value was not checked against a source

    @field_validator("reproduced_if")
    @classmethod
    def _criterion_is_readable(cls, text: str) -> str:
        parse_criterion(text)
        return text


class Paper(_Strict):
    """A whole paper.toml."""

    paper: PaperCard
    notebooks: list[Notebook] = Field(alias="notebook", min_length=1)
    tables: list[Table] = Field(alias="table", default=[])
    figures: list[Figure] = Field(alias="figure", default=[])
    claims: list[Claim] = Field(alias="claim", default=[])
    profiles: dict[Profile, dict[str, Any]]

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> "Paper":
        names = [n.name for n in self.notebooks]
        if len(set(names)) < len(names) or names != sorted(names):
            raise ValueError("notebook: names must be distinct and in reading order; number them 01_, 02_, ...")
        seen: set[str] = set()
        for kind, entry in self.entries():
            if entry.id in seen:
                raise ValueError(
                    f"{kind} {entry.id}: this id is used twice; every table, figure and claim needs its own"
                )
            seen.add(entry.id)
            if entry.notebook not in names:
                raise ValueError(
                    f"{kind} {entry.id}: notebook {entry.notebook!r} is not listed; use one of {', '.join(names)}"
                )
        for profile in ("smoke", "laptop"):
            if profile not in self.profiles:
                raise ValueError(
                    f"profiles.{profile}: missing; every paper has settings for smoke and laptop (they may be empty)"
                )
        for profile, settings in self.profiles.items():
            for name in names:
                if not isinstance(settings.get(name, {}), dict):
                    key = f"profiles.{profile}.{name}"
                    raise ValueError(f"{key}: settings of a notebook are a table; write [{key}]")
        return self

    def entries(self, notebook: str | None = None) -> list[tuple[str, Table | Figure | Claim]]:
        """(kind, entry) of every table, figure and claim, or of those one notebook makes."""
        groups: tuple[tuple[str, list[Any]], ...] = (
            ("table", self.tables),
            ("figure", self.figures),
            ("claim", self.claims),
        )
        return [(kind, e) for kind, group in groups for e in group if notebook in (None, e.notebook)]

    def settings(self, profile: str, notebook: str | None = None) -> dict[str, Any]:
        """Settings of a profile; a table named like the notebook is laid over the general ones.

        Raises:
            SpecError: the paper has no settings for that profile.
        """
        if profile not in self.profiles:
            raise SpecError(f"{self.paper.id} has no profile {profile!r}; use one of {', '.join(self.profiles)}")
        names = {n.name for n in self.notebooks}
        chosen = self.profiles[profile]  # type: ignore[index]
        general = {key: value for key, value in chosen.items() if key not in names}
        return general | dict(chosen.get(notebook, {}) if notebook else {})

    def notebook(self, name: str) -> Notebook:
        """The notebook of that name.

        Raises:
            SpecError: the paper has no such notebook.
        """
        for found in self.notebooks:
            if found.name == name:
                return found
        known = ", ".join(n.name for n in self.notebooks)
        raise SpecError(f"{self.paper.id} has no notebook {name!r}; use one of {known}")


def _explain(error: ValidationError, file: str) -> SpecError:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"]) or "the file"
    fix = {
        "missing": "this key is required; add it",
        "extra_forbidden": "this key is not known; remove it or correct its spelling",
    }.get(first["type"], first["msg"].removeprefix("Value error, "))
    given = first.get("input")
    shown = f" (given: {given!r})" if isinstance(given, str | int | float) and len(repr(given)) < 80 else ""
    more = f"; and {error.error_count() - 1} more" if error.error_count() > 1 else ""
    return SpecError(f"{file}: {key}: {fix}{shown}{more}")


def load_paper(paper: str, root: Path | None = None) -> Paper:
    """Read and validate ``notebooks/<paper>/paper.toml``.

    Raises:
        SpecError: no such paper, or a file that is not valid; the message names file, key and fix.
    """
    file = paper_dir(paper, root) / "paper.toml"
    shown = f"notebooks/{paper}/paper.toml"
    if not file.is_file():
        known = ", ".join(paper_ids(root)) or "none"
        raise SpecError(f"there is no paper {paper!r}; papers here: {known}")
    try:
        raw = tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except ValueError as error:  # not TOML, not UTF-8, or a number of thousands of digits
        raise SpecError(f"{shown}: not valid TOML: {error}; correct the file at that place") from None
    except RecursionError:
        raise SpecError(f"{shown}: not valid TOML: nested too deeply; settings are at most a few tables deep") from None
    try:
        found = Paper.model_validate(raw)
    except ValidationError as error:
        raise _explain(error, shown) from None
    if found.paper.id != paper:
        raise SpecError(f"{shown}: paper.id: is {found.paper.id!r} but the folder is {paper!r}; make them equal")
    return found
