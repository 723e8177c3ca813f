"""Label files of any known format to FaceRecords, and back to RetinaFace's label.txt."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from config import DataConfig
from data.coco import read_coco
from data.image_files import ImageFolder, candidate_folders, find_image_folder, own_folders
from data.penn_fudan import PHOTOS, is_penn_fudan, read_penn_fudan, split_path
from data.records import NO_PLACE, Complain, FaceRecord, Fault, RecordBuilder, from_rows, raise_fault
from data.text_labels import is_size, read_retinaface, read_text, read_wider
from data.voc import read_voc
from data.yolo import is_yolo_label, read_yolo
from utils.files import files_below, whole_file
from utils.images import IMAGE_SUFFIXES

# Where a set has its label files, if not in its own folder.
LABEL_FOLDERS = {".xml": ("Annotations", "annotations"), ".txt": ("labels",)}
OTHER_FORMATS = {    # what tells the formats apart that are not read, by a piece of their beginning
    "labelme": r'"shapes"\s*:',
    "VGG Image Annotator": r'"(_via_img_metadata|regions)"\s*:',
    "datumaro": r'"(items|media_type)"\s*:',
    "Label Studio's JSON": r'"(annotations|completions)"\s*:\s*\[\s*\{[^{}]*"(result|completed_by|was_cancelled)"',
    "CreateML": r'"image(filename)?"\s*:\s*"',
    "CVAT XML": r"<annotations>",
    "Pascal VOC (name its folder)": r"<annotation[ >]",
    "XML": r"^\s*<",
    "JSON": r"^\s*[\[{]",
    "YAML": r"^[\w-]+:(\s|$)",
    "CSV": r"^[^#\n]*[,;\t][^\n]*[,;\t]",
}


def read_labels(
    path: str | Path,
    *,
    config: DataConfig = DataConfig(),
    images: str | None = None,
    sizes: Mapping[str, tuple[int, int]] | None = None,
    complain: Complain = raise_fault,
) -> list[FaceRecord]:
    """The images of a label file, or of a folder of label files, in their order.

    `config.format` names the format; `auto` tells it by the file's form, never by its values. `config.classes` says which classes are
    faces, `config.ignore_*` which faces are ignored. `images` is the folder of the images; without it
    it is found, see `data.image_files`. `sizes` by name replace images where YOLO's fractions need one.
    FileNotFoundError, or ValueError that names the line; with `complain` problems of single lines go
    there, and the rest is read, which may be nothing.
    """
    path = str(path)
    reported: list[Fault] = []

    def report(fault: Fault) -> None:
        complain(fault)
        reported.append(fault)

    builder = RecordBuilder(report)
    folder, part = split_path(path)
    if part or config.format == "pennfudan" or (config.format == "auto" and is_penn_fudan(Path(folder))):
        read_penn_fudan(Path(folder), builder, part=part, seed=config.split_seed)
    elif Path(path).is_dir():
        _read_folder(Path(path), builder, config=config, images=images, sizes=sizes or {})
    else:
        _read_file(path, builder, config=config, images=images, sizes=sizes or {})
    if not builder and not reported:
        raise ValueError(f"{path}: expected images and their faces, found no image")
    return builder.records(
        ignore_invalid=config.ignore_invalid, ignore_blurred=config.ignore_blurred, ignore_smaller=config.ignore_smaller
    )


def image_folders(labels: Sequence[str | Path], images: Sequence[str]) -> list[str | None]:
    """The image folder of each label file: the one that is given for all, its own, or None to find it.

    ValueError for another number of folders.
    """
    if not images:
        return [None] * len(labels)
    if len(images) not in (1, len(labels)):
        raise ValueError(
            f"data.images: expected one folder, or one for each of the {len(labels)} label files, found {len(images)}"
        )
    return list(images) if len(images) > 1 else [images[0]] * len(labels)


def advise_on_images(labels: Sequence[str | Path], images: Sequence[str]) -> str:
    """What to say where no image of some label files is found, neither in the folders `images` nor in the usual ones."""
    tried = images or [str(folder) for label in labels for folder in _folders_of(Path(split_path(str(label))[0]))]
    return f"tried {', '.join(dict.fromkeys(tried))}; --images or data.images names their folder"


def _folders_of(label: Path) -> list[Path]:
    if is_penn_fudan(label):
        return [label / PHOTOS]
    places = [label / name for names in LABEL_FOLDERS.values() for name in names]
    return candidate_folders(next((place for place in places if place.is_dir()), label))


def _read_file(
    path: str, builder: RecordBuilder, *, config: DataConfig, images: str | None, sizes: Mapping[str, tuple[int, int]]
) -> None:
    if config.format == "voc":
        raise ValueError(f"{path}: data.format=voc: expected a folder of label files")
    text = read_text(path)
    name = config.format if config.format != "auto" else recognize(path, text)
    if name == "yolo":
        _read_list(path, text, builder, config=config, sizes=sizes)
        return
    if name == "coco":
        read_coco(path, text, builder, classes=config.classes)
    elif name == "wider":
        read_wider(path, text, builder)
    else:
        read_retinaface(path, text, builder, corners=name == "labelv2")
    builder.locate(Path(path), images)


def _read_list(
    path: str, text: str, builder: RecordBuilder, *, config: DataConfig, sizes: Mapping[str, tuple[int, int]]
) -> None:
    """Read the YOLO labels of a list of image files, such as darknet's train.txt."""
    listed = [line.strip().replace("\\", "/") for line in text.split("\n") if line.strip()]
    if not listed:
        raise ValueError(f"{path}: expected a folder of YOLO's label files or a list of images, found an empty file")
    base = Path(path).parent
    files: dict[Path, list[Path]] = {}
    for name in listed:
        parts = name.split("/")
        # Lists are written for another working folder: data/set/1.jpg may be set/1.jpg here.
        places = [base.joinpath(*parts[start:]) for start in range(len(parts))]
        image = next((place for place in places if place.is_file()), None)
        label = label_of_image(image) if image is not None else None
        if image is None or not label.is_file():    # type: ignore[union-attr]
            what = "no such image" if image is None else f"has no label file {label}"
            raise ValueError(f"{path}: expected images with YOLO labels, one a line; {name[:80]!r}: {what}")
        files.setdefault(image.parent, []).append(label)    # type: ignore[arg-type]
    for folder, labels in files.items():
        read_yolo(
            labels[0].parent, labels, ImageFolder(folder), builder, classes=config.classes, sizes=sizes, complete=None
        )


