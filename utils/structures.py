"""What travels between the parts: Target, Predictions, Detections."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from utils.alignment import align_face
from utils.arrays import BoolArray, FloatArray, Image


@dataclass(frozen=True)
class Target:
    """The labelled faces of one image, in pixels of that image; there may be none.

    boxes (N,4) float32 xyxy; landmarks (N,5,2) float32: left eye, right eye, nose, left and right mouth corner, left as seen in
    the image; has_landmarks (N,5) bool, which points are known; ignore (N,) bool, faces to be neither learnt nor denied; regions
    (H,W) int16, where they are known: which face a pixel shows, 1 the first one, 0 none.
    """

    boxes: Tensor
    landmarks: Tensor
    has_landmarks: Tensor
    ignore: Tensor
    regions: Tensor | None = None

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Target:
        """The same faces on another device."""
        return self._map(lambda part: part.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Target:
        """The same faces in page-locked memory, for copies to a GPU that do not wait; a DataLoader calls this."""
        return self._map(Tensor.pin_memory)

    def _map(self, change: Callable[[Tensor], Tensor]) -> Target:
        boxes, landmarks, has_landmarks, ignore = map(change, self.parts())
        return Target(boxes, landmarks, has_landmarks, ignore, None if self.regions is None else change(self.regions))

    def masks(self) -> Tensor:
        """Which pixels show each face, (N,H,W) bool; ValueError where that is not known."""
        if self.regions is None:
            raise ValueError("expected to know which pixels show a face, found boxes only: masks are learnt from a Penn-Fudan set")
        return self.regions == torch.arange(1, len(self.boxes) + 1, device=self.regions.device)[:, None, None]

    def parts(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """boxes, landmarks, has_landmarks, ignore."""
        return self.boxes, self.landmarks, self.has_landmarks, self.ignore


class Photo(NamedTuple):
    """A labelled photo as it is: its file, its name in the label, image (H,W,3) uint8 BGR and faces; or no image, and the reason why its
    file could not be read."""

    path: str
    name: str
    image: Image | None
    target: Target
    fault: str | None


class Predictions(NamedTuple):
    """What the network says of a batch, raw, in training and in evaluation alike.

    boxes (B,P,4) and landmarks (B,P,5,2) are offsets from the priors, as `utils.box_utils.encode` makes them; logits (B,P,2) are
    [background, face]. landmarks is None where the model has no landmark head.
    """

    boxes: Tensor
    logits: Tensor
    landmarks: Tensor | None


@dataclass(frozen=True)
class Detections:
    """The faces found in one image, best first, in pixels of that image.

    boxes (N,4) float32 xyxy, scores (N,) float32 in [0, 1], landmarks (N,5,2) float32 or None; masks (N,M,M) uint8 or None, how sure
    each cell of a grid over the box is to show it, of 255: `utils.masks.paste_mask` makes pixels of it.
    class_name is the class of all of them, such as "person", or None.
    """

    boxes: FloatArray
    scores: FloatArray
    landmarks: FloatArray | None
    masks: Image | None = None
    class_name: str | None = None

    @classmethod
    def none(cls) -> Detections:
        """No faces at all."""
        return cls(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), None)

    def __len__(self) -> int:
        return len(self.scores)

    def above(self, confidence: float) -> Detections:
        """Those whose score reaches `confidence`."""
        return self.where(self.scores >= confidence)

    def where(self, keep: BoolArray) -> Detections:
        """Those that `keep` (N,) marks."""
        landmarks = None if self.landmarks is None else self.landmarks[keep]
        masks = None if self.masks is None else self.masks[keep]
        return Detections(self.boxes[keep], self.scores[keep], landmarks, masks, self.class_name)

    def clipped(self, width: int, height: int) -> Detections:
        """Return a copy whose boxes and landmarks lie within an image of width x height pixels.

        A box that lies wholly outside has no area then. Masks are left out, since a mask belongs to
        its whole box.
        """
        size = np.array([width, height], np.float32)
        boxes = np.clip(self.boxes, 0, np.tile(size, 2))
        landmarks = None if self.landmarks is None else np.clip(self.landmarks, 0, size)
        return Detections(boxes, self.scores.copy(), landmarks, class_name=self.class_name)

    def scaled(self, factor: float) -> Detections:
        """The same faces in an image `factor` times as large."""
        landmarks = None if self.landmarks is None else self.landmarks * factor
        return replace(self, boxes=self.boxes * factor, landmarks=landmarks)

    def crop_aligned(self, image: Image, size: int = 112) -> Image:
        """The faces (N,size,size,3) cut out of their image (H,W,3), turned upright and scaled so that eyes, nose and mouth lie where
        face recognition expects them; black where the image ends. ValueError without landmarks."""
        if self.landmarks is None:
            raise ValueError("expected landmarks to align faces by, found none: the model has no landmark head")
        crops = np.zeros((len(self), size, size, 3), dtype=np.uint8)
        for crop, points in zip(crops, self.landmarks, strict=True):
            crop[:] = align_face(image, points, size=size)
        return crops
