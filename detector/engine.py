"""Training and evaluation of any detector: the engine knows an objective and a callable, and no network.

    objective.losses(images, ...) -> dict of tensors, to be added up and made small
    detect(images) -> Detections of each image
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from utils.arrays import Image
from utils.average_precision import Matches, average_precision, match_detections
from utils.distributed import gather, sum_over_processes, unshare, world_size
from utils.landmark_eval import landmark_metrics
from utils.structures import Detections, Photo, Target
from utils.threads import batched
from utils.wider_eval import Curve, OfficialFaces, wider_curves

PHOTOS_AT_A_TIME, PIXELS_AT_A_TIME = 32, 2**25    # that an evaluation hands to the detector
Detect = Callable[[Sequence[Image]], list[Detections]]


class Batch(Protocol):
    """What a loader yields: images (B,3,S,S) uint8 and a Target for each, maybe with more beside them."""

    @property
    def images(self) -> Tensor: ...
    @property
    def targets(self) -> list[Target]: ...


class Objective(Protocol):
    """What is to be made small, in two steps: what images must teach, known before the network has seen them, then the losses.

    `names` are those of the losses. `assign` says how much it found to learn, as `counts` (K,) of what it gives. They are added up over
    the parts and processes of a step, and `losses` divides by the sums: so the losses of all parts add up to those of the whole batch.
    """

    @property
    def names(self) -> Sequence[str]: ...
    def assign(self, images: Tensor, targets: Sequence[Target]) -> Any: ...
    def losses(self, images: Tensor, assignment: Any, counts: Tensor) -> dict[str, Tensor]: ...


@dataclass(frozen=True)
class Stepping:
    """How a step is taken: each process takes its share of a batch in `parts`, one after another, and computes in `dtype`.

    Gradients longer than `clip_norm` are shortened to it, unless it is 0. `no_sync` is DistributedDataParallel's, for all parts but
    the last. `guarded` are batch-norm statistics, put back when a step is passed over.
    """

    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    device: torch.device
    dtype: torch.dtype
    learning_rate: Callable[[int], float]
    parts: int = 1
    clip_norm: float = 0.0
    no_sync: Callable[[], AbstractContextManager[Any]] = nullcontext
    guarded: Sequence[Tensor] = ()


class Step(NamedTuple):
    """What became of a step: its number, counted from 1; the losses of the whole batch, of all processes; and whether they and the
    gradient were finite. If they were not, no weight was changed. They stay on the device until someone asks."""

    number: int
    losses: dict[str, Tensor]
    finite: Tensor
    overflowed: Tensor    # a float16 gradient overflowed: no weight was changed, the scaler scales less
    scale: Tensor    # what float16 gradients are multiplied by from here on; 1 in other precisions


def train_one_epoch(
    objective: Objective, batches: Iterable[Batch], stepping: Stepping, *, first_step: int, after_step: Callable[[Step], bool]
) -> None:
    """Take a step for each batch, the first of them step number `first_step`, counted from 0.

    The network computes in a lower precision under autocast; its weights stay float32, and the scaler keeps float16 gradients from
    vanishing. `after_step` ends the epoch early by returning True. Nothing here waits for a GPU.
    """
    for step, batch in enumerate(batches, start=first_step):
        for group in stepping.optimizer.param_groups:
            group["lr"] = stepping.learning_rate(step)
        if after_step(Step(step + 1, *take_step(objective, batch, stepping))):
            return


def take_step(
    objective: Objective, batch: Batch, stepping: Stepping
) -> tuple[dict[str, Tensor], Tensor, Tensor, Tensor]:
    """Take one optimizer step on a batch.

    Returns the detached losses, then `finite`, `overflowed` and `scale` as `Step` has them.
    """
    device, optimizer, scaler = stepping.device, stepping.optimizer, stepping.scaler
    before = [values.clone() for values in stepping.guarded]
    images = batch.images.to(device, non_blocking=True).contiguous(memory_format=torch.channels_last)
    size = -(-len(images) // stepping.parts)
    parts = [(images[start : start + size], batch.targets[start : start + size]) for start in range(0, len(images), size)]
    assigned = [(part, objective.assign(part, [target.to(device, non_blocking=True) for target in targets])) for part, targets in parts]
    counts = sum_over_processes(torch.stack([assignment.counts for _, assignment in assigned]).sum(dim=0))

    optimizer.zero_grad(set_to_none=True)
    summed: dict[str, Tensor] = {}
    for number, (part, assignment) in enumerate(assigned, start=1):
        with nullcontext() if number == len(assigned) else stepping.no_sync():
            with torch.autocast(device.type, dtype=stepping.dtype, enabled=stepping.dtype != torch.float32):
                by_name = objective.losses(part, assignment, counts)
            # DistributedDataParallel takes the mean over the processes, where the sum is wanted.
            scaler.scale(torch.stack(list(by_name.values())).sum() * world_size()).backward()
        summed = {name: loss.detach() + summed.get(name, 0) for name, loss in by_name.items()}
    losses = dict(zip(summed, sum_over_processes(torch.stack(list(summed.values()))), strict=True))
    finite, overflowed = _update(stepping, torch.stack(list(losses.values())).isfinite().all())
    for values, earlier in zip(stepping.guarded, before, strict=True):
        values.copy_(torch.where(finite, values, earlier))
    # Unlike get_scale(), this does not wait for the GPU.
    scale = scaler.scale(torch.ones((), device=device))
    return losses, finite, overflowed, scale


def _update(stepping: Stepping, finite: Tensor) -> tuple[Tensor, Tensor]:
    """Let the optimizer take its step if the losses are `finite` and so are their gradients.

    Returns whether they are, and whether a float16 gradient overflowed. That is no error by itself:
    the scaler skips the step and scales less.
    """
    optimizer, scaler = stepping.optimizer, stepping.scaler
    weights = [weight for group in optimizer.param_groups for weight in group["params"] if weight.grad is not None]
    scaler.unscale_(optimizer)
    norm = get_total_norm([weight.grad for weight in weights])
    if stepping.clip_norm:
        clip_grads_with_norm_(weights, stepping.clip_norm, norm)
    overflowed = ~norm.isfinite()
    if not scaler.is_enabled():
        finite, overflowed = finite & ~overflowed, torch.zeros_like(overflowed)
        # The fused optimisers read this on the device, and leave everything as it is.
        optimizer.found_inf = (~finite).float()    # type: ignore[attr-defined]
    scaler.step(optimizer)
    scaler.update()
    return finite, overflowed


@dataclass(frozen=True)
class Evaluation:
    """metrics as they stand in metrics.json; of each photo that could be read what was found, what is there, and which found which;
    the curves of the WIDER protocol, if asked for; and why other photos were left out."""

    metrics: dict[str, Any]
    detections: list[Detections]
    targets: list[Target]
    matches: list[Matches]
    curves: dict[str, Curve]
    faults: list[str]


def evaluate(
    detect: Detect,
    photos: Iterable[Photo],
    *,
    see: Callable[[Photo, Detections], None] | None = None,
    official: Sequence[OfficialFaces] | None = None,
) -> Evaluation:
    """Find the faces in labelled photos and score them: AP at IoU 0.5, and the landmarks where both sides have them.

    With the `official` faces of WIDER FACE, of each photo of all processes, also the AP of its protocol.
    A metric that needs faces is absent where the set has none.

    `see` is shown each photo with what was found in it. Photos that cannot be read are left out of the figures and named in
    `faults`; ValueError if that leaves none. Of several processes each is given its share of the photos; all get the whole result.
    """
    found: list[tuple[Detections | None, Target, str | None]] = []
    for batch in batched(photos, size=PHOTOS_AT_A_TIME, weight=_pixels, heaviest=PIXELS_AT_A_TIME):
        of_readable = iter(detect([photo.image for photo in batch if photo.image is not None]))
        for photo in batch:
            detections = None if photo.image is None else next(of_readable)
            found.append((detections, photo.target, photo.fault))
            if see is not None and detections is not None:
                see(photo, detections)
    found = unshare(gather(found))
    faults = [str(fault) for detections, _, fault in found if detections is None]
    readable = [(detections, target) for detections, target, _ in found if detections is not None]
    if not readable:
        raise ValueError(f"no image readable of {len(faults)}: {faults[0] if faults else 'the set is empty'}")
    of_images, targets = [detections for detections, _ in readable], [target for _, target in readable]
    matches = [match_detections(each, target) for each, target in readable]
    metrics: dict[str, Any] = {"images": len(readable), "faces": sum(int(match.wanted.sum()) for match in matches)}
    if metrics["faces"]:
        metrics = {"ap50": average_precision([each.scores for each in of_images], matches), **metrics}
    if landmarks := landmark_metrics(of_images, targets, matches):
        metrics["landmarks"] = landmarks
    curves = {}
    if official is not None:
        seen = [faces for faces, (detections, _, _) in zip(official, found, strict=False) if detections is not None]
        with_faces = {setting for faces in seen for setting, kept in faces.kept.items() if kept.any()}
        curves = {setting: curve for setting, curve in wider_curves(of_images, seen).items() if setting in with_faces}
        if curves:
            metrics["wider"] = {setting: curve.ap for setting, curve in curves.items()}
    return Evaluation(metrics, of_images, targets, matches, curves, faults)


def _pixels(photo: Photo) -> int:
    return 0 if photo.image is None else photo.image.shape[0] * photo.image.shape[1]
