"""The network: normalise -> body -> FPN -> SSH -> heads."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from config import LossConfig, ModelConfig
from detector.backbone import build_backbone, first_stages, last_stages, levels_of
from detector.fpn import FPN
from detector.heads import Head
from detector.ssh import SSH
from layers.prior_box import PriorBox
from utils.structures import Predictions


class RetinaFace(nn.Module):
    """RetinaFace (arXiv 1905.00641) in its classic PyTorch form, as a ModelConfig describes it.

    Images go in as (B,3,H,W) uint8 BGR of any size; the normalisation is part of the model, so training, inference and export
    cannot disagree. Channels and strides of the levels are read off the backbone. ValueError for what the backbone does not have.
    """

    # The parts that another number of priors or classes does not fit.
    heads = ("class_head", "box_head", "landmark_head")

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        layers = config.return_layers or last_stages(config.backbone, len(config.min_sizes))
        self.body = build_backbone(config.backbone, return_layers=layers, weights=config.backbone_weights)
        levels = levels_of(self.body)
        self.prior_box = PriorBox(config.min_sizes, [level.stride for level in levels])
        self.fpn = FPN([level.channels for level in levels], config.channels)
        self.ssh = nn.ModuleList(SSH(config.channels, config.channels) for _ in levels)
        self.class_head = self._heads(values=2)
        self.box_head = self._heads(values=4)
        self.landmark_head = self._heads(values=10) if config.landmarks else None
        self.register_buffer("mean", torch.tensor(config.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config.std).view(3, 1, 1), persistent=False)

    def _heads(self, *, values: int) -> nn.ModuleList:
        return nn.ModuleList(Head(self.config.channels, priors=len(sizes), values=values) for sizes in self.config.min_sizes)

    @property
    def device(self) -> torch.device:
        return cast(Tensor, self.mean).device

    @property
    def levels(self) -> dict[str, int]:
        """The layers of the backbone that give the levels, and their strides in pixels."""
        return dict(zip(self.body.return_layers.values(), self.prior_box.steps, strict=True))

    def priors(self, height: int, width: int) -> Tensor:
        """The priors (P,4) cx, cy, w, h in pixels of images of that size, on the model's device; shared, do not write to it."""
        return self.prior_box(height, width, device=self.device)

    def first_stages(self, count: int) -> list[nn.Module]:
        """The parts of the backbone up to the end of its first `count` stages; ValueError where it has fewer."""
        return first_stages(self.body, self.config.backbone, count)

    def idle(self, loss: LossConfig) -> list[nn.Module]:
        """The parts that nothing is learnt through."""
        return [self.landmark_head] if self.landmark_head is not None and not loss.landmark_weight else []

    def normalise(self, images: Tensor) -> Tensor:
        """Images (B,3,H,W) of 0 to 255 BGR as the backbone was trained to see them."""
        if self.config.channel_order == "rgb":
            images = images.flip(1)
        return (images.float() - cast(Tensor, self.mean)).div_(cast(Tensor, self.std))

    def forward(self, images: Tensor) -> Predictions:
        """Raw predictions for every prior of images (B,3,H,W) BGR, 0 to 255, uint8 or float."""
        return self.predict(self.features(images))

    def features(self, images: Tensor) -> list[Tensor]:
        """What is seen in images (B,3,H,W) BGR at each level (B,C,Hi,Wi), finest first."""
        levels = self.body(self.normalise(images))
        return [ssh(level) for ssh, level in zip(self.ssh, self.fpn(list(levels.values())), strict=True)]

    def predict(self, features: list[Tensor]) -> Predictions:
        """What the heads say of the features of all levels."""
        landmarks = None
        if self.landmark_head is not None:
            landmarks = self._over_levels(self.landmark_head, features).unflatten(-1, (5, 2))
        return Predictions(self._over_levels(self.box_head, features), self._over_levels(self.class_head, features), landmarks)

    @staticmethod
    def _over_levels(heads: nn.ModuleList, features: list[Tensor]) -> Tensor:
        return torch.cat([head(feature) for head, feature in zip(heads, features, strict=True)], dim=1)
