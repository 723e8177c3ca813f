"""Backbones, cut into the levels that the FPN starts from."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
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

# RGB, of 0 to 255: how torchvision's ImageNet weights and those of the published MobileNet0.25 expect images.
IMAGENET_MEAN, IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
# What a classifier has behind its last layer, which does not come along.
CLASSIFIER = ("avgpool", "fc", "classifier")
# What a detector has behind its backbone, here and in others' repos.
DETECTOR_PARTS = re.compile(
    r"(fpn|ssh|rpn|roi_heads|head|\w*_head|\w+Head)\w*\.|backbone\.fpn\.", re.IGNORECASE
)

# yakhyo's separable blocks are nested: (depthwise, pointwise) x (convolution, batch norm).
NESTED_BLOCK = re.compile(r"(stage\d\.\d+)\.([01])\.([01])\.")


class Level(NamedTuple):
    """A level's channels and its stride, the pixels of the image between two of its cells."""

    channels: int
    stride: int


class MobileNetV1(nn.Module):
    """The body of MobileNetV1 (arXiv 1704.04861) at a share of its width, with LeakyReLU 0.1, in stages of stride 4, 8, 16, 32."""

    # (output channels at full width, stride) of the depthwise-separable blocks of each stage
    STAGES: ClassVar = {
        "stem": [(64, 1), (128, 2), (128, 1)],
        "stage1": [(256, 2), (256, 1)],
        "stage2": [(512, 2), *[(512, 1)] * 5],
        "stage3": [(1024, 2), (1024, 1)],
    }

    def __init__(self, width: float) -> None:
        super().__init__()
        channels = round(32 * width)
        for name, blocks in self.STAGES.items():
            stage = nn.Sequential()
            if name == "stem":
                stage.append(conv_bn(3, channels, stride=2, slope=0.1))
            for full_channels, stride in blocks:
                out_channels = round(full_channels * width)
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


def _vgg16() -> nn.Module:
    """VGG16 whose max-pools round up, as the strided convolutions of all other backbones do: a border of odd width counts.

    Without batch norms it learns from random weights only where these keep the spread of what goes through (He, arXiv 1502.01852).
    """
    with torch.device("meta"):    # the 123 million parameters of the classifier are never made
        network = torchvision.models.vgg16(weights=None, init_weights=False)
    network.features.to_empty(device="cpu")
    for part in network.features:
        if isinstance(part, nn.MaxPool2d):
            part.ceil_mode = True
        elif isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
            nn.init.zeros_(part.bias)    # type: ignore[arg-type]
    return network


class Backbone(NamedTuple):
    """How to build a classifier, the attribute that holds its layers ("" for itself), and the layers that end its stages of stride 4,
    8, 16 and 32."""

    build: Callable[[], nn.Module]
    layers: str
    stages: tuple[str, ...]


def _torchvision(name: str, layers: str, stages: str) -> Backbone:
    return Backbone(partial(torchvision.models.get_model, name, weights=None), layers, tuple(stages.split()))


BACKBONES = {
    **{f"resnet{depth}": _torchvision(f"resnet{depth}", "", "layer1 layer2 layer3 layer4") for depth in (18, 34, 50, 101, 152)},
    **{f"mobilenet{width}": Backbone(partial(MobileNetV1, width), "", tuple(MobileNetV1.STAGES)) for width in (0.25, 0.5, 1.0)},
    "mobilenet_v2": _torchvision("mobilenet_v2", "features", "3 6 13 17"),
    "mobilenet_v3_large": _torchvision("mobilenet_v3_large", "features", "3 6 12 15"),
    "vgg16": Backbone(_vgg16, "features", ("15", "22", "29", "30")),    # each before a pool, the last one behind it
}


def build_backbone(name: str, *, return_layers: Sequence[str], weights: str | None = None) -> IntermediateLayerGetter:
    """A backbone that turns images (B,3,H,W) into a dict of levels, one for each of `return_layers`, finest first.

    `weights` is a file of ImageNet weights, "default" for those torchvision fetches, or None. ValueError for layers that are not
    some of its own in order, for weights of another network, and for a download that failed, with the file to fetch by hand.
    """
    layers = build_layers(name, weights)
    names = [child for child, _ in layers.named_children() if child not in CLASSIFIER]
    if list(return_layers) != [child for child in names if child in return_layers]:
        raise ValueError(f"model.return_layers: expected some of {', '.join(names)} in this order, found {', '.join(return_layers)}")
    return IntermediateLayerGetter(layers, {layer: layer for layer in return_layers})


