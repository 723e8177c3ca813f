"""How far and how fast a run gets on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, TypeVar

from tqdm import tqdm

from utils.distributed import is_main, world_size

T = TypeVar("T")


def progress(title: str, *, total: int | None, unit: str, initial: int = 0) -> Any:
    """A tqdm bar with rate and time left, on a terminal and of the main process."""
    return tqdm(total=total, initial=initial, desc=title, unit=unit, disable=None if is_main() else True, leave=False)


class Pace:
    """How many images a second are trained on, by all processes together, and what share of the time this one waits for them."""

    def __init__(self) -> None:
        self.images = 0
        self.waited = 0.0
        self.started = time.monotonic()
        self.batches = 0
        self._lap = self.started, 0.0, 0

    def measure(self, batches: Iterator[T], *, size: Callable[[T], int]) -> Iterator[T]:
        """The same batches, timed, and their images counted."""
        while True:
            asked = time.monotonic()
            batch = next(batches, None)
            self.waited += time.monotonic() - asked
            if batch is None:
                return
            self.images += size(batch) * world_size()
            self.batches += 1
            yield batch

    def lap(self) -> tuple[float, float]:
        """Return the mean seconds a step took since the last call, and waited for data."""
        (started, waited, batches), self._lap = self._lap, (time.monotonic(), self.waited, self.batches)
        steps = max(1, self.batches - batches)
        return (self._lap[0] - started) / steps, (self.waited - waited) / steps

    def time_left(self, steps: int) -> str:
        """Return how long so many more steps take at the mean rate so far, as h:mm:ss."""
        seconds = (time.monotonic() - self.started) / max(1, self.batches) * steps
        return str(timedelta(seconds=round(seconds)))

    def __str__(self) -> str:
        seconds = max(time.monotonic() - self.started, 1e-9)
        return f"{self.images / seconds:.0f} images/s, waiting for data {self.waited / seconds:.0%} of the time"
