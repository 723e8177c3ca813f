"""Priors (anchors): the boxes that the network's offsets start from, laid out over an image."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

CACHED_SIZES = 16    # a folder of photos seldom has more sizes at a time; one of 1600 x 1200 takes 1.3 MB


class PriorBox:
    """The priors of any image size, for one set of levels.

    `min_sizes` has one list of prior sizes a level, in pixels, `steps` the pixels between two of its cells. Call it with an image's
    height and width for its priors (P,4) as float32 cx, cy, w, h in pixels, ordered by level, row, column, size. A level has
    ceil(height / step) x ceil(width / step) cells. Sizes seen lately are kept, so the tensor is shared: do not write to it.

    >>> PriorBox([[16, 32], [64, 128], [256, 512]], [8, 16, 32])(840, 840).shape
    torch.Size([29126, 4])
    """

    def __init__(self, min_sizes: Sequence[Sequence[float]], steps: Sequence[int]):
        if len(min_sizes) != len(steps):
            raise ValueError(f"min_sizes has {len(min_sizes)} levels and steps has {len(steps)}: expected as many")
        self.min_sizes = tuple(tuple(sizes) for sizes in min_sizes)
        self.steps = tuple(steps)

    def __call__(self, height: int, width: int, *, device: torch.device | str = "cpu") -> Tensor:
        return _priors(height, width, self.min_sizes, self.steps, torch.device(device))

    def lay_out(self, height: int, width: int, *, device: torch.device | str = "cpu") -> Tensor:
        """The same, made anew; this can be traced."""
        levels = zip(self.min_sizes, self.steps, strict=True)
        return torch.cat([_level(height, width, sizes, step, torch.device(device)) for sizes, step in levels])


@lru_cache(maxsize=CACHED_SIZES)
def _priors(
    height: int, width: int, min_sizes: tuple[tuple[float, ...], ...], steps: tuple[int, ...], device: torch.device
) -> Tensor:
    # An inference tensor in the cache would break a training step that comes across it later.
    with torch.inference_mode(False):
        return PriorBox(min_sizes, steps).lay_out(height, width, device=device)


def _level(height: int, width: int, sizes: tuple[float, ...], step: int, device: torch.device) -> Tensor:
    # Rounded up by adding, not by negating twice: ONNX divides towards zero.
    rows = (torch.arange((height + step - 1) // step, device=device) + 0.5) * step
    columns = (torch.arange((width + step - 1) // step, device=device) + 0.5) * step
    side = torch.tensor(sizes, device=device, dtype=torch.float32)
    cy, cx, size = torch.meshgrid(rows, columns, side, indexing="ij")    # (rows, columns, sizes) each
    return torch.stack([cx, cy, size, size], dim=-1).reshape(-1, 4)
