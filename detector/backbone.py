"""Backbones, cut into the levels that the FPN starts from."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple
from urllib.error import URLError

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import WeightsEnum
from torchvision.models._utils import IntermediateLayerGetter

from detector.blocks import conv_bn
from utils.checkpoint import load_tensors, match_keys

# What a classifier has behind its last stage: it does not come along.
CLASSIFIER_KEYS = ("fc.", "classifier.")


class Level(NamedTuple):
    """A level's channels and its stride, the pixels of the image between two of its cells."""

    channels: int
    stride: int


class MobileNetV1(nn.Module):
    """The body of MobileNetV1 (arXiv 1704.04861) at a quarter of its width, with LeakyReLU 0.1, in stages of stride 4, 8, 16, 32."""

    # (output channels, stride) of the depthwise-separable blocks of each stage
    STAGES: ClassVar = {
        "stem": [(16, 1), (32, 2), (32, 1)],
        "stage1": [(64, 2), (64, 1)],
        "stage2": [(128, 2), *[(128, 1)] * 5],
        "stage3": [(256, 2), (256, 1)],
    }

    def __init__(self) -> None:
        super().__init__()
        channels = 8
        for name, blocks in self.STAGES.items():
            stage = nn.Sequential()
            if name == "stem":
                stage.append(conv_bn(3, channels, stride=2, slope=0.1))
            for out_channels, stride in blocks:
                stage.append(_separable(channels, out_channels, stride))
                channels = out_channels
            self.add_module(name, stage)

    def forward(self, images: Tensor) -> Tensor:
        for stage in self.children():
            images = stage(images)
        return images


def _separable(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    depthwise = conv_bn(in_channels, in_channels, stride=stride, groups=in_channels, slope=0.1)
    return nn.Sequential(*depthwise, *conv_bn(in_channels, out_channels, 1, slope=0.1))


def build_backbone(name: str, *, return_layers: Sequence[str], weights: str | None = None) -> IntermediateLayerGetter:
    """A backbone that turns images (B,3,H,W) into a dict of levels, one for each of `return_layers`, finest first.

    `weights` is a file of ImageNet weights, "default" for those torchvision fetches, or None. ValueError for layers that are not
    some of its stages in order, for weights of another network, and for a download that failed, with the file to fetch by hand.
    """
    network = MobileNetV1() if name == "mobilenet0.25" else torchvision.models.get_model(name, weights=None)
    if weights is not None:
        state = _fetch(name) if weights == "default" else load_tensors(weights)
        state = {key: value for key, value in state.items() if not key.startswith(CLASSIFIER_KEYS)}
        own = {key: value for key, value in network.state_dict().items() if not key.startswith(CLASSIFIER_KEYS)}
        if name == "mobilenet0.25":
            state = {rename_published_stage(key): value for key, value in state.items()}
        match_keys(state, own, source=weights)
        network.load_state_dict(state, strict=False)
    stages = stages_of(name)
    if list(return_layers) != [stage for stage in stages if stage in return_layers]:
        raise ValueError(f"model.return_layers: expected some of {', '.join(stages)} in this order, found {', '.join(return_layers)}")
    return IntermediateLayerGetter(network, {layer: layer for layer in return_layers})


def stages_of(name: str) -> tuple[str, ...]:
    """The names of a backbone's stages, of stride 4, 8, 16 and 32."""
    return tuple(MobileNetV1.STAGES) if name == "mobilenet0.25" else ("layer1", "layer2", "layer3", "layer4")


def last_stages(name: str, count: int) -> tuple[str, ...]:
    """The names of a backbone's last `count` stages; ValueError where it has fewer than that."""
    stages = stages_of(name)
    if count > len(stages):
        raise ValueError(f"model.min_sizes: {count} lists of sizes, but {name} has only the levels {', '.join(stages)}")
    return stages[-count:]


def levels_of(backbone: IntermediateLayerGetter) -> list[Level]:
    """The channels and stride of each level, read off a dry run."""
    side = 64    # a multiple of every stride, so that the division is exact
    training = backbone.training
    with torch.no_grad():
        features = backbone.eval()(torch.zeros(1, 3, side, side))
    backbone.train(training)
    return [Level(level.shape[1], side // level.shape[3]) for level in features.values()]


def rename_published_stage(key: str) -> str:
    """A key of the published MobileNetV1, whose stage1 is the stem and the first stage here."""
    found = re.fullmatch(r"stage1\.(\d+)\.(.+)", key)
    if not found:
        return key
    block, rest = int(found[1]), found[2]
    return f"stem.{block}.{rest}" if block < 4 else f"stage1.{block - 4}.{rest}"


def _fetch(name: str) -> dict[str, Tensor]:
    if name not in torchvision.models.list_models():
        raise ValueError(f"model.backbone_weights=default: torchvision has none for {name}; give a file or none")
    weights: WeightsEnum = torchvision.models.get_model_weights(name).DEFAULT
    try:
        return dict(weights.get_state_dict(progress=False, check_hash=True))
    except (URLError, OSError, RuntimeError) as error:
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise ValueError(
            f"model.backbone_weights=default: download failed ({error}); fetch {weights.url} by hand into {folder}, "
            "or give its path as model.backbone_weights"
        ) from None
