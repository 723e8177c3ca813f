"""Pictures of numbers with matplotlib; nothing here needs a display."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from utils.files import whole_file


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG; the file appears whole or not at all."""
    with whole_file(path) as partial:
        FigureCanvasAgg(figure).print_png(str(partial))


def plot_losses(rows: Sequence[Mapping[str, float]], names: Sequence[str], path: Path) -> None:
    """A curve for each of the named losses over the iterations (`step`) of some rows, and their learning rate (`lr`) below."""
    figure = Figure(figsize=(9, 3 + 2 * len(names)), layout="constrained")
    axes = figure.subplots(len(names) + 1, 1, sharex=True)
    steps = [row["step"] for row in rows]
    for axis, name in zip(axes, [*names, "lr"], strict=True):
        axis.plot(steps, [row[name] for row in rows], marker="." if len(rows) < 60 else "", linewidth=1.2)
        axis.set_ylabel({"lr": "learning rate"}.get(name, f"{name} loss"))
        axis.grid(alpha=0.3)
        axis.set_ylim(bottom=0)
    axes[-1].set_xlabel("iteration")
    figure.suptitle("Training losses, each the mean since the point before")
    save_figure(figure, path)


def plot_positions(counts: NDArray[np.int64], path: Path) -> None:
    """A 2-D histogram (rows, columns) of where in the image the centres of faces lie."""
    figure = Figure(figsize=(6.4, 5.6), layout="constrained")
    axis = figure.subplots()
    picture = axis.imshow(counts, extent=(0, 1, 1, 0), cmap="viridis", vmin=0)
    axis.set_xlabel("x of the face's centre / image width")
    axis.set_ylabel("y of the face's centre / image height")
    axis.set_title(f"Where {counts.sum():,} faces lie in their images")
    figure.colorbar(picture, label="faces in a cell")
    save_figure(figure, path)
