"""Write a detector as ONNX, and check it: python -m detector.export WEIGHTS OUT.onnx"""

from __future__ import annotations

import utils.import_errors  # noqa: F401 - the first, since it explains the errors of the others

# isort: split
import json
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from config import Config, to_dict
from detector.network import face_scores, fuse
from detector.onnx_network import DRAW_CONFIDENCE, INPUT, OUTPUTS, SETTINGS, OnnxNetwork, missing
from detector.retinaface import RetinaFace
from detector.weights import Weights, build_from, read_weights
from utils.box_utils import decode, decode_landmarks
from utils.files import whole_file
from utils.script import DONE, DONE_WITH_FAULTS, ArgumentParser, run_script

OPSET = 17
CHECKED = ((320, 320), (200, 333), (641, 480))    # heights and widths that the export is compared at
TOLERANCE = 1e-4    # of scores, and of places as a share of the image's longer side


class WholeDetector(nn.Module):
    """Images (B,3,H,W) uint8 BGR in; boxes (B,P,4) xyxy, scores (B,P) and landmarks (B,P,5,2), in pixels, of every prior out.

    The landmarks are left out where the model has none.
    """

    def __init__(self, model: RetinaFace):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        predictions = self.model(images)
        priors = self.model.prior_box.lay_out(*images.shape[2:])
        found = decode(predictions.boxes, priors), face_scores(predictions.logits)
        if predictions.landmarks is None:
            return found
        return *found, decode_landmarks(predictions.landmarks, priors)


def export(weights: str | Path, output: str | Path) -> str:
    """Write the detector in a weights file as ONNX, for images of any number and size.

    The file appears whole or not at all. The settings of the model travel in its metadata. Returns
    the note of the weights file, see `Weights`. ValueError that says what to install.
    """
    try:
        import onnx
    except ModuleNotFoundError:
        raise missing("onnx") from None
    loaded = read_weights(weights)
    model = build_retinaface(loaded, source=weights)
    detector = WholeDetector(fuse(model)).eval()
    names = OUTPUTS if model.landmark_head is not None else OUTPUTS[:-1]
    axes = {INPUT: {0: "batch", 2: "height", 3: "width"}, **{name: {0: "batch", 1: "priors"} for name in names}}
    example = torch.zeros(2, 3, 96, 128, dtype=torch.uint8)
    with whole_file(output) as partial, warnings.catch_warnings():
        # The exporter that all supported versions of PyTorch have; newer ones say that it is the older one.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            detector,
            (example,),
            str(partial),
            input_names=[INPUT],
            output_names=list(names),
            dynamic_axes=axes,
            opset_version=OPSET,
            dynamo=False,
        )
        graph = onnx.load(str(partial))
        properties = {SETTINGS: json.dumps(to_dict(Config(model=model.config))["model"])}
        if loaded.draw_confidence is not None:
            properties[DRAW_CONFIDENCE] = json.dumps(loaded.draw_confidence)
        onnx.helper.set_model_props(graph, properties)
        onnx.checker.check_model(graph)
        onnx.save(graph, str(partial))
    return loaded.note


def build_retinaface(weights: Weights, *, source: str | Path) -> RetinaFace:
    """Build the RetinaFace that weights are for; ValueError that names `source` otherwise."""
    model = build_from(weights, source=source)
    if not isinstance(model, RetinaFace):
        raise ValueError(f"{source}: only RetinaFace is exported here, found {model.config.architecture}")
    return model


def compare(weights: str | Path, exported: str | Path, *, height: int, width: int) -> dict[str, float]:
    """The largest difference of each output between PyTorch and ONNX Runtime on two random images of that size."""
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, height, width), dtype=np.uint8))
    with torch.inference_mode():
        expected = WholeDetector(build_retinaface(read_weights(weights), source=weights))(images)
    found = OnnxNetwork(exported, "cpu").outputs(images.numpy())
    return {
        name: float(np.abs(ours.numpy() - theirs).max()) for name, ours, theirs in zip(OUTPUTS, expected, found, strict=False)
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = ArgumentParser(
        prog="python -m detector.export",
        description="Write a detector as ONNX and compare it with PyTorch. The file takes images (B,3,H,W) uint8 BGR of any size and gives "
        'boxes, scores and landmarks in pixels for every prior; test.py --weights OUT.onnx runs it. Needs: pip install -e ".[onnx]"',
    )
    parser.add_argument("weights", metavar="WEIGHTS", help="checkpoint of train.py, or published RetinaFace weights")
    parser.add_argument("output", metavar="OUT.onnx", type=Path, help="file to write")
    arguments = parser.parse_args(argv)
    if arguments.output.suffix != ".onnx":
        raise ValueError(f"{arguments.output}: expected a name that ends in .onnx")
    note = export(arguments.weights, arguments.output)
    if note:
        print(f"{arguments.weights}: {note}")
    print(f"written to {arguments.output}; the largest differences from PyTorch, of boxes and landmarks in pixels:")
    agrees = True
    for height, width in CHECKED:
        differences = compare(arguments.weights, arguments.output, height=height, width=width)
        print(f"    {width} x {height}: " + ", ".join(f"{name} {difference:.1e}" for name, difference in differences.items()))
        limits = {"scores": TOLERANCE}
        agrees &= all(value <= limits.get(name, TOLERANCE * max(height, width)) for name, value in differences.items())
    print("they agree" if agrees else "they do not agree: do not use this file")
    return DONE if agrees else DONE_WITH_FAULTS


if __name__ == "__main__":
    sys.exit(run_script(main, "detector.export"))
