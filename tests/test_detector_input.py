"""What people hand to a detector in Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from config import ModelConfig
from detector.face_detector import FaceDetector
from detector.retinaface import RetinaFace
from utils.structures import Detections

IMAGE = np.full((40, 60, 3), 90, np.uint8)


class PilImage:
    """As far as a detector looks at one; Pillow is no dependency."""


PilImage.__module__ = "PIL.JpegImagePlugin"


@pytest.fixture(scope="module")
def detector() -> FaceDetector:
    return FaceDetector(RetinaFace(ModelConfig(backbone="mobilenet0.25", channels=64)))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "found None: cv2.imread returns None for a file that it cannot read"),
        ("photo.jpg", "found a str: read the image first, with cv2.imread(path)"),
        (Path("photo.jpg"), f"found a {type(Path()).__name__}: read the image first"),
        (b"\xff\xd8", "found bytes: decode them first: cv2.imdecode(np.frombuffer(data, np.uint8)"),
        (PilImage(), 'found a PIL image: use np.asarray(image.convert("RGB"))[:, :, ::-1]'),
        (torch.zeros(3, 4, 4), "found a torch tensor (3, 4, 4) of torch.float32: for RGB (3,H,W)"),
        (torch.zeros(2, 3, 4, 4), "found a torch tensor (2, 3, 4, 4) of torch.float32: for RGB"),
        (IMAGE / 255, "found (40, 60, 3) of float64: make its values 0 to 255 and convert it"),
        (IMAGE[..., 0], "found (40, 60) of uint8: convert a gray image with cv2.cvtColor"),
        (IMAGE[..., :1], "found (40, 60, 1) of uint8: convert a gray image with cv2.cvtColor"),
        (np.dstack([IMAGE, IMAGE[..., 0]]), "found (40, 60, 4) of uint8: convert an image with"),
        (IMAGE.transpose(2, 0, 1), "found (3, 40, 60) of uint8: move its channels to the end"),
        (IMAGE[:0], "found (0, 60, 3) of uint8: it has no pixels"),
        (3, "found an int: "),
        ({"image": IMAGE}, "found a dict: "),
        ([IMAGE, None], "found None as image 2 of 2: cv2.imread returns None"),
        (["a.jpg"], "found a str: read the image first"),
        (iter([IMAGE, IMAGE[..., 0]]), "found (40, 60) of uint8 as image 2 of 2: convert a gray"),
        (np.stack([IMAGE[..., 0]] * 2), "found (2, 40, 60) of uint8: "),
        (np.stack([IMAGE / 255] * 2), "found (40, 60, 3) of float64 as image 1 of 2: make its"),
        ([np.stack([IMAGE] * 2)], "found (2, 40, 60, 3) of uint8: give a batch as it is"),
    ],
)
def test_what_is_no_image_is_named_with_a_remedy(
    value: Any, message: str, detector: FaceDetector
) -> None:
    for detect in (detector, detector.detect):
        with pytest.raises(ValueError) as error:
            detect(value if not hasattr(value, "__next__") else iter([IMAGE, IMAGE[..., 0]]))
        expected = "expected an image (H,W,3) of uint8 with an area, found "
        assert message in str(error.value) and str(error.value).startswith(expected)


@pytest.mark.parametrize(
    "images",
    [
        [IMAGE, IMAGE], (IMAGE, IMAGE), np.stack([IMAGE, IMAGE]), (image for image in [IMAGE] * 2),
        map(np.copy, [IMAGE] * 2), {1: IMAGE, 2: IMAGE}.values(),
    ],
    ids=["list", "tuple", "batch", "generator", "map", "values"],
)  # fmt: skip
def test_several_images_come_in_any_iterable(images: Any, detector: FaceDetector) -> None:
    alone = detector(IMAGE)
    assert isinstance(alone, Detections)
    found = detector(images)
    assert isinstance(found, list) and len(found) == 2
    assert all(np.allclose(each.boxes, alone.boxes, atol=1e-3) for each in found)


def test_no_images_give_no_detections(detector: FaceDetector) -> None:
    assert detector([]) == detector(iter(())) == detector(np.zeros((0, 4, 4, 3), np.uint8)) == []


def test_view_of_an_array_in_any_order_is_an_image(detector: FaceDetector) -> None:
    view = np.asfortranarray(IMAGE)[::-1, ::-1, ::-1]
    assert np.allclose(detector(view).boxes, detector(view.copy()).boxes, atol=1e-3)


def test_clipped_copy_lies_within_the_image() -> None:
    boxes = np.array([[-5, -2, 70, 30], [10, 10, 20, 20], [-9, 5, -3, 9]], np.float32)
    landmarks = np.full((3, 5, 2), 80, np.float32)
    masks = np.zeros((3, 28, 28), np.uint8)
    found = Detections(boxes, np.array([0.9, 0.8, 0.7], np.float32), landmarks, masks)
    clipped = found.clipped(60, 40)
    assert clipped.boxes.tolist() == [[0, 0, 60, 30], [10, 10, 20, 20], [0, 5, 0, 9]]
    assert clipped.landmarks is not None and clipped.landmarks[0, 0].tolist() == [60, 40]
    assert clipped.boxes.dtype == clipped.landmarks.dtype == np.float32
    assert clipped.masks is None and found.boxes[0, 0] == -5
    assert len(Detections.none().clipped(60, 40)) == 0
