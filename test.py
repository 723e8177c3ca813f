"""Find the faces in images, videos or a camera, or score a detector on labelled sets."""

from __future__ import annotations

import utils.import_errors  # noqa: F401 - the first, since it explains the errors of the others

# isort: split
import argparse
import json
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from config import LABEL_SETTINGS, Config, TestConfig, override, to_dict
from data.dataset import FaceDataset
from data.ground_truth import faces_of_images, read_ground_truth
from detector.engine import Evaluation, evaluate
from detector.face_detector import FaceDetector
from detector.finder import Finder
from detector.labeling import label_images
from detector.weights import SHIPPED
from utils.arrays import FloatArray
from utils.average_precision import best_f1, precision_recall, size_metrics, threshold_metrics
from utils.coco_eval import coco_metrics, have_masks
from utils.files import concerns_one_file, whole_file
from utils.image_header import have_many_sizes
from utils.images import write_image
from utils.landmark_eval import FAILURE, landmark_errors
from utils.listing import Listing
from utils.memory import keep_few_primitives
from utils.plots import plot_curves
from utils.predictions import guess_form, prediction_path, read_predictions, write_predictions
from utils.progress import progress
from utils.pseudo_labels import CocoLabels, match_by_path, read_detections, read_head_points
from utils.results import FreeNames, check_replaceable, stale_results_removed
from utils.script import (
    DONE,
    DONE_WITH_FAULTS,
    INTERRUPTED,
    ArgumentParser,
    StopRequest,
    count_of,
    one_line,
    run_script,
    split_settings,
)
from utils.sources import find_sources, result_paths
from utils.structures import Detections, Photo
from utils.visualize import FIRST_IMAGES, SHEET_CELL, contact_sheet
from utils.wider_eval import Curve, wider_curves
from utils.window import check_display

SHEET_IMAGES, SHEET_COLUMNS, SHEET_SIDE = 12, 4, 480    # the contact sheet of several photos, and the pixels of each
RESULTS = ("detections", "predictions", "metrics")    # names that no drawing may take
SHEET, CURVES, ERRORS = "detections.png", "pr_curves.png", "landmark_errors.png"
RESULT_FILES = ("detections.jsonl", "metrics.json", "predictions", SHEET, CURVES, ERRORS)
NO_MATCH = 0.01    # predictions with a lower AP are not in the form that is expected
FAULTS_SHOWN = 20    # of the files that were left out; the rest are counted


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = ArgumentParser(
        prog="test.py",
        usage="test.py SOURCE ... [--weights FILE] [--output DIR] [--show] [key=value ...]\n"
        "       test.py SOURCE ... --write-labels FILE [--head-points FILE ...] [--second FILE] [--weights FILE] [key=value ...]\n"
        "       test.py --labels FILE ... [--weights FILE] [--images DIR] [--ground-truth DIR] [--output DIR]\n"
        "               [--write-labels FILE] [key=value ...]\n"
        "       test.py --predictions DIR --ground-truth DIR [--output DIR]",
        description="Find the faces in images, videos or a camera and draw them; or, with --labels, score a detector on labelled sets; or, "
        "with --predictions, score saved detections by the protocol of WIDER FACE.",
        epilog="The settings are test.* and those of data.* that say how labels are read, see config.py. Example: "
        "python test.py photos/ clip.mp4 test.draw_confidence=0.7",
    )
    parser.add_argument(
        "words",
        metavar="SOURCE | key=value",
        nargs="*",
        help="image, video, folder of them, glob, number of a camera, address of a stream; "
        "or a setting",
    )
    parser.add_argument("--labels", metavar="FILE", nargs="+", default=[], help="score on these label files or folders, taken as one set")
    parser.add_argument("--predictions", metavar="DIR", type=Path, help="score these: event folders of text files, one an image")
    parser.add_argument("--ground-truth", metavar="DIR", help="folder of the official wider_{easy,medium,hard}_val.mat")
    parser.add_argument("--images", metavar="DIR", help="folder of the labels' images (default: found in the usual layouts)")
    default = f"(default: weights/{SHIPPED.name}, which comes with the code)"
    parser.add_argument("--weights", metavar="FILE", help=f"checkpoint of train.py, published RetinaFace weights, or .onnx file {default}")
    parser.add_argument("--output", metavar="DIR", type=Path, default=Path("detections"), help="for the results (default: %(default)s)")
    parser.add_argument(
        "--write-labels", metavar="FILE", type=Path,
        help="instead of drawing, write the detections of images as a COCO label: faces from "
        "test.draw_confidence on, ignored ones from test.confidence on; with --labels, keep the labeled "
        "faces and add detections that overlap none of them as ignored",
    )  # fmt: skip
    parser.add_argument(
        "--head-points", metavar="FILE", type=Path, nargs="+", default=[],
        help="JSON of head centers by image: in these images, label only detections with one inside",
    )  # fmt: skip
    parser.add_argument(
        "--second", metavar="FILE", type=Path,
        help="detections of another detector in the form of detections.jsonl, to combine for labels",
    )  # fmt: skip
    parser.add_argument("--show", action="store_true", help="show drawn images and frames in a window; any key goes on, q ends")
    arguments = parser.parse_intermixed_args(argv)
    # A list option takes the words behind it, settings included.
    settings, arguments.sources = split_settings(arguments.words)
    more_settings, arguments.labels = split_settings(arguments.labels)
    words, points = split_settings(list(map(str, arguments.head_points)))
    more_settings, arguments.head_points = [*more_settings, *words], list(map(Path, points))
    arguments.settings = [*settings, *more_settings, *([f"data.images={arguments.images}"] if arguments.images else [])]
    check_combination(arguments)
    arguments.weights = arguments.weights or str(SHIPPED)
    return arguments


