"""Faces drawn on images with OpenCV."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np

from utils.arrays import BoolArray, FloatArray, Image

if TYPE_CHECKING:    # it brings PyTorch along, which takes longer to import than a label file to draw
    from utils.structures import Detections

GREEN, RED, WHITE, BLACK, GREY = (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (160, 160, 160)
FIRST_IMAGES = 4    # of a set, shown on a contact sheet
SHEET_CELL = 640    # pixels; side of an image on a contact sheet
SUBPIXEL = 4    # fractional bits of OpenCV's coordinates


def draw_detections(image: Image, detections: Detections) -> Image:
    """A copy of an image with each face's box, its confidence and its five points, best last so that it lies on top."""
    drawn = image.copy()
    for index in range(len(detections) - 1, -1, -1):
        box = detections.boxes[index]
        _draw_box(drawn, box)
        if detections.landmarks is not None:
            _draw_points(drawn, detections.landmarks[index], face_width=float(box[2] - box[0]))
        _draw_text(drawn, f"{detections.scores[index]:.2f}", box)
    return drawn


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


def _draw_text(image: Image, text: str, box: FloatArray) -> None:
    """White text on black above a box (4,) xyxy, or inside it at the image's upper border."""
    scale = max(0.35, min(image.shape[:2]) / 1600)
    thickness = max(1, round(scale * 1.5))
    (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, thickness)
    x = int(np.clip(box[0], 0, max(0, image.shape[1] - width)))
    bottom = int(np.clip(box[1], -1e5, 1e5)) - 2
    if bottom - height - 2 < 0:
        bottom = int(max(0, box[1])) + height + 4
    cv2.rectangle(image, (x, bottom - height - 2), (x + width, bottom + 2), BLACK, cv2.FILLED)
    cv2.putText(image, text, (x, bottom), cv2.FONT_HERSHEY_SIMPLEX, scale, WHITE, thickness, cv2.LINE_AA)


def fit_cell(image: Image) -> tuple[Image, float]:
    """An image enlarged or shrunk to the size it has on a contact sheet, and the factor: lines drawn after that stay sharp."""
    height, width = image.shape[:2]
    factor = SHEET_CELL / max(height, width)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    resized = cv2.resize(image, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR)
    return np.asarray(resized, dtype=np.uint8), factor


def contact_sheet(images: Sequence[Image], *, columns: int = 2) -> Image:
    """Images of `fit_cell` side by side in rows of `columns`, each centred on a dark square of 640 pixels."""
    cells = []
    for image in images:
        height, width = image.shape[:2]
        cell = np.full((SHEET_CELL, SHEET_CELL, 3), 64, dtype=np.uint8)
        left, top = (SHEET_CELL - width) // 2, (SHEET_CELL - height) // 2
        cell[top : top + height, left : left + width] = image
        cells.append(cell)
    columns = min(columns, len(cells))
    cells += [np.full_like(cells[0], 64)] * (-len(cells) % columns)
    rows = [np.hstack(cells[start : start + columns]) for start in range(0, len(cells), columns)]
    return np.vstack(rows)


def draw_cell(image: Image, detections: Detections) -> Image:
    """`draw_detections` at the size that the image has on a contact sheet."""
    cell, factor = fit_cell(image)
    return draw_detections(cell, detections.scaled(factor))


def _line_width(image: Image) -> int:
    return max(1, round(min(image.shape[:2]) / 400))
