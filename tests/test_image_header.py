from __future__ import annotations

import random
import struct
import warnings
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from utils.image_header import ImageHeader, have_many_sizes, parse_header, read_header
from utils.images import write_image


def exif(orientation: int, order: str) -> bytes:
    """TIFF with one entry before the orientation."""
    head = b"II*\0" if order == "<" else b"MM\0*"
    entries = struct.pack(order + "HHIHH", 0x0100, 3, 1, 7, 0) + struct.pack(order + "HHIHH", 0x0112, 3, 1, orientation, 0)
    return head + struct.pack(order + "IH", 8, 2) + entries + struct.pack(order + "I", 0)


def jpeg(block: bytes = b"", *, height: int = 30, width: int = 40) -> bytes:
    """A JPEG with a block put behind its first two bytes."""
    encoded = cv2.imencode(".jpg", np.zeros((height, width, 3), np.uint8))[1].tobytes()
    return encoded[:2] + block + encoded[2:]


def app1(body: bytes) -> bytes:
    return b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_jpeg_says_its_size_and_how_it_was_held(order: str, orientation: int) -> None:
    data = jpeg(app1(b"http://ns.adobe.com/xap/1.0/\0text") + b"\xff" + app1(b"Exif\0\0" + exif(orientation, order)))
    assert parse_header(data) == ImageHeader(40, 30, orientation)


def test_header_agrees_with_what_opencv_turns(tmp_path: Path) -> None:
    (tmp_path / "turned.jpg").write_bytes(jpeg(app1(b"Exif\0\0" + exif(6, "<"))))
    assert cv2.imread(str(tmp_path / "turned.jpg")).shape == (40, 30, 3)
    assert read_header(tmp_path / "turned.jpg") == (40, 30, 6)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp"])
def test_size_of_each_kind_of_file_is_read(suffix: str, tmp_path: Path) -> None:
    write_image(tmp_path / f"a{suffix}", np.zeros((17, 23, 3), np.uint8))
    assert read_header(tmp_path / f"a{suffix}") == (23, 17, 1)


def test_png_may_have_an_orientation() -> None:
    encoded = cv2.imencode(".png", np.zeros((5, 9, 3), np.uint8))[1].tobytes()
    body = b"eXIf" + exif(8, ">")
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    assert parse_header(encoded[:33] + chunk + encoded[33:]) == (9, 5, 8)


def test_size_behind_a_long_block_is_found(tmp_path: Path) -> None:
    profile = b"".join(b"\xff\xe2" + struct.pack(">H", 60_002) + bytes(60_000) for _ in range(3))
    (tmp_path / "long.jpg").write_bytes(jpeg(profile))
    assert parse_header((tmp_path / "long.jpg").read_bytes()[: 2**16]) is None
    assert read_header(tmp_path / "long.jpg") == (40, 30, 1)


def test_damaged_headers_are_none_or_a_header() -> None:
    data = jpeg(app1(b"Exif\0\0" + exif(6, "<")))
    randomness = random.Random(0)
    for _ in range(3000):
        damaged = bytearray(data)
        for _ in range(3):
            damaged[randomness.randrange(len(damaged))] = randomness.randrange(256)
        header = parse_header(bytes(damaged[: randomness.randrange(len(damaged))]))
        assert header is None or (header.width > 0 and header.height > 0 and 1 <= header.orientation <= 8)


def test_missing_and_unreadable_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_bytes(b"text")
    with pytest.raises(FileNotFoundError, match="no.jpg: no such image"):
        read_header(tmp_path / "no.jpg")
    with pytest.raises(ValueError, match="text.jpg: not a readable image"):
        read_header(tmp_path / "text.jpg")


def test_many_sizes_are_told_from_few(tmp_path: Path) -> None:
    for number in range(20):
        write_image(tmp_path / "many" / f"{number:02}.png", np.zeros((20 + number, 30, 3), np.uint8))
        write_image(tmp_path / "few" / f"{number:02}.png", np.zeros((20 + number % 2, 30, 3), np.uint8))
    (tmp_path / "many" / "text.png").write_text("no picture")
    assert have_many_sizes(sorted((tmp_path / "many").iterdir()))
    assert not have_many_sizes(sorted((tmp_path / "few").iterdir()))
    assert not have_many_sizes(sorted((tmp_path / "many").iterdir())[:5])
    assert not have_many_sizes([tmp_path / "none.png"])
    assert not have_many_sizes([])


def test_huge_images_have_a_header_and_pillow_keeps_its_limit(tmp_path: Path) -> None:
    """Pillow's own limits would warn from 89 megapixels on and refuse from 179 on."""
    limit = Image.MAX_IMAGE_PIXELS
    data = bytearray(jpeg())
    at = data.index(b"\xff\xc0") + 5    # height and width
    data[at : at + 4] = struct.pack(">HH", 30_000, 40_000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert parse_header(bytes(data)) == (40_000, 30_000, 1)
    assert limit == Image.MAX_IMAGE_PIXELS
