"""What code a notebook can reach, hashed so that comments, layout and docstrings do not count."""

import ast
import hashlib
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

__all__ = ["Sources", "cpp_digest", "python_digests", "text_digest"]

PACKAGES = {"sheaf": "lib", "sheaf_kernels": "kernels"}
MODULE = "top level"
BESIDE = {".json", ".toml", ".csv", ".txt", ".yaml", ".html", ".js", ".css"}  # what a module may read from its own folder
_OURS = re.compile(r"sheaf(_kernels)?(\.\w+)+")
_MAGIC = re.compile(r"^\s*[%!?].*$", re.MULTILINE)
# strings and character literals are kept, comments go: the alternatives are tried left to right at every position
_CPP = re.compile(r'"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'|//[^\n]*|/\*.*?\*/', re.DOTALL)


def text_digest(text: str | bytes) -> str:
    """First 16 hex digits of sha256: enough to tell versions of one file apart, short enough to read."""
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text  # JSON can spell half a character
    return hashlib.sha256(data).hexdigest()[:16]


@lru_cache(maxsize=1024)
def cpp_digest(text: str) -> str:
    """Digest of C++ source without its comments, indentation and empty lines."""
    bare = _CPP.sub(lambda m: " " if m[0].startswith("/") else m[0], text)
    lines = (" ".join(line.split()) for line in bare.splitlines())
    return text_digest("\n".join(line for line in lines if line))


def _strip_docstrings(tree: ast.AST) -> None:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
                node.body = node.body[1:] or [ast.Pass()]


def _parse(text: str) -> ast.Module | None:
    """The syntax tree of a module or a notebook cell; None when it is not Python (it will say so when it runs)."""
    for attempt in (text, _MAGIC.sub("", text)):
        try:
            return ast.parse(attempt)
        except (SyntaxError, ValueError, RecursionError, MemoryError):  # the last two for what is nested too deeply
            continue
    return None


def python_digests(text: str) -> dict[str, str]:
    """One digest per top-level function or class, and one (``top level``) for all other statements of a module.

    Comments, layout, docstrings and the order of definitions leave them unchanged. Source that does not parse is
    digested as text.
    """
    tree = _parse(text)
    if tree is not None:
        _strip_docstrings(tree)
    return _tree_digests(tree, text)


def _tree_digests(tree: ast.Module | None, text: str) -> dict[str, str]:
    if tree is None:
        return {MODULE: text_digest(text)}
    parts: dict[str, list[str]] = {MODULE: []}
    for node in tree.body:
        name = node.name if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) else MODULE
        try:
            parts.setdefault(name, []).append(ast.dump(node))
        except RecursionError:  # a sum of a thousand terms
            return {MODULE: text_digest(text)}
    return {name: text_digest("\n".join(dumps)) for name, dumps in parts.items()}


@dataclass(frozen=True)
class _Module:
    """One parsed module: what it imports and which names it loads lazily through ``__getattr__``."""

    digests: dict[str, str]
    imports: frozenset[tuple[str, str | None]]  # (module, name asked of it or None)
    third_party: frozenset[str]
    lazy: dict[str, str] = field(default_factory=dict)


def _module(path: Path, package: str) -> _Module:
    """A file of Python as it is now; ``package`` is where its relative imports start from."""
    stat = path.stat()
    return _read(path, (stat.st_size, stat.st_mtime_ns), package)


@lru_cache(maxsize=4096)
def _read(path: Path, stamp: tuple[int, int], package: str) -> _Module:
    text = path.read_text(encoding="utf-8")
    tree = _parse(text)
    if tree is None:
        return _Module(_tree_digests(tree, text), frozenset(), frozenset())
    _strip_docstrings(tree)
    lazy = _lazy_names(tree)
    imports, outside = _imports(tree, package, skip=set(lazy.values()))
    return _Module(_tree_digests(tree, text), frozenset(imports), frozenset(outside), lazy)


def _lazy_names(tree: ast.Module) -> dict[str, str]:
    """Name -> module of a package that defines ``__getattr__`` beside dictionaries of string to string."""
    if not any(isinstance(node, ast.FunctionDef) and node.name == "__getattr__" for node in tree.body):
        return {}
    found = {}
    for node in tree.body:
        value = node.value if isinstance(node, ast.Assign | ast.AnnAssign) else None
        if isinstance(value, ast.Dict):
            for key, target in zip(value.keys, value.values, strict=True):
                if isinstance(key, ast.Constant) and isinstance(target, ast.Constant) and isinstance(target.value, str):
                    found[str(key.value)] = target.value
    return found


