"""Detections as text files, in the form that the WIDER FACE evaluation reads: a folder per event, a file per image.

The first line of a file is the name of the image, the second how many detections follow, and each of these is `x y w h score`.
"""

from __future__ import annotations

from pathlib import Path, PurePath

import numpy as np

from utils.files import whole_file
from utils.structures import Detections


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
        partial.write_text("\n".join(lines) + "\n", encoding="utf-8")


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
