"""YOLO-face: a text file for each image, with fractions of the image's width and height."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from data.classes import pick_classes, read_class_names, read_point_shape
from data.format_names import find_other_format
from data.image_files import ImageFolder, find_image_folder
from data.records import NAMES_SHOWN, NO_PLACE, Fault, RecordBuilder
from data.text_labels import read_text, to_numbers
from data.yolo_lines import (
    FACES,
    Face,
    LineForm,
    Problem,
    class_number,
    find_form,
    is_class,
    parse_line,
    to_row,
)
from utils.image_header import read_header

SAMPLE = 1000    # lines that tell what the lines of a set mean
Row = tuple[int, list[str]]    # the line and its words


class LabelText(NamedTuple):
    """The text of a label file, the stem it names, and the image files that it may be for."""

    file: Path
    stem: str
    images: list[str]
    text: str


def read_yolo(
    folder: Path,
    files: Sequence[Path],
    images: ImageFolder,
    builder: RecordBuilder,
    *,
    classes: Sequence[str],
    sizes: Mapping[str, tuple[int, int]],
    complete: bool,
) -> None:
    """Add the faces of each file, in pixels of the image of the same name in `images`.

    `sizes` by name replace images that are not there. A line is `class cx cy w h`, and maybe five
    points `x y` or `x y visible`; or it is `class x y x y x y ...`, the corners of a polygon or a
    turned box, around which the upright box is taken. A negative coordinate, the point 0 0 and one
    that is not visible are not labelled. An empty file is an image without faces. So is an image
    without a file if `complete` says that these files are for all of the images, as YOLO's own
    tools read them, and each file with faces has its image; otherwise such images are left out.
    There is a warning of them. The faces of an image whose size is not known are lost, and so are
    those of a class without a name where others have one. ValueError where no image has a size.
    """
    labels = []
    labelled: set[str] = set()
    stems = [file.relative_to(folder).with_suffix("").as_posix() for file in files]
    for file, stem, found in zip(files, stems, images.find_all(stems), strict=True):
        # An image that two labels may be for is neither's, but has faces.
        labelled.update(found or images.find(stem))
        text = _read(file, builder)
        if text is not None and (found or _may_be_label(_split(text))):
            labels.append(LabelText(file, stem, found, text))
    known = {Path(name).with_suffix("").as_posix(): (name, size) for name, size in sizes.items()}
    if labels and not any(label.images or label.stem in known for label in labels):
        raise ValueError(
            f"{folder}: none of its images is in {images.root}, and fractions need an image's size "
            "to become pixels"
        )
    _add_labels(folder, labels, images.root, builder, classes=classes, known=known)
    names = [name for name in images.images() if name not in labelled]
    # A label without its image may be for one of these, which lies elsewhere or is named otherwise.
    complete &= all(label.images or not label.text.strip() for label in labels)
    _add_unlabelled(folder, names, images.root, builder, complete=complete)


def read_yolo_list(
    path: str, text: str, builder: RecordBuilder, *, classes: Sequence[str], images: str | None
) -> None:
    """Add the images that a list such as darknet's train.txt names, one a line, and their faces.

    They lie in the folder `images`, or else below that of the list or where usual layouts have them.
    An image without a label file has no faces, of which there is a warning; the faces of one that
    is not there are not known. ValueError where no image is found.
    """
    listed = [
        (line, name.strip()) for line, name in enumerate(text.split("\n"), start=1) if name.strip()
    ]
    if not listed:
        raise ValueError(
            f"{path}: expected a folder of YOLO's label files or a list of images, "
            "found an empty file"
        )
    names = [name for _, name in listed]
    folder = ImageFolder(images or Path(path).parent)
    found = _find_listed(names, folder)
    if images is None and not any(found):
        folder = find_image_folder(Path(path), names)
        found = _find_listed(names, folder)
    files = list(dict.fromkeys(image for image in found if image is not None))
    if not files:
        raise ValueError(
            f"{path}: none of the images that it lists is there, such as {listed[0][1][:80]!r}"
        )
    root = folder.root
    if not all(image.is_relative_to(root) for image in files):
        root = Path(os.path.commonpath([image.parent.absolute() for image in files]))
    labels = []
    unlabelled = []
    for image in files:
        name = Path(os.path.relpath(image, root)).as_posix()
        file = label_of_image(image)
        if not file.is_file():
            unlabelled.append(name)
        elif (content := _read(file, builder)) is not None:
            labels.append(LabelText(file, Path(name).with_suffix("").as_posix(), [name], content))
    place = labels[0].file.parent if labels else Path(path).parent
    _add_labels(place, labels, root, builder, classes=classes, known={})
    _add_unlabelled(Path(path), unlabelled, root, builder, complete=True)
    for (line, name), image_file in zip(listed, found, strict=True):
        if image_file is None:    # readers of the image say what is wrong
            builder.add_image(name, source=path, line=line, folder=str(root), incomplete=True)


def _find_listed(names: Sequence[str], folder: ImageFolder) -> list[Path | None]:
    """The image files that a list names, below its folder or by their whole path."""
    found: list[Path | None] = []
    for name, files in zip(names, folder.find_all(names), strict=True):
        elsewhere = Path(name)
        if elsewhere.is_absolute() and not files and elsewhere.is_file():
            found.append(elsewhere)
        else:
            found.append(folder.root / files[0] if len(files) == 1 else None)
    return found


def label_of_image(image: Path) -> Path:
    """The YOLO label of an image: beside it, or in labels/ where the image is in images/."""
    beside = image.with_suffix(".txt")
    parts = list(image.parts)
    if "images" not in parts or beside.is_file():
        return beside
    parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    return Path(*parts).with_suffix(".txt")


def is_yolo_label(file: Path) -> bool:
    """Return True if a text file may be one of YOLO's labels, which may be empty."""
    try:
        return _may_be_label(_split(read_text(file)))
    except (ValueError, FileNotFoundError):
        return False


