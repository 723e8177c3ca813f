"""What libjpeg and libpng print never reaches the user without the name of the image."""

from __future__ import annotations

import ctypes
import errno
import multiprocessing
import platform
import struct
import time
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import RunScript

from data.penn_fudan import read_regions
from data.synthetic import draw_set
from utils.decoder_messages import catch_messages
from utils.images import decode_image, read_image

pytestmark = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="C's stderr is a variable in glibc only"
)
PIXELS = cv2.GaussianBlur(
    np.random.default_rng(0).integers(0, 256, (90, 120, 3)).astype(np.uint8), (7, 7), 0
)


def damaged_jpeg() -> bytes:
    """A JPEG with a marker amid its pixels."""
    data = cv2.imencode(".jpg", PIXELS)[1].tobytes()
    middle = len(data) // 2
    return data[:middle] + b"\xff\xd5" + data[middle:]


def chunk(name: bytes, body: bytes) -> bytes:
    checksum = zlib.crc32(name + body)
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", checksum)


def test_jpeg_damaged_in_the_middle_is_used_and_named(capfd: pytest.CaptureFixture[str]) -> None:
    encoded = np.frombuffer(damaged_jpeg(), np.uint8)
    expected = r"^b.jpg: damaged image, used as far as it can be decoded \(Corrupt JPEG data: "
    with pytest.warns(UserWarning, match=expected):
        assert decode_image(encoded, "b.jpg", turn=True).shape == PIXELS.shape
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("damage", ["cut", "checksum", "filter"])
def test_damaged_png_is_refused_in_one_line(
    damage: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data = bytearray(cv2.imencode(".png", PIXELS)[1].tobytes())
    if damage == "cut":
        del data[-500:]
    elif damage == "checksum":
        data[len(data) // 2] ^= 0xFF
    else:
        rows = zlib.compress(b"\x09" + bytes(3 * 8))
        header = struct.pack(">IIBBBBB", 8, 1, 8, 2, 0, 0, 0)
        data[8:] = chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(ValueError, match="a.png: not a readable image"):
        read_image(tmp_path / "a.png", turn=True)
    assert capfd.readouterr().err == ""


def test_damaged_mask_is_refused_in_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data = bytearray(cv2.imencode(".png", PIXELS[..., 0].copy())[1].tobytes())
    data[len(data) // 2] ^= 0xFF
    (tmp_path / "mask.png").write_bytes(data)
    with pytest.raises(ValueError, match="mask.png: not a readable mask"):
        read_regions(tmp_path / "mask.png")
    assert capfd.readouterr().err == ""


def test_png_with_a_strange_color_profile_is_read_without_a_word(
    capfd: pytest.CaptureFixture[str],
) -> None:
    data = cv2.imencode(".png", PIXELS)[1].tobytes()
    profile = chunk(b"iCCP", b"x\0\0" + zlib.compress(b"no profile"))
    encoded = np.frombuffer(data[:33] + profile + data[33:], np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(decode_image(encoded, "a.png", turn=True), PIXELS)
    assert capfd.readouterr().err == ""


def test_among_many_threads_only_the_damaged_images_are_named(
    capfd: pytest.CaptureFixture[str],
) -> None:
    good = np.frombuffer(cv2.imencode(".jpg", PIXELS)[1].tobytes(), np.uint8)
    bad = np.frombuffer(damaged_jpeg(), np.uint8)

    def problems_of(number: int) -> list[str]:
        problems: list[str] = []
        decode_image(good if number % 5 else bad, f"{number}.jpg", turn=True, problems=problems)
        return problems

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(problems_of, range(400)))
    assert [number for number, problems in enumerate(found) if problems] == list(range(0, 400, 5))
    assert capfd.readouterr().err == ""


def test_what_others_print_meanwhile_is_passed_on(capfd: pytest.CaptureFixture[str]) -> None:
    libc = ctypes.CDLL(None)
    libc.fputs.argtypes = [ctypes.c_char_p, ctypes.c_void_p]

    def print_meanwhile() -> int:
        libc.fputs(b"a driver's message\n", ctypes.c_void_p.in_dll(libc, "stderr"))
        return 1

    assert catch_messages(print_meanwhile) == (1, "")
    assert set(capfd.readouterr().err.splitlines()) == {"a driver's message"}
    print_meanwhile()
    assert capfd.readouterr().err == "a driver's message\n"


def test_decoder_that_fails_leaves_everything_as_it_was(capfd: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise ValueError("failed")

    with pytest.raises(ValueError, match="failed"):
        catch_messages(fail)
    assert catch_messages(lambda: 1) == (1, "")
    assert capfd.readouterr().err == ""


def name_damage(number: int) -> list[str]:
    problems: list[str] = []
    encoded = np.frombuffer(damaged_jpeg(), np.uint8)
    decode_image(encoded, f"{number}.jpg", turn=True, problems=problems)
    return problems


def test_process_that_is_forked_while_images_are_decoded_names_them_too(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with ThreadPoolExecutor(2) as busy:
        waiting = [busy.submit(catch_messages, lambda: time.sleep(0.7)) for _ in range(2)]
        with multiprocessing.get_context("fork").Pool(2) as pool:
            found = pool.map_async(name_damage, range(6)).get(timeout=60)
        assert all(wait.result() == (None, "") for wait in waiting)
    assert [len(problems) for problems in found] == [1] * 6
    assert capfd.readouterr().err == ""


def test_process_that_is_forked_and_may_open_no_file_decodes_all_the_same(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(name: str) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("os.memfd_create", refuse)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply_async(catch_messages, (int,)).get(timeout=60) == (0, "")
    assert capfd.readouterr().err == ""


@pytest.fixture
def damaged_set(tmp_path: Path) -> Path:
    label = draw_set(tmp_path / "set", images=4, size=96, seed=1)
    path = sorted((label.parent / "images").iterdir())[1]
    image = cv2.imread(str(path))
    data = cv2.imencode(".jpg", image)[1].tobytes()
    middle = len(data) * 2 // 3
    path.write_bytes(data[:middle] + b"\xff\xd5" + data[middle:])
    return label


def test_check_lists_a_damaged_image(damaged_set: Path, run: RunScript) -> None:
    result = run("analyze_data", damaged_set, "--check")
    assert result.code == 1 and result.err == ""
    assert "damaged image" in result.out and "drawn_0001.jpg" in result.out


def test_photo_that_is_damaged_is_drawn_and_named(
    damaged_set: Path, untrained: Path, tmp_path: Path, run: RunScript
) -> None:
    images = damaged_set.parent / "images"
    result = run("test", images, "--weights", untrained, "--output", tmp_path / "out")
    lines = [line for line in result.err.splitlines() if "damaged" in line]
    assert len(lines) == 1 and "drawn_0001.jpg: damaged image, used as far as" in lines[0]
    assert "Corrupt JPEG" not in result.err.replace(lines[0], "")
    assert (tmp_path / "out" / "drawn_0001.jpg").exists()


@pytest.mark.parametrize("workers", [0, 2])
def test_training_names_a_damaged_image_once(
    damaged_set: Path, tmp_path: Path, run: RunScript, workers: int
) -> None:
    words = ["data.size=64", "train.batch_size=2", "train.epochs=2", f"data.workers={workers}"]
    output = ["--output", tmp_path / "run", f"data.train={damaged_set}"]
    result = run("train", "--preset", "demo", *output, *words, "data.val=[]")
    lines = [line for line in result.err.splitlines() if "Corrupt JPEG" in line]
    assert result.code == 1, result.err
    assert len(lines) == 1 and "drawn_0001.jpg: damaged image, used as far as" in lines[0]