def _imports(tree: ast.AST, package: str, skip: set[str]) -> tuple[set[tuple[str, str | None]], set[str]]:
    """Modules of ours that a tree names (imports, and strings such as the one given to ``torchrun -m``), and others'."""
    named: set[tuple[str, str | None]] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            named |= {(alias.name, None if "." in alias.name or alias.name not in PACKAGES else "*") for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, base] if base else parents)
            named |= {(base, alias.name) for alias in node.names}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and _OURS.fullmatch(node.value):
            named |= {(node.value, None)} if node.value not in skip else set()
    ours = {(module, name) for module, name in named if module.split(".")[0] in PACKAGES}
    outside = {module.split(".")[0] for module, _ in named - ours} - set(sys.stdlib_module_names) - {""}
    return ours, outside


class Sources:
    """The project's own modules under one root, and what is reachable from a piece of code."""

    def __init__(self, root: Path):
        self.root = root

    def _file(self, module: str) -> tuple[Path, str] | None:
        """Path of a module and the package that relative imports inside it start from."""
        head = PACKAGES.get(module.split(".")[0])
        if head is None:
            return None
        base = self.root.joinpath(head, *module.split("."))
        if (base / "__init__.py").is_file():
            return base / "__init__.py", module
        if base.with_suffix(".py").is_file():
            return base.with_suffix(".py"), module.rpartition(".")[0]
        return None

    def _load(self, module: str) -> tuple[Path, _Module] | None:
        found = self._file(module)
        if found is None:
            return None
        return found[0], _module(*found)

    def reach(self, code: Iterable[str]) -> tuple[dict[str, Path], set[str]]:
        """Modules reachable by static imports from pieces of code, transitively.

        Returns:
            module name -> file for the project's own modules, and the top-level names of everybody else's.
        """
        todo: list[tuple[str, str | None]] = []
        outside: set[str] = set()
        for text in code:
            if (tree := _parse(text)) is not None:
                ours, others = _imports(tree, "", skip=set())
                todo += ours
                outside |= others
        reached: dict[str, Path] = {}
        asked: set[tuple[str, str | None]] = set()
        while todo:
            module, name = todo.pop()
            if (module, name) in asked:
                continue
            asked.add((module, name))
            loaded = self._load(module)
            if loaded is None:
                if "." in module:  # `import sheaf.x.Name` is an error at run time, but its packages still count
                    todo.append((module.rpartition(".")[0], None))
                continue
            path, parsed = loaded
            if module not in reached:
                reached[module] = path
                outside |= parsed.third_party
                todo += parsed.imports
                if "." in module:
                    todo.append((module.rpartition(".")[0], None))
            if name == "*":
                todo += [(target, None) for target in parsed.lazy.values()]
            elif name is not None:
                todo.append((parsed.lazy[name], name) if name in parsed.lazy else (f"{module}.{name}", None))
        return dict(sorted(reached.items())), outside

    def digests(self, modules: Iterable[str]) -> dict[str, str]:
        """``<relative path>::<definition>`` -> digest for each module; other files beside a module count whole."""
        found: dict[str, str] = {}
        folders: set[Path] = set()
        for module in modules:
            loaded = self._load(module)
            if loaded is None:
                continue
            path, parsed = loaded
            relative = path.relative_to(self.root).as_posix()
            found |= {f"{relative}::{name}": digest for name, digest in parsed.digests.items()}
            folders.add(path.parent)
        for folder in folders:
            if folder.name == "artifact":  # its templates shape the report, not a notebook's results
                continue
            for path in sorted(folder.iterdir()):
                if path.is_file() and path.suffix in BESIDE:
                    found[path.relative_to(self.root).as_posix()] = text_digest(path.read_bytes())
        return found

    def kernel_digests(self, op: str) -> dict[str, str]:
        """Digests of one op's Python and C++ sources, in the form of `digests`."""
        folder = self.root / "kernels" / "sheaf_kernels" / op
        found: dict[str, str] = {}
        for path in sorted(folder.glob("*")):
            relative = path.relative_to(self.root).as_posix()
            if path.suffix == ".py":
                found |= {f"{relative}::{name}": digest for name, digest in _module(path, f"sheaf_kernels.{op}").digests.items()}
            elif path.suffix in {".cpp", ".h", ".hpp", ".cu"}:
                found[relative] = cpp_digest(path.read_text(encoding="utf-8"))
        return found
