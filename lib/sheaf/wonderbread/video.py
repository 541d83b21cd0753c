"""A video of a recording: the browser's own screencast frames, written as MP4.

Playwright's ``record_video`` fetches an encoder of its own, so it does not work offline; the screencast of the
DevTools protocol needs nothing but the browser.
"""

import base64
import io
import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

if TYPE_CHECKING:
    from playwright.sync_api import Page

__all__ = ["Screencast", "read_frames", "screencast", "write_mp4"]

TICKS = 1000  # a second, in the file's time base
HOLD = 1.0  # seconds that the last frame stays


@dataclass
class Screencast:
    """Frames as they came: JPEG bytes and seconds since the first. A page that does not change sends none."""

    frames: list[bytes] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


@contextmanager
def screencast(page: "Page", quality: int = 60) -> Iterator[Screencast]:
    """Collects the frames that the page paints while the block runs; ``quality`` of the JPEG, 1 to 100."""
    from playwright.sync_api import Error

    cast = Screencast()
    session = page.context.new_cdp_session(page)
    first: list[float] = []

    def take(event: dict[str, Any]) -> None:
        stamp = float(event["metadata"].get("timestamp", 0.0))
        first[:] = first or [stamp]
        cast.frames.append(base64.b64decode(event["data"]))
        cast.seconds.append(max(0.0, stamp - first[0]))
        with suppress(Error):  # the page may be closing
            session.send("Page.screencastFrameAck", {"sessionId": event["sessionId"]})

    session.on("Page.screencastFrame", take)
    session.send("Page.startScreencast", {"format": "jpeg", "quality": quality, "everyNthFrame": 1})
    try:
        yield cast
    finally:
        with suppress(Error):
            session.send("Page.stopScreencast")
            session.detach()


def write_mp4(path: Path, frames: Sequence[bytes], seconds: Sequence[float]) -> None:
    """Pictures (any format Pillow reads, all of one size) shown from the given times on, as H.264 in MP4.

    The file appears whole or not at all. Odd sizes lose their last row or column, as the format demands.

    Raises:
        ValueError: no frames, or not one time for each, or times that go backward.
    """
    import av

    if not frames or len(frames) != len(seconds) or any(b < a for a, b in itertools.pairwise(seconds)):
        raise ValueError(f"a video needs frames and a rising time for each; got {len(frames)} frames, {len(seconds)} times")
    pictures = (Image.open(io.BytesIO(frame)).convert("RGB") for frame in frames)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with av.open(str(partial), "w", format="mp4") as container:
            stream: Any = container.add_stream("libx264", rate=TICKS, options={"crf": "28", "preset": "veryfast"})
            size, shown = None, -1
            last = next(pictures)
            for picture, at in _timed(last, pictures, seconds):
                if size is None:
                    size = stream.width, stream.height = picture.width & ~1, picture.height & ~1
                    stream.pix_fmt = "yuv420p"
                frame = av.VideoFrame.from_image(picture.crop((0, 0, *size)))
                shown = max(shown + 1, round(at * TICKS))
                frame.pts = shown
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def read_frames(path: Path, limit: int = 10_000) -> list[tuple[float, Image.Image]]:
    """Frames of a video with their times in seconds, at most ``limit``.

    Raises:
        ValueError: not a video that can be read.
    """
    import av

    try:
        with av.open(str(path)) as container:
            out: list[tuple[float, Image.Image]] = []
            for frame in container.decode(video=0):
                if len(out) == limit:
                    break
                out.append((float(frame.time or 0.0), frame.to_image()))
            return out
    except (av.FFmpegError, IndexError) as error:
        raise ValueError(f"{path.name} cannot be read as a video ({error})") from None


def _timed(
    first: Image.Image, rest: Iterator[Image.Image], seconds: Sequence[float]
) -> Iterator[tuple[Image.Image, float]]:
    last = first
    yield first, seconds[0]
    for last, at in zip(rest, seconds[1:], strict=True):
        yield last, at
    yield last, seconds[-1] + HOLD
