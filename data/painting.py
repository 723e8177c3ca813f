"""Backgrounds and colours of drawn sets."""

from __future__ import annotations

import cv2
import numpy as np

from utils.arrays import Image


def draw_background(rng: np.random.Generator, size: int) -> Image:
    """A gradient (size,size,3) cluttered with boxes, lines, discs and text, some of them of the colour and outline of a face."""
    corners = rng.integers(0, 256, (2, 2, 3)).astype(np.uint8)
    image = np.ascontiguousarray(cv2.resize(corners, (size, size), interpolation=cv2.INTER_LINEAR))
    for _ in range(int(rng.integers(8, 40))):
        x, y = (int(v) for v in rng.integers(0, size, 2))
        width, height = (int(v) for v in size * 0.02 * 25 ** rng.random(2))
        color = skin(rng) if rng.random() < 0.3 else random_color(rng)
        thickness = int(rng.choice([-1, -1, 1, 2, 4]))
        kind = rng.integers(4)
        if kind == 0:
            cv2.rectangle(image, (x, y), (x + width, y + height), color, thickness)
        elif kind == 1:
            cv2.ellipse(image, (x, y), (width // 2, height // 2), float(rng.uniform(0, 180)), 0, 360, color, thickness, cv2.LINE_AA)
        elif kind == 2:
            cv2.line(image, (x, y), (x + width, y - height), color, max(1, thickness), cv2.LINE_AA)
        else:
            text = "".join(rng.choice(list("abcdeFGHIJ0123456789"), 4))
            cv2.putText(image, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, float(rng.uniform(0.3, 1.5)), color, max(1, thickness))
    return np.asarray(image, dtype=np.uint8)


def skin(rng: np.random.Generator) -> tuple[int, int, int]:
    """A skin colour, BGR."""
    light = rng.uniform(0.3, 1)
    blue, green, red = np.array([150, 185, 235]) * light + rng.uniform(-15, 15, 3)
    return int(blue), int(green), int(red)


def random_color(rng: np.random.Generator) -> tuple[int, int, int]:
    """Any colour, BGR."""
    blue, green, red = rng.integers(0, 256, 3)
    return int(blue), int(green), int(red)
