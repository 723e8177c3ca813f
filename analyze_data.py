"""Measure, check, repair and convert labelled sets, and draw what is in them."""

from __future__ import annotations

import utils.import_errors  # noqa: F401 - the first, since it explains the errors of the others

# isort: split
import argparse
import csv
import math
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
from tqdm import tqdm

from config import PRESETS, Config, load_config
from data.analysis import RESULT_FILES, Analysis, LabelledSet
from data.checks import (
    ACTIONS,
    IMAGE_LEFT_OUT,
    describe_incomplete,
    find_faults,
    find_incomplete,
    inspect_images,
    repair,
)
from data.coverage import Priors
from data.labels import LABEL_FOLDERS, advise_on_images, image_folders, read_labels, read_sizes, write_labels
from data.records import POINTS, WARNINGS, FaceRecord, Fault, face_rows, raise_fault
from utils.files import whole_file
from utils.images import write_image
from utils.results import check_replaceable
from utils.script import DONE, DONE_WITH_FAULTS, ArgumentParser, count_of, one_line, run_script, split_settings
from utils.visualize import contact_sheet, draw_faces, fit_cell

LISTED_FAULTS = 20    # images that cannot be read; the rest is counted
SHEET_COLUMNS = 4
MOST_LEVELS, LAST_STEP = 4, 32    # of every backbone: a stage has half the resolution of the one before
SECTIONS = ("data.", "augmentation.", "model.", "loss.", "test.")


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = ArgumentParser(
        prog="analyze_data.py",
        description="Count and measure the faces of labelled sets, alone and together, and write statistics, pictures and a report. "
        "With --check, --fix, --convert, --rows or --show-augmented do that instead.",
        epilog="Formats: RetinaFace label.txt, the official WIDER FACE txt, labelv2, COCO JSON, folders of Pascal VOC XML, of YOLO txt and "
        "of Penn-Fudan. "
        "Settings are those of config.py that shape data, priors and test size, such as data.size=640 or test.size=long:640.",
    )
    parser.add_argument("labels", metavar="LABELS | key=value", nargs="+", help="label files or folders of them; or settings")
    parser.add_argument("--images", metavar="DIR", help="folder of the images (default: found in the usual layouts)")
    parser.add_argument("--sizes", metavar="FILE", help="text file of 'name width height', to open no image for its size")
    parser.add_argument("--format", metavar="NAME", help="retinaface, wider, labelv2, coco, voc, yolo or pennfudan (default: told by form)")
    parser.add_argument("--ground-truth", metavar="DIR", help="folder of wider_{easy,medium,hard}_val.mat, to split WIDER val by them")
    presets = ", ".join(PRESETS)
    parser.add_argument("--preset", metavar="NAME", default="resnet50", help=f"whose priors to test: {presets} (default: %(default)s)")
    parser.add_argument("--output", metavar="DIR", type=Path, default=Path("statistics"), help="for the results (default: %(default)s)")
    parser.add_argument("--check", action="store_true", help="list problems of labels and images, each with its place; exit code 1 for any")
    parser.add_argument("--fix", metavar="FILE", type=Path, help="write a repaired label.txt, and the list of changes beside it")
    parser.add_argument("--convert", metavar="FILE", type=Path, help="write the labels as a RetinaFace label.txt")
    parser.add_argument(
        "--rows", metavar="FILE", type=Path,
        help="write a CSV table with a row for each face: its image, corners, five points, and 1 if all "
        "points are labeled, else -1",
    )  # fmt: skip
    parser.add_argument("--show-augmented", metavar="N", type=int, help="draw N training images as the network sees them")
    arguments = parser.parse_intermixed_args(argv)
    settings, arguments.labels = split_settings(arguments.labels)
    for word in settings:
        if not word.startswith(SECTIONS):
            raise ValueError(f"{word}: only {', '.join(section + '*' for section in SECTIONS)} can be set here")
    named = {"data.images": arguments.images, "data.format": arguments.format}
    settings += [f"{key}={value}" for key, value in named.items() if value is not None]
    arguments.config = load_config(arguments.preset, overrides=settings)
    if not arguments.labels:
        raise ValueError("expected label files, found none; --help shows what is expected")
    places = [Path(path).resolve() for path in arguments.labels]
    if len(set(places)) < len(places):
        raise ValueError(f"{next(path for path in arguments.labels if places.count(Path(path).resolve()) > 1)}: given twice")
    if arguments.output.exists() and not arguments.output.is_dir():
        raise ValueError(f"--output {arguments.output}: expected a folder, found a file")
    written = {"--fix": arguments.fix, "--convert": arguments.convert, "--rows": arguments.rows}
    for (option, path), (other, other_path) in combinations(written.items(), 2):
        if path and other_path and path.resolve() == other_path.resolve():
            raise ValueError(f"{option} and {other}: expected two files, found {path} for both")
    if arguments.show_augmented is not None and arguments.show_augmented < 1:
        raise ValueError(f"--show-augmented: expected a number of images of at least 1, found {arguments.show_augmented}")
    return arguments


