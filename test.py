"""Find the faces in images, or score a detector on labelled sets."""

from __future__ import annotations

import argparse
import glob
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

from config import LABEL_SETTINGS, Config, TestConfig, override, to_dict
from data.dataset import FaceDataset
from detector.engine import evaluate
from detector.face_detector import FaceDetector
from utils.arrays import Image
from utils.files import whole_file
from utils.images import IMAGE_SUFFIXES, read_image, write_image
from utils.script import DONE, DONE_WITH_FAULTS, ArgumentParser, run_script, split_settings
from utils.structures import Detections, Photo
from utils.visualize import FIRST_IMAGES, contact_sheet, draw_cell, draw_detections

SHEET_IMAGES, SHEET_COLUMNS = 12, 4    # the contact sheet of several photos


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = ArgumentParser(
        prog="test.py",
        description="Find the faces in images and draw them, or, with --labels, score a detector on labelled sets.",
        epilog="The settings are test.* and those of data.* that say how labels are read, see config.py. Example: "
        "python test.py photos/ --weights weights/demo/best.pth test.draw_confidence=0.7",
    )
    parser.add_argument("words", metavar="SOURCE | key=value", nargs="*", help="image, folder of images or glob; or a setting")
    parser.add_argument("--labels", metavar="FILE", nargs="+", default=[], help="score on these label files or folders, taken as one set")
    parser.add_argument("--images", metavar="DIR", help="folder of the labels' images (default: images/ beside each label file)")
    parser.add_argument("--weights", metavar="FILE", help="checkpoint of train.py, or published RetinaFace weights; required")
    parser.add_argument("--output", metavar="DIR", type=Path, default=Path("detections"), help="for the results (default: %(default)s)")
    arguments = parser.parse_intermixed_args(argv)
    # A list option takes the words behind it, settings included.
    settings, arguments.sources = split_settings(arguments.words)
    more_settings, arguments.labels = split_settings(arguments.labels)
    arguments.settings = [*settings, *more_settings, *([f"data.images={arguments.images}"] if arguments.images else [])]
    if bool(arguments.labels) == bool(arguments.sources):
        raise ValueError("expected either images to look at (SOURCE ...) or sets to score on (--labels FILE ...)")
    if arguments.images and arguments.sources:
        raise ValueError("--images: names the folder of labelled images, so it goes with --labels")
    if not arguments.weights:
        raise ValueError("--weights: expected a checkpoint of train.py or published RetinaFace weights, found none")
    return arguments


def read_settings(words: Sequence[str]) -> Config:
    """The settings that shape a test; ValueError for one that belongs to the weights."""
    config = override(Config(), words)
    for word in words:
        if not word.startswith("test.") and word.partition("=")[0] not in LABEL_SETTINGS:
            raise ValueError(f"{word}: only test.* and {', '.join(LABEL_SETTINGS)} can be set here, the rest comes with the weights")
    return config


class Report:
    """detections.jsonl, line by line, and the first images drawn."""

    def __init__(self, file: TextIO, *, sheet_images: int):
        self.file = file
        self.sheet_images = sheet_images
        self.sheet: list[Image] = []

    def add(self, source: str, image: Image, detections: Detections) -> None:
        """Write a line, and draw the image if it is one of the first."""
        self.file.write(json.dumps(to_json(source, image, detections)) + "\n")
        if len(self.sheet) < self.sheet_images:
            self.sheet.append(draw_cell(image, detections))


def to_json(source: str, image: Image, detections: Detections) -> dict[str, Any]:
    """The faces of an image as a line of detections.jsonl has them."""
    landmarks = [None] * len(detections) if detections.landmarks is None else detections.landmarks.tolist()
    faces = [
        {"box": box, "score": score, "landmarks": points}
        for box, score, points in zip(detections.boxes.tolist(), detections.scores.tolist(), landmarks, strict=True)
    ]
    return {"source": source, "frame": None, "width": image.shape[1], "height": image.shape[0], "detections": faces}


def score(arguments: argparse.Namespace, config: Config) -> int:
    """Write metrics.json of labelled sets, their detections, and the first images drawn."""
    dataset = FaceDataset(arguments.labels, config.data)
    detector = FaceDetector.from_checkpoint(arguments.weights, config.test.device, config=config.test)
    photos = tqdm(dataset.photos(), total=len(dataset), unit="image", disable=None, leave=False)
    with whole_file(arguments.output / "detections.jsonl") as path, open(path, "w", encoding="utf-8") as file:
        report = Report(file, sheet_images=FIRST_IMAGES)

        def see(photo: Photo, detections: Detections) -> None:
            assert photo.image is not None
            report.add(photo.path, photo.image, detections.above(config.test.draw_confidence))

        evaluation = evaluate(detector.detect, photos, see=see)
    write_image(arguments.output / "detections.png", contact_sheet(report.sheet))
    settings = {
        "weights": arguments.weights,
        "labels": arguments.labels,
        **{key.partition(".")[2]: to_dict(config)["data"][key.partition(".")[2]] for key in LABEL_SETTINGS},
        **to_dict(config)["test"],
        "device": str(detector.model.device),
        "precision": str(detector.dtype).removeprefix("torch."),
    }
    with whole_file(arguments.output / "metrics.json") as path:
        path.write_text(json.dumps({**evaluation.metrics, "settings": settings}, indent=2) + "\n", encoding="utf-8")
    print(summary(evaluation.metrics))
    return finish(evaluation.faults, arguments.output)


