from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config import AugmentationConfig
from data.augment import Faces, augment, clip, crop, distort, look_up, mirror, pad_to_square, random_crop, resize
from utils.arrays import Image

FILL = (104.0, 117.0, 123.0)
MARKS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255)]    # a colour for each point


def make_faces(boxes: list[list[float]], landmarks: np.ndarray | None = None, ignore: list[bool] | None = None) -> Faces:
    corners = np.array(boxes, dtype=np.float32).reshape(-1, 4)
    count = len(corners)
    points = np.zeros((count, 5, 2), dtype=np.float32) if landmarks is None else landmarks.astype(np.float32)
    return Faces(corners, points, np.full((count, 5), landmarks is not None), np.array(ignore or [False] * count, dtype=bool))


def painted_face(height: int, width: int, box: list[float]) -> tuple[Image, Faces]:
    """A black image with a disc of its own colour at each of the five points of a face."""
    x1, y1, x2, y2 = box
    places = np.array([[0.3, 0.3], [0.7, 0.3], [0.5, 0.5], [0.35, 0.75], [0.65, 0.75]])
    points = [x1, y1] + places * [x2 - x1, y2 - y1]
    image = np.zeros((height, width, 3), dtype=np.uint8)
    for (x, y), color in zip(points, MARKS, strict=True):
        cv2.circle(image, (round((x - 0.5) * 16), round((y - 0.5) * 16)), 16 * 5, color, cv2.FILLED, shift=4)
    return image, make_faces([box], points[None])


def find_mark(image: Image, color: tuple[int, int, int]) -> np.ndarray | None:
    """The centre, x and y, of the pixels of a colour."""
    alike = (np.abs(image.astype(int) - color).max(axis=2) < 100).nonzero()
    return np.array([alike[1].mean() + 0.5, alike[0].mean() + 0.5]) if len(alike[0]) else None


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1))
def test_painted_points_are_found_where_the_labels_say(seed: int) -> None:
    rng = np.random.default_rng(seed)
    image, faces = painted_face(200, 260, [40, 30, 170, 180])
    config = AugmentationConfig(distortion=False)
    changed, moved = augment(image, faces, size=224, config=config, fill=(0, 0, 0), rng=rng)
    assert changed.shape == (224, 224, 3) and changed.dtype == np.uint8
    assert len(moved.boxes) == 1    # a face that fits is kept whole by some crop
    swapped = moved.landmarks[0, 0, 0] < moved.landmarks[0, 1, 0]
    assert swapped    # left stays left in the picture, mirrored or not
    colors = [find_mark(changed, color) for color in MARKS]
    is_mirrored = colors[0] is not None and colors[1] is not None and colors[0][0] > colors[1][0]
    order = [1, 0, 2, 4, 3] if is_mirrored else range(5)
    for point, place in enumerate(order):
        mark = colors[place]
        x, y = moved.landmarks[0, point]
        margin = 6 * 224 / 60    # a disc at the border is seen in part only
        if moved.has_landmarks[0, point] and margin < x < 224 - margin and margin < y < 224 - margin:
            assert mark is not None
            assert np.abs(mark - (x, y)).max() < 1.5


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(0, 8))
def test_augmented_faces_lie_inside_and_keep_to_their_flags(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    low = rng.uniform(-10, 90, (count, 2))
    boxes = np.hstack([low, low + rng.uniform(1, 60, (count, 2))])
    faces = make_faces(boxes.tolist(), rng.uniform(-20, 140, (count, 5, 2)), ignore=(rng.random(count) < 0.3).tolist())
    image = rng.integers(0, 256, (90, 120, 3)).astype(np.uint8)
    _, moved = augment(image, clip(faces, 120, 90), size=64, config=AugmentationConfig(), fill=FILL, rng=rng)
    x1, y1, x2, y2 = moved.boxes.T
    assert bool(((x1 >= 0) & (y1 >= 0) & (x2 <= 64.001) & (y2 <= 64.001) & (x2 > x1) & (y2 > y1)).all())
    inside = ((moved.landmarks >= -0.001) & (moved.landmarks <= 64.001)).all(axis=2)
    assert bool(inside[moved.has_landmarks].all())
    assert len(moved.boxes) == len(moved.ignore) == len(moved.landmarks) == len(moved.has_landmarks)


def test_crop_drops_faces_by_their_centre_and_points_by_their_place() -> None:
    points = np.array([[[12.0, 12], [28, 12], [20, 20], [12, 28], [28, 28]], [[30.0, 30]] * 5])
    faces = make_faces([[10, 10, 30, 30], [22, 22, 40, 40]], points, ignore=[True, False])
    _, moved = crop(np.zeros((50, 50, 3), np.uint8), faces, left=5, top=5, side=20)
    assert moved.boxes.tolist() == [[5, 5, 20, 20]]
    assert moved.landmarks[0].tolist() == [[7, 7], [23, 7], [15, 15], [7, 23], [23, 23]]
    assert moved.has_landmarks.tolist() == [[True, False, True, False, False]]
    assert moved.ignore.tolist() == [True]


def test_crop_holds_a_whole_face(rng: np.random.Generator) -> None:
    faces = make_faces([[50, 60, 70, 85]])
    for _ in range(50):
        image, moved = random_crop(np.zeros((100, 140, 3), np.uint8), faces, scales=(0.3, 1.0), fill=FILL, rng=rng)
        assert image.shape[0] == image.shape[1] in (30, 100)
        assert (moved.boxes[:, 2:] - moved.boxes[:, :2]).tolist() == [[20, 25]]


def test_image_no_crop_can_hold_is_padded_below_and_to_the_right(rng: np.random.Generator) -> None:
    image = np.full((60, 100, 3), 7, np.uint8)
    faces = make_faces([[0, 0, 90, 50]])
    padded, moved = random_crop(image, faces, scales=(0.3, 0.5), fill=FILL, rng=rng)
    assert padded.shape == (100, 100, 3)
    assert np.array_equal(padded[:60], image)
    assert (padded[60:] == FILL).all()
    assert moved.boxes.tolist() == faces.boxes.tolist()
    assert pad_to_square(padded, FILL) is padded


def test_image_without_faces_is_cropped_too(rng: np.random.Generator) -> None:
    image, moved = random_crop(np.zeros((60, 100, 3), np.uint8), make_faces([]), scales=(0.5,), fill=FILL, rng=rng)
    assert image.shape == (30, 30, 3)
    assert moved.boxes.shape == (0, 4)


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (2, 3)])
def test_tiny_images_come_out_whole(shape: tuple[int, int], rng: np.random.Generator) -> None:
    image = np.full((*shape, 3), 9, np.uint8)
    for faces in (make_faces([]), make_faces([[0, 0, shape[1], shape[0]]])):
        changed, _ = augment(image, faces, size=32, config=AugmentationConfig(), fill=FILL, rng=rng)
        assert changed.shape == (32, 32, 3)