def read_set(arguments: argparse.Namespace, *, lenient: bool, look: bool) -> LabelledSet:
    """Read the label files and, to `look`, the images that are there; `lenient` collects problems of single lines.

    With --sizes no image is opened for its size. A set whose images are not found has none, and that is no fault.
    ValueError where a folder that was named is missing, or no image has a size.
    """
    config: Config = arguments.config
    for folder in config.data.images:
        if not Path(folder).is_dir():
            raise ValueError(f"{folder}: no such folder of images")
    folders = image_folders(arguments.labels, config.data.images)
    named = read_sizes(arguments.sizes) if arguments.sizes else {}
    faults: list[Fault] = []
    complain = faults.append if lenient else raise_fault
    files = {
        path: read_labels(path, config=config.data, images=images, sizes=named, complain=complain)
        for path, images in zip(arguments.labels, folders, strict=True)
    }
    labelled = LabelledSet(files, faults)
    records = labelled.records
    labelled.sizes = {index: record.size for index, record in enumerate(records) if record.size is not None}
    for index, record in enumerate(records):
        if size := named.get(record.path) or named.get(record.file):    # the label's name, or the file's
            labelled.sizes[index] = size
    if named and records and not labelled.sizes:
        raise ValueError(f"--sizes: names none of the {len(records):,} images, such as {records[0].path}")
    if look:
        present = {folder for folder in {record.folder for record in records} if Path(folder).is_dir()}
        wanted = [index for index, record in enumerate(records) if record.folder in present]
        seen = tqdm(
            inspect_images([records[index] for index in wanted]), total=len(wanted), unit="image", disable=None, leave=False
        )
        labelled.inspections = dict(zip(wanted, seen, strict=True))
        labelled.sizes.update({index: each.size for index, each in labelled.inspections.items() if each.size is not None})
    return labelled


def check(labelled: LabelledSet, folders: Sequence[str]) -> int:
    """Print all faults, and how many there are of each kind; how many there are. `folders` are those of images that were named."""
    findings = find_faults(labelled.records, inspections=labelled.inspections, sizes=labelled.sizes)
    faults = [*labelled.faults, *(finding.fault for finding in findings)]
    for fault in faults:
        print(one_line(str(fault)))
    counts = Counter(fault.reason for fault in faults)
    readable = sum(each.size is not None for each in labelled.inspections.values())
    images = f"{count_of(len(labelled.records), 'image')}, {readable:,} of them opened"
    print(f"{count_of(len(faults), 'fault')} in {images}" + "".join(f"\n  {count:,} x {reason}" for reason, count in counts.most_common()))
    unseen = labelled.files_without_images()
    for label, folder in zip(labelled.files, image_folders(list(labelled.files), folders), strict=True):
        if label in unseen:
            print(f"{label}: no image could be opened: {advise_on_images([label], [folder] if folder else [])}")
    return len(faults) + len(unseen)


def fix(labelled: LabelledSet, path: Path) -> int:
    """Write a repaired label, and a list of what was changed; how many problems of the reader and
    images left out are among that. ValueError where no image is left."""
    check_target(labelled, path, option="--fix")
    records, repairs = repair(labelled.records, inspections=labelled.inspections, sizes=labelled.sizes)
    lost = losses(labelled)
    changes = [describe_loss(fault) for fault in labelled.faults if fault.reason in WARNINGS] + lost + repairs
    if not records:
        raise ValueError(f"--fix {path}: no image is left: {changes[0] if changes else 'none was read'}")
    write_labels(records, path)
    listed = changes_path(path)
    with whole_file(listed) as partial:
        partial.write_text("".join(one_line(change) + "\n" for change in changes), encoding="utf-8", errors="backslashreplace")
    print(f"written {path}: {extent_of(records)}; {count_of(len(changes), 'change')}, listed in {listed}")
    report_label_limits(records, path)
    return len(lost) + sum(change.endswith(f"; {IMAGE_LEFT_OUT}") for change in repairs)


def changes_path(path: Path) -> Path:
    """Where the changes that make a repaired label are listed."""
    return path.with_name(path.name + ".changes.txt")


