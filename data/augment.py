"""Augmentation: an image and its faces, changed together.

Every function takes an image (H,W,3) uint8 BGR and its faces, and returns new ones; randomness is the generator handed in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import cv2
import numpy as np

from config import AugmentationConfig
from data.crops import Faces, Window, join, look_through
from data.penn_fudan import Regions
from data.records import face_sizes, has_area
from utils.arrays import Image
from utils.box_utils import MIRRORED_POINTS, flip_boxes, flip_landmarks

# The published recipe has Lanczos too, which takes longer than all the rest of this module and differs from cubic by less than JPEG
# compression does. So does averaging over areas where a picture hardly shrinks: see pick_interpolation.
# Plain INTER_NEAREST shows a shrunk image half a pixel off its boxes.
INTERPOLATIONS = (cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_AREA, cv2.INTER_NEAREST_EXACT)
BRIGHTNESS = 32    # largest shift, of 255
CONTRAST = (0.5, 1.5)    # factors, of saturation too
HUE = 18    # largest turn, of the 180 steps that OpenCV divides the circle into
COARSENESS = (1.0, 3.0)    # how many times wider than its own pixels a view of low resolution is shown
BORDER_SHIFT = 0.25    # how far a border between the parts of a mosaic may lie from its place in an even grid, in cells


def augment(
    image: Image,
    faces: Faces,
    window: Window,
    *,
    size: int,
    config: AugmentationConfig,
    fill: tuple[float, float, float],
    rng: np.random.Generator,
    reduction: int = 1,
    regions: Regions | None = None,
) -> View:
    """What a square window of a photo shows, as (size, size, 3): resized, its colours distorted, mirrored.

    Faces, window and `regions` are in pixels of the photo, and `image` is that photo, shrunk by a whole `reduction`. Where the window
    reaches beyond the photo it shows `fill` (BGR). A view of low resolution is first averaged down to fewer pixels; faces too small to
    learn there are ignored.
    """
    faces = look_through(faces, window, min_visible=config.min_visible)
    place = fit(window, image.shape[1], image.shape[0], size=size, reduction=reduction)
    faces = faces.moved(place.scale, place.shift)
    (left, right), (top, bottom) = place.source
    part = image[top:bottom, left:right]
    (left, right), (top, bottom) = place.target
    # Colours are changed on the smaller picture; what fills the rest stays what the network takes for zero.
    colours_first = part.shape[0] * part.shape[1] < (right - left) * (bottom - top)
    if config.distortion and colours_first:
        part = distort(part, rng)
    interpolation = pick_interpolation(rng, zoom=(right - left) / part.shape[1])
    coarseness = 1.0
    if config.low_resolution and rng.random() < config.low_resolution:
        coarseness = rng.uniform(*COARSENESS)
        part = coarsen(part, (right - left) / coarseness, (bottom - top) / coarseness)
        interpolation = cv2.INTER_LINEAR
    seen = np.empty((bottom - top, right - left, 3), dtype=np.uint8)
    cv2.resize(part, (right - left, bottom - top), dst=seen, interpolation=interpolation)
    if config.distortion and not colours_first:
        _distort(seen, rng)
    if seen.shape[:2] != (size, size):
        seen = np.asarray(cv2.copyMakeBorder(seen, top, size - bottom, left, size - right, cv2.BORDER_CONSTANT, value=fill), np.uint8)
    if regions is not None:
        regions = show_regions(regions, window, size=size)
    if rng.random() < config.flip:
        cv2.flip(seen, 1, dst=seen)
        faces = mirror(faces, size)
        regions = None if regions is None else np.ascontiguousarray(regions[:, ::-1])
    faces = faces.where(has_area(faces.boxes))    # float32 may have rounded a tiny one to nothing
    return View(seen, ignore_smaller(faces, config.ignore_smaller * coarseness), regions)


def show_regions(regions: Regions, window: Window, *, size: int) -> Regions:
    """What a square window shows of the regions (H,W) of a photo, as (size,size)."""
    place = fit(window, regions.shape[1], regions.shape[0], size=size)
    (left, right), (top, bottom) = place.source
    part = regions[top:bottom, left:right]
    (left, right), (top, bottom) = place.target
    shown = np.zeros((size, size), np.int16)
    shown[top:bottom, left:right] = cv2.resize(part, (right - left, bottom - top), interpolation=cv2.INTER_NEAREST_EXACT)
    return shown


class View(NamedTuple):
    """A picture (S,S,3) uint8 BGR, the faces in it, and which of them a pixel (S,S) shows, by `Faces.number`, where the photo says so."""

    image: Image
    faces: Faces
    regions: Regions | None = None


class Placement(NamedTuple):
    """Which columns and rows of a picture go to which of another: (first, last + 1) for x and y, and the scale and shift that take
    places in a window to places in the other picture."""

    source: tuple[tuple[int, int], tuple[int, int]]
    target: tuple[tuple[int, int], tuple[int, int]]
    scale: tuple[float, float]
    shift: tuple[float, float]


def fit(window: Window, width: int, height: int, *, size: int, reduction: int = 1) -> Placement:
    """How the part of a picture of that width and height that a window shows fills (size, size), to whole pixels on both sides.

    The window is in pixels of a photo that is `reduction` times as large as the picture.
    """
    axes = [_fit_axis(window.left, window.width, width, size, reduction), _fit_axis(window.top, window.height, height, size, reduction)]
    (source_x, target_x, scale_x, shift_x), (source_y, target_y, scale_y, shift_y) = axes
    return Placement((source_x, source_y), (target_x, target_y), (scale_x, scale_y), (shift_x, shift_y))


def _fit_axis(
    start: int, length: int, limit: int, size: int, reduction: int
) -> tuple[tuple[int, int], tuple[int, int], float, float]:
    first = max(0, start) // reduction
    last = min(limit, -(-(start + length) // reduction))
    zoom = size / length
    begin = min(size - 1, max(0, round((first * reduction - start) * zoom)))
    end = max(begin + 1, min(size, round((last * reduction - start) * zoom)))
    # The rounding moves and stretches the picture by less than a pixel; its faces go along exactly.
    scale = (end - begin) / ((last - first) * reduction)
    return (first, last), (begin, end), scale, begin + (start - first * reduction) * scale


def mosaic(parts: Sequence[View], *, columns: Sequence[int], rows: Sequence[int], min_visible: float) -> View:
    """One picture of several, side by side in a grid: (H,W,3) and the faces in it.

    `columns` and `rows` are the grid's borders in pixels, from 0 to W and from 0 to H. The parts come row by row, each at least as large as
    its cell, which shows the middle of it; its faces are kept as `look_through` does, with numbers of their own.
    """
    image = np.empty((rows[-1], columns[-1], 3), dtype=np.uint8)
    regions = np.zeros(image.shape[:2], np.int16) if any(part.regions is not None for part in parts) else None
    seen: list[Faces] = []
    highest = 0
    cells = [(left, top, right, bottom) for top, bottom in pairwise(rows) for left, right in pairwise(columns)]
    for part, (left, top, right, bottom) in zip(parts, cells, strict=True):
        width, height = right - left, bottom - top
        x, y = (part.image.shape[1] - width) // 2, (part.image.shape[0] - height) // 2
        image[top:bottom, left:right] = part.image[y : y + height, x : x + width]
        faces = look_through(part.faces, Window(x, y, width, height), min_visible=min_visible).moved((1, 1), (left, top))
        seen.append(replace(faces, number=faces.number + np.int16(highest)))
        if regions is not None and part.regions is not None:
            shown = part.regions[y : y + height, x : x + width]
            regions[top:bottom, left:right] = np.where(shown > 0, shown + highest, 0)
        highest += int(part.faces.number.max(initial=0))
    faces = join(seen)
    return View(image, faces.where(has_area(faces.boxes)), regions)    # see augment


def draw_borders(size: int, cells: int, rng: np.random.Generator) -> list[int]:
    """The borders of `cells` cells along a side of `size` pixels, from 0 to `size`: an even grid, each inner border moved at random."""
    inner = np.arange(1, cells) + rng.uniform(-BORDER_SHIFT, BORDER_SHIFT, cells - 1)
    return [0, *(round(place * size / cells) for place in inner), size]


def ignore_smaller(faces: Faces, size: float) -> Faces:
    """The faces, of which those with a side sqrt(w h) under `size` pixels are ignored."""
    return replace(faces, ignore=faces.ignore | (face_sizes(faces.boxes) < size)) if size else faces


def pick_interpolation(rng: np.random.Generator, *, zoom: float) -> int:
    """One of OpenCV's ways to resize, at random; areas are averaged where a picture shrinks to less than half."""
    interpolation = INTERPOLATIONS[rng.integers(len(INTERPOLATIONS))]
    return cv2.INTER_LINEAR if interpolation == cv2.INTER_AREA and zoom > 0.5 else interpolation


