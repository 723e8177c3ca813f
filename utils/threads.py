"""Work done by threads, in order and with bounded memory; OpenCV and PyTorch compute outside Python's lock."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")


def run_ahead(work: Callable[[T], R], items: Iterable[T], *, threads: int, ahead: int) -> Iterator[R]:
    """`work` of each item, in their order, done by some threads for up to `ahead` items before they are asked for.

    Items are taken one by one, where the results are asked for; an error comes up in its place. What is not asked for any more is
    not begun.
    """
    remaining = iter(items)
    pool = ThreadPoolExecutor(threads)
    try:
        waiting: deque[Future[R]] = deque(pool.submit(work, item) for item in islice(remaining, ahead))
        while waiting:
            result = waiting.popleft().result()
            waiting.extend(pool.submit(work, item) for item in islice(remaining, 1))
            yield result
    finally:
        pool.shutdown(cancel_futures=True)


def batched(items: Iterable[T], *, size: int, weight: Callable[[T], int], heaviest: int) -> Iterator[list[T]]:
    """The items in lists of up to `size` that weigh `heaviest` together, or a little more: the one that goes beyond ends a list."""
    batch: list[T] = []
    total = 0
    for item in items:
        batch.append(item)
        total += weight(item)
        if len(batch) == size or total >= heaviest:
            yield batch
            batch, total = [], 0
    if batch:
        yield batch


def side_by_side(work: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """`work` of each item, done by as many threads as PyTorch would use together for one of them, each on one core.

    The threads are new ones: what oneDNN keeps for a thread goes with it, or it would grow with each size of image.
    """
    threads = torch.get_num_threads()
    if threads == 1 or len(items) < 2:
        return [work(item) for item in items]
    try:
        with ThreadPoolExecutor(min(threads, len(items)), initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(work, items))
    finally:
        torch.set_num_threads(threads)    # a thread that sets it for itself sets it for those to come too
