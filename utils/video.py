"""Videos and cameras, frame by frame, with OpenCV."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np

from utils.arrays import Image
from utils.files import whole_file

# What FFmpeg says of a damaged file names no file.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
VIDEO_SUFFIXES = {".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv"}
USUAL_RATE = 25.0    # frames a second, where a camera does not say
ENDED_EARLY = 0.9    # a video that gives a smaller share of the frames that its header promises is damaged


class VideoReader:
    """The frames of a video file or a camera, upright; ValueError that names it where it cannot be opened."""

    def __init__(self, source: Path | int):
        self.is_live = not isinstance(source, Path)
        self.name = str(source) if isinstance(source, Path) else f"camera {source}"
        self._capture = cv2.VideoCapture(str(source) if isinstance(source, Path) else source)
        if not self._capture.isOpened():
            self._capture.release()
            what = "not a readable video (damaged, truncated or of an unknown format)" if isinstance(source, Path) else "cannot be opened"
            raise ValueError(f"{self.name}: {what}")
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.rate = rate if 0 < rate <= 1000 else USUAL_RATE    # frames a second
        count = self._capture.get(cv2.CAP_PROP_FRAME_COUNT) if isinstance(source, Path) else 0
        self.count = round(count) if 0 < count < 1e9 else None    # of frames, as the header says
        self.frames = 0    # given so far

    def read(self) -> Image | None:
        """The next frame (H,W,3), or None at the end."""
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
            return f"{self.name}: not a readable video (no frame can be decoded)"
        if self.count is not None and self.frames < ENDED_EARLY * self.count:
            return f"{self.name}: ends after {self.frames} of {self.count} frames"
        return None


class VideoWriter:
    """Writes frames of one size to an .mp4 file.

    MPEG-4 asks for even sizes: a last row or column is written twice where one is missing.
    """

    def __init__(self, path: Path, *, rate: float):
        self.path = path
        self.rate = rate
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)

    def write(self, frame: Image) -> None:
        """Append a frame (H,W,3); ValueError where this OpenCV cannot write videos, or the frame is of another size than the first."""
        height, width = frame.shape[:2]
        if self._writer is None:
            self._size = width, height
            even = width + width % 2, height + height % 2
            self._writer = cv2.VideoWriter(str(self.path), cv2.VideoWriter.fourcc(*"mp4v"), self.rate, even)
        if not self._writer.isOpened():
            raise ValueError(f"{self.path}: this OpenCV cannot write a video of {width} x {height} pixels")
        if (width, height) != self._size:
            raise ValueError(f"{self.path}: frames of {self._size[0]} x {self._size[1]} pixels are followed by one of {width} x {height}")
        if width % 2 or height % 2:
            frame = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        self._writer.write(frame)

    def close(self) -> None:
        """Write what is still to be written."""
        if self._writer is not None:
            self._writer.release()


@contextmanager
def write_video(path: Path, *, rate: float) -> Iterator[VideoWriter]:
    """A writer to an .mp4 file, which appears whole when the block ends well; there has to be a frame."""
    with whole_file(path) as partial:
        writer = VideoWriter(partial, rate=rate)
        try:
            yield writer
        finally:
            writer.close()