def check_combination(arguments: argparse.Namespace) -> None:
    """ValueError for arguments that do not go together."""
    if sum(map(bool, (arguments.sources, arguments.labels, arguments.predictions))) != 1:
        raise ValueError("expected either images to look at (SOURCE ...), or sets to score on (--labels FILE ...), or --predictions DIR")
    if arguments.output.exists() and not arguments.output.is_dir():
        raise ValueError(f"--output {arguments.output}: expected a folder, found a file")
    if (arguments.head_points or arguments.second) and not (arguments.write_labels and arguments.sources):
        raise ValueError("--head-points, --second: go with SOURCE ... --write-labels FILE")
    if arguments.write_labels and (arguments.predictions or arguments.show):
        raise ValueError("--write-labels: goes with SOURCE ... or --labels, and without --show")
    if arguments.write_labels and arguments.write_labels.is_dir():
        raise ValueError(f"--write-labels {arguments.write_labels}: expected a file, found a folder")
    labels = {Path(path).resolve() for path in arguments.labels}
    if arguments.write_labels and arguments.write_labels.resolve() in labels:
        raise ValueError(
            f"--write-labels {arguments.write_labels}: would write over a label that is read; "
            "name another file"
        )
    if arguments.images and not arguments.labels:
        raise ValueError("--images: names the folder of labelled images, so it goes with --labels")
    if arguments.show and not arguments.sources:
        raise ValueError("--show: shows the images to look at (SOURCE ...), of which there are none here")
    if arguments.ground_truth and arguments.sources:
        raise ValueError("--ground-truth: goes with --labels or --predictions")
    if arguments.predictions and not arguments.ground_truth:
        raise ValueError("--predictions: expected --ground-truth DIR beside it, the folder of wider_easy_val.mat and its like, found none")
    if arguments.predictions and (arguments.weights or arguments.settings):
        raise ValueError("--predictions: are scored as they are, without --weights and settings")


