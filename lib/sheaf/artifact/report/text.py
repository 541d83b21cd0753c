"""Numbers, times and Markdown as a reader sees them."""

import json
import math
import re
from datetime import datetime
from typing import Any

__all__ = [
    "brief", "duration", "finite", "interval_words", "markdown", "number", "plural", "provenance", "quantity", "when",
]  # fmt: skip


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
    """``2026-11-23 21:49 UTC`` from an ISO time; empty when it cannot be read."""
    try:
        found = datetime.fromisoformat(stamp)
    except ValueError:
        return ""
    return found.strftime("%Y-%m-%d %H:%M") + (" UTC" if found.utcoffset() is not None else "")


def plural(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def markdown(text: str) -> str:
    """Plain text that stays plain inside a cell of a Markdown table, whatever it holds."""
    flat = " ".join(text.split())
    flat = flat.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_{}\[\]()#+!|~$])", r"\\\1", flat)


def finite(value: Any) -> float | None:
    """A number as it stands in a record; None for what is none, is not finite or is beyond every float."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def brief(facts: dict[str, Any]) -> list[str]:
    """What a run cost and where, in a few words."""
    wall, cpu, peak = (finite(facts.get(key)) for key in ("wall_s", "cpu_s", "peak_mb"))
    said = [duration(wall) + " wall"] if wall is not None else []
    said += [duration(cpu) + " CPU"] if cpu is not None else []
    said += [f"peak {peak:,.0f} MB"] if peak is not None else []
    if facts.get("commit"):
        said.append(f"commit {str(facts['commit'])[:10]}" + (" with uncommitted changes" if facts.get("dirty") else ""))
    return said


def provenance(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """The facts of a run as name and words, in a fixed order; those a record does not give say so."""

    def plain(key: str) -> str:
        value = facts.get(key)
        return "not recorded" if value is None else str(value)

    def listed(key: str) -> str:
        value = facts.get(key)
        if not isinstance(value, dict):
            return plain(key)
        return "\n".join(f"{name}  {value[name]}" for name in sorted(value)) or "none"

    unclean = ("yes" if facts["dirty"] else "no") if isinstance(facts.get("dirty"), bool) else "not recorded"
    settings = facts.get("settings")
    shown = json.dumps(settings, sort_keys=True, ensure_ascii=False) if settings is not None else "not recorded"
    return [
        ("commit", plain("commit")), ("uncommitted changes", unclean),
        ("started", when(plain("started")) or "not recorded"), ("finished", when(plain("finished")) or "not recorded"),
        ("wall time, s", plain("wall_s")), ("CPU time, s", plain("cpu_s")),
        ("peak memory, MB", plain("peak_mb")), ("CPU", plain("cpu")), ("cores", plain("cores")),
        ("torch threads", plain("threads")), ("GPU", plain("gpu") if facts.get("gpu") else "none"),
        ("seed", plain("seed")), ("settings", shown), ("Python", plain("python")), ("packages", listed("packages")),
        ("data, sha256", listed("data")),
    ]  # fmt: skip
