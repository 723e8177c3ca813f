"""From a weights file to a model: checkpoints of this repo, and weights published by others.

Known are biubug6/Pytorch_Retinaface, yakhyo/retinaface-pytorch and torchvision's detectors.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from config import ModelConfig, from_dict
from detector.backbone import fetch, identify_backbone, last_stages, rename_published_stage
from detector.models import Model, build_model
from detector.retinaface import RetinaFace
from detector.torchvision_detectors import torchvision_state
from utils.checkpoint import match_keys, read_checkpoint, state_dict_of

# The detector that comes with the code; weights/README.md says what it was trained on.
SHIPPED = Path(__file__).parents[1] / "weights" / "retinaface_mobilenet0.25.pth"

# The names that the published weights have, and the names here; a number counts from 1 there and from 0 here where it is bare.
PUBLISHED_NAMES = (
    (re.compile(r"fpn\.output(\d)\."), "fpn.lateral.{}."),
    (re.compile(r"fpn\.merge(\d)\."), "fpn.merge.{}."),
    (re.compile(r"ssh(\d)\.conv"), "ssh.{}.conv"),
)
PUBLISHED_HEADS = {
    "ClassHead": "class_head",
    "BboxHead": "box_head",
    "LandmarkHead": "landmark_head",
    "class_head.class_head": "class_head",
    "bbox_head.bbox_head": "box_head",
    "landmark_head.landmark_head": "landmark_head",
}
# The modules that each level has one of; the coarsest one has no merge.
LEVEL_MODULE = re.compile(
    r"(?P<part>fpn\.lateral|fpn\.merge|ssh|class_head|box_head|landmark_head)\.(?P<level>\d+)\.(?P<rest>.+)"
)
PUBLISHED_HEAD = re.compile(rf"({'|'.join(PUBLISHED_HEADS)})\.(\d)\.(?:conv1x1\.)?")


def load_model(path: str | Path) -> Model:
    """The model in a weights file, built as the file says, in evaluation mode on the CPU; nothing is fetched.

    Of a run that averaged its weights (train.ema) it has the average, which validation measures and
    best.pth keeps; `describe_weights` says so. ValueError that names the file, and
    the first key that is missing, spare or of a wrong shape.
    """
    config, state = read_weights(path)
    model = build_model(config)
    name = config.backbone if config.architecture == "retinaface" else config.architecture
    match_keys(state, model.state_dict(), source=f"{path}: read as {name}")
    model.load_state_dict(state, strict=False)
    return model.eval()


def start_from(model: Model, path: str | Path) -> list[str]:
    """Give a model the weights in a file; return a sentence on each part that they do not fill as it is.

    "default" are torchvision's own for one of its detectors, trained on COCO. Levels are matched by
    their stride. One that the file lacks takes the modules of the nearest coarser one, see
    `match_levels`. Heads of other shapes start from random weights. ValueError where the body, the
    FPN or the SSH modules do not fit: that would be another network.
    """
    config = model.config
    if path == "default":
        state = torchvision_state(fetch(config.architecture, setting="model.weights"), config.architecture, source=path)
    else:
        config, state = read_weights(path)
    own = model.state_dict()
    notes: list[str] = []
    if isinstance(model, RetinaFace) and config.architecture == "retinaface":
        state, notes = match_levels(state, strides_of(config), list(model.levels.values()), source=path)
        # Layers behind the last level are not part of a body.
        state = {name: value for name, value in state.items() if name in own or not name.startswith("body.")}

    def head_of(name: str) -> str:
        return next((head for head in model.heads if name.startswith(head + ".")), "")

    lateral = {name for name in own if name.startswith("fpn.lateral.") and name not in state}
    fixed = {name: value for name, value in own.items() if not head_of(name) and not (notes and name in lateral)}
    match_keys({n: v for n, v in state.items() if not head_of(n)}, fixed, source=path)
    anew = {head_of(n) for n in own if head_of(n) and (n not in state or state[n].shape != own[n].shape)}
    model.load_state_dict({n: v for n, v in state.items() if n in own and head_of(n) not in anew}, strict=False)
    if anew:
        notes.append(f"{', '.join(sorted(anew))} did not fit and {'starts' if len(anew) == 1 else 'start'} from random weights")
    return notes


def strides_of(config: ModelConfig) -> list[int]:
    """Return the strides of the levels of a RetinaFace, finest first."""
    return list(RetinaFace(replace(config, weights=None, backbone_weights=None)).levels.values())


def match_levels(
    state: Mapping[str, Tensor], found: Sequence[int], wanted: Sequence[int], *, source: str | Path
) -> tuple[dict[str, Tensor], list[str]]:
    """Renumber the modules of a RetinaFace with levels of strides `found` for one with those `wanted`.

    A level that is not found takes the SSH module, the FPN merge and the heads of the nearest coarser
    one: what they say is relative to the size of a prior. Its lateral convolution has other input
    channels, and is left out. Returns the weights and a sentence on each level that is not found or
    not wanted. ValueError where there is no coarser level.
    """
    parts: dict[int, dict[str, dict[str, Tensor]]] = {}
    matched: dict[str, Tensor] = {}
    for name, value in state.items():
        if at := LEVEL_MODULE.match(name):
            parts.setdefault(int(at["level"]), {}).setdefault(at["part"], {})[at["rest"]] = value
        else:
            matched[name] = value
    notes = []
    for level, stride in enumerate(wanted):
        coarser = [each for each in found if each >= stride]
        if not coarser:
            raise ValueError(f"{source}: weights of another network: its levels have strides {list(found)}, expected {list(wanted)}")
        nearest = min(coarser)
        for part, weights in parts.get(found.index(nearest), {}).items():
            is_lateral, is_merge = part == "fpn.lateral", part == "fpn.merge"
            if not (is_lateral and nearest != stride) and not (is_merge and level == len(wanted) - 1):
                matched |= {f"{part}.{level}.{rest}": value for rest, value in weights.items()}
        if nearest != stride:
            notes.append(
                f"the level of stride {stride} takes SSH, FPN merge and heads from that of stride {nearest}; "
                "its lateral convolution starts from random weights"
            )
    notes += [f"its level of stride {stride} is not used" for stride in found if stride not in wanted]
    return matched, notes


def read_weights(path: str | Path) -> tuple[ModelConfig, dict[str, Tensor]]:
    """How to build the model in a weights file, and its weights by name."""
    checkpoint = read_checkpoint(path)
    settings = checkpoint.get("config")
    if isinstance(settings, Mapping) and isinstance(settings.get("model"), Mapping):
        config = from_dict(settings, source=f"{path}: ").model
        # They only say where that model's training started.
        config = replace(config, weights=None, backbone_weights=None)
        return config, averaged_state(checkpoint) or state_dict_of(checkpoint.get("model"), source=path)
    state = state_dict_of(checkpoint, source=path)
    if next(iter(state)).startswith("backbone."):
        config = torchvision_config(state)
        return config, torchvision_state(state, config.architecture, source=path)
    if "fpn.output1.0.weight" not in state or state["fpn.output1.0.weight"].ndim != 4:
        raise ValueError(f"{path}: weights of another network: expected a RetinaFace checkpoint, found {next(iter(state))}")
    state = {published_name(name): value for name, value in state.items()}
    return published_config(state), state


def averaged_state(checkpoint: Mapping[str, Any]) -> dict[str, Tensor] | None:
    """Return the averaged weights by name in a checkpoint of a run, or None if it has none."""
    average = checkpoint.get("average")
    if not isinstance(average, Mapping) or "step" not in checkpoint:
        return None
    return state_dict_of(average, source="average")


def describe_weights(path: str | Path) -> str:
    """Return one line that says whether `load_model` takes averaged weights from a file, or ""."""
    if Path(path).suffix.lower() == ".onnx":
        return ""
    checkpoint = read_checkpoint(path)
    if averaged_state(checkpoint) is None:
        return ""
    return f"{path}: averaged weights of step {checkpoint['step']:,}"


def read_draw_confidence(path: str | Path) -> float | None:
    """Return the confidence from which detections are drawn that a weights file names, or None."""
    value = read_checkpoint(path).get("draw_confidence")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError(f"{path}: draw_confidence: expected a number from 0 to 1, found {value!r}")
    return float(value)


def torchvision_config(state: Mapping[str, Any]) -> ModelConfig:
    """The detector that one of torchvision's own files belongs to."""
    kind = "retinanet" if "head.classification_head.cls_logits.weight" in state else "fasterrcnn"
    if any(name.startswith("roi_heads.mask_head") for name in state):
        kind = "maskrcnn"
    architecture: Any = f"{kind}_resnet50_fpn"
    return ModelConfig(architecture=architecture)