def test_clipping_drops_what_lies_outside() -> None:
    faces = make_faces([[-5, -5, 5, 5], [20, 20, 30, 30], [8, 8, 12, 12]])
    assert clip(faces, 10, 10).boxes.tolist() == [[0, 0, 5, 5], [8, 8, 10, 10]]


def test_two_mirrors_are_none() -> None:
    image, faces = painted_face(50, 70, [10, 10, 50, 45])
    twice_image, twice = mirror(*mirror(image, faces))
    assert np.array_equal(twice_image, image)
    assert np.allclose(twice.boxes, faces.boxes) and np.allclose(twice.landmarks, faces.landmarks)


def test_resize_stretches_each_axis_alone() -> None:
    _, moved = resize(np.zeros((50, 100, 3), np.uint8), make_faces([[10, 10, 20, 20]]), size=200)
    assert moved.boxes.tolist() == [[20, 40, 40, 80]]


def test_nothing_handed_in_is_written_to(rng: np.random.Generator) -> None:
    image, faces = painted_face(64, 64, [10, 10, 50, 55])
    copies = [image.copy(), faces.boxes.copy(), faces.landmarks.copy(), faces.has_landmarks.copy()]
    for _ in range(20):
        augment(image, faces, size=48, config=AugmentationConfig(), fill=FILL, rng=rng)
    for copy, now in zip(copies, [image, faces.boxes, faces.landmarks, faces.has_landmarks], strict=True):
        assert np.array_equal(copy, now)


def test_distortion_changes_most_images_and_leaves_some(rng: np.random.Generator) -> None:
    image = rng.integers(0, 256, (16, 16, 3)).astype(np.uint8)
    changed = [distort(image, rng) for _ in range(200)]
    share = np.mean([not np.array_equal(each, image) for each in changed])
    assert 0.85 < share < 0.99    # four independent halves leave one in sixteen alone
    assert {each.shape for each in changed} == {image.shape}


def test_look_up_rounds_and_clips() -> None:
    image = np.array([[[0, 100, 255]]], np.uint8)
    assert look_up(image, np.arange(256) * 1.5 - 0.6).tolist() == [[[0, 149, 255]]]
    by_channel = np.stack([np.full(256, value) for value in (1, 2, 3)], axis=-1)
    assert look_up(image, by_channel).tolist() == [[[1, 2, 3]]]
