"""Cutting a procedure's text into lines: as the paper's scorer does, and without losing anything."""

import re

__all__ = ["LOST_KINDS", "sop_lines", "sop_lines_audited", "unnumbered"]

LOST_KINDS = ("unnumbered", "vanished")
NUMBER = re.compile(r"\s*(?:\(?\d{1,3}[.):]|[-*•–])\s*")


def _filled(text: str) -> list[str]:
    return [line for line in text.split("\n") if line.strip()]


def sop_lines(text: str, title: bool = False) -> list[str]:
    """Lines as published: of every line that is not blank, what follows its first full stop.

    A line without a full stop stays whole. One that is not numbered loses its first sentence, or all of itself when
    the full stop ends it (audit: :func:`unnumbered`).

    Args:
        title: the first line is a title and goes, unless it starts with a digit.
    """
    lines = _filled(text)
    if title and lines and not lines[0].lstrip()[:1].isdigit():
        lines = lines[1:]
    return [rest for line in lines if (rest := line[line.find(".") + 1 :].strip())]


def sop_lines_audited(text: str, title: bool = False) -> list[str]:
    """Every line that is not blank, without its number or bullet and with all of its words."""
    lines = _filled(text)
    if title and lines and not lines[0].lstrip()[:1].isdigit():
        lines = lines[1:]
    return [rest for line in lines if (rest := NUMBER.sub("", line, count=1).strip())]


def unnumbered(text: str) -> dict[str, int]:
    """Counts of one text: its ``lines``, those ``unnumbered`` (the published rule eats words of them) and ``vanished``."""
    lines = _filled(text)
    plain = [line for line in lines if not NUMBER.match(line)]
    vanished = sum(not line[line.find(".") + 1 :].strip() for line in lines)
    return {"lines": len(lines), "unnumbered": len(plain), "vanished": vanished}
