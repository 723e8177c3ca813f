"""COCO JSON: images, annotations with `bbox` and maybe five `keypoints`, categories."""

from __future__ import annotations

import json
import math
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

from data.classes import pick_classes
from data.keypoints import order_points, right_before_left
from data.records import ABSENT_POINTS, LARGEST, NO_PLACE, POINTS, Fault, RecordBuilder

ABSENT = float("nan")
UNITS = ("image", "annotation")    # whose ids name a place in the file
Item = Mapping[str, Any]


def read_coco(path: str, text: str, builder: RecordBuilder, *, classes: Sequence[str]) -> None:
    """Add the annotations of those categories that are faces, on each of the images in the file's order.

    A face is an annotation with `bbox` [x, y, width, height], or else with polygons as `segmentation`;
    with `iscrowd` it is ignored. `keypoints` are five times x, y, v, not labelled where v is 0. They
    are in the order of the names that the category gives its keypoints; without names they are left
    eye, right eye, nose, left and right mouth corner, left being left in the image.
    """
    sections = _sections(path, text)
    categories = {_key(each.get("id")): each for each in sections["categories"]}
    names = {key: _key(each.get("name")) for key, each in categories.items()}
    only = next(iter(names)) if len(names) == 1 else None    # what an annotation without a category is of
    # Without a list of categories their ids are all there is to name them by.
    used = {names.get(key, key) for each in sections["annotations"] if (key := _key(each.get("category_id", only))) in names or not names}
    faces = pick_classes(path, used, classes, listed=names.values())
    images, ambiguous = _images(path, sections["images"], builder)
    annotations: dict[str, list[Item]] = {key: [] for key in images}
    lost: dict[str, list[Fault]] = {key: [] for key in images}
    of_no_image = 0
    for number, annotation in enumerate(sections["annotations"], start=1):
        key, category = _key(annotation.get("image_id")), _key(annotation.get("category_id", only))
        if key not in images:
            text = f"it is of image {_short(annotation.get('image_id'))}, which the file does not list"
            builder.complain(_fault(path, annotation, number, text))
            of_no_image += 1
        elif names and category not in names:
            text = f"it is of category {_short(annotation.get('category_id'))}, which the file does not list"
            lost[key].append(_fault(path, annotation, number, text))
        elif names.get(category, category) in faces:
            annotations[key].append({**annotation, "place": _id(annotation, number), "category": category})
    orders = {key: _order(path, each, builder) for key, each in categories.items() if names[key] in faces}
    mirrored = right_before_left(
        [_triples(each["keypoints"]) for of_image in annotations.values() for each in of_image if _has_points(each)],
        [orders.get(each["category"]) for of_image in annotations.values() for each in of_image if _has_points(each)],
    )
    bare = {key for key in images if not annotations[key]} if of_no_image else set()
    if bare:
        shown = ", ".join(str(images[key]["file_name"])[:80] for key in sorted(bare)[:3]) + (" ..." if len(bare) > 3 else "")
        text = f"{of_no_image:,} annotations are of no image, and may be of those without faces: {shown}"
        builder.complain(Fault(path, NO_PLACE, "missing faces", text))
    for key, image in images.items():
        number = _id(image, NO_PLACE)
        is_incomplete = key in ambiguous or key in bare
        builder.add_image(
            image["file_name"], source=path, line=number, size=_size(image), units=UNITS, incomplete=is_incomplete
        )
        for fault in lost[key]:
            builder.lose_face(fault)
        for annotation in annotations[key]:
            _add_face(path, annotation, builder, order=orders.get(annotation["category"]), mirrored=mirrored)


def _images(path: str, listed: Sequence[Item], builder: RecordBuilder) -> tuple[dict[str, Item], set[str]]:
    """The images by id, and the ids that several have, of which the first is taken.

    Those, and images without an id or a name, are complained of.
    """
    images: dict[str, Item] = {}
    ambiguous: set[str] = set()
    for number, image in enumerate(listed, start=1):
        key, name = _key(image.get("id")), image.get("file_name")
        if not key or not isinstance(name, str) or not name or "\0" in name:
            text = f"expected an image with 'id' and 'file_name', found {_short(image)}"
            builder.complain(Fault(path, number, "malformed line", text, "image number"))
        elif key in images:
            text = f"the id is given twice, to {images[key]['file_name'][:80]!r} and to {name[:80]!r}"
            builder.complain(Fault(path, _id(image, number), "malformed line", text, "image"))
            ambiguous.add(key)
        else:
            images[key] = image
    return images, ambiguous


