from __future__ import annotations

import re
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from utils.files import whole_file
from utils.images import FORMATS, IMAGE_SUFFIXES, decode_image, read_image, resize_factor, write_image

# The EXIF block of a JPEG whose camera was turned a quarter to the left: orientation 6.
EXIF_TURNED = bytes.fromhex("ffe1002245786966000049492a00080000000100120103000100000006000000000000 00".replace(" ", ""))


@pytest.mark.parametrize(
    "pixels",
    [
        np.full((5, 7), 200, np.uint8),
        np.full((5, 7), 51_400, np.uint16),
        np.full((5, 7, 3), 200, np.uint8),
        np.full((5, 7, 3), 51_400, np.uint16),
        np.dstack([np.full((5, 7, 3), 200, np.uint8), np.full((5, 7), 9, np.uint8)]),
        np.full((1, 1), 200, np.uint8),
    ],
    ids=["grey", "grey16", "colour", "colour16", "alpha", "1x1"],
)
def test_image_of_any_kind_becomes_three_bytes_a_pixel(pixels: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "a photo é.png"
    path.write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
    image = read_image(path, turn=True)
    assert image.shape == (*pixels.shape[:2], 3) and image.dtype == np.uint8
    assert (image == 200).all()


def test_turned_photo_is_turned_only_where_asked(tmp_path: Path) -> None:
    encoded = cv2.imencode(".jpg", np.zeros((20, 30, 3), np.uint8))[1].tobytes()
    path = tmp_path / "turned.jpg"
    path.write_bytes(encoded[:2] + EXIF_TURNED + encoded[2:])
    assert read_image(path, turn=False).shape == (20, 30, 3)
    assert read_image(path, turn=True).shape == (30, 20, 3)


def palette_png(indices: np.ndarray, colors: list[tuple[int, int, int]]) -> bytes:
    """A PNG whose pixels are indices into a list of colours (RGB), which OpenCV does not write."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", indices.shape[1], indices.shape[0], 8, 3, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(np.uint8).tobytes() for row in indices)
    palette = np.array(colors, np.uint8).tobytes()
    chunks = ((b"IHDR", header), (b"PLTE", palette), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, content) for kind, content in chunks)


def test_image_with_a_palette_is_read_in_its_colours(tmp_path: Path) -> None:
    (tmp_path / "p.png").write_bytes(palette_png(np.array([[0, 1], [1, 1]]), [(1, 2, 3), (10, 20, 30)]))
    assert read_image(tmp_path / "p.png", turn=True).tolist() == [[[3, 2, 1], [30, 20, 10]], [[30, 20, 10], [30, 20, 10]]]


@pytest.mark.parametrize("content", [b"", b"this is text"], ids=["empty", "text"])
def test_file_that_is_no_picture_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="photo.jpg: not a readable image"):
        read_image(path, turn=True)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
def test_file_cut_in_half_is_named(suffix: str, tmp_path: Path) -> None:
    photo = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    encoded = cv2.imencode(suffix, photo)[1].tobytes()
    path = tmp_path / f"photo{suffix}"
    path.write_bytes(encoded[: len(encoded) // 2])
    with pytest.raises(ValueError, match=rf"photo{suffix}: not a readable image"):
        read_image(path, turn=True)


def test_missing_file_and_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no.jpg: no such image"):
        read_image(tmp_path / "no.jpg", turn=True)
    with pytest.raises(ValueError, match="cannot read image"):
        read_image(tmp_path, turn=True)


def test_written_image_is_read_again_and_nothing_else_is_left(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (8, 9, 3)).astype(np.uint8)
    write_image(tmp_path / "new" / "a.png", image)
    assert np.array_equal(read_image(tmp_path / "new" / "a.png", turn=True), image)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.png"]


def test_file_whose_writing_fails_stays_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "kept.txt"
    path.write_text("old")
    with pytest.raises(TypeError), whole_file(path) as partial:
        partial.write_text("half") and partial.write_text(None)    # type: ignore[arg-type]
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["kept.txt"]


def progressive_and_baseline() -> list[bytes]:
    image = np.random.default_rng(0).integers(0, 256, (15, 20, 3)).astype(np.uint8)
    image = np.asarray(cv2.resize(image, (320, 240), interpolation=cv2.INTER_CUBIC), np.uint8)
    options = ([], [cv2.IMWRITE_JPEG_PROGRESSIVE, 1], [cv2.IMWRITE_JPEG_RST_INTERVAL, 4])
    return [cv2.imencode(".jpg", image, each)[1].tobytes() for each in options]


@pytest.mark.parametrize("kind", [0, 1, 2], ids=["baseline", "progressive", "restart markers"])
@pytest.mark.parametrize("missing", [1, 2])
def test_jpeg_without_its_end_marker_is_whole(
    kind: int, missing: int, capfd: pytest.CaptureFixture[str]
) -> None:
    data = progressive_and_baseline()[kind]
    whole = decode_image(np.frombuffer(data, np.uint8), "a.jpg", turn=False)
    cut = np.frombuffer(data[:-missing], np.uint8)
    assert np.array_equal(decode_image(cut, "a.jpg", turn=False), whole)
    assert decode_image(cut, "a.jpg", turn=False, reduction=2).shape == (120, 160, 3)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("kind", [0, 1, 2], ids=["baseline", "progressive", "restart markers"])
def test_jpeg_that_lacks_pixels_is_refused_wherever_it_is_cut(
    kind: int, capfd: pytest.CaptureFixture[str]
) -> None:
    data = progressive_and_baseline()[kind]
    scans = [match.start() for match in re.finditer(b"\xff\xda", data)]
    tables = [match.start() for match in re.finditer(b"\xff\xc4", data)]
    between = {len(data) - at - extra for at in (*scans[1:], *tables[1:]) for extra in (0, 2, 9)}
    for missing in {3, 4, 6, 9, 20, 50, 200, *range(1000, len(data), 500), *between}:
        with pytest.raises(ValueError, match="not a readable image"):
            decode_image(np.frombuffer(data[:-missing], np.uint8), "a.jpg", turn=False)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("suffix", sorted(IMAGE_SUFFIXES))
def test_every_image_suffix_is_one_that_can_be_read(suffix: str, tmp_path: Path) -> None:
    pixels = np.full((32, 48, 3), 200, np.uint8)
    pixels[:, 24:] = 100
    if suffix == ".pfm":
        pixels = pixels.astype(np.float32)
    if suffix in {".pbm", ".pgm"}:
        pixels = pixels[..., 0].copy()
    encoded = cv2.imencode(FORMATS[suffix], pixels)[1]
    if suffix == ".pbm":
        encoded = np.frombuffer(b"P1 48 32 " + b"0 1 " * 24 * 32, np.uint8)
    (tmp_path / f"a{suffix}").write_bytes(encoded.tobytes())
    image = read_image(tmp_path / f"a{suffix}", turn=True)
    assert image.shape == (32, 48, 3) and image.dtype == np.uint8
    # A GIF is dithered, and a PBM is black and white.
    if suffix != ".pbm":
        assert np.allclose([image[:, :20].mean(), image[:, -20:].mean()], [200, 100], atol=10)


def test_usual_image_suffixes_are_always_known() -> None:
    usual = {".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
    assert usual <= IMAGE_SUFFIXES


@pytest.mark.parametrize(("width", "height", "factor"), [(1279, 9, 2), (9, 1279, 2), (1280, 9, 1), (9, 1280, 1)])
def test_auto_enlarges_images_with_a_short_long_side(width: int, height: int, factor: float) -> None:
    assert resize_factor("auto", width, height) == factor
