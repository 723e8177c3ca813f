"""COCO JSON: images, annotations with `bbox` and maybe five `keypoints`, categories."""

from __future__ import annotations

import json
import math
import re
import reprlib
from bisect import bisect_left
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from data.classes import pick_classes
from data.records import ABSENT_POINTS, LARGEST, POINTS, Fault, RecordBuilder

DECODER = json.JSONDecoder()
BLANK = re.compile(r"[ \t\r\n]*")
SECTIONS = ("images", "annotations", "categories")
ABSENT = float("nan")


class Item(NamedTuple):
    """An element of a list in the file, and the line that it starts in."""

    line: int
    value: dict[str, Any]


def read_coco(path: str, text: str, builder: RecordBuilder, *, classes: Sequence[str]) -> None:
    """The annotations of those categories that are faces, on each of the images in the file's order.

    A face is an annotation with `bbox` [x, y, width, height]; with `iscrowd` it is ignored. `keypoints` are five times x, y, v: left
    eye, right eye, nose, left and right mouth corner, not labelled where v is 0.
    """
    sections = _sections(path, text)
    categories = {_key(item.value.get("id")): _key(item.value.get("name")) for item in sections["categories"]}
    only = next(iter(categories)) if len(categories) == 1 else None    # what an annotation without a category is of
    used = {categories.get(_key(item.value.get("category_id", only)), "") for item in sections["annotations"]}
    faces = pick_classes(path, used, classes, listed=categories.values())
    images: dict[str, Item] = {}
    for item in sections["images"]:
        key, name = _key(item.value.get("id")), item.value.get("file_name")
        if not key or not isinstance(name, str) or not name or "\0" in name:
            fault = f"expected an image with 'id' and 'file_name', found {_short(item.value)}"
            builder.complain(Fault(path, item.line, "malformed line", fault))
        elif key in images:
            builder.complain(Fault(path, item.line, "malformed line", f"image id {key} is given twice, here to {name[:80]!r}"))
        else:
            images[key] = item
    annotations: dict[str, list[Item]] = {key: [] for key in images}
    for item in sections["annotations"]:
        key, category = _key(item.value.get("image_id")), item.value.get("category_id", only)
        place = f"annotation {_short(item.value.get('id'))}"
        if key not in annotations:
            fault = f"{place} is of image {_short(item.value.get('image_id'))}, which the file does not list"
            builder.complain(Fault(path, item.line, "malformed line", fault))
        elif categories and _key(category) not in categories:
            fault = f"{place} is of category {_short(category)}, which the file does not list"
            builder.complain(Fault(path, item.line, "malformed line", fault))
        elif categories.get(_key(category), "") in faces:
            annotations[key].append(item)
    folder = str(Path(path).parent / "images")
    for key, item in images.items():
        builder.add_image(item.value["file_name"], folder=folder, source=path, line=item.line, size=_size(item.value))
        for annotation in annotations[key]:
            _add_face(path, annotation, builder)


def _add_face(path: str, item: Item, builder: RecordBuilder) -> None:
    box, points, name = item.value.get("bbox"), item.value.get("keypoints"), _short(item.value.get("id"))
    if box is None or not _is_numbers(box, 4):
        text = f"annotation {name}: expected a 'bbox' of 4 numbers, found {_short(box)}"
        builder.complain(Fault(path, item.line, "malformed line", text))
        return
    if isinstance(points, list) and not any(points):    # none is labelled, however many there might be
        points = None
    if points and not _is_numbers(points, 3 * POINTS):
        text = f"annotation {name}: expected 'keypoints' of 5 x 3 numbers, found {_short(points)}"
        builder.complain(Fault(path, item.line, "wrong number of points", text))
        points = None
    row = [*map(_to_float, box), *ABSENT_POINTS, ABSENT]
    if points:
        row[4:19] = map(_to_float, points)
        for point in range(4, 19, 3):
            if row[point + 2] == 0:
                row[point : point + 2] = -1.0, -1.0
    builder.add_face(row, item.line, given=19 if points else 4, crowd=item.value.get("iscrowd") in (1, True))


