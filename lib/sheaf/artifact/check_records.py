"""Records against paper.toml and the files they name; every verdict is computed again from the stored samples."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sheaf.artifact.parts import inside, read
from sheaf.artifact.paths import results_dir
from sheaf.artifact.problem import Problem
from sheaf.artifact.record import RecordError, file_digest
from sheaf.artifact.rejudge import disagreements
from sheaf.artifact.scrub import secret_settings
from sheaf.artifact.spec import PROFILES, Claim, Paper
from sheaf.artifact.verdict import OUT_OF_REACH

__all__ = ["check_records"]

AGAIN = "run the notebook again"
MERGE = "run 'make report'"

Finding = tuple[str, str, str]  # key, says, fix


def check_records(spec: Paper, root: Path) -> list[Problem]:
    """Problems of the records of one paper, in every profile that has results."""
    found: list[Problem] = []
    for profile in PROFILES:
        folder = results_dir(profile, spec.paper.id, root)
        parts: dict[str, Any] = {}
        for file in sorted(folder.glob("records/*.json")):
            part, problems = _check_file(file, spec, profile, folder, root)
            found += problems
            parts |= part.get("entries", {})
            if part and file.stem not in {n.name for n in spec.notebooks}:
                name = _shown(file, root)
                found.append(Problem(name, file.stem, "is a notebook that paper.toml does not list", "delete the file"))
        whole = folder / "record.json"
        if whole.is_file():
            record, problems = _check_file(whole, spec, profile, folder, root)
            found += problems
            if record:
                found += [Problem(_shown(whole, root), *rest) for rest in _check_merge(record, parts, spec)]
        elif parts:
            found.append(Problem(_shown(whole, root), "the file", "is missing though notebooks were run", MERGE))
    return found


def _shown(file: Path, root: Path) -> str:
    return file.relative_to(root).as_posix() if file.is_relative_to(root) else file.name


def _check_file(file: Path, spec: Paper, profile: str, folder: Path, root: Path) -> tuple[dict[str, Any], list[Problem]]:
    name = _shown(file, root)
    try:
        record = read(file)
    except RecordError as error:
        says, _, fix = str(error).removeprefix(f"{file.name}: ").partition("; ")
        return {}, [Problem(name, "the file", says, fix or AGAIN)]
    found = [Problem(name, *rest) for rest in _check_record(record, spec, profile, folder)]
    return record, found


def _check_record(record: dict[str, Any], spec: Paper, profile: str, folder: Path) -> Iterator[Finding]:
    for key, expected in (("paper", spec.paper.id), ("profile", profile)):
        if record.get(key) != expected:
            yield key, f"is {record.get(key)!r:.60} but the folder says {expected!r}", AGAIN
    declared = {entry.id: (kind, entry) for kind, entry in spec.entries()}
    for id, made in record["entries"].items():
        if id not in declared:
            yield id, "is not in paper.toml", AGAIN
            continue
        if not isinstance(made, dict):
            yield id, "is not an object", AGAIN
            continue
        kind, entry = declared[id]
        for key, expected in (("kind", kind), ("notebook", entry.notebook)):
            if made.get(key) != expected:
                yield id, f"{key} is {made.get(key)!r:.60}, in paper.toml {expected!r}", AGAIN
        if made.get("kind") != kind:
            continue
        if isinstance(entry, Claim):
            yield from _check_claim(id, made, entry, profile)
        elif "missing" not in made:
            yield from _check_files(id, made, folder)
    for notebook, made in record["notebooks"].items():
        file = made.get("file") if isinstance(made, dict) else None
        if inside(folder, file) is None:
            yield notebook, f"its executed notebook {file!s:.80} is not there", AGAIN
        facts = made.get("provenance") if isinstance(made, dict) else None
        for setting in secret_settings(facts.get("settings")) if isinstance(facts, dict) else []:
            yield notebook, f"its setting {setting} is named like a secret", "pass secrets in the environment only"


def _check_claim(id: str, made: dict[str, Any], entry: Claim, profile: str) -> Iterator[Finding]:
    if "verdict" not in made and "missing" in made:  # merged before its notebook was run
        return
    told = {"says": entry.says, "criterion": entry.reproduced_if, "published": entry.published, "unit": entry.unit,
            "statistic": entry.statistic}  # fmt: skip
    for key, expected in told.items():
        if made.get(key) != expected:
            yield id, f"{key} is {made.get(key)!r:.120}, in paper.toml {expected!r:.120}", AGAIN
    if "missing" in made or profile not in entry.profiles:
        if (verdict := made.get("verdict")) != OUT_OF_REACH:
            yield id, f"verdict is {verdict!r:.60} where nothing could be measured; it is {OUT_OF_REACH!r}", AGAIN
        return
    for says in disagreements(made, entry.reproduced_if, entry.statistic):
        yield id, says, AGAIN


def _check_files(id: str, made: dict[str, Any], folder: Path) -> Iterator[Finding]:
    for key, digest in (("file", "sha256"), ("published_file", "published_sha256")):
        if key == "published_file" and key not in made:
            continue
        file = inside(folder, made.get(key))
        if file is None:
            yield id, f"its {key} {made.get(key)!r:.80} is not there", AGAIN
        elif (digest in made or key == "file") and file_digest(file) != made.get(digest):
            yield id, f"{made[key]} is not the file that was recorded", AGAIN  # older records lack a published file's digest


def _check_merge(record: dict[str, Any], parts: dict[str, Any], spec: Paper) -> Iterator[Finding]:
    """The merged record lists every entry of paper.toml, as the notebooks' own parts have it."""
    for _, entry in spec.entries():
        if entry.id not in record["entries"]:
            yield entry.id, "is in paper.toml but not in the record", MERGE
        elif entry.id in parts and record["entries"][entry.id] != parts[entry.id]:
            yield entry.id, "differs from what its notebook recorded", MERGE
