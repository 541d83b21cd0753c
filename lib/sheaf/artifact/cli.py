"""The command line that Make calls: ``python -m sheaf``. Every expected failure is one sentence and exit code 1."""

import argparse
import errno
import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

__all__ = ["main"]

BUSY = 75  # EX_TEMPFAIL: call again later
DESCRIPTION = "Run the notebooks, see what would run and why, check and show what was recorded."


def _number(what: str) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not text.strip():  # an unset variable of Make's
            return 0
        try:
            return int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{what} is {text!r}; give a whole number") from None

    return read


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]
        print(f"sheaf: error: {message}; see `{self.prog} --help`", file=sys.stderr)
        raise SystemExit(1)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m sheaf", description=DESCRIPTION)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def add(name: str, run: Callable[[argparse.Namespace, Path], int], text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(run=run)
        return command

    def common(command: argparse.ArgumentParser, papers: bool = True) -> None:
        if papers:
            command.add_argument("names", nargs="*", metavar="PAPER", help="which papers (all)")
            command.add_argument("--papers", default="", help="the same, separated by spaces or commas")
        command.add_argument("--profile", default="laptop", help="smoke, laptop, gpu or paper (laptop)")
        command.add_argument("--seed", type=_number("seed"), default=0, help="base seed of every random draw (0)")

    command = add("reproduce", _reproduce, "run what is out of date, judge it, build the report")
    common(command)
    command.add_argument("--jobs", type=_number("jobs"), default=0, help="notebooks at the same time (number of cores)")
    command.add_argument("--executor", default="local", help="local or slurm (local)")
    command.add_argument("--force", nargs="?", const="1", default="", help="run again what is up to date")
    command.add_argument("--dry-run", action="store_true", help="only say what would run, and why")
    command = add("run", _run, "run one notebook and store its results")
    command.add_argument("paper")
    command.add_argument("notebook")
    common(command, papers=False)
    command.add_argument("--timeout", type=float, help="wall seconds (the limit in paper.toml)")
    common(add("status", _status, "say of each notebook whether it is fresh, stale, failed or never run"))
    command = add("why", _why, "list every reason for which a notebook would run again")
    common(command)
    add("report", _report, "rebuild results/index.html and the README's score board from the records")
    add("check", _check, "validate every paper.toml, notebook and record against each other")
    add("data", _data, "check shipped data and say which external data is present")
    command = add("store", _store, "run notebooks at smoke size and store their outputs in notebooks/")
    command.add_argument("names", nargs="*", metavar="PAPER")
    command.add_argument("--notebook", action="append", metavar="NAME", help="only this one; may be repeated")
    command.add_argument("--refresh", action="store_true", help="write outputs that are not compared anew as well")
    command = add("bench", _bench, "kernels and papers against their best baselines, and the cost of running notebooks")
    command.add_argument("names", nargs="*", metavar="NAME", help="benchmarks to run; 'overhead' is the runner's own (all)")
    return parser


def _named(args: argparse.Namespace) -> tuple[str, ...]:
    from sheaf.artifact.plan import split_names

    return tuple(split_names([*args.names, getattr(args, "papers", "")]))


def _reproduce(args: argparse.Namespace, root: Path) -> int:
    from sheaf.artifact.launch import Options, reproduce

    force = args.force not in ("", "0", "no", "false")
    options = Options(_named(args), args.profile or "laptop", args.jobs, args.executor or "local", args.seed, force, args.dry_run)
    return reproduce(options, root)


def _run(args: argparse.Namespace, root: Path) -> int:
    import os

    from sheaf.artifact.lock import run_lock
    from sheaf.artifact.processes import RUN
    from sheaf.artifact.run import run_notebook

    if os.environ.get(RUN):  # a launcher that holds the lock called this
        return run_notebook(root, args.paper, args.notebook, args.profile, args.seed, args.timeout)
    with run_lock(root, f"{args.paper}/{args.notebook}"):
        return run_notebook(root, args.paper, args.notebook, args.profile, args.seed, args.timeout)


def _status(args: argparse.Namespace, root: Path) -> int:
    from sheaf.artifact.plan import chosen_papers, make_plan

    for item in make_plan(chosen_papers(_named(args), args.profile, root), args.profile, args.seed, root):
        first = f": {item.why[0]}" if item.why and item.status != "never run" else ""
        more = f" (and {len(item.why) - 1} more)" if len(item.why) > 1 else ""
        print(f"{item.state.name:40} {item.status}{first}{more}")
    return 0


