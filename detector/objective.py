"""What RetinaFace is trained for."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from detector.retinaface import RetinaFace
from layers.multibox_loss import Assignment, MultiBoxLoss
from utils.structures import Target


class FaceObjective:
    """The multibox loss of what a network says of images, as the engine wants its losses.

    `network` is the model, or what DistributedDataParallel or torch.compile made of it; priors come from `model` itself.
    """

    def __init__(self, network: nn.Module, model: RetinaFace, criterion: MultiBoxLoss):
        self.network = network
        self.model = model
        self.criterion = criterion
        self.names = ["class", "box", "landmark"] if model.landmark_head is not None and criterion.landmark_weight else ["class", "box"]

    def assign(self, images: Tensor, targets: Sequence[Target]) -> Assignment:
        """What the priors of images (B,3,H,W) must learn."""
        return self.criterion.assign(targets, self.model.priors(*images.shape[2:]))

    def losses(self, images: Tensor, assignment: Assignment, counts: Tensor) -> dict[str, Tensor]:
        """The losses of images (B,3,H,W), as shares of those of `counts` positives."""
        return self.criterion.losses(self.network(images), self.model.priors(*images.shape[2:]), assignment, counts)
