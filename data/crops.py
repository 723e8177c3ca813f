"""The geometry of crops: which part of a photo is seen, and what of its faces. Needs NumPy only."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.records import has_area
from utils.arrays import BoolArray, FloatArray

CROP_TRIALS = 250    # as published; a crowd of partly hidden faces may need many
FIRST_TRIALS = 8    # most photos need no more


@dataclass(frozen=True)
class Faces:
    """The faces of one image while it is changed: boxes (N,4) xyxy, landmarks (N,5,2), has_landmarks (N,5), ignore (N,), which
    share of its area in the photo each of them still shows, visible (N,), and its number among the faces of its photo, from 1, (N,)."""

    boxes: FloatArray
    landmarks: FloatArray
    has_landmarks: BoolArray
    ignore: BoolArray
    visible: FloatArray
    number: NDArray[np.int16]

    @classmethod
    def labelled(cls, boxes: FloatArray, landmarks: FloatArray, has_landmarks: BoolArray, ignore: BoolArray) -> Faces:
        """Faces as they are in their photo, all of each visible."""
        visible, number = np.ones(len(boxes), dtype=np.float32), np.arange(1, len(boxes) + 1, dtype=np.int16)
        return cls(boxes, landmarks, has_landmarks, ignore, visible, number)

    def where(self, keep: BoolArray) -> Faces:
        """The faces that `keep` (N,) marks."""
        return Faces(*(getattr(self, name)[keep] for name in FACE_PARTS))

    def moved(self, scale: tuple[float, float], shift: tuple[float, float]) -> Faces:
        """The faces at place * scale + shift, each for x and y."""
        by, to = np.array(scale, dtype=np.float32), np.array(shift, dtype=np.float32)
        boxes = self.boxes.reshape(-1, 2, 2) * by + to
        return replace(self, boxes=boxes.reshape(-1, 4), landmarks=self.landmarks * by + to)


FACE_PARTS = tuple(part.name for part in fields(Faces))


def join(parts: list[Faces]) -> Faces:
    """The faces of all parts as those of one image."""
    return Faces(*(np.concatenate([getattr(part, name) for part in parts]) for name in FACE_PARTS))


class Window(NamedTuple):
    """A part of an image in pixels of it; it may reach beyond the image."""

    left: int
    top: int
    width: int
    height: int


def choose_window(width: int, height: int, faces: Faces, *, scales: tuple[float, ...], rng: np.random.Generator) -> Window:
    """A random square that holds at least one face whole, its side a random one of `scales` times the image's short side.

    One larger than the image holds the image somewhere in it, as far as it can. An image without faces is cropped anywhere; one of
    which 250 trials hold no whole face is seen as a whole, in the top left corner of a square. Ignored faces do not count.
    """
    wanted = faces.boxes[~faces.ignore]
    choices = np.maximum(1, (np.array(scales) * min(height, width)).astype(int))
    for trials in (FIRST_TRIALS, CROP_TRIALS - FIRST_TRIALS):
        scale, across, down = rng.random((3, trials))    # one draw, for each call of the generator costs more than its numbers
        sides = choices[(scale * len(choices)).astype(int)]
        left, top = _place(across, width - sides), _place(down, height - sides)
        chosen = 0
        if len(wanted):
            x1, y1, x2, y2 = wanted.T[:, :, None]    # (N, 1) each
            whole = (x1 >= left) & (y1 >= top) & (x2 <= left + sides) & (y2 <= top + sides)    # (N, trials)
            holds_one = whole.any(axis=0)
            chosen = int(holds_one.argmax())
            if not holds_one[chosen]:
                continue
        return Window(int(left[chosen]), int(top[chosen]), int(sides[chosen]), int(sides[chosen]))
    return Window(0, 0, max(width, height), max(width, height))


def _place(at_random: FloatArray, spare: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where a window starts, of all places that leave its `spare` pixels, negative where it is larger, on both sides together."""
    return np.minimum(spare, 0) + (at_random * (np.abs(spare) + 1)).astype(int)


def look_through(faces: Faces, window: Window, *, min_visible: float) -> Faces:
    """The faces as far as a window shows them, in pixels of it; points outside turn invalid.

    `min_visible` 0 is the published rule: a face stays if its centre is inside. Above 0 a face stays if that share of its area is
    visible; of others what is visible is ignored, for it is neither a face to learn nor background.
    """
    shown = faces.moved((1, 1), (-window.left, -window.top))
    if min_visible:
        inside = clip_boxes(shown.boxes, window.width, window.height)
        share = np.prod(inside[:, 2:] - inside[:, :2], axis=1) / np.prod(shown.boxes[:, 2:] - shown.boxes[:, :2], axis=1)
        visible = shown.visible * share
        shown = replace(shown, visible=visible, ignore=shown.ignore | (visible < min_visible))
    else:
        centres = (shown.boxes[:, :2] + shown.boxes[:, 2:]) / 2
        shown = shown.where(np.logical_and.reduce((centres > 0) & (centres < (window.width, window.height)), axis=1))
    return clip(shown, window.width, window.height)


def clip(faces: Faces, width: float, height: float) -> Faces:
    """Faces of an image of that size: boxes end at its border, those left without area are dropped, points outside turn invalid."""
    limit = np.array([width, height], dtype=np.float32)
    boxes = clip_boxes(faces.boxes, width, height)
    inside = ((faces.landmarks >= 0) & (faces.landmarks <= limit)).all(axis=2)
    return replace(faces, boxes=boxes, has_landmarks=faces.has_landmarks & inside).where(has_area(boxes))


def clip_boxes(boxes: FloatArray, width: float, height: float) -> FloatArray:
    """Boxes (N,4) xyxy that end at the border of an image of that size; of those outside nothing is left."""
    limit = np.array([width, height], dtype=np.float32)
    return np.minimum(np.maximum(boxes.reshape(-1, 2, 2), 0), limit).reshape(-1, 4)
