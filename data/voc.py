"""Pascal VOC: a folder with an XML file for each image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.parsers import expat

from data.classes import pick_classes
from data.records import ABSENT_POINTS, Complain, Fault, RecordBuilder
from data.text_labels import is_size

ABSENT = float("nan")
CORNERS = ("xmin", "ymin", "xmax", "ymax")


@dataclass
class Element:
    """An element of an XML file: its tag, the line that it starts in, its text, and what it contains."""

    tag: str
    line: int
    text: str = ""
    children: list[Element] = field(default_factory=list)

    def find(self, tag: str) -> Element | None:
        return next((child for child in self.children if child.tag == tag), None)

    def value(self, tag: str) -> str:
        """The text of a child, without blanks around it; empty where there is none."""
        child = self.find(tag)
        return child.text.strip() if child else ""


def read_voc(folder: Path, files: Sequence[Path], images: Path, builder: RecordBuilder, *, classes: Sequence[str]) -> None:
    """The objects of those classes that are faces, file by file; a file in a sub-folder has its image in one of that name.

    `bndbox` holds xmin, ymin, xmax, ymax as corners in pixels, taken as they stand; `difficult` marks an invalid face.
    """
    roots = [(file, root) for file in files if (root := _read(file, builder.complain)) is not None]
    found = {child.value("name") for _, root in roots for child in root.children if child.tag == "object"}
    faces = pick_classes(str(folder), found, classes)
    for path, root in roots:
        file, below = str(path), path.parent.relative_to(folder).as_posix()
        name, size = root.value("filename"), root.find("size")
        if not name or "\0" in name:
            builder.complain(Fault(file, root.line, "malformed line", "expected a 'filename' in 'annotation', found none"))
            continue
        if below != "." and not name.startswith(below + "/"):
            name = f"{below}/{name}"
        sides = [size.value("width"), size.value("height")] if size else []
        known = (int(sides[0]), int(sides[1])) if is_size(sides) else None
        builder.add_image(name, folder=str(images), source=file, line=root.line, size=known)
        for child in root.children:
            if child.tag == "object" and child.value("name") in faces:
                _add_face(file, child, builder)


def _add_face(file: str, face: Element, builder: RecordBuilder) -> None:
    box = face.find("bndbox")
    corners = [box.value(tag) for tag in CORNERS] if box else []
    try:
        x1, y1, x2, y2 = map(float, corners)
    except ValueError:
        text = f"expected a 'bndbox' of numbers {', '.join(CORNERS)}, found {', '.join(corners)[:40] or 'none'}"
        builder.complain(Fault(file, face.line, "malformed line", text))
        return
    row = [x1, y1, x2 - x1, y2 - y1, *ABSENT_POINTS, ABSENT]
    builder.add_face(row, face.line, given=4, invalid=face.value("difficult") == "1")


def _read(file: Path, complain: Complain) -> Element | None:
    """The `annotation` of a file; None where it cannot be read."""
    try:
        root = parse_xml(file.read_bytes())
    except expat.ExpatError as error:
        complain(Fault(str(file), error.lineno, "malformed line", f"not a readable XML file: {expat.errors.messages[error.code]}"))
    except (ValueError, LookupError, OSError) as error:
        complain(Fault(str(file), 1, "malformed line", f"not a readable XML file: {error}"))
    else:
        if root.tag == "annotation":
            return root
        complain(Fault(str(file), root.line, "malformed line", f"expected an 'annotation' of Pascal VOC, found {root.tag[:40]!r}"))
    return None


def parse_xml(data: bytes) -> Element:
    """The root of an XML file. Entities are refused: a few of them can stand for gigabytes. ExpatError, LookupError or ValueError."""
    top = Element("", 0)
    open_elements = [top]
    parser = expat.ParserCreate()

    def start(tag: str, attributes: dict[str, str]) -> None:
        element = Element(tag, parser.CurrentLineNumber)
        open_elements[-1].children.append(element)
        open_elements.append(element)

    def end(tag: str) -> None:
        open_elements.pop()

    def text(characters: str) -> None:
        open_elements[-1].text += characters

    def refuse(*_: object) -> None:
        raise ValueError("it declares entities, which are not supported")

    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = start, end, text
    parser.EntityDeclHandler = refuse
    parser.Parse(data, True)
    return top.children[0]
