"""What happens to batches whose loss is not finite."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import torch

from detector.engine import Step
from utils.distributed import gather, is_main
from utils.files import append_text

# A scaler that starts at 65,536 has halved its scale to less than 0.1 by then: the gradient is NaN.
OVERFLOWS_IN_A_ROW = 20
SMALLEST_SCALE = 1e-6    # below, float16 gradients vanish


class Guard:
    """Reads the losses of steps off the device, some steps at a time, and stops the run where they are not finite.

    Up to `allowed` such steps are passed over, each with a warning; the engine has not changed a weight for them. `listing` gets
    their numbers, losses and images. `skipped` steps were passed over before the run was resumed. A float16 gradient may overflow
    now and then, while the scaler looks for its scale, but not many times in a row.
    """

    def __init__(self, *, allowed: int, skipped: int, listing: Path):
        self.allowed = allowed
        self.skipped = skipped
        self.listing = listing
        self._overflows = 0    # steps in a row
        self._waiting: list[tuple[Step, Sequence[str]]] = []

    def add(self, step: Step, paths: Sequence[str]) -> None:
        """Take note of a step and of its images, without waiting for a GPU."""
        self._waiting.append((step, paths))

    def collect(self) -> list[dict[str, float]]:
        """The losses of the finite ones among the steps since the last call; the host waits for the device here.

        ValueError that names the iteration, its losses and its images if too many are not finite.
        """
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return []
        numbers = [torch.stack([*step.losses.values(), *step[2:]]).float() for step, _ in waiting]
        collected = []
        rows = torch.stack(numbers).tolist()
        for (step, paths), (*losses, finite, overflowed, scale) in zip(waiting, rows, strict=True):
            by_name = dict(zip(step.losses, losses, strict=True))
            self._overflows = self._overflows + 1 if overflowed else 0
            if self._overflows >= OVERFLOWS_IN_A_ROW or scale < SMALLEST_SCALE:
                times = f"{self._overflows} times in a row, scale {scale:.2g}"
                overflow = f"; float16 gradients overflowed {times}"
                self._stop(step.number, by_name, paths, overflow=overflow)
            elif finite:
                collected.append(by_name)
            else:
                self._pass_over(step.number, by_name, paths)
        return collected

    def _stop(
        self, number: int, losses: dict[str, float], paths: Sequence[str], *, overflow: str = ""
    ) -> NoReturn:
        what, images = self._write(number, losses, paths)
        skip = "" if overflow else ", train.skip_nonfinite=10 passes over such batches"
        raise ValueError(
            f"the loss or its gradient is not finite at iteration {number} ({what}{overflow}), "
            f"on {', '.join(images)} (see {self.listing}); the last checkpoint is kept; a lower "
            f"train.lr, train.clip_norm=10 or train.precision=float32 may help{skip}"
        )

    def _write(self, number: int, losses: dict[str, float], paths: Sequence[str]) -> tuple[str, list[str]]:
        """Append a step to the listing; return its losses as text, and the images of all processes."""
        images = [path for of_process in gather(list(paths)) for path in of_process]
        what = ", ".join(f"{name} {loss:.4g}" for name, loss in losses.items())
        if is_main():
            self.listing.parent.mkdir(parents=True, exist_ok=True)
            append_text(self.listing, f"iteration {number}: {what}\n" + "".join(f"    {path}\n" for path in images))
        return what, images

    def _pass_over(self, number: int, losses: dict[str, float], paths: Sequence[str]) -> None:
        self.skipped += 1
        if self.skipped > self.allowed:
            self._stop(number, losses, paths)
        what, _ = self._write(number, losses, paths)
        warnings.warn(f"iteration {number} is passed over: its loss is not finite ({what}); its images are in {self.listing}", stacklevel=2)
