"""The outputs stored in a notebook: which cells are compared, which are ignored, and whether enough is compared."""

import re
from typing import Any

__all__ = ["IGNORED_AT_MOST", "code_cells", "is_compared", "problems"]

IGNORED_AT_MOST = 0.5  # of the code cells that have outputs
_IGNORING = {"nbval-ignore-output", "nbval-skip"}
_IGNORING_COMMENT = re.compile(r"^\s*#+\s*(NBVAL_IGNORE_OUTPUT|NBVAL_SKIP|PYTEST_VALIDATE_IGNORE_OUTPUT)\s*$", re.M)
_PICTURES = ("image/png", "image/jpeg", "image/svg+xml")


def _source(cell: Any) -> str:
    source = cell.get("source", "")
    return source if isinstance(source, str) else "".join(source)


def code_cells(nb: Any) -> list[tuple[int, Any]]:
    """(number from 1, cell) of the code cells that hold code."""
    return [(i, c) for i, c in enumerate(nb["cells"], 1) if c["cell_type"] == "code" and _source(c).strip()]


def is_compared(cell: Any) -> bool:
    """True unless a tag or comment tells the comparison to leave the cell's outputs alone."""
    tags = set(cell.get("metadata", {}).get("tags", []))
    return not tags & _IGNORING and not _IGNORING_COMMENT.search(_source(cell))


def _has_text(cell: Any) -> bool:
    return any(
        output["output_type"] == "stream" or any(mime not in _PICTURES for mime in output.get("data", {}))
        for output in cell.get("outputs", [])
    )


def problems(nb: Any) -> list[tuple[str, str]]:
    """Why comparing this notebook's stored outputs would prove little, as (what is wrong, what to do)."""
    cells = code_cells(nb)
    again = "run 'make store' and look at the difference before committing it"
    found = []
    if unrun := [number for number, cell in cells if cell.get("execution_count") is None]:
        # nbval passes a cell without an execution count whatever it prints
        found.append((f"cells {unrun} were never run, so nothing of theirs is compared", again))
    speaking = [cell for _, cell in cells if cell.get("outputs")]
    compared = [cell for cell in speaking if is_compared(cell)]
    if not speaking:
        found.append(("no stored outputs", again))
    elif len(speaking) - len(compared) > IGNORED_AT_MOST * len(speaking):
        ignored = len(speaking) - len(compared)
        found.append((
            f"{ignored} of {len(speaking)} cells with outputs are ignored, more than {IGNORED_AT_MOST:.0%}",
            "check the number that matters with a tolerance in the cell, print the outcome, and take off the tag",
        ))
    elif not any(_has_text(cell) for cell in compared):
        found.append(("only pictures are stored, and pictures are not compared", "print what the picture shows"))
    for number, cell in cells:
        expected = {"raises-exception", "nbval-raises-exception"} & set(cell.get("metadata", {}).get("tags", []))
        kinds = {(o["output_type"], o.get("name")) for o in cell.get("outputs", [])}
        if any(kind == "error" for kind, _ in kinds) and not expected:
            found.append((f"cell {number} stores a traceback", f"make the cell run, then {again}"))
        if ("stream", "stderr") in kinds and is_compared(cell):
            found.append((
                f"cell {number} stores text from stderr, which differs between machines",
                "settle the warning, or print to stdout",
            ))
    return found
