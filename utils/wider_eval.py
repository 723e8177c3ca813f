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


def wider_ap(detections: Sequence[Detections], faces: Sequence[OfficialFaces]) -> dict[str, float]:
    """The AP in [0, 1] of each setting, of what was found in each image, in pixels of it.

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
    return {setting: _area(entering[setting][:, :-1].cumsum(axis=1), kept[setting]) for setting in SETTINGS}


def _stretch(scores: list[NDArray[np.float64]]) -> list[NDArray[np.float64]]:
    every = np.concatenate([*scores, np.zeros(0)])
    if not len(every):
        return scores
    low, span = every.min(), np.ptp(every)
    return [(score - low) / (span or 1.0) for score in scores]


def _best_faces(boxes: NDArray[np.float64], faces: NDArray[np.float64]) -> NDArray[np.int64]:
    """For each of boxes (N,4) xyxy the face (M,4) x y w h that it overlaps most, or -1 where that is under IoU 0.5."""
    low, high = faces[:, :2], faces[:, :2] + faces[:, 2:]
    overlap = np.minimum(boxes[:, None, 2:], high) - np.maximum(boxes[:, None, :2], low) + 1    # (N, M, 2)
    intersection = overlap.clip(min=0).prod(axis=2)
    areas = (boxes[:, 2:] - boxes[:, :2] + 1).prod(axis=1)[:, None] + (high - low + 1).prod(axis=1)
    union = areas - intersection
    iou = np.divide(intersection, union, out=np.zeros_like(union), where=union > 0)
    best = iou.argmax(axis=1)
    return np.where(iou[np.arange(len(boxes)), best] >= MATCH_IOU, best, -1)


def _area(counts: NDArray[np.int64], faces: int) -> float:
    """The area under the monotone envelope of precision over recall, of the detections and right ones (2,T) at each threshold."""
    if not faces:
        return 0.0
    proposals, right = counts
    precision = np.concatenate([[0.0], right / np.maximum(proposals, 1), [0.0]])
    recall = np.concatenate([[0.0], right / faces, [1.0]])
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float((np.diff(recall) * envelope[1:]).sum())
