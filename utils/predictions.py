"""Detections as text files, in the form that the WIDER FACE evaluation reads: a folder per event, a file per image.

The first line of a file is the name of the image, the second how many detections follow, and each of these is `x y w h score`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePath

import numpy as np

from utils.files import whole_file
from utils.structures import Detections
from utils.wider_eval import OfficialFaces, wider_curves

LARGEST_FRACTION = 2.0    # of an image's side; boxes in pixels reach further
MIN_AP_OF_FORM = 0.05    # a form of boxes that gives less is not what they are


def prediction_path(folder: Path, name: str | PurePath) -> Path:
    """Where the detections of an image of that name are kept; always inside the folder, wherever the name would lead."""
    path = PurePath(name)
    parts = [part for part in path.parts if part not in (path.anchor, "..")]
    return folder.joinpath(*parts).with_suffix(".txt")


def write_predictions(path: Path, detections: Detections) -> None:
    """Write the detections of an image; places are kept as floats, since whole numbers cost matches on small faces."""
    low, high = detections.boxes[:, :2], detections.boxes[:, 2:]
    rows = np.column_stack([low, high - low]).tolist()
    lines = [path.stem, str(len(detections))]
    lines += [f"{x:.3f} {y:.3f} {w:.3f} {h:.3f} {score:.8f}" for (x, y, w, h), score in zip(rows, detections.scores.tolist(), strict=True)]
    with whole_file(path) as partial:
        # The name of a file need not be Unicode, the text in it is.
        text = "\n".join(lines) + "\n"
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")


def read_predictions(path: Path) -> Detections:
    """The detections in a file, in float64; FileNotFoundError or ValueError that names it."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n", 2)
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"{path}: no such file of predictions") from None
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        count = int(lines[1])
        numbers = np.array(lines[2].split() if len(lines) > 2 else [], dtype=np.float64).reshape(-1, 5)
    except (ValueError, IndexError):
        raise ValueError(f"{path}: expected a name, a count, and lines of x y w h score") from None
    if len(numbers) != count or not np.isfinite(numbers).all():
        raise ValueError(f"{path}:2: expected {count} lines of finite x y w h score, found {len(numbers)}")
    boxes = np.column_stack([numbers[:, :2], numbers[:, :2] + numbers[:, 2:4]])
    return Detections(boxes, numbers[:, 4], None)


def guess_form(detections: Sequence[Detections], ground_truth: Sequence[OfficialFaces]) -> str:
    """Say what saved predictions look like that match next to no face of the ground truth."""
    boxes = [each.boxes for each in detections]
    sizes = [each[:, 2:] - each[:, :2] for each in boxes]    # the last two numbers of a line
    expected = "expected x y w h in pixels of the image"
    if max(float(np.abs(each).max(initial=0)) for each in (*boxes, *sizes)) <= LARGEST_FRACTION:
        return f"the boxes look like fractions of the image's width and height; {expected}"
    forms = {
        "corners x1 y1 x2 y2": [
            np.hstack([each[:, :2], size]) for each, size in zip(boxes, sizes, strict=True)
        ],
        "a center and a size, cx cy w h": [
            each - np.tile(size / 2, 2) for each, size in zip(boxes, sizes, strict=True)
        ],
        "y before x, y x h w": [each[:, [1, 0, 3, 2]] for each in boxes],
    }
    ap = {}
    for form, of_images in forms.items():
        pairs = zip(of_images, detections, strict=True)
        same = [Detections(each, old.scores, None) for each, old in pairs]
        curves = wider_curves(same, ground_truth)
        ap[form] = max(curve.ap for curve in curves.values())
    best = max(ap, key=lambda form: ap[form])
    if ap[best] < MIN_AP_OF_FORM:
        return f"next to no box matches a face; {expected} as stored, without its EXIF rotation"
    return f"the boxes look like {best}, with which AP would be {ap[best]:.2f}; {expected}"
