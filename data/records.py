"""What a label file says of an image, whatever its format. Needs NumPy only, so that analysing a large set starts at once."""

from __future__ import annotations

import warnings
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.image_files import ImageFolder, find_image_folder
from utils.arrays import BoolArray, FloatArray

POINTS = 5
# A face as a RetinaFace label has it: x y w h, five times x y flag, and a last number. NaN: the file does not say.
ROW = 20
BOX, POINT_NUMBERS, LAST = slice(0, 4), slice(4, 19), 19
UNKNOWN_POINTS = [-1.0] * 15
ABSENT_POINTS = [float("nan")] * 15
LARGEST = 1e9    # pixels; what float32 still holds apart by less than an image
HEAVY_BLUR = 2    # of 0 clear, 1 normal, 2 heavy, as WIDER FACE counts it


NO_PLACE = -1    # instead of a line or an id


class Fault(NamedTuple):
    """Something wrong with a labelled set: the file and the place in it, the kind of problem, and a
    sentence on this one. The place is a line or, with another `unit`, such as "annotation" in
    COCO's files, the id of that; NO_PLACE stands for the file as a whole. `image` is the name of the
    image that has lost a face by it, where that is known."""

    source: str
    line: int
    reason: str
    text: str
    unit: str = "line"
    image: str = ""

    def __str__(self) -> str:
        return f"{format_place(self.source, self.line, self.unit)}: {self.text}"


def format_place(source: str, number: int, unit: str = "line") -> str:
    """The place in a file as text: `label.txt:12`, or `coco.json: annotation 7`."""
    if number == NO_PLACE:
        return source
    return f"{source}:{number}" if unit == "line" else f"{source}: {unit} {number}"


# Problems that no reader stops at: they are a warning where others are an error.
WARNINGS = {"image without a label", "image listed twice", "other points"}
NAMES_SHOWN = 3    # of a list of images


# What a reader does about a fault: raise, or note it and go on without that line.
Complain = Callable[[Fault], None]


def raise_fault(fault: Fault) -> None:
    """ValueError that names the place; a warning for the kinds in WARNINGS."""
    if fault.reason not in WARNINGS:
        raise ValueError(str(fault))
    warnings.warn(str(fault), stacklevel=2)


@dataclass(frozen=True, eq=False)
class FaceRecord:
    """One image of a label file, as labelled.

    path: the image's name as the label has it; folder and file: the image folder and the file in it; source and line: the label
    file and the line of the image in it, from 1, and the lines of its faces; in COCO files the units of both are not lines but
    ids, see `Fault`; size: (width, height) in pixels where the file says it. incomplete: a face of the image could not be read.

    boxes (N,4) float32 xyxy and landmarks (N,5,2) float32 in pixels, -1 where a point is not labelled; has_landmarks (N,5) bool;
    ignore (N,) bool, faces to be neither learnt nor denied; rows (N,20) float64, each face as a RetinaFace label has it, NaN for what
    the file does not say; lines (N,) of each face in the file. N may be 0, and boxes may be without area. regions: the picture that
    says which face a pixel shows, where there is one.
    """

    path: str
    folder: str
    source: str
    line: int
    size: tuple[int, int] | None
    boxes: FloatArray
    landmarks: FloatArray
    has_landmarks: BoolArray
    ignore: BoolArray
    rows: NDArray[np.float64]
    lines: NDArray[np.int64]
    regions: str | None = None
    file: str = ""
    incomplete: bool = False
    units: tuple[str, str] = ("line", "line")

    @property
    def place(self) -> str:
        """The image's place in the label file, as text."""
        return format_place(self.source, self.line, self.units[0])

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def has_area(self) -> BoolArray:
        """Which boxes (N,) have a positive width and height."""
        return has_area(self.boxes)

    @property
    def words(self) -> list[list[float]]:
        """The numbers of each face as a line of a RetinaFace label has them: 4, 5, 19 or 20."""
        return [row[~np.isnan(row)].tolist() for row in self.rows]

    def with_faces(self, rows: NDArray[np.float64], lines: NDArray[np.int64], ignore: BoolArray) -> FaceRecord:
        """The same image with other faces: rows (N,20), lines (N,) and ignore (N,)."""
        boxes, landmarks, has_landmarks = from_rows(rows)
        return replace(self, boxes=boxes, landmarks=landmarks, has_landmarks=has_landmarks, ignore=ignore, rows=rows, lines=lines)

    def as_rows(self) -> FloatArray:
        """Rows (N,15): x1 y1 x2 y2, the five points, and 1 where all five points are valid, else -1."""
        return face_rows(self.boxes, self.landmarks, self.has_landmarks)


