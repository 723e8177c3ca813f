"""What a network is made of and what it costs, layer by layer: python -m detector.summary MODEL"""

from __future__ import annotations

import utils.import_errors  # noqa: F401 - the first, since it explains the errors of the others

# isort: split
import copy
import inspect
import os
import sys
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torchvision
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork

from config import PRESETS, load_config
from detector.models import build_model
from detector.weights import build_from, read_weights
from utils.script import DONE, ArgumentParser, run_script

TORCHVISION = "torchvision:"
TEXTS = 3    # columns before the numbers
CLASSIFIER_SIZE, DETECTOR_SIZE = 224, 640    # pixels
DETECTIONS = 100    # that a detector of two stages makes masks of


class Layer(NamedTuple):
    """A layer by its name in the model: its kind, the shape of what comes out for one image, its numbers of weights and biases, and the
    multiply-accumulates (MAC) of a forward pass."""

    name: str
    kind: str
    shape: tuple[int, ...]
    weights: int
    biases: int
    macs: int

    @property
    def parameters(self) -> int:
        return self.weights + self.biases


def layers_of(model: nn.Module, *, size: int) -> list[Layer]:
    """The layers of a model that takes images (B,3,H,W), for one image of size x size pixels, in the order of their first use.

    Listed are those with parameters of their own, and those that change the shape of what goes through them. One that is used several
    times has the shape of the first time and the MAC of all of them.
    """
    model = _at_full_load(copy.deepcopy(model).eval())
    shapes: dict[str, tuple[int, ...]] = {}
    reshaping: set[str] = set()

    def note(name: str, inputs: object, output: object) -> None:
        if isinstance(output, Tensor):
            shapes.setdefault(name, tuple(output.shape))
            before = inputs[0] if isinstance(inputs, tuple) and inputs else None
            if isinstance(before, Tensor) and before.shape != output.shape:
                reshaping.add(name)

    modules = dict(model.named_modules())
    for name, part in modules.items():
        part.register_forward_hook(lambda part, inputs, output, name=name: note(name, inputs, output))
    macs = _count_macs(model, size)
    listed = {name: part for name, part in modules.items() if _own_parameters(part) or (name in reshaping and not list(part.children()))}
    order = sorted(listed, key=lambda name: list(shapes).index(name) if name in shapes else len(shapes))
    return [_layer(name, listed[name], shapes.get(name, ()), macs) for name in order]


def _layer(name: str, part: nn.Module, shape: tuple[int, ...], macs: dict[str, int]) -> Layer:
    biases = sum(values.numel() for key, values in _own_parameters(part).items() if key.endswith("bias"))
    weights = sum(values.numel() for values in _own_parameters(part).values()) - biases
    below = sum(macs.get(f"{name}.{child}", 0) for child, _ in part.named_children())
    return Layer(name, type(part).__name__, shape, weights, biases, macs.get(name, 0) - below)


def _own_parameters(part: nn.Module) -> dict[str, nn.Parameter]:
    return dict(part.named_parameters(recurse=False))


