"""Numbers, times and Markdown as a reader sees them."""

import re
from datetime import datetime

__all__ = ["duration", "interval_words", "markdown", "number", "plural", "quantity", "when"]


def number(value: float) -> str:
    """Four significant digits, thousands grouped."""
    if value != 0 and 1e4 <= abs(value) < 1e9:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def quantity(value: float, unit: str) -> str:
    """A number with its unit: ``4.8x``, ``12%``, ``3.2 s``."""
    return number(value) + (unit if unit in ("x", "%", "") else f" {unit}")


def interval_words(low: float, high: float, statistic: str) -> str:
    """``95% interval 3.9 to 4.7``, ``range 3 to 4`` for exact values, empty for a single exact one."""
    if statistic == "exact":
        return "" if low == high else f"range {number(low)} to {number(high)}"
    return f"95% interval {number(low)} to {number(high)}"


def duration(seconds: float) -> str:
    """``48 s``, ``3 min 20 s``, ``2 h 5 min``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    if whole < 7200:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def when(stamp: str) -> str:
    """``2026-11-23 21:49 UTC`` from an ISO time; what cannot be read is given back as it is."""
    try:
        found = datetime.fromisoformat(stamp)
    except ValueError:
        return stamp
    return found.strftime("%Y-%m-%d %H:%M") + (" UTC" if found.utcoffset() is not None else "")


def plural(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def markdown(text: str) -> str:
    """Plain text that stays plain inside a cell of a Markdown table, whatever it holds."""
    flat = " ".join(text.split())
    flat = flat.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_{}\[\]()#+!|~$])", r"\\\1", flat)
