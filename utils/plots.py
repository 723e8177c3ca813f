"""Pictures of numbers with matplotlib; nothing here needs a display."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from utils.arrays import FloatArray
from utils.files import whole_file

BLUE, GREY = "#2a6f97", "#cfd8dc"
WIDE = 5    # from here on, the largest value over the smallest, a scale is logarithmic
LINES = ("#2e7d32", "#e07a1f", "#b71c1c")


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
        axis.plot(steps, [row.get(name, math.nan) for row in rows], marker="." if len(rows) < 60 else "", linewidth=1.2)
        axis.set_ylabel({"lr": "learning rate"}.get(name, f"{name} loss"))
        axis.grid(alpha=0.3)
        axis.set_ylim(bottom=0)
    axes[-1].set_xlabel("iteration")
    figure.suptitle("Training losses, weighted as in their sum (means since the previous point)")
    save_figure(figure, path)


def plot_histograms(histograms: Sequence[tuple[str, str, NDArray[np.float64], NDArray[np.int64]]], path: Path) -> None:
    """Bars of counts for each (title, name of the values, edges (N + 1,), counts (N,)), two beside each other.

    Bars are equally wide whatever their edges, which are written below them.
    """
    rows = -(-len(histograms) // 2)
    figure = Figure(figsize=(12, 4 * rows), layout="constrained")
    for axis, (title, name, edges, counts) in zip(figure.subplots(rows, 2, squeeze=False).flat, histograms, strict=False):
        places = np.arange(len(counts))
        axis.bar(places + 0.5, counts, width=0.92, color=BLUE)
        step = -(-len(edges) // 16)
        axis.set_xticks(np.arange(len(edges))[::step], [f"{edge:.3g}" if edge < 1000 else f"{edge:.0f}" for edge in edges[::step]])
        axis.tick_params(axis="x", labelsize=8)
        axis.set_title(title)
        axis.set_xlabel(name)
        axis.set_ylim(0, max(1, 1.05 * counts.max()))
        axis.yaxis.get_major_locator().set_params(integer=True)
        axis.yaxis.set_major_formatter("{x:,.0f}")
        axis.grid(axis="y", alpha=0.3)
        axis.set_axisbelow(True)
    save_figure(figure, path)


def plot_coverage(groups: Sequence[str], curves: Mapping[str, tuple[Sequence[int], Mapping[str, Sequence[float]]]], path: Path) -> None:
    """For each of some rasters, how many faces are in each group of sizes (bars), and shares of them between 0 and 1 (lines, NaN where
    a group is empty)."""
    figure = Figure(figsize=(12, 4.2 * len(curves)), layout="constrained")
    places = np.arange(len(groups))
    for axis, (title, (faces, shares)) in zip(figure.subplots(len(curves), 1, squeeze=False).flat, curves.items(), strict=True):
        axis.bar(places, faces, color=GREY, label="faces")
        axis.set_xticks(places, groups)
        axis.set_xlabel("size of the face in pixels of the network's input, sqrt(width x height)")
        axis.set_ylabel("faces")
        axis.yaxis.set_major_formatter("{x:,.0f}")
        axis.set_title(title)
        line_axis = axis.twinx()
        for (name, values), color in zip(shares.items(), LINES, strict=False):
            line_axis.plot(places, values, marker="o", color=color, label=name)
        line_axis.set_ylim(0, 1.05)
        line_axis.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
        line_axis.grid(axis="y", alpha=0.3)
        handles = [part for each in (axis, line_axis) for part in each.get_legend_handles_labels()[0]]
        line_axis.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.07, 1))
    save_figure(figure, path)


def plot_positions(counts: NDArray[np.int64], path: Path) -> None:
    """A 2-D histogram (rows, columns) of where in the image the centres of faces lie."""
    figure = Figure(figsize=(6.4, 5.6), layout="constrained")
    axis = figure.subplots()
    picture = axis.imshow(counts, extent=(0, 1, 1, 0), cmap="viridis", vmin=0)
    axis.set_xlabel("x of the face's center / image width")
    axis.set_ylabel("y of the face's center / image height")
    axis.set_title(f"Where {counts.sum():,} faces lie in their images")
    figure.colorbar(picture, label="faces in a cell")
    save_figure(figure, path)


def plot_curves(
    panels: Mapping[str, tuple[FloatArray, FloatArray]],
    path: Path,
    *,
    x: str,
    y: str,
    limit: float = 1.0,
    marks: Mapping[str, tuple[float, float, str]] = {},
) -> None:
    """Plot a curve (x, y) for each title, side by side; x from 0 to `limit`, y from 0 to 1.

    `marks` are points x, y with a label, by the title of their panel.
    """
    figure = Figure(figsize=(5.2 * len(panels), 4.6), layout="constrained")
    for axis, (title, (places, heights)) in zip(figure.subplots(1, len(panels), squeeze=False).flat, panels.items(), strict=True):
        axis.plot(places, heights, color=BLUE, linewidth=2)
        axis.fill_between(places, heights, color=BLUE, alpha=0.12)
        if title in marks:
            mark_x, mark_y, label = marks[title]
            axis.plot(mark_x, mark_y, "o", markersize=8, color=LINES[2], label=label)
            axis.legend(loc="lower left")
        axis.set_title(title)
        axis.set_xlabel(x)
        axis.set_ylabel(y)
        axis.set_xlim(0, limit)
        axis.set_ylim(0, 1.02)
        axis.grid(alpha=0.3)
    save_figure(figure, path)


def plot_scatter(panels: Mapping[str, Sequence[float]], heights: Sequence[float], names: Sequence[str], path: Path, *, y: str) -> None:
    """Named points of the same heights (y) over the values of each panel; far apart, they stand on a logarithmic scale."""
    figure = Figure(figsize=(5.2 * len(panels), 4.6 + 0.25 * len(names)), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axis, (title, values) in zip(axes, panels.items(), strict=True):
        for number, (value, height, name) in enumerate(zip(values, heights, names, strict=True)):
            axis.plot(value, height, linestyle="", marker="os^Dv*PX"[number % 8], markersize=10, color=f"C{number % 10}", label=name)
        axis.margins(0.15)
        if max(values) > WIDE * min(values):
            axis.set_xscale("log")
            axis.xaxis.set_major_formatter("{x:g}")
        else:
            axis.set_xlim(0, 1.15 * max(values))
        axis.set_xlabel(title)
        axis.grid(alpha=0.3, which="both")
    axes[0].set_ylabel(y)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=1)
    save_figure(figure, path)
