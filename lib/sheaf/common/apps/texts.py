"""The written procedures of each workflow, as stored: two phrasings a step, a vague one, remarks and steps beside the point."""

import re
import tomllib
from dataclasses import dataclass
from functools import cache
from typing import Any

from sheaf.common.data import data_dir

__all__ = ["Procedure", "Step", "plain", "procedure"]


@dataclass(frozen=True)
class Step:
    """One step of a procedure.

    Attributes:
        say: the step in the words of two people; what stands in ``[brackets]`` may be left out.
        vague: the step when it is not said which element is meant.
        free: may change places with a neighbour that is free too, as two fields of one form may.
    """

    say: tuple[str, str]
    vague: str
    free: bool


@dataclass(frozen=True)
class Procedure:
    """How a workflow is done, and what people of that office write beside it.

    Attributes:
        titles: by two people.
        steps: in order.
        irrelevant: steps that belong to other work in the same application.
        notes: remarks that are true and ask for nothing.
    """

    titles: tuple[str, str]
    steps: tuple[Step, ...]
    irrelevant: tuple[str, ...]
    notes: tuple[str, ...]


def procedure(workflow_id: str) -> Procedure:
    """The stored procedure of a workflow.

    Raises:
        FileNotFoundError: there are no texts for its site.
        ValueError: none for this workflow, or one that is incomplete; names it.
    """
    site, _, name = workflow_id.partition("/")
    stored = _texts(site)
    try:
        own, common = stored[name], stored["office"]
        steps = tuple(Step((s["say"][0], s["say"][1]), s["vague"], s.get("free", False)) for s in own["steps"])
        titles = (own["title"][0], own["title"][1])
        return Procedure(titles, steps, tuple(common["irrelevant"]), tuple(common["notes"]))
    except (KeyError, IndexError) as error:
        raise ValueError(f"the texts of workflow {workflow_id!r} lack {error}; each needs title, steps, say, vague") from None


def plain(text: str) -> str:
    """A text with everything in brackets kept and the brackets gone."""
    return re.sub(r" ([,;])", r"\1", re.sub(r"[\[\]]", "", text))


@cache
def _texts(site: str) -> dict[str, Any]:
    path = data_dir("wonderbread") / "workflows" / f"{site}.toml"
    if not path.is_file():
        raise FileNotFoundError(f"there are no procedure texts for site {site!r}: {path.name} is missing")
    return tomllib.loads(path.read_text(encoding="utf-8"))
