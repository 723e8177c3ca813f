from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from conftest import make_target
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import layers.matcher
import layers.multibox_loss
from layers.losses import BoxLoss
from layers.matcher import match
from layers.multibox_loss import MultiBoxLoss
from layers.prior_box import PriorBox
from utils.structures import Predictions, Target

PRIORS = PriorBox([[16, 32], [64]], [8, 16])(64, 64)


def random_predictions(seed: int, images: int, *, landmarks: bool = True) -> Predictions:
    generator = torch.Generator().manual_seed(seed)
    boxes = torch.randn(images, len(PRIORS), 4, generator=generator)
    logits = torch.randn(images, len(PRIORS), 2, generator=generator) * 3
    points = torch.randn(images, len(PRIORS), 5, 2, generator=generator)
    return Predictions(boxes.requires_grad_(), logits.requires_grad_(), points.requires_grad_() if landmarks else None)


def random_target(seed: int, count: int) -> Target:
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(count, 2, generator=generator) * 55
    sizes = 3 + torch.rand(count, 2, generator=generator) * 40
    landmarks = low[:, None] + torch.rand(count, 5, 2, generator=generator) * sizes[:, None]
    known = torch.rand(count, 5, generator=generator) < 0.6
    known[torch.rand(count, generator=generator) < 0.3] = False
    landmarks[~known] = -1    # as labels have it
    return Target(torch.cat([low, low + sizes], dim=1), landmarks, known, torch.rand(count, generator=generator) < 0.25)


def plain_loss(predictions: Predictions, targets: list[Target]) -> dict[str, float]:
    """The contract, prior by prior."""
    sums = {"class": 0.0, "box": 0.0, "landmark": 0.0}
    positives = faces_with_points = 0
    for image, target in enumerate(targets):
        matched = match(target.boxes, PRIORS, ignore=target.ignore).tolist()
        hardness = []
        count = 0
        for prior, face in enumerate(matched):
            background, is_face = predictions.logits[image, prior].tolist()
            log_sum = math.log(math.exp(background) + math.exp(is_face))
            if face == -1:
                hardness.append(log_sum - background)
            if face < 0:
                continue
            count += 1
            sums["class"] += log_sum - is_face
            px, py, pw, ph = PRIORS[prior].tolist()
            x1, y1, x2, y2 = target.boxes[face].tolist()
            wanted = [((x1 + x2) / 2 - px) / (0.1 * pw), ((y1 + y2) / 2 - py) / (0.1 * ph)]
            wanted += [math.log((x2 - x1) / pw) / 0.2, math.log((y2 - y1) / ph) / 0.2]
            sums["box"] += sum(smooth_l1(a - b) for a, b in zip(predictions.boxes[image, prior].tolist(), wanted, strict=True))
            known = target.has_landmarks[face].tolist()
            faces_with_points += any(known)
            for point in [point for point in range(5) if known[point]]:
                assert predictions.landmarks is not None
                x, y = predictions.landmarks[image, prior, point].tolist()
                tx, ty = target.landmarks[face, point].tolist()
                sums["landmark"] += smooth_l1(x - (tx - px) / (0.1 * pw)) + smooth_l1(y - (ty - py) / (0.1 * ph))
        sums["class"] += sum(sorted(hardness, reverse=True)[: 7 * max(1, count)])
        positives += count
    positives = max(1, positives)
    return {"class": sums["class"] / positives, "box": sums["box"] / positives, "landmark": sums["landmark"] / max(1, faces_with_points)}


def smooth_l1(difference: float) -> float:
    return difference**2 / 2 if abs(difference) < 1 else abs(difference) - 0.5


@settings(max_examples=40)
@given(st.integers(0, 2**31), st.lists(st.integers(0, 6), min_size=1, max_size=3))
def test_loss_equals_the_plain_loop(seed: int, faces: list[int]) -> None:
    predictions = random_predictions(seed, len(faces))
    targets = [random_target(seed + 1 + image, count) for image, count in enumerate(faces)]
    losses = MultiBoxLoss(box_weight=1)(predictions, PRIORS, targets)
    expected = plain_loss(predictions, targets)
    assert {name: loss.item() for name, loss in losses.items()} == pytest.approx(expected, rel=1e-4, abs=1e-5)


BOX_LOSSES: list[BoxLoss] = ["smooth_l1", "iou", "giou", "diou", "ciou"]


@pytest.mark.parametrize("box", BOX_LOSSES)
@pytest.mark.parametrize("log_size", [0.0, -1e4, 1e4])
@settings(max_examples=5)
@given(seed=st.integers(0, 2**31), faces=st.lists(st.integers(0, 6), min_size=1, max_size=3))
def test_what_is_done_for_a_gpu_gives_the_same_losses_and_gradients(
    seed: int, faces: list[int], box: BoxLoss, log_size: float
) -> None:
    """Also where all boxes are predicted without area, or as large as they may be."""
    targets = [random_target(seed + 1 + image, count) for image, count in enumerate(faces)]
    results = []
    for on_gpu in (False, True):
        predictions = random_predictions(seed, len(faces))
        with torch.no_grad():
            predictions.boxes[..., 2:] += log_size
        with pytest.MonkeyPatch.context() as patch:
            for module in (layers.matcher, layers.multibox_loss):
                patch.setattr(module, "works_behind", lambda device, answer=on_gpu: answer)
            losses = MultiBoxLoss(box=box)(predictions, PRIORS, targets)
        torch.stack(list(losses.values())).sum().backward()
        gradients = [part.grad for part in predictions if part is not None]
        results.append([*losses.values(), *gradients])
    for ours, other in zip(*results, strict=True):
        assert ours is not None and other is not None and bool(ours.isfinite().all())
        assert torch.allclose(ours, other, rtol=1e-4, atol=1e-6)


