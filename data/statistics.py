"""The numbers behind analyze_data.py. Needs NumPy only."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.records import FaceRecord, face_sizes
from utils.arrays import BoolArray, FloatArray

GRID = 8    # cells a side of the grid in which faces are counted
PAIRS_AT_ONCE = 2_000_000    # of boxes compared at once: 60 MB
SIZE_EDGES = 2.0 ** np.arange(0, 11.5, 0.5)    # pixels: 1, 1.4, 2 ... 1448
ASPECT_EDGES = 2.0 ** np.arange(-2, 2.25, 0.25)    # width / height: 1/4 ... 4
OVERLAP_EDGES = np.arange(11) / 10
COUNT_EDGES = (0, 1, 2, 3, 5, 9, 17, 33, 65, 129, 257, 513, 1025, 2049)    # faces in an image: 0, 1, 2, 3 to 4, 5 to 8 ...


@dataclass(frozen=True)
class Measures:
    """What is measured of each face and each image of a set.

    Of F faces: boxes (F,4), overlap (F,) the highest IoU with another face of the image, has_landmarks (F,) all five, ignore (F,),
    image_sizes (F,2) width and height of its image, NaN where unknown. Of I images: counts (I,) of faces; sized, how many of them have
    a known size.
    """

    boxes: NDArray[np.float64]
    overlap: NDArray[np.float64]
    has_landmarks: BoolArray
    ignore: BoolArray
    image_sizes: NDArray[np.float64]
    counts: NDArray[np.int64]
    sized: int

    def of_faces(self, which: BoolArray) -> Measures:
        """The same of the faces that `which` (F,) marks, whose images are counted no more."""
        return replace(
            self,
            boxes=self.boxes[which],
            overlap=self.overlap[which],
            has_landmarks=self.has_landmarks[which],
            ignore=self.ignore[which],
            image_sizes=self.image_sizes[which],
            counts=self.counts[:0],
            sized=0,
        )


@dataclass(frozen=True)
class Histogram:
    """Counts (N,) between edges (N + 1,); values beyond the edges are in the first and the last."""

    edges: NDArray[np.float64]
    counts: NDArray[np.int64]

    def as_dict(self) -> dict[str, list[float]]:
        """For JSON."""
        return {"edges": [round(float(edge), 4) for edge in self.edges], "counts": self.counts.tolist()}


@dataclass(frozen=True)
class Statistics:
    """What is known of some images: `numbers` as statistics.json has them, `histograms` by name, and `positions` (GRID,GRID), how many
    faces have their centre in each cell of the image, rows from the top; None where no image size is known."""

    numbers: dict[str, Any]
    histograms: dict[str, Histogram]
    positions: NDArray[np.int64] | None


def measure(records: Sequence[FaceRecord], sizes: Mapping[int, tuple[int, int]]) -> Measures:
    """Measure some images; sizes gives (width, height) in pixels by index into `records`, of as many as are known."""
    counts = np.array([len(record) for record in records], dtype=np.int64)
    image_sizes = np.full((len(records), 2), np.nan)
    for index, size in sizes.items():
        image_sizes[index] = size
    return Measures(
        boxes=_join([record.boxes for record in records], (4,)),
        overlap=_join([best_overlaps(record.boxes) for record in records], ()),
        has_landmarks=_join([np.logical_and.reduce(record.has_landmarks, axis=1) for record in records], (), bool),
        ignore=_join([record.ignore for record in records], (), bool),
        image_sizes=np.repeat(image_sizes, counts, axis=0),
        counts=counts,
        sized=len(sizes),
    )


def join_measures(parts: Sequence[Measures]) -> Measures:
    """The measures of several sets as those of one."""
    return Measures(
        boxes=np.concatenate([part.boxes for part in parts]),
        overlap=np.concatenate([part.overlap for part in parts]),
        has_landmarks=np.concatenate([part.has_landmarks for part in parts]),
        ignore=np.concatenate([part.ignore for part in parts]),
        image_sizes=np.concatenate([part.image_sizes for part in parts]),
        counts=np.concatenate([part.counts for part in parts]),
        sized=sum(part.sized for part in parts),
    )


def summarise(measures: Measures) -> Statistics:
    """Statistics of a set; all labelled rows count as faces, those without area too, but not in the histograms of sizes and ratios."""
    boxes, faces = measures.boxes, len(measures.boxes)
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    with_area = (width > 0) & (height > 0)
    overlapping = int((measures.overlap > 0).sum())
    landmarks = int(measures.has_landmarks.sum())
    numbers: dict[str, Any] = {
        "images": len(measures.counts),
        "images_without_faces": int((measures.counts == 0).sum()),
        "faces": faces,
        "most_faces": int(measures.counts.max(initial=0)),
        "mean_width": _mean(width),
        "mean_height": _mean(height),
        "mean_area": _mean(width * height),
        "median_size": float(np.median(face_sizes(boxes))) if faces else 0.0,
        "overlapping_faces": overlapping,
        "overlapping_share": overlapping / faces if faces else 0.0,
        "degenerate_faces": int((~with_area).sum()),
        "ignored_faces": int(measures.ignore.sum()),
        "faces_with_landmarks": landmarks,
        "landmark_share": landmarks / faces if faces else 0.0,
    }
    histograms = {
        "size": count(face_sizes(boxes)[with_area], SIZE_EDGES),
        "aspect_ratio": count(width[with_area] / height[with_area], ASPECT_EDGES),
        "faces_per_image": count(measures.counts, COUNT_EDGES),
        "overlap": count(measures.overlap[measures.overlap > 0], OVERLAP_EDGES),
    }
    positions = None
    if measures.sized:
        sized = ~np.isnan(measures.image_sizes[:, 0])
        known, limits = boxes[sized], measures.image_sizes[sized]
        positions = count_positions((known[:, :2] + known[:, 2:]) / 2 / limits)
        numbers["images_with_known_size"] = measures.sized
        # The second corner of a box of negative width lies left of the first.
        low, high = np.minimum(known[:, :2], known[:, 2:]), np.maximum(known[:, :2], known[:, 2:])
        is_outside = (low < 0).any(axis=1) | (high > limits).any(axis=1)
        numbers["out_of_range_faces"] = int(is_outside.sum())
        if positions.sum():
            numbers["uniformity"] = uniformity(positions)
    numbers["histograms"] = {name: histogram.as_dict() for name, histogram in histograms.items()}
    return Statistics(numbers, histograms, positions)


def _join(arrays: Sequence[np.ndarray], shape: tuple[int, ...], dtype: type = np.float64) -> Any:
    return np.concatenate([np.empty((0, *shape), dtype), *arrays]).astype(dtype)


def count(values: np.ndarray, edges: Sequence[float] | NDArray[np.float64]) -> Histogram:
    """How many of the values lie between edges, in [edge, next edge); those beyond the first and last count with the outermost."""
    bins = np.clip(np.digitize(values, edges) - 1, 0, len(edges) - 2)
    return Histogram(np.asarray(edges, dtype=np.float64), np.bincount(bins, minlength=len(edges) - 1))


def best_overlaps(boxes: FloatArray) -> NDArray[np.float64]:
    """The highest IoU (N,) of each box (N,4) xyxy of one image with another of them; boxes that only touch have 0."""
    x1, y1, x2, y2 = boxes.T
    area = np.maximum(x2 - x1, 0) * np.maximum(y2 - y1, 0)
    best = np.zeros(len(boxes))
    rows = max(1, PAIRS_AT_ONCE // max(1, len(boxes)))    # so that a crowd needs no more memory than a portrait
    for start in range(0, len(boxes), rows):
        part = slice(start, start + rows)
        width = np.minimum(x2[part, None], x2) - np.maximum(x1[part, None], x1)
        height = np.minimum(y2[part, None], y2) - np.maximum(y1[part, None], y1)
        shared = np.maximum(width, 0) * np.maximum(height, 0)
        shared[np.arange(len(shared)), np.arange(start, start + len(shared))] = 0
        union = area[part, None] + area - shared
        best[part] = np.divide(shared, union, out=np.zeros_like(shared), where=shared > 0).max(axis=1, initial=0)
    return best


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
