"""Wrong numbers: results moved across their criterion change their verdict; edited, emptied or foreign ones lose it."""

import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drive import REPO, command, process
from ledger import Promise

from sheaf.artifact.check_records import check_records
from sheaf.artifact.record import RecordError, digest, load
from sheaf.artifact.report.view import load_run
from sheaf.artifact.spec import load_paper
from sheaf.artifact.verdict import INCONCLUSIVE, NO_VERDICT, NOT_REPRODUCED, REPRODUCED, judge, parse_criterion
from sheaf.common.stats import interval

COMMITTED = sorted(p.parent.relative_to(REPO / "results").parts for p in REPO.glob("results/*/*/record.json"))
COMMITTED = COMMITTED if os.environ.get("SHEAF_PROVE") == "1" else COMMITTED[::4]  # every paper only at full size
MEASURED = (REPRODUCED, NOT_REPRODUCED, INCONCLUSIVE)
STEP = 1e-9  # of the size of the numbers: far below what is printed, above what rounding does to a shifted interval
Entry = dict[str, Any]

pytestmark = pytest.mark.promise(
    "wrong-numbers", "A result that crosses its criterion changes its verdict, and a number that cannot be trusted never passes.",
    "every committed claim moved across every bound; records, tables, figures and declarations edited in some forty ways",
)  # fmt: skip


@dataclass(frozen=True)
class Place:
    """A copy of one paper's declaration and of its results in one profile, to be spoilt."""

    root: Path
    profile: str
    paper: str

    @property
    def folder(self) -> Path:
        return self.root / "results" / self.profile / self.paper

    @property
    def records(self) -> list[Path]:
        return [*sorted(self.folder.glob("records/*.json")), self.folder / "record.json"]

    def measured(self) -> dict[str, Entry]:
        """The claims that have a verdict from samples."""
        entries = load(self.folder / "record.json")["entries"]
        return {id: e for id, e in entries.items() if e["kind"] == "claim" and e.get("verdict") in MEASURED}

    def edit(self, change: Callable[[str, Entry], Any]) -> None:
        """Change every measured claim, in the parts and the whole, and seal them again as a wrong program would."""
        ids = set(self.measured())
        for file in self.records:
            record = json.loads(file.read_text(encoding="utf-8"))
            for id in ids & set(record["entries"]):
                changed = change(id, record["entries"][id])
                record["entries"][id] = record["entries"][id] if changed is None else changed
            record["digest"] = digest(record)
            file.write_text(json.dumps(record), encoding="utf-8")

    def problems(self) -> list[str]:
        return [str(p) for p in check_records(load_paper(self.paper, self.root), self.root)]

    def verdicts(self) -> dict[str, str]:
        """What the report would show of each claim."""
        return {c.id: c.verdict for c in load_run(self.paper, self.profile, self.root).claims}


def copy(tmp: Path, profile: str, paper: str) -> Place:
    root = tmp / f"{profile}-{paper}"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    (root / "pyproject.toml").write_text("")
    (root / "kernels").symlink_to(REPO / "kernels")
    shutil.copytree(REPO / "notebooks" / paper, root / "notebooks" / paper)
    pages = shutil.ignore_patterns("*.html")
    shutil.copytree(REPO / "results" / profile / paper, root / "results" / profile / paper, ignore=pages)
    return Place(root, profile, paper)


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SHEAF_RESULTS", raising=False)


def shifted(samples: list[float], statistic: str, end: str, target: float) -> list[float]:
    """Samples all moved by one number so that one end of their interval comes to stand at ``target``."""
    x, by = np.asarray(samples, dtype=float), 0.0
    for _ in range(4):  # each pass takes away what rounding left
        by += target - getattr(interval(x + by, statistic), end)
    return (x + by).tolist()


def implied(criterion: str, low: float, high: float) -> str:
    """The verdict by the rule as CONTRIBUTING.md words it, written a second time; no end stands on an open bound."""
    numbers = [float(n) for n in re.findall(r"[-+]?[\d.]+(?:e[-+]?\d+)?", criterion)]
    if criterion.startswith("in"):
        least, most = numbers
    elif criterion.startswith("within"):
        least, most = sorted(numbers[1] * (1 + s * numbers[0] / 100) for s in (-1, 1))
    else:
        least, most = (numbers[0], math.inf) if criterion[0] == ">" else (-math.inf, numbers[0])
    if least <= low and high <= most:
        return REPRODUCED
    return NOT_REPRODUCED if high < least or low > most else INCONCLUSIVE


