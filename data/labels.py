"""Label files to FaceRecords. Needs NumPy only, so that analysing a large set starts at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from utils.arrays import BoolArray, FloatArray

POINTS = 5
# x y w h, then five (x y flag), then one last number; the shorter rows leave out what is at the end.
ROW_LENGTHS = (4, 5, 19, 20)
LARGEST = 1e9    # pixels; what float32 still holds apart by less than an image


@dataclass(frozen=True)
class FaceRecord:
    """One image of a label file, as labelled.

    path: the image's name in the file, relative to the image folder; source: the label file; line: of the header, from 1.
    boxes (N,4) float32 xyxy and landmarks (N,5,2) float32 in pixels, -1 where a point is not labelled; has_landmarks (N,5) bool;
    ignore (N,) bool; words: the numbers of each line as they stand in the file. N may be 0, and boxes may be without area.
    """

    path: str
    source: str
    line: int
    boxes: FloatArray
    landmarks: FloatArray
    has_landmarks: BoolArray
    ignore: BoolArray
    words: tuple[NDArray[np.float64], ...]

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def has_area(self) -> BoolArray:
        """Which boxes (N,) have a positive width and height."""
        return (self.boxes[:, 2] > self.boxes[:, 0]) & (self.boxes[:, 3] > self.boxes[:, 1])

    def as_rows(self) -> FloatArray:
        """Rows (N,15): x1 y1 x2 y2, the five points, and 1 where all five points are valid, else -1."""
        complete = np.where(self.has_landmarks.all(axis=1), 1, -1)
        return np.column_stack([self.boxes, self.landmarks.reshape(-1, 2 * POINTS), complete]).astype(np.float32)


def read_labels(path: str | Path) -> list[FaceRecord]:
    """The images of a RetinaFace label file, in its order.

    Each image is a header `# path` and a line for each face: `x y w h`, and maybe five `x y flag` of its points and a last number,
    so 4, 5, 19 or 20 numbers. A point is known where both of its coordinates are at least 0; the meaning of its flag is disputed and
    not used. Blank lines and Windows line ends are fine. FileNotFoundError, or ValueError that names the line.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such label file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a readable label file: {error}") from None
    records: list[FaceRecord] = []
    header: tuple[str, int] | None = None
    words: list[NDArray[np.float64]] = []
    for number, line in enumerate(text.split("\n"), start=1):
        line = line.strip()
        if line.startswith("#"):
            if header:
                records.append(_record(str(path), *header, words))
            header, words = (line[1:].strip(), number), []
            if not header[0]:
                raise ValueError(f"{path}:{number}: expected '# path of an image', found nothing behind '#'")
        elif line:
            if not header:
                raise ValueError(f"{path}:{number}: expected '# path of an image' before the first face, found {line[:40]!r}")
            words.append(_numbers(line, f"{path}:{number}"))
    if not header:
        raise ValueError(f"{path}: no images: expected '# path of an image' and a line for each of its faces, found an empty file")
    records.append(_record(str(path), *header, words))
    return records


def _numbers(line: str, place: str) -> NDArray[np.float64]:
    parts = line.split()
    if len(parts) not in ROW_LENGTHS:
        raise ValueError(f"{place}: expected 4, 5, 19 or 20 numbers, found {len(parts)}")
    try:
        numbers = np.array(parts, dtype=np.float64)
    except ValueError:
        raise ValueError(f"{place}: expected numbers, found {line[:40]!r}") from None
    if not (np.abs(numbers) < LARGEST).all():    # nor is NaN
        raise ValueError(f"{place}: expected numbers below {LARGEST:g}, found {line[:40]!r}")
    return numbers


def _record(source: str, path: str, line: int, words: list[NDArray[np.float64]]) -> FaceRecord:
    boxes = np.array([row[:4] for row in words]).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    landmarks = np.full((len(words), POINTS, 2), -1.0)
    for face, row in enumerate(words):
        if len(row) >= 19:
            landmarks[face] = row[4:19].reshape(POINTS, 3)[:, :2]
    has_landmarks = np.logical_and.reduce(landmarks >= 0, axis=2)
    return FaceRecord(
        path=path,
        source=source,
        line=line,
        boxes=boxes.astype(np.float32),
        landmarks=landmarks.astype(np.float32),
        has_landmarks=has_landmarks,
        ignore=np.zeros(len(words), dtype=bool),
        words=tuple(words),
    )


def image_folder(record: FaceRecord, images: str | Path | None) -> Path:
    """The folder of a record's image: `images`, or images/ beside the label file."""
    return Path(images) if images is not None else Path(record.source).parent / "images"


def image_path(record: FaceRecord, images: str | Path | None) -> Path:
    """Where the image of a record lies in its `image_folder`."""
    return image_folder(record, images) / record.path


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
        if len(parts) != 3 or not all(part.isdecimal() and int(part) for part in parts[1:]):
            raise ValueError(f"{path}:{number}: expected 'name width height', found {line[:40]!r}")
        sizes[parts[0]] = int(parts[1]), int(parts[2])
    return sizes
