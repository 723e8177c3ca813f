"""What a user may point at."""

from __future__ import annotations

import errno
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from conftest import RunScript
from test_detect import files, lines
from test_video import make_video

from utils.images import write_image
from utils.sources import Source, find_sources
from utils.video import source_name

PHOTO = np.zeros((20, 30, 3), np.uint8)


def find(word: object, exclude: Path = Path("detections")) -> list[Source]:
    return list(find_sources(str(word), exclude=exclude))


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("rtsp://10.0.0.7:554/live", "rtsp://10.0.0.7:554/live"),
        ("rtsp://admin:secret@cam/live?token=secret", "rtsp://cam/live"),
        ("rtsp://admin:se/cr?et@#secret@cam:1/a/b", "rtsp://cam:1/a/b"),
        ("rtsp://cam/user=admin&password=secret&channel=1/0.sdp", "rtsp://cam/.../0.sdp"),
        ("http://secret@cam/video.mjpg#secret", "http://cam/video.mjpg"),
        ("udp+x://@239.0.0.1:1234", "udp+x://239.0.0.1:1234"),
    ],
)
def test_address_is_opened_as_typed_and_shown_without_secrets(address: str, shown: str) -> None:
    (source,) = find(address)
    assert (source.path, source.is_image, source.is_live) == (address, False, True)
    assert str(source) == source_name(address) == shown
    assert "secret" not in str(source.name) and "/" not in str(source.name)


def test_stream_that_cannot_be_opened_is_one_line_without_its_password(
    tmp_path: Path, untrained: Path, run: RunScript
) -> None:
    address = "rtsp://user:hunter2@127.0.0.1:1/live?key=hunter2"
    result = run("test", address, "--weights", untrained, "--output", tmp_path)
    assert result.complaint == (
        "test.py: no image readable of 1: rtsp://127.0.0.1:1/live: cannot be opened"
    )


def test_stream_is_drawn_and_listed_under_its_host(
    tmp_path: Path, untrained: Path, run: RunScript, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = make_video(tmp_path / "clip.mp4", frames=3)
    opened: list[object] = []
    real_capture = cv2.VideoCapture

    def capture(source: object) -> cv2.VideoCapture:
        opened.append(source)
        return real_capture(str(clip))

    monkeypatch.setattr(cv2, "VideoCapture", capture)
    address = "http://me:hunter2@cam.local:8080/video?user=hunter2"
    result = run("test", address, "--weights", untrained, "--output", tmp_path / "out")
    assert result.code == 0 and opened == [address]
    assert files(tmp_path / "out") == {"stream_cam_local.mp4", "detections.jsonl"}
    assert {row["source"] for row in lines(tmp_path / "out")} == {"http://cam.local:8080/video"}
    assert (
        "hunter2" not in result.out + result.err + (tmp_path / "out/detections.jsonl").read_text()
    )


def test_hidden_files_are_no_sources_and_other_kinds_are_counted(
    tmp_path: Path, untrained: Path, run: RunScript
) -> None:
    hidden = (
        "._a.png",
        "@eaDir/a.png/t.png",
        ".ipynb_checkpoints/a.png",
        "__MACOSX/a.png",
        "Thumbs.db",
    )
    for name in ("a.png", "sub/b.png", *hidden):
        write_image(tmp_path / "photos" / f"{name}.png", PHOTO)
        (tmp_path / "photos" / f"{name}.png").rename(tmp_path / "photos" / name)
    for name in ("x.heic", "sub/y.HEIC", "z.psd", "README"):
        (tmp_path / "photos" / name).write_text("other")
    photos = tmp_path / "photos"
    result = run("test", photos, "--weights", untrained, "--output", tmp_path / "out")
    assert result.code == 0
    assert result.err == (
        f"test.py: warning: {photos}: passed over 4 files of other kinds: "
        ".heic 2, no suffix 1, .psd 1\n"
    )
    assert [Path(row["source"]).name for row in lines(tmp_path / "out")] == ["a.png", "b.png"]
    assert [source.name for source in find(tmp_path / "photos" / "**" / "*.png")] == [
        Path("a.png"), Path("b.png"),
    ]  # fmt: skip
    assert len(find(tmp_path / "photos" / "._a.png")) == 1    # spelled out, it is meant
    shutil.rmtree(photos / "sub")
    (photos / "a.png").unlink()
    with pytest.raises(
        ValueError, match=r"no images or videos in this folder; found 3 files of ot"
    ):
        find(photos)


def test_sub_folder_that_cannot_be_read_costs_nothing_else(
    tmp_path: Path, untrained: Path, run: RunScript, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.png", "private/b.png"):
        write_image(tmp_path / "photos" / name, PHOTO)
    scan = os.scandir

    def refuse(path: str) -> Any:
        if str(path).endswith("private"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    words = ["--weights", untrained, "--output", tmp_path / "out"]
    result = run("test", tmp_path / "photos", *words)
    assert result.code == 1
    assert "left out: " in result.err and "photos/private: cannot" in result.err
    assert [Path(row["source"]).name for row in lines(tmp_path / "out")] == ["a.png"]


@pytest.mark.parametrize(
    "name",
    ["c.3gp", "c.mts", "c.m2ts", "c.TS", "c.flv", "c.ogv", "c.mjpeg", "c.vob", "c.mpg", "c.wmv"],
)
def test_videos_of_any_suffix_are_videos_in_a_folder_too(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"")
    assert [source.is_image for source in find(tmp_path) + find(tmp_path / name)] == [False, False]


def test_unknown_suffix_is_read_as_what_the_file_is(
    drawn_set: Path, tmp_path: Path, untrained: Path, run: RunScript
) -> None:
    shutil.copy(drawn_set.parent / "images" / "drawn_0001.jpg", tmp_path / "photo.download")
    shutil.copy(drawn_set.parent / "images" / "drawn_0001.jpg", tmp_path / "photo_without")
    make_video(tmp_path / "clip.mp4", frames=3).rename(tmp_path / "clip.part")
    (tmp_path / "text.txt").write_text("neither of the two")
    (tmp_path / "photo.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(50))
    names = ["photo.download", "photo_without", "clip.part", "text.txt", "photo.heic", "gone.xyz"]
    sources = [tmp_path / name for name in names]
    result = run("test", *sources, "--weights", untrained, "--output", tmp_path / "out")
    assert result.code == 1
    drawn = {name for name in files(tmp_path / "out") if "/" not in name}
    assert drawn == {
        "photo.png", "photo_without.png", "clip.mp4", "detections.jsonl", "detections.png",
    }  # fmt: skip
    left_out = [line.rpartition("/")[2] for line in result.err.splitlines()]
    assert left_out[0].startswith("text.txt: not a readable image or video")
    assert left_out[1].startswith("photo.heic: not a readable image (")
    assert left_out[2] == "gone.xyz: no such image"


def test_image_folder_inside_the_output_is_a_source(tmp_path: Path) -> None:
    write_image(tmp_path / "in" / "a.png", PHOTO)
    write_image(tmp_path / "in" / "out" / "a.png", PHOTO)
    assert len(find(tmp_path / "in", exclude=tmp_path)) == 2
    assert len(find(tmp_path / "in", exclude=tmp_path / "in" / "out")) == 1


def test_address_with_an_equal_sign_is_no_setting_and_any_name_is_a_source(
    tmp_path: Path, untrained: Path, run: RunScript
) -> None:
    result = run("test", "http://127.0.0.1:1/a?b=c", "--weights", untrained, "--output", tmp_path)
    assert "http://127.0.0.1:1/a: cannot be opened" in result.complaint
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert find("n" * 300)[0].is_image    # told when it is read
