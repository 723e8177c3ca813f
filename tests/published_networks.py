"""The published networks under their own names: a reference for weights that others published."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor

from config import Config, ModelConfig, to_dict
from detector.retinaface import RetinaFace

SMALL = ModelConfig(backbone="mobilenet0.25", channels=64)
State = dict[str, Tensor]


class Published:
    """The published network, computed from its weights by their published names, layer by layer."""

    def __init__(self, state: State):
        self.state = state

    def conv(self, x: Tensor, name: str, *, stride: int = 1, slope: float | None = None) -> Tensor:
        """Convolution `name`.0, batch norm `name`.1, and maybe a leaky ReLU."""
        return self.conv_pair(x, f"{name}.0", f"{name}.1", stride=stride, slope=slope)

    def conv_pair(
        self, x: Tensor, conv: str, norm: str, *, stride: int = 1, slope: float | None = None
    ) -> Tensor:
        weight = self.state[f"{conv}.weight"]
        groups = x.shape[1] // weight.shape[1]
        x = F.conv2d(x, weight, stride=stride, padding=weight.shape[2] // 2, groups=groups)
        x = F.batch_norm(
            x,
            *(
                self.state[f"{norm}.{part}"]
                for part in ("running_mean", "running_var", "weight", "bias")
            ),
        )
        return x if slope is None else F.leaky_relu(x, slope)

    def mobilenet(self, x: Tensor) -> list[Tensor]:
        levels = []
        for stage, strides in {
            "stage1": [2, 1, 2, 1, 2, 1],
            "stage2": [2, 1, 1, 1, 1, 1],
            "stage3": [2, 1],
        }.items():
            for block, stride in enumerate(strides):
                name = f"body.{stage}.{block}"
                if f"{name}.3.weight" not in self.state:
                    x = self.conv(x, name, stride=stride, slope=0.1)
                    continue
                x = self.conv_pair(x, f"{name}.0", f"{name}.1", stride=stride, slope=0.1)
                x = self.conv_pair(x, f"{name}.3", f"{name}.4", slope=0.1)
            levels.append(x)
        return levels

    def resnet50(self, x: Tensor) -> list[Tensor]:
        network = torchvision.models.resnet50(weights=None).eval()
        network.load_state_dict(
            {n[5:]: v for n, v in self.state.items() if n.startswith("body.")}, strict=False
        )
        x = network.layer1(network.maxpool(network.relu(network.bn1(network.conv1(x)))))
        levels = []
        for layer in (network.layer2, network.layer3, network.layer4):
            x = layer(x)
            levels.append(x)
        return levels

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = images.float() - torch.tensor([104.0, 117.0, 123.0]).view(3, 1, 1)
        levels = self.mobilenet(x) if "body.stage1.0.0.weight" in self.state else self.resnet50(x)
        slope = 0.1 if "body.stage1.0.0.weight" in self.state else 0.0
        levels = [
            self.conv(level, f"fpn.output{n}", slope=slope)
            for n, level in enumerate(levels, start=1)
        ]
        for n in (2, 1):
            above = F.interpolate(levels[n], size=levels[n - 1].shape[2:], mode="nearest")
            levels[n - 1] = self.conv(levels[n - 1] + above, f"fpn.merge{n}", slope=slope)
        outputs: dict[str, list[Tensor]] = {"BboxHead": [], "ClassHead": [], "LandmarkHead": []}
        for n, level in enumerate(levels, start=1):
            shared = self.conv(level, f"ssh{n}.conv5X5_1", slope=slope)
            parts = [self.conv(level, f"ssh{n}.conv3X3"), self.conv(shared, f"ssh{n}.conv5X5_2")]
            parts.append(
                self.conv(self.conv(shared, f"ssh{n}.conv7X7_2", slope=slope), f"ssh{n}.conv7x7_3")
            )
            feature = F.relu(torch.cat(parts, dim=1))
            for head, values in (("BboxHead", 4), ("ClassHead", 2), ("LandmarkHead", 10)):
                weight, bias = (
                    self.state[f"{head}.{n - 1}.conv1x1.{part}"] for part in ("weight", "bias")
                )
                outputs[head].append(
                    F.conv2d(feature, weight, bias)
                    .permute(0, 2, 3, 1)
                    .reshape(len(images), -1, values)
                )
        boxes, logits, landmarks = (torch.cat(parts, dim=1) for parts in outputs.values())
        return boxes, logits, landmarks


def published_state(model: RetinaFace) -> State:
    """The weights of a model under the published names."""
    stages = {"stem": ("stage1", 0), "stage1": ("stage1", 4)}
    state = {}
    for name, value in model.state_dict().items():
        parts = name.split(".")
        if parts[0] == "body" and parts[1] in stages:
            stage, first = stages[parts[1]]
            parts[1:3] = [stage, str(int(parts[2]) + first)]
        elif parts[0] == "fpn":
            parts[1:3] = [
                {"lateral": "output", "merge": "merge"}[parts[1]] + str(int(parts[2]) + 1)
            ]
        elif parts[0] == "ssh":
            conv = {"conv7x7_3": "conv7x7_3"}.get(parts[2], parts[2].replace("x", "X"))
            parts[:3] = [f"ssh{int(parts[1]) + 1}", conv]
        elif "head" in parts[0]:
            parts[0] = {
                "class_head": "ClassHead",
                "box_head": "BboxHead",
                "landmark_head": "LandmarkHead",
            }[parts[0]]
            parts[2] = "conv1x1"
        state[".".join(parts)] = value
    return state


def randomized(config: ModelConfig) -> RetinaFace:
    """A model whose batch norms are no identities."""
    torch.manual_seed(0)
    model = RetinaFace(config).eval()
    for name, value in model.state_dict().items():
        if name.endswith("running_mean"):
            value.normal_(0, 0.1)
        elif name.endswith("running_var"):
            value.uniform_(0.8, 1.2)
    return model


def yakhyo_name(name: str, backbone: str) -> str:
    """The name in yakhyo/retinaface-pytorch of a weight that the older repo has under `name`."""
    part, _, rest = name.partition(".")
    if part == "body":
        found = re.fullmatch(r"(stage\d\.\d+)\.(\d)\.(\w+)", rest)
        if found and found[1] != "stage1.0":  # the first convolution is no separable one
            rest = f"{found[1]}.{int(found[2]) // 3}.{int(found[2]) % 3}.{found[3]}"
        return f"fx.features.{rest}" if backbone == "mobilenet_v2" else f"fx.{rest}"
    head = {
        "ClassHead": "class_head",
        "BboxHead": "bbox_head",
        "LandmarkHead": "landmark_head",
    }.get(part)
    return name if head is None else f"{head}.{head}.{rest}".replace(".conv1x1", "")


def assert_same_outputs(model: RetinaFace, state: State) -> None:
    images = torch.randint(
        0, 256, (1, 3, 101, 150), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    with torch.no_grad():
        ours, theirs = model(images), Published(state)(images)
    assert ours.landmarks is not None
    for mine, published in zip(
        (ours.boxes, ours.logits, ours.landmarks.flatten(2)), theirs, strict=True
    ):
        assert torch.allclose(mine, published, atol=1e-4, rtol=1e-4)


def save(model: RetinaFace, path: Path, **changes: Any) -> Path:
    torch.save(
        {"config": to_dict(Config(model=model.config)), "model": model.state_dict(), **changes},
        path,
    )
    return path
