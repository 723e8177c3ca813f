"""Curves for TensorBoard, an extra."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


class Board:
    """Writes numbers to a folder that TensorBoard shows; what a run wrote after `step`, before it was resumed there, is dropped.

    ValueError where the tensorboard package is missing.
    """

    def __init__(self, folder: Path, *, step: int):
        try:
            from torch.utils.tensorboard import SummaryWriter  # the only place that needs it
        except ImportError:
            raise ValueError('train.tensorboard: the tensorboard package is missing: pip install -e ".[tensorboard]"') from None
        self.writer = SummaryWriter(str(folder), purge_step=step + 1)

    def add(self, group: str, values: Mapping[str, float], *, step: int) -> None:
        """Write named numbers of an iteration, in a group such as "train"."""
        for name, value in values.items():
            self.writer.add_scalar(f"{group}/{name}", value, step)
        self.writer.flush()