def crossings(entry: Entry) -> Iterator[tuple[list[float], list[float]]]:
    """For each bound of the criterion and each end of the interval: samples just below and just above that bound.

    For a criterion that only one value meets: that value, and one sample a step away from it.
    """
    rule, n = parse_criterion(entry["criterion"]), len(entry["samples"])
    if rule.low == rule.high:
        for step in (-STEP, STEP):
            yield [rule.low] * n, [rule.low] * (n - 1) + [rule.low + step * max(1.0, abs(rule.low))]
        return
    samples, statistic = entry["samples"], entry["statistic"]
    for bound in (b for b in (rule.low, rule.high) if math.isfinite(b)):
        size = max(abs(bound), *map(abs, samples), entry["high"] - entry["low"]) or 1.0
        for end in ("low", "high"):
            for step in (
                STEP * size,
                1e3 * STEP * size,
                1e6 * STEP * size,
            ):  # a bootstrap of tied values moves in jumps
                below, above = (shifted(samples, statistic, end, bound + s * step) for s in (-1, 1))
                if getattr(interval(below, statistic), end) < bound < getattr(interval(above, statistic), end):
                    break
            yield below, above


@pytest.mark.parametrize(("profile", "paper"), COMMITTED)
def test_the_smallest_step_across_a_bound_flips_the_verdict(
    promise: Promise, profile: str, paper: str, tmp_path: Path
) -> None:
    place = copy(tmp_path, profile, paper)
    claims = place.measured()
    moved: dict[str, list[float]] = {}
    flips = 0
    for id, entry in list(claims.items())[: promise.size(full=1000, fast=6)]:
        flipped = False
        for sides in crossings(entry):
            wanted, found = [], []
            for samples in sides:
                at = interval(samples, entry["statistic"])
                wanted.append(implied(entry["criterion"], at.low, at.high))
                found.append(judge(samples, entry["criterion"], entry["statistic"]).verdict)
                if found[-1] != entry["verdict"]:
                    moved.setdefault(id, samples)
            promise.trial(found == wanted, f"{profile}/{paper} {id}: {found} where {wanted} follows")
            flipped |= wanted[0] != wanted[1]
            flips += wanted[0] != wanted[1]
        promise.trial(flipped, f"{profile}/{paper} {id}: no step flips its verdict")
    promise.figures["verdicts flipped"] = flips
    # the same through the real path: the record keeps its old verdict beside the moved samples
    place.edit(lambda id, e: e | {"samples": moved[id]} if id in moved else None)
    problems, shown = place.problems(), place.verdicts()
    for id in moved:
        told = any(f": {id}: verdict is" in p for p in problems)
        promise.trial(
            told and shown[id] == NO_VERDICT, f"{profile}/{paper} {id} moved: check {told}, report {shown[id]}"
        )


def put(**values: Any) -> Callable[[str, Entry], Entry]:
    return lambda id, entry: entry | values


def last_sample(value: Any) -> Callable[[str, Entry], Entry]:
    return lambda id, entry: entry | {"samples": [*entry["samples"][:-1], value]}


def without(key: str) -> Callable[[str, Entry], Entry]:
    return lambda id, entry: {k: v for k, v in entry.items() if k != key}


def other(key: str, *values: Any) -> Callable[[str, Entry], Entry]:
    return lambda id, entry: entry | {key: next(v for v in values if v != entry[key])}


