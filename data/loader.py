"""From samples to batches."""

from __future__ import annotations

import atexit
import errno
import os
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import active_children
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from multiprocessing.queues import Queue
from multiprocessing.util import Finalize
from typing import Any, NamedTuple, TypeVar

import cv2
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from data.dataset import FaceDataset, Sample
from utils.memory import keep_freed_memory
from utils.shortage import ADVICE, advise, find_shortage
from utils.structures import Target

R = TypeVar("R")
DYING_SECONDS = 1.0    # in which a process that is about to end does so


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
        self._setting = f"data.workers={workers}"
        workers = min(workers, cores(), len(self.sampler))
        self._loader: DataLoader[PackedBatch | Exception] = DataLoader(
            _Batches(dataset),    # type: ignore[arg-type]
            sampler=self.sampler,
            batch_size=None,    # the dataset makes whole batches
            collate_fn=_identity,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=self.device.type == "cuda",
            worker_init_fn=_start_worker,
        )
        self._processes: list[BaseProcess] = []
        self._thread_errors: list[BaseException] = []
        # Workers ignore SIGTERM, by which multiprocessing asks them to end before it waits for them
        # at the exit of the program. This comes first there.
        Finalize(self, _kill, args=(self._processes,), exitpriority=1)

    def __len__(self) -> int:
        """How many batches an epoch has."""
        return len(self.sampler)

    def epoch(self, epoch: int, *, first: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, counted from 0, from batch `first` on.

        What a dataset raises in a worker is raised here. OSError in one line for a worker that
        died, or for which shared memory or open files do not suffice.
        """
        self.sampler.start(epoch=epoch, first=first)
        try:
            batches = self._call(self._start)
            while (packed := self._call(lambda: next(batches, None))) is not None:
                yield packed.to(self.device).unpack()
        except GeneratorExit:    # left early: the workers wait for the next epoch
            raise
        except BaseException:
            _kill(self._processes)
            raise

    def _start(self) -> Iterator[PackedBatch | Exception]:
        """Start an epoch, and with the first one the workers."""
        others, other_threads = set(active_children()), set(threading.enumerate())
        # Workers that are forked inherit it. One that looks for it when it may not open another
        # file finds "no usable temporary directory" instead.
        tempfile.gettempdir()
        with _own_child_signal():
            try:
                return iter(self._loader)
            finally:
                if started := set(active_children()) - others:
                    self._processes += started
                    # Comes before PyTorch's own hook, which waits 5 s for each of them.
                    atexit.register(_kill, self._processes)
                    # The thread that pins batches finds its queue closed when they are killed.
                    pinning = set(threading.enumerate()) - other_threads
                    _collect_thread_errors(pinning, self._thread_errors)

    def _call(self, ask: Callable[[], R | Exception]) -> R:
        """Return what the workers answer; raise in one line what went wrong with them."""
        try:
            self._check_workers()    # a batch of a dead one never comes
            answer = ask()
        except (RuntimeError, OSError, EOFError) as error:
            self._check_workers(seconds=DYING_SECONDS)    # its death may show here first
            # The thread that pins batches ends with its own error, of which PyTorch tells nothing.
            cause = self._thread_errors[0] if self._thread_errors else error
            kind = find_shortage(cause)
            if kind is None and isinstance(cause, (EOFError, ConnectionError)):
                kind = errno.ECHILD
        else:
            if not isinstance(answer, Exception):
                return answer
            cause, kind = answer, find_shortage(answer)
            if kind == errno.ENOMEM:    # of a worker
                kind = errno.ECHILD
        if kind is None or not self._processes:
            raise cause
        raise OSError(self._advise(kind)) from None

    def _check_workers(self, *, seconds: float = 0.0) -> None:
        """Raise OSError if a worker has ended, or does so within some seconds."""
        if seconds and self._processes:
            wait([process.sentinel for process in self._processes], timeout=seconds)
        for process in self._processes:
            if process.exitcode is not None:
                raise OSError(self._explain(process.exitcode))

    def _explain(self, code: int) -> str:
        """Say in one line why a worker ended, and what helps."""
        reason = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        if reason == "SIGBUS":    # what writing beyond a full /dev/shm ends with
            return self._advise(errno.ENOSPC)
        if reason == "SIGKILL" or code == errno.ENOMEM:
            return self._advise(errno.ECHILD)
        if code in ADVICE:
            return self._advise(code)
        return f"a data worker ended with {reason}; use --resume, maybe with data.workers=0"

    def _advise(self, kind: int) -> str:
        return advise(kind, workers=self._setting)


class _Batches(Dataset["PackedBatch | Exception"]):
    """Makes the batch of some (epoch, index) pairs, or gives what went wrong as a value: raised in
    a worker, it would come out as the text of a traceback."""

    def __init__(self, dataset: FaceDataset):
        self.dataset = dataset

    def __getitem__(self, keys: list[tuple[int, int]]) -> PackedBatch | Exception:
        try:
            return collate([self.dataset[key] for key in keys])
        except (ValueError, OSError, MemoryError) as error:
            return error
        except RuntimeError as error:
            if find_shortage(error) is None:
                raise
            return error


@contextmanager
def _own_child_signal() -> Iterator[None]:
    """Keep PyTorch from handling SIGCHLD.

    It would raise an error when a worker dies, wherever the training happens to be, such as in the
    middle of a file. `FaceLoader` notices the death at the next batch.
    """
    if not hasattr(signal, "SIGCHLD") or threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, handler or signal.SIG_DFL)


def _collect_thread_errors(threads: set[threading.Thread], errors: list[BaseException]) -> None:
    """From now on add what ends one of some threads to `errors`; its traceback is not printed."""
    hook = threading.excepthook

    def collect(ended: threading.ExceptHookArgs) -> None:
        if ended.thread in threads and ended.exc_value is not None:
            errors.append(ended.exc_value)
        else:
            hook(ended)

    threading.excepthook = collect


def _identity(batch: Any) -> Any:
    return batch


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
    for name in ("SIGBUS", "SIGSEGV", "SIGFPE"):    # else PyTorch prints a line of its own
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_DFL)
    # A batch that cannot be sent would be dropped with a traceback, and waited for without end: by
    # the thread that fills the queue, or by the one that hands out the files of its tensors.
    Queue._on_queue_feeder_error = staticmethod(_end_worker)    # type: ignore[attr-defined]
    sys.excepthook = lambda kind, error, place: _end_worker(error)
    keep_freed_memory()


def _end_worker(error: BaseException, batch: object = None) -> None:
    """End a worker that cannot send a batch, with an exit code that says what is short."""
    kind = find_shortage(error)
    if kind is None:
        traceback.print_exception(error)
    os._exit(kind or 1)


def _kill(processes: list[BaseProcess]) -> None:
    """End worker processes whatever they are doing, and forget them."""
    for process in processes:
        process.kill()
    for process in processes:
        process.join(timeout=DYING_SECONDS)
    processes.clear()


def _mix(seed: int, epoch: int) -> int:
    """One seed of two; epochs of neighbouring seeds share no order."""
    return (seed * 1_000_003 + epoch) % 2**63
