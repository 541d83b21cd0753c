"""Hold every paper.toml, notebook and record against each other, and say what disagrees and how to mend it."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sheaf.artifact import outputs
from sheaf.artifact.check_records import check_records
from sheaf.artifact.manifest import cell_source, read_notebook
from sheaf.artifact.paths import notebook_path, paper_dir, paper_ids, project_root
from sheaf.artifact.problem import Problem
from sheaf.artifact.promises import PromisesError, load_promises
from sheaf.artifact.scrub import find_leaks, notebook_leaks
from sheaf.artifact.spec import Paper, SpecError, load_paper

__all__ = ["Problem", "check", "check_notebook"]

LINES = 25  # of a code cell: what a reader takes in at once
TEXT = {".csv", ".json", ".svg", ".txt", ".html", ".md", ".toml"}
PARAMETERS: dict[str, Any] = {"profile": "smoke", "seed": 0, "results_dir": None}
_MAGIC = re.compile(r"^(\s*)[%!?].*$", re.MULTILINE)
_EMBEDDED = re.compile(r"base64,[A-Za-z0-9+/=\s]+")


def check(root: Path | None = None) -> list[Problem]:
    """Everything that disagrees in the project: papers, notebooks, records, and leaks in what is stored."""
    root = root or project_root()
    found = list(_stray_folders(root))
    for paper in paper_ids(root):
        try:
            spec = load_paper(paper, root)
        except SpecError as error:
            found.append(_from_spec_error(error, paper))
            continue
        found += _check_paper(spec, root)
        found += check_records(spec, root)
    for tour in sorted((root / "notebooks").glob("*.ipynb")):
        found += _check_stored(tour, root)
    return [*found, *_check_promises(root), *_leaks(root)]


def _from_spec_error(error: SpecError, paper: str) -> Problem:
    """The message of a SpecError reads ``file: key: what to do``."""
    parts = str(error).split(": ", 2)
    key, fix = parts[1:] if len(parts) == 3 else ("the file", str(error))
    return Problem(f"notebooks/{paper}/paper.toml", key, "is not valid", fix)


def _check_promises(root: Path) -> Iterator[Problem]:
    """The record of ``make prove`` is one that it wrote; its message reads ``file: key: what; fix``."""
    try:
        load_promises(root)
    except PromisesError as error:
        where, _, fix = str(error).rpartition("; ")
        file, key, says = where.split(": ", 2)
        yield Problem(file, key, says, fix)


def _stray_folders(root: Path) -> Iterator[Problem]:
    known = set(paper_ids(root))
    for folder in sorted((root / "notebooks").glob("*/")):
        if folder.name not in known and any(folder.glob("*.ipynb")):
            yield Problem(f"notebooks/{folder.name}", "paper.toml", "is missing", "add it, or remove the folder")
    for folder in sorted((root / "results").glob("*/*/")):
        if folder.name not in known and (folder / "record.json").is_file():
            name = folder.relative_to(root).as_posix()
            yield Problem(name, folder.name, "is the result of no paper here", "delete the folder, or restore its paper")


def _check_paper(spec: Paper, root: Path) -> list[Problem]:
    paper, found = spec.paper.id, []
    toml = f"notebooks/{paper}/paper.toml"
    listed = {n.name for n in spec.notebooks}
    for file in sorted(paper_dir(paper, root).glob("*.ipynb")):
        if file.stem not in listed:
            found.append(Problem(toml, "notebook", f"does not list {file.name}", "list it, or delete the file"))
    for op in spec.paper.kernels:
        if not (root / "kernels" / "sheaf_kernels" / op).is_dir():
            found.append(Problem(toml, "paper.kernels", f"names {op!r}, which is no folder of sheaf_kernels", "correct it"))
    for name in sorted(listed):
        path = notebook_path(paper, name, root)
        if path.is_file():
            found += check_notebook(path, spec, root)
        else:
            found.append(Problem(toml, f"notebook {name}", "has no file", f"add notebooks/{paper}/{name}.ipynb, or drop it"))
    return found


def check_notebook(path: Path, spec: Paper, root: Path) -> list[Problem]:
    """One notebook against its paper.toml: parameters, closing cell, ids, cell length, stored outputs."""
    file = path.relative_to(root).as_posix()
    found = _check_stored(path, root)
    try:
        nb = read_notebook(path)
    except ValueError:
        return found
    trees: list[ast.Module] = []
    for number, cell in outputs.code_cells(nb):
        source = cell_source(cell)
        if (lines := len(source.strip().splitlines())) > LINES:
            fix = "move what it computes into the library, or split it"
            found.append(Problem(file, f"cell {number}", f"has {lines} lines, more than {LINES}", fix))
        try:
            trees.append(ast.parse(_MAGIC.sub(r"\1pass", source)))
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:  # the last two: nested too deeply
            why = getattr(error, "msg", None) or str(error) or "nested too deeply"
            found.append(Problem(file, f"cell {number}", f"is not valid Python: {why}", "correct it"))
            return found
    found += [Problem(file, *rest) for rest in _check_parameters(nb)]
    if not trees or not any(_study_call(node) == "verdicts" for node in ast.walk(trees[-1])):
        found.append(Problem(file, "last cell", "does not call study.verdicts()", "end the notebook with study.verdicts()"))
    found += [Problem(file, *rest) for rest in _check_ids(trees, spec, path.stem)]
    return found


def _check_stored(path: Path, root: Path) -> list[Problem]:
    """What holds for any notebook: it can be read, its outputs can be compared, it ends without a leak."""
    file = path.relative_to(root).as_posix()
    try:
        nb = read_notebook(path)
    except ValueError as error:
        return [Problem(file, "the file", "is not a readable notebook", str(error))]
    found = [Problem(file, "outputs", says, fix) for says, fix in outputs.problems(nb)]
    for leak in notebook_leaks(nb, root):
        found.append(Problem(file, "stored text", f"holds {leak}", "take it out of what the cell prints; 'make store'"))
    return found


def _check_parameters(nb: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    tagged = [c for c in nb["cells"] if "parameters" in c.get("metadata", {}).get("tags", [])]
    if len(tagged) != 1:
        yield "parameters", f"{len(tagged)} cells are tagged 'parameters'", "tag exactly one"
        return
    given = {}
    for node in ast.parse(cell_source(tagged[0])).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and isinstance(node.value, ast.Constant):
            given[node.targets[0].id] = node.value.value
    for name, value in PARAMETERS.items():
        if name not in given or type(given[name]) is not type(value) or given[name] != value:
            yield "parameters", f"{name} is not {value!r}", f"write {name} = {value!r} in the parameters cell"
    for name in given.keys() - PARAMETERS.keys():
        yield "parameters", f"{name} is not a parameter that a run sets", "make it a setting in paper.toml"


def _study_call(node: ast.AST) -> str | None:
    """``table`` for ``study.table(...)``."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name):
        return node.func.attr if node.func.value.id == "study" else None
    return None


