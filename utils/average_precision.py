"""AP at IoU 0.5 over all labelled faces, and which detection found which face."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from utils.arrays import BoolArray, FloatArray
from utils.box_utils import jaccard
from utils.structures import Detections, Target

MATCH_IOU = 0.5
SIZES = (0, 8, 16, 32, 64, 128)    # where the groups of sizes begin: sqrt(w h) in pixels of the photo


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
    _, recall, precision = precision_recall(scores, matches)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float((envelope * np.diff(recall, prepend=0)).sum())


def precision_recall(
    scores: Sequence[NDArray[np.float32]], matches: Sequence[Matches]
) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.float64]]:
    """Return the score (N,) of each detection, and recall (N,) and precision (N,) after it, in the
    order of `average_precision`.

    Empty where no face is wanted. Detections of ignored faces are left out.
    """
    faces = sum(int(match.wanted.sum()) for match in matches)
    if not faces or not scores:
        return np.zeros(0, np.float32), np.zeros(0), np.zeros(0)
    score, found = np.concatenate(scores), np.concatenate([match.found for match in matches])
    counted = found != -2
    score, found = score[counted], found[counted]
    order = np.argsort(-score, kind="stable")
    right = np.cumsum(found[order] >= 0)
    return score[order], right / faces, right / np.arange(1, len(right) + 1)


def best_f1(scores: Sequence[NDArray[np.float32]], matches: Sequence[Matches]) -> dict[str, float]:
    """Return the confidence at which F1 is highest, with precision, recall and f1 there.

    If several confidences share it, the highest is returned. Empty if there is no face to detect or
    no detection is right.
    """
    score, recall, precision = precision_recall(scores, matches)
    # A confidence draws all detections of equal score.
    last = np.append(score[1:] != score[:-1], True)[: len(score)]
    score, recall, precision = score[last], recall[last], precision[last]
    if not recall.any():
        return {}
    f1 = 2 * precision * recall / np.maximum(precision + recall, np.finfo(np.float64).tiny)
    best = int(f1.argmax())
    values = score[best], precision[best], recall[best], f1[best]
    return dict(zip(("confidence", "precision", "recall", "f1"), map(float, values), strict=True))


def threshold_metrics(
    detections: Sequence[Detections], matches: Sequence[Matches], *, confidence: float
) -> dict[str, float]:
    """What a user sees who is shown the detections that reach a confidence: precision, recall and F1 at IoU 0.5, and false positives
    an image. What cannot be said, such as the precision of nothing, is absent; of images without
    faces only the false positives can."""
    found = np.concatenate([match.found[each.scores >= confidence] for each, match in zip(detections, matches, strict=True)])
    right, wrong = int((found >= 0).sum()), int((found == -1).sum())
    faces = sum(int(match.wanted.sum()) for match in matches)
    metrics = {"confidence": confidence, "false_positives_per_image": wrong / len(matches)}
    if not faces:
        return metrics
    if right + wrong:
        metrics["precision"] = right / (right + wrong)
    return {**metrics, "recall": right / faces, "f1": 2 * right / (right + wrong + faces)}


def size_metrics(detections: Sequence[Detections], targets: Sequence[Target], matches: Sequence[Matches]) -> dict[str, dict[str, float]]:
    """faces and ap50 of each group of sizes, such as "16-32" and "128-", that has faces.

    A detection belongs to the size of the face it found; one that found none to its own.
    """
    scores = [each.scores for each in detections]
    of_faces = [_group(target.boxes.numpy()) for target in targets]
    of_detections = [_group(each.boxes) for each in detections]
    metrics = {}
    for number, low in enumerate(SIZES):
        in_group = []
        for match, of_face, of_detection in zip(matches, of_faces, of_detections, strict=True):
            belongs = of_detection == number
            right = match.found >= 0
            belongs[right] = of_face[match.found[right]] == number
            in_group.append(Matches(np.where(belongs, match.found, -2), match.wanted & (of_face == number)))
        if faces := sum(int(match.wanted.sum()) for match in in_group):
            high = SIZES[number + 1] if number + 1 < len(SIZES) else ""
            metrics[f"{low}-{high}"] = {"faces": faces, "ap50": average_precision(scores, in_group)}
    return metrics


def _group(boxes: FloatArray) -> NDArray[np.int64]:
    """The group of sizes that each of boxes (N,4) xyxy belongs to."""
    sides = np.maximum(boxes[:, 2:] - boxes[:, :2], 0)
    return np.searchsorted(SIZES, np.sqrt(sides.prod(axis=1)), side="right") - 1