def read_settings(words: Sequence[str], *, to_draw: bool) -> Config:
    """The settings that shape a test; ValueError for one that belongs to the weights."""
    # Figures are not to hang on the chip, pictures are to be there soon.
    config = override(Config(), ["test.precision=auto", *words] if to_draw else words)
    for word in words:
        if not word.startswith("test.") and word.partition("=")[0] not in LABEL_SETTINGS:
            raise ValueError(f"{word}: only test.* and {', '.join(LABEL_SETTINGS)} can be set here, the rest comes with the weights")
    return config


def score(arguments: argparse.Namespace, config: Config) -> int:
    """Write the figures of labelled sets, their curves, the detections, and the first images drawn."""
    output, test = arguments.output, config.test
    check_replaceable(output, [SHEET, CURVES, ERRORS], known=RESULT_FILES)
    dataset = FaceDataset(arguments.labels, config.data)
    dataset.check_readable()
    official = None
    if arguments.ground_truth:
        official = faces_of_images(dataset.imgs_path, read_ground_truth(arguments.ground_truth), source="--ground-truth")
    detector = load_detector(arguments, test, photos=dataset.imgs_path)
    test = detector.config
    bar = progress("scoring", total=dataset.num_images, unit="image")
    with (
        bar,
        stale_results_removed(output, [CURVES, ERRORS], predictions=True),
        whole_file(output / "detections.jsonl") as path,
        open(path, "w", encoding="utf-8") as file,
    ):
        listing = Listing(file, sheet_images=FIRST_IMAGES, side=SHEET_CELL)
        names = FreeNames()
        unwritten: list[str] = []

        labels = CocoLabels()

        def see(photo: Photo, detections: Detections) -> None:
            assert photo.image is not None
            if arguments.write_labels:
                labels.add_photo(photo, detections)
            listing.add(photo.path, photo.image, detections.above(test.draw_confidence), target=photo.target)
            path = prediction_path(output / "predictions", photo.name)
            try:
                write_predictions(names.claim(path.with_suffix(""), path.suffix), detections)
            except OSError as error:
                if not concerns_one_file(error):
                    raise
                unwritten.append(str(error))
            bar.update()

        evaluation = evaluate(detector.detect, dataset.photos(), see=see, official=official)
        write_image(output / SHEET, contact_sheet(listing.sheet))
        draw_scores(evaluation, output / CURVES, draw_confidence=test.draw_confidence)
        draw_errors(evaluation, output / ERRORS)
    settings = {
        "weights": arguments.weights,
        "labels": arguments.labels,
        "ground_truth": arguments.ground_truth,
        **{key.partition(".")[2]: to_dict(config)["data"][key.partition(".")[2]] for key in LABEL_SETTINGS},
        **to_dict(replace(config, test=test))["test"],
        "device": str(detector.network.device),
        "precision": detector.network.precision,
    }
    metrics = {**evaluation.metrics, **more_metrics(evaluation, draw_confidence=test.draw_confidence), "settings": settings}
    write_metrics(metrics, output)
    print(summary(metrics))
    if arguments.write_labels:
        write_coco(labels, arguments.write_labels)
    return finish([*evaluation.faults, *unwritten], output)


def load_detector(
    arguments: argparse.Namespace, config: TestConfig, *, photos: Sequence[str | Path]
) -> FaceDetector:
    """Load the detector and prepare it for the sizes of some photos.

    It draws from the confidence that the command line names, else the weights file, else the
    default. Prints which of them it is, and whether the weights are averaged.
    """
    keep_few_primitives(many_sizes=not config.size.startswith("long:") and have_many_sizes(photos))
    detector = FaceDetector.from_checkpoint(arguments.weights, config.device, config=config)
    if detector.note:
        print(f"{arguments.weights}: {detector.note}")
    source = "the default"
    if any(word.startswith("test.draw_confidence=") for word in arguments.settings):
        source = "as asked for"
    elif detector.draw_confidence is not None:
        source = f"of {arguments.weights}"
        detector.config = replace(config, draw_confidence=detector.draw_confidence)
    print(f"drawing detections from confidence {detector.config.draw_confidence:g} ({source})")
    return detector


