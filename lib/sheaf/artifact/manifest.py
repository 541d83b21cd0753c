"""What one notebook's results depend on, as name -> digest, and in words what changed between two such manifests.

A manifest holds everything that can change a result and nothing that cannot: the notebook's cells without outputs, the
library code it can reach (without comments and layout), kernel sources, its settings and entries of paper.toml, the
data, the versions of the packages it imports, and the seed. Markdown counts, because the executed copy is what is read.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import sys
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

from sheaf.artifact.paths import notebook_path, state_dir
from sheaf.artifact.record import atomic_write
from sheaf.artifact.scrub import scrub_text, secret_settings
from sheaf.artifact.sources import Sources, text_digest
from sheaf.artifact.spec import Paper
from sheaf.common.browser import BrowserMissing, find_chromium
from sheaf.common.data import external_dir

__all__ = ["Digests", "diff", "notebook_manifest", "read_notebook"]

Manifest = dict[str, str]
PACKAGES = ("torch", "numpy", "scipy", "pandas", "matplotlib")  # their versions count whether imported or not
_DISTRIBUTION = {"sklearn": "scikit-learn", "PIL": "pillow", "yaml": "PyYAML"}


class Digests:
    """SHA-256 of files, remembered in ``.sheaf/digests.json`` by size and times."""

    def __init__(self, root: Path):
        self._file = state_dir(root) / "digests.json"
        self._known: dict[str, list[Any]] = _read_json(self._file) or {}
        self._new = False

    def of(self, path: Path) -> str:
        """Digest of one file.

        Raises:
            FileNotFoundError: it does not exist.
        """
        stat = path.stat()
        # whoever sets a file's time back (cp -p, an archive, a wrong clock) cannot set the time of its change or its number
        stamp = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
        known = self._known.get(str(path))
        if isinstance(known, list) and known[:-1] == stamp:  # a damaged entry is made anew
            return str(known[-1])
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        self._known[str(path)], self._new = [*stamp, found], True
        return found

    def save(self) -> None:
        """Keep what was learnt; where there is no permission or no room it costs only time."""
        if self._new:
            with contextlib.suppress(OSError):
                atomic_write(self._file, json.dumps(self._known))
                self._new = False


def _read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object; None when the file is absent or damaged, as after a crash: the caller makes it anew."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def read_notebook(path: Path) -> dict[str, Any]:
    """A notebook as plain JSON.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is not a notebook.
    """
    shown = f"{path.parent.name}/{path.name}"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"{shown} is listed in paper.toml but does not exist; add it") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{shown} is not a readable notebook ({error}); restore or re-save it") from None
    except RecursionError:
        raise ValueError(f"{shown} is not a readable notebook (nested too deeply); restore it") from None
    if problem := _misshapen(found):
        raise ValueError(f"{shown} is not a readable notebook ({problem}); restore it")
    return dict(found)


def _misshapen(nb: Any) -> str:
    """What of a notebook is not as every reader of it expects; empty when all is."""
    cells = nb.get("cells") if isinstance(nb, dict) else None
    if not isinstance(cells, list):
        return "cells is not a list"
    if not isinstance(nb.get("metadata", {}), dict):
        return "metadata is not an object"
    for number, cell in enumerate(cells, 1):
        if not isinstance(cell, dict):
            return f"cell {number} is not an object"
        meta, outputs = cell.get("metadata", {}), cell.get("outputs", [])
        if not _is_text(cell.get("source", "")):
            return f"the source of cell {number} is not text"
        if not isinstance(meta, dict) or not _is_text(meta.get("tags", [])) or isinstance(meta.get("tags"), str):
            return f"the metadata of cell {number} is not an object with a list of tags"
        if not isinstance(outputs, list) or not all(_is_output(output) for output in outputs):
            return f"the outputs of cell {number} are not a list of outputs"
    return ""


def _is_text(value: Any) -> bool:
    """A text as notebooks store it: one string, or its lines."""
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(line, str) for line in value))


def _is_output(value: Any) -> bool:
    return (
        isinstance(value, dict) and all(_is_text(value.get(key, "")) for key in ("output_type", "name", "text", "traceback"))
        and all(isinstance(value.get(key, {}), dict) for key in ("data", "metadata"))
    )  # fmt: skip


def cell_source(cell: dict[str, Any]) -> str:
    source = cell.get("source", "")
    return source if isinstance(source, str) else "".join(source)


def _versions(imported: set[str]) -> Manifest:
    found = {"package python": ".".join(map(str, sys.version_info[:2]))}
    for name in sorted(set(PACKAGES) | imported):
        found[f"package {name}"] = _version(_DISTRIBUTION.get(name, name))
    return found


@lru_cache(maxsize=1024)
def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"


def _folder(folder: Path, name: str, digests: Digests) -> Manifest:
    """Digests of the files below a folder, hidden ones left out."""
    files = (f for f in sorted(folder.rglob("*")) if f.is_file() and not f.name.startswith("."))
    return {f"{name}/{f.relative_to(folder).as_posix()}": digests.of(f) for f in files}


def _setting(key: str, value: Any) -> str:
    text = json.dumps(value, sort_keys=True, default=str)
    return text if len(text) <= 60 and not secret_settings({key: value}) else text_digest(text)


def compiler() -> str:
    """The C++ compiler that kernels would be built with, by name, or ``none``."""
    named = [os.environ["CXX"]] if os.environ.get("CXX") else ["c++", "g++", "clang++"]
    return next((name for name in named if shutil.which(name.split()[0])), "none")


def _kernel_environment() -> Manifest:
    return {"compiler": compiler(), "SHEAF_KERNELS": os.environ.get("SHEAF_KERNELS", "")}


def _browser() -> str:
    try:
        return "present" if find_chromium() else "absent"
    except BrowserMissing:  # a setting that names none; whoever launches it says so
        return "absent"


def notebook_manifest(spec: Paper, notebook: str, profile: str, seed: int, root: Path, digests: Digests) -> Manifest:
    """Everything that the results of one notebook under one profile and seed depend on.

    Raises:
        FileNotFoundError, ValueError: the notebook is missing or unreadable.
        SpecError: the paper has no such profile.
    """
    paper = spec.paper.id
    path = notebook_path(paper, notebook, root)
    shown = path.relative_to(root).as_posix()
    cells = read_notebook(path)["cells"]
    found: Manifest = {"seed": str(seed)}
    for number, cell in enumerate(cells, 1):
        found[f"{shown}::cell {number}"] = text_digest(f"{cell.get('cell_type')}\n{cell_source(cell)}")
    for key, value in spec.settings(profile, notebook).items():
        found[f"setting {key}"] = _setting(key, value)
    if profile != "smoke" and os.environ.get("SHEAF_SEEDS"):
        found["setting SHEAF_SEEDS"] = os.environ["SHEAF_SEEDS"]
    for kind, entry in spec.entries(notebook):
        found[f"paper.toml {kind} {entry.id}"] = text_digest(entry.model_dump_json())

    sources = Sources(root)
    code = [cell_source(cell) for cell in cells if cell.get("cell_type") == "code"]
    modules, outside = sources.reach([*code, *(f"import sheaf_kernels.{op}" for op in spec.paper.kernels)])
    found |= sources.digests(modules)
    ops = {name.split(".")[1] for name in modules if name.startswith("sheaf_kernels.")} | set(spec.paper.kernels)
    for op in sorted(ops):
        found |= sources.kernel_digests(op)
    if ops:
        found |= _kernel_environment()
    found |= _versions(outside)

    found |= _folder(root / "data" / paper, f"data/{paper}", digests)
    for name in spec.paper.external if profile != "smoke" else []:
        folder = external_dir(name)
        found |= _folder(folder, f"external/{name}", digests) if folder else {f"external/{name}": "absent"}
    for name in spec.notebook(notebook).environment if profile != "smoke" else []:
        # a manifest is kept and its changes are printed: an address may hold a password
        found[f"environment {name}"] = scrub_text(os.environ.get(name, ""), root)
    if "sheaf.common.browser" in modules and profile != "smoke":
        found["browser"] = _browser()
    return found


def diff(old: Manifest, new: Manifest) -> list[str]:
    """Why results made under ``old`` do not answer for ``new``, one sentence per cause; empty when they do."""
    changed = [key for key in [*new, *(k for k in old if k not in new)] if old.get(key) != new.get(key)]
    parts: dict[str, list[str]] = {}
    for key in changed:
        file, _, part = key.partition("::")
        parts.setdefault(file, []).append(part)
    return [_reason(file, names, old, new) for file, names in parts.items()]


def _reason(file: str, names: list[str], old: Manifest, new: Manifest) -> str:
    def has(manifest: Manifest) -> bool:
        return file in manifest or any(key.startswith(f"{file}::") for key in manifest)

    if names == [""]:
        before, after = old.get(file), new.get(file)
        if "/" in file or re.fullmatch(r"[0-9a-f]{16,}", f"{before}{after}") or file.startswith("paper.toml"):
            return f"{file} " + ("is new" if before is None else "was removed" if after is None else "changed")
        return f"{file}: {before or 'not set'} -> {after or 'not set'}"
    if not has(old):
        return f"{file} is now used"
    if not has(new):
        return f"{file} is no longer used"
    some = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
    return f"{file} changed: {some}"
