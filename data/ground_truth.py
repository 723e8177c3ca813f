"""The official WIDER FACE ground truth for validation: which faces are easy, medium and hard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.records import BOX, FaceRecord
from utils.arrays import BoolArray
from utils.wider_eval import SETTINGS, OfficialFaces


def read_ground_truth(folder: str | Path) -> dict[str, OfficialFaces]:
    """The faces of each image by `event/name` without suffix, from wider_{easy,medium,hard}_val.mat.

    FileNotFoundError or ValueError that names the file, or says what to install.
    """
    official: dict[str, OfficialFaces] = {}
    for setting in SETTINGS:
        for name, boxes, kept in _read_setting(Path(folder) / f"wider_{setting}_val.mat"):
            official.setdefault(name, OfficialFaces(boxes, {})).kept[setting] = kept
    return official


def _read_setting(path: Path) -> list[tuple[str, NDArray[np.float64], BoolArray]]:
    """The name, boxes (N,4) x y w h and kept faces (N,) of each image."""
    try:
        from scipy.io import loadmat
    except ModuleNotFoundError:
        raise ValueError(f'{path}: reading the official lists needs scipy: pip install -e ".[eval]"') from None
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such list; expected the official wider_easy_val.mat, wider_medium_val.mat, wider_hard_val.mat")
    images = []
    try:
        content: Mapping[str, Any] = loadmat(path)
        parts = (content[key] for key in ("event_list", "file_list", "face_bbx_list", "gt_list"))
        for event, files, boxes, kept in zip(*parts, strict=True):
            for name, of_image, numbers in zip(files[0], boxes[0], kept[0], strict=True):
                rows = np.asarray(of_image[0], dtype=np.float64).reshape(-1, 4)
                mask = np.zeros(len(rows), dtype=bool)
                mask[np.asarray(numbers[0], dtype=np.int64).ravel() - 1] = True
                images.append((f"{event[0][0]}/{name[0][0]}", rows, mask))
    except Exception as error:    # scipy raises whatever a damaged file leads to
        raise ValueError(f"{path}: not one of the official WIDER FACE lists: {str(error)[:80]}") from None
    return images


def faces_of_images(paths: Sequence[str], official: Mapping[str, OfficialFaces], *, source: str) -> list[OfficialFaces]:
    """The official faces of images, told by the event folder and name that their paths end with; none of an image that is not listed.

    ValueError that names `source` where no image is listed.
    """
    names = ["/".join(path.replace("\\", "/").rpartition(".")[0].split("/")[-2:]) for path in paths]
    if not any(name in official for name in names):
        raise ValueError(f"{source}: has none of the {len(paths):,} images, such as {paths[0]}")
    nothing = OfficialFaces(np.zeros((0, 4)), {setting: np.zeros(0, dtype=bool) for setting in SETTINGS})
    return [official.get(name, nothing) for name in names]


def split_faces(records: Sequence[FaceRecord], official: Mapping[str, OfficialFaces]) -> dict[str, list[BoolArray]]:
    """For each setting, and each record, which of its faces (N,) are in the official list, told by their box in whole pixels.

    ValueError where no image of the records is one of the official ones.
    """
    faces = faces_of_images([record.path for record in records], official, source="--ground-truth")
    return {
        setting: [_in_list(record, of_image.boxes[of_image.kept[setting]]) for record, of_image in zip(records, faces, strict=True)]
        for setting in SETTINGS
    }


def _in_list(record: FaceRecord, official: NDArray[np.float64]) -> BoolArray:
    kept = set(map(tuple, np.rint(official).tolist()))
    return np.array([row in kept for row in map(tuple, np.rint(record.rows[:, BOX]).tolist())], dtype=bool)
