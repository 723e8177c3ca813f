"""What is wrong with a labelled set, and a repaired copy. Needs NumPy and OpenCV only."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.image_files import is_outside
from data.labels import can_be_written
from data.records import BOX, NO_PLACE, POINT_NUMBERS, POINTS, FaceRecord, Fault, image_path
from utils.arrays import BoolArray
from utils.image_header import UPRIGHT, parse_header
from utils.images import decode_image, read_file

POINT_NAMES = ("left eye", "right eye", "nose", "left mouth corner", "right mouth corner")
LEFT_RIGHT = ((0, 1), (3, 4))    # pairs of points
ROUNDING = 1.0    # pixels that a point may lie outside its box: labels round boxes, and points on their edge, to whole pixels
SWAPPED = 0.1    # of the face's width: how far left of its partner a right point lies where the two have changed places
REPAIRS = 20    # rounds at most; a repair seldom uncovers another fault

# What is done about each kind of fault in a repaired copy.
LEFT_OUT, IMAGE_LEFT_OUT, POINTS_LEFT_OUT = "left out", "image left out", "points left out"
ACTIONS = {
    "box without area": LEFT_OUT,
    "malformed line": IMAGE_LEFT_OUT,
    "not a number": IMAGE_LEFT_OUT,
    "missing faces": IMAGE_LEFT_OUT,
    "ambiguous image name": IMAGE_LEFT_OUT,
    "unreadable mask": IMAGE_LEFT_OUT,
    "image without a label": "taken as the warning says",
    "unknown image": LEFT_OUT,
    "other points": POINTS_LEFT_OUT,
    "unknown point names": POINTS_LEFT_OUT,
    "duplicate box": LEFT_OUT,
    "box out of range": "clipped to the image",
    "point outside its box": "marked as not labelled",
    "left and right swapped": "swapped back",
    "image listed twice": "faces moved to the first place",
    "unfit image name": IMAGE_LEFT_OUT,
    "wrong number of points": POINTS_LEFT_OUT,
    "path outside the image folder": IMAGE_LEFT_OUT,
    "missing image": IMAGE_LEFT_OUT,
    "unreadable image": IMAGE_LEFT_OUT,
    "damaged image": IMAGE_LEFT_OUT,
    "image turned by EXIF": IMAGE_LEFT_OUT,
    "wrong image size": "size of the image taken",
    "wrong count": "faces taken as they are",
}


class Finding(NamedTuple):
    """A fault, the index of its image among the records, and that of its face in the image; -1 for a fault of the image.
    `loses_face`: there is a face, and nobody knows where."""

    fault: Fault
    image: int
    face: int = -1
    loses_face: bool = False

    @property
    def action(self) -> str:
        """What a repair does about it."""
        return IMAGE_LEFT_OUT if self.loses_face else ACTIONS[self.fault.reason]


class Inspection(NamedTuple):
    """What an image file is like: its (width, height) in pixels and its EXIF orientation, or what is wrong with it."""

    size: tuple[int, int] | None
    orientation: int
    fault: tuple[str, str] | None


def inspect_images(records: Sequence[FaceRecord]) -> Iterable[Inspection]:
    """Decode each record's image, on all cores, in their order."""
    with ThreadPoolExecutor() as pool:
        yield from pool.map(inspect_image, map(image_path, records))


def inspect_image(path: Path) -> Inspection:
    """What one image file is like; it is decoded whole, for only that shows damage."""
    try:
        encoded = read_file(path)
        header = parse_header(encoded.tobytes())
        problems: list[str] = []
        height, width = decode_image(encoded, path, turn=False, problems=problems).shape[:2]
    except FileNotFoundError as error:
        return Inspection(None, UPRIGHT, ("missing image", str(error)))
    except ValueError as error:
        return Inspection(None, UPRIGHT, ("unreadable image", str(error)))
    fault = ("damaged image", problems[0]) if problems else None
    return Inspection((width, height), header.orientation if header else UPRIGHT, fault)


def find_faults(
    records: Sequence[FaceRecord], *, inspections: Mapping[int, Inspection], sizes: Mapping[int, tuple[int, int]]
) -> list[Finding]:
    """All faults of some records, by file and line. `inspections` by index, of the images that were opened, and `sizes` of as many as
    are known otherwise."""
    sizes = {**sizes, **{index: seen.size for index, seen in inspections.items() if seen.size is not None}}
    findings = [*_image_faults(records, inspections), *_face_faults(records, sizes)]
    order = {source: number for number, source in enumerate(dict.fromkeys(record.source for record in records))}
    return sorted(findings, key=lambda finding: (order[finding.fault.source], finding.fault.line))


