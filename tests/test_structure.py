"""The floor plan holds: the arrows between packages, sizes, documented functions, nothing of one machine in the tree."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CODE = sorted([*(ROOT / "lib").rglob("*.py"), *(ROOT / "kernels").rglob("*.py")])
KERNEL_SOURCES = sorted(f for f in (ROOT / "kernels").rglob("*") if f.suffix in {".cpp", ".h", ".cu"})
TOP_LEVEL = {
    "README.md", "LICENSE", "Makefile", "environment.yml", "pyproject.toml", "constraints.txt", "Snakefile",
    "requirements.lock",  # constraints.txt stays readable, and conda reads it; a digest per file makes 4,000 lines more
    "SECURITY.md",  # code hosts look for it here
    "CONTRIBUTING.md", "ARTIFACT.md", "CITATION.cff", ".gitignore", ".gitattributes", ".ci", ".github",
    "notebooks", "lib", "kernels", "data", "results", "tests", "docs",
}  # fmt: skip
MACHINE_PATH = re.compile(r"(?<![\w.~<$}/-])/(?:root|work|home/\w+|Users/\w+|private/var|mnt|scratch)/[\w.-]+")
MAY_NAME_PATHS = {  # they look for such paths
    "lib/sheaf/artifact/scrub.py", "tests/test_structure.py", "tests/artifact/test_scrub.py", "tests/artifact/test_check.py",
}  # fmt: skip
LINES, BYTES = 500, 5_000_000
COMES_WITH = {  # packages that a declared one is made of
    "IPython": "ipykernel", "jupyter_client": "ipykernel", "traitlets": "ipykernel",
    "sklearn": "scikit_learn", "pydantic_core": "pydantic", "PIL": "pillow",
    "yaml": "snakemake", "markupsafe": "jinja2", "triton": "torch", "bs4": "nbconvert", "faiss": "faiss_cpu",
}  # fmt: skip


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def tracked() -> list[Path]:
    """Files git tracks or would track; in a copy without git, everything but what a run leaves behind."""
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"], capture_output=True, text=True
    )  # fmt: skip
    if listed.returncode == 0:
        return [ROOT / f for f in listed.stdout.split("\0") if f and (ROOT / f).is_file()]
    left_behind = {".venv", ".git", ".sheaf", ".snakemake", "__pycache__", "build", "external"}
    return [f for f in ROOT.rglob("*") if f.is_file() and not left_behind & set(f.parts)]


def module_of(path: Path) -> list[str]:
    parts = list(path.relative_to(ROOT / path.relative_to(ROOT).parts[0]).with_suffix("").parts)
    return parts[:-1] if parts[-1] == "__init__" else parts


def imports(tree: ast.AST, module: list[str], is_package: bool) -> Iterator[str]:
    """Full names of what a module imports, at its top or inside functions, by statement or by importlib."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = module[: len(module) - node.level + is_package] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
            called = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
            if called in ("import_module", "__import__") and node.args and isinstance(node.args[0], ast.Constant):
                yield str(node.args[0].value)


def imports_of(path: Path) -> set[str]:
    return set(imports(ast.parse(path.read_text()), module_of(path), path.name == "__init__.py"))


def is_in(imported: str, package: str) -> bool:
    return imported == package or imported.startswith(package + ".")


def forbidden(path: Path, imported: str) -> bool:
    """True when an import goes up, or across between two papers."""
    if not (is_in(imported, "sheaf") or is_in(imported, "sheaf_kernels")):
        return False
    here = module_of(path)
    if here[0] == "sheaf_kernels":
        return is_in(imported, "sheaf")
    if len(here) < 2 or here[1] in ("artifact", "__main__"):
        return False
    if here[1] == "common":
        return is_in(imported, "sheaf") and not is_in(imported, "sheaf.common")
    return is_in(imported, "sheaf") and not (is_in(imported, "sheaf.common") or is_in(imported, f"sheaf.{here[1]}"))


@pytest.mark.parametrize("path", CODE, ids=name)
def test_arrows_point_downward(path: Path) -> None:
    wrong = sorted(i for i in imports_of(path) if forbidden(path, i))
    assert not wrong, f"{name(path)} imports {', '.join(wrong)}"


