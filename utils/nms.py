"""Non-maximum suppression in NumPy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

CROWDED = 16    # a box that drops so many others is dealt with alone
PAIRS_AT_A_TIME = 2**16    # as many boxes are dealt with together as make so many pairs: some MB, which stay in a core's cache


def nms(dets: NDArray[np.floating], threshold: float) -> list[int]:
    """Indices of the boxes to keep, best first: a box is dropped when its IoU with a kept one exceeds `threshold`.

    dets (n,5): x1 y1 x2 y2 score, finite. Equal scores go by the lower index. The IoU is computed in float64 and without the old rule
    that adds a pixel to every side, which is wrong for boxes that are no whole numbers; a box without area suppresses nothing.

    The indices are those of the plain loop, which keeps the best box left, drops all that overlap it, and begins again. That is what
    is done here too, as long as a box drops many. Else the best of those left are decided together.
    """
    order = np.argsort(-dets[:, 4], kind="stable")
    boxes = _Boxes(dets[order, :4].astype(np.float64), threshold)    # from here on a box is its rank, 0 the best
    kept = boxes.areas == 0    # nothing can overlap them
    left = np.argsort(boxes.x1, kind="stable")    # those not decided yet, by their left side
    left = left[~kept[left]]
    while left.size:
        best = left.min()
        kept[best] = True
        dropped = boxes.overlap(best, left)
        dropped_by_best = np.count_nonzero(dropped)
        left = left[~dropped & (left != best)]
        if dropped_by_best < CROWDED and left.size:
            left = _decide_together(boxes, left, kept)
    return order[kept].tolist()


class _Boxes:
    """Boxes (n,4) xyxy by coordinate, and how far apart two of them can begin whose IoU exceeds the threshold."""

    def __init__(self, boxes: NDArray[np.float64], threshold: float):
        self.x1, self.y1, self.x2, self.y2 = np.ascontiguousarray(boxes.T)
        width, height = self.x2 - self.x1, self.y2 - self.y1
        self.areas = np.maximum(width, 0) * np.maximum(height, 0)
        self.threshold = threshold
        # Such boxes share more than `threshold` of the width and the height of each. The slack is for rounding.
        slack = 1e-9 * (1 + np.abs(boxes).max(initial=0))
        widest = width.max(initial=0)
        self.last_x1 = self.x2 - threshold * width + slack
        self.first_x1 = self.x1 - (1 - threshold) * np.minimum(width / max(threshold, 1e-9), widest) - slack
        self.last_y1 = self.y2 - threshold * height + slack
        self.first_y2 = self.y1 + threshold * height - slack

    def overlap(self, a: NDArray[np.int64] | np.int64, b: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether the IoU of boxes a and b, pair by pair, exceeds the threshold."""
        width = np.minimum(self.x2[a], self.x2[b]) - np.maximum(self.x1[a], self.x1[b])
        height = np.minimum(self.y2[a], self.y2[b]) - np.maximum(self.y1[a], self.y1[b])
        intersection = np.maximum(width, 0) * np.maximum(height, 0)
        # iou > threshold, multiplied out: no division, and 0 > 0 is False where both boxes have no area.
        return intersection > self.threshold * (self.areas[a] + self.areas[b] - intersection)


def _decide_together(boxes: _Boxes, left: NDArray[np.int64], kept: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Mark in `kept` which of the best boxes left are, and give those then left."""
    x1 = boxes.x1[left]
    start, end = np.searchsorted(x1, boxes.first_x1[left]), np.searchsorted(x1, boxes.last_x1[left], side="right")
    by_rank = np.argsort(left)
    pairs = np.cumsum((end - start)[by_rank])
    block = by_rank[: max(1, np.searchsorted(pairs, PAIRS_AT_A_TIME))]
    counts = (end - start)[block]
    a = np.repeat(left[block], counts)
    b = left[np.arange(counts.sum()) + np.repeat(start[block] - (np.cumsum(counts) - counts), counts)]
    near = np.flatnonzero((boxes.y1[b] < boxes.last_y1[a]) & (boxes.y2[b] > boxes.first_y2[a]) & (b > a))
    a, b = a[near], b[near]
    overlapping = boxes.overlap(a, b)
    better, worse = a[overlapping], b[overlapping]

    block = left[block]
    # A box that no better one overlaps is kept, and those it overlaps are dropped, until all of the block are one or the other.
    undecided = np.zeros(len(kept), dtype=bool)
    undecided[block] = True
    dropped = np.zeros(len(kept), dtype=bool)
    while True:
        doubtful = np.zeros(len(kept), dtype=bool)
        doubtful[worse] = True
        new = undecided & ~doubtful
        kept |= new
        dropped[worse[new[better]]] = True
        undecided &= doubtful & ~dropped
        if not undecided.any():
            break
        open_pairs = undecided[better] & ~dropped[worse]
        better, worse = better[open_pairs], worse[open_pairs]
    return left[~kept[left] & ~dropped[left]]
