"""MP4 from frames, and the screencast of a real page."""

import io
from pathlib import Path

import pytest
from demo_pages import serve
from PIL import Image

from sheaf.common.browser import find_chromium, launch

pytest.importorskip("av")
from sheaf.wonderbread.video import read_frames, screencast, write_mp4


def jpeg(colour: tuple[int, int, int], size: tuple[int, int] = (65, 49)) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, "JPEG")
    return out.getvalue()


def test_frames_come_back_in_order_and_time(tmp_path: Path) -> None:
    path = tmp_path / "demo.mp4"
    write_mp4(path, [jpeg((250, 0, 0)), jpeg((0, 250, 0)), jpeg((0, 0, 250))], [0.0, 0.5, 0.5])
    frames = read_frames(path)
    assert [round(at, 3) for at, _ in frames] == [0.0, 0.5, 0.501, 1.5]  # the last picture is held for a second
    means = [picture.resize((1, 1)).getpixel((0, 0)) for _, picture in frames]
    assert [max(range(3), key=mean.__getitem__) for mean in means] == [0, 1, 2, 2]
    assert frames[0][1].size == (64, 48) and list(tmp_path.iterdir()) == [path]


def test_bad_frames_leave_no_file(tmp_path: Path) -> None:
    for frames, seconds in [([], []), ([jpeg((0, 0, 0))], []), ([jpeg((0, 0, 0))] * 2, [1.0, 0.0])]:
        with pytest.raises(ValueError, match="rising time"):
            write_mp4(tmp_path / "x.mp4", frames, seconds)
    with pytest.raises(OSError):
        write_mp4(tmp_path / "x.mp4", [jpeg((0, 0, 0)), b"no picture"], [0.0, 1.0])
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    with pytest.raises(ValueError, match="cannot be read as a video"):
        read_frames(tmp_path / "bad.mp4")


@pytest.mark.browser
@pytest.mark.skipif(find_chromium() is None, reason="no Chromium on this machine")
def test_a_page_is_filmed(tmp_path: Path) -> None:
    with serve() as (origin, _), launch() as browser:
        page = browser.new_page(viewport={"width": 320, "height": 240})
        with screencast(page) as cast:
            page.goto(origin)
            page.get_by_role("link", name="All invoices").click()
            page.wait_for_timeout(200)
        assert len(cast.frames) >= 2 and cast.seconds == sorted(cast.seconds)
        write_mp4(tmp_path / "page.mp4", cast.frames, cast.seconds)
    assert len(read_frames(tmp_path / "page.mp4")) == len(cast.frames) + 1