def from_rows(rows: NDArray[np.float64]) -> tuple[FloatArray, FloatArray, BoolArray]:
    """Boxes (N,4) xyxy, landmarks (N,5,2) and has_landmarks (N,5) of faces (N,20) as a RetinaFace label has them."""
    boxes = rows[:, BOX].copy()
    boxes[:, 2:] += boxes[:, :2]
    points = rows[:, POINT_NUMBERS].reshape(-1, POINTS, 3)[:, :, :2]
    landmarks = np.where(np.isnan(points), -1, points).astype(np.float32)
    return boxes.astype(np.float32), landmarks, np.logical_and.reduce(landmarks >= 0, axis=2)


def has_area(boxes: FloatArray) -> BoolArray:
    """Which boxes (N,4) xyxy have a positive width and height."""
    return (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])


def face_rows(boxes: FloatArray, landmarks: FloatArray, has_landmarks: BoolArray) -> FloatArray:
    """Rows (N,15): boxes (N,4) xyxy, landmarks (N,5,2), and 1 where all five points are valid, else -1."""
    complete = np.where(has_landmarks.all(axis=1), 1, -1)
    return np.column_stack([boxes, landmarks.reshape(-1, 2 * POINTS), complete]).astype(np.float32)


def face_sizes(boxes: FloatArray) -> NDArray[np.float64]:
    """The size (N,) of boxes (N,4) xyxy in pixels: the side of a square of their area; 0 for those without area."""
    width, height = np.maximum(boxes[:, 2:].astype(np.float64) - boxes[:, :2], 0).T
    return np.asarray(np.sqrt(width * height), dtype=np.float64)


@dataclass
class _Image:
    """An image while its label file is read."""

    path: str
    source: str
    line: int
    size: tuple[int, int] | None
    regions: str | None
    folder: str | None
    other_name: str
    incomplete: bool
    units: tuple[str, str]
    file: str = ""