def _id_pattern(node: ast.expr | None) -> str | None:
    """A pattern of the ids an f-string can make; None when it is no f-string, or one without fixed text."""
    if not isinstance(node, ast.JoinedStr):
        return None
    parts = [re.escape(str(v.value)) if isinstance(v, ast.Constant) else ".+" for v in node.values]
    return "".join(parts) if any(part != ".+" for part in parts) else None


def _check_ids(trees: list[ast.Module], spec: Paper, notebook: str) -> Iterator[tuple[str, str, str]]:
    """The ids a notebook makes are those that paper.toml assigns to it.

    An id is mostly written in the call. Where a loop passes it in a variable, it has to stand as text somewhere in the
    notebook, as in the list that is looped over; an f-string stands for every id it can make. `Study` itself refuses
    ids that are not the notebook's, and a notebook that leaves one out, when it runs.
    """
    mine = {entry.id: (kind, entry) for kind, entry in spec.entries(notebook)}
    everywhere = {entry.id: entry.notebook for _, entry in spec.entries()}
    texts = {n.value for tree in trees for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
    used: set[str] = set()
    for call in (node for tree in trees for node in ast.walk(tree)):
        kind = _study_call(call)
        if kind not in ("table", "figure", "claim", "missing") or not isinstance(call, ast.Call):
            continue
        first = call.args[0] if call.args else next((k.value for k in call.keywords if k.arg == "id"), None)
        of_kind = {id for id, (its, _) in mine.items() if kind in (its, "missing")}
        if isinstance(first, ast.Constant) and isinstance(first.value, str):
            id = first.value
            used.add(id)
            if id not in mine:
                place = f"which paper.toml assigns to {everywhere[id]}" if id in everywhere else "which paper.toml lacks"
                yield id, f"study.{kind}({id!r}) makes an entry {place}", "correct the id, or paper.toml"
            elif id not in of_kind:
                yield id, f"is a {mine[id][0]} in paper.toml", f"call study.{mine[id][0]}({id!r}, ...)"
        elif pattern := _id_pattern(first):
            made = {id for id in of_kind if re.fullmatch(pattern, id)}
            used |= made
            if not made:
                yield ast.unparse(first or call), f"makes no {kind} that paper.toml assigns here", "correct it, or paper.toml"
        elif isinstance(first, ast.Name | ast.Subscript | ast.Attribute):
            used |= of_kind & texts
        else:
            yield f"study.{kind}", "its id cannot be read from the call", "write the ids as text, in the call or in a list"
    for id, (kind, entry) in mine.items():
        if id not in used and not getattr(entry, "missing", None):
            yield id, f"paper.toml assigns this {kind} to the notebook, which does not make it", f"call study.{kind}({id!r}, ...)"


def _leaks(root: Path) -> Iterator[Problem]:
    """Machine paths and secrets in stored results, shipped data and the pages of the project."""
    files = [*root.glob("*.md"), *(root / "results").rglob("*"), *(root / "notebooks").glob("*/paper.toml")]
    for file in sorted(files):
        if not file.is_file():
            continue
        name = file.relative_to(root).as_posix()
        leaks: list[str] = []
        if file.suffix == ".ipynb":
            try:
                leaks = notebook_leaks(read_notebook(file), root)
            except ValueError as error:
                yield Problem(name, "the file", "is not a readable notebook", str(error))
        elif file.suffix in TEXT:
            leaks = find_leaks(_EMBEDDED.sub("", file.read_text(encoding="utf-8", errors="replace")), root)
        for leak in leaks:
            yield Problem(name, "stored text", f"holds {leak}", "take it out where it is made, and make the file again")