def _count_macs(model: nn.Module, size: int) -> dict[str, int]:
    """The MAC of each part of a model by its name, those of its parts included."""
    some = next(model.parameters())
    image = torch.zeros(1, 3, size, size, device=some.device)
    try:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(image)
    except (RuntimeError, AssertionError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{type(model).__name__} takes no image of {size} x {size} pixels: {reason}") from None
    top = type(model).__name__ + "."
    flops = {path: sum(by_operator.values()) for path, by_operator in counter.get_flop_counts().items()}
    return {path.removeprefix(top): count // 2 for path, count in flops.items() if path.startswith(top)}    # two operations a MAC


def _at_full_load(model: nn.Module) -> nn.Module:
    """The model, whose second stage, if it has one, looks at as many proposals as it may, and at DETECTIONS for their masks.

    Their number, and so the cost, would depend on the image.
    """
    for part in model.modules():
        if isinstance(part, RegionProposalNetwork):
            part.min_size, part.score_thresh, part.nms_thresh = 0.0, 0.0, 1.0
        elif isinstance(part, RoIHeads):
            part.score_thresh, part.nms_thresh, part.detections_per_img = -1.0, 1.0, DETECTIONS
    return model


def format_table(layers: Sequence[Layer]) -> str:
    """Layers as lines with their shapes, parameters and GMAC, the sums below them."""
    rows: list[tuple[str, ...]] = [("layer", "kind", "output", "weights", "biases", "parameters", "GMAC")]
    for layer in layers:
        shape = " x ".join(map(str, layer.shape[1:]))    # without the batch
        rows.append((layer.name, layer.kind, shape, *_numbers(layer.weights, layer.biases, layer.macs)))
    weights, biases, macs = (sum(getattr(layer, name) for layer in layers) for name in ("weights", "biases", "macs"))
    rows.append(("all", "", "", *_numbers(weights, biases, macs)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    columns = [f"{{:{'<' if place < TEXTS else '>'}{width}}}" for place, width in enumerate(widths)]
    return "\n".join("  ".join(columns).format(*row) for row in rows)


def sum_up(layers: Sequence[Layer], *, size: int) -> str:
    """What all layers of a network have and cost for an image of size x size pixels."""
    parameters, macs = sum(layer.parameters for layer in layers), sum(layer.macs for layer in layers)
    return f"{parameters:,} parameters, {macs / 1e9:.2f} GMAC for an image of {size} x {size} pixels"


def _numbers(weights: int, biases: int, macs: int) -> tuple[str, ...]:
    return f"{weights:,}", f"{biases:,}", f"{weights + biases:,}", f"{macs / 1e9:.4f}"


def find_model(name: str) -> tuple[nn.Module, str]:
    """Build the model that a name means, which takes images (B,3,H,W); nothing is fetched.

    Returns the model and the note of its weights file, which may be empty.

    The name is looked up as a preset, then as a weights file, then as a classification model of
    torchvision ("vgg16"). The prefix in "torchvision:resnet50" means any model of torchvision.
    FileNotFoundError or ValueError otherwise.
    """
    if name in PRESETS:
        return build_model(load_config(name).model), ""
    if not _is_of_torchvision(name):
        if os.path.exists(name):
            weights = read_weights(name)
            return build_from(weights, source=name), weights.note
        presets = ", ".join(PRESETS)
        raise FileNotFoundError(
            f"{name}: no such checkpoint, nor a preset ({presets}) "
            "or a classification model of torchvision"
        )
    name = name.removeprefix(TORCHVISION)
    if name not in torchvision.models.list_models():
        raise ValueError(f"{TORCHVISION}{name}: torchvision has no model of that name")
    builder = torchvision.models.get_model_builder(name)
    kept_from_fetching = {"weights_backbone": None} if "weights_backbone" in inspect.signature(builder).parameters else {}
    model: nn.Module = builder(weights=None, **kept_from_fetching)
    return model, ""


def _is_of_torchvision(name: str) -> bool:
    if name.startswith(TORCHVISION):
        return True
    is_classifier = name in torchvision.models.list_models(module=torchvision.models)
    return is_classifier and name not in PRESETS and not os.path.exists(name)


def main(argv: Sequence[str] | None = None) -> int:
    parser = ArgumentParser(
        prog="python -m detector.summary",
        description="List the layers of a network with their output, parameters and multiply-accumulates (MAC), and the sums.",
        epilog="Examples: python -m detector.summary resnet50 --size 640; python -m detector.summary vgg16",
    )
    parser.add_argument(
        "model",
        metavar="MODEL",
        help=f"preset ({', '.join(PRESETS)}), checkpoint of train.py, published weights, or a "
        "classification model of torchvision; torchvision:NAME is a model of torchvision, whatever else "
        "has that name",
    )
    parser.add_argument(
        "--size", metavar="PIXELS", type=int, help=f"side of the image (default: {DETECTOR_SIZE}, of a classifier {CLASSIFIER_SIZE})"
    )
    arguments = parser.parse_args(argv)
    default = CLASSIFIER_SIZE if _is_of_torchvision(arguments.model) else DETECTOR_SIZE
    size = default if arguments.size is None else arguments.size
    if size < 1:
        raise ValueError(f"--size: expected at least 1 pixel, found {size}")
    model, note = find_model(arguments.model)
    if note:
        print(f"{arguments.model}: {note}")
    layers = layers_of(model, size=size)
    print(format_table(layers))
    print(f"{arguments.model}: {sum_up(layers, size=size)}")
    return DONE


if __name__ == "__main__":
    sys.exit(run_script(main, "detector.summary"))
