"""From samples to batches."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import cv2
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from data.dataset import FaceDataset, Sample
from utils.structures import Target


class Batch(NamedTuple):
    """images (B,3,S,S) uint8, a Target for each, their files, the faults of files that could not be read, and how many boxes
    reached beyond their photo."""

    images: Tensor
    targets: list[Target]
    paths: list[str]
    faults: list[str]
    outside: int


class EpochSampler(Sampler[list[tuple[int, int]]]):
    """The batches of one epoch as (epoch, index) pairs, in an order that (seed, epoch) decides; the last batch may be smaller.

    `first` leaves out that many batches, to go on inside an epoch.
    """

    def __init__(self, count: int, *, batch_size: int, seed: int, epoch: int, first: int = 0):
        order = torch.randperm(count, generator=torch.Generator().manual_seed(_mix(seed, epoch))).tolist()
        batches = [order[start : start + batch_size] for start in range(0, count, batch_size)]
        self.batches = [[(epoch, index) for index in batch] for batch in batches[first:]]

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def epoch_loader(
    dataset: FaceDataset, *, batch_size: int, epoch: int, workers: int, first: int = 0, pin_memory: bool = False
) -> DataLoader[Sample]:
    """The batches of an epoch from batch `first` on, made by at most one worker a core; equal whatever their number."""
    sampler = EpochSampler(len(dataset), batch_size=batch_size, seed=dataset.seed, epoch=epoch, first=first)
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=min(workers, os.cpu_count() or 1, len(sampler)),
        collate_fn=collate,
        pin_memory=pin_memory,
        worker_init_fn=_start_worker,
    )


def collate(samples: Sequence[Sample]) -> Batch:
    """Samples as one batch; an image without faces keeps its place."""
    images, targets, paths, faults, outside = zip(*samples, strict=True)
    return Batch(torch.stack(images), list(targets), list(paths), [fault for each in faults for fault in each], sum(outside))


def _start_worker(worker: int) -> None:
    """A worker works alone on its core, and leaves signals to the training process, which finishes its iteration first.

    Without that a signal to the whole process group, as Ctrl-C and most schedulers send it, would take the batches away.
    """
    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _mix(seed: int, epoch: int) -> int:
    """One seed of two; epochs of neighbouring seeds share no order."""
    return (seed * 1_000_003 + epoch) % 2**63
