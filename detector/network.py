"""Networks as the detector uses them: pixels in, candidates out, whatever computes them."""

from __future__ import annotations

import copy
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from detector.retinaface import RetinaFace
from utils.box_utils import decode, decode_landmarks
from utils.devices import exact_float32, pick_dtype, works_behind
from utils.memory import keep_freed_memory

Module = TypeVar("Module", bound=nn.Module)
BATCH_IMAGES = 16
LIGHT = 10_000_000    # parameters; one image on a network of fewer does not keep several cores busy


class Candidates(NamedTuple):
    """What may be faces in one image, best first, in pixels of the network's input: boxes (N,4) xyxy, scores (N,), landmarks
    (N,5,2) or None, and masks (N,M,M) uint8 or None, how sure each cell of a grid over the box is to show it, of 255."""

    boxes: Tensor
    scores: Tensor
    landmarks: Tensor | None
    masks: Tensor | None = None

    def take(self, which: Tensor | slice) -> Candidates:
        """Those that indices, a mask (N,) or a slice name."""
        landmarks, masks = (None if part is None else part[which] for part in (self.landmarks, self.masks))
        return Candidates(self.boxes[which], self.scores[which], landmarks, masks)


class Network(Protocol):
    """Finds candidates in images (B,3,H,W) uint8 BGR: those whose score reaches `confidence`, at most `top_k` an image.

    `fill` is the BGR colour that an image is padded with. `batch` is how many images it is best shown at a time, and `light` says
    that it is better used by several threads at once, each on one core. `device` and `precision` are told beside figures.
    `has_nms` says that its candidates have been through NMS. `class_name` is what it detects, None
    for faces.
    """

    fill: tuple[int, int, int]
    batch: int
    light: bool
    device: torch.device
    precision: str
    has_nms: bool
    class_name: str | None

    def __call__(self, images: Tensor, *, confidence: float, top_k: int) -> list[Candidates]: ...


class TorchNetwork:
    """A RetinaFace as it stands now, made fast for inference.

    In float32 batch norms become part of the convolutions before them. Weights of a lower precision are rounded as they are: rounded
    after that, they would shift the scores.
    """

    has_nms = False
    class_name: str | None = None

    def __init__(self, model: RetinaFace, precision: str):
        self.model = copy.deepcopy(model).eval()
        self.device = model.device
        self.dtype = pick_dtype(precision, model.device)
        self.precision = str(self.dtype).removeprefix("torch.")
        if self.dtype == torch.float32:
            fuse(self.model)
        for part in (self.model.body, self.model.fpn, self.model.ssh):
            for convolution in (each for each in part.modules() if isinstance(each, nn.Conv2d)):
                convolution.to(self.dtype)    # once, instead of in each call
        self.model.to(memory_format=torch.channels_last)    # type: ignore[call-overload]
        if not works_behind(self.device):
            keep_freed_memory()    # a quarter of the time would go into fetching it anew for each image
        # A CPU is kept busy by one image, and its caches hold no more.
        self.batch = BATCH_IMAGES if works_behind(self.device) else 1
        self.light = self.device.type == "cpu" and sum(weights.numel() for weights in model.parameters()) < LIGHT
        self.fill = fill_color(model.config.mean, model.config.channel_order)

    def __call__(self, images: Tensor, *, confidence: float, top_k: int) -> list[Candidates]:
        images = images.to(self.device, non_blocking=True)
        with exact_float32(self.device, self.dtype):
            with torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32):
                features = self.model.features(images)
            # The heads take little time, and in a low precision they would round places to pixels.
            predictions = self.model.predict([level.float() for level in features])
        priors = self.model.priors(*images.shape[2:])
        scores = face_scores(predictions.logits)    # (B, P)
        candidates = []
        for index, of_image in enumerate(scores):
            best = best_of(of_image, confidence=confidence, top_k=top_k)
            # Most priors see no face: only what is left is decoded.
            boxes = decode(predictions.boxes[index, best].float(), priors[best])
            landmarks = None
            if predictions.landmarks is not None:
                landmarks = decode_landmarks(predictions.landmarks[index, best].float(), priors[best])
            candidates.append(Candidates(boxes, of_image[best], landmarks))
        return candidates


def face_scores(logits: Tensor) -> Tensor:
    """The probability of a face (...,P) for logits (...,P,2) of background and face, as float32."""
    background, face = logits.float().unbind(-1)
    return torch.sigmoid(face - background)


def best_of(scores: Tensor, *, confidence: float, top_k: int) -> Tensor:
    """The indices of the scores (P,) that reach `confidence`, at most `top_k`, best first."""
    candidates = torch.nonzero(scores >= confidence)[:, 0]
    return candidates[scores[candidates].argsort(descending=True, stable=True)[:top_k]]


def fill_color(mean: tuple[float, float, float], channel_order: str) -> tuple[int, int, int]:
    """The BGR colour that is nearest to zero once it is normalised."""
    blue, green, red = np.rint(mean if channel_order == "bgr" else mean[::-1]).astype(int).clip(0, 255).tolist()
    return blue, green, red


def fuse(module: Module) -> Module:
    """Make each batch norm that comes right behind a convolution, among a module's children or below, part of it; gives the module."""
    before: tuple[str, nn.Module] = "", module
    for name, child in list(module.named_children()):
        if isinstance(child, (nn.BatchNorm2d, nn.SyncBatchNorm)) and isinstance(before[1], nn.Conv2d):
            setattr(module, before[0], fuse_conv_bn_eval(before[1], child))
            setattr(module, name, nn.Identity())
        else:
            fuse(child)
        before = name, child
    return module
