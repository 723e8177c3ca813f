"""Label files of any known format to FaceRecords, and back to RetinaFace's label.txt."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from config import DataConfig
from data.coco import read_coco
from data.penn_fudan import is_penn_fudan, read_penn_fudan, split_path
from data.records import Complain, FaceRecord, Fault, RecordBuilder, from_rows, raise_fault
from data.text_labels import is_size, read_retinaface, read_text, read_wider
from data.voc import read_voc
from data.yolo import read_yolo
from utils.files import files_below, whole_file
from utils.images import IMAGE_SUFFIXES

# Where a set has its label files, if not in its own folder, and where their images are, seen from there.
LABEL_FOLDERS = {".xml": ("Annotations", "annotations"), ".txt": ("labels",)}
IMAGE_FOLDERS = ("images", "JPEGImages", "../images", "../JPEGImages")
NO_LABELS = {"classes.txt"}    # names of the classes, which some tools write among YOLO's files


def read_labels(
    path: str | Path,
    *,
    config: DataConfig = DataConfig(),
    sizes: Mapping[str, tuple[int, int]] | None = None,
    complain: Complain = raise_fault,
) -> list[FaceRecord]:
    """The images of a label file, or of a folder of label files, in their order.

    `config.format` names the format; `auto` tells it by the file's form, never by its values. `config.classes` says which classes are
    faces, `config.ignore_*` which faces are ignored, and `config.images` where the images lie whose size YOLO's fractions need; `sizes`
    by name stand in for them. FileNotFoundError, or ValueError that names the line; with `complain` faults of single lines go there,
    and the rest is read, which may be nothing.
    """
    path = str(path)
    told: list[Fault] = []

    def tell(fault: Fault) -> None:
        complain(fault)
        told.append(fault)

    builder = RecordBuilder(tell)
    folder, part = split_path(path)
    if part or config.format == "pennfudan" or (config.format == "auto" and is_penn_fudan(Path(folder))):
        read_penn_fudan(Path(folder), builder, part=part, seed=config.split_seed)
    elif Path(path).is_dir():
        _read_folder(Path(path), builder, config=config, sizes=sizes)
    else:
        _read_file(path, builder, config=config)
    if not builder and not told:
        raise ValueError(f"{path}: expected images and their faces, found no image")
    return builder.records(
        ignore_invalid=config.ignore_invalid, ignore_blurred=config.ignore_blurred, ignore_smaller=config.ignore_smaller
    )


def _read_file(path: str, builder: RecordBuilder, *, config: DataConfig) -> None:
    if config.format in ("voc", "yolo"):
        raise ValueError(f"{path}: data.format={config.format}: expected a folder of label files")
    text = read_text(path)
    name = config.format if config.format != "auto" else recognise(path, text)
    if name == "coco":
        read_coco(path, text, builder, classes=config.classes)
    elif name == "wider":
        read_wider(path, text, builder)
    else:
        read_retinaface(path, text, builder, corners=name == "labelv2")


def recognise(path: str, text: str) -> str:
    """The format of a label file by its form: retinaface, which is also what its reader calls malformed, labelv2, wider or coco.

    ValueError for an empty file.
    """
    start = list(islice((stripped for line in text.split("\n") if (stripped := line.strip())), 2))
    if not start:
        raise ValueError(f"{path}: no images: expected '# path of an image' and a line for each of its faces, found an empty file")
    if start[0].startswith(("{", "[")):
        return "coco"
    if start[0].startswith("#"):
        return "labelv2" if is_labelv2_header(start[0]) else "retinaface"
    return "wider" if len(start) == 2 and start[1].isascii() and start[1].isdecimal() else "retinaface"


def is_labelv2_header(line: str) -> bool:
    """Whether a header ends with the width and height of its image."""
    words = line[1:].split()
    return len(words) > 2 and is_size(words[-2:])


def _read_folder(folder: Path, builder: RecordBuilder, *, config: DataConfig, sizes: Mapping[str, tuple[int, int]] | None) -> None:
    where, suffix = _find_label_folder(folder, config.format)
    files = _label_files(where, suffix)
    images = Path(config.images) if config.images is not None else _find_image_folder(where)
    if suffix == ".xml":
        read_voc(where, files, images, builder, classes=config.classes)
    else:
        read_yolo(where, files, images, builder, classes=config.classes, sizes=sizes or {})


def _find_label_folder(folder: Path, format_name: str) -> tuple[Path, str]:
    """The folder that holds a set's label files, and their suffix; ValueError where there are none, or of two kinds."""
    suffixes = {"voc": [".xml"], "yolo": [".txt"], "auto": [".xml", ".txt"]}.get(format_name)
    if suffixes is None:
        raise ValueError(f"{folder}: data.format={format_name}: expected a label file, found a folder")
    usual = [(folder / name, suffix) for suffix in suffixes for name in LABEL_FOLDERS[suffix]]
    for candidates in (usual, [(folder, suffix) for suffix in suffixes]):
        found = [(where, suffix) for where, suffix in candidates if _label_files(where, suffix)]
        if (folder / "label.txt").is_file() and (folder, ".txt") in found:
            raise ValueError(f"{folder}: expected a folder of YOLO files, found a label file in it: name {folder / 'label.txt'}")
        if len({suffix for _, suffix in found}) > 1:
            raise ValueError(f"{folder}: holds .xml files (Pascal VOC) and .txt files (YOLO); data.format or --format says which to read")
        if found:
            return found[0]
    raise ValueError(f"{folder}: expected a folder of {' (Pascal VOC) or '.join(suffixes)} files, found none")