@pytest.mark.parametrize(
    ("path", "line", "wrong"),
    [
        ("lib/sheaf/paper_a/x.py", "from sheaf.artifact.study import Study", True),
        ("lib/sheaf/paper_a/x.py", "from sheaf import Study", True),
        ("lib/sheaf/paper_a/x.py", "import sheaf.paper_b", True),
        ("lib/sheaf/paper_a/x.py", "from ..paper_b import y", True),
        ("lib/sheaf/paper_a/x.py", "def f():\n    from sheaf.paper_b import y", True),
        ("lib/sheaf/paper_a/x.py", "import importlib\nimportlib.import_module('sheaf.paper_b')", True),
        ("lib/sheaf/paper_a/x.py", "from . import y\nfrom sheaf.common import stats\nimport sheaf_kernels.op", False),
        ("lib/sheaf/paper_a/__init__.py", "from .x import y", False),
        ("lib/sheaf/common/x.py", "from sheaf.artifact.paths import project_root", True),
        ("lib/sheaf/common/x.py", "from sheaf.paper_a import y", True),
        ("lib/sheaf/common/x.py", "from .stats import interval\nimport sheaf_kernels", False),
        ("kernels/sheaf_kernels/op/x.py", "from sheaf.common.stats import interval", True),
        ("kernels/sheaf_kernels/op/x.py", "from ..build import load\nimport torch", False),
        ("lib/sheaf/artifact/x.py", "from sheaf.common.stats import interval", False),
    ],
)  # fmt: skip
def test_the_arrow_test_sees(path: str, line: str, wrong: bool) -> None:
    file = ROOT / path
    found = imports(ast.parse(line), module_of(file), file.name == "__init__.py")
    assert any(forbidden(file, imported) for imported in found) == wrong


@pytest.mark.parametrize("path", [*CODE, *KERNEL_SOURCES], ids=name)
def test_a_file_is_a_room(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= LINES, f"{name(path)} is longer than {LINES} lines; it is two files"
    if path.suffix == ".py" and text.strip():
        assert ast.get_docstring(ast.parse(text)), f"{name(path)} does not say in a docstring what lives there"


def public_functions(tree: ast.Module) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef, bool]]:
    """(name, node, is a method) of functions and methods that another file may call."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
            yield node.name, node, False
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            for part in node.body:
                if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef) and not part.name.startswith("_"):
                    yield f"{node.name}.{part.name}", part, True


def exported(tree: ast.Module) -> set[str] | None:
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets):
            return set(ast.literal_eval(node.value)) if not isinstance(node.value, ast.BinOp) else None
    return None


@pytest.mark.parametrize("path", CODE, ids=name)
def test_public_functions_are_documented_and_typed(path: Path) -> None:
    tree = ast.parse(path.read_text())
    listed = exported(tree)
    problems = []
    for title, node, is_method in public_functions(tree):
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs, node.args.vararg, node.args.kwarg]
        bare = [a.arg for a in arguments if a and a.annotation is None and a.arg not in ("self", "cls")]
        if bare or node.returns is None:
            problems.append(f"{title} lacks types for {', '.join(bare) or 'what it returns'}")
        short = sum(1 for n in ast.walk(node) if isinstance(n, ast.stmt)) <= 4  # itself and three: its name says it
        is_property = any(isinstance(d, ast.Name) and "property" in d.id for d in node.decorator_list)
        overrides = is_method and not ast.get_docstring(node) and _has_base(tree, title.split(".")[0])
        wanted = listed is None or title.split(".")[0] in listed
        if wanted and not ast.get_docstring(node) and not (short or is_property or overrides):
            problems.append(f"{title} lacks a docstring")
    assert not problems, f"{name(path)}: {'; '.join(problems)}"


def _has_base(tree: ast.Module, title: str) -> bool:
    return any(isinstance(node, ast.ClassDef) and node.name == title and node.bases for node in tree.body)


def test_the_top_level_is_the_floor_plan() -> None:
    found = {f.relative_to(ROOT).parts[0] for f in tracked()}
    assert found <= TOP_LEVEL, f"not in the floor plan: {sorted(found - TOP_LEVEL)}"


def test_tests_mirror_the_library() -> None:
    houses = {p.name for p in (ROOT / "lib" / "sheaf").iterdir() if (p / "__init__.py").is_file()}
    mirrored = {p.name for p in (ROOT / "tests").iterdir() if any(p.glob("test_*.py"))}
    assert mirrored <= houses | {"kernels", "browser", "promises"}


def test_no_file_is_large() -> None:
    large = [f"{name(f)} ({f.stat().st_size / 1e6:.1f} MB)" for f in tracked() if f.stat().st_size > BYTES]
    assert not large, f"larger than {BYTES / 1e6:g} MB: {large}; fetch it with make data instead"


def test_nothing_of_one_machine_is_in_the_tree() -> None:
    found = []
    for file in tracked():
        if name(file) in MAY_NAME_PATHS:
            continue
        try:
            text = file.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        if file.suffix in {".ipynb", ".html"}:  # pictures in base64: chance letters spell paths
            text = re.sub(r"[A-Za-z0-9+/=\\]{200,}", "", text)
        found += [f"{name(file)}: {hit[0]}" for hit in MACHINE_PATH.finditer(text)]
    assert not found, f"machine paths: {found[:10]}"


def test_dependencies_are_imported_from_declared_packages_only() -> None:
    declared = (ROOT / "pyproject.toml").read_text().lower().replace("-", "_")
    problems = set()
    for path in CODE:
        for imported in imports_of(path):
            top = imported.split(".")[0]
            if top in sys.stdlib_module_names or top in ("sheaf", "sheaf_kernels", ""):
                continue
            package = COMES_WITH.get(top, top).lower()
            if not re.search(rf'"{re.escape(package)}[>=\[]', declared):
                problems.add(f"{name(path)} imports {top}")
    assert not problems, sorted(problems)
