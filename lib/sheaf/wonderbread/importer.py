"""Checks a data set that a user downloaded, folder or zip: what is there, what is broken, without trusting any of it.

Run: ``python -m sheaf.wonderbread.importer FOLDER_OR_ZIP``
"""

import argparse
import stat
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pandas as pd
from tqdm import tqdm

from sheaf.wonderbread.loader import LIMITS, broken_pictures, demo_folders, is_ignored, load_demo, read_ranks
from sheaf.wonderbread.trace import TraceError, is_demo_name

__all__ = ["Checked", "Report", "import_folder", "main"]

DEPTH = 3  # how far below the given folder demonstrations may lie
MEMBERS = 1_000_000  # of an archive
RATIO = 100  # unpacked over packed, of a whole archive
SMALL = 1_000_000_000  # bytes: below this a high ratio does no harm
PER_DEMO = 2_000_000_000  # bytes unpacked at one time
CHUNK = 1 << 20
Progress = Callable[[int, int, str], None]  # done, total, what


@dataclass(frozen=True)
class Checked:
    """One demonstration: counts (0 when its trace could not be read), what is broken, and what is merely absent."""

    name: str
    states: int
    actions: int
    has_sop: bool
    has_original: bool
    rank: int | None
    broken: tuple[str, ...]
    absent: tuple[str, ...]


@dataclass(frozen=True)
class Report:
    """What a folder or archive holds; ``problems`` are of the whole of it, beyond single demonstrations."""

    source: str
    demos: tuple[Checked, ...]
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return not self.problems and all(not demo.broken for demo in self.demos)

    def frame(self) -> pd.DataFrame:
        """One row a demonstration; ``broken`` and ``absent`` are joined sentences."""
        rows = [vars(d) | {"broken": "; ".join(d.broken), "absent": "; ".join(d.absent)} for d in self.demos]
        return pd.DataFrame(rows, columns=list(Checked.__dataclass_fields__))

    def text(self) -> str:
        """The report for a terminal: broken demonstrations line by line, then the totals."""
        lines = [f"broken  {problem}" for problem in self.problems]
        lines += [f"broken  {demo.name}: {problem}" for demo in self.demos for problem in demo.broken]
        sound = sum(not demo.broken for demo in self.demos)
        lines += [
            f"{sound} of {len(self.demos)} demonstrations are sound",
            f"{sum(d.states for d in self.demos)} states, {sum(d.actions for d in self.demos)} actions, "
            f"{sum(d.has_sop for d in self.demos)} procedures, {sum(d.has_original for d in self.demos)} first versions, "
            f"{sum(d.rank is not None for d in self.demos)} ranked",
        ]
        return "\n".join("".join(c if c.isprintable() else "�" for c in line) for line in lines)


def import_folder(path: Path, progress: Progress | None = None) -> Report:
    """Checks every demonstration in a folder or a zip archive. Nothing of an archive stays on disk.

    Demonstrations may lie up to three folders deep. Archive members that are links, encrypted, duplicate, too large
    or named with an absolute path or ``..`` are reported and never unpacked.

    Raises:
        FileNotFoundError: nothing there, or no demonstration in it.
        ValueError: neither a folder nor a zip archive, or an archive that unpacks beyond all measure.
    """
    if path.is_dir():
        return _check_folder(path, progress)
    if not path.is_file():
        raise FileNotFoundError(f"{path.name!r} does not exist; name the downloaded folder, or the zip as it came")
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path.name!r} is neither a folder nor a zip archive (a download cut short looks like this)")
    try:
        with zipfile.ZipFile(path) as archive:
            return _check_archive(path, archive, progress)
    except (zipfile.BadZipFile, UnicodeDecodeError, NotImplementedError) as error:
        raise ValueError(f"{path.name!r} is a damaged zip archive ({error}); download it again") from None


def _check_folder(path: Path, progress: Progress | None) -> Report:
    problems: list[str] = []
    homes = [home for home in _homes(path, DEPTH) if demo_folders(home)]
    folders = [(folder, home) for home in homes for folder in demo_folders(home)]
    if not folders:
        raise FileNotFoundError(f"{path.name!r} holds no demonstration; each is a folder '<task_id> @ YYYY-MM-DD-HH-MM-SS'")
    ranks: dict[Path, dict[str, int]] = {}
    for home in homes:
        try:
            ranks[home] = read_ranks(home)
        except TraceError as error:
            problems.append(str(error))
    checked = []
    for done, (folder, home) in enumerate(folders, start=1):
        checked.append(_check_demo(folder, ranks.get(home, {}).get(folder.name)))
        if progress:
            progress(done, len(folders), folder.name)
    return Report(path.name, tuple(checked), tuple(problems))


def _homes(path: Path, depth: int) -> Iterator[Path]:
    yield path
    if depth:
        for child in sorted(path.iterdir()):
            if child.is_dir() and not child.is_symlink() and not is_demo_name(child.name) and not child.name.startswith("."):
                yield from _homes(child, depth - 1)


def _check_demo(folder: Path, rank: int | None, refused: tuple[str, ...] = ()) -> Checked:
    try:
        demo = load_demo(folder, rank)
    except (TraceError, FileNotFoundError) as error:
        problem = str(error).removeprefix(f"{folder.name}: ")
        return Checked(folder.name, 0, 0, False, False, rank, (*refused, problem), ())
    absent = [] if demo.sop else ["procedure"]
    if demo.video is None:
        absent.append("video")
    broken = (*refused, *broken_pictures(demo))
    return Checked(
        demo.name, len(demo.states), len(demo.actions), demo.sop is not None, demo.original_sop is not None, demo.rank,
        broken, tuple(absent),
    )  # fmt: skip


