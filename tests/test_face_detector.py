from __future__ import annotations

import copy
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.ops
from hypothesis import given, settings
from hypothesis import strategies as st

from config import ModelConfig, TestConfig
from data.labels import read_labels
from detector.face_detector import FaceDetector
from detector.network import Candidates, TorchNetwork, fuse
from detector.retinaface import RetinaFace
from utils.box_utils import decode, decode_landmarks, encode, encode_landmarks, jaccard, xyxy_to_cxcywh
from utils.devices import pick_device
from utils.images import read_image
from utils.structures import Detections, Predictions


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

    def features(self, images: torch.Tensor) -> list[torch.Tensor]:
        return [images]

    def predict(self, features: list[torch.Tensor]) -> Predictions:
        height, width = features[0].shape[2:]
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
    found = FaceDetector(oracle, TestConfig(size=size))(np.zeros((301, 333, 3), np.uint8))
    height = 301 * 100 / 90 if size.startswith("long") else 301    # 90 rows are padded to 100, and the model fills fractions of those
    assert found.boxes.tolist() == [pytest.approx([333 / 4, height / 2, 333 / 2, height * 3 / 4], abs=0.01)]
    assert found.landmarks is not None
    assert found.landmarks[0, 0].tolist() == pytest.approx([333 / 4, height / 2], abs=0.01)
    assert found.scores.tolist() == pytest.approx([1 / (1 + np.exp(-5))])


class Shapes:
    """A network that finds nothing and remembers what it was shown."""

    fill, device, precision = (1, 2, 3), torch.device("cpu"), "float32"
    has_nms = False
    class_name: str | None = None

    def __init__(self, *, batch: int = 1, light: bool = False):
        self.batch = batch
        self.light = light
        self.seen: list[torch.Tensor] = []

    def __call__(self, images: torch.Tensor, *, confidence: float, top_k: int) -> list[Candidates]:
        self.seen.append(images.clone())
        return [Candidates(torch.zeros(0, 4), torch.zeros(0), None)] * len(images)

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        return [tuple(images.shape) for images in self.seen]


@pytest.mark.parametrize(
    ("size", "shape"),
    [
        ("original", (60, 90)),
        ("x2", (120, 180)),
        ("long:640", (640, 640)),
        ("short:1600:2150", (1433, 2150)),
        ("short:30:2150", (30, 45)),
    ],
)
def test_image_is_shown_as_the_size_says(size: str, shape: tuple[int, int]) -> None:
    network = Shapes()
    FaceDetector(network, TestConfig(size=size))(np.zeros((60, 90, 3), np.uint8))
    assert network.shapes == [(1, 3, *shape)]


def test_image_of_a_fixed_size_is_padded_below_and_beside_in_the_colour_of_the_mean() -> None:
    network = Shapes()
    FaceDetector(network, TestConfig(size="long:100"))([np.full((1, 300, 3), 9, np.uint8), np.full((200, 100, 3), 9, np.uint8)])
    wide, high = (shown[0].permute(1, 2, 0) for shown in network.seen)
    assert wide.shape == high.shape == (100, 100, 3)
    assert (wide[0] == 9).all() and (wide[1:] == torch.tensor([1, 2, 3])).all()
    assert (high[:, :50] == 9).all() and (high[:, 50:] == torch.tensor([1, 2, 3])).all()


def test_image_beyond_the_largest_side_is_shrunk_with_a_warning() -> None:
    network = Shapes()
    detector = FaceDetector(network, TestConfig(max_side=100, scales=(1, 2)))
    with pytest.warns(UserWarning, match="an image of 300 x 60 pixels is looked at with a long side of 100, the most by test.max_side"):
        detector(np.zeros((60, 300, 3), np.uint8))
    assert network.shapes == [(1, 3, 20, 100)]    # both scales come to the same
    network.seen.clear()
    detector(np.zeros((50, 40, 3), np.uint8))    # without a warning
    assert network.shapes == [(1, 3, 50, 40), (1, 3, 100, 80)]


