from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from utils.box_utils import (
    cxcywh_to_xyxy,
    decode,
    decode_landmarks,
    encode,
    encode_landmarks,
    flip_boxes,
    flip_landmarks,
    jaccard,
    xyxy_to_cxcywh,
)

seeds = st.integers(0, 2**32 - 1)


def random_boxes(seed: int, count: int, *, whole: bool = False) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(count, 2, generator=generator) * 100
    boxes = torch.cat([low, low + torch.rand(count, 2, generator=generator) * 60 + 0.5], dim=1)
    return boxes.round() if whole else boxes


def test_jaccard_of_hand_made_boxes() -> None:
    a = torch.tensor([[0.0, 0, 10, 10], [0, 0, 0, 10]])
    b = torch.tensor([[5.0, 0, 15, 10], [20, 20, 30, 30], [10, 0, 20, 10], [0, 0, 10, 10], [0, 0, 0, 10]])
    expected = torch.tensor([[1 / 3, 0, 0, 1, 0], [0, 0, 0, 0, 0]])
    assert torch.equal(jaccard(a, b), expected)


@given(seeds, st.integers(0, 8), st.integers(0, 8))
def test_jaccard_is_a_symmetric_share(seed: int, n: int, m: int) -> None:
    a, b = random_boxes(seed, n), random_boxes(seed + 1, m, whole=True)
    iou = jaccard(a, b)
    assert iou.shape == (n, m)
    assert bool(((iou >= 0) & (iou <= 1)).all())
    assert torch.equal(iou, jaccard(b, a).T)
    assert torch.equal(jaccard(a, a).diagonal(), torch.ones(n))


@given(seeds)
def test_jaccard_does_not_change_under_a_scale_per_axis(seed: int) -> None:
    a, b, scale = random_boxes(seed, 5).double(), random_boxes(seed + 1, 7).double(), torch.tensor([0.25, 3, 0.25, 3])
    assert torch.allclose(jaccard(a * scale, b * scale), jaccard(a, b))


@given(seeds)
def test_box_formats_are_inverses(seed: int) -> None:
    boxes = random_boxes(seed, 9)
    assert torch.allclose(cxcywh_to_xyxy(xyxy_to_cxcywh(boxes)), boxes, atol=1e-4)


@given(seeds)
def test_encode_and_decode_are_inverses(seed: int) -> None:
    boxes, priors = random_boxes(seed, 9).double(), xyxy_to_cxcywh(random_boxes(seed + 1, 9)).double()
    assert torch.allclose(decode(encode(boxes, priors), priors), boxes, atol=1e-6)
    offsets = torch.randn(9, 4, generator=torch.Generator().manual_seed(seed)).double()
    assert torch.allclose(encode(decode(offsets, priors), priors), offsets, atol=1e-6)


@given(seeds)
def test_encode_and_decode_of_landmarks_are_inverses(seed: int) -> None:
    priors = xyxy_to_cxcywh(random_boxes(seed, 9)).double()
    points = torch.rand(9, 5, 2, generator=torch.Generator().manual_seed(seed)).double() * 100
    assert torch.allclose(decode_landmarks(encode_landmarks(points, priors), priors), points)


def test_offsets_of_a_hand_made_box() -> None:
    prior = torch.tensor([[20.0, 30.0, 10.0, 10.0]])
    offsets = encode(torch.tensor([[20.0, 30.0, 30.0, 40.0]]), prior)    # its centre is half a prior away each way
    assert torch.allclose(offsets, torch.tensor([[5.0, 5.0, 0.0, 0.0]]))
    assert torch.allclose(decode(torch.tensor([[0.0, 0.0, math.log(2) / 0.2, 0.0]]), prior), torch.tensor([[10.0, 25.0, 30.0, 35.0]]))
    points = encode_landmarks(torch.full((1, 5, 2), 25.0), prior)
    assert torch.allclose(points, torch.tensor([5.0, -5.0]).expand(1, 5, 2))


def test_offsets_are_the_same_in_pixels_and_in_fractions() -> None:
    boxes, priors = random_boxes(0, 6), xyxy_to_cxcywh(random_boxes(1, 6))
    scale = torch.tensor([1 / 640, 1 / 480]).repeat(2)
    assert torch.allclose(encode(boxes * scale, priors * scale), encode(boxes, priors), atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_huge_offsets_decode_to_finite_boxes(dtype: torch.dtype) -> None:
    boxes = decode(torch.full((1, 4), 1e4, dtype=dtype), torch.tensor([[0.0, 0.0, 512.0, 512.0]], dtype=dtype))
    assert bool(boxes.isfinite().all())


def test_sizes_are_bounded_at_22026_times_the_prior_and_its_inverse() -> None:
    priors = torch.tensor([[0.0, 0.0, 512.0, 16.0]])
    for sign in (-1, 1):
        x1, y1, x2, y2 = decode(torch.tensor([[0.0, 0.0, sign * 1e4, sign * 1e4]]), priors)[0].tolist()
        bound = 22026.47**sign
        assert (x2 - x1, y2 - y1) == pytest.approx((512 * bound, 16 * bound), rel=1e-3)
    # Below the bound sizes are exact: 8 / 0.2 = 40.
    x1, _, x2, _ = decode(torch.tensor([[0.0, 0.0, 40.0, 0.0]]), priors)[0].tolist()
    assert x2 - x1 == pytest.approx(512 * math.exp(8), rel=1e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_jaccard_of_large_boxes_is_a_number_in_half_precision(dtype: torch.dtype) -> None:
    boxes = torch.tensor([[0, 0, 900, 660], [0, 0, 900, 330], [1000, 1000, 4000, 4000]], dtype=dtype)
    expected = jaccard(boxes.double(), boxes.double())
    assert torch.allclose(jaccard(boxes, boxes).double(), expected, atol=1e-3)


def test_mirrored_boxes_keep_their_corners_in_order() -> None:
    flipped = flip_boxes(np.array([[10.0, 20.0, 30.0, 60.0]]), 100)
    assert flipped.tolist() == [[70, 20, 90, 60]]
    assert flip_boxes(flipped, 100).tolist() == [[10, 20, 30, 60]]


def test_mirrored_landmarks_swap_left_and_right() -> None:
    points = np.array([[[1.0, 1], [9, 1], [5, 5], [2, 8], [8, 8.5]]])
    assert flip_landmarks(points, 10).tolist() == [[[1, 1], [9, 1], [5, 5], [2, 8.5], [8, 8]]]