def summary(metrics: dict[str, Any]) -> str:
    """The figures of metrics.json in a line."""
    line = f"AP50 {metrics['ap50']:.4f} over {metrics['faces']:,} faces in {metrics['images']:,} images"
    landmarks = metrics.get("landmarks", {})
    if "nme" in landmarks:
        line += f"; landmarks: NME {landmarks['nme']:.4f}, {landmarks['failure_rate']:.1%} over 0.10"
    if "matched" in landmarks:
        line += f"; {landmarks['matched']:.1%} of the faces with landmarks matched"
    return line


def find(arguments: argparse.Namespace, config: TestConfig) -> int:
    """Draw the faces of some images, and list them in detections.jsonl."""
    paths = [path for source in arguments.sources for path in find_images(source, but=arguments.output)]
    detector = FaceDetector.from_checkpoint(arguments.weights, config.device, config=config)
    targets = drawn_paths(paths, arguments.output)
    faults: list[str] = []
    with whole_file(arguments.output / "detections.jsonl") as partial, open(partial, "w", encoding="utf-8") as file:
        report = Report(file, sheet_images=SHEET_IMAGES)
        for (path, _), target in zip(tqdm(paths, unit="image", disable=None, leave=False), targets, strict=True):
            try:
                image = read_image(path, turn=True)
                found = detector(image).above(config.draw_confidence)
                write_image(target, draw_detections(image, found))
            except (FileNotFoundError, ValueError) as error:
                faults.append(str(error))
                continue
            report.add(str(path), image, found)
        if len(faults) == len(paths):
            raise ValueError(f"no image readable of {len(paths)}: {faults[0]}")
    if len(report.sheet) > 1:
        write_image(arguments.output / "detections.png", contact_sheet(report.sheet, columns=SHEET_COLUMNS))
    return finish(faults, arguments.output)


def find_images(source: str, *, but: Path) -> Iterator[tuple[Path, Path]]:
    """The images of a source, each with the name that it has within it; ValueError where there is none.

    What lies in the folder `but` is left out: the drawings of an earlier run.
    """
    path = Path(source)
    if path.is_dir():
        images = (child for child in path.rglob("*") if child.suffix.lower() in IMAGE_SUFFIXES and child.is_file())
        found = sorted(child for child in images if path == but or but.resolve() not in child.resolve().parents)
        if not found:
            raise ValueError(f"{source}: no images in this folder; expected files such as .jpg or .png")
        yield from ((child, child.relative_to(path)) for child in found)
    elif not path.exists() and glob.has_magic(source):
        matches = sorted(Path(name) for name in glob.glob(source, recursive=True) if Path(name).is_file())
        if not matches:
            raise FileNotFoundError(f"{source}: no file matches")
        yield from ((match, Path(match.name)) for match in matches)
    else:
        yield path, Path(path.name)


def drawn_paths(images: Sequence[tuple[Path, Path]], output: Path) -> list[Path]:
    """Where each image is drawn to: under its own name, with a number where another has that; ValueError to save a source from it."""
    sources = {path.resolve() for path, _ in images}
    taken = {output / "detections.png"}
    targets = []
    for _, name in images:
        if name.suffix.lower() not in IMAGE_SUFFIXES:
            name = name.with_suffix(".png")
        target, number = output / name, 1
        while target in taken:
            number += 1
            target = (output / name).with_stem(f"{name.stem}_{number}")
        if target.resolve() in sources:
            raise ValueError(f"--output {output}: would draw over {target}, which is a source; name another folder")
        taken.add(target)
        targets.append(target)
    return targets


def finish(faults: Sequence[str], output: Path) -> int:
    """Say where the results are and which inputs were bad."""
    print(f"written to {output}")
    for fault in faults:
        print(f"test.py: left out: {fault}", file=sys.stderr)
    return DONE_WITH_FAULTS if faults else DONE


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    config = read_settings(arguments.settings)
    return score(arguments, config) if arguments.labels else find(arguments, config.test)


if __name__ == "__main__":
    sys.exit(run_script(main, "test.py"))