def coarsen(image: Image, width: float, height: float) -> Image:
    """The image averaged down to about width x height pixels where it has more."""
    size = min(image.shape[1], max(1, round(width))), min(image.shape[0], max(1, round(height)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def mirror(faces: Faces, width: float) -> Faces:
    """The faces of an image `width` pixels wide in its mirror image; left and right points change places."""
    return replace(
        faces,
        boxes=flip_boxes(faces.boxes, width),
        landmarks=flip_landmarks(faces.landmarks, width),
        has_landmarks=faces.has_landmarks[:, MIRRORED_POINTS],
    )


def distort(image: Image, rng: np.random.Generator) -> Image:
    """The image with brightness, contrast, saturation and hue changed, each at random in half of the images; contrast first or last.

    All of it stays in uint8, by OpenCV's saturating arithmetic: many times less work than on each pixel in float.
    """
    distorted = image.copy()
    _distort(distorted, rng)
    return distorted


def _distort(image: Image, rng: np.random.Generator) -> None:
    """`distort` in place: memory that is new costs more than the arithmetic."""
    applied = rng.random(5) < 0.5
    brightness = int(rng.integers(-BRIGHTNESS, BRIGHTNESS + 1)) * int(applied[0])
    contrast, saturation = 1 + (rng.uniform(*CONTRAST, size=2) - 1) * applied[1:3]
    turn = int(rng.integers(-HUE, HUE + 1)) * int(applied[3])
    contrast_first = bool(applied[4])
    _brighten(image, brightness)
    if contrast_first:
        _scale(image, contrast)
    _shift_colours(image, turn=turn, saturation=saturation)
    if not contrast_first:
        _scale(image, contrast)


def _brighten(image: Image, shift: int) -> None:
    """Raise each value by `shift`, within 0..255."""
    if shift > 0:
        cv2.add(image, (shift, shift, shift, 0), dst=image)  # type: ignore[call-overload]
    elif shift < 0:
        cv2.subtract(image, (-shift, -shift, -shift, 0), dst=image)  # type: ignore[call-overload]


def _scale(values: Image, factor: float) -> None:
    """Multiply each value by a factor of at least 0, rounded and at most 255."""
    if factor != 1:
        cv2.convertScaleAbs(values, dst=values, alpha=factor)


def _shift_colours(image: Image, *, turn: int, saturation: float) -> None:
    """Turn the hue by so many of 180 steps, and multiply the saturation."""
    if not turn and saturation == 1:
        return
    # Read with blue for red the circle of hues runs the other way: every turn is then an addition, whose overflow beyond 180 the way
    # back takes as it should.
    there, back = (cv2.COLOR_BGR2HSV, cv2.COLOR_HSV2BGR) if turn > 0 else (cv2.COLOR_RGB2HSV, cv2.COLOR_HSV2RGB)
    hsv = cv2.cvtColor(image, there)
    cv2.add(hsv, (abs(turn), 0, 0, 0), dst=hsv)  # type: ignore[call-overload]
    if saturation != 1:
        chroma = np.asarray(cv2.extractChannel(hsv, 1), dtype=np.uint8)
        _scale(chroma, saturation)
        cv2.insertChannel(chroma, hsv, 1)
    cv2.cvtColor(hsv, back, dst=image)
