"""The window of --show, with a stand-in for OpenCV's."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import pytest

from utils.window import show

IMAGE = np.zeros((4, 4, 3), np.uint8)


class Screen:
    """Answers as a window does in which keys are pressed, and that is closed after some polls."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, keys: Sequence[int], *, closed: int = 10**6
    ):
        self.keys = iter(keys)
        self.polls = 0
        self.closed = closed
        self.raises = False
        monkeypatch.setattr(cv2, "imshow", lambda title, image: None)
        monkeypatch.setattr(cv2, "waitKey", self.wait)
        monkeypatch.setattr(cv2, "getWindowProperty", self.visible)

    def wait(self, milliseconds: int) -> int:
        assert milliseconds > 0, "would never return when the window is closed"
        self.polls += 1
        assert self.polls < 10_000
        return next(self.keys, -1)

    def visible(self, title: str, number: int) -> float:
        assert number == cv2.WND_PROP_VISIBLE
        if self.polls < self.closed:
            return 1.0
        if self.raises:
            raise cv2.error("NULL window")
        return 0.0


@pytest.mark.parametrize("raises", [False, True])
def test_closing_the_window_ends_the_showing(raises: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen(monkeypatch, [], closed=5)
    screen.raises = raises
    assert not show(IMAGE, title="faces", seconds=None)
    assert screen.polls == 5


@pytest.mark.parametrize(
    ("key", "goes_on"),
    [(ord("q"), False), (27, False), (ord(" "), True), (0x100000 | ord("q"), False)],
)
def test_q_ends_and_any_other_key_goes_on(
    key: int, goes_on: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = Screen(monkeypatch, [-1, -1, key])
    assert show(IMAGE, title="faces", seconds=None) == goes_on
    assert screen.polls == 3


def test_frame_is_shown_for_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen(monkeypatch, [])
    assert show(IMAGE, title="faces", seconds=0.001)
    assert screen.polls >= 1


def test_ctrl_c_ends_a_photo_that_waits_for_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen(monkeypatch, [])
    assert show(IMAGE, title="faces", seconds=None, should_stop=lambda: screen.polls >= 3)
    assert screen.polls == 3
