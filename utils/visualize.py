"""Faces drawn on images with OpenCV."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from utils.arrays import BoolArray, FloatArray, Image
from utils.masks import paste_mask

if TYPE_CHECKING:    # it brings PyTorch along, which takes longer to import than a label file to draw
    from utils.structures import Detections

GREEN, RED, WHITE, BLACK, GREY = (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (160, 160, 160)
MASK_COLORS = ((255, 128, 0), (0, 160, 255), (200, 0, 200), (0, 220, 220), (0, 200, 0), (80, 80, 255))
SURE = round(0.7 * 255)    # from here on a pixel of a mask is drawn
FIRST_IMAGES = 4    # of a set, shown on a contact sheet
SHEET_CELL = 640    # pixels; side of an image on a contact sheet of a few
SUBPIXEL = 4    # fractional bits of OpenCV's coordinates
SMALLEST_WITH_POINTS = 16    # pixels; on a narrower face the five points would hide it
LARGE_BESIDE_NUMBER = 2.5    # times as wide and high as its number, a face may have that within


def draw_detections(image: Image, detections: Detections) -> Image:
    """A copy of an image with each face's box, its five points unless it is tiny, and its confidence where there is room for it.

    Where there are masks, each is laid over its object in a colour of its own.
    """
    drawn = lay_masks(image, detections)
    for index in range(len(detections) - 1, -1, -1):    # the best last, so that it lies on top
        box = detections.boxes[index]
        _draw_box(drawn, box)
        if detections.landmarks is not None and box[2] - box[0] >= SMALLEST_WITH_POINTS:
            _draw_points(drawn, detections.landmarks[index], face_width=float(box[2] - box[0]))
    _draw_confidences(drawn, detections)
    return drawn


def lay_masks(image: Image, detections: Detections) -> Image:
    """A copy of an image (H,W,3) with the masks of what was found laid over it where they are sure enough, the best on top."""
    laid = image.copy()
    if detections.masks is None:
        return laid
    height, width = image.shape[:2]
    for number in range(len(detections) - 1, -1, -1):
        shown = paste_mask(detections.masks[number], detections.boxes[number], height=height, width=width) >= SURE
        laid[shown] = (image[shown] + np.array(MASK_COLORS[number % len(MASK_COLORS)])) // 2
    return laid


def draw_faces(image: Image, boxes: FloatArray, landmarks: FloatArray, has_landmarks: BoolArray, *, ignore: BoolArray) -> Image:
    """A copy of an image with labelled boxes (N,4) in green, those to ignore (N,) in grey, and known landmarks (N,5,2) in red."""
    drawn = image.copy()
    for box, points, known, is_ignored in zip(boxes, landmarks, has_landmarks, ignore, strict=True):
        _draw_box(drawn, box, GREY if is_ignored else GREEN)
        _draw_points(drawn, points[known], face_width=float(box[2] - box[0]))
    return drawn


def _draw_box(image: Image, box: FloatArray, color: tuple[int, int, int] = GREEN) -> None:
    """Outline a box (4,) xyxy, thicker on a large image."""
    # A box ends at the border between two pixels, OpenCV draws on their centres.
    x1, y1, x2, y2 = (int(value) for value in np.rint((np.clip(box, -1e5, 1e5) - 0.5) * 2**SUBPIXEL))
    cv2.rectangle(image, (x1, y1), (x2, y2), color, _line_width(image), cv2.LINE_AA, SUBPIXEL)


def _draw_points(image: Image, points: FloatArray, *, face_width: float) -> None:
    """Dots at points (N,2) in red, small enough to leave a face of that width visible."""
    radius = min(2.0 * _line_width(image), max(0.6, face_width / 24))
    for x, y in np.rint((np.clip(points, -1e5, 1e5) - 0.5) * 2**SUBPIXEL):
        cv2.circle(image, (int(x), int(y)), round(radius * 2**SUBPIXEL), RED, cv2.FILLED, cv2.LINE_AA, SUBPIXEL)


def _draw_confidences(image: Image, detections: Detections) -> None:
    """White numbers on black, the best first, each where it hides no face but its own, and no other number; else it is left out.

    Where there is a class, its name stands before the number: "person 0.998".
    """
    height, width = image.shape[:2]
    scale = max(0.35, min(height, width) / 1600)
    thickness = max(1, round(scale * 1.5))
    (text_width, text_height), _ = cv2.getTextSize(_label(detections, 0), cv2.FONT_HERSHEY_SIMPLEX, scale, thickness)
    size = np.array([text_width + 2, text_height + 4])
    faces = np.clip(detections.boxes, -1e5, 1e5)
    taken = faces.copy()    # by faces, and then by numbers
    for index, score in enumerate(detections.scores):
        corner = _place(faces[index], size, width=width, height=height, taken=taken, own=index)
        if corner is None:
            continue
        taken = np.vstack([taken, [*corner, *(corner + size)]])
        x, y = (int(value) for value in corner)
        cv2.rectangle(image, (x, y), (x + size[0] - 1, y + size[1] - 1), BLACK, cv2.FILLED)
        at = x + 1, y + text_height + 2
        cv2.putText(image, _label(detections, score), at, cv2.FONT_HERSHEY_SIMPLEX, scale, WHITE, thickness, cv2.LINE_AA)


def _label(detections: Detections, score: float) -> str:
    if detections.class_name is None:
        return f"{score:.2f}"
    return f"{detections.class_name} {score:.3f}"


def _place(
    box: FloatArray, size: NDArray[np.int64], *, width: int, height: int, taken: FloatArray, own: int
) -> NDArray[np.int64] | None:
    """The upper left corner of a free place for a number beside a box (4,) or in its upper corner, or None."""
    x1, y1, x2, y2 = box
    gap = 2
    left = np.clip(x1, 0, max(0, width - size[0]))    # a face that is cut by the border has its number within
    top = np.clip(y1, 0, max(0, height - size[1]))
    others = np.delete(taken, own, axis=0)
    beside = [(left, y1 - size[1] - gap), (left, y2 + gap), (x2 + gap, top), (x1 - size[0] - gap, top)]
    within = [(max(x1, 0) + gap, max(y1, 0) + gap)] if min((x2 - x1) / size[0], (y2 - y1) / size[1]) >= LARGE_BESIDE_NUMBER else []
    for place in (*beside, *within):
        corner = np.rint(place).astype(np.int64)
        end = corner + size
        if (corner < 0).any() or (end > (width, height)).any():
            continue
        if not ((others[:, :2] < end) & (others[:, 2:] > corner)).all(axis=1).any():
            return corner
    return None


def fit_cell(image: Image, *, side: int = SHEET_CELL) -> tuple[Image, float]:
    """An image enlarged or shrunk to the size it has on a contact sheet, and the factor: lines drawn after that stay sharp."""
    height, width = image.shape[:2]
    factor = side / max(height, width)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    resized = cv2.resize(image, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR)
    return np.asarray(resized, dtype=np.uint8), factor


def contact_sheet(images: Sequence[Image], *, columns: int = 2, side: int = SHEET_CELL) -> Image:
    """Images of `fit_cell` beside each other in rows of `columns`, each centred on a dark square of that side."""
    cells = []
    for image in images:
        height, width = image.shape[:2]
        cell = np.full((side, side, 3), 64, dtype=np.uint8)
        left, top = (side - width) // 2, (side - height) // 2
        cell[top : top + height, left : left + width] = image
        cells.append(cell)
    columns = min(columns, len(cells))
    cells += [np.full_like(cells[0], 64)] * (-len(cells) % columns)
    rows = [np.hstack(cells[start : start + columns]) for start in range(0, len(cells), columns)]
    return np.vstack(rows)


def write_line(image: Image, text: str) -> Image:
    """The image below a line of text, in letters as large as its width allows."""
    scale = 0.6
    (width, height), base = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
    scale *= min(1.0, (image.shape[1] - 8) / max(1, width))
    line = np.zeros((height + base + 8, image.shape[1], 3), np.uint8)
    cv2.putText(line, text, (4, height + 4), cv2.FONT_HERSHEY_SIMPLEX, scale, WHITE, 1, cv2.LINE_AA)
    return np.vstack([line, image])


def draw_cell(image: Image, detections: Detections, *, side: int = SHEET_CELL) -> Image:
    """`draw_detections` at the size that the image has on a contact sheet."""
    cell, factor = fit_cell(image, side=side)
    return draw_detections(cell, detections.scaled(factor))


def _line_width(image: Image) -> int:
    return max(1, round(min(image.shape[:2]) / 400))
