"""Videos, cameras and streams, frame by frame, with OpenCV."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np

from utils.arrays import Image
from utils.files import openable, whole_file

# What FFmpeg says of a damaged file names no file.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
VIDEO_SUFFIXES = {
    ".264", ".265", ".3g2", ".3gp", ".asf", ".avi", ".divx", ".dv", ".f4v", ".flv", ".h264",
    ".h265", ".hevc", ".m1v", ".m2t", ".m2ts", ".m2v", ".m4v", ".mjpeg", ".mjpg", ".mkv", ".mod", ".mov",
    ".mp4", ".mpe", ".mpeg", ".mpg", ".mpv", ".mts", ".mxf", ".nut", ".ogm", ".ogv", ".qt", ".rm",
    ".rmvb", ".tod", ".ts", ".vob", ".webm", ".wmv", ".wtv", ".y4m",
}  # fmt: skip
USUAL_RATE = 25.0    # frames a second, where a camera does not say
MIN_RATE, MAX_RATE = 0.01, 1000.0    # frames a second that are believed
ENDED_EARLY = 0.9    # a video with a smaller fraction of the frames that its header promises is cut
LONGEST_SIDE = 8190    # pixels of an MPEG-4 frame
ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


def is_address(word: str) -> bool:
    """Return True for `scheme://...`, which is opened as typed."""
    return ADDRESS.match(word) is not None


def source_name(source: Path | int | str) -> str:
    """Name a video file, a camera by its number, or a stream by its address without what is secret.

    Left out of an address are user and password, what follows ? or #, and parts such as
    `user=admin&password=1`, as some cameras want them.
    """
    if isinstance(source, int):
        return f"camera {source}"
    if isinstance(source, Path):
        return str(source)
    scheme, _, rest = source.partition("://")
    rest = re.split(r"[?#]", rest.rpartition("@")[2])[0]    # a password may hold any character
    return f"{scheme}://" + "/".join("..." if "=" in part else part for part in rest.split("/"))


class VideoReader:
    """The upright frames of a video file, a camera (its number) or a stream (its address).

    ValueError that names it if it cannot be opened.
    """

    def __init__(self, source: Path | int | str):
        self.is_live = not isinstance(source, Path)
        self.name = source_name(source)
        self.kind = "video"
        if isinstance(source, Path):
            if source.suffix.lower() not in VIDEO_SUFFIXES:
                self.kind = "image or video"
            with openable(source) as path:
                self._capture = cv2.VideoCapture(path)
        else:
            self._capture = cv2.VideoCapture(source)
        if not self._capture.isOpened():
            self._capture.release()
            unreadable = f"not a readable {self.kind} (damaged, truncated or of an unknown format)"
            raise ValueError(f"{self.name}: {'cannot be opened' if self.is_live else unreadable}")
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.rate = rate if MIN_RATE <= rate <= MAX_RATE else USUAL_RATE    # frames a second
        count = 0 if self.is_live else self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.count = round(count) if 0 < count < 1e9 else None    # of frames, as the header says
        self.frames = 0    # read so far

    def read(self) -> Image | None:
        """Read the next frame (H,W,3); None at the end."""
        done, frame = self._capture.read()
        if not done:
            self._capture.release()
            return None
        self.frames += 1
        return np.asarray(frame, dtype=np.uint8)

    @property
    def fault(self) -> str | None:
        """What is wrong with a video that was read to its end."""
        if not self.frames:
            return f"{self.name}: not a readable {self.kind} (no frame can be decoded)"
        if self.count is not None and self.frames < ENDED_EARLY * self.count:
            return f"{self.name}: ends after {self.frames} of {self.count} frames"
        return None


def writable_rate(rate: float) -> float:
    """Round a rate so that MPEG-4 can hold it: OpenCV writes it as n / 10^k, and n has 16 bits.

    The rounding is at most 0.05 frames a second, 0.005 below 655, nothing that is seen.
    """
    decimals = next(k for k in (3, 2, 1) if rate * 10**k < 2**16 - 1)
    return round(rate, decimals)


class VideoWriter:
    """Writes frames of one size to an .mp4 file; `name` is what errors call it.

    MPEG-4 asks for even sizes: a last row or column is repeated where one is missing.
    """

    def __init__(self, path: str, *, rate: float, name: str):
        self.path = path
        self.name = name
        self.rate = writable_rate(rate)
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)

    def write(self, frame: Image) -> None:
        """Append a frame (H,W,3); ValueError if it cannot be written or differs in size."""
        height, width = frame.shape[:2]
        if self._writer is None:
            self._size = width, height
            even = width + width % 2, height + height % 2
            fourcc = cv2.VideoWriter.fourcc(*"mp4v")
            self._writer = cv2.VideoWriter(self.path, fourcc, self.rate, even)
        if not self._writer.isOpened():
            limit = f": MPEG-4 holds sides of up to {LONGEST_SIDE:,}"
            raise ValueError(
                f"{self.name}: this OpenCV cannot write a video of {width} x {height} pixels with "
                f"{self.rate:g} frames a second{limit if max(width, height) > LONGEST_SIDE else ''}"
            )
        if (width, height) != self._size:
            raise ValueError(
                f"{self.name}: frames of {self._size[0]} x {self._size[1]} pixels are followed by "
                f"one of {width} x {height}"
            )
        if width % 2 or height % 2:
            frame = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        self._writer.write(frame)

    def close(self) -> None:
        """Write what is still to be written."""
        if self._writer is not None:
            self._writer.release()


@contextmanager
def write_video(path: Path, *, rate: float) -> Iterator[VideoWriter]:
    """Yield a writer to an .mp4 file, which appears whole when the block ends without an error.

    At least one frame has to be written.
    """
    with whole_file(path) as partial, openable(partial) as name:
        writer = VideoWriter(name, rate=rate, name=str(path))
        try:
            yield writer
        finally:
            writer.close()
