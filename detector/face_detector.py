"""FaceDetector: images in, faces out."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePath
from typing import NamedTuple, TypeGuard, overload

import cv2
import numpy as np
import torch
import torchvision.ops
from torch import Tensor, nn

from config import TestConfig
from detector.merging import ALL_SIZES, gates, in_gate, join, vote
from detector.models import Model, make_network
from detector.network import Candidates, Network
from detector.onnx_network import OnnxNetwork
from detector.weights import SHIPPED, build_from, read_weights
from utils.arrays import Image
from utils.box_utils import MIRRORED_POINTS
from utils.devices import pick_device
from utils.images import resize_factor
from utils.nms import nms
from utils.structures import Detections
from utils.threads import side_by_side

BATCH_PIXELS = 2**23    # of a batch, at most, as the network sees it
LARGE = 2**22    # pixels; such images are not looked at side by side, which would take too much memory


class View(NamedTuple):
    """How the network is shown an image: resized to width x height, maybe mirrored, and padded to `canvas` (width, height) pixels.

    It may find faces whose size sqrt(w h), in pixels of the image, lies within `gate`.
    """

    width: int
    height: int
    canvas: tuple[int, int]
    flip: bool
    gate: tuple[float, float]


class FaceDetector:
    """Find the faces in images: resize, forward, threshold, decode, NMS; of several views of an image, merge them.

    >>> detector = FaceDetector.from_checkpoint()
    >>> detector(cv2.imread("photo.jpg")).boxes    # doctest: +SKIP
    """

    def __init__(self, network: Model | Network, config: TestConfig = TestConfig()):
        """A model is copied as it stands now, and left as it is."""
        self.network = make_network(network, config.precision) if isinstance(network, nn.Module) else network
        self.config = config
        # Of a weights file, see `detector.weights.Weights`.
        self.note = ""
        self.draw_confidence: float | None = None

    @classmethod
    def from_checkpoint(cls, path: str | Path = SHIPPED, device: str = "auto", *, config: TestConfig = TestConfig()) -> FaceDetector:
        """The detector in a weights file: a checkpoint of train.py, published RetinaFace weights, or what detector.export made of one.

        Without a file it is the one that comes with the code.
        FileNotFoundError or ValueError that names the file.
        """
        if Path(path).suffix.lower() == ".onnx":
            network = OnnxNetwork(path, device)
            detector = cls(network, config)
            detector.draw_confidence = network.draw_confidence
            return detector
        weights = read_weights(path)
        detector = cls(build_from(weights, source=path).to(pick_device(device)), config)
        detector.note, detector.draw_confidence = weights.note, weights.draw_confidence
        return detector

    @overload
    def __call__(self, images: Image) -> Detections: ...    # type: ignore[overload-overlap]
    @overload
    def __call__(self, images: Iterable[Image]) -> list[Detections]: ...
    def __call__(self, images: Image | Iterable[Image]) -> Detections | list[Detections]:
        """Find the faces in one image (H,W,3) uint8 BGR, or in each image of an iterable.

        An array (N,H,W,3) is N images. Boxes may reach beyond the image (see Detections.clipped).
        ValueError that says how to make an image of anything else.
        """
        if _holds_images(images):
            return self.detect(images)
        _check(images)
        return self.detect([images])[0]    # type: ignore[list-item]

    def detect(self, images: Iterable[Image]) -> list[Detections]:
        """The faces in each of some images (H,W,3) uint8 BGR of any sizes, in pixels of that image.

        Images that the network is shown in equal sizes share a batch; on a CPU a light network
        looks at them side by side instead. Boxes may reach beyond the image's border, where a face
        does; `Detections.clipped` cuts them off. ValueError for what is no such image, which says
        what was found and how to make one of it.
        """
        if not _holds_images(images):
            _check(images)
            images = [images]    # type: ignore[list-item]
        images = list(images)    # a generator too
        for number, image in enumerate(images, start=1):
            _check(image, place=f" as image {number} of {len(images)}" if len(images) > 1 else "")
        views = [self._views(image.shape[1], image.shape[0]) for image in images]
        one_by_one, beside = self._batches(views)

        def work(batch: list[int]) -> list[Detections]:
            return self._detect_batch([images[index] for index in batch], [views[index] for index in batch])

        results = [*map(work, one_by_one), *side_by_side(work, beside)]
        order = [index for batch in [*one_by_one, *beside] for index in batch]
        found = [detections for batch in results for detections in batch]
        return [found[place] for place in np.argsort(order)]

    def _batches(self, views: Sequence[Sequence[View]]) -> tuple[list[list[int]], list[list[int]]]:
        """Indices of images that go through the network together, and of those that do so on one core each."""
        alike: dict[tuple[tuple[int, int], ...], list[int]] = {}
        for index, of_image in enumerate(views):
            alike.setdefault(tuple(view.canvas for view in of_image), []).append(index)
        one_by_one: list[list[int]] = []
        beside: list[list[int]] = []
        for canvases, indices in alike.items():
            pixels = max(width * height for width, height in canvases)
            size = min(self.network.batch, max(1, BATCH_PIXELS // pixels))
            batches = beside if self.network.light and pixels <= LARGE else one_by_one
            batches += [indices[start : start + size] for start in range(0, len(indices), size)]
        return one_by_one, beside

    def _views(self, width: int, height: int) -> list[View]:
        """How an image of that size is shown."""
        config = self.config
        limit = config.max_side / max(width, height)
        asked = resize_factor(config.size, width, height)
        if asked * max(config.scales) > limit:
            warnings.warn(
                f"an image of {width} x {height} pixels is looked at with a long side of {config.max_side}, the most by test.max_side",
                stacklevel=2,
            )
        factors = sorted({min(asked * scale, limit) for scale in config.scales})
        views = []
        for factor, gate in zip(factors, gates(factors) if config.gate else [ALL_SIZES] * len(factors), strict=True):
            new = max(1, round(width * factor)), max(1, round(height * factor))
            canvas = (max(new), max(new)) if config.size.startswith("long:") else new
            views += [View(*new, canvas, flip, gate) for flip in ((False, True) if config.flip else (False,))]
        return views

    @torch.inference_mode()
    def _detect_batch(self, images: Sequence[Image], views: Sequence[Sequence[View]]) -> list[Detections]:
        """The faces in images whose views have equal canvases."""
        found: list[list[Candidates]] = [[] for _ in images]
        for shown in zip(*views, strict=True):    # the first view of each image, then the second
            pixels = np.stack([show(image, view, fill=self.network.fill) for image, view in zip(images, shown, strict=True)])
            batch = torch.from_numpy(pixels).permute(0, 3, 1, 2)
            candidates = self.network(batch, confidence=self.config.confidence, top_k=self.config.top_k)
            for of_image, each, image, view in zip(found, candidates, images, shown, strict=True):
                of_image.append(to_image(each, view, width=image.shape[1], height=image.shape[0]))
        return [self._select(of_image, of_views) for of_image, of_views in zip(found, views, strict=True)]

    def _select(self, found: Sequence[Candidates], views: Sequence[View]) -> Detections:
        """The faces among the candidates of each view."""
        candidates = join([in_gate(each, view.gate) for each, view in zip(found, views, strict=True)])
        candidates = candidates.take(slice(self.config.top_k))
        if not self.network.has_nms or len(views) > 1:
            candidates = candidates.take(self._nms(candidates.boxes, candidates.scores))
        faces = candidates.take(slice(self.config.max_faces))
        chosen = vote(faces, join(found)) if self.config.vote else faces
        parts = (None if part is None else part.cpu().numpy() for part in chosen)
        return replace(Detections(*parts), class_name=self.network.class_name)    # type: ignore[arg-type]

    def _nms(self, boxes: Tensor, scores: Tensor) -> Tensor:
        if boxes.is_cuda:
            return torchvision.ops.nms(boxes, scores, self.config.nms)
        dets = torch.cat([boxes, scores[:, None]], dim=1).numpy()
        return torch.tensor(nms(dets, self.config.nms), dtype=torch.int64)


def _holds_images(value: object) -> TypeGuard[Iterable[Image]]:
    """Return True for a list, generator or array of several images."""
    if isinstance(value, np.ndarray):
        return value.ndim == 4
    return isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping | Tensor)


def _check(image: object, *, place: str = "") -> None:
    """ValueError for what is no image, which says what it is and how to make an image of it."""
    kind = type(image)
    name = f"{'an' if kind.__name__[0] in 'aeiouAEIOU' else 'a'} {kind.__name__}"
    if isinstance(image, np.ndarray):
        is_image = image.ndim == 3 and image.shape[2] == 3 and image.dtype == np.uint8
        if is_image and image.size:
            return
        found = f"{image.shape} of {image.dtype}"
        advice = "cv2.imread gives such an image"
        if 0 in image.shape:
            advice = "it has no pixels"
        elif image.dtype != np.uint8:
            advice = "make its values 0 to 255 and convert it with image.astype(np.uint8)"
        elif image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 1):
            advice = "convert a gray image with cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)"
        elif image.ndim == 3 and image.shape[2] == 4:
            advice = "convert an image with alpha with cv2.cvtColor(image, cv2.COLOR_BGRA2BGR)"
        elif image.ndim == 3 and image.shape[0] == 3:
            advice = "move its channels to the end with image.transpose(1, 2, 0)"
        elif image.ndim == 4:
            advice = "give a batch as it is, not in a list"
    elif image is None:
        found, advice = "None", "cv2.imread returns None for a file that it cannot read"
    elif isinstance(image, str | PurePath):
        found, advice = name, "read the image first, with cv2.imread(path)"
    elif isinstance(image, bytes):
        found = "bytes"
        advice = "decode them first: cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)"
    elif isinstance(image, Tensor):
        found = f"a torch tensor {tuple(image.shape)} of {image.dtype}"
        advice = "for RGB (3,H,W) uint8 use image.permute(1, 2, 0).flip(2).cpu().numpy()"
    elif kind.__module__.startswith("PIL."):
        found, advice = "a PIL image", 'use np.asarray(image.convert("RGB"))[:, :, ::-1]'
    else:
        found, advice = name, "cv2.imread gives such an image"
    raise ValueError(
        f"expected an image (H,W,3) of uint8 with an area, found {found}{place}: {advice}"
    )


def show(image: Image, view: View, *, fill: tuple[int, int, int]) -> Image:
    """An image (H,W,3) as a view has it; enlarging and shrinking are bilinear, as in the published protocols."""
    shown = image
    if shown.shape[:2] != (view.height, view.width):
        shown = cv2.resize(shown, (view.width, view.height), interpolation=cv2.INTER_LINEAR)    # type: ignore[assignment]
    if view.flip:
        shown = shown[:, ::-1]
    beside, below = view.canvas[0] - view.width, view.canvas[1] - view.height
    if beside or below:
        shown = cv2.copyMakeBorder(shown, 0, below, 0, beside, cv2.BORDER_CONSTANT, value=fill)    # type: ignore[assignment]
    return shown


def to_image(candidates: Candidates, view: View, *, width: int, height: int) -> Candidates:
    """What was found in a view, in pixels of the image of width x height, without what lies in the padding."""
    boxes, scores, landmarks, masks = candidates
    if view.flip:
        boxes = torch.stack([view.width - boxes[:, 2], boxes[:, 1], view.width - boxes[:, 0], boxes[:, 3]], dim=1)
        if landmarks is not None:
            landmarks = landmarks[:, MIRRORED_POINTS]
            landmarks = torch.stack([view.width - landmarks[..., 0], landmarks[..., 1]], dim=-1)
        masks = None if masks is None else masks.flip(2)
    scale = torch.tensor([width / view.width, height / view.height], device=boxes.device)
    boxes = boxes * scale.repeat(2)
    landmarks = None if landmarks is None else landmarks * scale
    shown = Candidates(boxes, scores, landmarks, masks)
    if view.canvas == (view.width, view.height):
        return shown
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    return shown.take((centres <= scale.new_tensor([width, height])).all(dim=1))
