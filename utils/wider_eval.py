"""AP on WIDER FACE by its official protocol: easy, medium and hard."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from utils.arrays import BoolArray

if TYPE_CHECKING:    # reading lists for statistics needs no PyTorch
    from utils.structures import Detections

SETTINGS = ("easy", "medium", "hard")
MATCH_IOU = 0.5
THRESHOLDS = 1 - np.arange(1, 1001) / 1000    # the precision is looked at for each of these scores


class OfficialFaces(NamedTuple):
    """The faces of one image: boxes (N,4) x y w h, and for each setting which of them (N,) are to be found."""

    boxes: NDArray[np.float64]
    kept: dict[str, BoolArray]


class Curve(NamedTuple):
    """Precision and recall (T,) at each threshold, from the highest on, and the area under the monotone envelope of the one over the
    other; all in [0, 1]."""

    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    ap: float


def wider_curves(detections: Sequence[Detections], faces: Sequence[OfficialFaces]) -> dict[str, Curve]:
    """The curve of each setting, of what was found in each image, in pixels of it.

    Scores are stretched to [0, 1] over all images. A detection finds the face that it overlaps most, if by IoU 0.5, with one pixel added
    to every side length. One on a face that is not to be found does not count at all, a second one on the same face counts as wrong.
    """
    scores = _stretch([each.scores.astype(np.float64) for each in detections])
    kept = dict.fromkeys(SETTINGS, 0)
    # How many detections, and right ones, enter with each threshold.
    entering = {setting: np.zeros((2, len(THRESHOLDS) + 1), dtype=np.int64) for setting in SETTINGS}
    for found, of_image, score in zip(detections, faces, scores, strict=True):
        order = np.argsort(-score, kind="stable")
        face = _best_faces(found.boxes[order].astype(np.float64), of_image.boxes) if len(of_image.boxes) else np.zeros(0, dtype=np.int64)
        # The first threshold that a score reaches; thresholds fall, so both are turned round.
        first = np.searchsorted(-THRESHOLDS, -score[order], side="left")[: len(face)]
        for setting, counts in entering.items():
            wanted = of_image.kept[setting]
            kept[setting] += int(wanted.sum())
            if not len(face):
                continue
            counted = (face < 0) | wanted[face]
            is_right = np.zeros(len(face), dtype=bool)
            candidates = np.flatnonzero((face >= 0) & wanted[face])
            is_right[candidates[np.unique(face[candidates], return_index=True)[1]]] = True    # the best one on each face
            for row, which in zip(counts, (counted, is_right), strict=True):
                row += np.bincount(first[which], minlength=len(row))
    return {setting: _curve(entering[setting][:, :-1].cumsum(axis=1), kept[setting]) for setting in SETTINGS}


def _stretch(scores: list[NDArray[np.float64]]) -> list[NDArray[np.float64]]:
    every = np.concatenate([*scores, np.zeros(0)])
    if not len(every):
        return scores
    low, span = every.min(), np.ptp(every)
    return [(score - low) / (span or 1.0) for score in scores]


def _best_faces(boxes: NDArray[np.float64], faces: NDArray[np.float64]) -> NDArray[np.int64]:
    """For each of boxes (N,4) xyxy the face (M,4) x y w h that it overlaps most, or -1 where that is under IoU 0.5."""
    x1, y1, x2, y2 = boxes.T[:, :, None]    # (N, 1) each
    left, top, width, height = np.ascontiguousarray(faces.T)    # (M,) each
    # A few (N, M) arrays, written to in place: they are what all the time goes into.
    intersection = np.minimum(x2, left + width)
    intersection -= np.maximum(x1, left) - 1
    np.maximum(intersection, 0, out=intersection)
    across = np.minimum(y2, top + height)
    across -= np.maximum(y1, top) - 1
    intersection *= np.maximum(across, 0, out=across)
    union = (x2 - x1 + 1) * (y2 - y1 + 1) + (width + 1) * (height + 1) - intersection
    iou = np.divide(intersection, union, out=np.zeros_like(union), where=union > 0)
    best = iou.argmax(axis=1)
    return np.where(iou[np.arange(len(boxes)), best] >= MATCH_IOU, best, -1)


def _curve(counts: NDArray[np.int64], faces: int) -> Curve:
    """The curve of the numbers of detections and of right ones (2,T) at each threshold, and of the faces to be found."""
    proposals, right = counts
    precision, recall = right / np.maximum(proposals, 1), right / max(faces, 1)
    heights = np.concatenate([[0.0], precision, [0.0]])
    envelope = np.maximum.accumulate(heights[::-1])[::-1]
    steps = np.diff(np.concatenate([[0.0], recall, [1.0]]))
    return Curve(precision, recall, float((steps * envelope[1:]).sum()) if faces else 0.0)
