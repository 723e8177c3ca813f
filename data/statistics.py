"""The numbers behind analyze_data.py. Needs NumPy only."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.labels import FaceRecord
from utils.arrays import BoolArray, FloatArray

GRID = 8    # cells a side of the grid in which faces are counted
PAIRS_AT_ONCE = 4_000_000    # of boxes compared at once: 60 MB


@dataclass(frozen=True)
class Statistics:
    """What is known of some images: `numbers` as statistics.json has them, and `positions` (GRID,GRID), how many faces have their
    centre in each cell of the image, rows from the top; None where no image size is known."""

    numbers: dict[str, Any]
    positions: NDArray[np.int64] | None


def measure(records: Sequence[FaceRecord], sizes: Mapping[int, tuple[int, int]]) -> Statistics:
    """Statistics of some images; sizes gives (width, height) in pixels by index into `records`, of as many as are known.

    All labelled rows count as faces, those without area too.
    """
    boxes = np.concatenate([record.boxes for record in records]).astype(np.float64)    # (N, 4)
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    overlapping = sum(int(overlaps(record.boxes).sum()) for record in records)
    faces = len(boxes)
    numbers: dict[str, Any] = {
        "images": len(records),
        "images_without_faces": sum(len(record) == 0 for record in records),
        "faces": faces,
        "mean_width": _mean(width),
        "mean_height": _mean(height),
        "mean_area": _mean(width * height),
        "overlapping_faces": overlapping,
        "overlapping_share": overlapping / faces if faces else 0.0,
        "degenerate_faces": sum(int((~record.has_area).sum()) for record in records),
        "faces_with_landmarks": sum(int(record.has_landmarks.all(axis=1).sum()) for record in records),
    }
    if not sizes:
        return Statistics(numbers, None)
    known = [records[index].boxes for index in sizes]
    limits = np.repeat(np.array(list(sizes.values()), dtype=np.float64), [len(boxes) for boxes in known], axis=0)    # (M, 2)
    sized = np.concatenate(known).astype(np.float64)    # (M, 4)
    positions = count_positions((sized[:, :2] + sized[:, 2:]) / 2 / limits)
    numbers["images_with_known_size"] = len(sizes)
    numbers["out_of_range_faces"] = int((np.any(sized[:, :2] < 0, axis=1) | np.any(sized[:, 2:] > limits, axis=1)).sum())
    if positions.sum():
        numbers["uniformity"] = uniformity(positions)
    return Statistics(numbers, positions)


def overlaps(boxes: FloatArray) -> BoolArray:
    """Which boxes (N,4) xyxy of one image have an IoU > 0 with another of them: they share some area, touching is not enough."""
    x1, y1, x2, y2 = boxes.T
    shares = np.zeros(len(boxes), dtype=bool)
    rows = max(1, PAIRS_AT_ONCE // max(1, len(boxes)))    # so that a crowd needs no more memory than a portrait
    for start in range(0, len(boxes), rows):
        part = slice(start, start + rows)
        width = np.minimum(x2[part, None], x2) - np.maximum(x1[part, None], x1)
        height = np.minimum(y2[part, None], y2) - np.maximum(y1[part, None], y1)
        pairs = (width > 0) & (height > 0)
        pairs[np.arange(len(pairs)), np.arange(start, start + len(pairs))] = False
        shares[part] = pairs.any(axis=1)
    return shares


def count_positions(centres: FloatArray) -> NDArray[np.int64]:
    """How many of the points (N,2), x and y as fractions of their image, lie in each cell of a grid; those outside it in none."""
    counts, _, _ = np.histogram2d(centres[:, 1], centres[:, 0], bins=GRID, range=[[0, 1], [0, 1]])
    return counts.astype(np.int64)


def uniformity(counts: NDArray[np.int64]) -> dict[str, float]:
    """Pearson's chi-square of counts against equal ones, its degrees of freedom, and the value that 1 % of uniform sets exceed."""
    expected = counts.sum() / counts.size
    freedom = counts.size - 1
    return {
        "chi_square": float(((counts - expected) ** 2 / expected).sum()),
        "degrees_of_freedom": freedom,
        "critical_value": chi_square_quantile(freedom),
    }


def chi_square_quantile(freedom: int) -> float:
    """The 99 % quantile of the chi-square distribution by the approximation of Wilson and Hilferty (1931), here within 0.1 %."""
    spread = 2 / (9 * freedom)
    return freedom * (1 - spread + 2.3263 * math.sqrt(spread)) ** 3


def describe_uniformity(statistics: Statistics) -> str:
    """One sentence on whether the faces are uniformly distributed over their images."""
    if statistics.positions is None or "uniformity" not in statistics.numbers:
        return "Whether the faces are uniformly distributed is not known: no face has its centre in an image of known size."
    figures = statistics.numbers["uniformity"]
    counts = statistics.positions
    chi_square, limit = figures["chi_square"], figures["critical_value"]
    row, column = (int(v) for v in np.unravel_index(counts.argmax(), counts.shape))
    freedom = figures["degrees_of_freedom"]
    evidence = f"chi-square {chi_square:,.1f} with {freedom} degrees of freedom, 1 % of uniform sets exceed {limit:.1f}"
    if chi_square <= limit:
        return f"Nothing speaks against the faces being uniformly distributed over the image ({evidence})."
    return (
        f"The faces are not uniformly distributed over the image ({evidence}): the cell in row {row + 1}, column {column + 1} of "
        f"{GRID} x {GRID} holds {counts.max() / counts.sum():.1%} of them, an even share would be {1 / counts.size:.1%}."
    )


def _mean(values: NDArray[np.float64]) -> float:
    return float(values.mean()) if values.size else 0.0