def _image_faults(records: Sequence[FaceRecord], inspections: Mapping[int, Inspection]) -> Iterable[Finding]:
    first: dict[tuple[Path, str], FaceRecord] = {}
    for index, record in enumerate(records):
        place = _place(record)
        name = place[1]
        if is_outside(name):
            yield _of_image(record, index, "path outside the image folder", f"{record.path[:80]!r} leads out of the image folder")
            continue
        if not can_be_written(record.path):
            yield _of_image(record, index, "unfit image name", f"{record.path[:80]!r} is a name that no line of a label can hold")
            continue
        if place in first:
            before = first[place]
            where = before.place
            if before.source == record.source and before.line != NO_PLACE:
                where = f"{record.units[0]} {before.line}"
            yield _of_image(record, index, "image listed twice", f"{record.path[:80]!r} is listed in {where} already")
        first.setdefault(place, record)
        if index in inspections:
            yield from _inspection_faults(record, index, inspections[index])


def _place(record: FaceRecord) -> tuple[Path, str]:
    """The image folder of a record, and the one spelling of its path in that."""
    return Path(record.folder), posixpath.normpath((record.file or record.path).replace("\\", "/"))


def _inspection_faults(record: FaceRecord, index: int, seen: Inspection) -> Iterable[Finding]:
    if seen.fault is not None:
        yield _of_image(record, index, *seen.fault)
    if seen.orientation != UPRIGHT and seen.size is not None:
        text = (
            f"{record.path[:80]!r} is turned by its EXIF orientation {seen.orientation}: boxes have to be for its raster as stored, "
            f"{seen.size[0]} x {seen.size[1]}; save it upright, without the tag"
        )
        yield _of_image(record, index, "image turned by EXIF", text)
    if None not in (seen.size, record.size) and seen.size != record.size:
        text = f"{record.path[:80]!r} is labelled as {_by(record.size)} pixels, the image has {_by(seen.size)}"
        yield _of_image(record, index, "wrong image size", text)


def _face_faults(records: Sequence[FaceRecord], sizes: Mapping[int, tuple[int, int]]) -> Iterable[Finding]:
    """Faults of boxes and points, of all records at once: a set has hundreds of thousands of them."""
    if not records:
        return
    counts = [len(record) for record in records]
    image = np.repeat(np.arange(len(records)), counts)    # (F,)
    face = np.concatenate([np.arange(count) for count in counts])
    boxes = np.concatenate([record.boxes for record in records]).astype(np.float64)    # (F, 4)
    rows = np.concatenate([record.rows for record in records])    # (F, 20)
    limits = np.full((len(records), 2), np.inf)
    for index, size in sizes.items():
        limits[index] = size
    limits = limits[image]    # (F, 2)

    def found(which: BoolArray, reason: str, text: str, *, loses_face: bool = False) -> Iterable[Finding]:
        """A finding for each face that `which` (F,) marks."""
        for at in np.flatnonzero(which):
            record = records[image[at]]
            numbers = " ".join(f"{number:g}" for number in rows[at, BOX])
            width, height = limits[at]
            sentence = text.format(box=numbers, size=f"{width:.0f} x {height:.0f}", points=_point_names(outside[at]))
            fault = Fault(record.source, int(record.lines[face[at]]), reason, sentence, record.units[1])
            yield Finding(fault, int(image[at]), int(face[at]), loses_face)

    outside = points_outside(np.concatenate([record.landmarks for record in records]), boxes) & np.concatenate(
        [record.has_landmarks for record in records]
    )    # (F, 5)
    with_area = np.concatenate([record.has_area for record in records])    # (F,)
    sized = np.isfinite(limits[:, 0])
    apart = ((boxes[:, 2:] <= 0).any(axis=1) | (boxes[:, :2] >= limits).any(axis=1)) & with_area
    beyond = ((boxes[:, :2] < 0).any(axis=1) | (boxes[:, 2:] > limits).any(axis=1)) & with_area & ~apart
    empty = (rows[:, BOX][:, 2:] == 0).all(axis=1)    # stands for no face, as in WIDER's 0 0 0 0
    yield from found(~with_area & empty, "box without area", "box {box} (x y w h) has no area")
    yield from found(~with_area & ~empty, "box without area", "box {box} (x y w h) has no area", loses_face=True)
    yield from found(apart & sized, "box out of range", "box {box} (x y w h) lies outside its image of {size} pixels", loses_face=True)
    yield from found(apart & ~sized, "box out of range", "box {box} (x y w h) ends before its image", loses_face=True)
    yield from found(beyond & sized, "box out of range", "box {box} (x y w h) leaves its image of {size} pixels")
    yield from found(beyond & ~sized, "box out of range", "box {box} (x y w h) starts before its image")
    points = np.concatenate([record.has_landmarks for record in records]).sum(axis=1)
    yield from found(duplicates(image, boxes, points), "duplicate box", "box {box} (x y w h) stands in this image twice")
    yield from found(outside.any(axis=1) & with_area, "point outside its box", "{points} outside of box {box} (x y w h)")
    swapped = np.concatenate([swapped_pairs(record).any(axis=1) for record in records])
    yield from found(swapped & with_area, "left and right swapped", "left and right points of box {box} (x y w h) are swapped")