def _label_files(folder: Path, suffix: str) -> list[Path]:
    return [file for file in files_below(folder, {suffix}) if file.name not in NO_LABELS]


def _find_image_folder(labels: Path) -> Path:
    """Where the images of a folder of label files lie: labels/train has images/train beside it in YOLO's sets."""
    candidates = [Path(os.path.normpath(labels / name)) for name in IMAGE_FOLDERS]
    parts = labels.parts if "labels" in labels.parts else labels.absolute().parts
    if "labels" in parts:
        at = len(parts) - 1 - parts[::-1].index("labels")
        candidates.insert(0, Path(*parts[:at], "images", *parts[at + 1 :]))
    if any(file.suffix.lower() in IMAGE_SUFFIXES for file in labels.iterdir()):
        return labels
    return next((candidate for candidate in candidates if candidate.is_dir()), Path(os.path.normpath(labels / "../images")))


def write_labels(records: Iterable[FaceRecord], path: str | Path) -> None:
    """Write images and faces as a RetinaFace label.txt, which reads back as the same boxes, points and numbers.

    The format has no place for ignored faces, which are written like others, nor for image sizes. The file appears whole or not at all.
    """
    records = list(records)
    for number, record in enumerate(records):
        looks_like_labelv2 = number == 0 and is_labelv2_header(f"# {record.path}")
        if not can_be_written(record.path) or looks_like_labelv2:
            raise ValueError(f"{record.source}:{record.line}: {record.path[:80]!r} is a name that a RetinaFace label cannot hold")
    with whole_file(path) as partial, open(partial, "w", encoding="utf-8", newline="\n") as file:
        for record in records:
            file.write(f"# {record.path}\n")
            file.writelines(_format_row(row) + "\n" for row in record.rows)


def can_be_written(name: str) -> bool:
    """Whether a label has a line for an image of that name: without line ends, blanks around it, or what is no Unicode."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return name == name.strip() and not set(name) & set("\n\r")


def _format_row(row: NDArray[np.float64]) -> str:
    """A face (20,) as a line: in 15 digits, which read well, or in 17 where that would move a corner or point by a bit of float32."""
    numbers = row[~np.isnan(row)]
    line = " ".join(f"{number:.15g}" for number in numbers)
    shortened = row.copy()
    shortened[~np.isnan(row)] = list(map(float, line.split()))
    same = all(np.array_equal(old, new) for old, new in zip(from_rows(row[None]), from_rows(shortened[None]), strict=True))
    return line if same else " ".join(repr(number) for number in numbers.tolist())


def read_sizes(path: str | Path) -> dict[str, tuple[int, int]]:
    """Image sizes by name, from lines of `name width height`; FileNotFoundError, or ValueError that names the line."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file of sizes") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a readable file of sizes: {error}") from None
    sizes = {}
    for number, line in enumerate(lines, start=1):
        parts = line.rsplit(maxsplit=2)
        if not parts:
            continue
        if len(parts) != 3 or not is_size(parts[1:]):
            raise ValueError(f"{path}:{number}: expected 'name width height', found {line[:40]!r}")
        sizes[parts[0]] = int(parts[1]), int(parts[2])
    return sizes