def test_images_of_equal_shape_share_a_batch_and_keep_their_order(rng: np.random.Generator) -> None:
    images = [rng.integers(0, 256, shape).astype(np.uint8) for shape in [(9, 8, 3), (5, 5, 3), (9, 8, 3), (9, 8, 3), (8, 9, 3)]]
    network = Shapes(batch=2)
    assert len(FaceDetector(network)(images)) == 5
    assert network.shapes == [(2, 3, 9, 8), (1, 3, 9, 8), (1, 3, 5, 5), (1, 3, 8, 9)]
    assert (network.seen[0][1].permute(1, 2, 0).numpy() == images[2]).all()
    assert (network.seen[3][0].permute(1, 2, 0).numpy() == images[4]).all()


@pytest.mark.parametrize("size", ["original", "long:80"])
@pytest.mark.parametrize(("batch", "light"), [(1, True), (1, False), (4, False)])
def test_one_call_equals_single_calls(batch: int, light: bool, size: str, model: RetinaFace, rng: np.random.Generator) -> None:
    shapes = [(64, 64, 3), (33, 90, 3), (64, 64, 3), (1, 1, 3), (1, 50, 3), (64, 64, 3), (33, 90, 3), (90, 33, 3)]
    images = [rng.integers(0, 256, shape).astype(np.uint8) for shape in shapes]
    network = TorchNetwork(model, "float32")
    network.batch, network.light = batch, light
    detector = FaceDetector(network, TestConfig(confidence=0.4, size=size))
    together = detector(images)
    assert sum(map(len, together)) > 8
    for image, many in zip(images, together, strict=True):
        one = detector(image)
        assert len(one) == len(many)
        assert np.allclose(one.boxes, many.boxes, atol=0.01) and np.allclose(one.scores, many.scores, atol=1e-5)
        assert one.landmarks is not None and many.landmarks is not None
        assert np.allclose(one.landmarks, many.landmarks, atol=0.01)


def test_model_is_left_as_it_is_and_later_training_does_not_reach_the_detector(model: RetinaFace, rng: np.random.Generator) -> None:
    image = rng.integers(0, 256, (64, 64, 3)).astype(np.uint8)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    detector = FaceDetector(model, TestConfig(confidence=0.4))
    found = detector(image)
    assert model.training and all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with torch.no_grad():
        for weights in model.parameters():
            weights.zero_()
    assert np.array_equal(detector(image).boxes, found.boxes)


@pytest.mark.parametrize("backbone", ["mobilenet0.25", "resnet18", "resnet50"])
def test_fused_network_says_the_same(backbone: str) -> None:
    torch.manual_seed(0)
    model = RetinaFace(ModelConfig(backbone=backbone, channels=64)).train()    # type: ignore[arg-type]
    images = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8)
    with torch.no_grad():
        model(images)    # so that the statistics are not those of a fresh batch norm
        model.eval()
        fused = fuse(copy.deepcopy(model))
        assert not any(isinstance(part, torch.nn.BatchNorm2d) for part in fused.modules())
        for ours, plain in zip(fused(images), model(images), strict=True):
            assert torch.allclose(ours, plain, atol=1e-4, rtol=1e-4)


class Planted:
    """A network that finds given faces, in fractions of what it is shown, of a mirror image those mirrored."""

    fill, batch, light, device, precision = (0, 0, 0), 1, False, torch.device("cpu"), "float32"
    has_nms = False
    class_name: str | None = None

    def __init__(self, faces: dict[int, list[list[float]]]):
        self.faces = faces    # by the width that is shown: x1 y1 x2 y2 score

    def __call__(self, images: torch.Tensor, *, confidence: float, top_k: int) -> list[Candidates]:
        height, width = images.shape[2:]
        rows = torch.tensor(self.faces[width]).reshape(-1, 5)
        boxes = rows[:, :4] * torch.tensor([width, height, width, height])
        points = boxes[:, None, :2].repeat(1, 5, 1)
        if images[0, 0, 0, 0] > images[0, 0, 0, -1]:    # it is dark on the left, unless it is mirrored
            boxes = torch.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], dim=1)
            points[..., 0] = width - points[..., 0]
        return [Candidates(boxes, rows[:, 4], points)]


IMAGE = np.broadcast_to(np.linspace(0, 255, 200, dtype=np.uint8)[None, :, None], (100, 200, 3))


def detect(faces: dict[int, list[list[float]]], **settings: Any) -> Detections:
    return FaceDetector(Planted(faces), TestConfig(**settings))(np.ascontiguousarray(IMAGE))    # type: ignore[arg-type]