def more_metrics(evaluation: Evaluation, *, draw_confidence: float) -> dict[str, Any]:
    """What is worth knowing of a labelled set besides what is measured in training; what needs faces is absent without any."""
    detections, targets, matches = evaluation.detections, evaluation.targets, evaluation.matches
    metrics: dict[str, Any] = {"at_draw_confidence": threshold_metrics(detections, matches, confidence=draw_confidence)}
    if not evaluation.metrics["faces"]:
        return metrics
    if best := best_f1([each.scores for each in detections], matches):
        metrics["best_f1"] = best
    metrics["by_size"] = size_metrics(detections, targets, matches)
    try:
        metrics |= coco_metrics(detections, targets)
        if have_masks(detections, targets):
            metrics |= coco_metrics(detections, targets, kind="segm")
    except ModuleNotFoundError:
        print('no figures of COCO: they need pip install -e ".[eval]"')
    return metrics


def draw_errors(evaluation: Evaluation, path: Path) -> None:
    """Draw which share of the found faces has landmarks within which error, where there are any."""
    errors, _ = landmark_errors(evaluation.detections, evaluation.targets, evaluation.matches)
    if len(errors):
        limit = 2 * FAILURE
        places = np.sort(errors[errors <= limit])
        shares = np.arange(len(places) + 1) / len(errors)
        curve = np.concatenate([[0.0], places, [limit]]), np.append(shares, shares[-1])
        title = f"Landmarks of {count_of(len(errors), 'found face')}"
        plot_curves({title: curve}, path, x="mean distance / size of the face", y="share of faces with less", limit=limit)


def draw_scores(evaluation: Evaluation, path: Path, *, draw_confidence: float) -> None:
    """Draw precision over recall for AP50, and for each setting of WIDER FACE if it was measured.

    A point marks the drawing confidence. A set without faces has no curve.
    """
    if "ap50" not in evaluation.metrics:
        return
    title = f"AP50 {evaluation.metrics['ap50']:.4f}"
    scores = [each.scores for each in evaluation.detections]
    _, recall, precision = precision_recall(scores, evaluation.matches)
    panels = {title: (recall, precision)}
    at = threshold_metrics(evaluation.detections, evaluation.matches, confidence=draw_confidence)
    marks = {}
    if "precision" in at:
        marks[title] = at["recall"], at["precision"], f"confidence {draw_confidence:g}"
    plot_curves({**panels, **panels_of(evaluation.curves)}, path, x="recall", y="precision", marks=marks)


def panels_of(curves: Mapping[str, Curve]) -> dict[str, tuple[FloatArray, FloatArray]]:
    """Return recall and precision of each setting of WIDER FACE by the title of its panel."""
    return {
        f"{setting}: AP {curve.ap:.4f}": (curve.recall, curve.precision)
        for setting, curve in curves.items()
    }


def score_predictions(folder: Path, ground_truth: str, output: Path) -> int:
    """Write the figures and curves of saved detections of WIDER FACE val; an image without a file is one where nothing was found."""
    official = read_ground_truth(ground_truth)
    if not folder.is_dir():
        raise FileNotFoundError(f"--predictions {folder}: no such folder")
    detections: list[Detections] = []
    faults: list[str] = []
    for name in official:
        try:
            detections.append(read_predictions(folder / f"{name}.txt"))
        except (FileNotFoundError, ValueError) as error:
            detections.append(Detections.none())
            faults.append(str(error))
    if len(faults) == len(official):
        raise ValueError(f"--predictions {folder}: has none of the {len(official):,} images, expected such as {next(iter(official))}.txt")
    check_replaceable(output, [CURVES], known=RESULT_FILES)
    curves = wider_curves(detections, list(official.values()))
    if all(curve.ap < NO_MATCH for curve in curves.values()) and any(map(len, detections)):
        warnings.warn(f"{folder}: {guess_form(detections, list(official.values()))}", stacklevel=2)
    metrics = {
        "images": len(official),
        "missing": len(faults),
        "wider": {setting: curve.ap for setting, curve in curves.items()},
        "settings": {"predictions": str(folder), "ground_truth": ground_truth},
    }
    with stale_results_removed(output, [ERRORS]):
        plot_curves(panels_of(curves), output / CURVES, x="recall", y="precision")
        write_metrics(metrics, output)
    print(summary(metrics))
    events = sorted({name.partition("/")[0] for name in official})
    no_events = [f"{folder / event}: no such event folder" for event in events if not (folder / event).is_dir()]
    return finish([*no_events, *faults], output)


