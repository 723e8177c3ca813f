"""What the first bytes of a picture file say, without decoding it: its size, and how the camera was held."""

from __future__ import annotations

import contextlib
import io
import struct
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from utils.images import JPEG_START, PNG_START, read_image

# What Pillow says of damaged EXIF names no file.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")

PHOTOS_LOOKED_AT, FEW_SIZES = 64, 8
UPRIGHT = 1    # the EXIF orientation of a picture that is stored as it is to be seen
ORIENTATION_TAG = 0x0112
READERS = {JPEG_START: JpegImageFile, PNG_START: PngImageFile}
# What Pillow raises for damaged headers.
UNREADABLE = (SyntaxError, OSError, ValueError, TypeError, KeyError, IndexError, EOFError, struct.error)


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
    reader = next((reader for start, reader in READERS.items() if data.startswith(start)), None)
    if reader is None:
        return None
    try:
        # Not Image.open, which refuses or warns about images of more than 89 megapixels.
        image = reader(io.BytesIO(data))
        exif = Image.Exif()
        exif.load(image.info.get("exif", b""))
        orientation = exif.get(ORIENTATION_TAG, UPRIGHT)
    except UNREADABLE:
        return None
    width, height = image.size
    if not (width and height):
        return None
    return ImageHeader(width, height, orientation if orientation in range(1, 9) else UPRIGHT)
