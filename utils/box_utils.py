"""Box formats, IoU, and the offsets from priors that the network learns.

Everything here is element-wise or pairwise, follows the device and dtype of its input, and does not change under a scale per axis:
the same offsets come out in pixels and in fractions of the image.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from utils.arrays import FloatArray

# Offsets are divided by these before they are learnt, so that centres and sizes have like spreads (SSD, arXiv 1512.02325).
VARIANCE = (0.1, 0.2)
# exp() is taken of no more, and no less than its negative: a box stays within 22,026 times its prior, and an untrained head's
# output does not overflow.
MAX_LOG_SCALE = 10.0
# Where each point of a face goes in its mirror image: the eyes change places, and so do the corners of the mouth.
MIRRORED_POINTS = [1, 0, 2, 4, 3]


def xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """Corner boxes (...,4) as centre x, centre y, width, height."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat([(low + high) / 2, high - low], dim=-1)


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """Centre boxes (...,4) as x1, y1, x2, y2."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([centre - half, centre + half], dim=-1)


@torch.no_grad()
def jaccard(a: Tensor, b: Tensor) -> Tensor:
    """IoU of every box of a (...,N,4) with every box of b (...,M,4), xyxy: (...,N,M) in [0, 1], without gradient.

    A box without area overlaps nothing, itself included. Widths are x2 - x1, without the one pixel that the WIDER protocol adds.
    Computed in float32 at least: areas in pixels overflow float16.
    """
    a, b = _at_least_float32(a), _at_least_float32(b)
    ax1, ay1, ax2, ay2 = a.unsqueeze(-2).unbind(-1)    # (..., N, 1) each
    # Each coordinate in one piece: a CPU compares eight of them at a time then.
    bx1, by1, bx2, by2 = b.mT.contiguous().unsqueeze(-2).unbind(-3)    # (..., 1, M) each
    # Few (N, M) arrays at a time: the memory they need is the most that a training step allocates on crowded images.
    intersection = torch.minimum(ax2, bx2).sub_(torch.maximum(ax1, bx1)).clamp_(min=0)
    intersection *= torch.minimum(ay2, by2).sub_(torch.maximum(ay1, by1)).clamp_(min=0)
    area_a = (ax2 - ax1).clamp(min=0) * (ay2 - ay1).clamp(min=0)
    area_b = (bx2 - bx1).clamp(min=0) * (by2 - by1).clamp(min=0)
    union = (area_a + area_b).sub_(intersection)
    # Where the union is 0 so is the intersection; the smallest normal number keeps 0 / 0 from being NaN.
    return intersection.div_(union.clamp_(min=torch.finfo(union.dtype).tiny)).clamp_(max=1)


def _at_least_float32(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


def encode(boxes: Tensor, priors: Tensor) -> Tensor:
    """Offsets (P,4) that lead from priors (P,4) cxcywh to boxes (P,4) xyxy; the boxes need an area, or log(0) gives -inf."""
    centre_variance, size_variance = VARIANCE
    boxes = xyxy_to_cxcywh(boxes)
    centres = (boxes[..., :2] - priors[..., :2]) / (centre_variance * priors[..., 2:])
    sizes = torch.log(boxes[..., 2:] / priors[..., 2:]) / size_variance
    return torch.cat([centres, sizes], dim=-1)


def decode(offsets: Tensor, priors: Tensor) -> Tensor:
    """Boxes (...,P,4) xyxy that offsets (...,P,4) from priors (P,4) cxcywh stand for; the inverse of `encode`.

    Computed in float32 at least. A box is kept within 22,026 times its prior's width and height, and
    above as small a part of them, so an untrained network gives finite boxes.
    """
    offsets = _at_least_float32(offsets)
    centre_variance, size_variance = VARIANCE
    centres = priors[..., :2] + offsets[..., :2] * centre_variance * priors[..., 2:]
    sizes = priors[..., 2:] * torch.exp((offsets[..., 2:] * size_variance).clamp(-MAX_LOG_SCALE, MAX_LOG_SCALE))
    return cxcywh_to_xyxy(torch.cat([centres, sizes], dim=-1))


def encode_landmarks(landmarks: Tensor, priors: Tensor) -> Tensor:
    """Offsets (P,5,2) that lead from the centres of priors (P,4) cxcywh to landmarks (P,5,2)."""
    return (landmarks - priors[..., None, :2]) / (VARIANCE[0] * priors[..., None, 2:])


def decode_landmarks(offsets: Tensor, priors: Tensor) -> Tensor:
    """Landmarks (...,P,5,2) that offsets (...,P,5,2) from priors (P,4) cxcywh stand for; the inverse of `encode_landmarks`."""
    return priors[..., None, :2] + offsets * VARIANCE[0] * priors[..., None, 2:]


def flip_boxes(boxes: FloatArray, width: float) -> FloatArray:
    """Boxes (N,4) xyxy of an image `width` pixels wide, as they lie in its mirror image."""
    return np.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], axis=1).astype(np.float32)


def flip_landmarks(landmarks: FloatArray, width: float) -> FloatArray:
    """Landmarks (N,5,2) of an image `width` pixels wide, as they lie in its mirror image: left and right change places."""
    mirrored = landmarks[:, MIRRORED_POINTS]
    return np.stack([width - mirrored[..., 0], mirrored[..., 1]], axis=-1).astype(np.float32)
