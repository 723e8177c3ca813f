"""Training and evaluation of any detector: the engine knows two callables and no network.

    losses(images, targets) -> dict of tensors, to be added up and made small
    detect(images) -> Detections of each image
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from config import TrainConfig
from utils.arrays import Image
from utils.average_precision import average_precision, match_detections
from utils.landmark_eval import landmark_metrics
from utils.structures import Detections, Photo, Target

Losses = Callable[[Tensor, list[Target]], dict[str, Tensor]]
Detect = Callable[[Sequence[Image]], list[Detections]]


class TrainingBatch(Protocol):
    """What a loader yields: images (B,3,S,S) uint8 and a Target for each, maybe with more beside them."""

    @property
    def images(self) -> Tensor: ...
    @property
    def targets(self) -> list[Target]: ...


def train_one_epoch(
    losses: Losses,
    batches: Iterable[TrainingBatch],
    optimizer: torch.optim.Optimizer,
    *,
    device: torch.device,
    dtype: torch.dtype,
    scaler: torch.amp.GradScaler,
    learning_rate: Callable[[int], float],
    first_step: int,
    after_step: Callable[[int, dict[str, Tensor]], bool],
) -> None:
    """Take a step for each batch, the first of them step number `first_step`.

    The network computes in `dtype`, under autocast; its weights stay float32, and `scaler` keeps float16 gradients from vanishing.
    `after_step` gets the number of steps taken so far and the detached losses, and ends the epoch early by returning True.
    """
    for step, batch in enumerate(batches, start=first_step):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step)
        images = batch.images.to(device, non_blocking=True).contiguous(memory_format=torch.channels_last)
        targets = [target.to(device, non_blocking=True) for target in batch.targets]
        with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
            by_name = losses(images, targets)
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(torch.stack(list(by_name.values())).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        if after_step(step + 1, {name: loss.detach() for name, loss in by_name.items()}):
            return


def full_rate(config: TrainConfig) -> float:
    """The learning rate that warm-up rises to, scaled with the batch where `scale_lr` is on."""
    return config.lr * (config.batch_size / config.lr_batch_size if config.scale_lr else 1)


def learning_rate(step: int, *, config: TrainConfig, steps_per_epoch: int) -> float:
    """The learning rate of a step, counted from 0: a linear warm-up, then falls by 10 at the milestones or along half a cosine."""
    rate = full_rate(config)
    if config.schedule == "cosine":
        rate *= (1 + math.cos(math.pi * step / (config.epochs * steps_per_epoch))) / 2
    else:
        rate /= 10 ** sum(step >= epoch * steps_per_epoch for epoch in config.milestones)
    return rate * min(1.0, (step + 1) / (config.warmup_steps + 1))


@dataclass(frozen=True)
class Evaluation:
    """metrics as they stand in metrics.json, and why some photos were left out of them."""

    metrics: dict[str, Any]
    faults: list[str]


def evaluate(detect: Detect, photos: Iterable[Photo], *, see: Callable[[Photo, Detections], None] | None = None) -> Evaluation:
    """Find the faces in labelled photos and score them: AP at IoU 0.5, and the landmarks where both sides have them.

    `see` is shown each photo with what was found in it. Photos that cannot be read are left out of the figures and named in
    `faults`; ValueError if that leaves none.
    """
    detections: list[Detections] = []
    targets: list[Target] = []
    faults: list[str] = []
    for photo in photos:
        if photo.image is None:
            faults.append(str(photo.fault))
            continue
        detections += detect([photo.image])
        targets.append(photo.target)
        if see is not None:
            see(photo, detections[-1])
    if not targets:
        raise ValueError(f"no image readable of {len(faults)}: {faults[0] if faults else 'the set is empty'}")
    matches = [match_detections(each, target) for each, target in zip(detections, targets, strict=True)]
    metrics: dict[str, Any] = {
        "ap50": average_precision([each.scores for each in detections], matches),
        "images": len(targets),
        "faces": sum(int(match.wanted.sum()) for match in matches),
    }
    if landmarks := landmark_metrics(detections, targets, matches):
        metrics["landmarks"] = landmarks
    return Evaluation(metrics, faults)