def test_mirror_image_finds_the_same_places() -> None:
    found = detect({200: [[0.1, 0.2, 0.3, 0.6, 0.9]]}, flip=True, nms=1.0)
    assert found.boxes == pytest.approx(np.array([[20, 20, 60, 60]] * 2), abs=1e-3)
    assert found.landmarks == pytest.approx(np.full((2, 5, 2), 20), abs=1e-3)


def test_scale_finds_faces_of_the_sizes_it_shows_well() -> None:
    tiny, small, large = [0.0, 0.0, 0.05, 0.1, 0.9], [0.2, 0.2, 0.4, 0.6, 0.8], [0.3, 0.1, 0.8, 0.9, 0.7]    # 10, 40 and about 90 pixels
    faces = {200: [tiny, small, large], 400: [tiny, small, large]}
    assert len(detect(faces, scales=(1, 2), nms=1.0, gate=False)) == 6
    found = detect(faces, scales=(1, 2), nms=1.0)
    # Tiny ones are left to the large scale, large ones to the small one; the others are found at both.
    assert found.scores == pytest.approx(np.array([0.9, 0.8, 0.8, 0.7], np.float32))
    assert len(detect(faces, scales=(1,), nms=1.0)) == 3


def test_all_views_vote_on_a_face_also_those_that_may_not_find_it() -> None:
    faces = {200: [[0.3, 0.1, 0.8, 0.9, 0.8]], 400: [[0.31, 0.1, 0.81, 0.9, 0.4]]}
    found = detect(faces, scales=(1, 2), vote=True)
    # Weights of 0.8^2 and 0.4^2: a fifth of the way from 60 to 62.
    assert found.boxes == pytest.approx(np.array([[60.4, 10, 160.4, 90]]), abs=1e-3)
    assert found.landmarks is not None and found.landmarks[0] == pytest.approx(np.array([[60.4, 10]] * 5), abs=1e-3)
    assert found.scores == pytest.approx(np.array([0.8], np.float32))


def test_face_without_area_keeps_its_place_in_a_vote() -> None:
    found = detect({200: [[0.3, 0.1, 0.3, 0.9, 0.8]]}, vote=True)
    assert found.boxes == pytest.approx(np.array([[60, 10, 60, 90]]), abs=1e-3)


def test_faces_in_the_padding_are_left_out() -> None:
    inside, below = [0.1, 0.3, 0.3, 0.5, 0.9], [0.1, 0.5, 0.3, 0.7, 0.9]    # of a square; the image is its upper half
    found = detect({200: [inside, below]}, size="long:200")
    assert found.boxes == pytest.approx(np.array([[20, 60, 60, 100]]), abs=1e-3)


@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from(["uint8", "float32", "int64", "bool"]), st.integers(1, 4), st.data())
@settings(max_examples=60)
def test_any_array_is_answered_or_refused(height: int, width: int, dtype: str, channels: int, data: st.DataObject) -> None:
    shape = data.draw(st.sampled_from([(height, width, channels), (height, width), (0, width, 3), (height, width, 3), ()]))
    image = np.random.default_rng(height).integers(0, 2 if dtype == "bool" else 256, shape).astype(dtype)
    if len(shape) == 3 and shape[2] == 3 and dtype == "uint8" and 0 not in shape:
        found = random_detector()(image)
        assert np.isfinite(found.boxes).all() and (found.scores >= 0.02).all()
    else:
        with pytest.raises(ValueError, match=r"^expected an image \(H,W,3\) of uint8 with an area, found "):
            random_detector()(image)


@cache
def random_detector() -> FaceDetector:
    torch.manual_seed(0)
    model = RetinaFace(ModelConfig(backbone="mobilenet0.25", channels=64))
    return FaceDetector(model, TestConfig(size="x1.5", scales=(1, 2), flip=True, vote=True))


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
    iou = jaccard(torch.from_numpy(plain.above(0.6).boxes), torch.from_numpy(low.boxes))
    assert len(iou) > 20 and float(iou.amax(dim=1).min()) > 0.5    # the same face, though the box of another prior may have won


def test_unknown_device_is_named() -> None:
    for name in ("gpu", "cuda:99"):
        with pytest.raises(ValueError, match=f"device {name}: not available here"):
            pick_device(name)
