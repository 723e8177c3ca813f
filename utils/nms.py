"""Non-maximum suppression in NumPy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def nms(dets: NDArray[np.floating], threshold: float) -> list[int]:
    """Indices of the boxes to keep, best first: a box is dropped when its IoU with a kept one exceeds `threshold`.

    dets (n,5): x1 y1 x2 y2 score. Equal scores go by the lower index. The IoU is computed in float64 and without the old rule that
    adds a pixel to every side, which is wrong for boxes that are no whole numbers; a box without area suppresses nothing.
    """
    order = np.argsort(-dets[:, 4], kind="stable")
    x1, y1, x2, y2 = dets[order, :4].astype(np.float64).T
    areas = np.maximum(x2 - x1, 0) * np.maximum(y2 - y1, 0)
    left = np.arange(len(order))    # positions in `order` that nothing has suppressed yet, best first
    kept = []
    while left.size:
        best, rest = left[0], left[1:]
        kept.append(int(order[best]))
        width = np.minimum(x2[best], x2[rest]) - np.maximum(x1[best], x1[rest])
        height = np.minimum(y2[best], y2[rest]) - np.maximum(y1[best], y1[rest])
        intersection = np.maximum(width, 0) * np.maximum(height, 0)
        # iou > threshold, multiplied out: no division, and 0 > 0 is False where both boxes have no area.
        left = rest[intersection <= threshold * (areas[best] + areas[rest] - intersection)]
    return kept