class RecordBuilder:
    """Collects images and their faces while a file is read, in arrays that hold the whole file; `records` are views of them."""

    def __init__(self, complain: Complain):
        self.complain = complain
        self.folder: ImageFolder | None = None    # where `locate` found the images
        self.files: set[str] = set()    # and which files they are
        self._images: list[_Image] = []
        self._first_face = array("q")
        self._numbers = array("d")
        self._given = array("B")    # how many numbers each row has; the rest is NaN
        self._lines = array("q")
        self._flags = array("B")    # 1: a crowd, 2: invalid, 4: heavily blurred

    def add_image(
        self,
        path: str,
        *,
        source: str,
        line: int,
        size: tuple[int, int] | None = None,
        regions: str | None = None,
        folder: str | None = None,
        other_name: str = "",
        incomplete: bool = False,
        units: tuple[str, str] = ("line", "line"),
    ) -> None:
        """Start an image; the faces added from now on are its own.

        `folder` is given where the reader has found the image file itself; `other_name` is a stem
        that the file may have instead of `path`; `incomplete` says that a face could not be read.
        """
        image = _Image(path, source, line, size, regions, folder, other_name, incomplete, units)
        self._images.append(image)
        self._first_face.append(len(self._lines))

    def lose_face(self, fault: Fault) -> None:
        """Complain of a face of the image at hand that cannot be read; the image is incomplete."""
        if not self._images:
            self.complain(fault)
            return
        self._images[-1].incomplete = True
        self.complain(fault._replace(image=self._images[-1].path))

    def warn_unlabelled(
        self, folder: Path, names: Sequence[str], root: Path, *, lacking: str, used: bool
    ) -> None:
        """Warn of the images in `root` that have no label in `folder`, if there are any.

        `used` says whether they count as images without faces.
        """
        if not names:
            return
        is_one = len(names) == 1
        count = f"1 image in {root} has" if is_one else f"{len(names):,} images in {root} have"
        if used:
            meaning = "counts as an image without faces" if is_one else "count as images without faces"
        else:
            meaning = "is left out" if is_one else "are left out"
        shown = ", ".join(names[:NAMES_SHOWN]) + (" ..." if len(names) > NAMES_SHOWN else "")
        text = f"{count} no {lacking} and {meaning}: {shown}"
        self.complain(Fault(str(folder), NO_PLACE, "image without a label", text))

    def locate(self, label: Path, images: str | None) -> None:
        """Find the image files: in `images`, or where the label file's layout has them.

        A name that several files fit is complained of.
        """
        wanted = [image for image in self._images if image.folder is None]
        names, others = [image.path for image in wanted], [image.other_name for image in wanted]
        folder = ImageFolder(images) if images is not None else find_image_folder(label, names, others=others)
        self.folder = folder
        files = folder.find_all(names, others=others)
        for image, found in zip(wanted, files, strict=True):
            image.folder = str(folder.root)
            image.file = found[0] if len(found) == 1 else ""
            self.files.update(found)
            if len(found) > 1:
                text = f"{image.path[:80]!r} may be {' or '.join(found[:3])} in {folder.root}"
                fault = Fault(image.source, image.line, "ambiguous image name", text, image.units[0])
                self.complain(fault._replace(image=image.path))
                image.incomplete = True

    def add_face(
        self, row: Sequence[float], line: int, *, given: int = ROW, crowd: bool = False, invalid: bool = False, blurred: bool = False
    ) -> None:
        """Add a face of the image at hand; `row` are ROW numbers, of which the file gave `given`."""
        self._numbers.extend(row)
        self._given.append(given)
        self._lines.append(line)
        self._flags.append(crowd + 2 * invalid + 4 * blurred)

    def __bool__(self) -> bool:
        return bool(self._images)

    def records(self, *, ignore_invalid: bool, ignore_blurred: bool, ignore_smaller: float) -> list[FaceRecord]:
        """The images in their order. A face with a number that is none, or is out of all bounds, is complained of and left out."""
        rows = np.frombuffer(self._numbers, dtype=np.float64).reshape(-1, ROW) if len(self._numbers) else np.empty((0, ROW))
        lines = np.array(self._lines, dtype=np.int64)
        flags = np.array(self._flags, dtype=np.uint8)
        first = np.append(np.array(self._first_face, dtype=np.int64), len(lines))
        bad = self._complain_of_numbers(rows, lines, first)
        if bad.any():
            rows, lines, flags = rows[~bad], lines[~bad], flags[~bad]
            first = first - np.append(0, np.cumsum(bad))[first]
        boxes, landmarks, has_landmarks = from_rows(rows)
        ignore = (flags & (1 + 2 * ignore_invalid + 4 * ignore_blurred)).astype(bool)
        if ignore_smaller:
            ignore |= face_sizes(boxes) < ignore_smaller
        records = []
        for image, start, end in zip(self._images, first[:-1], first[1:], strict=True):
            part = slice(int(start), int(end))
            faces = boxes[part], landmarks[part], has_landmarks[part], ignore[part], rows[part], lines[part]
            records.append(
                FaceRecord(
                    image.path, image.folder or "", image.source, image.line, image.size, *faces,
                    image.regions, image.file or image.path, image.incomplete, image.units,
                )
            )    # fmt: skip
        return records

    def _complain_of_numbers(self, rows: NDArray[np.float64], lines: NDArray[np.int64], first: NDArray[np.int64]) -> BoolArray:
        """Which rows (N,) have a number that is none, or too large to be one of pixels."""
        given = np.array(self._given, dtype=np.uint8)
        # Of a row of 5 numbers the fifth stands last, where that of 20 does.
        expected = np.arange(ROW) < np.where(given == 5, 4, given)[:, None]
        expected[:, LAST] |= given == 5
        wrong = (expected & ~(np.abs(rows) < LARGEST)) | (~expected & ~np.isnan(rows))
        bad = wrong.any(axis=1)
        for face in np.flatnonzero(bad):
            image = self._images[int(np.searchsorted(first, face, side="right")) - 1]
            image.incomplete = True
            found = " ".join(f"{value:g}" for value in rows[face][expected[face]])
            text = f"expected numbers below {LARGEST:g}, found {found[:40]!r}"
            fault = Fault(image.source, int(lines[face]), "not a number", text, image.units[1])
            self.complain(fault._replace(image=image.path))
        return np.asarray(bad)


def image_path(record: FaceRecord) -> Path:
    """The image file of a record."""
    return Path(record.folder) / (record.file or record.path)


def find_repeated(records: Sequence[FaceRecord]) -> list[FaceRecord]:
    """Return the records of images that an earlier record lists with other faces."""
    first: dict[Path, FaceRecord] = {}
    return [
        record
        for record in records
        if not np.array_equal(first.setdefault(image_path(record), record).boxes, record.boxes)
    ]