def convert(labelled: LabelledSet, path: Path) -> int:
    """Write the labels as a RetinaFace label.txt; how many problems the reader had.

    An image with a face that could not be read is left out. ValueError where no image is left.
    """
    check_target(labelled, path, option="--convert")
    records, lost = keep_complete(labelled, f"--convert {path}")
    write_labels(records, path)
    report_written(labelled, records, path, lost)
    report_label_limits(records, path)
    return len(lost)


def write_rows(labelled: LabelledSet, path: Path) -> int:
    """Write a CSV row for each face, boxes without area included.

    The columns are image, x1, y1, x2, y2, l0x, l0y ... l4x, l4y, has_landmarks, as in
    `FaceDataset.as_rows`: unlabeled points are -1, has_landmarks is 1 or -1. An image with a face
    that could not be read is left out. Returns how many problems the reader had. ValueError if no
    image is left.
    """
    check_file(labelled, path, option="--rows")
    records, lost = keep_complete(labelled, f"--rows {path}")
    points = [f"l{number}{axis}" for number in range(POINTS) for axis in "xy"]
    with (
        whole_file(path) as partial,
        open(partial, "w", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["image", "x1", "y1", "x2", "y2", *points, "has_landmarks"])
        for record in records:
            for row in face_rows(record.boxes, record.landmarks, record.has_landmarks):
                # The shortest digits that give the same float32 back.
                numbers = (np.format_float_positional(number, trim="-") for number in row)
                writer.writerow([record.path, *numbers])
    report_written(labelled, records, path, lost)
    return len(lost)


def keep_complete(labelled: LabelledSet, target: str) -> tuple[list[FaceRecord], list[str]]:
    """Return the images of which every face was read, and a line for each problem of the reader.

    ValueError, which begins with `target`, where no image is left.
    """
    incomplete = find_incomplete(labelled.records)
    records = [record for index, record in enumerate(labelled.records) if index not in incomplete]
    lost = losses(labelled)
    if not records:
        raise ValueError(f"{target}: no image is left: {lost[0] if lost else 'none was read'}")
    return records, lost


def report_written(
    labelled: LabelledSet, records: Sequence[FaceRecord], path: Path, lost: Sequence[str]
) -> None:
    """Print the problems of the reader, and what was written."""
    warned = [f"warning: {fault}" for fault in labelled.faults if fault.reason in WARNINGS]
    for line in [*warned, *lost]:
        print(one_line(f"analyze_data.py: {line}"), file=sys.stderr)
    left_out = len(labelled.records) - len(records)
    left = f"; {count_of(left_out, 'image')} left out" if left_out else ""
    print(f"written {path}: {extent_of(records)}{left}")


def losses(labelled: LabelledSet) -> list[str]:
    """A line on each problem that the reader had, with what is done about it, and on each image that
    is left out for it."""
    faults = [fault for fault in labelled.faults if fault.reason not in WARNINGS]
    return [
        *(describe_loss(fault) for fault in faults),
        *(f"{line}; {IMAGE_LEFT_OUT}" for line in describe_incomplete(labelled.records, faults)),
    ]


def describe_loss(fault: Fault) -> str:
    """A problem of the reader, the image that has lost a face by it, and what is done about it."""
    of_image = f", of {fault.image[:80]!r}" if fault.image and fault.image[:80] not in fault.text else ""
    return f"{fault}{of_image}; {ACTIONS[fault.reason]}"


def check_file(labelled: LabelledSet, path: Path, *, option: str) -> None:
    """Raise ValueError if a file would replace a label that is read, or a folder."""
    sources = {Path(record.source).resolve() for record in labelled.records} | {Path(source).resolve() for source in labelled.files}
    if path.resolve() in sources:
        raise ValueError(f"{option} {path}: would write over a label that is read; name another file")
    if path.is_dir():
        raise ValueError(f"{option} {path}: expected a file, found a folder")


def check_target(labelled: LabelledSet, path: Path, *, option: str) -> None:
    """Raise ValueError if a label file cannot hold the set or would replace one of its sources."""
    check_file(labelled, path, option=option)
    check_file(labelled, changes_path(path), option=option)
    for given, records in labelled.files.items():
        if Path(given).is_dir() and path.suffix.lower() in LABEL_FOLDERS:
            folders = {Path(record.source).parent.resolve() for record in records}
            if folders & set(path.resolve().parents):
                raise ValueError(f"{option} {path}: would be taken for one of the label files in {given}; name a file elsewhere")
    folders = {Path(record.folder).resolve() for record in labelled.records}
    if len(folders) > 1:
        listed = ", ".join(sorted(map(str, folders))[:3])
        raise ValueError(f"{option} {path}: one label has one image folder, found {listed}; write one file for each")


def report_label_limits(records: Sequence[FaceRecord], path: Path) -> None:
    """Say what a written label cannot hold: ignored faces, and images that are not in images/ beside it."""
    ignored = sum(int(record.ignore.sum()) for record in records)
    if ignored:
        told = count_of(ignored, "ignored face")
        print(f"analyze_data.py: {told} written like the others: a RetinaFace label cannot mark them", file=sys.stderr)
    folder = Path(records[0].folder)
    if folder.resolve() != (path.parent / "images").resolve():
        print(f"its images lie in {folder}: use it with data.images={folder}")


def extent_of(records: Sequence[FaceRecord]) -> str:
    """How many images and faces there are."""
    return f"{count_of(len(records), 'image')}, {count_of(sum(map(len, records)), 'face')}"


def show_augmented(arguments: argparse.Namespace) -> list[str]:
    """Draw training images as the network sees them: learnt faces in green, ignored ones in grey, valid points in red.

    Returns what was wrong with images that could not be read.
    """
    # Here, for it brings PyTorch along, which nothing else needs and which takes longer to import than a large label to read.
    from data.dataset import FaceDataset

    config: Config = arguments.config
    fill = config.model.mean if config.model.channel_order == "bgr" else config.model.mean[::-1]
    dataset = FaceDataset(arguments.labels, config.data, augmentation=config.augmentation, fill=fill, seed=config.train.seed)
    dataset.check_readable()
    check_replaceable(arguments.output, ["augmented.png"], known=RESULT_FILES)
    cells = []
    faults: list[str] = []
    for number in range(arguments.show_augmented):
        epoch, index = divmod(number, len(dataset))
        sample = dataset[epoch, index]
        faults += sample.faults
        cell, factor = fit_cell(np.ascontiguousarray(sample.image.permute(1, 2, 0).numpy()))
        boxes, points, known, ignore = (part.numpy() for part in sample.target.parts())
        cells.append(draw_faces(cell, boxes * factor, points * factor, known, ignore=ignore))
    path = arguments.output / "augmented.png"
    write_image(path, contact_sheet(cells, columns=min(SHEET_COLUMNS, math.ceil(math.sqrt(len(cells))))))
    print(f"written {path}: {len(cells)} training images; learnt faces in green, ignored ones in grey, points in red")
    return list(dict.fromkeys(faults))


def priors_of(config: Config) -> Priors:
    """The priors that the settings give a network."""
    model = config.model
    levels = len(model.min_sizes)
    if levels > MOST_LEVELS:
        raise ValueError(f"model.min_sizes: expected at most {MOST_LEVELS} lists, one for each level of a backbone, found {levels}")
    steps = tuple(LAST_STEP >> level for level in reversed(range(levels)))
    if model.return_layers:    # chosen by hand: only the network itself tells their steps, and building it takes PyTorch
        from detector.backbone import build_backbone, levels_of

        steps = tuple(level.stride for level in levels_of(build_backbone(model.backbone, return_layers=model.return_layers)))
    return Priors(model.min_sizes, steps, config.loss.positive_iou, config.loss.min_best_iou)


def list_faults(faults: Iterable[str]) -> None:
    """Name the first images that cannot be read, and count the rest."""
    listed = list(faults)
    for fault in listed[:LISTED_FAULTS]:
        print(f"analyze_data.py: {fault}", file=sys.stderr)
    if len(listed) > LISTED_FAULTS:
        print(f"analyze_data.py: and {len(listed) - LISTED_FAULTS:,} more images", file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    checking = arguments.check or arguments.fix is not None
    writing = arguments.convert is not None or arguments.rows is not None
    other_work = writing or arguments.show_augmented is not None
    lenient = checking or writing
    labelled = read_set(arguments, lenient=lenient, look=checking or (not other_work and not arguments.sizes))
    faults = check(labelled, arguments.config.data.images) if arguments.check else 0
    if arguments.fix is not None:
        faults += fix(labelled, arguments.fix)
    if arguments.convert is not None:
        faults += convert(labelled, arguments.convert)
    if arguments.rows is not None:
        faults += write_rows(labelled, arguments.rows)
    if arguments.show_augmented is not None:
        unreadable = show_augmented(arguments)
        list_faults(unreadable)
        faults += len(unreadable)
    if checking or other_work:
        return DONE_WITH_FAULTS if faults else DONE
    print(Analysis(labelled, arguments.config, priors_of(arguments.config), arguments.output).run(arguments.ground_truth))
    list_faults(labelled.image_faults)
    return DONE_WITH_FAULTS if labelled.image_faults else DONE


if __name__ == "__main__":
    sys.exit(run_script(main, "analyze_data.py"))