def duplicates(image: NDArray[np.int64], boxes: NDArray[np.float64], points: NDArray[np.int64]) -> BoolArray:
    """Which of the boxes (F,4) stand in their image (F,) elsewhere, number by number, with more valid points (F,), or as many and
    earlier."""
    order = np.lexsort((-points, *boxes.T[::-1], image))    # stable, so the first stays first
    equal = (image[order][1:] == image[order][:-1]) & np.logical_and.reduce(boxes[order][1:] == boxes[order][:-1], axis=1)
    result = np.zeros(len(boxes), dtype=bool)
    result[order[1:][equal]] = True
    return result


def points_outside(landmarks: NDArray[np.floating], boxes: NDArray[np.floating]) -> BoolArray:
    """Which of the points (F,5,2) lie more than a pixel outside of their box (F,4) xyxy."""
    low, high = boxes[:, None, :2] - ROUNDING, boxes[:, None, 2:] + ROUNDING
    return np.logical_or.reduce((landmarks < low) | (landmarks > high), axis=2)


def swapped_pairs(record: FaceRecord) -> BoolArray:
    """Which faces have their eyes, and which the corners of their mouth (N,2), the wrong way round, left being left in the image.

    Nothing is said of a face upside down, nor of one whose points of a pair lie almost above one another, as in a profile, nor of one
    whose nose is not between eyes and mouth: its points may be in another order.
    """
    x, y = record.landmarks[:, :, 0], record.landmarks[:, :, 1]
    margin = SWAPPED * (record.boxes[:, 2] - record.boxes[:, 0])
    upright = y[:, :2].sum(axis=1) < y[:, 3:].sum(axis=1)
    nose, eyes, mouth = y[:, 2], y[:, :2].mean(axis=1), y[:, 3:].mean(axis=1)
    upright &= ~record.has_landmarks[:, 2] | ((nose > eyes) & (nose < mouth))
    known = record.has_landmarks[:, [0, 1, 3, 4]].all(axis=1)
    pairs = [(x[:, left] - x[:, right] > margin) & upright & known for left, right in LEFT_RIGHT]
    return np.stack(pairs, axis=1)


def find_incomplete(records: Sequence[FaceRecord]) -> set[int]:
    """Return the indices of the images with a face that could not be read, wherever they are listed.

    A label without that face would teach that it is background.
    """
    incomplete = {_place(record) for record in records if record.incomplete}
    return {index for index, record in enumerate(records) if _place(record) in incomplete}


def describe_incomplete(records: Sequence[FaceRecord], faults: Sequence[Fault]) -> list[str]:
    """Return a line on each image that `find_incomplete` names and none of the `faults` does."""
    reported = {(fault.source, fault.image) for fault in faults}
    with_fault = {fault.source for fault in faults}
    lines = []
    for index in sorted(find_incomplete(records)):
        record = records[index]
        if not record.incomplete:
            lines.append(f"{record.place}: a face of {record.path[:80]!r} that is listed elsewhere cannot be read")
        elif (record.source, record.path) not in reported:
            lost = f"a face of {record.path[:80]!r} cannot be read"
            if record.size is None and record.source not in with_fault:
                lost = f"the size of {record.path[:80]} is not known, and so are its faces"
            lines.append(f"{record.place}: {lost}")
    return lines


