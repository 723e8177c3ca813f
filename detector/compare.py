"""Detectors side by side: what each finds, what it costs, and how it errs: python -m detector.compare RUN ..."""

from __future__ import annotations

import utils.import_errors  # noqa: F401 - the first, since it explains the errors of the others

# isort: split
import json
import os
import statistics
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from config import LABEL_SETTINGS, TestConfig, from_dict, to_dict
from detector.face_detector import FaceDetector
from detector.models import Model
from detector.summary import layers_of
from detector.weights import build_from, read_weights
from utils.average_precision import match_detections
from utils.box_utils import jaccard
from utils.checkpoint import read_checkpoint
from utils.devices import pick_device
from utils.files import whole_file
from utils.images import read_image, write_image
from utils.plots import plot_scatter
from utils.results import FreeNames
from utils.script import DONE, ArgumentParser, count_of, run_script
from utils.structures import Detections, Target
from utils.visualize import draw_cell, write_line

PROGRAM = "detector.compare"
SIZE = 640    # pixels; side of the image that cost is measured on
WARMUP, TIMED = 3, 15    # images
CELL = 640    # pixels; side of a drawn photo
COLUMNS = ("run", "model", "AP50", "COCO AP", "COCO mask AP", "M parameters", "GMAC", "ms an image")
MASK_AP = 4    # the column that is left out where no run has masks


class Run(NamedTuple):
    """A detector and its metrics.

    name, weights file and test settings; ap50, coco and coco_masks (COCO's AP of boxes and masks), None
    if not measured; labels identify what they were measured on; faces are the labeled faces by file.
    """

    name: str
    weights: Path
    test: TestConfig
    ap50: float | None
    coco: float | None
    coco_masks: float | None
    labels: Any
    faces: Mapping[Path, Target]


class Cost(NamedTuple):
    """What a detector takes: parameters, multiply-accumulates and seconds for one image."""

    parameters: int
    macs: int
    seconds: float


class Count(NamedTuple):
    """What a detector drew: boxes; those of them that show no face; and those that show one a second time."""

    boxes: int
    false: int
    duplicate: int


def find_run(place: str) -> Run:
    """The run in a folder that test.py --labels or train.py wrote, or of a weights file, which has no figures.

    FileNotFoundError or ValueError that names it.
    """
    folder = Path(place)
    if (folder / "metrics.json").is_file():
        return _scored(folder)
    weights = folder / "best.pth" if folder.is_dir() else folder
    if folder.is_dir() and not weights.is_file():
        raise FileNotFoundError(f"{folder}: expected metrics.json of test.py --labels or best.pth of train.py, found neither")
    checkpoint = read_checkpoint(weights) if folder.is_dir() else {}
    if "config" not in checkpoint:
        return Run(place, weights, TestConfig(), None, None, None, None, {})
    config = from_dict(checkpoint["config"], source=f"{weights}: ")
    labels = _label_settings(to_dict(config)["data"], config.data.val)
    return Run(place, weights, config.test, checkpoint.get("ap50"), None, None, labels, {})


def _label_settings(settings: Mapping[str, Any], labels: Sequence[str]) -> Any:
    """What the figures of two runs must agree in to be comparable; files count by their place."""
    names = sorted(key.removeprefix("data.") for key in LABEL_SETTINGS)
    return sorted(str(Path(label).resolve()) for label in labels), [settings.get(name) for name in names]


def _scored(folder: Path) -> Run:
    path = folder / "metrics.json"
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
        settings = metrics["settings"]
        weights = Path(settings["weights"])
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path}: expected the figures of test.py --labels, found others") from None
    names = {field.name for field in fields(TestConfig)} - {"device"}
    test = from_dict({"test": {name: value for name, value in settings.items() if name in names}}, source=f"{path}: ").test
    faces = read_faces(folder / "detections.jsonl")
    labels = _label_settings(settings, settings.get("labels") or ())
    boxes, masks = (metrics.get(group, {}).get("AP") for group in ("coco", "coco_masks"))
    return Run(str(folder), weights, test, metrics.get("ap50"), boxes, masks, labels, faces)


