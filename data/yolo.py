"""YOLO-face: a folder with a text file for each image, whose numbers are fractions of the image's width and height."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from data.classes import pick_classes, read_class_names
from data.image_files import ImageFolder
from data.records import ABSENT_POINTS, NO_PLACE, POINTS, Fault, RecordBuilder
from data.text_labels import read_text
from utils.image_header import read_header

# class cx cy w h, and maybe five (x y), or five (x y visible)
BOX, POSE_2D, POSE_3D = 5, 15, 20
# class and the corners of a polygon; 15 numbers are one where another line of the set must be
POLYGON = frozenset(range(7, 10_001, 2)) - {POSE_2D}
ABSENT = float("nan")
ROUNDING = 1e-5    # of an image's side
LARGEST_FRACTION = 2.0    # a larger number is no fraction of an image, but pixels
BEYOND_BOX = 0.1    # of the box's sides that a point may lie outside before it does not fit
NAMES_SHOWN = 3
Row = tuple[int, list[str]]    # the line and its words


def read_yolo(
    folder: Path,
    files: Sequence[Path],
    images: ImageFolder,
    builder: RecordBuilder,
    *,
    classes: Sequence[str],
    sizes: Mapping[str, tuple[int, int]],
    complete: bool | None,
) -> None:
    """Add the faces of each file, in pixels of the image of the same name in `images`.

    `sizes` by name replace images that are not there. A line is `class cx cy w h`, and maybe five
    points `x y` or `x y visible`; or it is `class x y x y x y ...`, the corners of a polygon or a
    turned box, around which the upright box is taken. A negative coordinate, the point 0 0 and one
    that is not visible are not labelled. An empty file is an image without faces. So is an image
    without a file if `complete` says that these files are for all of the images, as YOLO's own tools
    read them; otherwise such images are left out. There is a warning of them, unless it is None.
    The faces of an image whose size is not known are lost. ValueError where no image has a size.
    """
    texts = {file: text for file in files if (text := _read_rows(file, builder)) is not None}
    stems = {file: file.relative_to(folder).with_suffix("").as_posix() for file in files}
    found = {file: images.find(stem) for file, stem in stems.items()}
    rows = {file: of_file for file, of_file in texts.items() if found[file] or _may_be_label(of_file)}
    polygons = any(len(words) in POLYGON for of_file in rows.values() for _, words in of_file)
    names = read_class_names(folder)
    used = {names.get(words[0], words[0]) for of_file in rows.values() for _, words in of_file if _is_class(words[0])}
    faces = pick_classes(str(folder), used, classes, listed=set(names.values()))
    known = {Path(name).with_suffix("").as_posix(): (name, size) for name, size in sizes.items()}
    if rows and not any(found[file] or stems[file] in known for file in rows):
        raise ValueError(
            f"{folder}: none of its images is in {images.root}, and fractions need an image's size to become pixels"
        )
    for file, of_file in rows.items():
        if len(found[file]) > 1:
            meant = f"it is for {' or '.join(found[file][:NAMES_SHOWN])} in {images.root}"
            builder.complain(Fault(str(file), NO_PLACE, "ambiguous image name", meant))
            continue
        name, size = known.get(stems[file]) or _find_size(images.root, found[file], stems[file])
        builder.add_image(
            name, source=str(file), line=1, size=size, folder=str(images.root), incomplete=size is None and bool(of_file)
        )
        for line, words in of_file:
            if (problem := _find_problem(words, polygons=polygons)) is not None:
                builder.lose_face(Fault(str(file), line, "malformed line", problem))
            elif names.get(words[0], words[0]) in faces and size is not None:
                is_polygon = len(words) not in (BOX, POSE_3D) and (polygons or len(words) != POSE_2D)
                _add_face(line, words, size, builder, is_polygon=is_polygon)
    if complete is not None:
        labelled = {name for names in found.values() for name in names}
        _add_unlabelled(folder, images, labelled, builder, complete=complete)


def _read_rows(file: Path, builder: RecordBuilder) -> list[Row] | None:
    """The lines of a file that are not empty; None, and a complaint, where it cannot be read."""
    try:
        text = read_text(file)
    except ValueError as error:
        builder.complain(Fault(str(file), NO_PLACE, "malformed line", str(error).removeprefix(f"{file}: ")))
        return None
    return [(line, words) for line, words in enumerate(map(str.split, text.split("\n")), start=1) if words]


def is_yolo_label(file: Path) -> bool:
    """Whether a text file may be one of YOLO's labels, which may be empty; an unreadable one may be."""
    try:
        text = read_text(file)
    except ValueError:
        return True
    return _may_be_label([(1, line.split()) for line in text.split("\n") if line.strip()])


def _may_be_label(rows: list[Row]) -> bool:
    """Whether a file without an image is a label; lists, readmes and notes lie among YOLO's files too."""
    return not rows or any(_is_row(words) for _, words in rows)


