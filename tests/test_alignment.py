from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.alignment import TEMPLATE, align_face, similarity
from utils.structures import Detections


@given(st.floats(-3, 3), st.floats(0.1, 9), st.floats(-500, 500), st.floats(-500, 500))
def test_turned_scaled_and_shifted_points_are_brought_back(angle: float, scale: float, x: float, y: float) -> None:
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    moved = TEMPLATE @ turn.T + [x, y]
    transform = similarity(moved, TEMPLATE)
    assert np.allclose(moved @ transform[:, :2].T + transform[:, 2], TEMPLATE, atol=1e-6)


def test_no_other_turn_scale_and_shift_is_nearer(rng: np.random.Generator) -> None:
    source = rng.uniform(0, 100, (5, 2))
    best = similarity(source, TEMPLATE)

    def distance(transform: np.ndarray) -> float:
        return float(((source @ transform[:, :2].T + transform[:, 2] - TEMPLATE) ** 2).sum())

    a, b = best[0, 0], best[1, 0]
    assert np.allclose(best[:, :2], [[a, -b], [b, a]])    # no mirror image, no shear
    for da, db, dx, dy in rng.normal(0, 0.01, (50, 4)):
        other = best + np.array([[da, -db, dx], [db, da, dy]])
        assert distance(other) > distance(best)


def test_face_is_cut_out_with_its_points_where_they_belong() -> None:
    image = np.zeros((300, 400, 3), np.uint8)
    points = TEMPLATE @ np.array([[0.0, -1.0], [1.0, 0.0]]) * 1.5 + [120, 250]    # lying on its side
    for (x, y), value in zip(points, (50, 100, 150, 200, 250), strict=True):
        cv2.circle(image, (round(x), round(y)), 6, (value, value, value), cv2.FILLED)
    detections = Detections(np.zeros((1, 4), np.float32), np.ones(1, np.float32), points[None].astype(np.float32))
    for size in (112, 224):
        crop = detections.crop_aligned(image, size=size)
        assert crop.shape == (1, size, size, 3) and crop.dtype == np.uint8
        places = np.rint(TEMPLATE * size / 112).astype(int)
        assert [int(crop[0, y, x, 0]) for x, y in places] == pytest.approx([50, 100, 150, 200, 250], abs=2)


def test_points_that_coincide_are_only_shifted() -> None:
    image = np.full((50, 50, 3), 9, np.uint8)
    assert align_face(image, np.full((5, 2), 25, np.float32)).shape == (112, 112, 3)
    assert similarity(np.full((5, 2), 25.0), TEMPLATE)[:, :2].tolist() == [[1, 0], [0, 1]]


def test_no_faces_give_no_crops_and_no_landmarks_are_an_error() -> None:
    image = np.zeros((9, 9, 3), np.uint8)
    empty = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros((0, 5, 2), np.float32))
    assert empty.crop_aligned(image).shape == (0, 112, 112, 3)
    with pytest.raises(ValueError, match="expected landmarks to align faces by, found none"):
        Detections.none().crop_aligned(image)
