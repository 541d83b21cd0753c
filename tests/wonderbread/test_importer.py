"""A user's download, checked: sound, damaged, hostile; as a folder and as a zip."""

import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from demo_factory import picture, write_demo

from sheaf.wonderbread import importer
from sheaf.wonderbread.importer import import_folder, main
from sheaf.wonderbread.loader import LIMITS

ONE, TWO = "7 @ 2024-01-01-10-00-00", "8 @ 2024-01-02-10-00-00"


@pytest.fixture
def download(tmp_path: Path) -> Path:
    home = tmp_path / "download" / "gold_demos"
    write_demo(home, ONE)
    write_demo(home, TWO, states=5)
    (home / "df_rankings.csv").write_text(f"rank,task_id,folder_name\n1,7,{ONE}\n")
    return tmp_path / "download"


def zipped(folder: Path) -> Path:
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, file.relative_to(folder))
    return path


@pytest.mark.parametrize("pack", [lambda path: path, zipped], ids=["folder", "zip"])
def test_a_sound_download_has_nothing_broken(download: Path, pack, capsys: pytest.CaptureFixture[str]) -> None:
    steps: list[tuple[int, int, str]] = []
    report = import_folder(pack(download), lambda *step: steps.append(step))
    assert report.ok and [(d.name, d.states, d.actions, d.has_sop) for d in report.demos] == [
        (ONE, 3, 2, True), (TWO, 5, 4, True),
    ]  # fmt: skip
    assert steps == [(1, 2, ONE), (2, 2, TWO)]
    assert list(report.frame()["absent"]) == ["video", "video"]
    assert main([str(pack(download))]) == 0
    assert "2 of 2 demonstrations are sound\n8 states, 6 actions, 2 procedures" in capsys.readouterr().out


def test_ranks_of_a_folder_are_read(download: Path) -> None:
    assert [d.rank for d in import_folder(download).demos] == [1, None]


@pytest.mark.parametrize("pack", [lambda path: path, zipped], ids=["folder", "zip"])
def test_what_is_broken_is_said_and_the_rest_still_checked(download: Path, pack, capsys: pytest.CaptureFixture[str]) -> None:
    one = download / "gold_demos" / ONE
    (one / f"{ONE}.json").write_text('{"trace": [{"type": "state", "data": {"id": 3, "step": 0}}]}')
    (download / "gold_demos" / TWO / "screenshots" / "2.png").unlink()
    path = pack(download)
    report = import_folder(path)
    assert [d.broken for d in report.demos] == [
        ("item 0, field data.id: 3; it must be the position in the trace",), ("state 2: screenshots/2.png is missing",),
    ]  # fmt: skip
    assert main([str(path)]) == 1
    assert "0 of 2 demonstrations are sound" in capsys.readouterr().out


def test_unusable_input_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "page.zip").write_text("<html>404</html>")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("readme.txt", "hello")
    cut = (tmp_path / "other.zip").read_bytes()
    (tmp_path / "cut.zip").write_bytes(cut[: len(cut) // 2])
    for name in ("absent", "empty", "page.zip", "other.zip", "cut.zip"):
        assert main([str(tmp_path / name)]) == 1
        said = capsys.readouterr()
        assert said.out == "" and said.err.startswith("error: ") and said.err.count("\n") == 1, name


def test_the_command_leaves_no_traceback(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sheaf.wonderbread.importer", str(tmp_path / "absent")]
    done = subprocess.run(command, capture_output=True, text=True)
    said = "error: 'absent' does not exist; name the downloaded folder, or the zip as it came\n"
    assert (done.returncode, done.stderr) == (1, said)


def hostile(download: Path, name: str, data: bytes = b"x", mode: int = stat.S_IFREG | 0o644) -> Path:
    path = zipped(download)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        info = zipfile.ZipInfo(name)
        info.external_attr = mode << 16
        info.compress_type = zipfile.ZIP_DEFLATED
        archive.writestr(info, data)
    return path


@pytest.mark.parametrize(
    "name", [f"../{ONE}/evil.txt", "/etc/evil.txt", f"gold_demos/{ONE}/../../../evil.txt", "..\\evil.txt", "C:/evil.txt"]
)
def test_members_that_point_out_are_refused(download: Path, name: str) -> None:
    before = set(download.parent.rglob("*"))
    report = import_folder(hostile(download, name))
    assert len(report.problems) == 1 and "points out of the archive" in report.problems[0]
    assert set(download.parent.rglob("*")) - before == {download.with_suffix(".zip")}
    assert all(not d.broken for d in report.demos)


def test_links_in_an_archive_are_refused(download: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("Title\n1. secret")
    path = hostile(download, f"gold_demos/{ONE}/[orig] SOP - {ONE}.txt", str(tmp_path / "secret").encode(), stat.S_IFLNK | 0o777)
    one = import_folder(path).demos[0]
    assert not one.has_original and one.broken == (f"[orig] SOP - {ONE}.txt is a link or a device, not a plain file",)


def test_a_name_given_twice_is_a_problem(download: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate"):
        path = hostile(download, f"gold_demos/{ONE}/{ONE}.json", b"{}")
    report = import_folder(path)
    assert "is there twice" in report.problems[0] and not report.demos[0].broken


def test_a_bomb_is_refused_before_anything_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importer, "SMALL", 1_000_000)
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{ONE}/{ONE}.json", b"0" * 30_000_000)
    with pytest.raises(ValueError, match="more than 100 times its size"):
        import_folder(tmp_path / "bomb.zip")


def test_a_large_member_is_refused_and_a_lying_one_stopped(download: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LIMITS, "screenshot", 10_000)
    extra = f"gold_demos/{ONE}/screenshots/9.png"
    report = import_folder(hostile(download, extra, picture() + b"\0" * 20_000))
    assert report.demos[0].broken == ("screenshots/9.png would unpack to 20,",) or "20," in report.demos[0].broken[0]
    path = hostile(download, extra, bytes(range(256)) * 400)
    raw = path.read_bytes()
    true, lie = (102_400).to_bytes(4, "little"), (500).to_bytes(4, "little")
    assert raw.count(true) == 2  # the local header and the directory
    path.write_bytes(raw.replace(true, lie))
    broken = import_folder(path).demos[0].broken
    assert len(broken) == 1 and "cannot be unpacked" in broken[0]


def test_an_encrypted_or_damaged_member_is_said(download: Path) -> None:
    path = zipped(download)
    raw = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo(f"gold_demos/{ONE}/{ONE}.json")
    start = info.header_offset + 30 + len(info.filename)
    raw[start + 20 : start + 40] = b"\xff" * 20
    path.write_bytes(raw)
    report = import_folder(path)
    assert "cannot be unpacked" in report.demos[0].broken[0] or "damaged" in report.demos[0].broken[0]
    assert not report.demos[1].broken
