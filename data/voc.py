"""Pascal VOC: a folder with an XML file for each image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from data.classes import pick_classes
from data.records import ABSENT_POINTS, NO_PLACE, Complain, Fault, RecordBuilder
from data.text_labels import is_size

ABSENT = float("nan")
CORNERS = ("xmin", "ymin", "xmax", "ymax")


class Annotation(NamedTuple):
    """What an XML file says: the image's name and size, and of each object its class, the text of
    its four corners, and whether it is marked as difficult."""

    name: str
    size: tuple[int, int] | None
    objects: list[tuple[str, tuple[str, ...], bool]]


def read_voc(
    folder: Path, files: Sequence[Path], builder: RecordBuilder, *, classes: Sequence[str], origin: int
) -> None:
    """Add the objects of those classes that are faces, file by file; a file in a sub-folder has its
    image in one of that name.

    `bndbox` holds xmin, ymin, xmax, ymax as corners in pixels; with `origin` 1 they count from 1, and
    1 is taken off the top left one. `difficult` marks an invalid face.
    """
    annotations = [(file, content) for file in files if (content := _read(file, builder.complain)) is not None]
    used = {name for _, content in annotations for name, _, _ in content.objects}
    faces = pick_classes(str(folder), used, classes)
    for path, (name, size, objects) in annotations:
        below = path.parent.relative_to(folder).as_posix()
        prefix = "" if below == "." or name.startswith(below + "/") else f"{below}/"
        name = prefix + (name or f"{path.stem}.jpg")
        units = ("line", "object")
        builder.add_image(
            name, source=str(path), line=NO_PLACE, size=size, other_name=prefix + path.stem, units=units
        )
        for number, (class_name, corners, is_difficult) in enumerate(objects, start=1):
            if class_name in faces:
                _add_face(str(path), number, corners, builder, origin=origin, is_difficult=is_difficult)


def _add_face(
    file: str, number: int, corners: tuple[str, ...], builder: RecordBuilder, *, origin: int, is_difficult: bool
) -> None:
    try:
        x1, y1, x2, y2 = map(float, corners)
    except ValueError:
        found = ", ".join(corner or "none" for corner in corners)[:40]
        text = f"expected a 'bndbox' of numbers {', '.join(CORNERS)}, found {found}"
        builder.lose_face(Fault(file, number, "malformed line", text, "object"))
        return
    x1, y1 = x1 - origin, y1 - origin
    row = [x1, y1, x2 - x1, y2 - y1, *ABSENT_POINTS, ABSENT]
    builder.add_face(row, number, given=4, invalid=is_difficult)


def _read(file: Path, complain: Complain) -> Annotation | None:
    """What an XML file says; None, and a complaint, where it cannot be read. Its tree is not kept."""
    try:
        root = ElementTree.fromstring(file.read_bytes())
    except ElementTree.ParseError as error:    # expat itself refuses entities that stand for gigabytes
        complain(Fault(str(file), error.position[0], "malformed line", f"not a readable XML file: {error}"))
        return None
    except (ValueError, LookupError, OSError) as error:
        complain(Fault(str(file), NO_PLACE, "malformed line", f"not a readable XML file: {error}"))
        return None
    if root.tag != "annotation":
        text = f"expected an 'annotation' of Pascal VOC, found {root.tag[:40]!r}"
        complain(Fault(str(file), NO_PLACE, "malformed line", text))
        return None
    sides = [_text(root, f"size/{side}") for side in ("width", "height")]
    objects = [
        (
            _text(each, "name"),
            tuple(_text(each, f"bndbox/{corner}") for corner in CORNERS),
            _text(each, "difficult") == "1",
        )
        for each in root.findall("object")
    ]
    name = _text(root, "filename").replace("\0", "")
    return Annotation(name, (int(sides[0]), int(sides[1])) if is_size(sides) else None, objects)


def _text(element: ElementTree.Element, path: str) -> str:
    return (element.findtext(path) or "").strip()
