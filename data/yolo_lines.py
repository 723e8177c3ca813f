"""The lines of YOLO's label files: a box, a box with points, or the corners of a polygon."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from data.records import ABSENT_POINTS, POINTS
from data.text_labels import to_numbers

BOX = 5    # class cx cy w h
FACES = (BOX, BOX + 2 * POINTS, BOX + 3 * POINTS)    # and five (x y), or five (x y visible)
PREDICTIONS = tuple(count + 1 for count in FACES)    # and the score that a detector has given
ABSENT = float("nan")
ROUNDING = 1e-5    # of an image's side
LARGEST_FRACTION = 2.0    # a larger number is no fraction of an image, but pixels
BEYOND_BOX = 0.1    # of the box's sides that a point may lie outside before it does not fit
FEW_LINES = 5    # say nothing of what the lines of a set are
Point = tuple[float, float, bool]    # x, y, and whether it is labelled


class LineForm(NamedTuple):
    """What the lines of a set mean, where their number of numbers leaves a choice.

    polygons: odd numbers of numbers, 15 too, are a class and the corners of a polygon. pose: how
    many numbers a line with a box and other than five points has, of which only the box is read.
    heptagons: lines of 15 numbers look like seven corners, although no other line is a polygon.
    scored: lines of 21 numbers look like a box, five points and a score.
    """

    polygons: bool = False
    pose: int = 0
    heptagons: bool = False
    scored: bool = False

    def is_polygon(self, count: int) -> bool:
        """Return True if a line of so many numbers holds the corners of a polygon."""
        return self.polygons and is_odd(count) and count != self.pose


class Problem(NamedTuple):
    """What is wrong with a line: a kind that all lines of a set may share, and a sentence."""

    kind: str
    text: str


class Face(NamedTuple):
    """A face in fractions of its image: its corners, and its five points or none."""

    corners: tuple[float, float, float, float]
    points: list[Point]


def find_form(
    counts: Counter[int], sample: Sequence[list[str]], point_shape: tuple[int, int] | None
) -> LineForm:
    """Tell what the lines of a set mean.

    `counts` says how many lines have how many numbers; `sample` are the words of some of them;
    `point_shape` is how many points a box has and how many numbers each, where the set says that.
    """
    others = [count for count in counts if is_odd(count) and count not in FACES]
    if point_shape is not None:
        pose = BOX + math.prod(point_shape)
        return LineForm(pose=pose, polygons=any(count != pose for count in others))
    if not others:
        return LineForm(heptagons=_are_heptagons(_of_length(sample, FACES[1])))
    # All faces of a set have as many points, while polygons have as many corners as they need.
    if len(others) == 1:
        (count,) = others
        rows = _of_length(sample, count)
        has_flags = all(flag in (0, 1, 2) for row in rows for flag in row[6::3])
        if _are_points(rows, size=2) or (has_flags and _are_points(rows, size=3)):
            return LineForm(pose=count)
        if count == PREDICTIONS[2] and _are_points([row[:-1] for row in rows], size=3):
            return LineForm(scored=True)
    return LineForm(polygons=True)


def is_odd(count: int) -> bool:
    """Return True for the number of numbers of a class and the corners of a polygon."""
    return count > BOX and count % 2 == 1


def _of_length(sample: Sequence[list[str]], count: int) -> list[list[float]]:
    rows = []
    for words in sample:
        if len(words) == count:
            numbers = to_numbers(words[1:])
            if numbers is not None:
                rows.append(numbers)
    return rows


def _are_points(rows: Sequence[list[float]], *, size: int) -> bool:
    """Return True if most rows fit `cx cy w h` and points of `size` numbers, the centre amid them.

    The first corner of a polygon seldom lies amid the third to the last.
    """
    fitting = 0
    for row in rows:
        if len(row[4:]) % size:
            return False
        points = [(x, y) for x, y, is_labelled in split_points(row[4:], size) if is_labelled]
        fitting += (
            len(points) > 2 and _is_amid(row[0], row[1], points) and not _do_not_fit(row, points)
        )
    return fitting > len(rows) / 2


def _are_heptagons(rows: Sequence[list[float]]) -> bool:
    """Return True if rows of `cx cy w h` and five points look like seven corners, all in one place.

    The box of a face lies amid its points, and what is its width and height anywhere.
    """
    alike = 0
    for row in rows:
        points = [(row[at], row[at + 1]) for at in range(4, len(row), 2)]
        sides = [(min(each), max(each)) for each in zip(*points, (row[0], row[1]), strict=True)]
        is_near = all(
            2 * low - high <= value <= 2 * high - low
            for (low, high), value in zip(sides, row[2:4], strict=True)
        )
        alike += is_near and not _is_amid(row[0], row[1], points)
    return len(rows) >= FEW_LINES and alike > len(rows) / 2


def _is_amid(x: float, y: float, points: Sequence[tuple[float, float]]) -> bool:
    """Return True if x y lies within the hull of points: they lie around it on all sides."""
    angles = sorted(math.atan2(each_y - y, each_x - x) for each_x, each_y in points)
    gaps = [after - before for before, after in pairwise(angles)]
    return max([*gaps, angles[0] + 2 * math.pi - angles[-1]]) <= math.pi


def is_class(word: str) -> bool:
    """Return True for the number of a class, which some tools write as 0.0."""
    whole, _, zeros = word.partition(".")
    return word.isascii() and whole.isdecimal() and not zeros.strip("0")


def class_number(word: str) -> str:
    """The number of a class without zeros that mean nothing: 0 for 0.000."""
    return (word.partition(".")[0].lstrip("0") or "0") if is_class(word) else word


def parse_line(words: list[str], form: LineForm) -> Face | Problem:
    """Return the face that a line holds, or what is wrong with the line."""
    if not is_class(words[0]):
        return Problem("class", f"expected the number of a class, found {words[0][:40]!r}")
    count = len(words)
    is_polygon = form.is_polygon(count)
    if count not in (*FACES, form.pose) and not is_polygon:
        text = f"expected 5, 15 or 20 numbers, or the corners of a polygon, found {count}"
        if count in PREDICTIONS[:2] or form.scored:
            last = "sixth" if count == BOX + 1 else "last"
            text += f"; the {last} may be the score of a prediction, which is no label"
        return Problem(f"{count} numbers", text)
    numbers = to_numbers(words[1:])
    if numbers is None:
        return Problem("no number", f"expected numbers, found {' '.join(words)[:40]!r}")
    if count == form.pose and count not in FACES:
        numbers = numbers[:4]
    largest = max(map(abs, numbers))
    if LARGEST_FRACTION < largest < math.inf:
        expected = "expected fractions of the image's width and height"
        text = f"{expected}, found {largest:g}, which may be pixels"
        return Problem("pixels", text)
    if is_polygon:
        x, y = numbers[::2], numbers[1::2]
        return Face((min(x), min(y), max(x), max(y)), [])
    points = split_points(numbers[4:], (len(numbers) - 4) // POINTS)
    if points and _do_not_fit(numbers, [(x, y) for x, y, is_labelled in points if is_labelled]):
        text = "most of its points lie outside its box; is it another label, such as a polygon?"
        return Problem("points", text)
    if form.heptagons and count == FACES[1]:
        text = "its 15 numbers look like the seven corners of a polygon, not a box and five points"
        return Problem("heptagon", text)
    cx, cy, w, h = numbers[:4]
    return Face((cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2), points)


def _do_not_fit(numbers: list[float], points: Sequence[tuple[float, float]]) -> bool:
    """Return True if most of the labelled points of a face lie outside its box."""
    cx, cy, w, h = numbers[:4]
    reach_x, reach_y = w * (0.5 + BEYOND_BOX), h * (0.5 + BEYOND_BOX)
    outside = sum(abs(x - cx) > reach_x or abs(y - cy) > reach_y for x, y in points)
    return outside > len(points) / 2


def split_points(numbers: Sequence[float], size: int) -> list[Point]:
    """Split numbers into points of `size` numbers each.

    A negative coordinate, the point 0 0 and one that is not visible are not labelled.
    """
    points = []
    for start in range(0, len(numbers), size or 1):
        x, y, *visible = numbers[start : start + size]
        is_number = x == x and y == y    # NaN is complained of later
        is_labelled = not is_number or (x >= 0 and y >= 0 and visible != [0] and (x, y) != (0, 0))
        points.append((x, y, is_labelled))
    return points


def to_row(face: Face, size: tuple[int, int]) -> list[float]:
    """Return a face as a RetinaFace label has it, in pixels of an image of `size`."""
    width, height = size
    x1, y1, x2, y2 = map(_snap, face.corners)
    x1, y1, x2, y2 = x1 * width, y1 * height, x2 * width, y2 * height
    row = [x1, y1, x2 - x1, y2 - y1, *ABSENT_POINTS, ABSENT]
    for number, (x, y, is_labelled) in enumerate(face.points):
        point = [x * width, y * height, 0.0] if is_labelled else [-1.0, -1.0, 0.0]
        row[4 + 3 * number : 7 + 3 * number] = point
    return row


def _snap(fraction: float) -> float:
    """A corner that rounding to six digits has put beyond the border lies on it."""
    is_near = -ROUNDING < fraction < 1 + ROUNDING
    return min(max(fraction, 0.0), 1.0) if is_near else fraction
