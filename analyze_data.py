"""Statistics and pictures of labelled sets."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tqdm import tqdm

from config import Config, override
from data.labels import FaceRecord, image_folder, image_path, read_labels, read_sizes
from data.statistics import Statistics, describe_uniformity, measure
from utils.files import whole_file
from utils.images import read_image, write_image
from utils.plots import plot_positions
from utils.script import DONE, DONE_WITH_FAULTS, ArgumentParser, run_script, split_settings
from utils.visualize import FIRST_IMAGES, contact_sheet, draw_faces, fit_cell

LISTED_FAULTS = 20    # the rest is counted


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = ArgumentParser(
        prog="analyze_data.py",
        description="Count and measure the faces of label files, alone and together, and draw where they lie and the first images.",
    )
    parser.add_argument("labels", metavar="LABELS | key=value", nargs="+", help="label files in RetinaFace format; or data.images=DIR")
    parser.add_argument("--images", metavar="DIR", help="folder of the images (default: images/ beside each label file)")
    parser.add_argument("--sizes", metavar="FILE", help="text file of 'name width height', to open no image for its size")
    parser.add_argument("--output", metavar="DIR", type=Path, default=Path("statistics"), help="for the results (default: %(default)s)")
    arguments = parser.parse_intermixed_args(argv)
    settings, arguments.labels = split_settings(arguments.labels)
    for word in settings:
        if not word.startswith("data.images="):
            raise ValueError(f"{word}: only data.images can be set here")
    arguments.images = arguments.images or override(Config(), settings).data.images
    if not arguments.labels:
        raise ValueError("expected label files, found none; --help shows what is expected")
    return arguments


def find_sizes(
    records: Sequence[FaceRecord], *, images: str | None, known: Mapping[str, tuple[int, int]] | None
) -> tuple[dict[int, tuple[int, int]], list[str]]:
    """The (width, height) of images by index, and what is wrong with those that should be there and cannot be read.

    With `known` sizes no image is opened. A set that has no images/ beside its label has no sizes, and that is no fault.
    ValueError where a folder that was named is missing, or no image has a known size.
    """
    if images is not None and not Path(images).is_dir():
        raise ValueError(f"{images}: no such folder of images")
    if known is not None:
        sizes = {index: known[record.path] for index, record in enumerate(records) if record.path in known}
        if not sizes:
            raise ValueError(f"--sizes: names none of the {len(records):,} images, such as {records[0].path}")
        return sizes, []
    present = {folder for folder in {image_folder(record, images) for record in records} if folder.is_dir()}
    wanted = [index for index, record in enumerate(records) if image_folder(record, images) in present]

    def size_or_fault(index: int) -> tuple[int, int] | str:
        try:
            height, width = read_image(image_path(records[index], images), turn=False).shape[:2]
        except (FileNotFoundError, ValueError) as error:
            return str(error)
        return width, height

    with ThreadPoolExecutor() as pool:
        results = tqdm(pool.map(size_or_fault, wanted), total=len(wanted), unit="image", disable=None, leave=False)
        found = dict(zip(wanted, results, strict=True))
    sizes = {index: result for index, result in found.items() if not isinstance(result, str)}
    return sizes, [result for result in found.values() if isinstance(result, str)]


def report(name: str, statistics: Statistics) -> str:
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


def draw_first_images(records: Sequence[FaceRecord], *, images: str | None, path: Path) -> bool:
    """Draw the first images that can be read, boxes in green and landmarks in red; False where there is none."""
    drawn = []
    for record in records:
        try:
            image = read_image(image_path(record, images), turn=False)
        except (FileNotFoundError, ValueError):
            continue
        cell, factor = fit_cell(image)
        drawn.append(draw_faces(cell, record.boxes * factor, record.landmarks * factor, record.has_landmarks))
        if len(drawn) == FIRST_IMAGES:
            break
    if drawn:
        write_image(path, contact_sheet(drawn))
    return bool(drawn)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    known = read_sizes(arguments.sizes) if arguments.sizes else None
    files = {path: read_labels(path) for path in arguments.labels}
    records = [record for of_file in files.values() for record in of_file]
    sizes, faults = find_sizes(records, images=arguments.images, known=known)

    results: dict[str, Any] = {"files": {}}
    first = 0
    for path, of_file in files.items():
        part = {index - first: sizes[index] for index in range(first, first + len(of_file)) if index in sizes}
        statistics = measure(of_file, part)
        results["files"][path] = statistics.numbers
        print(report(path, statistics))
        first += len(of_file)
    total = measure(records, sizes)
    results["total"] = total.numbers
    if len(files) > 1:
        print(report("total", total))

    written = ["statistics.json"]
    with whole_file(arguments.output / "statistics.json") as partial:
        partial.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    if total.positions is not None:
        plot_positions(total.positions, arguments.output / "positions.png")
        written.append("positions.png")
    if draw_first_images(records, images=arguments.images, path=arguments.output / "first_images.png"):
        written.append("first_images.png")
    print(f"written to {arguments.output}: {', '.join(written)}")
    for fault in faults[:LISTED_FAULTS]:
        print(f"analyze_data.py: {fault}", file=sys.stderr)
    if len(faults) > LISTED_FAULTS:
        print(f"analyze_data.py: and {len(faults) - LISTED_FAULTS:,} more images that cannot be read", file=sys.stderr)
    return DONE_WITH_FAULTS if faults else DONE


if __name__ == "__main__":
    sys.exit(run_script(main, "analyze_data.py"))