SPOILT: dict[str, Callable[[str, Entry], Any]] = {
    "samples gone": without("samples"), "no samples": put(samples=[]), "samples null": put(samples=None),
    "samples a text": put(samples="123456789"), "samples an object": put(samples={"0": 1.0}),
    "a sample NaN": last_sample(math.nan), "a sample 'nan'": last_sample("nan"), "a sample inf": last_sample(math.inf),
    "a sample -inf": last_sample(-math.inf), "a sample '1e999'": last_sample("1e999"), "a sample null": last_sample(None),
    "a sample true": last_sample(True), "a sample a text": last_sample("12 ms"), "a sample a list": last_sample([1.0]),
    "a sample of 400 digits": last_sample(10**400),
    "measured gone": without("measured"), "measured null": put(measured=None), "measured NaN": put(measured=math.nan),
    "low inf": put(low=-math.inf), "high NaN": put(high=math.nan), "low a text": put(low="3"), "high true": put(high=True),
    "high of 400 digits": put(high=10**400), "interval gone": lambda id, e: without("low")(id, without("high")(id, e)),
    "interval narrowed": lambda id, e: e | {"low": e["measured"] + 0.1 * (abs(e["measured"]) + 1)},
    "n raised": lambda id, e: e | {"n": 10 * e["n"] + 7}, "n gone": without("n"),
    "another unit": lambda id, e: e | {"unit": "furlongs"}, "unit gone": without("unit"),
    "criterion loosened": put(criterion="in [-1e300, 1e300]"), "criterion no criterion": put(criterion="about right"),
    "criterion gone": without("criterion"), "criterion null": put(criterion=None),
    "another statistic": other("statistic", "exact", "median"), "no statistic": put(statistic="mode"),
    "another published value": put(published=123456.789), "another statement": put(says="anything"),
    "another verdict": other("verdict", REPRODUCED, NOT_REPRODUCED), "no such verdict": put(verdict="proved"),
    "verdict a number": put(verdict=1), "of another kind": put(kind="table"),
    "a number for an entry": lambda id, e: 5, "a list for an entry": lambda id, e: [e], "an empty entry": lambda id, e: {},
}  # fmt: skip


@pytest.mark.parametrize(("profile", "paper"), COMMITTED)
def test_a_record_that_was_spoilt_gives_no_verdict(promise: Promise, profile: str, paper: str, tmp_path: Path) -> None:
    kinds = list(SPOILT)
    for kind in kinds if promise.full else kinds[COMMITTED.index((profile, paper)) :: 2 * len(COMMITTED)]:
        place = copy(tmp_path, profile, paper)
        ids = place.measured()
        place.edit(SPOILT[kind])
        with promise.attempt(f"{profile}/{paper}, {kind}: judged without an exception"):
            problems, shown = place.problems(), place.verdicts()
            for id in ids:
                told = any(f"record.json: {id}: " in p for p in problems)
                promise.trial(told and shown[id] == NO_VERDICT, f"{profile}/{paper} {id}, {kind}: {told}, {shown[id]}")


@pytest.mark.parametrize(("profile", "paper"), COMMITTED)
def test_one_character_changed_in_a_file_is_seen(promise: Promise, profile: str, paper: str, tmp_path: Path) -> None:
    place = copy(tmp_path, profile, paper)
    rng = np.random.default_rng(len(paper))
    for file in place.records[-promise.size(full=100, fast=2) :]:
        before, name = file.read_text(encoding="utf-8"), file.relative_to(place.folder).as_posix()
        was = json.loads(before)
        for at in rng.choice(
            [i for i, c in enumerate(before) if c.isalnum()], promise.size(full=6, fast=2), replace=False
        ):
            file.write_text(before[:at] + ("7" if before[at] != "7" else "8") + before[at + 1 :], encoding="utf-8")
            try:
                same = load(file) == was  # a last digit beyond what a number can hold
            except RecordError:
                same = False
                told = any(f"{name}: the file: " in p for p in place.problems())
                kept = told and set(place.verdicts().values()) <= {NO_VERDICT}
            promise.trial(same or kept, f"{profile}/{paper} {name}, character {at}")
        file.write_text(before, encoding="utf-8")
    entries = load(place.folder / "record.json")["entries"]
    files = {(id, key): e[key] for id, e in entries.items() for key in ("file", "published_file") if key in e}
    for name in files.values():
        text = (place.folder / name).read_text(encoding="utf-8")
        at = max(i for i, c in enumerate(text) if c.isdigit())
        (place.folder / name).write_text(text[:at] + str((int(text[at]) + 1) % 10) + text[at + 1 :], encoding="utf-8")
    problems = place.problems()
    shown = {m.id: m for m in load_run(paper, profile, place.root).made}
    for (id, key), name in files.items():
        told = any(f": {id}: {name} is not the file" in p for p in problems)
        hidden = shown[id].file is None if key == "file" else shown[id].published_file is None
        promise.trial(told and hidden, f"{profile}/{paper} {id}: {name} edited: check {told}, withheld {hidden}")


DECLARED = {
    "criterion": (r'^reproduced_if = ".*"', 'reproduced_if = "in [-1e300, 1e300]"'),
    "unit": (r'^unit = ".*"', 'unit = "furlongs"'),
    "published": (r"^published = .*", "published = 123456.789"),
    "statistic": (r'^statistic = "(?:mean|median|bootstrap)"', 'statistic = "exact"'),
    "says": (r'^says = "', 'says = "hardly: '),
}


