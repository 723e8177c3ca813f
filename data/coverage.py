"""How well a set of priors fits the faces of a labelled set. Needs NumPy only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from config import AugmentationConfig
from data.crops import Faces, choose_window, clip, look_through
from data.records import FaceRecord, face_sizes
from utils.arrays import FloatArray
from utils.images import resize_factor

SIZE_BINS = (8, 16, 32, 64, 128, 256)    # pixels; borders between the groups of faces in tables
LEAST_GAIN = 0.01    # of the share of faces that a prior overlaps by half: what another choice of sizes has to bring
CLUSTER_ROUNDS = 40
EPOCHS = 3    # of windows that are looked through; a few crowds hold much of a set, and are seen by chance


@dataclass(frozen=True)
class Priors:
    """The priors of a network: for each level their sizes in pixels, and the pixels between two of its cells; and the IoU from which a
    prior must find a face, and from which on a face gets at least its best prior."""

    min_sizes: tuple[tuple[int, ...], ...]
    steps: tuple[int, ...]
    positive_iou: float = 0.35
    min_best_iou: float = 0.2


class Raster(NamedTuple):
    """Faces as a network meets them: boxes (N,4) xyxy in pixels of its input, whose width and height are (N,2), maybe infinite."""

    boxes: NDArray[np.float64]
    input_sizes: NDArray[np.float64]


def best_iou(boxes: NDArray[np.float64], input_sizes: NDArray[np.float64], priors: Priors) -> NDArray[np.float64]:
    """The highest IoU (N,) that each box (N,4) xyxy reaches with any prior of an input of its size (N,2), which may be infinite.

    Of the squares of one size in a grid the one with the nearest centre overlaps a box most, on each axis by itself; so one prior of
    each size is looked at, not all of them.
    """
    best = np.zeros(len(boxes))
    centre, extent = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    for sizes, step in zip(priors.min_sizes, priors.steps, strict=True):
        last = np.ceil(input_sizes / step) - 1
        nearest = (np.clip(np.rint(centre / step - 0.5), 0, np.maximum(last, 0)) + 0.5) * step
        for size in sizes:
            low, high = np.maximum(boxes[:, :2], nearest - size / 2), np.minimum(boxes[:, 2:], nearest + size / 2)
            shared = np.prod(np.maximum(high - low, 0), axis=1)
            best = np.maximum(best, shared / (np.prod(extent, axis=1) + size * size - shared))
    return best


def resized_raster(boxes: NDArray[np.float64], photo_sizes: NDArray[np.float64], size: str) -> Raster:
    """Boxes (N,4) of photos of (N,2) pixels as a test at `size` meets them, such as `original` or `long:640`.

    Where a photo's size is NaN, unknown, its faces are left out, or at `original` and `x2`, which need none, taken as far from any border.
    """
    if size.startswith(("long:", "short:")):
        known = ~np.isnan(photo_sizes[:, 0])
        boxes, photo_sizes = boxes[known], photo_sizes[known]
    photos, which = np.unique(np.nan_to_num(photo_sizes), axis=0, return_inverse=True)    # (U, 2), (N,)
    scales, inputs = np.empty_like(photos), np.full_like(photos, np.inf)
    for index, (width, height) in enumerate(photos.astype(int).tolist()):
        scales[index] = factor = resize_factor(size, width, height)
        if width:
            inputs[index] = max(1, round(width * factor)), max(1, round(height * factor))
            scales[index] = inputs[index] / (width, height)
    which = which.reshape(-1)    # NumPy 2.0 gave it another shape
    return Raster(boxes * np.tile(scales, 2)[which], inputs[which])


def training_raster(
    records: Sequence[FaceRecord], sizes: Sequence[tuple[int, int] | None], *, size: int, config: AugmentationConfig, seed: int
) -> Raster:
    """The faces of some epochs as training shows them: what random windows of the photos of known size hold, at (size, size).

    A face counts as often as it is seen to be learnt, some not at all; ignored ones never do. Mosaics and crops anywhere are left out of
    account.
    """
    seen: list[FloatArray] = []
    for index, (record, photo_size) in enumerate(zip(records, sizes, strict=True)):
        if photo_size is None or not len(record):
            continue
        faces = Faces.labelled(record.boxes, record.landmarks, record.has_landmarks, record.ignore)
        faces = clip(faces.where(record.has_area & ~record.ignore), *photo_size)
        rng = np.random.default_rng((seed, index))
        for _ in range(EPOCHS):
            window = choose_window(*photo_size, faces, scales=config.crop_scales, rng=rng)
            shown = look_through(faces, window, min_visible=config.min_visible)
            boxes = shown.boxes[~shown.ignore] * (size / window.width)
            seen.append(boxes[face_sizes(boxes) >= config.ignore_smaller])
    together = np.concatenate([np.empty((0, 4), np.float32), *seen]).astype(np.float64)
    return Raster(together, np.full((len(together), 2), float(size)))


def coverage(raster: Raster, priors: Priors) -> dict[str, Any]:
    """The shares of faces that a prior overlaps enough to learn them from, all of them and by size; `never_learnt` are those whose best
    prior stays under `min_best_iou`."""
    best = best_iou(raster.boxes, raster.input_sizes, priors)
    groups = np.digitize(face_sizes(raster.boxes), SIZE_BINS)
    numbers: dict[str, Any] = {"faces": len(best), **_shares(best, priors)}
    numbers["by_size"] = {
        name: {"faces": int((groups == group).sum()), **_shares(best[groups == group], priors)} for group, name in enumerate(bin_names())
    }
    return numbers


def _shares(best: NDArray[np.float64], priors: Priors) -> dict[str, float]:
    if not len(best):
        return {}
    return {
        f"iou_{priors.positive_iou:g}": float((best >= priors.positive_iou).mean()),
        "iou_0.5": float((best >= 0.5).mean()),
        "never_learnt": float((best < priors.min_best_iou).mean()),
        "mean_best_iou": float(best.mean()),
    }


def bin_names() -> list[str]:
    """The groups of faces by size in pixels, the side of a square of the same area."""
    between = [f"{low} to {high}" for low, high in pairwise(SIZE_BINS)]
    return [f"under {SIZE_BINS[0]}", *between, f"from {SIZE_BINS[-1]}"]


def propose_sizes(raster: Raster, priors: Priors, *, finer: bool = True) -> Priors | None:
    """Sizes that fit the faces of a raster better than those of `priors`, or None where none were found.

    As many sizes as there are, and if `finer` with a level of half the finest step two more, are put where the faces are: the centres
    of clusters of their sizes, on a scale of ratios. A size goes to the coarsest level whose step is at most half of it, as in the
    published ones.
    """
    sizes = face_sizes(raster.boxes)
    if len(sizes) == 0:
        return None
    choices = [(sum(map(len, priors.min_sizes)), priors.steps)]
    if finer and priors.steps[0] >= 8:
        choices.append((choices[0][0] + 2, (priors.steps[0] // 2, *priors.steps)))
    best, reached = None, _share_at_half(raster, priors) + LEAST_GAIN
    for count, steps in choices:
        levels = share_out(cluster(np.log2(np.maximum(sizes, 1)), count), steps)
        if levels is None:
            continue
        candidate = Priors(levels, steps, priors.positive_iou, priors.min_best_iou)
        share = _share_at_half(raster, candidate)
        if share > reached:
            best, reached = candidate, share + LEAST_GAIN
    return best


def _share_at_half(raster: Raster, priors: Priors) -> float:
    return float((best_iou(raster.boxes, raster.input_sizes, priors) >= 0.5).mean())


def cluster(values: NDArray[np.float64], count: int) -> list[int]:
    """Whole sizes at the centres of `count` clusters of log2 sizes (N,), by Lloyd's algorithm from even shares; equal ones once."""
    values = np.sort(values)
    centres = np.quantile(values, (np.arange(count) + 0.5) / count)
    total = np.append(0, np.cumsum(values))
    for _ in range(CLUSTER_ROUNDS):
        borders = np.concatenate([[0], np.searchsorted(values, (centres[1:] + centres[:-1]) / 2), [len(values)]])
        counts = np.diff(borders)
        means = (total[borders[1:]] - total[borders[:-1]]) / np.maximum(counts, 1)
        centres = np.where(counts > 0, means, centres)
    return sorted({round(float(2**centre)) for centre in centres})


def share_out(sizes: Sequence[int], steps: Sequence[int]) -> tuple[tuple[int, ...], ...] | None:
    """Sizes on the levels of those steps: each on the coarsest one whose step is at most half of it; None where a level gets none."""
    levels: list[list[int]] = [[] for _ in steps]
    for size in sizes:
        fitting = [level for level, step in enumerate(steps) if 2 * step <= size]
        levels[fitting[-1] if fitting else 0].append(size)
    return tuple(map(tuple, levels)) if all(levels) else None
