"""From samples to batches."""

from __future__ import annotations

import os
import signal
import weakref
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import cv2
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler, default_collate

from data.dataset import FaceDataset, Sample
from utils.memory import keep_freed_memory
from utils.structures import Target


class Batch(NamedTuple):
    """images (B,3,S,S) uint8 with channels last in memory, a Target for each, their files, the faults of files that could not be
    read, and how many boxes reached beyond their photo."""

    images: Tensor
    targets: list[Target]
    paths: list[str]
    faults: list[str]
    outside: int


class PackedBatch(NamedTuple):
    """A Batch on its way from a worker: the faces of all images in four tensors, for each tensor takes a shared file of its own;
    counts (B,) of faces in each image; regions (B,S,S) where all images have them."""

    images: Tensor
    counts: list[int]
    boxes: Tensor
    landmarks: Tensor
    has_landmarks: Tensor
    ignore: Tensor
    regions: Tensor | None
    paths: list[str]
    faults: list[str]
    outside: int

    def to(self, device: torch.device) -> PackedBatch:
        """The same on a device; from page-locked memory the copies do not wait."""
        on_device = [part.to(device, non_blocking=True) if isinstance(part, Tensor) else part for part in self]
        return PackedBatch(*on_device)    # type: ignore[arg-type]

    def unpack(self) -> Batch:
        """The same as a Batch, whose targets are views."""
        parts = [part.split(self.counts) for part in (self.boxes, self.landmarks, self.has_landmarks, self.ignore)]
        regions = [None] * len(self.counts) if self.regions is None else self.regions.unbind()
        targets = [Target(*of_image) for of_image in zip(*parts, regions, strict=True)]
        return Batch(self.images, targets, self.paths, self.faults, self.outside)


class EpochSampler(Sampler[list[tuple[int, int]]]):
    """The batches of one epoch as (epoch, index) pairs, in an order that (seed, epoch) decides; the last batch may be smaller.

    `batch_size` counts the images of all processes together; the one of that `rank` gets its share of each batch, at least one image:
    where an epoch ends with fewer images than processes, its first images come again. So all take as many steps, and together the same
    steps as one process alone.
    """

    def __init__(self, count: int, *, batch_size: int, seed: int, rank: int = 0, world_size: int = 1):
        if batch_size % world_size:
            raise ValueError(f"train.batch_size: expected a multiple of the {world_size} processes, found {batch_size}")
        self.count = count
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.start(epoch=0)

    def start(self, *, epoch: int, first: int = 0) -> None:
        """Turn to an epoch, without its first so many batches, to go on inside it."""
        self.epoch = epoch
        self.first = first

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = torch.randperm(self.count, generator=torch.Generator().manual_seed(_mix(self.seed, self.epoch))).tolist()
        rest = len(order) % self.batch_size
        while 0 < rest < self.world_size:
            extra = order[: self.world_size - rest]
            order, rest = order + extra, rest + len(extra)
        for start in range(self.first * self.batch_size, len(order), self.batch_size):
            yield [(self.epoch, index) for index in order[start : start + self.batch_size][self.rank :: self.world_size]]

    def __len__(self) -> int:
        """How many batches a whole epoch has."""
        return -(-self.count // self.batch_size)


class FaceLoader:
    """The batches of a dataset, epoch by epoch, made by at most one worker a core; equal whatever their number.

    The workers start with the first epoch and live as long as the loader. Each works alone on its core, ahead of the training. Batches
    come on the device named.
    """

    def __init__(
        self, dataset: FaceDataset, *, batch_size: int, workers: int, device: str | torch.device = "cpu", rank: int = 0, world_size: int = 1
    ):
        self.device = torch.device(device)
        self.sampler = EpochSampler(len(dataset), batch_size=batch_size, seed=dataset.seed, rank=rank, world_size=world_size)
        workers = min(workers, cores(), len(self.sampler))
        loader: DataLoader[Sample] = DataLoader(
            dataset,
            batch_sampler=self.sampler,
            num_workers=workers,
            persistent_workers=workers > 0,
            collate_fn=collate,
            pin_memory=self.device.type == "cuda",
            worker_init_fn=_start_worker,
        )
        # Workers end when the last reference to what holds them goes, at the interpreter's exit too: they do not heed its SIGTERM.
        self._held: dict[str, Any] = {"loader": loader}
        weakref.finalize(self, self._held.clear)

    def __len__(self) -> int:
        """How many batches an epoch has."""
        return len(self.sampler)

    def epoch(self, epoch: int, *, first: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, counted from 0, from batch `first` on."""
        self.sampler.start(epoch=epoch, first=first)
        self._held["batches"] = iter(self._held["loader"])
        while (packed := next(self._held["batches"], None)) is not None:
            yield packed.to(self.device).unpack()


def collate(samples: Sequence[Sample]) -> PackedBatch:
    """Samples as one batch; an image without faces keeps its place."""
    images, targets, paths, faults, outside = zip(*samples, strict=True)
    # In a worker default_collate writes straight into the memory that it shares with the training.
    stacked = default_collate([image.permute(1, 2, 0) for image in images]).permute(0, 3, 1, 2)
    return PackedBatch(
        stacked,
        [len(target.boxes) for target in targets],
        torch.cat([target.boxes for target in targets]),
        torch.cat([target.landmarks for target in targets]),
        torch.cat([target.has_landmarks for target in targets]),
        torch.cat([target.ignore for target in targets]),
        stack_regions(targets),
        list(paths),
        [fault for each in faults for fault in each],
        sum(outside),
    )


def stack_regions(targets: Sequence[Target]) -> Tensor | None:
    """The regions (B,S,S) of some images, or None where one of them has none."""
    regions = [target.regions for target in targets if target.regions is not None]
    return torch.stack(regions) if len(regions) == len(targets) else None


def cores() -> int:
    """How many processor cores this process may use; a scheduler or a container may give it fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _start_worker(worker: int) -> None:
    """A worker works alone on its core, and leaves signals to the training process, which finishes its iteration first.

    Without that a signal to the whole process group, as Ctrl-C and most schedulers send it, would take the batches away.
    """
    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    keep_freed_memory()


def _mix(seed: int, epoch: int) -> int:
    """One seed of two; epochs of neighbouring seeds share no order."""
    return (seed * 1_000_003 + epoch) % 2**63