@pytest.mark.parametrize(("profile", "paper"), COMMITTED)
def test_a_declaration_changed_after_the_run_takes_the_verdict_away(
    promise: Promise, profile: str, paper: str, tmp_path: Path
) -> None:
    for what, (old, new) in list(DECLARED.items())[: promise.size(full=5, fast=2)]:
        place = copy(tmp_path, profile, paper)
        toml, ids = place.root / "notebooks" / paper / "paper.toml", place.measured()
        before = {c.id: c for c in load_paper(paper, place.root).claims}
        toml.write_text(re.sub(old, new, toml.read_text(encoding="utf-8"), flags=re.MULTILINE), encoding="utf-8")
        changed = [c.id for c in load_paper(paper, place.root).claims if c != before[c.id] and c.id in ids]
        problems, shown = place.problems(), place.verdicts()
        for id in changed:
            told = any(f"record.json: {id}: " in p for p in problems)
            promise.trial(
                told and shown[id] == NO_VERDICT, f"{profile}/{paper} {id}: {what} changed: {told}, {shown[id]}"
            )


@pytest.mark.parametrize(("profile", "paper"), COMMITTED)
def test_results_of_another_profile_or_paper_do_not_pass(
    promise: Promise, profile: str, paper: str, tmp_path: Path
) -> None:
    place = copy(tmp_path, profile, paper)
    able = {c.id: c.profiles for c in load_paper(paper, place.root).claims}
    for another in sorted({"smoke", "laptop", "gpu", "paper"} - {profile})[: promise.size(full=3, fast=1)]:
        target = place.root / "results" / another / paper
        shutil.copytree(place.folder, target)
        there = Place(place.root, another, paper)
        problems, shown = place.problems(), there.verdicts()
        told = any(f"results/{another}/{paper}/record.json: profile: is" in p for p in problems)
        promise.trial(told and not set(shown.values()) & set(MEASURED), f"{paper}: {profile} taken for {another}")
        for file in there.records:  # and one that says it is of that profile
            record = json.loads(file.read_text(encoding="utf-8")) | {"profile": another}
            file.write_text(json.dumps(record | {"digest": digest(record)}), encoding="utf-8")
        problems, shown = place.problems(), there.verdicts()
        for id in (i for i in there.measured() if another not in able[i]):
            told = any(f"results/{another}/{paper}/record.json: {id}: verdict is" in p for p in problems)
            promise.trial(told and shown[id] == NO_VERDICT, f"{paper} {id}: relabelled {another}: {told}, {shown[id]}")
        shutil.rmtree(target)


@pytest.mark.slow
def test_the_commands_say_so(promise: Promise, tmp_path: Path) -> None:
    """`sheaf check` and `sheaf report` as a user calls them: exit code 1 with the claim, and "no verdict" on the page."""
    profile, paper = ("laptop", "decentralized") if promise.full else ("gpu", "laughing_hyena")
    shown = f"results/{profile}/{paper}"
    place = copy(tmp_path, profile, paper)
    ids, sound = place.measured(), {file: file.read_bytes() for file in place.records}
    for kind in ["a sample NaN", "another verdict", "another unit", "samples gone", "interval gone"][
        : promise.size(5, 1)
    ]:
        for file, content in sound.items():
            file.write_bytes(content)
        place.edit(SPOILT[kind])
        checked, built = process(place.root, "check"), process(place.root, "report")
        page = (place.root / f"{shown}.html").read_text(encoding="utf-8")
        for id in ids:
            row = page[page.index(f'<tr id="{id}"') :].partition("</tr>")[0]
            kept = f"{shown}/record.json: {id}: " in checked.err and 'class="badge none"' in row
            promise.trial(kept, f"{kind}: {id}: {row[-300:]}")
        promise.trial(
            (checked.code, built.code) == (1, 0) and not checked.bare + built.bare, f"{kind}: {checked.err[-300:]}"
        )
    for file, content in sound.items():
        file.write_bytes(content)
    part = place.records[0]
    part.write_text(part.read_text(encoding="utf-8").replace("0", "1", 1), encoding="utf-8")
    built = command(place.root, "report")
    told = f"{shown}/records/{part.name}: changed after it was written" in built.err
    hidden = "cannot be trusted" in (place.root / f"{shown}.html").read_text(encoding="utf-8")
    promise.trial(built.code == 1 and told and hidden, f"a part edited: {built.text[-300:]}")
