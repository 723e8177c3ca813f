"""Label files of any known format to FaceRecords, and back to RetinaFace's label.txt."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePath

import numpy as np
from numpy.typing import NDArray

from config import DataConfig
from data.coco import read_coco
from data.format_names import describe_others, is_labelv2_header, recognize, refuse_binary
from data.image_files import ImageFolder, candidate_folders, find_image_folder, own_folders
from data.penn_fudan import PHOTOS, is_penn_fudan, read_penn_fudan, split_path
from data.records import Complain, FaceRecord, Fault, RecordBuilder, from_rows, raise_fault
from data.text_labels import is_size, read_retinaface, read_text, read_wider
from data.voc import is_voc_label, read_voc
from data.yolo import is_yolo_label, read_yolo, read_yolo_list
from utils.files import files_below, is_hidden, whole_file

IS_LABEL = {".xml": is_voc_label, ".txt": is_yolo_label}
# Where a set has its label files, if not in its own folder.
LABEL_FOLDERS = {".xml": ("Annotations", "annotations"), ".txt": ("labels",)}


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
        read_penn_fudan(Path(folder), builder, images=images, part=part, seed=config.split_seed)
    elif Path(path).is_dir():
        _read_folder(Path(path), builder, config=config, images=images, sizes=sizes or {})
    else:
        _read_file(path, builder, config=config, images=images)
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


def _read_file(path: str, builder: RecordBuilder, *, config: DataConfig, images: str | None) -> None:
    if config.format == "voc":
        raise ValueError(f"{path}: data.format=voc: expected a folder of label files")
    refuse_binary(Path(path))
    text = read_text(path)
    name = config.format if config.format != "auto" else recognize(path, text)
    if name == "yolo":
        read_yolo_list(path, text, builder, classes=config.classes, images=images)
        return
    if name == "coco":
        read_coco(path, text, builder, classes=config.classes)
    elif name == "wider":
        read_wider(path, text, builder)
    else:
        read_retinaface(path, text, builder, corners=name == "labelv2")
    builder.locate(Path(path), images)


def _read_folder(
    folder: Path, builder: RecordBuilder, *, config: DataConfig, images: str | None, sizes: Mapping[str, tuple[int, int]]
) -> None:
    where, suffix = _find_label_folder(folder, config.format)
    files = files_below(where, {suffix}) + _folders_like_files(where, suffix)
    complete = {os.path.realpath(each) for each in own_folders(where)}
    if suffix == ".xml":
        read_voc(where, files, builder, classes=config.classes, origin=config.voc_origin)
        builder.locate(where, images)
        if builder.folder is not None and os.path.realpath(builder.folder.root) in complete:
            read = {file.relative_to(where).with_suffix("") for file in files}    # or unreadable
            names = [
                name
                for name in builder.folder.images()
                if name not in builder.files and PurePath(name).with_suffix("") not in read
            ]
            builder.warn_unlabelled(where, names, builder.folder.root, lacking="XML file", used=False)
        return
    stems = [file.relative_to(where).with_suffix("").as_posix() for file in files]
    found = ImageFolder(images) if images is not None else find_image_folder(where, stems)
    is_complete = os.path.realpath(found.root) in complete
    read_yolo(where, files, found, builder, classes=config.classes, sizes=sizes, complete=is_complete)


def _folders_like_files(where: Path, suffix: str) -> list[Path]:
    """Folders that are named like label files, for the reader to complain of."""
    with os.scandir(where) as entries:
        names = [each.name for each in entries if each.name.lower().endswith(suffix) and each.is_dir()]
    return [where / name for name in sorted(names) if not is_hidden(PurePath(name))]


def _find_label_folder(folder: Path, format_name: str) -> tuple[Path, str]:
    """The folder that holds a set's label files, and their suffix; ValueError where there are none, or of two kinds."""
    suffixes = {"voc": [".xml"], "yolo": [".txt"], "auto": [".xml", ".txt"]}.get(format_name)
    if suffixes is None:
        raise ValueError(f"{folder}: data.format={format_name}: expected a label file, found a folder")
    usual = [(folder / name, suffix) for suffix in suffixes for name in LABEL_FOLDERS[suffix]]
    usual = [(where, suffix) for where, suffix in usual if files_below(where, {suffix})]
    own = [(folder, suffix) for suffix in suffixes if any(map(IS_LABEL[suffix], files_below(folder, {suffix})))]
    if not usual and ".txt" in suffixes and (folder / "label.txt").is_file():
        raise ValueError(f"{folder}: expected a folder of YOLO files, found a label file in it: name {folder / 'label.txt'}")
    for found in (usual, own):
        if len({suffix for _, suffix in found}) > 1:
            raise ValueError(f"{folder}: holds .xml files (Pascal VOC) and .txt files (YOLO); data.format or --format says which to read")
        if found:
            return found[0] if found is usual else _find_single_set(*found[0])
    expected = " (Pascal VOC) or ".join(suffixes)
    raise ValueError(f"{folder}: expected a folder of {expected} files, found none{describe_others(folder)}")


def _find_single_set(folder: Path, suffix: str) -> tuple[Path, str]:
    """The label folder in the only set below a folder, if that has no labels of its own."""
    places = set()
    for file in files_below(folder, {suffix}):
        parts = file.relative_to(folder).parts[:-1]
        inner = [at for at, part in enumerate(parts) if part in LABEL_FOLDERS[suffix]]
        if inner:
            places.add(folder.joinpath(*parts[: inner[0] + 1]))
        elif IS_LABEL[suffix](file):
            return folder, suffix
    if len(places) > 1:
        raise ValueError(f"{folder}: holds several sets; name one, such as {min(places).parent}")
    return places.pop() if places else folder, suffix


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
