from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.ops

from config import ModelConfig, TestConfig
from data.labels import read_labels
from detector.face_detector import FaceDetector, resize
from detector.retinaface import RetinaFace
from utils.box_utils import decode, decode_landmarks, encode, encode_landmarks, jaccard, xyxy_to_cxcywh
from utils.devices import pick_device
from utils.images import read_image
from utils.structures import Predictions


@pytest.fixture
def model() -> RetinaFace:
    """One whose random heads say something else of each prior."""
    torch.manual_seed(0)
    model = RetinaFace(ModelConfig(backbone="mobilenet0.25", channels=64))
    for head in model.class_head:
        torch.nn.init.normal_(head.conv.weight)
    return model


def test_detections_are_those_of_a_plain_computation(model: RetinaFace, rng: np.random.Generator) -> None:
    image = rng.integers(0, 256, (90, 120, 3)).astype(np.uint8)
    config = TestConfig(confidence=0.4, nms=0.3, top_k=60, max_faces=9)
    found = FaceDetector(model, config)(image)

    with torch.no_grad():
        predictions = model.eval()(torch.from_numpy(image).permute(2, 0, 1)[None])
    priors = model.priors(90, 120)
    scores = predictions.logits[0].softmax(dim=1)[:, 1]
    keep = (scores > 0.4).nonzero()[:, 0]
    keep = keep[scores[keep].argsort(descending=True)][:60]
    boxes = decode(predictions.boxes[0], priors)[keep]
    kept = torchvision.ops.nms(boxes, scores[keep], 0.3)[:9]
    assert 0 < len(kept) == len(found) <= 9
    assert np.allclose(found.boxes, boxes[kept], atol=1e-3)
    assert np.allclose(found.scores, scores[keep][kept], atol=1e-6)
    assert found.landmarks is not None and predictions.landmarks is not None
    assert np.allclose(found.landmarks, decode_landmarks(predictions.landmarks[0], priors)[keep][kept], atol=1e-3)
    assert (np.diff(found.scores) <= 0).all()


class Oracle(RetinaFace):
    """A model that predicts one given face, in fractions of the image, whatever it is shown."""

    face = torch.tensor([0.25, 0.5, 0.5, 0.75])

    def forward(self, images: torch.Tensor) -> Predictions:
        height, width = images.shape[2:]
        priors = self.priors(height, width)
        box = (self.face * torch.tensor([width, height, width, height])).expand(len(priors), 4)
        best = (priors[:, :2] - xyxy_to_cxcywh(box)[:, :2]).abs().sum(dim=1).argmin()
        logits = torch.zeros(len(priors), 2)
        logits[:, 0] = 20
        logits[best] = torch.tensor([0.0, 5.0])
        points = box[:, None, :2].expand(-1, 5, 2)
        return Predictions(encode(box, priors)[None], logits[None], encode_landmarks(points, priors)[None])


@pytest.mark.parametrize("size", ["original", "x2", "x0.5", "long:100", "short:64:2000", "short:500:300"])
def test_faces_are_in_pixels_of_the_image_given_at_every_size(size: str) -> None:
    oracle = Oracle(ModelConfig(backbone="mobilenet0.25", channels=64))
    found = FaceDetector(oracle, TestConfig(size=size))(np.zeros((201, 333, 3), np.uint8))
    assert found.boxes.tolist() == [pytest.approx([333 / 4, 201 / 2, 333 / 2, 201 * 3 / 4], abs=0.01)]
    assert found.landmarks is not None
    assert found.landmarks[0, 0].tolist() == pytest.approx([333 / 4, 201 / 2], abs=0.01)
    assert found.scores.tolist() == pytest.approx([1 / (1 + np.exp(-5))])


@pytest.mark.parametrize(
    ("size", "shape"),
    [
        ("original", (60, 90)),
        ("x2", (120, 180)),
        ("long:640", (427, 640)),
        ("short:1600:2150", (1433, 2150)),
        ("short:30:2150", (30, 45)),
    ],
)
def test_image_is_resized_as_the_size_says(size: str, shape: tuple[int, int]) -> None:
    assert resize(np.zeros((60, 90, 3), np.uint8), size).shape[:2] == shape


