"""Augmentation: an image and its faces, changed together.

Every function takes an image (H,W,3) uint8 BGR and its faces, and returns new ones; randomness is the generator handed in.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from config import AugmentationConfig
from utils.arrays import BoolArray, FloatArray, Image
from utils.box_utils import MIRRORED_POINTS, flip_boxes, flip_landmarks

CROP_TRIALS = 250    # as published; a crowd of partly hidden faces may need many
INTERPOLATIONS = (cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_AREA, cv2.INTER_NEAREST, cv2.INTER_LANCZOS4)
BRIGHTNESS = 32    # largest shift, of 255
CONTRAST = (0.5, 1.5)    # factors, of saturation too
HUE = 18    # largest turn, of the 180 steps that OpenCV divides the circle into


@dataclass(frozen=True)
class Faces:
    """The faces of one image while it is changed: boxes (N,4) xyxy, landmarks (N,5,2), has_landmarks (N,5), ignore (N,)."""

    boxes: FloatArray
    landmarks: FloatArray
    has_landmarks: BoolArray
    ignore: BoolArray

    def where(self, keep: BoolArray) -> Faces:
        """The faces that `keep` (N,) marks."""
        return Faces(self.boxes[keep], self.landmarks[keep], self.has_landmarks[keep], self.ignore[keep])


def augment(
    image: Image,
    faces: Faces,
    *,
    size: int,
    config: AugmentationConfig,
    fill: tuple[float, float, float],
    rng: np.random.Generator,
) -> tuple[Image, Faces]:
    """The classic recipe: square crop or pad with `fill`, mirror, resize to (size, size, 3), distort colours."""
    image, faces = random_crop(image, faces, scales=config.crop_scales, fill=fill, rng=rng)
    if rng.random() < config.flip:
        image, faces = mirror(image, faces)
    interpolation = INTERPOLATIONS[rng.integers(len(INTERPOLATIONS))]
    image, faces = resize(image, faces, size=size, interpolation=interpolation)
    if config.distortion:
        image = distort(image, rng)
    return image, faces


def random_crop(
    image: Image, faces: Faces, *, scales: tuple[float, ...], fill: tuple[float, float, float], rng: np.random.Generator
) -> tuple[Image, Faces]:
    """A random square crop that holds at least one face whole, its side a random one of `scales` times the short side.

    Faces whose centre is outside are dropped, the others clipped. An image without faces is cropped anywhere; one where 250 trials
    hold no whole face is padded to a square instead.
    """
    height, width = image.shape[:2]
    short_side = min(height, width)
    sides = np.maximum(1, (rng.choice(scales, CROP_TRIALS) * short_side).astype(int))
    left = rng.integers(0, width - sides + 1)
    top = rng.integers(0, height - sides + 1)
    wanted = faces.boxes[~faces.ignore]
    chosen = 0
    if len(wanted):
        x1, y1, x2, y2 = wanted.T[:, :, None]    # (N, 1) each
        whole = (x1 >= left) & (y1 >= top) & (x2 <= left + sides) & (y2 <= top + sides)    # (N, trials)
        holds_one = whole.any(axis=0)
        if not holds_one.any():
            return pad_to_square(image, fill), faces
        chosen = int(holds_one.argmax())
    return crop(image, faces, left=int(left[chosen]), top=int(top[chosen]), side=int(sides[chosen]))


def crop(image: Image, faces: Faces, *, left: int, top: int, side: int) -> tuple[Image, Faces]:
    """The square of that place, and the faces whose centre lies in it; points outside turn invalid."""
    corner = np.array([left, top], dtype=np.float32)
    centres = (faces.boxes[:, :2] + faces.boxes[:, 2:]) / 2 - corner
    faces = faces.where(np.logical_and.reduce((centres > 0) & (centres < side), axis=1))
    moved = replace(faces, boxes=faces.boxes - np.tile(corner, 2), landmarks=faces.landmarks - corner)
    return image[top : top + side, left : left + side], clip(moved, side, side)


def clip(faces: Faces, width: float, height: float) -> Faces:
    """Faces of an image of that size: boxes end at its border, those left without area are dropped, points outside turn invalid."""
    limit = np.array([width, height], dtype=np.float32)
    boxes = np.clip(faces.boxes, 0, np.tile(limit, 2))
    inside = ((faces.landmarks >= 0) & (faces.landmarks <= limit)).all(axis=2)
    clipped = replace(faces, boxes=boxes, has_landmarks=faces.has_landmarks & inside)
    return clipped.where((boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1]))


def pad_to_square(image: Image, fill: tuple[float, float, float]) -> Image:
    """The image in the top left corner of a square of colour `fill` (BGR); its pixels keep their places."""
    height, width = image.shape[:2]
    side = max(height, width)
    if height == width:
        return image
    return np.asarray(cv2.copyMakeBorder(image, 0, side - height, 0, side - width, cv2.BORDER_CONSTANT, value=fill), dtype=np.uint8)


def mirror(image: Image, faces: Faces) -> tuple[Image, Faces]:
    """The mirror image; left and right points change places."""
    width = image.shape[1]
    flipped = replace(
        faces,
        boxes=flip_boxes(faces.boxes, width),
        landmarks=flip_landmarks(faces.landmarks, width),
        has_landmarks=faces.has_landmarks[:, MIRRORED_POINTS],
    )
    return image[:, ::-1], flipped


def resize(image: Image, faces: Faces, *, size: int, interpolation: int = cv2.INTER_LINEAR) -> tuple[Image, Faces]:
    """The image stretched to (size, size, 3), and its faces with it."""
    height, width = image.shape[:2]
    scale = np.array([size / width, size / height], dtype=np.float32)
    resized = cv2.resize(np.ascontiguousarray(image), (size, size), interpolation=interpolation)
    scaled = replace(faces, boxes=faces.boxes * np.tile(scale, 2), landmarks=faces.landmarks * scale)
    return np.asarray(resized, dtype=np.uint8), scaled


def distort(image: Image, rng: np.random.Generator) -> Image:
    """Brightness, contrast, saturation and hue, each changed at random in half of the images; contrast first or last.

    All of it on uint8 by look-up tables: a hundred times less work than arithmetic on each pixel in float.
    """
    levels = np.arange(256, dtype=np.float32)
    applied = rng.random(5) < 0.5
    brightness = levels + rng.uniform(-BRIGHTNESS, BRIGHTNESS) * applied[0]
    contrast, saturation = 1 + (rng.uniform(*CONTRAST, size=2) - 1) * applied[1:3]
    turn = int(rng.integers(-HUE, HUE + 1)) * int(applied[3])
    contrast_first = applied[4]
    image = look_up(image, np.clip(brightness, 0, 255) * (contrast if contrast_first else 1))
    if saturation != 1 or turn:
        hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
        tables = np.stack([(levels + turn) % 180, np.clip(levels * saturation, 0, 255), levels], axis=-1)
        image = np.asarray(cv2.cvtColor(look_up(np.asarray(hsv, np.uint8), tables), cv2.COLOR_HSV2BGR), dtype=np.uint8)
    return image if contrast_first else look_up(image, levels * contrast)


def look_up(image: Image, table: FloatArray) -> Image:
    """The image with each value replaced by its entry in a table of 256, or of (256,3) by channel, rounded and clipped to 0..255."""
    entries = np.clip(np.rint(table), 0, 255).astype(np.uint8)
    return np.asarray(cv2.LUT(image, entries.reshape(1, 256, -1)), dtype=np.uint8)
