from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from data.ground_truth import faces_of_images, read_ground_truth
from utils.structures import Detections
from utils.wider_eval import SETTINGS, OfficialFaces, wider_curves


def faces(boxes: list[list[float]], kept: list[bool]) -> OfficialFaces:
    return OfficialFaces(np.array(boxes, float).reshape(-1, 4), {setting: np.array(kept, bool) for setting in SETTINGS})


def found(rows: list[list[float]]) -> Detections:
    array = np.array(rows, float).reshape(-1, 5)
    return Detections(array[:, :4], array[:, 4], None)    # type: ignore[arg-type]


def wider_ap(detections: list[Detections], of_images: list[OfficialFaces]) -> dict[str, float]:
    return {setting: curve.ap for setting, curve in wider_curves(detections, of_images).items()}


def plain_ap(detections: list[Detections], of_images: list[OfficialFaces]) -> float:
    """The protocol step by step, threshold by threshold."""
    scores = np.concatenate([each.scores for each in detections])
    low, high = scores.min(), scores.max()
    proposals, right, wanted = np.zeros(1000), np.zeros(1000), 0
    for each, of_image in zip(detections, of_images, strict=True):
        kept = of_image.kept["hard"]
        wanted += kept.sum()
        taken: set[int] = set()
        if not len(of_image.boxes):
            continue
        for index in sorted(range(len(each)), key=lambda index: -each.scores[index]):
            overlaps = [iou_plus_one(each.boxes[index], box) for box in of_image.boxes]
            face = int(np.argmax(overlaps))
            enters = (each.scores[index] - low) / (high - low) >= 1 - np.arange(1, 1001) / 1000
            if overlaps[face] >= 0.5 and not kept[face]:
                continue
            proposals += enters
            if overlaps[face] >= 0.5 and face not in taken:
                taken.add(face)
                right += enters
    recall, precision = [0.0, *(right / wanted), 1.0], [0.0, *(right / np.maximum(proposals, 1)), 0.0]
    return sum((recall[i + 1] - recall[i]) * max(precision[i + 1 :]) for i in range(len(recall) - 1))


def iou_plus_one(box: NDArray[np.float64], face: NDArray[np.float64]) -> float:
    x1, y1, x2, y2 = face[0], face[1], face[0] + face[2], face[1] + face[3]
    width = min(box[2], x2) - max(box[0], x1) + 1
    height = min(box[3], y2) - max(box[1], y1) + 1
    if width <= 0 or height <= 0:
        return 0.0
    return width * height / ((box[2] - box[0] + 1) * (box[3] - box[1] + 1) + (face[2] + 1) * (face[3] + 1) - width * height)


@pytest.mark.parametrize("seed", range(20))
def test_scoring_equals_the_plain_protocol(seed: int) -> None:
    rng = np.random.default_rng(seed)
    detections, of_images = [], []
    for _ in range(6):
        count = int(rng.integers(0, 6))
        corners, sides = rng.integers(0, 60, (count, 2)), rng.integers(3, 30, (count, 2))
        of_images.append(faces(np.hstack([corners, sides]).tolist(), (rng.random(count) < 0.7).tolist()))
        near = np.repeat(np.hstack([corners, corners + sides]), 3, axis=0) + rng.normal(0, 3, (3 * count, 4))
        wild = rng.uniform([0, 0, 20, 20], [40, 40, 60, 60], (3, 4))
        boxes = np.vstack([near, wild])
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
        detections.append(found(np.hstack([boxes, rng.integers(1, 99, (len(boxes), 1)) / 100]).tolist()))
    assert wider_ap(detections, of_images)["hard"] == pytest.approx(plain_ap(detections, of_images), abs=1e-12)


def test_face_not_to_be_found_neither_helps_nor_harms_and_a_second_box_on_one_is_wrong() -> None:
    of_images = [faces([[0, 0, 20, 20], [50, 50, 20, 20]], [True, False])]
    other, right = [50.0, 50, 70, 70], [0.0, 0, 20, 20]
    assert wider_ap([found([[*other, 0.9], [*other, 0.8], [*right, 0.5]])], of_images)["easy"] == 1
    # The doubled box comes before the second face, so half of the recall has a precision of 2 / 3.
    two = [faces([[0, 0, 20, 20], [50, 50, 20, 20]], [True, True])]
    doubled = found([[*right, 0.9], [*right, 0.8], [*other, 0.5], [*other, 0.1]])
    assert wider_ap([doubled], two)["easy"] == pytest.approx(0.5 + 0.5 * 2 / 3)


def test_nothing_found_and_nothing_to_find_give_nothing() -> None:
    assert wider_ap([found([])], [faces([[0, 0, 9, 9]], [True])]) == dict.fromkeys(SETTINGS, 0.0)
    assert wider_ap([found([[0, 0, 9, 9, 0.5]])], [faces([], [])]) == dict.fromkeys(SETTINGS, 0.0)


def test_images_are_told_by_their_event_and_name() -> None:
    official = {"0--Parade/a": faces([[1, 2, 3, 4]], [True])}
    paths = ["/data/wider/images/0--Parade/a.jpg", "/data/wider/images/1--Other/a.jpg"]
    assert [len(each.boxes) for each in faces_of_images(paths, official, source="data.ground_truth")] == [1, 0]
    with pytest.raises(ValueError, match=r"data.ground_truth: has none of the 1 images, such as b.jpg"):
        faces_of_images(["b.jpg"], official, source="data.ground_truth")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "expected"),
    [("illenium7_yolov5face", (0.94386, 0.92521, 0.82738)), ("MAhaitao999_retinaface_mb025", (0.89787, 0.87327, 0.75944))],
)
def test_saved_predictions_give_their_known_figures(real_data: Path, name: str, expected: tuple[float, ...]) -> None:
    saved: dict[str, Detections] = {}
    with tarfile.open(real_data / "wider_eval" / f"{name}.tar.xz") as archive:
        for member in archive:
            if member.name.endswith(".txt"):
                text = io.TextIOWrapper(archive.extractfile(member), encoding="utf-8").read()    # type: ignore[arg-type]
                rows = np.array([line.split()[:5] for line in text.splitlines()[2:] if line.strip()], float).reshape(-1, 5)
                rows[:, 2:4] += rows[:, :2]
                saved["/".join(member.name[:-4].split("/")[-2:])] = found(rows.tolist())
    official = read_ground_truth(real_data / "wider_eval")
    figures = wider_ap([saved.get(image, found([])) for image in official], list(official.values()))
    assert list(figures.values()) == pytest.approx(expected, abs=1e-5)


def test_scores_are_stretched_over_all_of_their_range() -> None:
    """Scores that differ by less than a threshold step are told apart once they are stretched."""
    of_image = faces([[0, 0, 20, 20]], [True])
    detections = found([[0, 0, 20, 20, 0.9004], [100, 100, 120, 120, 0.9]])
    assert wider_ap([detections], [of_image])["hard"] == pytest.approx(1.0)