def read_faces(path: Path) -> dict[Path, Target]:
    """The labelled faces of each photo in a listing of test.py --labels."""
    faces = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        image = json.loads(line)
        if "faces" in image:
            boxes = torch.tensor([face["box"] for face in image["faces"]], dtype=torch.float32).reshape(-1, 4)
            ignore = torch.tensor([face["ignore"] for face in image["faces"]], dtype=torch.bool)
            known = torch.zeros(len(boxes), 5, dtype=torch.bool)
            faces[Path(image["source"]).resolve()] = Target(boxes, torch.zeros(len(boxes), 5, 2), known, ignore)
    return faces


def measure(model: Model, test: TestConfig, *, size: int) -> Cost:
    """What a model takes for one image of size x size pixels, looked at once: the time is the median of some, from image to faces."""
    image = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    detector = FaceDetector(model, replace(test, size="original", max_side=max(size, test.max_side), scales=(1.0,), flip=False))
    seconds = []
    for _ in range(WARMUP + TIMED):
        started = time.perf_counter()
        detector(image)
        seconds.append(time.perf_counter() - started)
    parameters = sum(weights.numel() for weights in model.parameters())
    macs = sum(layer.macs for layer in layers_of(model, size=size))
    return Cost(parameters, macs, statistics.median(seconds[WARMUP:]))


def count_mistakes(detections: Detections, target: Target) -> Count:
    """How many of the detections show no labelled face, and how many show one that a better one shows already, at IoU 0.5."""
    unmatched = match_detections(detections, target).found == -1
    iou = jaccard(torch.from_numpy(detections.boxes), target.boxes)    # (N, M)
    near = (iou >= 0.5).any(dim=1).numpy() if len(target.boxes) else np.zeros(len(detections), bool)
    return Count(len(detections), int((unmatched & ~near).sum()), int((unmatched & near).sum()))