def _is_row(words: list[str]) -> bool:
    try:
        numbers = list(map(float, words[1:]))
    except ValueError:
        return False
    return _is_class(words[0]) and len(numbers) + 1 in POLYGON | {BOX, POSE_2D, POSE_3D}


def _is_class(word: str) -> bool:
    return word.isascii() and word.isdecimal()


def _find_problem(words: list[str], *, polygons: bool) -> str | None:
    """What is wrong with a line, or None."""
    count = len(words)
    if not _is_class(words[0]):
        return f"expected the number of a class, found {words[0][:40]!r}"
    if count not in (BOX, POSE_2D, POSE_3D) and not (polygons and count in POLYGON):
        score = "; the sixth may be the score of a prediction, which is no label" if count == BOX + 1 else ""
        return f"expected 5, 15 or 20 numbers, or the corners of a polygon, found {count}{score}"
    try:
        numbers = list(map(float, words[1:]))
    except ValueError:
        return f"expected numbers, found {' '.join(words)[:40]!r}"
    largest = max(map(abs, numbers))
    if LARGEST_FRACTION < largest < math.inf:
        return f"expected fractions of the image's width and height, found {largest:g}, which may be pixels"
    if not polygons and count in (POSE_2D, POSE_3D) and _do_not_fit(numbers):
        return "most of its points lie outside its box; is it another kind of label, such as a polygon?"
    return None


def _do_not_fit(numbers: list[float]) -> bool:
    """Whether most labelled points of a face lie outside its box."""
    cx, cy, w, h, *points = numbers
    labelled = [(x, y) for x, y, is_labelled in _points(points) if is_labelled]
    reach_x, reach_y = w * (0.5 + BEYOND_BOX), h * (0.5 + BEYOND_BOX)
    outside = sum(abs(x - cx) > reach_x or abs(y - cy) > reach_y for x, y in labelled)
    return outside > len(labelled) / 2


def _points(numbers: list[float]) -> list[tuple[float, float, bool]]:
    """x, y, and whether it is labelled, for each of five points."""
    step = len(numbers) // POINTS
    points = []
    for start in range(0, len(numbers), step):
        x, y, *visible = numbers[start : start + step]
        is_number = x == x and y == y    # what is none is complained of later
        points.append((x, y, not is_number or (x >= 0 and y >= 0 and visible != [0] and (x, y) != (0, 0))))
    return points


def _add_face(line: int, words: list[str], size: tuple[int, int], builder: RecordBuilder, *, is_polygon: bool) -> None:
    numbers = list(map(float, words[1:]))
    if is_polygon:
        x1, y1, x2, y2 = min(numbers[::2]), min(numbers[1::2]), max(numbers[::2]), max(numbers[1::2])
        points: list[float] = []
    else:
        cx, cy, w, h, *points = numbers
        x1, y1, x2, y2 = cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2
    width, height = size
    x1, x2 = _snap(x1) * width, _snap(x2) * width
    y1, y2 = _snap(y1) * height, _snap(y2) * height
    row = [x1, y1, x2 - x1, y2 - y1, *ABSENT_POINTS, ABSENT]
    for point, (x, y, is_labelled) in enumerate(_points(points) if points else []):
        row[4 + 3 * point : 7 + 3 * point] = [x * width, y * height, 0.0] if is_labelled else [-1.0, -1.0, 0.0]
    builder.add_face(row, line, given=19 if points else 4)


def _snap(fraction: float) -> float:
    """A corner that rounding to six digits has put beyond the border lies on it."""
    return min(max(fraction, 0.0), 1.0) if -ROUNDING < fraction < 1 + ROUNDING else fraction


def _find_size(root: Path, found: list[str], stem: str) -> tuple[str, tuple[int, int] | None]:
    """An image's name, and its size where it can be read; what is wrong otherwise, readers of the image tell."""
    if not found:
        return f"{stem}.jpg", None
    try:
        header = read_header(root / found[0])
    except (FileNotFoundError, ValueError):
        return found[0], None
    return found[0], (header.width, header.height)


def _add_unlabelled(
    folder: Path, images: ImageFolder, labelled: set[str], builder: RecordBuilder, *, complete: bool
) -> None:
    """Add the images without a label file as images without faces, and warn of them."""
    names = [name for name in images.images() if name not in labelled]
    if not names:
        return
    shown = ", ".join(names[:NAMES_SHOWN]) + (" ..." if len(names) > NAMES_SHOWN else "")
    meaning = "count as images without faces" if complete else "are left out"
    text = f"{len(names):,} images in {images.root} have no label file and {meaning}: {shown}"
    builder.complain(Fault(str(folder), NO_PLACE, "image without a label", text))
    for name in names if complete else []:
        missing = (folder / name).with_suffix(".txt")
        builder.add_image(name, source=str(missing), line=NO_PLACE, folder=str(images.root))
