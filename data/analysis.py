"""The statistics of a labelled set, and the files that show them: statistics.json, pictures and report.html."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from config import Config
from data.checks import Inspection
from data.coverage import Priors, Raster, bin_names, coverage, propose_sizes, resized_raster, training_raster
from data.ground_truth import read_ground_truth, split_faces
from data.records import FaceRecord, Fault, has_area, image_path
from data.statistics import Measures, Statistics, describe_uniformity, join_measures, measure, summarise
from utils.files import whole_file
from utils.images import read_image, write_image
from utils.plots import plot_coverage, plot_histograms, plot_positions
from utils.report import Report
from utils.results import check_replaceable, stale_results_removed
from utils.visualize import FIRST_IMAGES, contact_sheet, draw_faces, fit_cell

LIST_NUMBERS = ("faces", "mean_width", "mean_height", "median_size", "overlapping_share", "faces_with_landmarks")    # of each official list

PICTURES = ("histograms.png", "positions.png", "coverage.png", "first_images.png")
RESULT_FILES = ("statistics.json", "report.html", "augmented.png", *PICTURES)


@dataclass
class LabelledSet:
    """Some label files: their records in a row and by file, the problems of single lines, and what is known of the images by index."""

    files: dict[str, list[FaceRecord]]
    faults: list[Fault] = field(default_factory=list)
    sizes: dict[int, tuple[int, int]] = field(default_factory=dict)
    inspections: dict[int, Inspection] = field(default_factory=dict)

    @property
    def records(self) -> list[FaceRecord]:
        """The images of all files, in turn."""
        return [record for of_file in self.files.values() for record in of_file]

    def files_without_images(self) -> list[str]:
        """The label files that have images, none of which could be opened."""
        unseen = []
        first = 0
        for path, records in self.files.items():
            inspections = (self.inspections.get(first + index) for index in range(len(records)))
            if records and not any(each is not None and each.size is not None for each in inspections):
                unseen.append(path)
            first += len(records)
        return unseen

    @property
    def image_faults(self) -> list[str]:
        """What is wrong with the images that cannot be read."""
        return [seen.fault[1] for seen in self.inspections.values() if seen.fault is not None]


class Analysis:
    """The statistics of a labelled set, and the files that show them."""

    def __init__(self, labelled: LabelledSet, config: Config, priors: Priors, output: Path):
        """`priors` are those that the settings give a network; it is they, and not this, that know one."""
        self.labelled = labelled
        self.config = config
        self.priors = priors
        self.output = output
        self.report = Report("Statistics of " + ", ".join(Path(path).name for path in labelled.files))
        self.written = ["statistics.json", "report.html"]
        self.results: dict[str, Any] = {"files": {}}
        self.lines: list[str] = []    # what it has to say

    def run(self, ground_truth: str | None) -> str:
        """Measure and write everything, and return it in words.

        `ground_truth` is the folder of the official lists. Pictures of an earlier run that this one
        does not draw are removed; ValueError if one may be the user's own.
        """
        check_replaceable(self.output, PICTURES, known=RESULT_FILES)
        with stale_results_removed(self.output, PICTURES):
            return self._run(ground_truth)

    def _run(self, ground_truth: str | None) -> str:
        lists = split_faces(self.labelled.records, read_ground_truth(ground_truth)) if ground_truth else {}
        parts = self._measure_files()
        whole = join_measures(parts)
        total = summarise(whole)
        self.results["total"] = total.numbers
        if len(parts) > 1:
            self.lines.append(describe("total", total))
        self._tell_numbers({**self.results["files"], "total": total.numbers} if len(parts) > 1 else self.results["files"])
        self._draw(total)
        self._cover(whole)
        if lists:
            self._split(whole, {name: np.concatenate(of_images) for name, of_images in lists.items()})
        if draw_first_images(self.labelled, self.output / "first_images.png"):
            self._add_picture("first_images.png", "The first images", "Boxes in green, labelled points in red, ignored faces in grey.")
        with whole_file(self.output / "statistics.json") as partial:
            partial.write_text(json.dumps(self.results, indent=2) + "\n", encoding="utf-8")
        self.report.write(self.output / "report.html")
        self.lines.append(f"written to {self.output}: {', '.join(self.written)}")
        return "\n".join(self.lines)

    def _measure_files(self) -> list[Measures]:
        parts = []
        first = 0
        for path, records in self.labelled.files.items():
            sizes = {index: self.labelled.sizes[first + index] for index in range(len(records)) if first + index in self.labelled.sizes}
            parts.append(measure(records, sizes))
            statistics = summarise(parts[-1])
            self.results["files"][path] = statistics.numbers
            self.lines.append(describe(path, statistics))
            first += len(records)
        return parts

    def _tell_numbers(self, sets: Mapping[str, Mapping[str, Any]]) -> None:
        rows = [
            ("images", "images", "{:,}"), ("without faces", "images_without_faces", "{:,}"), ("faces", "faces", "{:,}"),
            ("most in an image", "most_faces", "{:,}"), ("mean width", "mean_width", "{:.2f}"), ("mean height", "mean_height", "{:.2f}"),
            ("mean area", "mean_area", "{:,.2f}"), ("median size sqrt(w h)", "median_size", "{:.1f}"),
            ("overlap another face", "overlapping_share", "{:.2%}"), ("with five landmarks", "landmark_share", "{:.2%}"),
            ("without area", "degenerate_faces", "{:,}"), ("leave their image", "out_of_range_faces", "{:,}"),
            ("ignored", "ignored_faces", "{:,}"),
        ]  # fmt: skip
        cells = [[label, *(form.format(numbers[key]) if key in numbers else "" for numbers in sets.values())] for label, key, form in rows]
        self.report.table(["", *sets], cells)

    def _draw(self, statistics: Statistics) -> None:
        names = {
            "size": ("Size of the faces", "sqrt(width x height), pixels"),
            "aspect_ratio": ("Aspect ratio", "width / height"),
            "faces_per_image": ("Faces in an image", "faces, from this number on"),
            "overlap": ("Faces that overlap another one", "highest IoU with another face of the image"),
        }
        histograms = [(*names[name], histogram.edges, histogram.counts) for name, histogram in statistics.histograms.items()]
        plot_histograms(histograms, self.output / "histograms.png")
        self._add_picture("histograms.png", "Sizes, ratios, crowds", "Values beyond an axis are counted at its end.")
        if statistics.positions is not None:
            plot_positions(statistics.positions, self.output / "positions.png")
            self._add_picture("positions.png", "Positions", describe_uniformity(statistics))

    def _rasters(self, measures: Measures) -> dict[str, Raster]:
        """The faces as training meets them, and as a test at `test.size` does."""
        config, labelled = self.config, self.labelled
        records = labelled.records
        sizes = [labelled.sizes.get(index) for index in range(len(records))]
        rasters = {}
        if labelled.sizes:
            rasters["training"] = training_raster(
                records, sizes, size=config.data.size, config=config.augmentation, seed=config.train.seed
            )
        rasters[config.test.size] = self._at_test_size(measures)
        return {name: raster for name, raster in rasters.items() if len(raster.boxes)}

    def _at_test_size(self, measures: Measures) -> Raster:
        learnt = has_area(measures.boxes) & ~measures.ignore
        return resized_raster(measures.boxes[learnt], measures.image_sizes[learnt], self.config.test.size)

    def _cover(self, measures: Measures) -> None:
        rasters = self._rasters(measures)
        total = self.results["total"]
        total["coverage"] = {name: coverage(raster, self.priors) for name, raster in rasters.items()}
        if not rasters:
            return
        titles = {name: f"at test.size={name}" for name in rasters} | {"training": f"in training at {self.config.data.size} pixels"}
        positive = f"iou_{self.priors.positive_iou:g}"
        lines = [
            f"{titles[name]}: {numbers['faces']:,} faces, best prior reaches IoU {self.priors.positive_iou:g} for {numbers[positive]:.1%}, "
            f"0.5 for {numbers['iou_0.5']:.1%}; {numbers['never_learnt']:.1%} stay under {self.priors.min_best_iou:g} and are never learnt"
            for name, numbers in total["coverage"].items()
        ]
        proposal = self._propose(rasters)
        self.lines.append("\n  ".join([f"priors {format_sizes(self.priors)}", *lines, proposal]))
        curves = {titles[name]: coverage_curves(numbers, self.priors) for name, numbers in total["coverage"].items()}
        plot_coverage(bin_names(), curves, self.output / "coverage.png")
        self._add_picture("coverage.png", f"Coverage by the priors {format_sizes(self.priors)}", "Lines belong to the scale on the right.")
        for line in [*lines, proposal]:
            self.report.text(line)

    def _propose(self, rasters: Mapping[str, Raster]) -> str:
        """Prior sizes that fit this data, told in a line: of faces in training where their sizes there are known."""
        name = "training" if "training" in rasters else self.config.test.size
        # Levels that were chosen by hand are kept.
        proposed = propose_sizes(rasters[name], self.priors, finer=not self.config.model.return_layers)
        if proposed is None:
            return "no other sizes were found that cover a per cent more of the faces by half"
        numbers = coverage(rasters[name], proposed)
        sizes = [list(level) for level in proposed.min_sizes]
        self.results["total"]["proposed_min_sizes"] = sizes
        words, steps = json.dumps(sizes, separators=(",", ":")), ", ".join(map(str, proposed.steps))
        return f"proposed: model.min_sizes={words} (steps {steps}) would reach IoU 0.5 for {numbers['iou_0.5']:.1%}"

    def _split(self, measures: Measures, lists: Mapping[str, np.ndarray]) -> None:
        """The official easy, medium and hard faces, each for itself."""
        size, positive = self.config.test.size, f"iou_{self.priors.positive_iou:g}"
        self.results["total"]["wider"] = {}
        rows = []
        for name, which in lists.items():
            part = measures.of_faces(which)
            statistics = summarise(part).numbers
            numbers = {key: statistics[key] for key in LIST_NUMBERS}
            covered = coverage(self._at_test_size(part), self.priors)
            self.results["total"]["wider"][name] = {**numbers, "coverage": {size: covered}}
            shares = [f"{covered[key]:.1%}" if key in covered else "" for key in (positive, "iou_0.5", "never_learnt")]
            rows.append([name, f"{numbers['faces']:,}", f"{numbers['median_size']:.1f}", *shares])
        header = ["list", "faces", "median size", f"IoU {self.priors.positive_iou:g}", "IoU 0.5", "never learnt"]
        self.lines.append(f"  official lists at test.size={size}")
        self.lines += ["    " + "".join(f"{cell:>14}" for cell in row) for row in [header, *rows]]
        self.report.heading(f"The official lists, and how well the priors cover them at test.size={size}")
        self.report.table(header, rows)

    def _add_picture(self, name: str, heading: str, caption: str) -> None:
        self.written.append(name)
        self.report.heading(heading)
        self.report.picture(self.output / name, caption)


def describe(name: str, statistics: Statistics) -> str:
    """The statistics of a set as some lines of text."""
    numbers = statistics.numbers
    lines = [
        f"{name}",
        f"  {numbers['faces']:,} faces in {numbers['images']:,} images, {numbers['images_without_faces']:,} of them without faces",
        f"  mean size {numbers['mean_width']:.2f} x {numbers['mean_height']:.2f} pixels, mean area {numbers['mean_area']:,.2f}",
        f"  {numbers['overlapping_faces']:,} faces overlap another one ({numbers['overlapping_share']:.2%}, IoU > 0)",
        f"  {numbers['faces_with_landmarks']:,} faces with five landmarks",
        f"  {numbers['degenerate_faces']:,} boxes without area, which the loader drops",
    ]
    if "out_of_range_faces" in numbers:
        checked = f"of the {numbers['images_with_known_size']:,} images of known size"
        fate = "which the loader clips to it, or drops where nothing is left"
        lines.append(f"  {numbers['out_of_range_faces']:,} boxes leave their image ({checked}), {fate}")
    else:
        lines.append("  whether boxes leave their image is not known: there are no images and no --sizes")
    lines.append(f"  {describe_uniformity(statistics)}")
    return "\n".join(lines)


def coverage_curves(numbers: Mapping[str, Any], priors: Priors) -> tuple[list[int], dict[str, list[float]]]:
    """Faces in each group of sizes, and shares of them, as they are plotted."""
    groups = numbers["by_size"].values()
    names = {
        f"IoU {priors.positive_iou:g} reached": f"iou_{priors.positive_iou:g}",
        "IoU 0.5 reached": "iou_0.5",
        f"under {priors.min_best_iou:g}, never learnt": "never_learnt",
    }
    shares = {label: [group.get(key, math.nan) for group in groups] for label, key in names.items()}
    return [group["faces"] for group in groups], shares


def format_sizes(priors: Priors) -> str:
    """Prior sizes and steps in a few words."""
    levels = (f"{'/'.join(map(str, sizes))} at {step}" for sizes, step in zip(priors.min_sizes, priors.steps, strict=True))
    return ", ".join(levels) + " pixels"


def draw_first_images(labelled: LabelledSet, path: Path) -> bool:
    """Draw the first images that can be read; False where there is none."""
    drawn = []
    for record in labelled.records:
        try:
            image = read_image(image_path(record), turn=False)
        except (FileNotFoundError, ValueError):
            continue
        cell, factor = fit_cell(image)
        drawn.append(draw_faces(cell, record.boxes * factor, record.landmarks * factor, record.has_landmarks, ignore=record.ignore))
        if len(drawn) == FIRST_IMAGES:
            break
    if drawn:
        write_image(path, contact_sheet(drawn))
    return bool(drawn)
