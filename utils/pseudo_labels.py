"""Labels made of detections: combine two detectors, filter false detections, write COCO JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from utils.arrays import BoolArray, FloatArray
from utils.box_utils import jaccard
from utils.script import count_of
from utils.structures import Detections, Photo, Target

R = TypeVar("R")

AGREE_IOU = 0.4    # from here on the boxes of two detectors show one face
ALONE = 0.3    # what the score of a box that only one of them has is multiplied by
NEW_IOU = 0.3    # a detection that overlaps a labeled face this much is not added to the label
MARGIN = 0.15    # of a box's width and height, on each side, in which a head point may lie
KEYPOINTS = ("left_eye", "right_eye", "nose", "left_mouth_corner", "right_mouth_corner")


def combine(first: Detections, second: Detections) -> Detections:
    """Combine what two detectors detect in an image, best first.

    Each box of the first takes, by falling score, the best free box of the second with IoU >= 0.4;
    both then become one with the mean of their boxes and of their scores. Boxes that only one of
    them has keep 0.3 of their score. Landmarks are those of the first detector, NaN without any.
    """
    iou = jaccard(torch.from_numpy(first.boxes), torch.from_numpy(second.boxes)).numpy()    # (N, M)
    boxes, scores = first.boxes.copy(), first.scores * np.float32(ALONE)
    free = np.ones(len(second), bool)
    for index in np.argsort(-first.scores, kind="stable"):
        candidates = np.flatnonzero(free & (iou[index] >= AGREE_IOU))
        if candidates.size:
            other = candidates[iou[index, candidates].argmax()]
            free[other] = False
            boxes[index] = (first.boxes[index] + second.boxes[other]) / 2
            scores[index] = (first.scores[index] + second.scores[other]) / 2
    alone = int(free.sum())
    landmarks = first.landmarks
    if landmarks is not None:
        landmarks = np.concatenate([landmarks, np.full((alone, 5, 2), np.nan, np.float32)])
    boxes = np.concatenate([boxes, second.boxes[free]])
    scores = np.concatenate([scores, second.scores[free] * np.float32(ALONE)])
    order = np.argsort(-scores, kind="stable")
    return Detections(boxes[order], scores[order], None if landmarks is None else landmarks[order])


def near_points(boxes: FloatArray, points: FloatArray) -> BoolArray:
    """Mark the boxes (N,4) xyxy that hold one of the points (P,2) when enlarged by 15 % a side."""
    margin = MARGIN * (boxes[:, 2:] - boxes[:, :2])
    low, high = (
        boxes[:, None, :2] - margin[:, None],
        boxes[:, None, 2:] + margin[:, None],
    )    # (N, 1, 2)
    inside = np.logical_and.reduce((points >= low) & (points <= high), axis=2)    # (N, P)
    return np.logical_or.reduce(inside, axis=1)


def overlaps_face(boxes: FloatArray, target: Target) -> BoolArray:
    """Mark the boxes (N,4) xyxy with an IoU of at least 0.3 with a labeled face."""
    iou = jaccard(torch.from_numpy(boxes), target.boxes)    # (N, M)
    return (
        np.asarray((iou >= NEW_IOU).any(dim=1).numpy())
        if iou.shape[1]
        else np.zeros(len(boxes), bool)
    )


def read_head_points(paths: Sequence[Path]) -> dict[str, FloatArray]:
    """Read JSON files of image names with head centers [x, y] or head boxes [x, y, w, h].

    Returns the centers (P,2) by image name. ValueError that names the file and the image.
    """
    points: dict[str, FloatArray] = {}
    for path in paths:
        content = _read_json(path)
        if not isinstance(content, dict):
            raise ValueError(
                f"{path}: expected image names with lists of points, found {type(content).__name__}"
            )
        for name, rows in content.items():
            try:
                array = np.array(rows, np.float32).reshape(len(rows), -1 if len(rows) else 2)
            except (TypeError, ValueError):
                array = np.zeros((0, 0), np.float32)
            if array.shape[1] not in (2, 4) or not np.isfinite(array).all():
                raise ValueError(f"{path}: {name}: expected points [x, y] or boxes [x, y, w, h]")
            if name in points:
                raise ValueError(f"{path}: {name}: is named twice")
            points[name] = array if array.shape[1] == 2 else array[:, :2] + array[:, 2:] / 2
    return points


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not readable as JSON: {error}") from None


def read_detections(path: Path) -> dict[str, tuple[tuple[int, int], Detections]]:
    """Read detections in the form of detections.jsonl; `landmarks` and `frame` may be missing.

    Returns the image size (width, height) and the detections by the source of each line.
    FileNotFoundError, or ValueError that names the line.
    """
    found: dict[str, tuple[tuple[int, int], Detections]] = {}
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file of detections")
    with open(path, encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                image = json.loads(line)
                source, size = str(image["source"]), (int(image["width"]), int(image["height"]))
                detections = _to_detections(image["detections"])
            except (ValueError, KeyError, TypeError) as error:
                expected = (
                    "expected an object with source, width, height and detections of box and score"
                )
                raise ValueError(
                    f"{path}:{number}: {expected} ({type(error).__name__}: {error})"
                ) from None
            if source in found:
                raise ValueError(f"{path}:{number}: {source}: two lines for one image")
            found[source] = size, detections
    return found


def _to_detections(rows: Sequence[Mapping[str, Any]]) -> Detections:
    boxes = np.array([row["box"] for row in rows], np.float32).reshape(-1, 4)
    scores = np.array([row["score"] for row in rows], np.float32)
    if not (np.isfinite(boxes).all() and np.isfinite(scores).all()) or len(boxes) != len(rows):
        raise ValueError("a box or a score is not a number")
    order = np.argsort(-scores, kind="stable")
    return Detections(boxes[order], scores[order], None)


def match_by_path(names: Sequence[str], named: Mapping[str, R]) -> dict[str, R]:
    """Return the value of each image whose path below the image folder is a key of `named`, or the
    end of exactly one key, such as "a.jpg" of "photos/a.jpg"."""
    by_base: dict[str, list[str]] = {}
    for key in named:
        by_base.setdefault(_split_path(key)[-1], []).append(key)
    matched = {}
    for name in names:
        parts = _split_path(name)
        keys = [
            key for key in by_base.get(parts[-1], []) if _split_path(key)[-len(parts) :] == parts
        ]
        if name in named:
            matched[name] = named[name]
        elif len(keys) == 1:
            matched[name] = named[keys[0]]
    return matched


def _split_path(path: str) -> list[str]:
    return path.replace("\\", "/").split("/")


class CocoLabels:
    """Collects images and their faces as COCO has them; ignored ones have `iscrowd` 1."""

    def __init__(self) -> None:
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []

    def add_image(self, name: str, *, width: int, height: int) -> None:
        """Begin an image; faces that are added next are its own."""
        self.images.append(
            {"id": len(self.images) + 1, "file_name": name, "width": width, "height": height}
        )

    def add_face(
        self,
        box: FloatArray,
        landmarks: FloatArray | None,
        has_landmarks: BoolArray | None = None,
        *,
        ignore: bool,
        score: float | None = None,
    ) -> None:
        """Add a face: its box (4,) xyxy, landmarks (5,2) and which of them are labeled (5,); points
        that are NaN are not."""
        x1, y1, x2, y2 = (round(float(value), 2) for value in box)
        width, height = round(x2 - x1, 2), round(y2 - y1, 2)
        face: dict[str, Any] = {
            "id": len(self.annotations) + 1,
            "image_id": len(self.images),
            "category_id": 1,
            "bbox": [x1, y1, width, height],
            "area": round(width * height, 2),
            "iscrowd": int(ignore),
        }
        if landmarks is not None:
            known = np.logical_and.reduce(np.isfinite(landmarks), axis=1)    # (5,)
            if has_landmarks is not None:
                known = known & has_landmarks
            if known.any():
                points = [
                    [round(float(x), 2), round(float(y), 2), 2] if is_known else [0, 0, 0]
                    for (x, y), is_known in zip(landmarks, known, strict=True)
                ]
                face |= {
                    "keypoints": [number for point in points for number in point],
                    "num_keypoints": int(known.sum()),
                }
        if score is not None:
            face["score"] = round(score, 4)
        self.annotations.append(face)

    def add_detections(
        self, detections: Detections, *, confidence: float, width: int, height: int
    ) -> None:
        """Add detections of an image of width x height pixels; under `confidence` as ignored ones."""
        clipped = replace(detections.clipped(width, height), landmarks=detections.landmarks)
        for index, (box, score) in enumerate(zip(clipped.boxes, clipped.scores, strict=True)):
            if (box[2:] > box[:2]).all():
                landmarks = None if clipped.landmarks is None else clipped.landmarks[index]
                self.add_face(box, landmarks, ignore=bool(score < confidence), score=float(score))

    def add_photo(self, photo: Photo, detections: Detections) -> None:
        """Add a labeled photo with its faces, and detections that overlap none of them as ignored."""
        assert photo.image is not None
        height, width = photo.image.shape[:2]
        self.add_image(photo.name, width=width, height=height)
        boxes, landmarks, known, ignore = (part.numpy() for part in photo.target.parts())
        for face in zip(boxes, landmarks, known, ignore, strict=True):
            self.add_face(*face[:3], ignore=bool(face[3]))
        others = detections.where(~overlaps_face(detections.boxes, photo.target))
        self.add_detections(others, confidence=math.inf, width=width, height=height)

    def to_json(self) -> dict[str, Any]:
        """Return the label as COCO JSON has it."""
        category = {"id": 1, "name": "face", "keypoints": list(KEYPOINTS)}
        return {"images": self.images, "annotations": self.annotations, "categories": [category]}

    def describe(self) -> str:
        """Say how many images and faces there are."""
        ignored = sum(face["iscrowd"] for face in self.annotations)
        images = count_of(len(self.images), "image")
        return f"{images}, {count_of(len(self.annotations) - ignored, 'face')}, {ignored:,} ignored"
