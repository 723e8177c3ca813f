"""Images of several frames."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import RunScript

from utils.animation import count_frames

IMAGE = np.full((20, 30, 3), 90, np.uint8)


def encode(suffix: str, image: np.ndarray = IMAGE) -> bytes:
    return cv2.imencode(suffix, image)[1].tobytes()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def animated_png(frames: int) -> bytes:
    """A PNG that counts its frames and holds the first."""
    single = encode(".png")
    header = 8 + 25    # signature and IHDR
    return single[:header] + chunk(b"acTL", struct.pack(">II", frames, 0)) + single[header:]


def animated_gif(frames: int) -> bytes:
    screen = b"GIF89a" + struct.pack("<HHBBB", 2, 2, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    control = b"\x21\xf9\x04\x04\x0a\0\0\0"
    picture = b"\x2c" + struct.pack("<HHHHB", 0, 0, 2, 2, 0) + b"\x02\x03\x44\x02\x05\0"
    return screen + (control + picture) * frames + b"\x3b"


def animated_webp(frames: int) -> bytes:
    single = encode(".webp")[12:]    # a VP8 chunk
    extended = b"VP8X" + struct.pack("<I", 10) + b"\x02\0\0\0" + b"\x1d\0\0\x13\0\0"
    control = b"ANIM" + struct.pack("<IIH", 6, 0, 0)
    frame = b"\0" * 6 + b"\x1d\0\0\x13\0\0" + b"\x0a\0\0\0" + single
    body = extended + control + (b"ANMF" + struct.pack("<I", len(frame)) + frame) * frames
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


MAKERS = {".png": animated_png, ".gif": animated_gif, ".webp": animated_webp}


@pytest.mark.parametrize("suffix", MAKERS)
@pytest.mark.parametrize("frames", [2, 7])
def test_frames_are_counted(suffix: str, frames: int) -> None:
    data = MAKERS[suffix](frames)
    assert count_frames(np.frombuffer(data, np.uint8)) == frames
    for cut in range(0, len(data), 3):    # counts what is there, and never fails
        assert 1 <= count_frames(np.frombuffer(data[:cut], np.uint8)) <= frames


@pytest.mark.parametrize("suffix", [".png", ".webp", ".jpg", ".bmp", ".tiff"])
def test_still_images_have_one_frame(suffix: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    assert count_frames(np.frombuffer(encode(suffix, noise), np.uint8)) == 1
    assert count_frames(np.zeros(0, np.uint8)) == 1


@pytest.mark.parametrize("suffix", MAKERS)
def test_first_frame_is_drawn_and_the_number_of_all_is_said(
    suffix: str, tmp_path: Path, untrained: Path, run: RunScript
) -> None:
    path = tmp_path / f"moving{suffix}"
    path.write_bytes(MAKERS[suffix](3))
    if cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR) is None:
        pytest.skip("this OpenCV does not read it")
    result = run("test", path, "--weights", untrained, "--output", tmp_path / "out")
    assert result.code == 0
    assert result.err == f"test.py: warning: {path}: only the first of 3 frames is used\n"
