"""Label files of one line a face: RetinaFace's label.txt, labelv2, and the official WIDER FACE lists."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from data.records import ABSENT_POINTS, HEAVY_BLUR, ROW, Fault, RecordBuilder
from utils.images import IMAGE_SUFFIXES

# x y w h, then five (x y flag), then one last number; the shorter rows leave out what is at the end.
ROW_LENGTHS = (4, 5, 19, 20)
WIDER_LENGTHS = (4, 10)    # x y w h, and maybe blur expression illumination invalid occlusion pose
ABSENT = float("nan")
Line = tuple[int, str]    # its number, from 1, and its text
NO_UTF_8 = "not a readable label file: expected text in UTF-8; save it in that encoding"


def read_text(path: str | Path) -> str:
    """A text file of labels; FileNotFoundError, or ValueError for one that is no text."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such label file") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path}: {NO_UTF_8}") from None
    except OSError as error:
        raise ValueError(f"{path}: not a readable label file: {error.strerror}") from None
    if "\0" in text[:4]:    # UTF-16 without a mark at its start
        raise ValueError(f"{path}: {NO_UTF_8}")
    return text.replace("\ufeff", "")    # files that begin with the mark may have been joined


def to_numbers(words: Sequence[str]) -> list[float] | None:
    """Return the numbers that words stand for; None where one is none."""
    joined = "".join(words)
    if "_" in joined or not joined.isascii():    # which Python takes for digits and their separators
        return None
    try:
        return list(map(float, words))
    except ValueError:
        return None


def read_retinaface(path: str, text: str, builder: RecordBuilder, *, corners: bool) -> None:
    """A header `# path` for each image, and a line `x y w h`, `(x y flag) x 5`, a last number for each of its faces.

    A line may end after the box, or after the points. With `corners` it is labelv2: the header is `# path width height`, and the
    box is `x1 y1 x2 y2`.
    """
    header = "# path width height" if corners else "# path of an image"
    in_image = False
    for number, line in enumerate(text.split("\n"), start=1):
        line = line.strip()
        if line.startswith("#"):
            name, size = _labelv2_header(line) if corners else (line[1:].strip(), None)
            in_image = bool(name) and "\0" not in name
            if in_image:
                builder.add_image(name, source=path, line=number, size=size)
            else:
                found = "nothing behind '#'" if line == "#" else repr(line[:40])
                builder.complain(Fault(path, number, "malformed line", f"expected '{header}', found {found}"))
        elif line and not in_image:
            builder.complain(Fault(path, number, "malformed line", f"expected '{header}' before the first face, found {line[:40]!r}"))
        elif line:
            numbers = _numbers(line, path, number, builder, lengths=ROW_LENGTHS)
            if numbers:
                if corners:
                    numbers[2] -= numbers[0]
                    numbers[3] -= numbers[1]
                builder.add_face(_whole_row(numbers), number, given=len(numbers))


def _whole_row(numbers: list[float]) -> list[float]:
    if len(numbers) == ROW:
        return numbers
    if len(numbers) == 5:
        return [*numbers[:4], *ABSENT_POINTS, numbers[4]]
    return numbers + [ABSENT] * (ROW - len(numbers))


def _labelv2_header(line: str) -> tuple[str, tuple[int, int] | None]:
    parts = line[1:].rsplit(maxsplit=2)
    if len(parts) < 3 or not is_size(parts[1:]):
        return "", None
    return parts[0].strip(), (int(parts[1]), int(parts[2]))


def is_size(words: list[str]) -> bool:
    """Whether these are the two words of an image's width and height: whole numbers above 0."""
    return len(words) == 2 and all(word.isascii() and word.isdecimal() and 0 < len(word) < 10 and int(word) for word in words)


