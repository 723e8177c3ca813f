"""Labels made of detections: combining two detectors, filtering, and test.py --write-labels."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import RunScript, make_target
from PIL import Image

from config import DataConfig
from data.labels import read_labels
from data.synthetic import draw_set
from utils.pseudo_labels import (
    CocoLabels,
    combine,
    match_by_path,
    near_points,
    overlaps_face,
    read_detections,
    read_head_points,
)
from utils.structures import Detections


def found(rows: list[list[float]], landmarks: np.ndarray | None = None) -> Detections:
    array = np.array(rows, np.float32).reshape(-1, 5)
    return Detections(array[:, :4], array[:, 4], landmarks)


def test_boxes_that_agree_are_averaged_and_others_lose_score() -> None:
    points = np.arange(20, dtype=np.float32).reshape(2, 5, 2)
    first = found([[0, 0, 10, 10, 0.8], [50, 0, 60, 10, 0.6]], points)
    second = found([[2, 0, 12, 10, 0.6], [0, 0, 10, 4, 0.5], [90, 0, 99, 9, 1.0]])
    both = combine(first, second)
    assert both.boxes.tolist() == [[1, 0, 11, 10], [90, 0, 99, 9], [50, 0, 60, 10], [0, 0, 10, 4]]
    assert both.scores.tolist() == pytest.approx([0.7, 0.3, 0.18, 0.15])
    assert both.landmarks is not None
    assert np.array_equal(both.landmarks[[0, 2]], points) and np.isnan(both.landmarks[[1, 3]]).all()


def test_best_box_of_the_first_chooses_first() -> None:
    first = found([[0, 0, 10, 10, 0.9], [1, 0, 11, 10, 0.5]])
    both = combine(first, found([[1, 0, 11, 10, 0.5]]))
    assert both.scores.tolist() == pytest.approx([0.7, 0.15]) and both.landmarks is None
    empty = Detections.none()
    assert len(combine(empty, empty)) == 0
    assert combine(first, empty).scores.tolist() == pytest.approx([0.27, 0.15])
    assert combine(empty, first).scores.tolist() == pytest.approx([0.27, 0.15])


def test_point_may_lie_fifteen_percent_beyond_a_box() -> None:
    boxes = np.array([[10, 10, 20, 30]], np.float32)
    for point, expected in (
        ((8.6, 10), True),
        ((8.4, 10), False),
        ((15, 32.9), True),
        ((15, 33.1), False),
    ):
        assert near_points(boxes, np.array([point], np.float32)).tolist() == [expected]
    assert near_points(boxes, np.zeros((0, 2), np.float32)).tolist() == [False]
    assert near_points(boxes[:0], np.zeros((3, 2), np.float32)).shape == (0,)


def test_detections_of_labeled_faces_are_told_from_new_ones() -> None:
    target = make_target([[0, 0, 10, 10]])
    boxes = np.array([[0, 0, 10, 3.1], [0, 0, 10, 2.9], [50, 50, 60, 60]], np.float32)
    assert overlaps_face(boxes, target).tolist() == [True, False, False]
    assert overlaps_face(boxes, make_target([])).tolist() == [False] * 3


def test_head_points_and_boxes_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a.jpg": [[1, 2], [3, 4]], "b.jpg": []}')
    (tmp_path / "b.json").write_text('{"c.jpg": [[10, 20, 4, 6]]}')
    points = read_head_points([tmp_path / "a.json", tmp_path / "b.json"])
    assert {name: array.tolist() for name, array in points.items()} == {
        "a.jpg": [[1, 2], [3, 4]], "b.jpg": [], "c.jpg": [[12, 23]],
    }  # fmt: skip
    assert points["b.jpg"].shape == (0, 2)
    for text, message in [
        ('{"a.jpg": [[1, 2, 3]]}', "bad.json: a.jpg: expected points"),
        ('{"a.jpg": [[1], [2, 3]]}', "bad.json: a.jpg: expected points"),
        ('{"a.jpg": 5}', "bad.json: a.jpg: expected points"),
        ("[1]", "bad.json: expected image names with lists of points, found list"),
        ("{", "bad.json: not readable as JSON"),
    ]:
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            read_head_points([tmp_path / "bad.json"])
    with pytest.raises(ValueError, match="a.jpg: is named twice"):
        read_head_points([tmp_path / "a.json", tmp_path / "a.json"])
    with pytest.raises(FileNotFoundError, match="no.json: no such file"):
        read_head_points([tmp_path / "no.json"])


def line(source: str, *rows: list[float], **more: object) -> str:
    detections = [{"box": row[:4], "score": row[4]} for row in rows]
    return (
        json.dumps({"source": source, "width": 64, "height": 64, "detections": detections, **more})
        + "\n"
    )


def test_detections_of_another_detector_are_read(tmp_path: Path) -> None:
    path = tmp_path / "second.jsonl"
    path.write_text(
        line("x/a.jpg", [0, 0, 5, 5, 0.2], [1, 1, 9, 9, 0.7], scale=2) + "\n" + line("b.jpg")
    )
    second = read_detections(path)
    size, detections = second["x/a.jpg"]
    assert size == (64, 64) and detections.scores.tolist() == pytest.approx([0.7, 0.2])
    assert len(second["b.jpg"][1]) == 0
    for text, message in [
        (line("a.jpg") + line("a.jpg"), "second.jsonl:2: a.jpg: two lines for one image"),
        ("{}\n", "second.jsonl:1: expected an object with source, width, height and detections"),
        ("[]\n", "second.jsonl:1: expected an object"),
        (
            line("a.jpg").replace("[]", '[{"box": [1, 2], "score": 1}]'),
            "second.jsonl:1: expected an object",
        ),
    ]:
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_detections(path)


def test_images_are_matched_by_the_end_of_their_path() -> None:
    named = {"x/a.jpg": 1, "y\\b.jpg": 2, "c.jpg": 3, "p/d.jpg": 4, "q/d.jpg": 5}
    names = ["a.jpg", "b.jpg", "y/b.jpg", "z/c.jpg", "c.jpg", "d.jpg", "q/d.jpg", "jpg", "e.jpg"]
    assert match_by_path(names, named) == {
        "a.jpg": 1,
        "b.jpg": 2,
        "y/b.jpg": 2,
        "c.jpg": 3,
        "q/d.jpg": 5,
    }


def test_labels_come_back_as_they_were_written(tmp_path: Path) -> None:
    labels = CocoLabels()
    labels.add_image("a.jpg", width=100, height=80)
    points = np.array(
        [[[12, 12], [18, 12], [15, 15], [12, 18], [18, 18]], np.full((5, 2), np.nan)], np.float32
    )
    detections = found([[10, 10, 20.25, 20, 0.9], [-5, 60, 10, 90, 0.3]], points)
    labels.add_detections(detections, confidence=0.5, width=100, height=80)
    labels.add_image("b.jpg", width=10, height=10)
    (tmp_path / "label.json").write_text(json.dumps(labels.to_json()))
    first, second = read_labels(tmp_path / "label.json", config=DataConfig())
    assert first.boxes.tolist() == [[10, 10, 20.25, 20], [0, 60, 10, 80]]
    assert first.ignore.tolist() == [False, True]
    assert np.array_equal(first.landmarks[0], points[0]) and not first.has_landmarks[1].any()
    assert (second.path, len(second)) == ("b.jpg", 0)
    assert labels.describe() == "2 images, 1 face, 1 ignored"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return draw_set(tmp_path / "set", images=4, size=128, seed=3).parent / "images"


def test_images_are_labeled_by_a_detector(photos: Path, tmp_path: Path, run: RunScript) -> None:
    out = tmp_path / "set" / "label.json"
    result = run(
        "test", photos, "--write-labels", out, "test.confidence=0.05", "test.draw_confidence=0.8"
    )
    assert (result.code, result.err) == (0, "")
    assert f"written {out}: 4 images, " in result.out and "data.images" not in result.out
    label = json.loads(out.read_text())
    assert [image["file_name"] for image in label["images"]] == sorted(
        path.name for path in photos.iterdir()
    )
    assert {face["iscrowd"] == 1 for face in label["annotations"]} == {True, False}
    for face in label["annotations"]:
        assert face["iscrowd"] == int(face["score"] < 0.8) and face["score"] >= 0.05
        assert len(face["keypoints"]) == 15
    trained = run(
        "train", "--preset", "demo", "data.synthetic=0", f"data.train={out}", "data.size=64",
        "data.workers=0", "train.max_steps=1", "train.batch_size=4", "--output", tmp_path / "run",
    )  # fmt: skip
    assert trained.code == 0, trained.err

    # Without a head in the first image, and with the second detector's boxes alone in another.
    names = [image["file_name"] for image in label["images"]]
    (tmp_path / "heads.json").write_text(json.dumps({names[0]: []}))
    (tmp_path / "second.jsonl").write_text(
        line(names[1], [100, 100, 120, 120, 1.0], width=128, height=128)
    )
    words = ["--head-points", tmp_path / "heads.json", "--second", tmp_path / "second.jsonl"]
    result = run("test", photos, "--write-labels", out, *words, "test.confidence=0.1")
    assert result.code == 0, result.err
    label = json.loads(out.read_text())
    of_image = [
        [face for face in label["annotations"] if face["image_id"] == number] for number in (1, 2)
    ]
    assert of_image[0] == []
    (added,) = [face for face in of_image[1] if "keypoints" not in face]
    assert added["bbox"] == [100, 100, 20, 20] and added["score"] == pytest.approx(0.3)


def test_labeled_set_keeps_its_faces_and_gets_ignored_ones(
    photos: Path, tmp_path: Path, run: RunScript
) -> None:
    label = photos.parent / "label.txt"
    out = tmp_path / "set" / "more.json"
    words = ["--output", tmp_path / "score", "--write-labels", out, "test.confidence=0.05"]
    assert run("test", "--labels", label, *words).code == 0
    before, after = read_labels(label), read_labels(out)
    for one, other in zip(before, after, strict=True):
        count = len(one)
        assert np.allclose(one.boxes, other.boxes[:count], atol=0.02)
        assert np.allclose(one.landmarks, other.landmarks[:count], atol=0.02)
        assert not other.ignore[:count].any() and other.ignore[count:].all()
    assert sum(map(len, after)) > sum(map(len, before))


def test_turned_and_damaged_images_are_left_out(
    photos: Path, tmp_path: Path, run: RunScript
) -> None:
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", (40, 30)).save(photos / "turned.jpg", exif=exif)
    (photos / "damaged.jpg").write_bytes(b"no image")
    result = run("test", photos, "--write-labels", tmp_path / "label.json")
    assert result.code == 1
    assert (
        "turned.jpg: is turned by its EXIF tag" in result.err
        and "damaged.jpg: not a readable image" in result.err
    )
    assert len(json.loads((tmp_path / "label.json").read_text())["images"]) == 4
    assert f"use it with data.images={photos}" in result.out


def test_mistakes_of_write_labels_are_one_line(
    photos: Path, tmp_path: Path, run: RunScript
) -> None:
    video = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter.fourcc(*"MJPG"), 5, (64, 64))
    writer.write(np.zeros((64, 64, 3), np.uint8))
    writer.release()
    label = photos.parent / "label.txt"
    heads, out = tmp_path / "heads.json", tmp_path / "out.json"
    heads.write_text('{"other.jpg": [[1, 2]]}')
    name = sorted(path.name for path in photos.iterdir())[0]
    (tmp_path / "size.jsonl").write_text(line(name))
    for words, message in [
        (
            [photos, "--head-points", heads],
            "--head-points, --second: go with SOURCE ... --write-labels FILE",
        ),
        (["--labels", label, "--write-labels", out, "--second", heads], "go with SOURCE"),
        ([video, "--write-labels", out], "--write-labels: expected images, found "),
        (["--labels", label, "--write-labels", label], "would write over a label that is read"),
        ([photos, "--write-labels", tmp_path], "expected a file, found a folder"),
        (
            [photos, "--write-labels", out, "--head-points", heads],
            "--head-points: names none of the 4 images",
        ),
        (
            [photos, "--write-labels", out, "--second", tmp_path / "size.jsonl"],
            "expected 128 x 128 pixels as the image has, found 64 x 64",
        ),
        ([photos, "--write-labels", out, "--show"], "without --show"),
    ]:
        assert message in run("test", *words).complaint
        assert not out.exists()
