"""COCO JSON: images, annotations with `bbox` and maybe five `keypoints`, categories."""

from __future__ import annotations

import json
import math
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from data.classes import pick_classes
from data.keypoints import order_in_image, order_points
from data.records import ABSENT_POINTS, LARGEST, NO_PLACE, POINTS, Fault, RecordBuilder

ABSENT = float("nan")
LONGEST_ID = 19    # digits that always fit into 64 bits have fewer
Item = Mapping[str, Any]


class Image(NamedTuple):
    """An image of the file, the number that names its place in the file, what that is, and its name."""

    item: Item
    number: int
    unit: str
    name: str


class Annotation(NamedTuple):
    """An annotation, the number that names its place, what that is, and the keys of its image and category."""

    item: Item
    number: int
    unit: str
    image: str
    category: str


def read_coco(path: str, text: str, builder: RecordBuilder, *, classes: Sequence[str]) -> None:
    """Add the annotations of those categories that are faces, on each of the images in the file's order.

    A face is an annotation with `bbox` [x, y, width, height], or else with polygons as `segmentation`;
    with `iscrowd` it is ignored. `keypoints` are five times x, y, v, not labelled where v is 0. They
    are in the order of the names that the category gives its keypoints; without names they are left
    eye, right eye, nose, left and right mouth corner, left being left in the image.
    """
    sections = _sections(path, text)
    categories = _categories(path, sections["categories"])
    names = {key: _key(each.get("name")) for key, each in categories.items()}
    annotations = _annotations(sections["annotations"], only=next(iter(names)) if len(names) == 1 else "")
    # Without a list of categories their ids are all there is to name them by.
    used = {names.get(each.category, each.category) for each in annotations if each.category in names or not names}
    faces = pick_classes(path, used, classes, listed=names.values())
    images, ambiguous = _images(path, sections["images"], builder)
    of_image: dict[str, list[Annotation]] = {key: [] for key in images}
    of_no_image = 0
    for each in annotations:
        is_listed = each.category in names or not names
        if is_listed and names.get(each.category, each.category) not in faces:
            continue
        if each.image in images:
            of_image[each.image].append(each)
            continue
        text = f"it is of image {_short(each.item.get('image_id'))}, which the file does not list"
        builder.complain(Fault(path, each.number, "unknown image", text, each.unit))
        of_no_image += 1
    bare = {key for key in images if not of_image[key]} if of_no_image else set()
    if bare:
        shown = ", ".join(images[key].name[:80] for key in sorted(bare)[:3]) + (" ..." if len(bare) > 3 else "")
        count = "1 annotation is" if of_no_image == 1 else f"{of_no_image:,} annotations are"
        text = f"{count} of no image, and may be of those without faces: {shown}"
        builder.complain(Fault(path, NO_PLACE, "missing faces", text))
    orders = {key: _order(path, each, annotations, builder) for key, each in categories.items() if names[key] in faces}
    for key, image in images.items():
        builder.add_image(
            image.name,
            source=path,
            line=image.number,
            size=_size(image.item),
            units=(image.unit, annotations[0].unit if annotations else "annotation"),
            incomplete=key in ambiguous or key in bare,
        )
        for each in of_image[key]:
            if names and each.category not in names:
                text = f"it is of category {_short(each.item.get('category_id'))}, which the file does not list"
                builder.lose_face(Fault(path, each.number, "malformed line", text, each.unit))
            else:
                _add_face(path, each, builder, order=orders.get(each.category))


def _categories(path: str, listed: Sequence[Item]) -> dict[str, Item]:
    """The categories by id; ValueError where an id has two names."""
    categories: dict[str, Item] = {}
    for each in listed:
        key = _key(each.get("id"))
        before = categories.setdefault(key, each)
        if before.get("name") != each.get("name"):
            both = f"{_short(before.get('name'))} and {_short(each.get('name'))}"
            raise ValueError(f"{path}: expected one name for each category, found {both} for id {_short(each.get('id'))}")
    return categories


def _annotations(listed: Sequence[Item], *, only: str) -> list[Annotation]:
    """The annotations; `only` is the category of those that name none."""
    numbers, unit = _numbers(listed, "annotation")
    result = []
    for item, number in zip(listed, numbers, strict=True):
        category = item.get("category_id")
        result.append(
            Annotation(item, number, unit, _key(item.get("image_id")), only if category is None else _key(category))
        )
    return result


