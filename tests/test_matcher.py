from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from layers.matcher import match
from layers.prior_box import PriorBox
from utils.box_utils import cxcywh_to_xyxy, jaccard

# In float32, as the overlaps are: 7 / 20 reaches 0.35.
POSITIVE, BEST = torch.tensor([0.35, 0.2]).tolist()
PRIORS = PriorBox([[16, 32], [64, 128]], [8, 16])(96, 96)


def plain_match(boxes: Tensor, priors: Tensor, ignore: Tensor, *, ignore_unmatched: bool) -> list[int]:
    """The contract, prior by prior and face by face."""
    iou = jaccard(boxes, cxcywh_to_xyxy(priors)).tolist()
    faces = [face for face in range(len(boxes)) if not ignore[face]]
    matched = [-1] * len(priors)
    for prior in range(len(priors)):
        best = max(faces, key=lambda face: (iou[face][prior], -face), default=None)
        if best is not None and iou[best][prior] >= POSITIVE:
            matched[prior] = best
    claims: dict[int, tuple[float, int]] = {}
    ignored = [face for face in range(len(boxes)) if ignore[face]]
    for face in faces:
        prior = max(range(len(priors)), key=lambda prior: (iou[face][prior], -prior))
        if iou[face][prior] < BEST:
            ignored += [face] if ignore_unmatched else []
        elif prior not in claims or iou[face][prior] > claims[prior][0]:
            claims[prior] = iou[face][prior], face
    for prior, (_, face) in claims.items():
        matched[prior] = face
    for prior in range(len(priors)):
        cx, cy = priors[prior, :2].tolist()
        inside = any(x1 <= cx <= x2 and y1 <= cy <= y2 for x1, y1, x2, y2 in boxes[ignored].tolist())
        if matched[prior] == -1 and (inside or any(iou[face][prior] >= POSITIVE for face in ignored)):
            matched[prior] = -2
    return matched


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(0, 12), st.booleans(), st.booleans())
def test_match_equals_the_plain_loop(seed: int, count: int, whole: bool, ignore_unmatched: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(count, 2, generator=generator) * 90
    boxes = torch.cat([low, low + 2 + torch.rand(count, 2, generator=generator) ** 2 * 80], dim=1)
    boxes = boxes.round() if whole else boxes    # whole numbers: equal overlaps occur
    ignore = torch.rand(count, generator=generator) < 0.3
    matched = match(boxes, PRIORS, ignore=ignore, ignore_unmatched=ignore_unmatched)
    assert matched.dtype == torch.int64
    assert matched.tolist() == plain_match(boxes, PRIORS, ignore, ignore_unmatched=ignore_unmatched)


def test_no_faces_are_all_background() -> None:
    assert match(torch.zeros(0, 4), PRIORS).tolist() == [-1] * len(PRIORS)


def test_prior_takes_the_face_it_overlaps_most() -> None:
    priors = torch.tensor([[10.0, 10, 10, 10], [30, 10, 10, 10], [100, 100, 10, 10]])
    faces = torch.tensor([[5.0, 5, 15, 13], [6, 5, 15, 15], [25, 5, 35, 15]])
    assert match(faces, priors).tolist() == [1, 2, -1]


def test_face_under_the_threshold_still_gets_its_best_prior() -> None:
    prior = torch.tensor([[8.0, 8.0, 16.0, 16.0]])
    assert match(torch.tensor([[4.0, 4, 12, 12]]), prior).tolist() == [0]    # IoU 0.25
    assert match(torch.tensor([[5.0, 5, 12, 12]]), prior).tolist() == [-1]    # IoU 0.19
    assert match(torch.tensor([[5.0, 5, 12, 12]]), prior, ignore_unmatched=True).tolist() == [-2]


def test_of_two_faces_the_higher_iou_then_the_lower_index_has_the_prior() -> None:
    prior = torch.tensor([[8.0, 8.0, 16.0, 16.0]])
    faces = torch.tensor([[4.0, 4, 12, 12], [3, 4, 12, 12], [4, 4, 13, 12]])
    assert match(faces, prior).tolist() == [1]


def test_best_prior_is_taken_from_a_face_that_overlaps_it_more() -> None:
    priors = torch.tensor([[10.0, 10.0, 10.0, 10.0], [10.0, 40.0, 10.0, 10.0]])
    large, small = [5.0, 5, 15, 15], [5.0, 5, 15, 8]    # the small one overlaps no other prior
    assert match(torch.tensor([large, small]), priors).tolist() == [0, -1]
    near = torch.tensor([[10.0, 10.0, 10.0, 10.0], [10.0, 11.0, 10.0, 10.0]])
    assert match(torch.tensor([large, [5.0, 12, 15, 16]]), near).tolist() == [0, 1]


def test_ignored_face_hides_priors_over_it_but_not_positives() -> None:
    priors = torch.tensor([[10.0, 10, 10, 10], [10, 10, 40, 40], [60, 60, 10, 10]])
    faces = torch.tensor([[5.0, 5, 15, 15], [0, 0, 20, 20]])
    assert match(faces, priors, ignore=torch.tensor([False, True])).tolist() == [0, -2, -1]
    assert match(faces, priors, ignore=torch.tensor([True, True])).tolist() == [-2, -2, -1]


def test_face_without_area_is_found_by_no_prior() -> None:
    assert set(match(torch.tensor([[8.0, 8.0, 8.0, 24.0]]), PRIORS).tolist()) == {-1}
