"""Reading and writing picture files, with errors that name them."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL.PngImagePlugin import PngImageFile

from utils.arrays import Image
from utils.files import whole_file

# What OpenCV says of a damaged file names no file; read_image does.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

JPEG_START, JPEG_END = b"\xff\xd8", b"\xff\xd9"
PNG_START = b"\x89PNG\r\n\x1a\n"
# Any bytes behind the last pixel of a JPEG change nothing, and behind any earlier one they do.
FILLERS = (b"", b"\x55" * 64, b"\xa7\x3c" * 32)
REDUCED = {1: cv2.IMREAD_COLOR, 2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4, 8: cv2.IMREAD_REDUCED_COLOR_8}
# Those that OpenCV's wheels read and users have; what it cannot read of them is listed as damaged.
IMAGE_SUFFIXES = {
    ".avif", ".bmp", ".dib", ".gif", ".hdr", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png",
    ".pnm", ".ppm", ".ras", ".tif", ".tiff", ".webp",
}  # fmt: skip
READ_ONLY_SUFFIXES = IMAGE_SUFFIXES - {".bmp", ".jpe", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}    # drawn as .png


def read_image(path: str | Path, *, turn: bool) -> Image:
    """The picture in a file as (H,W,3) uint8 BGR; grey, 16-bit, palette and transparent ones are converted.

    `turn` follows the EXIF tag that says how the camera was held. A person's photo wants that; labels are for the raster as it is
    stored, so training and scoring do not. Raises FileNotFoundError or ValueError that names the file.
    """
    return decode_image(read_file(path), path, turn=turn)


def read_file(path: str | Path) -> NDArray[np.uint8]:
    """The bytes of a picture file; FileNotFoundError or ValueError that names it."""
    try:
        return np.fromfile(path, dtype=np.uint8)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such image") from None
    except OSError as error:
        raise ValueError(f"{path}: cannot read image: {error.strerror}") from None


def decode_image(encoded: NDArray[np.uint8], path: str | Path, *, turn: bool, reduction: int = 1) -> Image:
    """The picture that the bytes of a file hold, as `read_image` gives it; `path` names it in a ValueError.

    A `reduction` of 2, 4 or 8 shrinks each side so, that of a JPEG rounded up, which is then decoded several times faster.
    """
    # From bytes: cv2.imread returns a gray-bottomed image for half a JPEG, and its own warnings name no cause.
    flags = REDUCED[reduction] if turn else REDUCED[reduction] | cv2.IMREAD_IGNORE_ORIENTATION
    image = None
    if encoded.size and not _is_damaged_png(encoded):
        image = _decode(encoded, flags)
        if image is None and encoded[:2].tobytes() == JPEG_START:
            image = _decode_without_end(encoded.tobytes(), flags)
    if image is None:
        raise ValueError(f"{path}: not a readable image (damaged, truncated or of an unknown format, {encoded.size} bytes)")
    return image


def _decode(encoded: NDArray[np.uint8], flags: int) -> Image | None:
    try:
        image = cv2.imdecode(encoded, flags)
    except cv2.error:
        return None
    return None if image is None else np.asarray(image, dtype=np.uint8)


def _decode_without_end(encoded: bytes, flags: int) -> Image | None:
    """Decode a JPEG that lacks its end marker alone, as many scraped files do; None if it lacks pixels too.

    With the marker OpenCV would take any cut file, and fill what is missing with gray.
    """
    body = encoded.removesuffix(JPEG_END).removesuffix(JPEG_END[:1])
    images = [_decode(np.frombuffer(body + filler + JPEG_END, np.uint8), flags) for filler in FILLERS]
    first, *others = images
    is_whole = first is not None and all(other is not None and np.array_equal(first, other) for other in others)
    return first if is_whole else None


def _is_damaged_png(encoded: NDArray[np.uint8]) -> bool:
    """Whether a checksum of a PNG is wrong; OpenCV would print a line that names no file."""
    if encoded[: len(PNG_START)].tobytes() != PNG_START:
        return False
    try:
        PngImageFile(io.BytesIO(encoded.tobytes())).verify()
    except SyntaxError:    # how Pillow calls a wrong checksum
        return True
    except (OSError, ValueError, EOFError, struct.error):    # OpenCV judges the rest without a word
        return False
    return False


def write_image(path: str | Path, image: Image) -> None:
    """Write a picture in the format that the file's suffix names; the file appears whole or not at all."""
    path = Path(path)
    try:
        done, encoded = cv2.imencode(path.suffix, image)
    except cv2.error:
        done = False
    if not done:
        raise ValueError(f"{path}: cannot write {image.shape[1]} x {image.shape[0]} pixels in this format")
    with whole_file(path) as partial:
        partial.write_bytes(encoded.tobytes())


def resize_factor(size: str, width: int, height: int) -> float:
    """What the sides of a photo are multiplied by for a test size: original, x2 (times two), long:640 (long side), short:1600:2150
    (short side, long side at most)."""
    if size == "original":
        return 1.0
    if size.startswith("x"):
        return float(size[1:])
    kind, *limits = size.split(":")
    if kind == "long":
        return int(limits[0]) / max(width, height)
    return min(int(limits[0]) / min(width, height), int(limits[1]) / max(width, height))