def write_metrics(metrics: Mapping[str, Any], output: Path) -> None:
    with whole_file(output / "metrics.json") as path:
        path.write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")


def summary(metrics: Mapping[str, Any]) -> str:
    """The most important figures of metrics.json, in a few lines."""
    lines = []
    if "ap50" in metrics:
        lines.append(f"AP50 {metrics['ap50']:.4f} over {count_of(metrics['faces'], 'face')} in {count_of(metrics['images'], 'image')}")
    elif "faces" in metrics:
        lines.append(f"no face in {count_of(metrics['images'], 'image')}, so that there is no AP50")
    if metrics.get("wider"):
        aps = " / ".join(f"{value:.4f}" for value in metrics["wider"].values())
        lines.append(f"WIDER FACE {' / '.join(metrics['wider'])}: {aps}, {count_of(metrics['images'], 'image')}")
    for key, title in (("coco", "COCO"), ("coco_masks", "COCO, of masks")):
        if key in metrics:
            lines.append(f"{title}: " + ", ".join(f"{name} {value:.4f}" for name, value in metrics[key].items()))
    if "at_draw_confidence" in metrics:
        at = metrics["at_draw_confidence"]
        figures = [f"{name} {at[name]:.4f}" for name in ("precision", "recall", "f1") if name in at]
        figures.append(f"{at['false_positives_per_image']:.2f} false positives an image")
        lines.append(f"at confidence {at['confidence']:g}: {', '.join(figures)}")
    if "best_f1" in metrics:
        best = metrics["best_f1"]
        figures = [f"{name} {best[name]:.4f}" for name in ("f1", "precision", "recall")]
        lines.append(f"best f1 at confidence {best['confidence']:.3f}: {', '.join(figures)}")
    if "by_size" in metrics:
        groups = ", ".join(f"{size} px {group['ap50']:.4f} ({group['faces']:,})" for size, group in metrics["by_size"].items())
        lines.append(f"AP50 by size (faces): {groups}")
    landmarks = metrics.get("landmarks", {})
    if "nme" in landmarks:
        lines.append(f"landmarks: NME {landmarks['nme']:.4f}, {landmarks['failure_rate']:.1%} over {FAILURE:.2f}")
    if "matched" in landmarks:
        lines.append(f"{landmarks['matched']:.1%} of the faces with landmarks matched")
    return "\n".join(lines)


