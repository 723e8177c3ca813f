from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from conftest import RunScript

from utils.video import VideoReader, write_video


def make_video(path: Path, *, frames: int = 20, width: int = 64, height: int = 48, rate: float = 10.0) -> Path:
    with write_video(path, rate=rate) as writer:
        for number in range(frames):
            writer.write(np.full((height, width, 3), 6 * number, np.uint8))
    return path


def shades(path: Path) -> list[float]:
    reader = VideoReader(path)
    values = []
    while (frame := reader.read()) is not None:
        values.append(float(frame.mean()))
    return values


def test_frames_are_read_back_in_order_with_their_rate(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4")
    reader = VideoReader(path)
    assert (reader.count, reader.rate, reader.is_live) == (20, 10.0, False)
    assert shades(path) == pytest.approx([6 * number for number in range(20)], abs=4)


def test_odd_sizes_lose_no_pixels(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", width=33, height=21)
    frame = VideoReader(path).read()
    assert frame is not None and frame.shape == (22, 34, 3)


def test_broken_video_leaves_no_file(tmp_path: Path) -> None:
    def fail() -> None:
        with write_video(tmp_path / "a.mp4", rate=5) as writer:
            writer.write(np.zeros((8, 8, 3), np.uint8))
            writer.write(np.zeros((9, 8, 3), np.uint8))

    with pytest.raises(ValueError, match="frames of 8 x 8 pixels are followed by one of 8 x 9"):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_video_that_ends_early_says_so(tmp_path: Path) -> None:
    writer = cv2.VideoWriter(str(tmp_path / "a.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    for number in range(40):
        writer.write(np.random.default_rng(number).integers(0, 256, (48, 64, 3)).astype(np.uint8))
    writer.release()
    whole = (tmp_path / "a.avi").read_bytes()
    (tmp_path / "cut.avi").write_bytes(whole[: len(whole) // 3])
    reader = VideoReader(tmp_path / "cut.avi")
    while reader.read() is not None:
        pass
    assert 0 < reader.frames < 20
    assert reader.fault is not None and "cut.avi: " in reader.fault and f"ends after {reader.frames} of " in reader.fault


def test_videos_are_drawn_and_listed_frame_by_frame(tmp_path: Path, untrained: Path, run: RunScript) -> None:
    make_video(tmp_path / "in" / "clip.mp4", frames=37)
    make_video(tmp_path / "other" / "clip.mp4", frames=3)
    (tmp_path / "in" / "text.mp4").write_text("no video")
    (tmp_path / "in" / "empty.avi").write_bytes(b"")
    output = tmp_path / "out"
    result = run("test", tmp_path / "in", tmp_path / "other" / "clip.mp4", "--weights", untrained, "--output", output)
    assert result.code == 1
    assert sorted(path.name for path in output.iterdir()) == ["clip.mp4", "clip_2.mp4", "detections.jsonl"]
    assert len(shades(output / "clip.mp4")) == 37 and len(shades(output / "clip_2.mp4")) == 3
    rows = [json.loads(line) for line in (output / "detections.jsonl").read_text().splitlines()]
    assert [(row["source"], row["frame"]) for row in rows] == [
        *[(str(tmp_path / "in" / "clip.mp4"), number) for number in range(37)],
        *[(str(tmp_path / "other" / "clip.mp4"), number) for number in range(3)],
    ]
    assert (rows[0]["width"], rows[0]["height"]) == (64, 48)
    faults = [line for line in result.err.splitlines() if "left out" in line]
    assert len(faults) == 2 and all("not a readable video" in fault for fault in faults)


@pytest.mark.parametrize(
    "rate", [119.843, 239.847, 66.6667, 59.94005994, 23.976, 999.99, 655.349, 65.5354, 0.011, 30]
)
def test_video_of_any_rate_is_written(rate: float, tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", frames=9, rate=rate)
    reader = VideoReader(path)
    assert reader.rate == pytest.approx(rate, rel=1e-4, abs=1e-3) and len(shades(path)) == 9


def test_video_that_cannot_be_written_is_named_with_the_reason(
    tmp_path: Path, untrained: Path, run: RunScript
) -> None:
    fourcc = cv2.VideoWriter.fourcc(*"MJPG")
    writer = cv2.VideoWriter(str(tmp_path / "wide.avi"), fourcc, 10, (9000, 16))
    for _ in range(2):
        writer.write(np.zeros((16, 9000, 3), np.uint8))
    writer.release()
    make_video(tmp_path / "clip.mp4", frames=2)
    sources = [tmp_path / "wide.avi", tmp_path / "clip.mp4"]
    result = run("test", *sources, "--weights", untrained, "--output", tmp_path / "out")
    assert result.code == 1
    left_out = [line for line in result.err.splitlines() if "warning" not in line]
    assert left_out == [
        f"test.py: left out: {tmp_path / 'wide.avi'}: {tmp_path / 'out' / 'wide.mp4'}: "
        "this OpenCV cannot write a video of 9000 x 16 pixels with 10 frames a second: MPEG-4 holds sides of up to 8,190"
    ]


def test_video_whose_name_is_no_unicode_is_read_and_written(
    tmp_path: Path, untrained: Path, run: RunScript
) -> None:
    odd = os.fsdecode(b"clip\xe9")
    (tmp_path / odd).mkdir()
    make_video(tmp_path / odd / f"{odd}.mp4", frames=3)
    result = run("test", tmp_path / odd, "--weights", untrained, "--output", tmp_path / "out" / odd)
    assert result.code == 0, result.err
    assert len(shades(tmp_path / "out" / odd / f"{odd}.mp4")) == 3


def test_ctrl_c_ends_all_videos_and_none_is_called_damaged(
    tmp_path: Path, untrained: Path, run: RunScript, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = [make_video(tmp_path / f"{name}.mp4", frames=40) for name in "abc"]
    opened: list[object] = []
    capture, read = cv2.VideoCapture, VideoReader.read

    def open_capture(source: object) -> cv2.VideoCapture:
        opened.append(source)
        return capture(source)

    def read_until_ctrl_c(reader: VideoReader) -> Any:
        if reader.frames == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return read(reader)

    monkeypatch.setattr(cv2, "VideoCapture", open_capture)
    monkeypatch.setattr(VideoReader, "read", read_until_ctrl_c)
    result = run("test", *clips, "0", "--weights", untrained, "--output", tmp_path / "out")
    assert result.code == 130 and result.err == ""
    assert opened == [str(clips[0])]
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["a.mp4", "detections.jsonl"]


def test_no_display_is_one_clear_line(tmp_path: Path, untrained: Path, run: RunScript, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    make_video(tmp_path / "clip.mp4", frames=2)
    result = run("test", tmp_path / "clip.mp4", "--show", "--weights", untrained, "--output", tmp_path / "out")
    assert result.complaint == (
        "test.py: --show: no window can be opened here: there is no display, or OpenCV was built without windows"
    )
    assert not (tmp_path / "out").exists()