def build_layers(name: str, weights: str | None = None) -> nn.Module:
    """The layers of a backbone with weights as `build_backbone` takes them; the classifier, where it comes along, has none."""
    backbone = BACKBONES[name]
    network = backbone.build()
    if weights is not None:
        state = fetch(name, setting="model.backbone_weights") if weights == "default" else load_tensors(weights)
        if isinstance(network, MobileNetV1):
            state = {rename_published_stage(key): value for key, value in state.items()}
        state, own = (_without_classifier(each) for each in (state, network.state_dict()))
        if any(DETECTOR_PARTS.match(key) for key in state):
            raise ValueError(
                f"model.backbone_weights: {weights} holds a whole detector; model.weights takes it"
            )
        match_keys(state, own, source=weights)
        network.load_state_dict(state, strict=False)
    return getattr(network, backbone.layers) if backbone.layers else network


def _without_classifier(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if not key.startswith(CLASSIFIER)}


def identify_backbone(body: Mapping[str, Tensor]) -> tuple[str, str]:
    """The backbone that fits the names and shapes in `body` best, and its last layer in `body`."""
    found = {(key, value.shape) for key, value in body.items()}
    layers_found = {key.partition(".")[0] for key in body}

    def fit(name: str) -> int:
        own = {(key, value.shape) for key, value in _meta_layers(name).state_dict().items()}
        # Layers behind the last level are cut off in `body`, so only those in it count.
        own = {(key, shape) for key, shape in own if key.partition(".")[0] in layers_found}
        return 2 * len(own & found) - len(own)

    best = max(BACKBONES, key=fit)
    names = [name for name, _ in _meta_layers(best).named_children() if name in layers_found]
    return best, names[-1] if names else ""


def _meta_layers(name: str) -> nn.Module:
    """The layers of a backbone without memory for their weights."""
    with torch.device("meta"):
        network = BACKBONES[name].build()
    return getattr(network, BACKBONES[name].layers) if BACKBONES[name].layers else network


def first_stages(body: nn.Module, name: str, count: int) -> list[nn.Module]:
    """The layers of a backbone's body up to the end of its first `count` stages; ValueError where it has fewer."""
    children = dict(body.named_children())
    names = list(children)
    stages = [stage for stage in stages_of(name) if stage in names]    # layers behind the last level may be cut off
    if count > len(stages):
        raise ValueError(f"train.freeze_stages: expected at most the {len(stages)} of {name}, found {count}")
    end = names.index(stages[count - 1]) + 1 if count else 0
    return [children[layer] for layer in names[:end]]


def stages_of(name: str) -> tuple[str, ...]:
    """The names of the layers that end a backbone's stages, of stride 4, 8, 16 and 32."""
    return BACKBONES[name].stages


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
    """The key here of a weight of a published MobileNetV1, whose stage1 is the stem and stage1 here."""
    key = NESTED_BLOCK.sub(lambda at: f"{at[1]}.{3 * int(at[2]) + int(at[3])}.", key)
    found = re.fullmatch(r"stage1\.(\d+)\.(.+)", key)
    if not found:
        return key
    block, rest = int(found[1]), found[2]
    return f"stem.{block}.{rest}" if block < 4 else f"stage1.{block - 4}.{rest}"


def fetch(name: str, *, setting: str) -> dict[str, Tensor]:
    """torchvision's weights for a model of that name, fetched once; ValueError that names the setting where there are none, or that says
    what to fetch by hand where that failed."""
    if name not in torchvision.models.list_models():
        raise ValueError(f"{setting}=default: torchvision has none for {name}; give a file or none")
    weights: WeightsEnum = torchvision.models.get_model_weights(name).DEFAULT
    try:
        return dict(weights.get_state_dict(progress=False, check_hash=True))
    except (URLError, OSError, RuntimeError) as error:
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise ValueError(
            f"{setting}=default: download failed ({error}); fetch {weights.url} by hand into {folder}, or give its path as {setting}"
        ) from None
