"""Reading and writing picture files, with errors that name them."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from utils.arrays import Image
from utils.decoder_messages import catch_messages
from utils.files import whole_file

if not hasattr(cv2.utils, "logging"):    # older ones decode half a JPEG, with a gray bottom
    raise ImportError(f"OpenCV {cv2.__version__} is older than 4.13", name="cv2")
# What OpenCV says of a damaged file names no file; read_image does.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

SMALL_IMAGE = 1280    # pixels; images of a smaller long side are enlarged by the test size `auto`
JPEG_START, JPEG_END = b"\xff\xd8", b"\xff\xd9"
PNG_START = b"\x89PNG\r\n\x1a\n"
JPEG_MARKER = re.compile(rb"\xff([^\x00\xd0-\xd7\xff])")    # but those within the coded pixels
FRAME_MARKERS = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
SCAN_MARKER = 0xDA
# Any bytes behind the last pixel of a JPEG change nothing, and behind any earlier one they do.
FILLERS = (b"\x55" * 64, b"\xa7\x3c" * 32)
# What libjpeg says if pixels are wrong or missing; the rest is about color profiles and the like.
DAMAGE = re.compile("Corrupt JPEG data: (?!bad ICC).*|Premature end.*|Inconsistent progression.*")
REDUCED = {1: cv2.IMREAD_COLOR, 2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4, 8: cv2.IMREAD_REDUCED_COLOR_8}
# Suffixes of the formats that an OpenCV may read, each with one of that format that it would write:
# whether it has a reader, it says of a file's content alone.
FORMATS = {
    **{suffix: suffix for suffix in (".apng", ".avif", ".bmp", ".dib", ".gif", ".hdr", ".jp2")},
    **dict.fromkeys((".jfif", ".jpe", ".jpeg", ".jpg"), ".jpg"),
    **{suffix: suffix for suffix in (".pam", ".pbm", ".pfm", ".pgm", ".pic", ".png", ".pnm")},
    **{suffix: suffix for suffix in (".ppm", ".ras", ".sr", ".tif", ".tiff", ".webp")},
}
IMAGE_SUFFIXES = {suffix for suffix, written in FORMATS.items() if cv2.haveImageWriter(written)}


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


def decode_image(
    encoded: NDArray[np.uint8],
    path: str | Path,
    *,
    turn: bool,
    reduction: int = 1,
    problems: list[str] | None = None,
) -> Image:
    """Decode the bytes of a file to an image, as `read_image` gives it; `path` names it in a ValueError.

    A `reduction` of 2, 4 or 8 shrinks each side so, that of a JPEG rounded up, which is then decoded
    several times faster. A JPEG that is damaged in the middle is decoded as far as possible, and a
    line about it goes to `problems`, or is a warning.
    """
    # From bytes: cv2.imread returns a gray-bottomed image for half a JPEG.
    flags = REDUCED[reduction] if turn else REDUCED[reduction] | cv2.IMREAD_IGNORE_ORIENTATION
    image, messages = _decode(encoded, flags) if encoded.size else (None, "")
    if image is None and encoded[:2].tobytes() == JPEG_START:
        image, messages = _decode_without_end(encoded.tobytes(), flags)
    if image is None:
        raise ValueError(f"{path}: not a readable image (damaged, truncated or of an unknown format, {encoded.size} bytes)")
    if damage := DAMAGE.search(messages):
        problem = f"{path}: damaged image, used as far as it can be decoded ({damage[0]})"
        if problems is None:
            warnings.warn(problem, stacklevel=2)
        else:
            problems.append(problem)
    return image


def _decode(encoded: NDArray[np.uint8], flags: int) -> tuple[Image | None, str]:
    """Return the image, or None, and what its decoder says of it."""
    try:
        image, messages = catch_messages(lambda: cv2.imdecode(encoded, flags))
    except cv2.error:
        return None, ""
    return (None if image is None else np.asarray(image, dtype=np.uint8)), messages


def _decode_without_end(encoded: bytes, flags: int) -> tuple[Image | None, str]:
    """Decode a JPEG that lacks its end marker alone, as many scraped files do.

    Returns None for the image if pixels are missing too. With the marker OpenCV would take any cut
    file, and fill what is missing with gray.
    """
    body = encoded.removesuffix(JPEG_END).removesuffix(JPEG_END[:1])
    if not _has_all_scans(body):
        return None, ""
    image, messages = _decode(np.frombuffer(body + JPEG_END, np.uint8), flags)
    for filler in FILLERS:
        other, _ = _decode(np.frombuffer(body + filler + JPEG_END, np.uint8), flags)
        if image is None or other is None or not np.array_equal(image, other):
            return None, ""
    return image, messages


def _has_all_scans(data: bytes) -> bool:
    """Return True if the scans of a JPEG bring all bits of all coefficients, of all its components.

    A progressive JPEG that is cut between two scans is a whole, but coarse image.
    """
    missing: dict[int, list[int]] = {}    # by component: for each coefficient the bits to come
    at = len(JPEG_START)
    try:
        while match := JPEG_MARKER.search(data, at):
            start = match.end() + 2    # behind the length of the segment
            if match[1][0] in FRAME_MARKERS:
                names = data[start + 6 : start + 6 + 3 * data[start + 5] : 3]
                missing = {name: [1] * 64 for name in names}
            elif match[1][0] == SCAN_MARKER:
                behind = start + 1 + 2 * data[start]
                first, last, bits = data[behind : behind + 3]
                for name in data[start + 1 : behind : 2]:
                    missing[name][first : last + 1] = [bits & 15] * (last + 1 - first)
            at = match.end() + int.from_bytes(data[match.end() : start], "big")
    except (IndexError, KeyError, ValueError):    # cut within a segment
        return False
    return bool(missing) and not any(any(bits) for bits in missing.values())


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
    """Return the factor by which a test size resizes an image of width x height pixels.

    Sizes are original, auto (2 if the long side is under 1280, else 1), x2 (times two), long:640 (long
    side) and short:1600:2150 (short side, long side at most).
    """
    if size == "original":
        return 1.0
    if size == "auto":
        return 2.0 if max(width, height) < SMALL_IMAGE else 1.0
    if size.startswith("x"):
        return float(size[1:])
    kind, *limits = size.split(":")
    if kind == "long":
        return int(limits[0]) / max(width, height)
    return min(int(limits[0]) / min(width, height), int(limits[1]) / max(width, height))
