from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import make_target
from torch import Tensor

from config import TrainConfig
from data.loader import Batch
from detector.engine import evaluate, learning_rate, train_one_epoch
from utils.arrays import Image
from utils.structures import Detections, Photo, Target


def rate(step: int, config: TrainConfig) -> float:
    return learning_rate(step, config=config, steps_per_epoch=10)


def test_learning_rate_falls_by_ten_at_the_milestones() -> None:
    config = TrainConfig(lr=1.0, milestones=(2, 3))
    assert [rate(step, config) for step in (0, 19, 20, 29, 30)] == pytest.approx([1, 1, 0.1, 0.1, 0.01])


def test_cosine_falls_to_nothing_and_warm_up_rises() -> None:
    config = TrainConfig(lr=1.0, epochs=4, schedule="cosine")
    assert [rate(step, config) for step in (0, 20, 40)] == pytest.approx([1, 0.5, 0])
    rates = [rate(step, replace(config, warmup_steps=4)) for step in range(6)]
    assert rates[:4] == pytest.approx([rate(step, config) * (step + 1) / 5 for step in range(4)])
    assert rates[5] == rate(5, config)


def test_scaled_learning_rate_follows_the_batch() -> None:
    config = TrainConfig(lr=0.01, batch_size=12, lr_batch_size=24)
    assert rate(0, config) == pytest.approx(0.01)
    assert rate(0, replace(config, scale_lr=True)) == pytest.approx(0.005)


class Scales:
    """A model of one weight, whose loss is (weight - mean pixel)^2."""

    def __init__(self) -> None:
        self.weight = torch.zeros(1, requires_grad=True)

    def losses(self, images: Tensor, targets: list[Target]) -> dict[str, Tensor]:
        assert images.is_contiguous(memory_format=torch.channels_last) and len(targets) == len(images)
        distance = (self.weight - images.float().mean()) ** 2
        return {"near": distance.sum(), "far": distance.sum() * 0}


def batch(value: int) -> Batch:
    return Batch(torch.full((2, 3, 4, 4), value, dtype=torch.uint8), [make_target([])] * 2, ["a", "b"], [], outside=0)


def test_epoch_steps_along_the_sum_of_the_losses_at_the_rate_of_each_step() -> None:
    model = Scales()
    optimizer = torch.optim.SGD([model.weight], lr=9)
    seen = []

    def after_step(step: int, losses: dict[str, Tensor]) -> bool:
        seen.append((step, {name: loss.item() for name, loss in losses.items()}, losses["near"].requires_grad))
        return step == 7

    train_one_epoch(
        model.losses, [batch(10), batch(10), batch(10)], optimizer, device=torch.device("cpu"), dtype=torch.float32,
        scaler=torch.amp.GradScaler("cpu", enabled=False), learning_rate=lambda step: {5: 0.25, 6: 0.5}[step], first_step=5,
        after_step=after_step,
    )  # fmt: skip
    assert model.weight.item() == 10    # 0 + 0.25 * 20 = 5, then 5 + 0.5 * 10 = 10; the third batch is not taken
    assert seen == [(6, {"near": 100, "far": 0}, False), (7, {"near": 25, "far": 0}, False)]


def photos(*targets: Target | None) -> list[Photo]:
    image = np.zeros((8, 8, 3), np.uint8)
    return [
        Photo(str(n), None, make_target([[0, 0, 5, 5]]), f"{n}: bad") if target is None else Photo(str(n), image, target, None)
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