def _check_archive(path: Path, archive: zipfile.ZipFile, progress: Progress | None) -> Report:
    members = archive.infolist()
    unpacked = sum(member.file_size for member in members)
    if len(members) > MEMBERS or unpacked > max(SMALL, RATIO * path.stat().st_size):
        raise ValueError(
            f"{path.name!r} would unpack to {unpacked:,} bytes in {len(members):,} files from {path.stat().st_size:,} "
            f"bytes; more than {RATIO} times its size or {MEMBERS:,} files is refused"
        )
    groups, problems = _group(members)
    if not groups:
        raise FileNotFoundError(f"{path.name!r} holds no demonstration; each is a folder '<task_id> @ YYYY-MM-DD-HH-MM-SS'")
    checked = []
    for done, (home, files) in enumerate(sorted(groups.items()), start=1):
        with tempfile.TemporaryDirectory(prefix="sheaf-import-") as scratch:
            folder = Path(scratch) / home.name
            refused = _unpack(archive, files, home, folder)
            checked.append(_check_demo(folder, None, tuple(refused)))
        if progress:
            progress(done, len(groups), home.name)
    return Report(path.name, tuple(checked), tuple(problems))


def _group(members: list[zipfile.ZipInfo]) -> tuple[dict[PurePosixPath, list[zipfile.ZipInfo]], list[str]]:
    """Members by the demonstration folder they lie in; names that point out of it are problems."""
    groups: dict[PurePosixPath, list[zipfile.ZipInfo]] = {}
    problems: list[str] = []
    seen: set[str] = set()
    for member in members:
        name = PurePosixPath(member.filename)
        if name.is_absolute() or ".." in name.parts or "\\" in member.filename or ":" in "".join(name.parts[:1]):
            problems.append(f"member {member.filename[:120]!r} points out of the archive; refused")
        elif member.filename in seen:
            problems.append(f"member {member.filename[:120]!r} is there twice; the first is read")
        elif name.parts[:1] != ("__MACOSX",):
            depth = next((i for i, part in enumerate(name.parts[: DEPTH + 1]) if is_demo_name(part)), None)
            if depth is not None and (member.is_dir() or depth < len(name.parts) - 1):
                files = groups.setdefault(PurePosixPath(*name.parts[: depth + 1]), [])
                if not member.is_dir():
                    files.append(member)
        seen.add(member.filename)
    return groups, problems


def _unpack(archive: zipfile.ZipFile, files: list[zipfile.ZipInfo], home: PurePosixPath, folder: Path) -> list[str]:
    """Writes the wanted members of one demonstration under ``folder``; one sentence for each that is refused."""
    folder.mkdir()
    refused: list[str] = []
    left = PER_DEMO
    for member in files:
        inside = PurePosixPath(member.filename).relative_to(home)
        pictures = len(inside.parts) == 2 and inside.parts[0] == "screenshots"
        if is_ignored(inside.name) or not (len(inside.parts) == 1 or pictures):
            continue
        limit = LIMITS[_kind(inside)]
        mode = member.external_attr >> 16
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
            refused.append(f"{inside} is a link or a device, not a plain file")
        elif member.flag_bits & 1:
            refused.append(f"{inside} is encrypted")
        elif member.file_size > min(limit, left):
            refused.append(f"{inside} would unpack to {member.file_size:,} bytes; at most {min(limit, left):,} are read")
        else:
            place = folder / inside
            place.parent.mkdir(exist_ok=True)
            try:
                left -= _copy(archive, member, place, min(limit, left))
            except (zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError, RuntimeError) as error:
                refused.append(f"{inside} cannot be unpacked ({error})")
                place.unlink(missing_ok=True)
            except zlib.error as error:
                refused.append(f"{inside} is damaged ({error})")
                place.unlink(missing_ok=True)
    return refused


def _kind(inside: PurePosixPath) -> str:
    by_suffix = {".json": "trace", ".txt": "sop", ".mp4": "video", ".png": "screenshot"}
    return by_suffix.get(inside.suffix.lower(), "sop")


def _copy(archive: zipfile.ZipFile, member: zipfile.ZipInfo, place: Path, limit: int) -> int:
    """Bytes written; counts what really comes out, since the stated size may lie."""
    written = 0
    with archive.open(member) as source, place.open("xb") as out:
        while chunk := source.read(CHUNK):
            written += len(chunk)
            if written > limit:
                raise ValueError(f"more than {limit:,} bytes came out")
            out.write(chunk)
    return written


def main(arguments: list[str] | None = None) -> int:
    """The command: prints the report; 0 when all is sound, 1 when something is broken or the input is unusable."""
    parser = argparse.ArgumentParser(prog="python -m sheaf.wonderbread.importer", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("path", type=Path, metavar="FOLDER_OR_ZIP", help="the data set as downloaded, or unpacked")
    path = parser.parse_args(arguments).path
    with tqdm(unit="demo", disable=None, leave=False) as bar:

        def show(done: int, total: int, what: str) -> None:
            bar.total = total
            bar.set_postfix_str(what, refresh=False)
            bar.update(done - bar.n)

        try:
            report = import_folder(path, show)
        except (ValueError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    print(report.text())
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(main())