def _images(path: str, listed: Sequence[Item], builder: RecordBuilder) -> tuple[dict[str, Image], set[str]]:
    """The images by id, and the ids that several have, of which the first is taken.

    Those, and images without an id or a name, are complained of.
    """
    images: dict[str, Image] = {}
    ambiguous: set[str] = set()
    numbers, unit = _numbers(listed, "image")
    for place, (item, number) in enumerate(zip(listed, numbers, strict=True), start=1):
        key, name = _key(item.get("id")), item.get("file_name")
        if not key or not isinstance(name, str) or not name or "\0" in name:
            text = f"expected an image with 'id' and 'file_name', found {_short(item)}"
            builder.complain(Fault(path, place, "malformed line", text, "image number"))
        elif key not in images:
            images[key] = Image(item, number, unit, name)
        elif images[key].name == name:
            builder.complain(Fault(path, number, "image listed twice", f"{name[:80]!r} is listed twice", unit))
        else:
            text = f"the id is given twice, to {images[key].name[:80]!r} and to {name[:80]!r}"
            builder.complain(Fault(path, number, "malformed line", text, unit))
            ambiguous.add(key)
    return images, ambiguous


def _order(
    path: str, category: Item, annotations: Sequence[Annotation], builder: RecordBuilder
) -> list[int] | None:
    """Which of five keypoints each landmark is, by their names; [] where the names are not understood.

    None where the keypoints have no names, or no annotation has keypoints.
    """
    names, key = category.get("keypoints"), _key(category.get("id"))
    faces = [_triples(each.item["keypoints"]) for each in annotations if each.category == key and _has_points(each.item)]
    if not isinstance(names, list) or len(names) != POINTS or not faces:
        return None
    order = order_points([str(name) for name in names])
    if order is not None:
        return order_in_image(order, faces)
    text = (
        f"category {_short(category.get('name'))}: expected the names of two eyes, a nose and two mouth "
        f"corners, left and right, found {', '.join(_short(name) for name in names)[:100]}"
    )
    builder.complain(Fault(path, NO_PLACE, "unknown point names", text))
    return []


def _has_points(annotation: Item) -> bool:
    return _is_numbers(annotation.get("keypoints"), 3 * POINTS) and any(annotation["keypoints"])


def _triples(points: Sequence[float]) -> list[tuple[float, float, float]]:
    return [(points[at], points[at + 1], points[at + 2]) for at in range(0, len(points), 3)]


def _add_face(path: str, annotation: Annotation, builder: RecordBuilder, *, order: list[int] | None) -> None:
    item, points = annotation.item, annotation.item.get("keypoints")
    box = _box(item)
    if box is None:
        text = f"expected a 'bbox' of 4 numbers, found {_short(item.get('bbox'))}"
        builder.lose_face(Fault(path, annotation.number, "malformed line", text, annotation.unit))
        return
    if isinstance(points, list) and not any(points):    # none is labelled, however many there might be
        points = None
    if points and not _is_numbers(points, 3 * POINTS):
        text = f"expected 'keypoints' of 5 x 3 numbers, found {_short(points)}"
        builder.complain(Fault(path, annotation.number, "wrong number of points", text, annotation.unit))
        points = None
    row = [*map(_to_float, box), *ABSENT_POINTS, ABSENT]
    if points and order != []:
        triples = _triples(list(map(_to_float, points)))
        for point, place in enumerate(order or range(POINTS)):
            x, y, visible = triples[place]
            row[4 + 3 * point : 7 + 3 * point] = [x, y, visible] if visible else [-1.0, -1.0, 0.0]
    given = 19 if points and order != [] else 4
    builder.add_face(row, annotation.number, given=given, crowd=item.get("iscrowd") in (1, "1"))


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
        section = content.get(name, [])
        if section is None and name == "categories":
            section = []
        if not isinstance(section, list):
            raise ValueError(f"{path}: expected {name!r} to be a list, found {_short(section)}")
        for number, each in enumerate(section, start=1):
            if not isinstance(each, dict):
                raise ValueError(f"{path}: expected an object as number {number} of {name!r}, found {_short(each)}")
        sections[name] = section
    return sections


def _numbers(items: Sequence[Item], unit: str) -> tuple[list[int], str]:
    """The numbers that name items, and what they are called: their ids or, where some are no whole
    numbers, their places in the list."""
    keys = [_key(item.get("id")) for item in items]
    if all(key.isascii() and key.isdecimal() and len(key) < LONGEST_ID for key in keys):
        return list(map(int, keys)), unit
    return list(range(1, len(items) + 1)), f"{unit} number" if any(keys) else unit


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
