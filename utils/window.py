"""A window to look at images in."""

from __future__ import annotations

import subprocess
import sys

import cv2

from utils.arrays import Image

QUIT_KEYS = (27, ord("q"))    # Esc
# Where there is no display, OpenCV ends the whole process; so another one tries first.
TRIAL = "import cv2; cv2.namedWindow('trial'); cv2.waitKey(1); cv2.destroyAllWindows()"


def check_display() -> None:
    """ValueError where no window can be opened."""
    trial = subprocess.run([sys.executable, "-c", TRIAL], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    if trial.returncode:
        raise ValueError("--show: no window can be opened here: there is no display, or OpenCV was built without windows")


def show(image: Image, *, title: str, seconds: float) -> bool:
    """Show an image for so long, or with 0 until a key is pressed; gives False where that is q or Esc, or the window was closed."""
    cv2.imshow(title, image)
    key = cv2.waitKey(round(seconds * 1000)) & 0xFF
    return key not in QUIT_KEYS and cv2.getWindowProperty(title, cv2.WND_PROP_VISIBLE) >= 1
