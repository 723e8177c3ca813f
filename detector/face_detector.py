"""FaceDetector: images in, faces out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
import torchvision.ops
from torch import Tensor

from config import TestConfig
from detector.retinaface import RetinaFace
from detector.weights import load_model
from utils.arrays import Image
from utils.box_utils import decode, decode_landmarks
from utils.devices import pick_device, pick_dtype
from utils.images import resize_factor
from utils.nms import nms
from utils.structures import Detections, Predictions

MOST_PIXELS = 2**28    # of a resized image; a network on more than that asks for hundreds of gigabytes


class FaceDetector:
    """Find the faces in images: resize, forward, threshold, decode, NMS.

    >>> detector = FaceDetector.from_checkpoint("weights/demo/best.pth")        # doctest: +SKIP
    >>> detector(cv2.imread("photo.jpg")).boxes                                 # doctest: +SKIP
    """

    def __init__(self, model: RetinaFace, config: TestConfig = TestConfig()):
        """`model` is used where it stands, and put into evaluation mode at each call."""
        self.model = model
        self.config = config
        self.dtype = pick_dtype(config.precision, model.device)

    @classmethod
    def from_checkpoint(cls, path: str | Path, device: str = "auto", *, config: TestConfig = TestConfig()) -> FaceDetector:
        """The detector in a weights file: a checkpoint of train.py, or published RetinaFace weights; ValueError for other files."""
        model = load_model(path).to(pick_device(device), memory_format=torch.channels_last)  # type: ignore[call-overload]
        return cls(model, config)

    def __call__(self, image: Image) -> Detections:
        """The faces in one image (H,W,3) uint8 BGR."""
        return self.detect([image])[0]

    def detect(self, images: Sequence[Image]) -> list[Detections]:
        """The faces in each of some images (H,W,3) uint8 BGR of any sizes, in pixels of that image.

        Boxes may reach beyond the image's border, where a face does. ValueError for an array that is no such image.
        """
        return [self._detect_one(image) for image in images]

    @torch.no_grad()
    def _detect_one(self, image: Image) -> Detections:
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
            raise ValueError(f"expected an image (H,W,3) of uint8 with an area, found {image.shape} of {image.dtype}")
        height, width = image.shape[:2]
        resized = resize(image, self.config.size)
        scale = np.array([width / resized.shape[1], height / resized.shape[0]], dtype=np.float32)    # back to the image given
        batch = torch.from_numpy(np.ascontiguousarray(resized)).to(self.model.device)[None].permute(0, 3, 1, 2)
        self.model.eval()
        with torch.autocast(self.model.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32):
            predictions = self.model(batch)
        priors = self.model.priors(*resized.shape[:2])
        return self._select(predictions, priors, scale)

    def _select(self, predictions: Predictions, priors: Tensor, scale: np.ndarray) -> Detections:
        """The faces that the predictions for one image (B = 1) stand for, times `scale` (x, y)."""
        boxes, logits = predictions.boxes[0].float(), predictions.logits[0].float()
        scores = torch.sigmoid(logits[:, 1] - logits[:, 0])    # (P,)
        # Most priors see no face: what is dropped here need not be decoded.
        candidates = torch.nonzero(scores >= self.config.confidence)[:, 0]
        order = scores[candidates].argsort(descending=True, stable=True)[: self.config.top_k]
        candidates = candidates[order]
        scores, priors = scores[candidates], priors[candidates]
        to_image = torch.from_numpy(scale).to(boxes.device)
        boxes = decode(boxes[candidates], priors) * to_image.repeat(2)
        kept = self._nms(boxes, scores)[: self.config.max_faces]
        landmarks = None
        if predictions.landmarks is not None:
            points = predictions.landmarks[0][candidates[kept]].float()
            landmarks = (decode_landmarks(points, priors[kept]) * to_image).cpu().numpy()
        return Detections(boxes[kept].cpu().numpy(), scores[kept].cpu().numpy(), landmarks)

    def _nms(self, boxes: Tensor, scores: Tensor) -> Tensor:
        if boxes.is_cuda:
            return torchvision.ops.nms(boxes, scores, self.config.nms)
        dets = torch.cat([boxes, scores[:, None]], dim=1).numpy()
        return torch.tensor(nms(dets, self.config.nms), dtype=torch.int64)


def resize(image: Image, size: str) -> Image:
    """An image as `test.size` asks: original, x2 (times two), long:640 (long side), short:1600:2150 (short side, long side at most).

    The aspect ratio is kept to the pixel; enlarging and shrinking are bilinear, as in the published protocols. ValueError for an
    image that would have more than 2^28 pixels.
    """
    height, width = image.shape[:2]
    factor = resize_factor(size, width, height)
    if factor == 1:
        return image
    new = max(1, round(width * factor)), max(1, round(height * factor))
    if new[0] * new[1] > MOST_PIXELS:
        raise ValueError(f"test.size={size}: {width} x {height} pixels would become {new[0]} x {new[1]}, expected at most {MOST_PIXELS:,}")
    return np.asarray(cv2.resize(image, new, interpolation=cv2.INTER_LINEAR), dtype=np.uint8)
