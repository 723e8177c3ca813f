"""What the first bytes of a picture file say, without decoding it: its size, and how the camera was held."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from utils.images import read_image

PHOTOS_LOOKED_AT, FEW_SIZES = 64, 8
UPRIGHT = 1    # the EXIF orientation of a picture that is stored as it is to be seen
ORIENTATION_TAG = 0x0112
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# JPEG markers that start a frame, whose header holds the size; C4, C8 and CC are other things.
FRAME_MARKERS = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}


class ImageHeader(NamedTuple):
    """Width and height in pixels of the raster as stored, and the EXIF orientation, 1 to 8; 1 where there is none."""

    width: int
    height: int
    orientation: int


def read_header(path: str | Path) -> ImageHeader:
    """The header of a picture file. JPEG and PNG are not decoded, other formats are, and their orientation is not looked for.

    Raises FileNotFoundError or ValueError that names the file.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(2**16)
            header = parse_header(data)
            if header is None and data.startswith(b"\xff\xd8"):    # a long preview or colour profile stands before the size
                header = parse_header(data + file.read())
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such image") from None
    except OSError as error:
        raise ValueError(f"{path}: cannot read image: {error.strerror}") from None
    if header is None:
        height, width = read_image(path, turn=False).shape[:2]
        header = ImageHeader(width, height, UPRIGHT)
    return header


def have_many_sizes(paths: Sequence[str | Path]) -> bool:
    """Whether most of some photos have a size of their own, going by the first ones; those that cannot be read are passed over."""
    sizes = []
    for path in paths[:PHOTOS_LOOKED_AT]:
        with contextlib.suppress(ValueError, FileNotFoundError):
            sizes.append(read_header(path)[:2])
    return len(set(sizes)) > max(FEW_SIZES, len(sizes) / 2)


def parse_header(data: bytes) -> ImageHeader | None:
    """The header in the first bytes of a JPEG or PNG file; None where they are neither, or end too early."""
    try:
        if data.startswith(PNG_SIGNATURE):
            return _parse_png(data)
        if data.startswith(b"\xff\xd8"):
            return _parse_jpeg(data)
    except (struct.error, IndexError):
        pass
    return None


def _parse_jpeg(data: bytes) -> ImageHeader | None:
    orientation, at = UPRIGHT, 2
    while True:
        if data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if marker == 0xFF:    # a fill byte
            at += 1
            continue
        (length,) = struct.unpack_from(">H", data, at + 2)
        body = at + 4
        if marker in FRAME_MARKERS:
            height, width = struct.unpack_from(">HH", data, body + 1)
            return ImageHeader(width, height, orientation) if width and height else None
        if marker == 0xE1 and data[body : body + 6] == b"Exif\0\0":
            orientation = _orientation(data[body + 6 : at + 2 + length])
        if marker == 0xDA or length < 2:    # the picture itself, before any frame
            return None
        at += 2 + length


def _parse_png(data: bytes) -> ImageHeader:
    width, height = struct.unpack_from(">II", data, 16)
    orientation, at = UPRIGHT, 8
    while at + 8 <= len(data):    # chunks: length, name, data, checksum
        (length,) = struct.unpack_from(">I", data, at)
        name = data[at + 4 : at + 8]
        if name == b"eXIf":
            orientation = _orientation(data[at + 8 : at + 8 + length])
        if name == b"IDAT":
            break
        at += 12 + length
    return ImageHeader(width, height, orientation)


def _orientation(exif: bytes) -> int:
    """The orientation that a block of EXIF (TIFF 6.0) gives; 1 where it gives none."""
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None:
        return UPRIGHT
    try:
        (directory,) = struct.unpack_from(order + "I", exif, 4)
        (entries,) = struct.unpack_from(order + "H", exif, directory)
        for entry in range(directory + 2, directory + 2 + 12 * entries, 12):
            tag, _, _, value = struct.unpack_from(order + "HHIH", exif, entry)
            if tag == ORIENTATION_TAG:
                return value if 1 <= value <= 8 else UPRIGHT
    except struct.error:
        pass
    return UPRIGHT
