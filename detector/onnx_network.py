"""A detector in an ONNX file, run by ONNX Runtime."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from config import ModelConfig, from_dict
from detector.network import Candidates, best_of, fill_color

INPUT = "images"
OUTPUTS = ("boxes", "scores", "landmarks")
SETTINGS = "model"    # the key of the metadata that holds the settings of the model
DRAW_CONFIDENCE = "draw_confidence"    # and that of the confidence from which detections are drawn


class OnnxNetwork:
    """The network in a file of detector.export; on a CUDA GPU where the installed ONNX Runtime can and `device` allows.

    FileNotFoundError or ValueError that names the file, or says what to install.
    """

    precision = "float32"
    batch = 1
    light = False    # ONNX Runtime has threads of its own
    has_nms = False
    class_name: str | None = None

    def __init__(self, path: str | Path, device: str):
        try:
            import onnxruntime
        except ModuleNotFoundError:
            raise missing("onnxruntime") from None
        if not Path(path).is_file():
            raise FileNotFoundError(f"{path}: no such ONNX file")
        can = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
        if device.startswith("cuda") and not can:
            raise ValueError(f"device {device}: this ONNX Runtime has no CUDA; expected auto or cpu, or pip install onnxruntime-gpu")
        providers: list[Any] = ["CPUExecutionProvider"]
        if can and device != "cpu":
            # Without TF32, which rounds the factors of float32 convolutions.
            providers = [("CUDAExecutionProvider", {"use_tf32": 0}), *providers]
        try:
            self.session = onnxruntime.InferenceSession(str(path), providers=providers)
            metadata = self.session.get_modelmeta().custom_metadata_map
            settings = json.loads(metadata[SETTINGS])
            self.draw_confidence = json.loads(metadata.get(DRAW_CONFIDENCE, "null"))
        except Exception as error:    # it raises what it likes
            raise ValueError(f"{path}: not an ONNX file of detector.export: {' '.join(str(error).split())[:100]}") from None
        self.config: ModelConfig = from_dict({"model": settings}, source=f"{path}: ").model
        self.device = torch.device("cpu")    # of what it gives
        self.fill = fill_color(self.config.mean, self.config.channel_order)

    def outputs(self, images: NDArray[np.uint8]) -> list[NDArray[Any]]:
        """boxes (B,P,4), scores (B,P) and, where the model has them, landmarks (B,P,5,2) for images (B,3,H,W)."""
        names = OUTPUTS if self.config.landmarks else OUTPUTS[:-1]
        return self.session.run(list(names), {INPUT: images})

    def __call__(self, images: Tensor, *, confidence: float, top_k: int) -> list[Candidates]:
        boxes, scores, *landmarks = (torch.from_numpy(output) for output in self.outputs(images.contiguous().numpy()))
        candidates = []
        for index, of_image in enumerate(scores):
            best = best_of(of_image, confidence=confidence, top_k=top_k)
            points = landmarks[0][index, best] if landmarks else None
            candidates.append(Candidates(boxes[index, best], of_image[best], points))
        return candidates


def missing(package: str) -> ValueError:
    """The error for a package that is not installed."""
    return ValueError(f'{package} is not installed: ONNX files need pip install -e ".[onnx]"')