def _order(path: str, category: Item, builder: RecordBuilder) -> list[int] | None:
    """Which of five keypoints each landmark is, by their names; [] where the names are not understood."""
    names = category.get("keypoints")
    if not isinstance(names, list) or len(names) != POINTS:
        return None
    order = order_points([str(name) for name in names])
    if order is None:
        text = (
            f"category {_short(category.get('name'))}: expected the names of two eyes, a nose and two mouth "
            f"corners, left and right, found {', '.join(map(str, names))[:100]}"
        )
        builder.complain(Fault(path, NO_PLACE, "unknown point names", text))
        return []
    return order


def _has_points(annotation: Item) -> bool:
    return _is_numbers(annotation.get("keypoints"), 3 * POINTS) and any(annotation["keypoints"])


def _triples(points: Sequence[float]) -> list[tuple[float, float, float]]:
    return [(points[at], points[at + 1], points[at + 2]) for at in range(0, len(points), 3)]


def _add_face(path: str, annotation: Item, builder: RecordBuilder, *, order: list[int] | None, mirrored: bool) -> None:
    number, points = annotation["place"], annotation.get("keypoints")
    box = _box(annotation)
    if box is None:
        text = f"expected a 'bbox' of 4 numbers, found {_short(annotation.get('bbox'))}"
        builder.lose_face(_fault(path, annotation, number, text))
        return
    if isinstance(points, list) and not any(points):    # none is labelled, however many there might be
        points = None
    if points and not _is_numbers(points, 3 * POINTS):
        text = f"expected 'keypoints' of 5 x 3 numbers, found {_short(points)}"
        builder.complain(Fault(path, number, "wrong number of points", text, "annotation"))
        points = None
    row = [*map(_to_float, box), *ABSENT_POINTS, ABSENT]
    if points and order != []:
        triples = _triples(list(map(_to_float, points)))
        if order is not None:
            triples = [triples[at] for at in order]
            if mirrored:    # the names mean the person's own left and right
                triples = [triples[at] for at in (1, 0, 2, 4, 3)]
        for point, (x, y, visible) in enumerate(triples):
            row[4 + 3 * point : 7 + 3 * point] = [x, y, visible] if visible else [-1.0, -1.0, 0.0]
    given = 19 if points and order != [] else 4
    builder.add_face(row, number, given=given, crowd=annotation.get("iscrowd") in (1, "1"))


def _box(annotation: Item) -> Sequence[float] | None:
    """The box x y w h of an annotation, or the one around its polygons where it has none."""
    box, polygons = annotation.get("bbox"), annotation.get("segmentation")
    if _is_numbers(box, 4):
        return box    # type: ignore[no-any-return]
    if box or not isinstance(polygons, list) or not polygons:
        return None
    if not all(isinstance(each, list) and len(each) >= 6 and _is_numbers(each, len(each) // 2 * 2) for each in polygons):
        return None
    x, y = ([_to_float(value) for each in polygons for value in each[start::2]] for start in (0, 1))
    return min(x), min(y), max(x) - min(x), max(y) - min(y)


def _sections(path: str, text: str) -> dict[str, list[Item]]:
    """The file's lists of images, annotations and categories; ValueError for what is no COCO file."""
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}:{error.lineno}: not a readable JSON file: {error.msg}") from None
    except RecursionError:
        raise ValueError(f"{path}: not a readable JSON file: nested too deeply") from None
    except ValueError as error:    # a number of thousands of digits
        raise ValueError(f"{path}: not a readable JSON file: {error}") from None
    if not isinstance(content, dict):
        content = {}
    sections: dict[str, list[Item]] = {}
    for name in ("images", "annotations", "categories"):
        if name not in content and name != "categories":
            raise ValueError(f"{path}: expected a COCO file with lists of 'images' and 'annotations', found no {name!r}")
        section = content.get(name) or []
        if not isinstance(section, list):
            raise ValueError(f"{path}: expected {name!r} to be a list, found {_short(section)}")
        for number, each in enumerate(section, start=1):
            if not isinstance(each, dict):
                raise ValueError(f"{path}: expected an object as number {number} of {name!r}, found {_short(each)}")
        sections[name] = section
    return sections


def _fault(path: str, annotation: Item, number: int, text: str) -> Fault:
    return Fault(path, _id(annotation, number), "malformed line", text, "annotation")


def _id(item: Item, number: int) -> int:
    """The id of an image or annotation where it is a number that fits, else its place in the list."""
    key = _key(item.get("id"))
    return int(key) if key.isascii() and key.isdecimal() and len(key) < 10 else number


def _key(value: Any) -> str:
    """An id or a name as text; 1.0 is 1, which some tools write, and what is neither is none."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value) if isinstance(value, (int, str)) else ""


def _size(image: Item) -> tuple[int, int] | None:
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
