"""From a weights file to a model: checkpoints of this repo, and weights published by others.

Known are biubug6/Pytorch_Retinaface, yakhyo/retinaface-pytorch and torchvision's detectors.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

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
    r"(?P<part>fpn\.lateral|fpn\.merge|ssh|class_head|box_head|landmark_head)"
    r"\.(?P<level>\d+)\.(?P<rest>.+)"
)
PUBLISHED_HEAD = re.compile(rf"({'|'.join(PUBLISHED_HEADS)})\.(\d)\.(?:conv1x1\.)?")


class Weights(NamedTuple):
    """The content of a weights file.

    config says how to build its model; state holds the weights by name; note is a sentence for the
    user, such as "averaged weights of step 1,234", or empty; draw_confidence is the confidence from
    which its detections are drawn, or None if the file names none.
    """

    config: ModelConfig
    state: dict[str, Tensor]
    note: str = ""
    draw_confidence: float | None = None


def load_model(path: str | Path) -> Model:
    """Build the model in a weights file, see `read_weights` and `build_from`."""
    return build_from(read_weights(path), source=path)


def build_from(weights: Weights, *, source: str | Path) -> Model:
    """Build the model that weights are for, in evaluation mode on the CPU; nothing is fetched.

    ValueError that names `source` and the first key that is missing, spare or of a wrong shape.
    """
    config, state = weights.config, weights.state
    model = build_model(config)
    name = config.backbone if config.architecture == "retinaface" else config.architecture
    match_keys(state, model.state_dict(), source=f"{source}: read as {name}")
    model.load_state_dict(state, strict=False)
    return model.eval()


def start_from(model: Model, path: str | Path) -> list[str]:
    """Give a model the weights in a file.

    "default" are torchvision's own for one of its detectors, trained on COCO. Levels are matched by
    their stride. One that the file lacks takes the modules of the nearest coarser one, see
    `match_levels`. Heads of other shapes start from random weights. Returns sentences for the user:
    whether the weights are averaged, and which parts they do not fill one to one. ValueError if the
    body, the FPN or the SSH modules do not fit, since that would be another network.
    """
    own = model.state_dict()
    weights = _read_start(model, path)
    state, notes = weights.state, [weights.note] if weights.note else []
    lateral: set[str] = set()    # of levels that the file lacks
    if isinstance(model, RetinaFace) and weights.config.architecture == "retinaface":
        strides = strides_of(weights.config), list(model.levels.values())
        state, level_notes = match_levels(state, *strides, source=path)
        notes += level_notes
        missing = [level for level, stride in enumerate(strides[1]) if stride not in strides[0]]
        prefixes = tuple(f"fpn.lateral.{level}." for level in missing)
        lateral = {name for name in own if name.startswith(prefixes)}
        # A body ends with its last level.
        state = {n: v for n, v in state.items() if n in own or not n.startswith("body.")}

    def head_of(name: str) -> str:
        return next((head for head in model.heads if name.startswith(head + ".")), "")

    fixed = {n: v for n, v in own.items() if not head_of(n) and n not in lateral}
    match_keys({n: v for n, v in state.items() if not head_of(n)}, fixed, source=path)
    misfits = {
        head_of(n) for n in own if head_of(n) and (n not in state or state[n].shape != own[n].shape)
    }
    fitting = {n: v for n, v in state.items() if n in own and head_of(n) not in misfits}
    model.load_state_dict(fitting, strict=False)
    if misfits:
        start = "starts" if len(misfits) == 1 else "start"
        notes.append(f"{', '.join(sorted(misfits))} did not fit and {start} from random weights")
    return notes


def _read_start(model: Model, path: str | Path) -> Weights:
    if path != "default":
        return read_weights(path)
    architecture = model.config.architecture
    state = fetch(architecture, setting="model.weights")
    return Weights(model.config, torchvision_state(state, architecture, source=path))


def strides_of(config: ModelConfig) -> list[int]:
    """Return the strides of the levels of a RetinaFace, finest first."""
    return list(RetinaFace(config).levels.values())


def match_levels(
    state: Mapping[str, Tensor], found: Sequence[int], wanted: Sequence[int], *, source: str | Path
) -> tuple[dict[str, Tensor], list[str]]:
    """Renumber the levels in the weights of a RetinaFace: from strides `found` to strides `wanted`.

    A level that is not found takes the SSH module, the FPN merge and the heads of the nearest
    coarser level, whose outputs are relative to the prior size, so they carry over. Its lateral
    convolution has other input channels and is left out. Returns the weights by name and a sentence
    on each level that is not found or not wanted. ValueError that names `source` if there is no
    coarser level.
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
            raise ValueError(
                f"{source}: weights of another network: its levels have strides {list(found)}, "
                f"expected {list(wanted)}"
            )
        nearest = min(coarser)
        excluded = set()
        if nearest != stride:
            excluded.add("fpn.lateral")
        if level == len(wanted) - 1:    # nothing coarser is merged into it
            excluded.add("fpn.merge")
        for part, weights in parts.get(found.index(nearest), {}).items():
            if part not in excluded:
                matched |= {f"{part}.{level}.{rest}": value for rest, value in weights.items()}
        if nearest != stride:
            notes.append(
                f"the level of stride {stride} takes SSH, FPN merge and heads from that of stride "
                f"{nearest}; its lateral convolution starts from random weights"
            )
    notes += [f"its level of stride {stride} is not used" for stride in found if stride not in wanted]
    return matched, notes


def read_weights(path: str | Path) -> Weights:
    """Read a checkpoint of this repo, or weights published by others.

    Of a run that averaged its weights (train.ema) the average is taken, which validation measures
    and best.pth keeps. ValueError that names the file.
    """
    checkpoint = read_checkpoint(path)
    settings = checkpoint.get("config")
    if isinstance(settings, Mapping) and isinstance(settings.get("model"), Mapping):
        config = from_dict(settings, source=f"{path}: ").model
        # They only say where that model's training started.
        config = replace(config, weights=None, backbone_weights=None)
        confidence = _draw_confidence(checkpoint, path)
        if (average := averaged_state(checkpoint)) is not None:
            note = f"averaged weights of step {checkpoint['step']:,}"
            return Weights(config, average, note, confidence)
        return Weights(config, state_dict_of(checkpoint.get("model"), source=path), "", confidence)
    state = state_dict_of(checkpoint, source=path)
    if next(iter(state)).startswith("backbone."):
        config = torchvision_config(state)
        return Weights(config, torchvision_state(state, config.architecture, source=path))
    if "fpn.output1.0.weight" not in state or state["fpn.output1.0.weight"].ndim != 4:
        raise ValueError(
            f"{path}: weights of another network: expected a RetinaFace checkpoint, "
            f"found {next(iter(state))}"
        )
    state = {published_name(name): value for name, value in state.items()}
    return Weights(published_config(state), state)


def averaged_state(checkpoint: Mapping[str, Any]) -> dict[str, Tensor] | None:
    """Return the averaged weights by name in a checkpoint of a run, or None if it has none."""
    average = checkpoint.get("average")
    if not isinstance(average, Mapping) or "step" not in checkpoint:
        return None
    return state_dict_of(average, source="average")


def _draw_confidence(checkpoint: Mapping[str, Any], path: str | Path) -> float | None:
    value = checkpoint.get("draw_confidence")
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