def format_table(runs: Sequence[Run], models: Sequence[Model], costs: Sequence[Cost]) -> str:
    """The runs as lines of a Markdown table."""
    rows: list[tuple[str, ...]] = [COLUMNS]
    for run, model, cost in zip(runs, models, costs, strict=True):
        config = model.config
        kind = f"retinaface {config.backbone}" if config.architecture == "retinaface" else config.architecture
        figures = ["-" if value is None else f"{value:.4f}" for value in (run.ap50, run.coco, run.coco_masks)]
        rows.append((run.name, kind, *figures, f"{cost.parameters / 1e6:.2f}", f"{cost.macs / 1e9:.2f}", f"{cost.seconds * 1e3:.1f}"))
    if all(run.coco_masks is None for run in runs):
        rows = [(*row[:MASK_AP], *row[MASK_AP + 1 :]) for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def draw_runs(
    runs: Sequence[Run],
    detectors: Sequence[FaceDetector],
    photos: Sequence[Path],
    drawings: Sequence[Path],
) -> list[str]:
    """Draw what each run finds in each photo, one beside the other; returns counts per run."""
    labelled = {path: target for run in runs for path, target in run.faces.items()}
    counts: list[list[Count]] = [[] for _ in runs]
    for photo, path in zip(photos, drawings, strict=True):
        target = labelled.get(photo.resolve())
        image = read_image(photo, turn=target is None)
        cells = []
        for run, detector, of_run in zip(runs, detectors, counts, strict=True):
            found = detector(image).above(run.test.draw_confidence)
            told = f"boxes {len(found)}"
            if target is not None:
                of_run.append(count_mistakes(found, target))
                told += f", false {of_run[-1].false}, duplicate {of_run[-1].duplicate}"
            cells.append(write_line(draw_cell(image, found, side=CELL), f"{run.name}: {told}"))
        write_image(path, np.hstack(cells))
    lines = []
    for run, of_run in zip(runs, counts, strict=True):
        if of_run:
            boxes, false, duplicate = map(sum, zip(*of_run, strict=True))
            lines.append(f"{run.name}: boxes {boxes}, false {false}, duplicate {duplicate} on {count_of(len(of_run), 'labelled photo')}")
    if labelled and not lines:
        lines.append("false boxes are not counted: from this folder none of these photos is one that a run was scored on")
    return lines


def choose_drawings(photos: Sequence[Path], output: Path) -> list[Path]:
    """Choose where drawings of photos go; ValueError if a result would replace a user's file."""
    names = FreeNames()
    drawings = [names.claim(output / "photos" / photo.stem, ".png") for photo in photos]
    sources = {photo.resolve() for photo in photos}
    is_ours = (output / "comparison.md").is_file()
    for path in (output / "comparison.png", *drawings):
        if path.resolve() in sources or (os.path.lexists(path) and not is_ours):
            raise ValueError(
                f"--output {output}: would replace {path}, which no earlier run wrote; "
                "name another folder"
            )
    return drawings


def main(argv: Sequence[str] | None = None) -> int:
    parser = ArgumentParser(
        prog=f"python -m {PROGRAM}",
        description="Compare detectors: a table, and a picture, of their AP against parameters, multiply-accumulates (MAC) and time; with "
        "--images also what each of them draws on the same photos, side by side.",
        epilog="AP comes from the folder: of test.py --labels, which makes it comparable if the labels are the same, or of train.py. "
        "Where photos are among those labels, false and duplicate boxes are counted.",
    )
    parser.add_argument("runs", metavar="RUN", nargs="+", help="folder of test.py --labels or of train.py, or a weights file")
    parser.add_argument("--images", metavar="PHOTO", nargs="+", type=Path, default=[], help="photos to draw on")
    parser.add_argument("--size", metavar="PIXELS", type=int, default=SIZE, help="of the image that costs are for (default: %(default)s)")
    parser.add_argument("--output", metavar="DIR", type=Path, default=Path("comparison"), help="for the results (default: %(default)s)")
    arguments = parser.parse_args(argv)
    if arguments.size < 1:
        raise ValueError(f"--size: expected at least 1 pixel, found {arguments.size}")
    for photo in arguments.images:
        read_image(photo, turn=True)    # what is wrong with one is told before the work starts
    drawings = choose_drawings(arguments.images, arguments.output)
    runs = [find_run(place) for place in arguments.runs]
    for run in runs:
        if run.weights.suffix.lower() == ".onnx":
            raise ValueError(f"{run.weights}: expected the checkpoint that the file was made of, to count what it computes")
    measured = [run for run in runs if run.ap50 is not None]
    for run in measured:
        if run.labels != measured[0].labels:
            warnings.warn(f"{run.name} was scored on other labels than {measured[0].name}: their AP cannot be compared", stacklevel=2)
    device = pick_device("auto")
    models = []
    for run in runs:
        weights = read_weights(run.weights)
        if weights.note:
            print(f"{run.weights}: {weights.note}")
        models.append(build_from(weights, source=run.weights).to(device))
    costs = [measure(model, run.test, size=arguments.size) for run, model in zip(runs, models, strict=True)]
    table = format_table(runs, models, costs)
    print(table)
    print(f"GMAC and time: one image of {arguments.size} x {arguments.size} pixels, looked at once, on {device}")
    with whole_file(arguments.output / "comparison.md") as path:
        path.write_text(table + "\n", encoding="utf-8")
    draw_costs(runs, costs, arguments.output / "comparison.png", size=arguments.size)
    if arguments.images:
        detectors = [FaceDetector(model, run.test) for run, model in zip(runs, models, strict=True)]
        for line in draw_runs(runs, detectors, arguments.images, drawings):
            print(line)
    print(f"written to {arguments.output}")
    return DONE


def draw_costs(runs: Sequence[Run], costs: Sequence[Cost], path: Path, *, size: int) -> None:
    """Draw AP50 against each cost, of the runs whose AP50 is known."""
    known: list[tuple[Run, Cost]] = [(run, cost) for run, cost in zip(runs, costs, strict=True) if run.ap50 is not None]
    if not known:
        return
    panels: dict[str, Any] = {
        "million parameters": [cost.parameters / 1e6 for _, cost in known],
        f"GMAC at {size} x {size}": [cost.macs / 1e9 for _, cost in known],
        f"milliseconds at {size} x {size}": [cost.seconds * 1e3 for _, cost in known],
    }
    plot_scatter(panels, [float(run.ap50 or 0) for run, _ in known], [run.name for run, _ in known], path, y="AP50")


if __name__ == "__main__":
    sys.exit(run_script(main, PROGRAM))