def find(arguments: argparse.Namespace, config: TestConfig) -> int:
    """Draw the faces of photos, videos or a camera, and list them in detections.jsonl."""
    output = arguments.output
    sources = [
        source for word in arguments.sources for source in find_sources(word, exclude=output)
    ]
    targets = result_paths(sources, output, taken=RESULTS)
    if len(sources) > 1:
        check_replaceable(output, [SHEET], known=RESULT_FILES)
    if arguments.show:
        check_display()
    photos = [str(source) for source in sources if source.is_image]
    detector = load_detector(arguments, config, photos=photos)
    with (
        StopRequest() as stop,
        stale_results_removed(output, [SHEET]),
        whole_file(output / "detections.jsonl") as path,
        open(path, "w", encoding="utf-8") as file,
    ):
        listing = Listing(file, sheet_images=SHEET_IMAGES, side=SHEET_SIDE)
        finder = Finder(detector, output, listing, stop, window=arguments.show, report=print)
        faults = finder.find(sources, targets)
        if not listing.lines and not finder.ended:
            raise ValueError(f"no image readable of {len(sources)}: {faults[0]}")
        if len(listing.sheet) > 1:
            sheet = contact_sheet(listing.sheet, columns=SHEET_COLUMNS, side=SHEET_SIDE)
            write_image(output / SHEET, sheet)
    code = finish(faults, output)
    # Nothing but Ctrl-C ends a camera.
    is_done = finder.last is sources[-1] and sources[-1].is_live
    return INTERRUPTED if stop.requested and not is_done else code


def label(arguments: argparse.Namespace, config: TestConfig) -> int:
    """Write the detections of images as a COCO label; returns the exit code."""
    paths = []
    for word in arguments.sources:
        for source in find_sources(word, exclude=arguments.output):
            if not source.is_image:
                raise ValueError(f"--write-labels: expected images, found {source}")
            paths.append(Path(str(source)).absolute())
    folder = Path(os.path.commonpath([path.parent for path in paths]))
    names = list(dict.fromkeys(path.relative_to(folder).as_posix() for path in paths))
    of_option: dict[str, dict[str, Any]] = {"--head-points": {}, "--second": {}}
    if arguments.head_points:
        of_option["--head-points"] = read_head_points(arguments.head_points)
    if arguments.second:
        of_option["--second"] = read_detections(arguments.second)
    for option, named in of_option.items():
        of_option[option] = match_by_path(names, named)
        if named and not of_option[option]:
            raise ValueError(f"{option}: names none of the {len(names):,} images, such as {names[0]}")
    detector = load_detector(arguments, config, photos=paths)
    labels = CocoLabels()
    with StopRequest() as stop:
        faults = label_images(
            detector,
            folder,
            names,
            labels,
            head_points=of_option["--head-points"],
            second=of_option["--second"],
            should_stop=lambda: stop.requested,
        )
        if stop.requested:    # part of a set is not a label for it
            print("test.py: interrupted; no label is written", file=sys.stderr)
            return INTERRUPTED
    if not labels.images:
        raise ValueError(f"no image readable of {len(names)}: {faults[0]}")
    write_coco(labels, arguments.write_labels)
    if folder != (arguments.write_labels.parent / "images").absolute():
        print(f"its images lie in {folder}: use it with data.images={folder}")
    return list_left_out(faults)


def write_coco(labels: CocoLabels, path: Path) -> None:
    with whole_file(path) as partial:
        partial.write_text(json.dumps(labels.to_json()) + "\n", encoding="utf-8")
    print(f"written {path}: {labels.describe()}")


def finish(faults: Sequence[str], output: Path) -> int:
    """Say where the results are and which inputs were bad."""
    print(f"written to {output}")
    return list_left_out(faults)


def list_left_out(faults: Sequence[str]) -> int:
    """Say which inputs were bad; returns the exit code."""
    for fault in faults[:FAULTS_SHOWN]:
        print(f"test.py: left out: {one_line(fault)}", file=sys.stderr)
    if len(faults) > FAULTS_SHOWN:
        print(f"test.py: left out: {len(faults) - FAULTS_SHOWN:,} more", file=sys.stderr)
    return DONE_WITH_FAULTS if faults else DONE


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    if arguments.predictions:
        return score_predictions(arguments.predictions, arguments.ground_truth, arguments.output)
    config = read_settings(arguments.settings, to_draw=bool(arguments.sources))
    if arguments.labels:
        return score(arguments, config)
    return label(arguments, config.test) if arguments.write_labels else find(arguments, config.test)


if __name__ == "__main__":
    sys.exit(run_script(main, "test.py"))
