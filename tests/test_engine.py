from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from conftest import make_target
from torch import Tensor

from data.loader import Batch
from detector.engine import Step, Stepping, evaluate, train_one_epoch
from detector.guard import Guard
from utils.arrays import Image
from utils.structures import Detections, Photo, Target


class Count(NamedTuple):
    counts: Tensor


class Scales:
    """A model of one weight, whose loss is the mean over all images of (weight - mean pixel)^2."""

    names = ("near", "far")

    def __init__(self) -> None:
        self.weight = torch.zeros(1, requires_grad=True)

    def assign(self, images: Tensor, targets: Sequence[Target]) -> Count:
        assert images.is_contiguous(memory_format=torch.channels_last) and len(targets) == len(images)
        return Count(torch.tensor([float(len(images))]))

    def losses(self, images: Tensor, assignment: Count, counts: Tensor) -> dict[str, Tensor]:
        distances = (self.weight - images.float().mean(dim=(1, 2, 3))) ** 2
        return {"near": distances.sum() / counts.sum(), "far": distances.sum() * 0}


def batch(*values: int) -> Batch:
    images = torch.stack([torch.full((3, 4, 4), value, dtype=torch.uint8) for value in values])
    return Batch(images, [make_target([])] * len(values), ["a", "b"], [], outside=0)


def stepping(model: Scales, **changes: object) -> Stepping:
    optimizer = torch.optim.SGD([model.weight], lr=9, fused=True)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    plain = Stepping(optimizer, scaler, torch.device("cpu"), torch.float32, learning_rate=lambda step: 0.25)
    return replace(plain, **changes)    # type: ignore[arg-type]


def take(model: Scales, batches: list[Batch], how: Stepping, *, first_step: int = 0) -> list[Step]:
    seen: list[Step] = []

    def after_step(step: Step) -> bool:
        seen.append(step)
        return False

    train_one_epoch(model, batches, how, first_step=first_step, after_step=after_step)
    return seen


def test_epoch_steps_along_the_sum_of_the_losses_at_the_rate_of_each_step() -> None:
    model = Scales()
    seen = []

    def after_step(step: Step) -> bool:
        seen.append((step.number, {name: loss.item() for name, loss in step.losses.items()}, step.losses["near"].requires_grad))
        return step.number == 7

    how = stepping(model, learning_rate=lambda step: {5: 0.25, 6: 0.5}[step])
    train_one_epoch(model, [batch(10, 10)] * 3, how, first_step=5, after_step=after_step)
    assert model.weight.item() == 10    # 0 + 0.25 * 20 = 5, then 5 + 0.5 * 10 = 10; the third batch is not taken
    assert seen == [(6, {"near": 100, "far": 0}, False), (7, {"near": 25, "far": 0}, False)]


@pytest.mark.parametrize("parts", [2, 3, 9])
def test_batch_taken_in_parts_is_one_step(parts: int) -> None:
    whole, in_parts = Scales(), Scales()
    one = take(whole, [batch(1, 2, 6, 7, 9)], stepping(whole))
    other = take(in_parts, [batch(1, 2, 6, 7, 9)], stepping(in_parts, parts=parts))
    assert in_parts.weight.item() == pytest.approx(whole.weight.item()) == pytest.approx(2.5)
    assert other[0].losses["near"].item() == pytest.approx(one[0].losses["near"].item())


def test_long_gradient_is_shortened() -> None:
    model = Scales()
    take(model, [batch(10)], stepping(model, clip_norm=2.0))
    assert model.weight.item() == pytest.approx(0.5)    # 0.25 * 2 instead of 0.25 * 20
    take(model, [batch(1)], stepping(model, clip_norm=2.0))
    assert model.weight.item() == pytest.approx(0.75)    # a gradient of -1 stays as it is


