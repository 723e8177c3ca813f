"""The multibox loss: match, mine hard negatives, sum."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from layers.losses import BoxLoss, ClassLoss, box_loss, class_loss, landmark_loss
from layers.matcher import BACKGROUND, IGNORED, match
from utils.box_utils import cxcywh_to_xyxy, encode_landmarks
from utils.devices import works_behind
from utils.structures import Predictions, Target

NEGATIVES_PER_POSITIVE = 7
# Pairs of face and prior that are compared at a time: arrays of 4 MB, which stay in a CPU's cache, and of 64 MB on a GPU.
PAIRS_ON_CPU, PAIRS_ON_GPU = 2**20, 2**24


class Assignment(NamedTuple):
    """What each prior of a batch must learn.

    matched (B,P) is what `match` gives. The other parts speak of K priors, `rows` (K,) of the B*P: those with something to find, and
    boxes (K,4), landmarks (K,5,2) and has_landmarks (K,5) are what. On a GPU they are all B*P, for asking how many there are would
    make the host wait; `weight` (K,) is 1 for the ones that count and 0 for the others, which hold themselves.

    counts (2,) are the positive priors, and those of them whose face has a known point: what the sums are divided by.
    """

    matched: Tensor
    rows: Tensor
    weight: Tensor
    boxes: Tensor
    landmarks: Tensor
    has_landmarks: Tensor
    counts: Tensor

    def select(self, values: Tensor) -> Tensor:
        """Of values (B,P,...) those (K,...) of the priors that `rows` names."""
        flat = values.flatten(0, 1)
        return flat if len(flat) == len(self.rows) else flat[self.rows]


class MultiBoxLoss:
    """Class, box and landmark loss of a batch (SSD, arXiv 1512.02325; RetinaFace, arXiv 1905.00641), each times its weight.

    Class and box sums are divided by the positive priors of the batch, the landmark sum by those of them whose face has a known
    point, each at least 1. The class sum runs over the positives and the hardest negatives of each image, 7 a positive; an image
    without positives mines as if it had one, so that photos without faces teach too. Ignored priors count nowhere.

    Everything is computed in float32 on the device of the predictions, without reading a value back from a GPU.
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

    def __call__(self, predictions: Predictions, priors: Tensor, targets: Sequence[Target]) -> dict[str, Tensor]:
        """The losses by name, to be added up: "class", "box", and "landmark" if the model has landmarks and their weight is not 0.

        priors (P,4) cxcywh in pixels, of the image size that the targets' pixels belong to.
        """
        assignment = self.assign(targets, priors)
        return self.losses(predictions, priors, assignment, assignment.counts)

    @torch.no_grad()
    def assign(self, targets: Sequence[Target], priors: Tensor) -> Assignment:
        """What priors (P,4) must learn from the faces of each image."""
        boxes, landmarks, known, ignore = (_pad(parts) for parts in zip(*(target.parts() for target in targets), strict=True))
        sizes = [len(target.boxes) for target in targets]
        on_gpu = works_behind(priors.device)
        groups = _groups(sizes, len(priors), most=PAIRS_ON_GPU if on_gpu else PAIRS_ON_CPU)
        matched = torch.cat([self._match(boxes[group, :most], ignore[group, :most], priors) for group, most in groups])    # (B, P)
        positive = matched.flatten() >= 0
        rows = torch.arange(len(positive), device=priors.device) if on_gpu else positive.nonzero()[:, 0]    # (K,)
        image, prior, to_learn = rows // len(priors), rows % len(priors), positive[rows]
        face = matched.flatten()[rows].clamp(min=0)
        has_landmarks = known[image, face] & to_learn[:, None]    # (K, 5)
        return Assignment(
            matched,
            rows,
            to_learn.to(priors.dtype),
            torch.where(to_learn[:, None], boxes[image, face], cxcywh_to_xyxy(priors)[prior]),
            torch.where(has_landmarks[..., None], landmarks[image, face], priors[prior, None, :2]),
            has_landmarks,
            torch.stack([to_learn.sum(), has_landmarks.any(dim=-1).sum()]).to(priors.dtype),
        )

    def _match(self, boxes: Tensor, ignore: Tensor, priors: Tensor) -> Tensor:
        return match(
            boxes,
            priors,
            positive_iou=self.positive_iou,
            min_best_iou=self.min_best_iou,
            ignore=ignore,
            ignore_unmatched=self.ignore_unmatched,
        )

    def losses(self, predictions: Predictions, priors: Tensor, assignment: Assignment, counts: Tensor) -> dict[str, Tensor]:
        """The losses as a call gives them, where `counts` (2,) may be those of several assignments together.

        So a batch that is taken in parts, or shared by several processes, gives parts that add up to the losses of the whole.
        """
        with torch.autocast(predictions.boxes.device.type, enabled=False):
            return self._losses(predictions, priors, assignment, counts)

    def _losses(self, predictions: Predictions, priors: Tensor, assignment: Assignment, counts: Tensor) -> dict[str, Tensor]:
        positives, faces_with_points = counts.clamp(min=1)
        by_prior = class_loss(self.classification, predictions.logits.float(), assignment.matched >= 0)    # (B, P)
        counted = assignment.matched != IGNORED if self.classification == "focal" else self.mine(by_prior, assignment.matched)
        priors = priors[assignment.rows % len(priors)]    # (K, 4)
        by_box = box_loss(self.box, assignment.select(predictions.boxes).float(), assignment.boxes, priors)
        losses = {
            "class": self.class_weight * (by_prior * counted).sum() / positives,
            "box": self.box_weight * (by_box * assignment.weight).sum() / positives,
        }
        if predictions.landmarks is not None and self.landmark_weight:
            offsets = assignment.select(predictions.landmarks).float()
            by_face = landmark_loss(offsets, encode_landmarks(assignment.landmarks, priors), assignment.has_landmarks)
            losses["landmark"] = self.landmark_weight * by_face.sum() / faces_with_points
        return losses

    @staticmethod
    def mine(by_prior: Tensor, matched: Tensor) -> Tensor:
        """Mark the positives (B,P) and the hardest negatives of each image, 7 for each of its positives, by their class loss (B,P)."""
        positive = matched >= 0
        wanted = NEGATIVES_PER_POSITIVE * positive.sum(dim=1, keepdim=True).clamp(min=1)    # (B, 1)
        negative = matched == BACKGROUND
        hardness = by_prior.detach().masked_fill(~negative, -1)
        order = hardness.argsort(dim=1, descending=True, stable=True)
        among_hardest = torch.arange(order.shape[1], device=order.device) < wanted    # (B, P), by rank
        return positive | (torch.zeros_like(negative).scatter(1, order, among_hardest) & negative)


def _pad(parts: Sequence[Tensor]) -> Tensor:
    """Parts (N,...) of different lengths as one (B,N,...), filled up with zeros, with at least one row."""
    padded = pad_sequence(list(parts), batch_first=True)
    return padded if padded.shape[1] else padded.new_zeros(len(parts), 1, *padded.shape[2:])


def _groups(sizes: Sequence[int], priors: int, *, most: int) -> Iterator[tuple[slice, int]]:
    """Neighbouring images of so many faces, such that all pairs of face and prior are at most `most`, and their largest number of faces.

    An image with more than that stands alone.
    """
    start, largest = 0, 0
    for end, size in enumerate(sizes):
        if end > start and max(largest, size) * (end + 1 - start) * priors > most:
            yield slice(start, end), largest
            start, largest = end, 0
        largest = max(largest, size)
    yield slice(start, len(sizes)), largest