def _read(file: Path, builder: RecordBuilder) -> str | None:
    """The text of a file; None, and a complaint, where it cannot be read."""
    try:
        return read_text(file)
    except (ValueError, FileNotFoundError) as error:
        reason = str(error).removeprefix(f"{file}: ")
        builder.complain(Fault(str(file), NO_PLACE, "malformed line", reason))
        return None


def _split(text: str) -> list[Row]:
    """The lines that are not empty."""
    lines = enumerate(text.split("\n"), start=1)
    return [(number, words) for number, line in lines if (words := line.split())]


def _may_be_label(rows: list[Row]) -> bool:
    """Return True if a file without an image is a label; lists and notes lie beside them too."""
    return not rows or any(
        is_class(words[0]) and len(words) >= FACES[0] - 1 and to_numbers(words) is not None
        for _, words in rows
    )


def _add_labels(
    folder: Path,
    labels: Sequence[LabelText],
    root: Path,
    builder: RecordBuilder,
    *,
    classes: Sequence[str],
    known: Mapping[str, tuple[str, tuple[int, int]]],
) -> None:
    """Add the images of label files, and their faces; `known` are names and sizes by stem."""
    # The texts are split twice: the words of all lines would take ten times their memory.
    counts: Counter[int] = Counter()
    used: set[str] = set()
    sample: list[list[str]] = []
    for label in labels:
        for _, words in _split(label.text):
            counts[len(words)] += 1
            used.update([class_number(words[0])] if is_class(words[0]) else [])
            if len(sample) < SAMPLE:
                sample.append(words)
    if counts and not used and (problem := find_other_format(labels[0].text)):
        raise ValueError(f"{labels[0].file}: {problem}")
    names = read_class_names(folder)
    form = find_form(counts, sample, read_point_shape(folder))
    if form.pose and form.pose not in FACES and counts[form.pose]:
        text = (
            f"its lines of {form.pose} numbers are read as a box "
            "and points that are not the five of a face"
        )
        builder.complain(Fault(str(folder), NO_PLACE, "other points", text))
    wanted = [each if each in names.values() else names.get(each, each) for each in classes]
    named = {number: names.get(number, number) for number in used}
    chosen = pick_classes(str(folder), set(named.values()), wanted, listed=set(names.values()))
    faces = {number for number, name in named.items() if name in chosen}
    unnamed = {number for number in used if names and number not in names} - faces
    problems: list[tuple[Fault, str]] = []
    for label in labels:
        if len(label.images) > 1:
            meant = f"it is for {' or '.join(label.images[:NAMES_SHOWN])} in {root}"
            builder.complain(Fault(str(label.file), NO_PLACE, "ambiguous image name", meant))
            continue
        problems += _add_label(
            label, root, builder, form=form, faces=faces, unnamed=unnamed, known=known
        )
    _complain(problems, sum(counts.values()), builder)