def published_config(state: Mapping[str, Tensor]) -> ModelConfig:
    """The model that published weights belong to, whose names are those here already."""
    body = {name[5:]: value for name, value in state.items() if name.startswith("body.")}
    backbone: Any
    backbone, last_layer = identify_backbone(body)
    levels = last_stages(backbone, 3)
    return ModelConfig(
        backbone=backbone,
        channels=len(state["fpn.lateral.0.0.weight"]),
        landmarks=any(name.startswith("landmark_head.") for name in state),
        # yakhyo's MobileNetV2 takes its last level behind the convolution after the last stage.
        return_layers=() if last_layer in ("", levels[-1]) else (*levels[:-1], last_layer),
    )


def published_name(name: str) -> str:
    """The name here of a weight of a published RetinaFace; an unknown one comes back as it is."""
    part, _, rest = name.partition(".")
    if part in ("body", "fx"):
        return "body." + rename_published_stage(rest.removeprefix("features."))
    if found := PUBLISHED_HEAD.match(name):
        return f"{PUBLISHED_HEADS[found[1]]}.{found[2]}.conv.{name[found.end() :]}"
    for pattern, ours in PUBLISHED_NAMES:
        if found := pattern.match(name):
            return ours.format(int(found[1]) - 1) + name[found.end() :].replace("X", "x")
    return name
