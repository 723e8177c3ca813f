"""How far predicted landmarks lie from labelled ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from utils.average_precision import Matches
from utils.structures import Detections, Target

FAILURE = 0.10    # of the face's size


def landmark_errors(
    detections: Sequence[Detections], targets: Sequence[Target], matches: Sequence[Matches]
) -> tuple[NDArray[np.float64], int]:
    """The error of each found face whose five points are labelled, and how many such faces there are, found or not.

    An error is the mean distance of the five points over sqrt(width x height) of the true box.
    """
    errors = [np.zeros(0)]
    faces = 0
    for detected, target, match in zip(detections, targets, matches, strict=True):
        complete = target.has_landmarks.all(dim=1).numpy() & match.wanted
        faces += int(complete.sum())
        index = np.flatnonzero(match.found >= 0)
        index = index[complete[match.found[index]]]
        if detected.landmarks is None or not index.size:
            continue
        face = match.found[index]
        distance = np.linalg.norm(detected.landmarks[index] - target.landmarks.numpy()[face], axis=2).mean(axis=1)
        x1, y1, x2, y2 = target.boxes.numpy()[face].T
        errors.append(distance / np.sqrt((x2 - x1) * (y2 - y1)))
    return np.concatenate(errors), faces


def landmark_metrics(detections: Sequence[Detections], targets: Sequence[Target], matches: Sequence[Matches]) -> dict[str, float]:
    """nme, failure_rate and matched over the faces with five valid points; {} where there are none, or no landmarks to compare.

    nme is the mean of the errors, failure_rate the share of errors over 0.10, and matched the share of those faces that were found at
    all. Where that is 0 it stands alone.
    """
    errors, faces = landmark_errors(detections, targets, matches)
    if not faces or all(detected.landmarks is None for detected in detections):
        return {}
    if not len(errors):
        return {"matched": 0.0}
    return {"nme": float(errors.mean()), "failure_rate": float((errors > FAILURE).mean()), "matched": len(errors) / faces}