@settings(max_examples=20)
@given(st.integers(0, 2**31), st.lists(st.integers(0, 6), min_size=2, max_size=4))
def test_parts_of_a_batch_add_up_to_the_losses_of_the_whole(seed: int, faces: list[int]) -> None:
    predictions = random_predictions(seed, len(faces))
    targets = [random_target(seed + 1 + image, count) for image, count in enumerate(faces)]
    criterion = MultiBoxLoss()
    whole = criterion(predictions, PRIORS, targets)
    parts = [slice(0, 1), slice(1, None)]
    assigned = [criterion.assign(targets[part], PRIORS) for part in parts]
    counts = assigned[0].counts + assigned[1].counts
    of_parts = [
        criterion.losses(Predictions(*(values[part] for values in predictions if values is not None)), PRIORS, assignment, counts)
        for part, assignment in zip(parts, assigned, strict=True)
    ]
    for name, loss in whole.items():
        assert (of_parts[0][name] + of_parts[1][name]).item() == pytest.approx(loss.item(), rel=1e-5)


@pytest.mark.parametrize("pairs", [1, 10**3, 10**9])
def test_images_are_matched_alike_in_groups_of_any_size(pairs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    targets = [random_target(seed, count) for seed, count in enumerate([3, 0, 9, 1, 0, 2])]
    alone = torch.stack([match(target.boxes, PRIORS, ignore=target.ignore) for target in targets])
    monkeypatch.setattr(layers.multibox_loss, "PAIRS_ON_CPU", pairs)
    assert torch.equal(MultiBoxLoss().assign(targets, PRIORS).matched, alone)


def test_weights_multiply_the_losses() -> None:
    predictions, targets = random_predictions(0, 2), [random_target(1, 4), random_target(2, 0)]
    ones = MultiBoxLoss(box_weight=1)(predictions, PRIORS, targets)
    weighted = MultiBoxLoss(box_weight=2, class_weight=3, landmark_weight=0.5)(predictions, PRIORS, targets)
    ratios = {name: (weighted[name] / ones[name]).item() for name in ones}
    assert ratios == pytest.approx({"class": 3, "box": 2, "landmark": 0.5})


def test_image_without_faces_trains_its_seven_hardest_priors() -> None:
    predictions = random_predictions(0, 1)
    losses = MultiBoxLoss()(predictions, PRIORS, [make_target([])])
    assert (losses["box"].item(), losses["landmark"].item()) == (0, 0)
    torch.stack(list(losses.values())).sum().backward()
    assert predictions.logits.grad is not None
    trained = predictions.logits.grad.abs().sum(-1)[0] > 0
    hardest = F.cross_entropy(predictions.logits[0], torch.zeros(len(PRIORS), dtype=torch.long), reduction="none").topk(7).indices
    assert set(trained.nonzero()[:, 0].tolist()) == set(hardest.tolist())


def test_ignored_priors_get_no_gradient() -> None:
    predictions = random_predictions(0, 1)
    target = make_target([[0, 0, 64, 64]], ignore=[True])
    assert set(match(target.boxes, PRIORS, ignore=target.ignore).tolist()) == {-2}
    losses = MultiBoxLoss()(predictions, PRIORS, [target])
    torch.stack(list(losses.values())).sum().backward()
    for part in predictions:
        assert part is not None and part.grad is not None
        assert float(part.grad.abs().sum()) == 0


def test_weight_of_nothing_trains_nothing_through_the_landmark_head() -> None:
    predictions = random_predictions(0, 1)
    losses = MultiBoxLoss(landmark_weight=0)(predictions, PRIORS, [random_target(1, 3)])
    assert set(losses) == {"class", "box"}
    torch.stack(list(losses.values())).sum().backward()
    assert predictions.landmarks is not None and predictions.landmarks.grad is None


def test_model_without_landmarks_has_no_landmark_loss() -> None:
    assert set(MultiBoxLoss()(random_predictions(0, 1, landmarks=False), PRIORS, [random_target(1, 3)])) == {"class", "box"}


def test_unknown_points_never_reach_the_loss() -> None:
    target = random_target(5, 4)
    poisoned = Target(target.boxes, target.landmarks.masked_fill(~target.has_landmarks[..., None], float("nan")), *list_tail(target))
    predictions = random_predictions(0, 1)
    clean, dirty = (MultiBoxLoss()(predictions, PRIORS, [each]) for each in (target, poisoned))
    assert torch.equal(clean["landmark"], dirty["landmark"])


def list_tail(target: Target) -> tuple[Tensor, Tensor]:
    return target.has_landmarks, target.ignore


def test_losses_are_float32_under_autocast() -> None:
    predictions = random_predictions(0, 1)
    low = Predictions(*(part.detach().bfloat16() if part is not None else None for part in predictions))    # type: ignore[arg-type]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = MultiBoxLoss()(low, PRIORS, [random_target(1, 3)])
    assert {loss.dtype for loss in losses.values()} == {torch.float32}


@pytest.mark.parametrize("kind", ["iou", "giou", "diou", "ciou"])
def test_loss_with_boxes_of_every_kind_is_finite(kind: str) -> None:
    predictions = random_predictions(0, 2)
    losses = MultiBoxLoss(box=kind, classification="focal")(predictions, PRIORS, [random_target(1, 4), make_target([])])    # type: ignore[arg-type]
    torch.stack(list(losses.values())).sum().backward()
    assert all(bool(loss.isfinite()) for loss in losses.values())
    assert all(part is not None and part.grad is not None and bool(part.grad.isfinite().all()) for part in predictions)
