"""One answer from several views of an image: which of them may find a face, and what becomes of its box.

A network sees faces of some sizes better than others. So each scale finds only the faces that it shows in a good size; where scales are
merged without such a gate, the mistakes of all of them add up. Once a face is found, all views have a vote on its box and its points.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from detector.network import Candidates
from utils.box_utils import jaccard

ALL_SIZES = (0.0, math.inf)
# The sizes sqrt(w h), in pixels as shown, that a view finds faces of, unless no other view is left for smaller or for larger ones. These
# numbers and the next ones were chosen on three small sets of photos, see README.
SMALLEST, LARGEST = 32.0, 96.0
VOTE_IOU = 0.6    # a candidate that overlaps a face this much has a vote on it
VOTE_POWER = 2    # and the vote weighs as much as its score to this power


def gates(factors: Sequence[float]) -> list[tuple[float, float]]:
    """Return the size range (low, high) of faces found at each of some rising scale factors.

    Sizes are in pixels of the image. Ranges of neighboring scales overlap, or meet at the geometric
    mean of the gap between them, so that every size lies in at least one range.
    """
    low = [*(SMALLEST / factor for factor in factors[:-1]), 0.0]
    high = [math.inf, *(LARGEST / factor for factor in factors[1:])]
    for coarse, fine in pairwise(range(len(factors))):
        if low[coarse] > high[fine]:
            low[coarse] = high[fine] = math.sqrt(low[coarse] * high[fine])
    return list(zip(low, high, strict=True))


def in_gate(candidates: Candidates, gate: tuple[float, float]) -> Candidates:
    """Those whose size lies within a gate."""
    if gate == ALL_SIZES:
        return candidates
    x1, y1, x2, y2 = candidates.boxes.unbind(dim=1)
    size = ((x2 - x1) * (y2 - y1)).sqrt()
    return candidates.take((size >= gate[0]) & (size < gate[1]))


def join(found: Sequence[Candidates]) -> Candidates:
    """The candidates of several views as one, best first."""
    if len(found) == 1:
        return found[0]
    landmarks = [each.landmarks for each in found if each.landmarks is not None]
    masks = [each.masks for each in found if each.masks is not None]
    every = Candidates(
        torch.cat([each.boxes for each in found]),
        torch.cat([each.scores for each in found]),
        torch.cat(landmarks) if landmarks else None,
        torch.cat(masks) if masks else None,
    )
    return every.take(every.scores.argsort(descending=True, stable=True))


def vote(faces: Candidates, voters: Candidates) -> Candidates:
    """The faces, each with the mean box and points of the voters that overlap it, which are weighted by their scores; masks stay.

    One that nothing overlaps, since it has no area, stays as it is.
    """
    weights = (jaccard(faces.boxes, voters.boxes) >= VOTE_IOU) * voters.scores**VOTE_POWER    # (F, N)
    total = weights.sum(dim=1, keepdim=True)
    weights = weights / total.clamp(min=torch.finfo(total.dtype).tiny)

    def mean(own: Tensor, of_voters: Tensor) -> Tensor:
        return torch.where(total > 0, weights @ of_voters.flatten(1), own.flatten(1)).view_as(own)

    landmarks = None
    if faces.landmarks is not None and voters.landmarks is not None:
        landmarks = mean(faces.landmarks, voters.landmarks)
    return Candidates(mean(faces.boxes, voters.boxes), faces.scores, landmarks, faces.masks)
