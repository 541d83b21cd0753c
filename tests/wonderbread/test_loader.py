"""Demonstration folders, sound and hostile."""

import json
import os
from pathlib import Path

import pytest
from demo_factory import picture, raw_trace, write_demo

from sheaf.wonderbread.loader import LIMITS, broken_pictures, demo_folders, load_demo, read_ranks, read_regular
from sheaf.wonderbread.trace import TraceError

NAME = "7 @ 2024-01-01-10-00-00"


def test_a_sound_folder_is_read(tmp_path: Path) -> None:
    folder = write_demo(tmp_path, template="payables/pay", policy="detour", completed=True, rank=2)
    (folder / f"[raw] {NAME}.json").write_text("not read")
    (folder / f"[gt] {NAME}.json").write_text("not read")
    (folder / f"[orig] SOP - {NAME}.txt").write_bytes("\ufeffPay\r\n1. Pay.\r\n".encode())
    demo = load_demo(folder)
    assert (demo.name, demo.task_id, demo.site, demo.intent) == (NAME, 7, "payables", "Pay the invoice")
    assert (demo.template, demo.policy, demo.completed, demo.rank) == ("payables/pay", "detour", True, 2)
    assert demo.sop == "Pay an invoice\n1. Open the invoice.\n2. Pay it.\n" and demo.original_sop == "Pay\n1. Pay.\n"
    assert [p.name for k in range(3) if (p := demo.screenshot(k))] == ["0.png", "1.png", "2.png"]
    assert broken_pictures(demo) == [] and demo.video is None
    assert load_demo(folder, rank=4).rank == 4


def test_what_the_published_data_leave_out_is_tolerated(tmp_path: Path) -> None:
    folder = write_demo(tmp_path, sites=None, intent=None, rank="first", completed="yes", intent_template_id=279)
    (folder / f"SOP - {NAME}.txt").unlink()
    demo = load_demo(folder)
    assert (demo.sop, demo.original_sop, demo.site, demo.intent, demo.rank, demo.completed) == (None, None, "", "", None, None)
    assert demo.template == "279"


def test_a_folder_must_say_what_it_holds(tmp_path: Path) -> None:
    folder = write_demo(tmp_path)
    with pytest.raises(TraceError, match=r"task_id is 8, the folder's name says 7"):
        (folder / f"{NAME}.json").write_text(json.dumps(raw_trace(3, task_id=8)))
        load_demo(folder)
    (folder / f"{NAME}.json").write_text("{")
    with pytest.raises(TraceError, match=rf"^{NAME}: a trace is a JSON object"):
        load_demo(folder)
    (folder / f"{NAME}.json").unlink()
    with pytest.raises(FileNotFoundError, match="is missing"):
        load_demo(folder)
    with pytest.raises(TraceError, match="not a demonstration's name"):
        load_demo(tmp_path)
    with pytest.raises(FileNotFoundError, match="no demonstration folder"):
        load_demo(tmp_path / "8 @ 2024-01-01-10-00-00")


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/b", "..", "", "a\\b", "a\0b"])
def test_a_path_is_not_a_file_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(TraceError, match="not a plain file name"):
        read_regular(tmp_path, name, 100)


def test_links_pipes_folders_and_giants_are_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    inside = tmp_path / "demo"
    inside.mkdir()
    (inside / "link").symlink_to(tmp_path / "secret")
    os.mkfifo(inside / "pipe")
    (inside / "folder").mkdir()
    (inside / "giant").write_bytes(b"x" * 101)
    for name, message in [("link", "plain file"), ("pipe", "plain file"), ("folder", "plain file"), ("giant", "at most 100")]:
        with pytest.raises(TraceError, match=message):
            read_regular(inside, name, 100)


def test_a_link_out_of_the_folder_is_never_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    folder = write_demo(tmp_path / "data")
    (folder / f"SOP - {NAME}.txt").unlink()
    (folder / f"SOP - {NAME}.txt").symlink_to(secret)
    with pytest.raises(TraceError, match="plain file"):
        load_demo(folder)
    (folder / f"SOP - {NAME}.txt").unlink()
    (folder / "screenshots" / "1.png").unlink()
    (folder / "screenshots" / "1.png").symlink_to(secret)
    demo = load_demo(folder)
    assert demo.screenshot(1) is None and "plain file" in broken_pictures(demo)[0]
    (folder / "screenshots").rename(tmp_path / "elsewhere")
    (folder / "screenshots").symlink_to(tmp_path / "elsewhere")
    assert demo.screenshot(0) is None and broken_pictures(demo) == ["screenshots is a link; it must be a real folder"]
    (tmp_path / "data" / "8 @ 2024-01-01-10-00-00").symlink_to(folder)
    assert demo_folders(tmp_path / "data") == [folder]
    with pytest.raises(TraceError, match="link"):
        load_demo(tmp_path / "data" / "8 @ 2024-01-01-10-00-00")


def test_broken_pictures_are_named(tmp_path: Path) -> None:
    folder = write_demo(tmp_path, states=4)
    (folder / "screenshots" / "0.png").unlink()
    (folder / "screenshots" / "1.png").write_bytes(picture()[:-5])
    (folder / "screenshots" / "2.png").write_bytes(b"GIF89a")
    assert broken_pictures(load_demo(folder)) == [
        f"state {k}: screenshots/{k}.png is {what}" for k, what in enumerate(["missing", "not a whole PNG", "not a whole PNG"])
    ]


def test_an_oversize_trace_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_demo(tmp_path)
    monkeypatch.setitem(LIMITS, "trace", 1000)
    with pytest.raises(TraceError, match="at most 1,000 are read"):
        load_demo(folder)


def test_ranks_come_from_the_table_beside_the_demonstrations(tmp_path: Path) -> None:
    assert read_ranks(tmp_path) == {}
    table = tmp_path / "df_rankings.csv"
    table.write_text(f"rank,task_id,folder_name\n3,7,{NAME}\n")
    assert read_ranks(tmp_path) == {NAME: 3}
    for bad in ("rank\n1\n", "rank,folder_name\nbest,x\n", "rank,folder_name\n0,x\n", "rank,folder_name\n1,\n"):
        table.write_text(bad)
        with pytest.raises(TraceError, match="line 2"):
            read_ranks(tmp_path)
    table.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(TraceError, match="UTF-8"):
        read_ranks(tmp_path)