def repair(
    records: Sequence[FaceRecord], *, inspections: Mapping[int, Inspection], sizes: Mapping[int, tuple[int, int]]
) -> tuple[list[FaceRecord], list[str]]:
    """Records in which nothing is found wrong any more, and a line on each change. The records given stay as they are.

    Images with a face that could not be read are left out, see `find_incomplete`.
    """
    incomplete = find_incomplete(records)
    kept = [index for index in range(len(records)) if index not in incomplete]    # where each stood at first
    fixed = [records[index] for index in kept]
    changes: list[str] = []
    for _ in range(REPAIRS):
        seen = {new: inspections[old] for new, old in enumerate(kept) if old in inspections}
        known = {new: sizes[old] for new, old in enumerate(kept) if old in sizes}
        findings = find_faults(fixed, inspections=seen, sizes=known)
        if not findings:
            break
        left_out = {finding.image for finding in findings if finding.action == IMAGE_LEFT_OUT}
        for finding in findings:
            if finding.image not in left_out or finding.action == IMAGE_LEFT_OUT:
                changes.append(f"{finding.fault}; {finding.action}")
        known.update({index: each.size for index, each in seen.items() if each.size is not None})
        gone = _repair_images(fixed, findings, known)
        kept = [old for new, old in enumerate(kept) if new not in gone]
        fixed = [record for new, record in enumerate(fixed) if new not in gone]
    return fixed, changes


def _repair_images(
    records: list[FaceRecord], findings: Sequence[Finding], sizes: Mapping[int, tuple[int, int]]
) -> set[int]:
    """Mend records in place of the list, once; the indices of those to be left out."""
    of_image: dict[int, list[Finding]] = {}
    for finding in findings:
        of_image.setdefault(finding.image, []).append(finding)
    for index, its_findings in of_image.items():
        records[index] = _repair_faces(records[index], its_findings, sizes.get(index))
    gone = {index for index, its_findings in of_image.items() if any(each.action == IMAGE_LEFT_OUT for each in its_findings)}
    first: dict[tuple[Path, str], int] = {}
    for index, record in enumerate(records):
        if index in gone:
            continue
        before = first.setdefault(_place(record), index)
        if before != index:
            gone.add(index)
            records[before] = records[before].with_faces(
                np.concatenate([records[before].rows, record.rows]),
                np.concatenate([records[before].lines, record.lines]),
                np.concatenate([records[before].ignore, record.ignore]),
            )
    return gone


def _repair_faces(record: FaceRecord, findings: Sequence[Finding], size: tuple[int, int] | None) -> FaceRecord:
    rows = record.rows.copy()
    keep = np.ones(len(rows), dtype=bool)
    swapped = swapped_pairs(record)
    outside = points_outside(record.landmarks, record.boxes) & record.has_landmarks
    for finding in findings:
        action, face = finding.action, finding.face
        if action == LEFT_OUT:
            keep[face] = False
        elif finding.fault.reason == "box out of range":
            limit = np.inf if size is None else size
            low, high = (np.clip(corner, 0, limit) for corner in (rows[face, :2], rows[face, :2] + rows[face, 2:4]))
            rows[face, BOX] = *low, *(high - low)
        elif finding.fault.reason == "point outside its box":
            rows[face, POINT_NUMBERS].reshape(POINTS, 3)[outside[face]] = -1
        elif finding.fault.reason == "left and right swapped":
            points = rows[face, POINT_NUMBERS].reshape(POINTS, 3)
            for pair, (left, right) in enumerate(LEFT_RIGHT):
                if swapped[face, pair]:
                    points[[left, right]] = points[[right, left]]
        elif finding.fault.reason == "wrong image size":
            record = replace(record, size=size)
    return record.with_faces(rows[keep], record.lines[keep], record.ignore[keep])


def _of_image(record: FaceRecord, index: int, reason: str, text: str) -> Finding:
    return Finding(Fault(record.source, record.line, reason, text, record.units[0]), index)


def _point_names(which: BoolArray) -> str:
    return ", ".join(name for name, is_outside in zip(POINT_NAMES, which, strict=True) if is_outside)


def _by(size: tuple[int, int] | None) -> str:
    return f"{size[0]} x {size[1]}" if size else "unknown"