def _why(args: argparse.Namespace, root: Path) -> int:
    from sheaf.artifact.plan import chosen_papers, make_plan
    from sheaf.artifact.spec import SpecError

    wanted = [name.partition("/") for name in _named(args)]
    papers = tuple(dict.fromkeys(paper for paper, _, _ in wanted))
    specs = chosen_papers(papers, args.profile, root)
    for paper, _, notebook in wanted:
        if notebook:
            next(spec for spec in specs if spec.paper.id == paper).notebook(notebook)
    items = make_plan(specs, args.profile, args.seed, root)
    shown = [i for i in items if not wanted or any(p == i.spec.paper.id and n in ("", i.state.notebook) for p, _, n in wanted)]
    if not shown:
        raise SpecError("no notebook matches; give PAPER or PAPER/NOTEBOOK")
    for item in shown:
        print(f"{item.state.name}: {'would run' if item.why else 'up to date'}")
        for reason in item.why:
            print(f"  {reason}")
    return 0


def _report(args: argparse.Namespace, root: Path) -> int:
    from sheaf.artifact import report
    from sheaf.artifact.parts import join
    from sheaf.artifact.paths import paper_ids, results_dir
    from sheaf.artifact.record import RecordError
    from sheaf.artifact.spec import PROFILES, SpecError, load_paper

    found: list[Exception] = []  # what a page says too, where there is one; the other papers are shown
    for paper in paper_ids(root):
        try:
            load_paper(paper, root)
        except SpecError as error:
            found.append(error)
            continue
        for profile in PROFILES:
            if any(results_dir(profile, paper, root).glob("records/*.json")):
                try:
                    join(paper, profile, root)
                except RecordError as error:
                    found.append(error)
    for problem in found:
        print(f"sheaf: error: {problem}", file=sys.stderr)
    report.build(root)
    report.update_readme(root)
    return 1 if found else 0


def _check(args: argparse.Namespace, root: Path) -> int:
    from sheaf.artifact.check import check

    problems = check(root)
    for problem in problems:
        print(f"sheaf: {problem}", file=sys.stderr)
    print(f"sheaf: {len(problems)} problems" if problems else "sheaf: every paper.toml, notebook and record agrees")
    return 1 if problems else 0


def _data(args: argparse.Namespace, root: Path) -> int:
    from sheaf.artifact.inventory import show

    return show(root)


def _store(args: argparse.Namespace, root: Path) -> int:
    from sheaf.artifact.store import store

    failed = 0
    for paper in _named(args) or (None,):
        for stored in store(paper, args.notebook or None, root, refresh=args.refresh):
            print(f"{stored.file}: {stored.status}" + (f": {stored.why}" if stored.why else ""))
            failed += stored.status == "failed"
    return 1 if failed else 0


def _bench(args: argparse.Namespace, root: Path) -> int:
    names = _named(args)
    others = [name for name in names if name != "overhead"]
    code = 0
    if others or not names:
        from sheaf_kernels.bench import BENCHMARKS
        from sheaf_kernels.bench import main as measured

        for path in sorted((root / "lib" / "sheaf").rglob("*benchmark.py")):  # a paper's own, beside its code
            name = ".".join(path.relative_to(root / "lib").with_suffix("").parts)
            BENCHMARKS.update(importlib.import_module(name).BENCHMARKS)
        code = measured(others) or 0
    if "overhead" in names or not names:
        from sheaf.artifact.bench_overhead import main as overhead

        code = overhead(root) or code
    return code


def _told(error: OSError, root: Path) -> str:
    """What the system refused, and where; a write that found no room does not know its file."""
    if not error.strerror:
        return str(error)
    if error.filename:
        return f"{error.filename}: {error.strerror}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG):
        return f"cannot write below {root}: {error.strerror}; make room, then call this again. Earlier results are intact"
    return str(error)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is 0, 1 for a failure that was explained, 75 for "busy", 130 for Ctrl-C."""
    sys.stdout.reconfigure(line_buffering=True, errors="replace")  # type: ignore[union-attr]
    args = _parser().parse_args(argv)

    from sheaf.artifact.lock import BusyError
    from sheaf.artifact.publish import PublishError
    from sheaf.common.data import project_root

    try:
        return int(args.run(args, project_root()))
    except BusyError as error:
        print(f"sheaf: error: {error}", file=sys.stderr)
        return BUSY
    except (ValueError, PublishError) as error:
        print(f"sheaf: error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"sheaf: error: {_told(error, project_root())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("sheaf: stopped", file=sys.stderr)
        return 130
