"""A procedure made better by rules, and the countable parts of the paper's rubric; no judge, no model."""

import re
from collections.abc import Sequence

import numpy as np

from sheaf.wonderbread.systems.steps import acted_steps, realise
from sheaf.wonderbread.systems.text import VERBS, join_sop, line_similarity, quoted, split_sop, verbs
from sheaf.wonderbread.trace import Demo

__all__ = ["RUBRIC", "improve", "rubric"]

RUBRIC = ("one_action", "location", "named_element", "edge_cases", "allowed_verbs")
LOCATION = re.compile(
    r"\b(?:left|right|top|bottom|upper|lower|corner|middle|centre|center|above|below|beside|next to|under|beneath|side|menu|"
    r"header|heading|column|row|page|screen|list|section|panel|bar|form|table|end of)\b",
    re.IGNORECASE,
)
CONDITION = re.compile(r"\b(?:if|when|unless|otherwise|in case|should there|where there|once)\b", re.IGNORECASE)
JOINED = re.compile(r"(?:,\s*|\s+)(?:and then|then|and)\s+(?=\w)|[.;]\s+(?=[A-Z])")
ALIKE = 0.30  # a line of the procedure and a step of the recording that say the same; chosen beforehand, tuned on nothing
FOREIGN = 0.12  # a line that resembles no step at all


def rubric(text: str) -> dict[str, float]:
    """Shares of lines, 0 to 1, for five of the six points of the paper's rubric (paper, SOP improvement).

    one_action: exactly one verb that gives an order; location: says where; named_element: a name in quotation marks;
    allowed_verbs: every order is of a known kind and there is one; edge_cases: 1 when some line states a condition.
    The sixth point, generality, cannot be counted.
    """
    _, lines = split_sop(text)
    if not lines:
        return dict.fromkeys(RUBRIC, 0.0)
    orders = [verbs(line) for line in lines]
    return {
        "one_action": float(np.mean([len(found) == 1 for found in orders])),
        "location": float(np.mean([bool(LOCATION.search(line)) for line in lines])),
        "named_element": float(np.mean([bool(quoted(line)) for line in lines])),
        "edge_cases": float(any(CONDITION.search(line) for line in lines)),
        "allowed_verbs": float(np.mean([bool(found) and all(verb in VERBS for verb in found) for found in orders])),
    }


def improve(text: str, demo: Demo) -> str:
    """The procedure rewritten from what its recording shows.

    Reads the procedure and the recording's states and actions. Lines with several orders are split; lines that
    resemble no step of the recording are dropped; steps of the recording that no line resembles are put in where they
    happened; a line without a named element takes over the sentence of its step. Lines follow the order of the
    recording. Never reads the reference procedure.
    """
    title, lines = split_sop(text)
    lines = [part for line in lines for part in _split(line)]
    steps = realise(acted_steps(demo))
    if not lines or not steps:
        return join_sop(title or demo.intent, lines or steps)
    alike = line_similarity(lines, steps)
    best = alike.argmax(axis=1)
    score = alike.max(axis=1)
    kept: list[tuple[float, str]] = []
    said: set[int] = set()
    last = -1.0
    for i, line in enumerate(lines):
        if score[i] < FOREIGN:
            continue
        if score[i] >= ALIKE:
            last = float(best[i])
            said.add(int(best[i]))
            if not quoted(line) and quoted(steps[int(best[i])]):
                line = steps[int(best[i])]
        kept.append((last, line))  # an uncertain line stays behind the one it followed
    kept += [(float(k), step) for k, step in enumerate(steps) if k not in said and alike[:, k].max() < ALIKE]
    return join_sop(title or demo.intent, [line for _, line in sorted(kept, key=lambda pair: pair[0])])


def _split(line: str) -> Sequence[str]:
    """One line an order, where each part begins with a verb; otherwise the line as it is."""
    if len(verbs(line)) < 2:
        return [line]
    parts = [part.strip(" ,.;") for part in JOINED.split(line) if part.strip(" ,.;")]
    if len(parts) < 2 or not all(verbs(part) for part in parts):
        return [line]
    return [part[0].upper() + part[1:] + "." for part in parts]