class Broken(Scales):
    """One whose third loss, or whose third gradient, is no number; and which keeps statistics, as a batch norm does."""

    def __init__(self, *, gradient_only: bool) -> None:
        super().__init__()
        self.calls = 0
        self.gradient_only = gradient_only
        self.statistics = torch.zeros(1)

    def losses(self, images: Tensor, assignment: Count, counts: Tensor) -> dict[str, Tensor]:
        self.calls += 1
        losses = super().losses(images, assignment, counts)
        if self.calls == 3:
            self.statistics.fill_(float("nan"))
            # The square root of 0 is 0, and its slope is not finite.
            losses["near"] = (self.weight * 0).sqrt().sum() if self.gradient_only else losses["near"] * float("nan")
        else:
            self.statistics += 1
        return losses


@pytest.mark.parametrize("gradient_only", [False, True])
def test_step_that_is_not_finite_changes_nothing(gradient_only: bool) -> None:
    broken, sound = Broken(gradient_only=gradient_only), Scales()
    steps = take(broken, [batch(10)] * 4, stepping(broken, guarded=[broken.statistics]))
    take(sound, [batch(10)] * 3, stepping(sound))
    assert [bool(step.finite) for step in steps] == [True, True, False, True]
    assert broken.weight.item() == sound.weight.item()
    assert broken.statistics.item() == 3


def photos(*targets: Target | None) -> list[Photo]:
    image, bad = np.zeros((8, 8, 3), np.uint8), make_target([[0, 0, 5, 5]])
    return [
        Photo(str(n), str(n), None, bad, f"{n}: bad") if target is None else Photo(str(n), str(n), image, target, None)
        for n, target in enumerate(targets)
    ]


def always(images: Sequence[Image]) -> list[Detections]:
    return [Detections(np.array([[0, 0, 5, 5]], np.float32), np.array([0.9], np.float32), None) for _ in images]


def test_evaluation_counts_what_it_saw_and_names_what_it_could_not_see() -> None:
    shown: list[str] = []
    mixed = photos(make_target([[0, 0, 5, 5]]), None, make_target([]))
    evaluation = evaluate(always, mixed, see=lambda photo, _: shown.append(photo.path))
    assert evaluation.metrics == {"ap50": 1.0, "images": 2, "faces": 1}
    assert evaluation.faults == ["1: bad"]
    assert shown == ["0", "2"]


def test_nothing_to_evaluate_is_an_error() -> None:
    with pytest.raises(ValueError, match="no image readable of 2: 0: bad"):
        evaluate(always, photos(None, None))


def test_overflow_of_a_float16_gradient_is_told_apart_from_a_bad_loss() -> None:
    broken, sound = Broken(gradient_only=True), Scales()
    scaler = torch.amp.GradScaler("cpu", enabled=True)
    steps = take(broken, [batch(10)] * 4, stepping(broken, scaler=scaler))
    take(sound, [batch(10)] * 3, stepping(sound))
    assert [bool(step.finite) for step in steps] == [True] * 4
    assert [bool(step.overflowed) for step in steps] == [False, False, True, False]
    assert [step.scale.item() for step in steps] == [65536, 65536, 32768, 32768]
    assert broken.weight.item() == sound.weight.item()


class Hopeless(Scales):
    """One whose loss is finite, and whose gradient never is."""

    def losses(self, images: Tensor, assignment: Count, counts: Tensor) -> dict[str, Tensor]:
        return {"near": (self.weight * 0).sqrt().sum(), "far": counts.sum()}


@pytest.mark.parametrize("enabled", [True, False])
def test_gradients_that_are_never_finite_end_the_run(enabled: bool, tmp_path: Path) -> None:
    model, guard = Hopeless(), Guard(allowed=0, skipped=0, listing=tmp_path / "nonfinite.txt")
    how = stepping(model, scaler=torch.amp.GradScaler("cpu", enabled=enabled))
    for step in take(model, [batch(10)] * 25, how):
        guard.add(step, ["a.jpg"])
    with pytest.raises(ValueError, match="at iteration 20 " if enabled else "at iteration 1 "):
        guard.collect()
    assert model.weight.item() == 0
