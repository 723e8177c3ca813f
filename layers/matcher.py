"""Which prior answers for which face."""

from __future__ import annotations

import torch
from torch import Tensor

from utils.box_utils import cxcywh_to_xyxy, jaccard
from utils.devices import works_behind

BACKGROUND = -1
IGNORED = -2


def match(
    boxes: Tensor,
    priors: Tensor,
    *,
    positive_iou: float = 0.35,
    min_best_iou: float = 0.2,
    ignore: Tensor | None = None,
    ignore_unmatched: bool = False,
) -> Tensor:
    """Give each prior the index of the face it must find, -1 for background, or -2 where it is to learn nothing.

    boxes (N,4) xyxy and priors (P,4) cxcywh in pixels; returns (P,) int64. A prior takes the face it overlaps most if their IoU
    reaches `positive_iou`. Besides, a face gets its best prior if their IoU reaches `min_best_iou`; of two faces that want one prior
    the higher IoU has it, then the lower index, and the other face looks no further.

    Faces marked in `ignore` (N,) bool are never found. A prior that found nothing is ignored if its IoU with one of them reaches
    `positive_iou` or its centre lies in one. `ignore_unmatched` treats a face whose best prior stays under `min_best_iou`, too small
    to learn from, the same way; as published it stays background.

    Several images at once: boxes (B,N,4) and ignore (B,N) give (B,P). Shorter lists are filled up with boxes of zeros: a box without
    area is found by nothing. On a device nothing is read back to the host, and equal input gives equal output: ties are settled by
    order-free reductions.
    """
    *images, count, _ = boxes.shape
    matched = torch.full((*images, len(priors)), BACKGROUND, dtype=torch.int64, device=priors.device)
    if count == 0:
        return matched
    if ignore is None:
        ignore = torch.zeros(boxes.shape[:-1], dtype=torch.bool, device=boxes.device)
    # On a GPU it is cheaper to reckon with ignored faces than to ask whether there are some.
    some_ignored = works_behind(boxes.device) or ignore_unmatched or bool(ignore.any())
    iou = jaccard(boxes, cxcywh_to_xyxy(priors))    # (..., N, P)
    ignored_iou = None
    if some_ignored:
        ignored_iou = iou.masked_fill(~ignore[..., None], 0).amax(dim=-2)    # (..., P)
        iou.masked_fill_(ignore[..., None], -1)

    best_iou, best_face = iou.max(dim=-2)    # (..., P)
    matched = torch.where(best_iou >= positive_iou, best_face, matched)

    face_iou, face_prior = iou.max(dim=-1)    # (..., N)
    reached = (face_iou >= min_best_iou) & (face_iou > 0)
    claim = torch.where(reached, face_iou, -1)
    highest_claim = torch.full_like(best_iou, -1).scatter_reduce(-1, face_prior, claim, "amax")    # (..., P)
    wins = reached & (claim == highest_claim.gather(-1, face_prior))
    face = torch.where(wins, torch.arange(count, device=boxes.device), count)
    winner = torch.full_like(matched, count).scatter_reduce(-1, face_prior, face, "amin")    # (..., P)
    matched = torch.where(winner < count, winner, matched)
    if ignored_iou is None:
        return matched

    if ignore_unmatched:
        too_small = ~ignore & ~reached
        ignored_iou = torch.maximum(ignored_iou, iou.masked_fill_(~too_small[..., None], 0).amax(dim=-2))
        ignore = ignore | too_small
    x1, y1, x2, y2 = boxes[..., None, :].unbind(-1)    # (..., N, 1) each
    cx, cy = priors[:, 0], priors[:, 1]
    centre_inside = (ignore[..., None] & (x1 <= cx) & (cx <= x2) & (y1 <= cy) & (cy <= y2)).any(dim=-2)    # (..., P)
    undecided = (matched == BACKGROUND) & (centre_inside | (ignored_iou >= positive_iou))
    return matched.masked_fill(undecided, IGNORED)
