"""The official WIDER FACE ground truth for validation: which faces are easy, medium and hard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.records import BOX, FaceRecord
from utils.arrays import BoolArray

SETTINGS = ("easy", "medium", "hard")


def read_ground_truth(folder: str | Path) -> dict[str, dict[str, NDArray[np.float64]]]:
    """For each setting the kept faces (N,4) x y w h of each image, by `event/name` without suffix, from wider_{easy,medium,hard}_val.mat.

    FileNotFoundError or ValueError that names the file, or says what to install.
    """
    return {setting: _read_setting(Path(folder) / f"wider_{setting}_val.mat") for setting in SETTINGS}


def _read_setting(path: Path) -> dict[str, NDArray[np.float64]]:
    try:
        from scipy.io import loadmat
    except ModuleNotFoundError:
        raise ValueError(f"{path}: reading the official lists needs scipy: pip install -e .[eval]") from None
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such list; expected the official wider_easy_val.mat, wider_medium_val.mat, wider_hard_val.mat")
    try:
        content: Mapping[str, Any] = loadmat(path)
        faces = {}
        for event, files, boxes, kept in zip(
            content["event_list"], content["file_list"], content["face_bbx_list"], content["gt_list"], strict=True
        ):
            for name, of_image, numbers in zip(files[0], boxes[0], kept[0], strict=True):
                rows = np.asarray(of_image[0], dtype=np.float64).reshape(-1, 4)
                faces[f"{event[0][0]}/{name[0][0]}"] = rows[np.asarray(numbers[0], dtype=np.int64).ravel() - 1]
    except Exception as error:    # scipy raises whatever a damaged file leads to
        raise ValueError(f"{path}: not one of the official WIDER FACE lists: {str(error)[:80]}") from None
    return faces


def split_faces(records: Sequence[FaceRecord], truth: Mapping[str, Mapping[str, NDArray[np.float64]]]) -> dict[str, list[BoolArray]]:
    """For each setting, and each record, which of its faces (N,) are in the official list, told by their box in whole pixels.

    ValueError where no image of the records is one of the official ones.
    """
    names = [record.path.rpartition(".")[0] for record in records]
    if not any(name in faces for faces in truth.values() for name in names):
        raise ValueError(f"--ground-truth: has none of the {len(records):,} images, such as {records[0].path}")
    return {
        setting: [_in_list(record, faces.get(name)) for record, name in zip(records, names, strict=True)]
        for setting, faces in truth.items()
    }


def _in_list(record: FaceRecord, official: NDArray[np.float64] | None) -> BoolArray:
    kept = set() if official is None else set(map(tuple, np.rint(official).tolist()))
    return np.array([row in kept for row in map(tuple, np.rint(record.rows[:, BOX]).tolist())], dtype=bool)