def label_of_image(image: Path) -> Path:
    """The YOLO label of an image: beside it, or in labels/ where the image is in images/."""
    beside = image.with_suffix(".txt")
    parts = list(image.parts)
    if beside.is_file() or "images" not in parts:
        return beside
    parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    return Path(*parts).with_suffix(".txt")


def recognize(path: str, text: str) -> str:
    """The format of a label file by its form: retinaface, which is also what its reader calls malformed, labelv2, wider, coco, or
    yolo for a list of images.

    ValueError for an empty file, and for one of a format that is not read.
    """
    start = list(islice((stripped for line in text.split("\n") if (stripped := line.strip())), 2))
    if not start:
        raise ValueError(f"{path}: no images: expected '# path of an image' and a line for each of its faces, found an empty file")
    head = text[:20_000]
    if start[0].startswith("{") and re.search(r'"images"\s*:', text):
        return "coco"
    if start[0].startswith("#"):
        return "labelv2" if is_labelv2_header(start[0]) else "retinaface"
    is_count = len(start) == 2 and start[1].isascii() and start[1].isdecimal()
    is_image = Path(start[0]).suffix.lower() in IMAGE_SUFFIXES
    next_is_image = len(start) < 2 or Path(start[1]).suffix.lower() in IMAGE_SUFFIXES
    if is_image and next_is_image and not is_count:
        # A list of images, or a WIDER list that begins with an image without faces.
        counts = re.search(r"^\s*\d+\s*$", text, re.MULTILINE)
        return "wider" if counts else "yolo"
    if is_count:
        return "wider"
    if re.search(r"^(names|nc|train|path)\s*:", head, re.MULTILINE):
        raise ValueError(f"{path}: expected labels, found the settings of a YOLO set; name the folder of its labels")
    for name, sign in OTHER_FORMATS.items():
        if re.search(sign, head):
            raise ValueError(
                f"{path}: not a label of a known format; it looks like {name}: export COCO or Pascal VOC from there"
            )
    return "retinaface"


