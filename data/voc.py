"""Pascal VOC: a folder with an XML file for each image."""

from __future__ import annotations

import re
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from data.classes import pick_classes
from data.format_names import BEGINNING, find_other_format
from data.records import ABSENT_POINTS, NO_PLACE, Fault, RecordBuilder
from data.text_labels import is_size

ABSENT = float("nan")
CORNERS = ("xmin", "ymin", "xmax", "ymax")
DIFFICULT = ("1", "true", "yes")
ENCODING = re.compile(rb"""\s*<\?xml[^>]*\bencoding\s*=\s*["']([\w.-]+)["']""", re.ASCII)
IS_VOC = re.compile(rb"<annotation[\s>]")


class Annotation(NamedTuple):
    """What an XML file says of its image, and how many objects it has."""

    file: Path
    name: str
    size: tuple[int, int] | None
    objects: int


class Objects:
    """The objects of all files, as numbers: as text they would take gigabytes in a large set."""

    def __init__(self) -> None:
        self.class_names: dict[str, int] = {}    # and their number
        self.classes = array("i")
        self.corners = array("d")    # four each
        self.difficult = array("B")
        self.problems: dict[int, str] = {}    # by index

    def __len__(self) -> int:
        return len(self.classes)

    def append(self, element: ElementTree.Element) -> None:
        """Add an `object` element."""
        name = _text(element, "name")
        texts = [_text(element, f"bndbox/{corner}") for corner in CORNERS]
        try:
            corners = list(map(float, texts))
        except ValueError:
            corners = [ABSENT] * 4
            found = ", ".join(text or "none" for text in texts)[:40]
            self.problems[len(self)] = (
                f"expected a 'bndbox' of numbers {', '.join(CORNERS)}, found {found}"
            )
        if not name:
            self.problems[len(self)] = "expected an object with a 'name', found none"
        self.classes.append(self.class_names.setdefault(name, len(self.class_names)))
        self.corners.extend(corners)
        self.difficult.append(_text(element, "difficult").lower() in DIFFICULT)


def read_voc(
    folder: Path,
    files: Sequence[Path],
    builder: RecordBuilder,
    *,
    classes: Sequence[str],
    origin: int,
) -> None:
    """Add the objects of those classes that are faces, file by file.

    A file in a sub-folder has its image in one of that name. `bndbox` holds xmin, ymin, xmax, ymax
    as corners in pixels; with `origin` 1 they count from 1, and 1 is taken off the top left one.
    `difficult` marks an invalid face. An object without a name may be a face, and is lost.
    """
    objects = Objects()
    annotations = [each for file in files if (each := _read(file, objects, builder)) is not None]
    used = {name for name in objects.class_names if name}
    faces = pick_classes(str(folder), used, classes)
    is_face = {number for name, number in objects.class_names.items() if name in faces}
    first = 0
    for file, name, size, count in annotations:
        below = file.parent.relative_to(folder).as_posix()
        prefix = "" if below == "." or name.startswith(below + "/") else f"{below}/"
        builder.add_image(
            prefix + (name or f"{file.stem}.jpg"),
            source=str(file), line=NO_PLACE, size=size, other_name=prefix + file.stem,
            units=("line", "object"),
        )  # fmt: skip
        for number, index in enumerate(range(first, first + count), start=1):
            unnamed = objects.class_names.get("") == objects.classes[index]
            if index in objects.problems and (unnamed or objects.classes[index] in is_face):
                problem = objects.problems[index]
                builder.lose_face(Fault(str(file), number, "malformed line", problem, "object"))
            elif objects.classes[index] in is_face:
                x1, y1, x2, y2 = objects.corners[4 * index : 4 * index + 4]
                x1, y1 = x1 - origin, y1 - origin
                row = [x1, y1, x2 - x1, y2 - y1, *ABSENT_POINTS, ABSENT]
                builder.add_face(row, number, given=4, invalid=bool(objects.difficult[index]))
        first += count


def is_voc_label(file: Path) -> bool:
    """Return True if an XML file may be a label of Pascal VOC; an unreadable one is none."""
    try:
        with open(file, "rb") as opened:
            return IS_VOC.search(_without_zeros(opened.read(BEGINNING))) is not None
    except OSError:
        return False


def _read(file: Path, objects: Objects, builder: RecordBuilder) -> Annotation | None:
    """What an XML file says, its objects added to the others; None, and a complaint, where it
    cannot be read. Its tree is not kept."""
    try:
        content = file.read_bytes()
        if b"<!ENTITY" in _without_zeros(
            content
        ):    # may stand for gigabytes, and no label needs one
            raise ValueError("it declares entities")
        root = ElementTree.fromstring(_decode(content))
    except ElementTree.ParseError as error:
        fault = Fault(
            str(file), error.position[0], "malformed line", f"not a readable XML file: {error}"
        )
        builder.complain(fault)
        return None
    except (ValueError, LookupError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        builder.complain(
            Fault(str(file), NO_PLACE, "malformed line", f"not a readable XML file: {reason}")
        )
        return None
    if root.tag != "annotation":
        text = f"expected an 'annotation' of Pascal VOC, found {root.tag[:40]!r}"
        other = find_other_format(content[:BEGINNING].decode("utf-8", "replace"))
        if root.tag == "annotations" and other:
            text = other
        builder.complain(Fault(str(file), NO_PLACE, "malformed line", text))
        return None
    found = root.findall("object")
    for element in found:
        objects.append(element)
    sides = [_text(root, f"size/{side}") for side in ("width", "height")]
    size = (int(sides[0]), int(sides[1])) if is_size(sides) else None
    return Annotation(file, _text(root, "filename").replace("\0", ""), size, len(found))


def _decode(content: bytes) -> bytes | str:
    """Text, where the file says that it is in an encoding such as GBK, which expat does not read."""
    declared = ENCODING.match(content)
    if declared is None or declared[1].lower().startswith((b"utf", b"iso", b"us-ascii")):
        return content
    return content.decode(declared[1].decode("ascii"))


def _without_zeros(content: bytes) -> bytes:
    """UTF-16 as ASCII, where it is."""
    return content.replace(b"\0", b"")


def _text(element: ElementTree.Element, path: str) -> str:
    return (element.findtext(path) or "").strip()
