"""The record of `make prove`: how often each promise was tried, and how often it broke. Read strictly or not at all."""

import json
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sheaf.artifact.record import digest

__all__ = ["SHOWN", "Promise", "PromisesError", "PromisesRecord", "load_promises", "promises_file"]

SHOWN = 10  # broken trials named in the record
AGAIN = "run 'make prove' again"
Text = Annotated[str, Field(min_length=1)]


class PromisesError(ValueError):
    """A record of promises that cannot be trusted; the message names the file, the key and the fix."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Promise(_Strict):
    """One promise: what it says, what was done to break it, and how many of the trials did."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9]*(-[a-z0-9]+)*$", max_length=40)]
    says: Text
    tried_by: Text
    tried: Annotated[int, Field(ge=1)]
    failed: Annotated[int, Field(ge=0)]
    broken: list[Text]  # the first trials that broke it, in words
    figures: dict[str, int | float | Text]  # measured on the way
    seconds: Annotated[float, Field(ge=0)]

    @model_validator(mode="after")
    def _adds_up(self) -> "Promise":
        if self.failed > self.tried:
            raise ValueError(f"{self.failed} of {self.tried} trials cannot have failed")
        if len(self.broken) != min(self.failed, SHOWN):
            raise ValueError(f"{self.failed} trials failed but {len(self.broken)} are named")
        return self


class Provenance(BaseModel):
    """Of which code, when and where the promises were tried; what else was recorded is kept as it is."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True, allow_inf_nan=False)
    commit: str | None
    dirty: bool | None
    finished: Text
    wall_s: Annotated[float, Field(ge=0)]

    @model_validator(mode="after")
    def _has_a_date(self) -> "Provenance":
        datetime.fromisoformat(self.finished)
        return self


class PromisesRecord(_Strict):
    """What one whole run of `make prove` found."""

    schema_: Literal[1] = Field(alias="schema")
    provenance: Provenance
    promises: Annotated[list[Promise], Field(min_length=1)]
    digest: str

    @model_validator(mode="after")
    def _names_each_once(self) -> "PromisesRecord":
        names = [promise.name for promise in self.promises]
        if len(set(names)) < len(names):
            raise ValueError("a promise is listed twice")
        return self

    @property
    def tried(self) -> int:
        return sum(promise.tried for promise in self.promises)

    @property
    def failed(self) -> int:
        return sum(promise.failed for promise in self.promises)

    @property
    def kept(self) -> int:
        """How many promises no trial broke."""
        return sum(not promise.failed for promise in self.promises)


def promises_file(root: Path) -> Path:
    """Where `make prove` writes its record."""
    return root / "results" / "promises" / "record.json"


def _explain(error: ValidationError) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"]) or "the file"
    return f"{key}: {first['msg'].removeprefix('Value error, ')}"


def load_promises(root: Path) -> PromisesRecord | None:
    """The record of the last whole proof; None when there is none.

    Raises:
        PromisesError: unreadable, of another form, or not what was written.
    """
    file = promises_file(root)
    shown = file.relative_to(root).as_posix()
    if not file.is_file():
        return None
    try:
        found: Any = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise PromisesError(f"{shown}: the file: cannot be read ({type(error).__name__}); {AGAIN}") from None
    try:
        record = PromisesRecord.model_validate(found)
    except ValidationError as error:
        raise PromisesError(f"{shown}: {_explain(error)}; {AGAIN}") from None
    if record.digest != digest(found):
        raise PromisesError(f"{shown}: the file: changed after it was written; {AGAIN}")
    return record