def is_labelv2_header(line: str) -> bool:
    """Whether a header ends with the width and height of its image."""
    words = line[1:].split()
    return len(words) > 2 and is_size(words[-2:])


def _read_folder(
    folder: Path, builder: RecordBuilder, *, config: DataConfig, images: str | None, sizes: Mapping[str, tuple[int, int]]
) -> None:
    where, suffix = _find_label_folder(folder, config.format)
    files = files_below(where, {suffix})
    if suffix == ".xml":
        read_voc(where, files, builder, classes=config.classes, origin=config.voc_origin)
        builder.locate(where, images)
        _warn_of_unlabelled(where, builder)
        return
    stems = [file.relative_to(where).with_suffix("").as_posix() for file in files]
    found = ImageFolder(images) if images is not None else find_image_folder(where, stems)
    read_yolo(where, files, found, builder, classes=config.classes, sizes=sizes, complete=found.root in own_folders(where))


def _warn_of_unlabelled(folder: Path, builder: RecordBuilder) -> None:
    """Warn of images without an XML file, which may be images without faces or not labelled yet."""
    if builder.folder is None:
        return
    names = [name for name in builder.folder.images() if name not in builder.files]
    if names and builder.folder.root in own_folders(folder):
        text = (
            f"{len(names):,} images in {builder.folder.root} have no XML file and are left out: "
            + ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")
        )    # fmt: skip
        builder.complain(Fault(str(folder), NO_PLACE, "image without a label", text))


def _find_label_folder(folder: Path, format_name: str) -> tuple[Path, str]:
    """The folder that holds a set's label files, and their suffix; ValueError where there are none, or of two kinds."""
    suffixes = {"voc": [".xml"], "yolo": [".txt"], "auto": [".xml", ".txt"]}.get(format_name)
    if suffixes is None:
        raise ValueError(f"{folder}: data.format={format_name}: expected a label file, found a folder")
    usual = [(folder / name, suffix) for suffix in suffixes for name in LABEL_FOLDERS[suffix]]
    usual = [(where, suffix) for where, suffix in usual if files_below(where, {suffix})]
    own = [(folder, suffix) for suffix in suffixes if has_labels(folder, suffix)]
    if not usual and ".txt" in suffixes and (folder / "label.txt").is_file():
        raise ValueError(f"{folder}: expected a folder of YOLO files, found a label file in it: name {folder / 'label.txt'}")
    for found in (usual, own):
        if len({suffix for _, suffix in found}) > 1:
            raise ValueError(f"{folder}: holds .xml files (Pascal VOC) and .txt files (YOLO); data.format or --format says which to read")
        if found:
            return found[0]
    expected = " (Pascal VOC) or ".join(suffixes)
    hint = ""
    if files := files_below(folder, {".json"}):
        hint = f"; name a label file, such as {files[0]}"
    elif files := files_below(folder, {".txt", ".csv"}):
        hint = f" ({files[0].relative_to(folder)} and the like are no labels of YOLO): name a label file, or export COCO or Pascal VOC"
    raise ValueError(f"{folder}: expected a folder of {expected} files, found none{hint}")


def has_labels(folder: Path, suffix: str) -> bool:
    """Whether a folder has label files of that suffix: .xml, or YOLO's .txt."""
    return any(suffix == ".xml" or is_yolo_label(file) for file in files_below(folder, {suffix}))


def write_labels(records: Iterable[FaceRecord], path: str | Path) -> None:
    """Write images and faces as a RetinaFace label.txt, which reads back as the same boxes, points and numbers.

    The format has no place for ignored faces, which are written like others, nor for image sizes. The file appears whole or not at all.
    """
    records = list(records)
    for number, record in enumerate(records):
        looks_like_labelv2 = number == 0 and is_labelv2_header(f"# {record.path}")
        if not can_be_written(record.path) or looks_like_labelv2:
            raise ValueError(f"{record.place}: {record.path[:80]!r} is a name that a RetinaFace label cannot hold")
    with whole_file(path) as partial, open(partial, "w", encoding="utf-8", newline="\n") as file:
        for record in records:
            file.write(f"# {record.file or record.path}\n")
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
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
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