def _add_label(
    label: LabelText,
    root: Path,
    builder: RecordBuilder,
    *,
    form: LineForm,
    faces: set[str],
    unnamed: set[str],
    known: Mapping[str, tuple[str, tuple[int, int]]],
) -> list[tuple[Fault, str]]:
    """Add an image and its faces; returns what is wrong with lines, each with its kind.

    Of a class that is `unnamed`, where others have a name, nobody knows whether it is a face.
    """
    problems: list[tuple[Fault, str]] = []
    found: list[tuple[int, Face]] = []
    name, size = known.get(label.stem) or _find_size(root, label)
    for line, words in _split(label.text):
        result = parse_line(words, form)
        if class_number(words[0]) in unnamed:
            text = f"class {words[0][:40]} has no name where others have one"
            result = Problem("class without a name", text)
        if isinstance(result, Problem):
            place = str(label.file), line
            fault = Fault(*place, "malformed line", result.text, image=name)
            problems.append((fault, result.kind))
        elif class_number(words[0]) in faces:
            found.append((line, result))
    incomplete = bool(problems) or (size is None and bool(found))
    builder.add_image(
        name, source=str(label.file), line=1, size=size, folder=str(root), incomplete=incomplete
    )
    if size is not None:
        for line, face in found:
            builder.add_face(to_row(face, size), line, given=19 if face.points else 4)
    return problems


def _complain(problems: Sequence[tuple[Fault, str]], lines: int, builder: RecordBuilder) -> None:
    """Complain of lines, or once where all of a set have the same kind of problem."""
    if len(problems) == lines > 1 and len({kind for _, kind in problems}) == 1:
        first = problems[0][0]
        text = f"{first.text}; the same is wrong with all {lines:,} lines of the set"
        builder.complain(first._replace(text=text, image=""))
        return
    for fault, _ in problems:
        builder.complain(fault)


def _find_size(root: Path, label: LabelText) -> tuple[str, tuple[int, int] | None]:
    """An image's name, and its size where it can be read: its readers say what is wrong."""
    if not label.images:
        return f"{label.stem}.jpg", None
    try:
        header = read_header(root / label.images[0])
    except (FileNotFoundError, ValueError):
        return label.images[0], None
    return label.images[0], (header.width, header.height)


def _add_unlabelled(
    folder: Path, names: Sequence[str], root: Path, builder: RecordBuilder, *, complete: bool
) -> None:
    """Warn of images without a label file and, if `complete`, add them as images without faces."""
    builder.warn_unlabelled(folder, names, root, lacking="label file", used=complete)
    is_list = bool(folder.suffix) and folder.is_file()
    for name in names if complete else []:
        source = folder if is_list else (folder / name).with_suffix(".txt")
        builder.add_image(name, source=str(source), line=NO_PLACE, folder=str(root))
