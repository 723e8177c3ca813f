"""YOLO-face: a folder with a text file for each image, whose numbers are fractions of the image's width and height."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from data.classes import pick_classes
from data.records import ABSENT_POINTS, POINTS, Fault, RecordBuilder
from data.text_labels import read_text
from utils.files import files_below
from utils.image_header import read_header
from utils.images import IMAGE_SUFFIXES

# class cx cy w h, and maybe five (x y), or five (x y visible)
LENGTHS = (5, 15, 20)
ABSENT = float("nan")
ROUNDING = 1e-5    # of an image's side
Row = tuple[int, list[str]]    # the line and its words


def read_yolo(
    folder: Path,
    files: Sequence[Path],
    images: Path,
    builder: RecordBuilder,
    *,
    classes: Sequence[str],
    sizes: Mapping[str, tuple[int, int]],
) -> None:
    """The faces of each file, in pixels of the image of the same name in `images`, or of the size that `sizes` gives for that.

    A line is `class cx cy w h`, and maybe `x y` of five points, or `x y visible`. A negative coordinate, or a point that is not
    visible, is not labelled. The classes are their numbers. An empty file is an image without faces; one of an image that is missing
    or unreadable too, for its faces have no pixels. ValueError where no image has a size.
    """
    rows = {file: _rows(file, builder) for file in files}
    faces = pick_classes(str(folder), {words[0] for of_file in rows.values() for _, words in of_file}, classes)
    known = {str(Path(name).with_suffix("")): (name, size) for name, size in sizes.items()}
    present = {str(path.relative_to(images).with_suffix("")): path for path in files_below(images, IMAGE_SUFFIXES)}
    stems = {file: str(file.relative_to(folder).with_suffix("")) for file in files}
    if not any(stem in known or stem in present for stem in stems.values()):
        raise ValueError(f"{folder}: none of its images is in {images}, and fractions need an image's size to become pixels")
    for file, of_file in rows.items():
        stem = stems[file]
        name, size = known[stem] if stem in known else _name_and_size(stem, present, images)
        builder.add_image(name, folder=str(images), source=str(file), line=1, size=size)
        for line, words in of_file:
            if words[0] in faces and size is not None:
                _add_face(file, line, words, size, builder)


def _rows(file: Path, builder: RecordBuilder) -> list[Row]:
    rows = []
    for line, words in enumerate(map(str.split, read_text(file).split("\n")), start=1):
        if words and len(words) not in LENGTHS:
            builder.complain(Fault(str(file), line, "malformed line", f"expected 5, 15 or 20 numbers, found {len(words)}"))
        elif words and not (words[0].isascii() and words[0].isdecimal()):
            builder.complain(Fault(str(file), line, "malformed line", f"expected the number of a class, found {words[0][:40]!r}"))
        elif words:
            rows.append((line, words))
    return rows


def _add_face(file: Path, line: int, words: list[str], size: tuple[int, int], builder: RecordBuilder) -> None:
    try:
        cx, cy, w, h, *points = map(float, words[1:])
    except ValueError:
        text = f"expected numbers, found {' '.join(words)[:40]!r}"
        builder.complain(Fault(str(file), line, "malformed line", text))
        return
    width, height = size
    x1, x2 = (_snap(corner) * width for corner in (cx - w / 2, cx + w / 2))
    y1, y2 = (_snap(corner) * height for corner in (cy - h / 2, cy + h / 2))
    row = [x1, y1, x2 - x1, y2 - y1, *ABSENT_POINTS, ABSENT]
    if points:
        step = len(points) // POINTS
        for point in range(POINTS):
            x, y, *visible = points[step * point : step * point + step]
            is_known = x >= 0 and y >= 0 and visible != [0]
            is_number = x == x and y == y
            row[4 + 3 * point : 7 + 3 * point] = [x * width, y * height, 0.0] if is_known or not is_number else [-1.0, -1.0, 0.0]
    builder.add_face(row, line, given=19 if points else 4)


def _snap(fraction: float) -> float:
    """A corner that rounding to six digits has put beyond the border lies on it."""
    return min(max(fraction, 0.0), 1.0) if -ROUNDING < fraction < 1 + ROUNDING else fraction


def _name_and_size(stem: str, present: Mapping[str, Path], images: Path) -> tuple[str, tuple[int, int] | None]:
    """An image's name in its folder, and its size where it can be read; what is wrong with it otherwise, its users will see."""
    if stem not in present:
        return f"{Path(stem).as_posix()}.jpg", None
    name = present[stem].relative_to(images).as_posix()
    try:
        header = read_header(present[stem])
    except (FileNotFoundError, ValueError):
        return name, None
    return name, (header.width, header.height)