def test_image_of_one_pixel_keeps_a_pixel() -> None:
    assert resize(np.zeros((1, 300, 3), np.uint8), "long:100").shape == (1, 100, 3)


def test_images_of_any_sizes_go_in_one_call(model: RetinaFace, rng: np.random.Generator) -> None:
    images = [rng.integers(0, 256, shape).astype(np.uint8) for shape in ((64, 64, 3), (33, 90, 3), (1, 1, 3), (1, 50, 3))]
    detector = FaceDetector(model, TestConfig(confidence=0.4))
    together = detector.detect(images)
    assert len(together) == 4
    for one, many in zip([detector(image) for image in images], together, strict=True):
        assert np.array_equal(one.boxes, many.boxes)


def test_model_without_landmarks_gives_none(rng: np.random.Generator) -> None:
    model = RetinaFace(ModelConfig(backbone="mobilenet0.25", channels=64, landmarks=False))
    found = FaceDetector(model, TestConfig(confidence=0.0))(rng.integers(0, 256, (64, 64, 3)).astype(np.uint8))
    assert len(found) and found.landmarks is None
    assert found.above(2).landmarks is None


def test_nothing_found_is_an_empty_answer_of_the_right_shapes(model: RetinaFace) -> None:
    found = FaceDetector(model, TestConfig(confidence=1.0))(np.zeros((64, 64, 3), np.uint8))
    assert found.boxes.shape == (0, 4) and found.scores.shape == (0,)
    assert found.landmarks is not None and found.landmarks.shape == (0, 5, 2)


@pytest.mark.parametrize(("shape", "dtype"), [((4, 4), "uint8"), ((4, 4, 4), "uint8"), ((4, 4, 3), "float32"), ((0, 4, 3), "uint8")])
def test_array_that_is_no_image_is_refused(shape: tuple[int, ...], dtype: str, model: RetinaFace) -> None:
    image = np.zeros(shape, dtype)
    with pytest.raises(ValueError, match=r"expected an image \(H,W,3\) of uint8 with an area, found "):
        FaceDetector(model)(image)


def test_detecting_does_not_disturb_training(model: RetinaFace) -> None:
    FaceDetector(model)(np.zeros((64, 64, 3), np.uint8))
    model.train()
    predictions = model(torch.zeros(2, 3, 64, 64, dtype=torch.uint8))
    (predictions.boxes * model.priors(64, 64)).sum().backward()
    assert model.box_head[0].conv.weight.grad is not None


def test_published_weights_find_the_astronaut(real_data: Path) -> None:
    detector = FaceDetector.from_checkpoint(real_data / "weights" / "retinaface_mobilenet0.25_published.pth", "cpu")
    found = detector(read_image(real_data / "photos" / "astronaut.png", turn=True)).above(0.5)
    assert len(found) == 1 and found.scores[0] > 0.99
    assert found.boxes[0].tolist() == pytest.approx([177, 56, 270, 176], abs=2)


def test_bfloat16_finds_the_same_faces(real_data: Path) -> None:
    path = real_data / "weights" / "retinaface_mobilenet0.25_published.pth"
    record = read_labels(real_data / "boxes_val" / "label.txt")[0]
    image = read_image(real_data / "boxes_val" / "images" / record.path, turn=False)
    plain, low = (
        FaceDetector.from_checkpoint(path, "cpu", config=replace(TestConfig(), precision=precision))(image).above(0.5)    # type: ignore[arg-type]
        for precision in ("float32", "bfloat16")
    )
    assert len(plain) == len(low) > 0
    iou = jaccard(torch.from_numpy(plain.boxes), torch.from_numpy(low.boxes))
    assert float(iou.amax(dim=1).min()) > 0.5    # the same face, though the box of another prior may have won


def test_unknown_device_is_named() -> None:
    for name in ("gpu", "cuda:99"):
        with pytest.raises(ValueError, match=f"device {name}: not available here"):
            pick_device(name)
