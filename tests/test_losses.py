from __future__ import annotations

import math

import pytest
import torch
import torchvision
from torch import Tensor

from layers.losses import box_loss, class_loss, landmark_loss
from utils.box_utils import decode, encode

PRIORS = torch.tensor([[20.0, 20.0, 16.0, 16.0], [50.0, 50.0, 32.0, 32.0]])
BOXES = torch.tensor([[12.0, 12.0, 28.0, 28.0], [40.0, 40.0, 60.0, 80.0]])


def test_class_loss_is_the_cross_entropy_of_the_softmax() -> None:
    logits, is_face = torch.randn(2, 7, 2, generator=torch.Generator().manual_seed(0)) * 4, torch.arange(14).view(2, 7) % 3 == 0
    expected = torch.nn.functional.cross_entropy(logits.reshape(-1, 2), is_face.reshape(-1).long(), reduction="none").view(2, 7)
    assert torch.allclose(class_loss("mining", logits, is_face), expected, atol=1e-6)


def test_class_loss_of_extreme_logits_is_finite_and_exact() -> None:
    logits = torch.tensor([[[1000.0, -1000.0], [-1000.0, 1000.0]]], requires_grad=True)
    loss = class_loss("mining", logits, torch.tensor([[True, True]]))
    assert loss.tolist() == [[2000, 0]]
    loss.sum().backward()
    assert logits.grad is not None and bool(logits.grad.isfinite().all())


def test_focal_loss_of_a_hand_made_logit() -> None:
    loss = class_loss("focal", torch.tensor([[[0.0, 0.0], [0.0, 0.0]]]), torch.tensor([[True, False]]))
    assert loss[0].tolist() == pytest.approx([0.25 * 0.25 * math.log(2), 0.75 * 0.25 * math.log(2)])


def test_smooth_l1_of_hand_made_offsets() -> None:
    offsets = encode(BOXES, PRIORS) + torch.tensor([[0.5, 0, 0, 0], [2, 0, 0, -3]])
    assert box_loss("smooth_l1", offsets, BOXES, PRIORS).tolist() == pytest.approx([0.125, 1.5 + 2.5], abs=1e-5)


@pytest.mark.parametrize("kind", ["iou", "giou", "diou", "ciou"])
def test_iou_losses_fall_to_nothing_on_the_true_box(kind: str) -> None:
    exact = encode(BOXES, PRIORS)
    assert box_loss(kind, exact, BOXES, PRIORS).tolist() == pytest.approx([0, 0], abs=1e-5)    # type: ignore[arg-type]
    away = box_loss(kind, exact + torch.tensor([1.0, 0, 0, 0]), BOXES, PRIORS)    # type: ignore[arg-type]
    assert bool((away > 0.05).all())


def gradient(kind: str, offsets: Tensor) -> float:
    offsets = offsets.clone().requires_grad_()
    box_loss(kind, offsets, BOXES, PRIORS).sum().backward()    # type: ignore[arg-type]
    assert offsets.grad is not None
    return float(offsets.grad.abs().sum())


def test_plain_iou_has_no_gradient_on_disjoint_boxes_and_the_others_have() -> None:
    away = encode(BOXES, PRIORS) + torch.tensor([100.0, 0, 0, 0])
    assert gradient("iou", away) == 0
    for kind in ("giou", "diou", "ciou"):
        assert gradient(kind, away) > 0


def test_landmark_loss_counts_known_points_only() -> None:
    offsets = torch.zeros(1, 5, 2)
    targets = torch.full((1, 5, 2), 2.0)
    assert landmark_loss(offsets, targets, torch.tensor([[True, False, True, False, False]])).tolist() == [2 * 2 * 1.5]


@pytest.mark.parametrize("kind", ["iou", "giou", "diou", "ciou"])
@pytest.mark.parametrize("sizes", [-1e4, -60.0, 1e4])
@pytest.mark.parametrize("centers", [0.0, 1e7])
def test_iou_losses_of_degenerate_predictions_are_finite(kind: str, sizes: float, centers: float) -> None:
    offsets = torch.tensor([[centers, centers, sizes, sizes]] * 2, requires_grad=True)
    loss = box_loss(kind, offsets, BOXES, PRIORS)    # type: ignore[arg-type]
    loss.sum().backward()
    assert offsets.grad is not None
    assert bool(loss.isfinite().all()) and bool(offsets.grad.isfinite().all())


@pytest.mark.parametrize("kind", ["giou", "diou", "ciou"])
def test_iou_losses_are_those_of_torchvision(kind: str) -> None:
    reference = {
        "giou": torchvision.ops.generalized_box_iou_loss,
        "diou": torchvision.ops.distance_box_iou_loss,
        "ciou": torchvision.ops.complete_box_iou_loss,
    }[kind]
    offsets = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)) * 3
    priors, boxes = PRIORS[:1].repeat(50, 1), BOXES[1:].repeat(50, 1)
    ours, theirs = offsets.clone().requires_grad_(), offsets.clone().requires_grad_()
    loss, expected = box_loss(kind, ours, boxes, priors), reference(decode(theirs, priors), boxes)    # type: ignore[arg-type]
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-4)
    loss.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-5, rtol=1e-3)