def _numbers(line: str, path: str, number: int, builder: RecordBuilder, *, lengths: tuple[int, ...]) -> list[float]:
    """The numbers of a line; none where it is malformed."""
    parts = line.split()
    if len(parts) not in lengths:
        expected = ", ".join(map(str, lengths[:-1])) + f" or {lengths[-1]}"
        builder.lose_face(Fault(path, number, "malformed line", f"expected {expected} numbers, found {len(parts)}"))
        return []
    numbers = to_numbers(parts)
    if numbers is None:
        builder.lose_face(Fault(path, number, "malformed line", f"expected numbers, found {line[:40]!r}"))
    return numbers or []


def read_wider(path: str, text: str, builder: RecordBuilder) -> None:
    """The official lists: a line with the path, one with the number of faces, and a line for each face.

    That line is `x y w h blur expression illumination invalid occlusion pose`, or has another number
    of columns where all lines have the same. An image without faces has the number 0 and one line of
    zeros, which is no face, or neither of them.
    """
    lines = [(number, line.strip()) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    lengths = _find_wider_lengths(lines)
    in_image = False    # whether a line that is not understood may be a face of the image before
    at = 0
    while at < len(lines):
        number, line = lines[at]
        at += 1
        complain = builder.lose_face if in_image else builder.complain
        if "\0" in line or _is_row(line):
            complain(Fault(path, number, "malformed line", f"expected the path of an image, found {line[:40]!r}"))
            continue
        count_line, count = lines[at] if at < len(lines) else (number, "the end of the file")
        if _is_image(line) and (at == len(lines) or _is_image(count)):
            builder.add_image(line, source=path, line=number)    # some tools write no count for no faces
            in_image = True
            continue
        if not (count.isascii() and count.isdecimal() and len(count) < 10):
            in_image = in_image and not _is_image(line)
            complain = builder.lose_face if in_image else builder.complain
            fault = f"expected the number of faces in {line[:80]!r}, found {count[:40]!r}"
            complain(Fault(path, count_line, "malformed line", fault))
            continue
        builder.add_image(line, source=path, line=number)
        in_image = True
        at = _add_wider_faces(path, lines, at, builder, lengths=lengths, name=line)


def _add_wider_faces(
    path: str, lines: Sequence[Line], at: int, builder: RecordBuilder, *, lengths: tuple[int, ...], name: str
) -> int:
    """Add the faces behind the number of faces at `at`; returns where the lines go on."""
    count_line, count = lines[at]
    end = at + 1
    while end < len(lines) and _is_row(lines[end][1]):
        end += 1
    rows = lines[at + 1 : end]
    if int(count) == 0 and len(rows) == 1 and _is_zeros(rows[0][1]):
        rows = []
    announced = f"{name[:80]!r} announces {int(count)} faces, found {len(rows)}"
    if len(rows) > int(count):
        builder.complain(Fault(path, count_line, "wrong count", announced))
    elif len(rows) < int(count):
        builder.lose_face(Fault(path, count_line, "missing faces", announced))
    for face_line, face in rows:
        numbers = _numbers(face, path, face_line, builder, lengths=lengths)
        blurred, invalid = (numbers[4] == HEAVY_BLUR, numbers[7] == 1) if len(numbers) >= 10 else (False, False)
        if numbers:
            builder.add_face(_whole_row(numbers[:4]), face_line, given=4, invalid=invalid, blurred=blurred)
    return end


def _find_wider_lengths(lines: Sequence[Line]) -> tuple[int, ...]:
    """How many numbers the line of a face may have: other than the usual ones if all faces have it."""
    found = Counter(len(line.split()) for _, line in lines if _is_row(line) and not _is_zeros(line))
    if len(found) == 1:
        ((length, count),) = found.items()
        if length > 4 and count > 1:
            return tuple(sorted({*WIDER_LENGTHS, length}))
    return WIDER_LENGTHS


def _is_zeros(line: str) -> bool:
    return not set(line) - set("0 \t")


def _is_image(line: str) -> bool:
    return Path(line).suffix.lower() in IMAGE_SUFFIXES


def _is_row(line: str) -> bool:
    """Whether a line is one of a face, well formed or not, and no path: several words, a number first, no picture's suffix at the end."""
    first, *rest = line.split()
    try:
        float(first)
    except ValueError:
        return False
    return bool(rest) and not _is_image(line)
