from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torchvision.ops
from hypothesis import assume, given
from hypothesis import strategies as st

from utils.nms import nms


def plain_nms(dets: np.ndarray, threshold: float) -> list[int]:
    """The contract, pair by pair."""

    def iou(a: np.ndarray, b: np.ndarray) -> float:
        width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
        intersection = max(0.0, width) * max(0.0, height)
        areas = [max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1]) for box in (a, b)]
        return float(intersection / (sum(areas) - intersection)) if intersection else 0.0

    boxes = dets.astype(np.float64)
    kept: list[int] = []
    for index in sorted(range(len(dets)), key=lambda i: (-dets[i, 4], i)):
        if all(iou(boxes[index], boxes[other]) <= threshold for other in kept):
            kept.append(index)
    return kept


def random_dets(seed: int, count: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 60, (count, 2))
    scores = rng.integers(0, 5, (count, 1)) / 5    # many ties
    return np.hstack([low, low + rng.uniform(0.5, 40, (count, 2)), scores]).astype(np.float32)


def near_threshold(dets: np.ndarray, threshold: float) -> bool:
    boxes = torch.from_numpy(dets[:, :4]).double()
    return bool(((torchvision.ops.box_iou(boxes, boxes) - threshold).abs() < 1e-6).any())


@given(st.integers(0, 2**32 - 1), st.integers(0, 60), st.sampled_from([0.1, 0.3, 0.4, 0.7]))
def test_nms_equals_torchvision_on_random_boxes_with_tied_scores(seed: int, count: int, threshold: float) -> None:
    dets = random_dets(seed, count)
    assume(not near_threshold(dets, threshold))
    ranked = np.argsort(-dets[:, 4], kind="stable")    # torchvision leaves the order of ties open
    falling = torch.arange(count, 0, -1).float()
    expected = torchvision.ops.nms(torch.from_numpy(dets[ranked, :4]), falling, threshold).numpy()
    assert nms(dets, threshold) == ranked[expected].tolist()


@given(st.integers(0, 2**32 - 1), st.integers(0, 30), st.sampled_from([0.0, 0.4, 1.0]))
def test_nms_equals_the_plain_loop(seed: int, count: int, threshold: float) -> None:
    dets = np.rint(random_dets(seed, count) * [1, 1, 1, 1, 5])    # whole numbers: boxes without area and equal boxes occur
    assert nms(dets, threshold) == plain_nms(dets, threshold)


def looped_nms(dets: np.ndarray, threshold: float) -> list[int]:
    """The plain loop, box by box against all others."""
    order = np.argsort(-dets[:, 4], kind="stable")
    x1, y1, x2, y2 = dets[:, :4].T.astype(np.float64)
    areas = (x2 - x1).clip(0) * (y2 - y1).clip(0)
    kept = []
    while order.size:
        best, order = order[0], order[1:]
        kept.append(int(best))
        width = np.minimum(x2[best], x2[order]) - np.maximum(x1[best], x1[order])
        height = np.minimum(y2[best], y2[order]) - np.maximum(y1[best], y1[order])
        shared = width.clip(0) * height.clip(0)
        order = order[shared <= threshold * (areas[best] + areas[order] - shared)]
    return kept


def spread(rng: np.random.Generator) -> np.ndarray:
    return rng.uniform(0, 1000, (1500, 2))


def crowd(rng: np.random.Generator) -> np.ndarray:
    return rng.uniform(0, 1000, (60, 2))[rng.integers(0, 60, 1500)] + rng.normal(0, 3, (1500, 2))


def column(rng: np.random.Generator) -> np.ndarray:
    return np.column_stack([np.full(1500, 5.0), rng.uniform(0, 9000, 1500)])


@pytest.mark.parametrize("layout", [spread, crowd, column])
@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.4, 0.9, 1.0])
@pytest.mark.parametrize("pairs", [1, 1000, 2**16])
def test_many_boxes_give_what_the_plain_loop_gives(
    layout: Callable[[np.random.Generator], np.ndarray], threshold: float, pairs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("utils.nms.PAIRS_AT_A_TIME", pairs)
    rng = np.random.default_rng(pairs)
    low = layout(rng)
    sides = rng.choice([0.0, 9.0, 10.0, 30.0, 300.0, -5.0], (1500, 2), p=[0.02, 0.3, 0.3, 0.3, 0.06, 0.02])
    dets = np.column_stack([low, low + sides, rng.integers(0, 200, 1500) / 200])
    assert nms(dets, threshold) == looped_nms(dets, threshold)


def test_box_goes_only_above_the_threshold() -> None:
    dets = np.array([[0, 0, 10, 10, 0.9], [0, 0, 10, 5, 0.8]])    # IoU 0.5
    assert nms(dets, 0.5) == [0, 1]
    assert nms(dets, 0.49) == [0]


def test_equal_scores_go_by_the_lower_index() -> None:
    dets = np.array([[0, 0, 10, 10, 0.5], [0, 0, 10, 10, 0.9], [0, 0, 10, 10, 0.9]])
    assert nms(dets, 0.4) == [1]
    assert nms(dets, 1.0) == [1, 2, 0]


def test_box_without_area_suppresses_nothing() -> None:
    dets = np.array([[5, 5, 5, 9, 0.9], [0, 0, 10, 10, 0.8], [5, 5, 5, 9, 0.7]])
    assert nms(dets, 0.0) == [0, 1, 2]


def test_no_boxes_keep_nothing() -> None:
    assert nms(np.zeros((0, 5)), 0.4) == []
