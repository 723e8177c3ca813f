"""The multibox loss: match, mine hard negatives, sum."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from layers.losses import BoxLoss, ClassLoss, box_loss, class_loss, landmark_loss
from layers.matcher import BACKGROUND, IGNORED, match
from utils.box_utils import cxcywh_to_xyxy, encode_landmarks
from utils.structures import Predictions, Target

NEGATIVES_PER_POSITIVE = 7


class Assignment(NamedTuple):
    """What each prior of a batch must say: matched (B,P) as `match` gives it; of the positives boxes (B,P,4), landmarks (B,P,5,2)
    and has_landmarks (B,P,5). The other priors hold themselves, so that no loss computed on them is NaN."""

    matched: Tensor
    boxes: Tensor
    landmarks: Tensor
    has_landmarks: Tensor


class MultiBoxLoss:
    """Class, box and landmark loss of a batch (SSD, arXiv 1512.02325; RetinaFace, arXiv 1905.00641), each times its weight.

    Class and box sums are divided by the positive priors of the batch, the landmark sum by those of them whose face has a known
    point, each at least 1. The class sum runs over the positives and the hardest negatives of each image, 7 a positive; an image
    without positives mines as if it had one, so that photos without faces teach too. Ignored priors count nowhere.

    Everything is computed in float32 on the device of the predictions, without reading a value back to the host.
    """

    def __init__(
        self,
        *,
        box: BoxLoss = "smooth_l1",
        classification: ClassLoss = "mining",
        box_weight: float = 2.0,
        class_weight: float = 1.0,
        landmark_weight: float = 1.0,
        positive_iou: float = 0.35,
        min_best_iou: float = 0.2,
        ignore_unmatched: bool = False,
    ):
        self.box = box
        self.classification = classification
        self.box_weight = box_weight
        self.class_weight = class_weight
        self.landmark_weight = landmark_weight
        self.positive_iou = positive_iou
        self.min_best_iou = min_best_iou
        self.ignore_unmatched = ignore_unmatched

    def __call__(self, predictions: Predictions, priors: Tensor, targets: list[Target]) -> dict[str, Tensor]:
        """The losses by name, to be added up: "class", "box", and "landmark" if the model has landmarks and their weight is not 0.

        priors (P,4) cxcywh in pixels, of the image size that the targets' pixels belong to.
        """
        with torch.autocast(predictions.boxes.device.type, enabled=False):
            return self._losses(predictions, priors, self.assign(targets, priors))

    def assign(self, targets: list[Target], priors: Tensor) -> Assignment:
        """What priors (P,4) must learn from the faces of each image."""
        return Assignment(*(torch.stack(parts) for parts in zip(*(self._assign_one(t, priors) for t in targets), strict=True)))

    def _assign_one(self, target: Target, priors: Tensor) -> Assignment:
        matched = match(
            target.boxes,
            priors,
            positive_iou=self.positive_iou,
            min_best_iou=self.min_best_iou,
            ignore=target.ignore,
            ignore_unmatched=self.ignore_unmatched,
        )
        boxes, landmarks = cxcywh_to_xyxy(priors), priors[:, None, :2].expand(-1, 5, 2)
        has_landmarks = torch.zeros(len(priors), 5, dtype=torch.bool, device=priors.device)
        if len(target.boxes):
            face, positive = matched.clamp(min=0), matched[:, None] >= 0
            boxes = torch.where(positive, target.boxes[face], boxes)
            has_landmarks = target.has_landmarks[face] & positive
            landmarks = torch.where(has_landmarks[..., None], target.landmarks[face], landmarks)
        return Assignment(matched, boxes, landmarks, has_landmarks)

    def _losses(self, predictions: Predictions, priors: Tensor, assignment: Assignment) -> dict[str, Tensor]:
        positive = assignment.matched >= 0    # (B, P)
        positives = positive.sum().clamp(min=1)
        by_prior = class_loss(self.classification, predictions.logits.float(), positive)
        counted = assignment.matched != IGNORED if self.classification == "focal" else positive | self.mine(by_prior, assignment.matched)
        by_box = box_loss(self.box, predictions.boxes.float(), assignment.boxes, priors)
        losses = {
            "class": self.class_weight * (by_prior * counted).sum() / positives,
            "box": self.box_weight * (by_box * positive).sum() / positives,
        }
        if predictions.landmarks is not None and self.landmark_weight:
            targets = encode_landmarks(assignment.landmarks, priors)
            by_face = landmark_loss(predictions.landmarks.float(), targets, assignment.has_landmarks)
            faces_with_points = assignment.has_landmarks.any(-1).sum().clamp(min=1)
            losses["landmark"] = self.landmark_weight * by_face.sum() / faces_with_points
        return losses

    @staticmethod
    def mine(by_prior: Tensor, matched: Tensor) -> Tensor:
        """Mark the hardest negatives (B,P) of each image, 7 for each of its positives, by their class loss (B,P)."""
        negative = matched == BACKGROUND
        wanted = NEGATIVES_PER_POSITIVE * (matched >= 0).sum(dim=1, keepdim=True).clamp(min=1)    # (B, 1)
        hardness = by_prior.detach().masked_fill(~negative, -1)
        order = hardness.argsort(dim=1, descending=True, stable=True)
        among_hardest = torch.arange(order.shape[1], device=order.device) < wanted    # (B, P), by rank
        return torch.zeros_like(negative).scatter(1, order, among_hardest) & negative
