"""A window to look at images in."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable

import cv2

from utils.arrays import Image

QUIT_KEYS = (27, ord("q"))    # Esc
POLL_MILLISECONDS = 50
# Where there is no display, OpenCV ends the whole process; so another one tries first.
TRIAL = "import cv2; cv2.namedWindow('trial'); cv2.waitKey(1); cv2.destroyAllWindows()"


def check_display() -> None:
    """ValueError where no window can be opened."""
    trial = subprocess.run([sys.executable, "-c", TRIAL], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    if trial.returncode:
        raise ValueError("--show: no window can be opened here: there is no display, or OpenCV was built without windows")


def show(
    image: Image,
    *,
    title: str,
    seconds: float | None,
    should_stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Show an image for some seconds, or with None until a key is pressed or `should_stop`.

    Returns False if the key is q or Esc, or the window was closed.
    """
    cv2.imshow(title, image)
    end = None if seconds is None else time.monotonic() + seconds
    while True:
        # waitKey(0) would not return when the window is closed with the mouse.
        left = POLL_MILLISECONDS if end is None else round((end - time.monotonic()) * 1000)
        key = cv2.waitKey(max(1, min(left, POLL_MILLISECONDS)))
        if not _is_open(title) or (key != -1 and key & 0xFF in QUIT_KEYS):
            return False
        if key != -1 or should_stop() or (end is not None and time.monotonic() >= end):
            return True


def _is_open(title: str) -> bool:
    try:
        return cv2.getWindowProperty(title, cv2.WND_PROP_VISIBLE) >= 1
    except cv2.error:    # how some window systems answer for a window that is gone
        return False
