"""Element-wise losses: of the offsets and of the class of each prior. They mask and sum nothing."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
import torchvision.ops as ops
from torch import Tensor

from utils.box_utils import decode, encode

BoxLoss = Literal["smooth_l1", "iou", "giou", "diou", "ciou"]
ClassLoss = Literal["mining", "focal"]


def box_loss(kind: BoxLoss, offsets: Tensor, boxes: Tensor, priors: Tensor) -> Tensor:
    """Loss (...,P) of predicted offsets (...,P,4) against the boxes (...,P,4) xyxy that priors (P,4) cxcywh must find.

    smooth_l1 sums over the four offsets, as published; the others compare decoded boxes and start at 0. Plain `iou` is flat,
    so without a gradient, where two boxes do not touch; giou (arXiv 1902.09630) adds the empty part of the box around both, diou and
    ciou (arXiv 1911.08287) the distance of the centres, and ciou the aspect ratio, so that these pull from afar too.
    """
    if kind == "smooth_l1":
        return F.smooth_l1_loss(offsets, encode(boxes, priors), reduction="none").sum(-1)
    predicted = decode(offsets, priors)
    return _iou_loss(kind, predicted, boxes.to(predicted.dtype))


def _iou_loss(kind: BoxLoss, a: Tensor, b: Tensor) -> Tensor:
    """1 - IoU of boxes a and b (...,P,4) xyxy, plus the penalty of its kind; only b needs an area."""
    ax1, ay1, ax2, ay2 = a.unbind(-1)
    bx1, by1, bx2, by2 = b.unbind(-1)
    a_width, a_height, b_width, b_height = ax2 - ax1, ay2 - ay1, bx2 - bx1, by2 - by1
    width = (torch.minimum(ax2, bx2) - torch.maximum(ax1, bx1)).clamp(min=0)
    height = (torch.minimum(ay2, by2) - torch.maximum(ay1, by1)).clamp(min=0)
    intersection = width * height
    union = a_width * a_height + b_width * b_height - intersection
    iou = intersection / union
    if kind == "iou":
        return 1 - iou
    hull_width = torch.maximum(ax2, bx2) - torch.minimum(ax1, bx1)
    hull_height = torch.maximum(ay2, by2) - torch.minimum(ay1, by1)
    if kind == "giou":
        hull = hull_width * hull_height
        return 1 - iou + (hull - union) / hull
    distance = ((ax1 + ax2 - bx1 - bx2) ** 2 + (ay1 + ay2 - by1 - by2) ** 2) / 4
    loss = 1 - iou + distance / (hull_width**2 + hull_height**2)
    if kind == "diou":
        return loss
    # A box that float32 rounds to nothing has no angle, and atan2(0, 0) no gradient.
    least = torch.finfo(a_width.dtype).eps
    angle = torch.atan2(a_width.clamp(min=least), a_height.clamp(min=least))
    angles = torch.atan2(b_width, b_height) - angle
    aspect = 4 / math.pi**2 * angles**2
    with torch.no_grad():
        weight = aspect / (1 - iou + aspect).clamp(min=torch.finfo(aspect.dtype).eps)
    return loss + weight * aspect


def class_loss(kind: ClassLoss, logits: Tensor, is_face: Tensor) -> Tensor:
    """Loss (...,P) of logits (...,P,2) [background, face] against is_face (...,P) bool.

    The cross entropy of a two-way softmax is the binary cross entropy of the difference of its logits, since softmax(a, b) is
    sigmoid(b - a): one exponential a prior, and no overflow at any logit. `focal` (arXiv 1708.02002, alpha 0.25, gamma 2) weighs
    easy priors down instead of leaving them out.
    """
    difference = logits[..., 1] - logits[..., 0]
    if kind == "focal":
        return ops.sigmoid_focal_loss(difference, is_face.to(difference.dtype), reduction="none")
    return F.binary_cross_entropy_with_logits(difference, is_face.to(difference.dtype), reduction="none")


def landmark_loss(offsets: Tensor, targets: Tensor, known: Tensor) -> Tensor:
    """Smooth L1 loss (...,P) over the points of (...,P,5,2) that known (...,P,5) bool marks."""
    return (F.smooth_l1_loss(offsets, targets, reduction="none").sum(-1) * known).sum(-1)
