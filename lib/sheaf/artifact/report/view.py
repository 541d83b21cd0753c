"""Records and paper.toml in, what the pages show out. A number whose origin is in doubt is withheld and the doubt said."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sheaf.artifact.parts import damaged_parts, inside, read
from sheaf.artifact.paths import paper_ids, results_dir
from sheaf.artifact.record import RecordError
from sheaf.artifact.rejudge import disagreements
from sheaf.artifact.report.files import check, svg_problem
from sheaf.artifact.report.text import finite
from sheaf.artifact.spec import PROFILES, Paper, SpecError, load_paper
from sheaf.artifact.spec import Claim as SpecClaim
from sheaf.artifact.verdict import (
    INCONCLUSIVE,
    NO_VERDICT,
    NOT_REPRODUCED,
    OUT_OF_REACH,
    REPRODUCED,
    VERDICTS,
    parse_criterion,
)

__all__ = ["PAPERS", "SCRATCH", "Claim", "Made", "NotebookRun", "Row", "Run", "board", "load_run", "results_base"]

PAPERS = (
    "decentralized", "wonderbread", "pixelfly", "laughing_hyena", "dejavu", "ac_sgd", "eclair", "metadata_shaping",
    "bootleg", "cross_modal",
)  # fmt: skip
SCRATCH = ("smoke",)  # toy size, not kept in the repository: shown on a score board of its own


@dataclass(frozen=True)
class Claim:
    """A claim with what was published, what was measured, and the verdict that follows. Numbers in ``unit``."""

    id: str
    says: str
    where: str
    notebook: str
    unit: str = ""
    published: str | float | None = None
    memory: bool = False
    statistic: str = "mean"
    method: str = ""
    measured: float | None = None
    low: float | None = None
    high: float | None = None
    n: int = 0
    criterion: str = ""
    verdict: str = NO_VERDICT
    why: str = ""
    note: str = ""
    warnings: tuple[str, ...] = ()
    kind: str = "claim"


@dataclass(frozen=True)
class Made:
    """A table or figure: its file, or why there is none (``missing``), or why it is withheld (``problem``)."""

    kind: str
    id: str
    title: str
    where: str
    notebook: str
    missing: str = ""
    problem: str = ""
    warnings: tuple[str, ...] = ()
    scale: str = ""
    note: str = ""
    file: Path | None = None
    published_file: Path | None = None
    sha256: str = ""


@dataclass(frozen=True)
class NotebookRun:
    """An executed notebook and the facts of its run, as the record states them; ``facts`` is empty before a run."""

    name: str
    title: str
    file: Path | None
    facts: dict[str, Any]


@dataclass(frozen=True)
class Run:
    """One paper in one profile. ``damaged`` is what is wrong with a record that cannot be trusted, else empty."""

    paper: str
    profile: str
    folder: Path
    spec: Paper | None
    claims: tuple[Claim, ...]
    made: tuple[Made, ...]
    notebooks: tuple[NotebookRun, ...]
    warnings: tuple[str, ...] = ()
    damaged: str = ""

    @property
    def title(self) -> str:
        return self.spec.paper.title if self.spec else self.paper

    @property
    def counts(self) -> dict[str, int]:
        """Claims per verdict, every verdict listed."""
        return {verdict: sum(c.verdict == verdict for c in self.claims) for verdict in VERDICTS}

    def tally(self, kind: str) -> tuple[int, int]:
        """(made, listed) tables or figures."""
        listed = [m for m in self.made if m.kind == kind]
        return sum(m.file is not None for m in listed), len(listed)

    @property
    def finished(self) -> str:
        return max((_text(n.facts, "finished") for n in self.notebooks), default="")

    def total(self, key: str) -> float:
        """Sum of one number of the facts (``wall_s``, ``cpu_s``) over the notebooks."""
        return sum(_number(n.facts, key) or 0.0 for n in self.notebooks)


@dataclass(frozen=True)
class Row:
    """A paper on the score board with its runs; ``title`` is empty for a paper that is not there yet."""

    paper: str
    title: str
    runs: tuple[Run, ...]


def _text(entry: dict[str, Any], key: str) -> str:
    value = entry.get(key)
    return "" if value is None else str(value)


def _number(entry: dict[str, Any], key: str) -> float | None:
    return finite(entry.get(key))


def _implied(claim: Claim) -> str:
    """The verdict that the recorded interval and criterion lead to."""
    if claim.measured is None or claim.low is None or claim.high is None:
        return NO_VERDICT
    rule = parse_criterion(claim.criterion)
    if rule.contains(claim.low) and rule.contains(claim.high):
        return REPRODUCED
    return NOT_REPRODUCED if rule.excludes(claim.low, claim.high) else INCONCLUSIVE


def _withdrawn(claim: Claim, why: str) -> Claim:
    return replace(claim, verdict=NO_VERDICT, why=why, warnings=(*claim.warnings, why))


def _declared_claim(declared: SpecClaim, verdict: str, why: str) -> Claim:
    return Claim(
        declared.id, declared.says, declared.where, declared.notebook, declared.unit, declared.published,
        declared.reported == "memory", declared.statistic, criterion=declared.reproduced_if, verdict=verdict, why=why,
    )  # fmt: skip


def _claim(id: str, entry: dict[str, Any], declared: SpecClaim | None, profile: str, spec: Paper | None) -> Claim:
    if "verdict" not in entry:  # its notebook was not run, or could not say
        reason = _text(entry, "missing") or "nothing was recorded"
        if declared is None:
            return Claim(id, _text(entry, "title"), _text(entry, "where"), _text(entry, "notebook"), why=reason)
        if profile not in declared.profiles:
            able = " or ".join(declared.profiles)
            reason = f"this profile ({profile}) cannot test it; {able} can"
            return _declared_claim(declared, OUT_OF_REACH, reason)
        return _declared_claim(declared, NO_VERDICT, reason)
    published = entry.get("published")
    claim = Claim(
        id, _text(entry, "says"), _text(entry, "where"), _text(entry, "notebook"), _text(entry, "unit"),
        published if isinstance(published, str) else _number(entry, "published"), entry.get("reported") == "memory",
        _text(entry, "statistic") or "mean", _text(entry, "method"), _number(entry, "measured"), _number(entry, "low"),
        _number(entry, "high"), int(_number(entry, "n") or 0), _text(entry, "criterion"), _text(entry, "verdict"),
        _text(entry, "why"), _text(entry, "note"),
    )  # fmt: skip
    try:
        implied = _implied(claim)
    except ValueError as error:
        return _withdrawn(claim, f"the record's criterion cannot be used: {error}")
    if claim.verdict not in VERDICTS:
        return _withdrawn(claim, f"the record gives the verdict {claim.verdict!r}, which is none of Sheaf's")
    if claim.verdict not in (implied, OUT_OF_REACH, NO_VERDICT):
        return _withdrawn(claim, f"the record says {claim.verdict!r}, but its interval and criterion give {implied!r}")
    if declared is None:
        return _withdrawn(claim, "paper.toml no longer lists this claim; run the notebook again") if spec else claim
    was_now = (
        ("criterion", entry.get("criterion"), declared.reproduced_if),
        ("statistic", entry.get("statistic"), declared.statistic),
        ("statement", entry.get("says"), declared.says),
        ("unit", entry.get("unit"), declared.unit),
        ("published value", entry.get("published"), declared.published),
    )
    for what, was, now in was_now:
        if was != now:
            return _withdrawn(
                claim,
                f"paper.toml changed after the run: the {what} was {was!r:.120} and is {now!r:.120}; run the notebook again",
            )
    if claim.verdict in (REPRODUCED, NOT_REPRODUCED, INCONCLUSIVE):
        if profile not in declared.profiles:
            return _withdrawn(claim, f"paper.toml says that this profile ({profile}) cannot test it; run the notebook again")
        for says in disagreements(entry, declared.reproduced_if, declared.statistic):
            return _withdrawn(claim, f"the record does not agree with itself: its {says.removeprefix('its ')}")
    return claim


def _made(id: str, kind: str, entry: dict[str, Any], folder: Path, listed: bool) -> Made:
    made = Made(
        kind, id, _text(entry, "title"), _text(entry, "where"), _text(entry, "notebook"), _text(entry, "missing"),
        scale=_text(entry, "scale"), note=_text(entry, "note"), sha256=_text(entry, "sha256"),
    )  # fmt: skip
    if not listed:
        made = replace(made, warnings=("paper.toml no longer lists it; run the notebook again",))
    if made.missing:
        return made
    file, problem = check(folder, entry.get("file"), entry.get("sha256"))
    problem = problem or (svg_problem(file) if file and kind == "figure" else "")
    if problem:
        return replace(made, problem=f"not shown: {problem}; run the notebook again")
    published = None
    if entry.get("published_file"):
        published = inside(folder, entry["published_file"])
        recorded = entry.get("published_sha256")  # records need not have it
        if published and recorded:
            published, _ = check(folder, entry["published_file"], recorded)
        if published is None:
            made = replace(
                made, warnings=(*made.warnings, "the file of its published values is missing or changed; run it again")
            )
    return replace(made, file=file, published_file=published)


def _without_record(spec: Paper | None, why: str) -> tuple[tuple[Claim, ...], tuple[Made, ...]]:
    if spec is None:
        return (), ()
    claims = tuple(_declared_claim(c, NO_VERDICT, why) for c in spec.claims)
    made = tuple(
        Made(kind, e.id, e.title, e.where, e.notebook, missing=why)
        for kind, e in spec.entries()
        if not isinstance(e, SpecClaim)
    )
    return claims, made


def _doubts(notebooks: tuple[NotebookRun, ...]) -> list[str]:
    ran = [n for n in notebooks if n.facts]
    doubts = []
    if len({_text(n.facts, "commit") for n in ran}) > 1:
        doubts.append("its notebooks were run at different commits; the provenance below says which")
    if dirty := [n.name for n in ran if n.facts.get("dirty")]:
        doubts.append(f"the code had uncommitted changes when {', '.join(dirty)} ran")
    return doubts


def load_run(paper: str, profile: str, root: Path | None = None) -> Run:
    """What one paper's record of one profile supports, checked against its files and paper.toml."""
    folder = results_dir(profile, paper, root)
    warnings: list[str] = []
    try:
        spec = load_paper(paper, root)
    except SpecError as error:
        spec = None
        warnings.append(f"shown from the record alone, unchecked against what was declared: {error}")
    try:
        record = read(folder / "record.json")
        entries, ran = record["entries"], record["notebooks"]
        if (record.get("paper"), record.get("profile")) != (paper, profile):
            raise RecordError(f"record.json: is not of {paper} in {profile}; delete it and run the notebooks again")
        if damaged := damaged_parts(folder, spec):
            raise RecordError(damaged[0])
    except RecordError as error:
        claims, made = _without_record(spec, "the record cannot be trusted")
        return Run(paper, profile, folder, spec, claims, made, (), tuple(warnings), str(error))

    listed = {entry.id: (kind, entry) for kind, entry in spec.entries()} if spec else {}
    found_claims, found_made = [], []
    for id in [*listed, *(id for id in entries if id not in listed)]:  # in the order of paper.toml
        kind, declared = listed.get(id, ("", None))
        entry = entries.get(id)
        if not isinstance(entry, dict) or (declared is not None and entry.get("kind", kind) != kind):
            if declared is None:
                warnings.append(f"entry {id}: not readable")
                continue
            entry = {"title": getattr(declared, "title", ""), "where": declared.where, "notebook": declared.notebook,
                     "missing": "the record has nothing for it; run the notebook again"}  # fmt: skip
        kind = kind or _text(entry, "kind")
        if kind == "claim":
            found_claims.append(_claim(id, entry, declared if isinstance(declared, SpecClaim) else None, profile, spec))
        else:
            reason = getattr(declared, "missing", None)  # what paper.toml says weighs more than that nothing was run
            entry = entry | {"missing": reason} if reason and entry.get("missing") else entry
            found_made.append(_made(id, kind, entry, folder, spec is None or declared is not None))
    titles = {n.name: n.title for n in spec.notebooks} if spec else {}
    notebooks = []
    for name in [*titles, *(name for name in sorted(ran) if name not in titles)]:
        run = ran.get(name)
        facts = run.get("provenance") if isinstance(run, dict) else None
        file = inside(folder, run.get("file")) if isinstance(run, dict) else None
        notebooks.append(NotebookRun(name, titles.get(name, name), file, facts if isinstance(facts, dict) else {}))
    warnings += _doubts(tuple(notebooks))
    found_claims.sort(key=lambda claim: claim.notebook not in ran)  # a run of some notebooks shows what it has first
    return Run(paper, profile, folder, spec, tuple(found_claims), tuple(found_made), tuple(notebooks), tuple(warnings))


def results_base(root: Path | None = None) -> Path:
    """The folder that holds the profiles."""
    return results_dir("profile", "paper", root).parent.parent


def board(root: Path | None = None, profiles: tuple[str, ...] | None = None) -> list[Row]:
    """Every paper with its runs: the ten in their order, then any others; ``profiles`` limits which runs are read."""
    base = results_base(root)
    here = paper_ids(root)
    found = sorted(record.parent.relative_to(base).parts for record in base.glob("*/*/record.json"))
    runs: dict[str, list[Run]] = {}
    for profile, paper in found:
        if profile in PROFILES and (profiles is None or profile in profiles):
            runs.setdefault(paper, []).append(load_run(paper, profile, root))
    rows = []
    for paper in [*PAPERS, *sorted({*here, *runs} - set(PAPERS))]:
        title = ""
        if paper in here:
            try:
                title = load_paper(paper, root).paper.title
            except SpecError:
                title = paper
        made = sorted(runs.get(paper, []), key=lambda run: PROFILES.index(run.profile))
        rows.append(Row(paper, title or (paper if made else ""), tuple(made)))
    return rows
