"""AP at IoU 0.5 over all labelled faces, and which detection found which face."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from utils.arrays import BoolArray
from utils.box_utils import jaccard
from utils.structures import Detections, Target

MATCH_IOU = 0.5


@dataclass(frozen=True)
class Matches:
    """What the detections of one image found: found (N,) int64 is the face of each of them, -1 for none, -2 for an ignored one;
    wanted (M,) bool marks the faces to be found, those that have an area and are not ignored."""

    found: NDArray[np.int64]
    wanted: BoolArray


def match_detections(detections: Detections, target: Target) -> Matches:
    """Give each detection, by falling score, the best face with IoU >= 0.5 that no better-scored one has taken.

    One that is left with an ignored face only is neither right nor wrong. Boxes are floats, and no pixel is added to their sides.
    """
    boxes = target.boxes
    has_area = ((boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])).numpy()
    ignored = target.ignore.numpy() & has_area
    wanted = has_area & ~ignored
    found = np.full(len(detections), -1, dtype=np.int64)
    iou = jaccard(torch.from_numpy(detections.boxes).double(), boxes.double()).numpy()    # (N, M)
    close = iou >= MATCH_IOU
    free = wanted.copy()
    for index in np.argsort(-detections.scores, kind="stable"):
        candidates = np.flatnonzero(close[index] & free)
        if candidates.size:
            face = candidates[iou[index, candidates].argmax()]
            found[index] = face
            free[face] = False
        elif (close[index] & ignored).any():
            found[index] = -2
    return Matches(found, wanted)


def average_precision(scores: Sequence[NDArray[np.float32]], matches: Sequence[Matches]) -> float:
    """AP in [0, 1] of the detections of many images: the area under the monotone envelope of precision over recall.

    Detections are ranked by score over all images, equal ones by image and then by their order in it. 0 where no face is wanted.
    """
    faces = sum(int(match.wanted.sum()) for match in matches)
    if not faces or not scores:
        return 0.0
    score, found = np.concatenate(scores), np.concatenate([match.found for match in matches])
    counted = found != -2
    score, found = score[counted], found[counted]
    is_right = found[np.argsort(-score, kind="stable")] >= 0
    right = np.cumsum(is_right)
    precision = right / np.arange(1, len(right) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(envelope[is_right].sum() / faces)    # each right detection raises the recall by 1 / faces