def _sections(path: str, text: str) -> dict[str, list[Item]]:
    """The file's lists of images, annotations and categories, each element with its line; ValueError for what is no COCO file."""
    try:
        members = _object(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}:{error.lineno}: not a readable JSON file: {error.msg}") from None
    except RecursionError:
        raise ValueError(f"{path}: not a readable JSON file: nested too deeply") from None
    except ValueError as error:    # a number of thousands of digits
        raise ValueError(f"{path}: not a readable JSON file: {error}") from None
    line_ends = [match.start() for match in re.finditer("\n", text)]
    sections: dict[str, list[Item]] = {"categories": []}
    for name in SECTIONS:
        if name not in members and name not in sections:
            raise ValueError(f"{path}: expected a COCO file with lists of 'images' and 'annotations', found no {name!r}")
        if not isinstance(members.get(name, []), list):
            raise ValueError(f"{path}: expected {name!r} to be a list, found {_short(members[name])}")
        sections[name] = []
        for start, value in members.get(name, []):
            line = bisect_left(line_ends, start) + 1
            if not isinstance(value, dict):
                raise ValueError(f"{path}:{line}: expected an object in {name!r}, found {_short(value)}")
            sections[name].append(Item(line, value))
    return sections


def _object(text: str) -> dict[str, Any]:
    """The members of the object that a JSON text is; lists of SECTIONS as pairs of where an element starts and what it is.

    The json module alone does not tell where an element stood.
    """
    members: dict[str, Any] = {}
    at = _expect(text, 0, "{")
    while text[at : at + 1] != "}":
        name, at = DECODER.raw_decode(text, at)
        if not isinstance(name, str):
            raise json.JSONDecodeError("Expecting property name", text, at)
        at = _expect(text, _skip(text, at), ":")
        if name in SECTIONS and text[at : at + 1] == "[":
            members[name], at = _list(text, at)
        else:
            members[name], at = DECODER.raw_decode(text, at)
        at = _next(text, at, "}")
    if _skip(text, at + 1) != len(text):
        raise json.JSONDecodeError("Extra data", text, at + 1)
    return members


def _list(text: str, at: int) -> tuple[list[tuple[int, Any]], int]:
    elements = []
    at = _expect(text, at, "[")
    while text[at : at + 1] != "]":
        value, end = DECODER.raw_decode(text, at)
        elements.append((at, value))
        at = _next(text, end, "]")
    return elements, at + 1


def _expect(text: str, at: int, character: str) -> int:
    """Where something follows behind that character and blanks."""
    at = _skip(text, at)
    if text[at : at + 1] != character:
        raise json.JSONDecodeError(f"Expecting {character!r}", text, at)
    return _skip(text, at + 1)


def _next(text: str, at: int, close: str) -> int:
    """Where the next element stands, or the closing bracket."""
    at = _skip(text, at)
    return at if text[at : at + 1] == close else _expect(text, at, ",")


def _skip(text: str, at: int) -> int:
    match = BLANK.match(text, at)
    assert match is not None
    return match.end()


def _key(value: Any) -> str:
    """An id or a name as text; 1.0 is 1, which some tools write, and what is neither is none."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value) if isinstance(value, (int, str)) else ""


def _size(image: dict[str, Any]) -> tuple[int, int] | None:
    """An image's width and height, where it has both."""
    sides = [image.get(name, 0) for name in ("width", "height")]
    if all(_is_number(side) and 1 <= side < LARGEST and int(side) == side for side in sides):
        return int(sides[0]), int(sides[1])
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_numbers(value: Any, count: int) -> bool:
    return isinstance(value, list) and len(value) == count and all(map(_is_number, value))


def _to_float(value: float) -> float:
    """A number of JSON, which may be a whole one too large for a float."""
    return float(value) if isinstance(value, float) or abs(value) < LARGEST else math.inf


def _short(value: Any) -> str:
    return reprlib.repr(value)[:60]
