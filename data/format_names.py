"""Which format a label file has, by its form; what files of other formats are."""

from __future__ import annotations

import re
from itertools import islice
from pathlib import Path

from data.text_labels import is_size, read_text, to_numbers
from data.yolo_lines import FACES, is_class, is_odd
from utils.files import files_below
from utils.images import IMAGE_SUFFIXES

BEGINNING = 20_000    # characters that tell a format
FILES_READ = 20    # of a folder, to say what they are
EXPORT = "export COCO or Pascal VOC from there"
OTHER_FORMATS = {    # formats that are not read, by a piece of their beginning
    "labelme": r'"(shapes|imageData|imagePath)"\s*:',
    "VGG Image Annotator": r'"(_via_\w+|regions|region_attributes)"\s*:',
    "datumaro": r'"(items|media_type)"\s*:',
    "Label Studio's JSON": r'"(annotations|completions)"\s*:\s*\[\s*\{[^{}]*'
    r'"(result|completed_by|was_cancelled)"',
    "Supervisely": r'"objects"\s*:\s*\[[^\]]*"classTitle"|"classTitle"\s*:',
    "CreateML": r'"image(filename)?"\s*:\s*"',
    "detections of this project": r'^\s*\{"source"\s*:',
    "annotations of COCO without their images": r'^\s*\[\s*\{[^{}]*"(image_id|bbox)"\s*:',
    "CVAT XML": r"<annotations>",
    "Pascal VOC (name its folder)": r"<annotation[ >]",
    "XML": r"^\s*<",
    "JSON": r"^\s*[\[{]",
    "YAML": r"\A(%YAML|---|[\w-]+:(\s|$))",
    "CSV": r"\A[^#\n]*[,;\t][^\n]*[,;\t]",
}
# Files that are no text, by their suffix.
BINARY_FORMATS = {
    ".h5": "HDF5", ".hdf5": "HDF5", ".mat": "MATLAB", ".npy": "NumPy", ".npz": "NumPy",
    ".parquet": "Parquet", ".pickle": "a pickle", ".pkl": "a pickle", ".record": "TFRecord",
    ".records": "TFRecord", ".tfrec": "TFRecord", ".tfrecord": "TFRecord", ".tfrecords": "TFRecord",
    ".xls": "Excel", ".xlsx": "Excel",
}    # fmt: skip
ARCHIVES = {".7z", ".bz2", ".gz", ".rar", ".tar", ".tgz", ".xz", ".zip"}
SETTINGS = (".data", ".names")    # of darknet
LABEL_SUFFIXES = {
    ".csv",
    ".json",
    ".jsonl",
    ".ndjson",
    ".tsv",
    ".txt",
    ".xml",
    ".yaml",
    ".yml",
    *BINARY_FORMATS,
    *ARCHIVES,
}


def refuse_binary(path: Path) -> None:
    """Raise ValueError for a file whose name says that it is no text of labels."""
    suffix = path.suffix.lower()
    if not path.is_file():
        return
    if suffix in IMAGE_SUFFIXES:
        raise ValueError(
            f"{path}: expected a label file or a folder of label files, found an image"
        )
    if suffix in ARCHIVES:
        raise ValueError(
            f"{path}: expected a label file or a folder of label files, found an archive: unpack it"
        )
    if suffix in BINARY_FORMATS:
        raise ValueError(f"{path}: {_unknown(BINARY_FORMATS[suffix])}")
    if suffix in SETTINGS:
        raise ValueError(
            f"{path}: expected labels, found a file of YOLO's settings; "
            "name the folder of its labels"
        )


def _unknown(name: str) -> str:
    return f"not a label of a known format; it looks like {name}: {EXPORT}"


def recognize(path: str, text: str) -> str:
    """Return the format of a label file: retinaface, labelv2, wider, coco, or yolo for a list.

    ValueError for an empty file, and for one of a format that is not read.
    """
    start = list(islice((stripped for line in text.split("\n") if (stripped := line.strip())), 2))
    if not start:
        raise ValueError(
            f"{path}: no images: expected '# path of an image' and a line for each of its faces, "
            "found an empty file"
        )
    if start[0].startswith("{") and re.search(r'"images"\s*:', text):
        return "coco"
    if start[0].startswith("#"):
        return "labelv2" if is_labelv2_header(start[0]) else "retinaface"
    is_count = len(start) == 2 and start[1].isascii() and start[1].isdecimal()
    is_image = Path(start[0]).suffix.lower() in IMAGE_SUFFIXES
    next_is_image = len(start) < 2 or Path(start[1]).suffix.lower() in IMAGE_SUFFIXES
    if is_image and next_is_image and not is_count:
        # A list of images, or a WIDER list that begins with an image without faces.
        counts = re.search(r"^\s*\d+\s*$", text, re.MULTILINE)
        return "wider" if counts else "yolo"
    if is_count:
        return "wider"
    if problem := find_other_format(text):
        raise ValueError(f"{path}: {problem}")
    if not re.search(r"^\s*#", text, re.MULTILINE):
        number = next(
            number for number, line in enumerate(text.split("\n"), start=1) if line.strip()
        )
        raise ValueError(
            f"{path}:{number}: expected '# path of an image' before the first face, "
            f"found {start[0][:40]!r}"
        )
    return "retinaface"


def find_other_format(text: str) -> str:
    """Return what is said of a text in a format that is not read as one file, or an empty text."""
    head = text[:BEGINNING]
    if re.search(r"^(names|nc|train|path)\s*:", head, re.MULTILINE):
        return "expected labels, found the settings of a YOLO set; name the folder of its labels"
    for name, sign in OTHER_FORMATS.items():
        if re.search(sign, head):
            return _unknown(name)
    words = next((words for line in head.split("\n") if (words := line.split())), [])
    if (
        len(words) > 1
        and words[1].replace(".", "", 1).isdecimal()
        and len(words) in (15, 16)
        and words[0].isalpha()
    ):
        return _unknown("KITTI")
    if re.match(r"imagesource:", head) or (
        len(words) == 10 and words[9] in "012" and to_numbers(words[:8]) and not to_numbers(words)
    ):
        return _unknown("DOTA")
    numbers = to_numbers(words)
    is_yolo = numbers and is_class(words[0]) and (len(words) in FACES or is_odd(len(words)))
    if is_yolo and max(map(abs, numbers[1:])) <= 1:    # type: ignore[index]
        return "expected a label file, found one of YOLO's, which are read by the folder; name that"
    return ""


def is_labelv2_header(line: str) -> bool:
    """Return True if a header ends with the width and height of its image."""
    words = line[1:].split()
    return len(words) > 2 and is_size(words[-2:])


def describe_others(folder: Path) -> str:
    """Return what a folder holds instead of labels of Pascal VOC or YOLO, to end a message."""
    files = files_below(folder, LABEL_SUFFIXES)
    for file in files[:FILES_READ]:
        name = file.relative_to(folder)
        suffix = file.suffix.lower()
        if suffix in BINARY_FORMATS:
            return f"; {name}: {_unknown(BINARY_FORMATS[suffix])}"
        if suffix in ARCHIVES:
            return f"; {name} is an archive: unpack it"
        try:
            form = recognize(str(file), read_text(file))
        except ValueError as error:
            problem = str(error).removeprefix(f"{file}: ")
            if "known format" in problem or "not a readable" in problem:
                return f"; {name}: {problem}"
            continue
        return (
            f"; name a label file, such as {file}"
            if form != "retinaface" or suffix == ".txt"
            else ""
        )
    if files:
        return f" ({files[0].relative_to(folder)} and the like are no labels of YOLO)"
    return ""
