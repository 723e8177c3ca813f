"""COCO files as other tools write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import RunScript

from config import DataConfig
from data.keypoints import order_points
from data.labels import read_labels
from data.records import Fault
from utils.images import write_image

POINTS = [[20, 20], [40, 20], [30, 30], [22, 42], [38, 42]]    # left to right in the image
BOX = [10, 10, 40, 40]


def write(path: Path, annotations: list[dict[str, Any]], *, categories: list[dict[str, Any]] | None = None, images: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    content: dict[str, Any] = {
        "images": [{"id": n, "file_name": f"{n}.jpg", "width": 64, "height": 64} for n in range(1, images + 1)],
        "annotations": [{"id": n, "image_id": 1, "category_id": 1, **each} for n, each in enumerate(annotations, start=1)],
    }
    if categories is not None:
        content["categories"] = categories
    for n in range(1, images + 1):
        write_image(path.parent / "images" / f"{n}.jpg", np.zeros((64, 64, 3), np.uint8))
    path.write_text(json.dumps(content))
    return path


def flat(points: list[list[int]]) -> list[int]:
    return [number for point in points for number in (*point, 2)]


@pytest.mark.parametrize(
    ("names", "order"),
    [
        (["nose", "left_eye", "right_eye", "left_mouth", "right_mouth"], [2, 0, 1, 3, 4]),
        (["Right Eye", "LeftEye", "mouth_right", "nose_tip", "lip_left"], [1, 0, 4, 2, 3]),
        (["leye", "reye", "nose", "mouth_l", "mouth_r"], [0, 1, 2, 3, 4]),
        (["left_eye_center", "right_eye_center", "nose_tip", "left_mouth_corner", "right_mouth_corner"], [0, 1, 2, 3, 4]),
        (["mouthRight", "Left Eye", "NOSE", "rightEye", "LIP_LEFT"], [4, 0, 2, 1, 3]),
        (["eye_r", "eye_l", "nose", "right mouth corner", "left mouth corner"], [1, 0, 2, 4, 3]),
    ],
)
@pytest.mark.parametrize("of_the_person", [False, True])
def test_keypoints_are_ordered_by_their_names(names: list[str], order: list[int], of_the_person: bool, tmp_path: Path) -> None:
    """Also where left is the person's own left, which lies right in the image."""
    meant = [{0: 1, 1: 0, 2: 2, 3: 4, 4: 3}[place] for place in order] if of_the_person else order
    points = flat([POINTS[place] for place in meant])
    categories = [{"id": 1, "name": "face", "keypoints": names}]
    path = write(tmp_path / "a.json", [{"bbox": BOX, "keypoints": points}] * 3, categories=categories)
    for points_read in read_labels(path)[0].landmarks:
        assert points_read.tolist() == POINTS


@pytest.mark.parametrize("name", ["left_eyebrow", "ear", "p1", "eye"])
def test_names_that_are_no_landmarks_are_not_understood(name: str) -> None:
    assert order_points([name, "right_eye", "nose", "left_mouth", "right_mouth"]) is None


def test_names_that_are_not_understood_are_a_problem(tmp_path: Path, run: RunScript) -> None:
    categories = [{"id": 1, "name": "face", "keypoints": ["p1", "p2", "p3", "p4", "p5"]}]
    path = write(tmp_path / "a.json", [{"bbox": BOX, "keypoints": flat(POINTS)}], categories=categories)
    with pytest.raises(ValueError, match=r"a.json: category 'face': expected the names of two eyes, a nose and two mouth corners"):
        read_labels(path)
    run("analyze_data", path, "--fix", tmp_path / "fixed.txt")
    assert (tmp_path / "fixed.txt").read_text() == "# 1.jpg\n10 10 40 40\n"    # the box stays, the points go


def test_points_in_another_order_are_not_repaired_as_swapped(tmp_path: Path, run: RunScript) -> None:
    nose_first = flat([POINTS[place] for place in (2, 0, 1, 3, 4)])
    path = write(tmp_path / "a.json", [{"bbox": BOX, "keypoints": nose_first}])
    run("analyze_data", path, "--fix", tmp_path / "fixed.txt")
    assert (tmp_path / "fixed.txt").read_text().split()[6:8] == ["30", "30"]
    assert "swapped" not in (tmp_path / "fixed.txt.changes.txt").read_text()


def test_ids_are_the_classes_of_a_file_without_categories(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", [{"bbox": BOX, "category_id": 1}, {"bbox": [1, 1, 5, 5], "category_id": 7}])
    with pytest.raises(ValueError, match=r"expected one class, or data.classes=.*, found the classes '1', '7'"):
        read_labels(path)
    assert read_labels(path, config=DataConfig(classes=("7",)))[0].boxes.tolist() == [[1, 1, 6, 6]]
    same = write(tmp_path / "b.json", [{"bbox": BOX, "category_id": 4}] * 2)
    assert len(read_labels(same)[0]) == 2


def test_face_with_polygons_alone_gets_the_box_around_them(tmp_path: Path) -> None:
    polygons = [[10, 20, 30, 20, 20, 40], [12, 18, 14, 18, 13, 22]]
    path = write(tmp_path / "a.json", [{"bbox": None, "segmentation": polygons}, {"segmentation": polygons[:1], "bbox": []}])
    assert read_labels(path)[0].boxes.tolist() == [[10, 18, 30, 40], [10, 20, 30, 40]]


@pytest.mark.parametrize(
    "bad",
    [
        {"bbox": None}, {}, {"bbox": [1, 2, 3]}, {"bbox": ["1", 2, 3, 4]}, {"bbox": [20, 20, -5, 9]},
        {"bbox": [1, 1, 5, 5], "category_id": 9},
    ],
)
def test_unreadable_face_does_not_become_background(bad: dict[str, Any], tmp_path: Path, run: RunScript) -> None:
    categories = [{"id": 1, "name": "face"}]
    faces = [{"bbox": BOX, "image_id": 2}, {"bbox": BOX}, bad]
    path = write(tmp_path / "a.json", faces, categories=categories, images=2)
    result = run("analyze_data", path, "--fix", tmp_path / "fixed.txt")
    assert (tmp_path / "fixed.txt").read_text() == "# 2.jpg\n10 10 40 40\n", result
    assert "a.json: annotation 3: " in (tmp_path / "fixed.txt.changes.txt").read_text()


def test_problems_name_the_annotation(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", [{"bbox": BOX}, {"bbox": BOX, "id": 71, "image_id": 9}])
    problems: list[Fault] = []
    read_labels(path, complain=problems.append)
    assert [str(each) for each in problems] == [f"{path}: annotation 71: it is of image 9, which the file does not list"]


FOREIGN = {
    "labelme": ("a.json", '{"version": "5.0", "shapes": [], "imagePath": "a.jpg"}'),
    "CreateML": ("a.json", '[{"image": "a.jpg", "annotations": [{"label": "face", "coordinates": {}}]}]'),
    "Label Studio": ("a.json", '[{"id": 1, "annotations": [{"id": 1, "result": []}]}]'),
    "VGG Image Annotator": ("a.json", '{"a.jpg123": {"filename": "a.jpg", "regions": []}}'),
    "CVAT XML": ("a.xml", '<?xml version="1.0"?>\n<annotations>\n<version>1.1</version></annotations>'),
    "CSV": ("a.csv", "image,x1,y1,x2,y2\n" + "a.jpg,1,2,3,4\n" * 2000),
    "YAML": ("a.yaml", "images:\n  - a.jpg\n"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_other_formats_are_named_in_one_line(name: str, tmp_path: Path, run: RunScript) -> None:
    file, text = FOREIGN[name]
    (tmp_path / file).write_text(text)
    for option in ("--check", "--convert"):
        target = [tmp_path / "label.txt"] if option == "--convert" else []
        result = run("analyze_data", tmp_path / file, option, *target)
        assert "not a label of a known format; it looks like " + name in result.complaint


def test_wider_list_may_leave_out_the_count_of_an_image_without_faces(tmp_path: Path) -> None:
    (tmp_path / "wider.txt").write_text("a/1.jpg\n1\n1 2 3 4 0 0 0 0 0 0\na/2.jpg\na/3.jpg\n0\n0 0 0 0 0 0 0 0 0 0\na/4.jpg\n")
    assert [(record.path, len(record)) for record in read_labels(tmp_path / "wider.txt")] == [
        ("a/1.jpg", 1), ("a/2.jpg", 0), ("a/3.jpg", 0), ("a/4.jpg", 0),
    ]    # fmt: skip


def test_wider_image_with_fewer_faces_than_announced_is_left_out(tmp_path: Path, run: RunScript) -> None:
    for name in ("1.jpg", "2.jpg"):
        write_image(tmp_path / "images" / name, np.zeros((64, 64, 3), np.uint8))
    (tmp_path / "wider.txt").write_text("1.jpg\n2\n1 2 3 4 0 0 0 0 0 0\n2.jpg\n1\n1 2 3 4 0 0 0 0 0 0\n")
    run("analyze_data", tmp_path / "wider.txt", "--fix", tmp_path / "fixed.txt")
    assert (tmp_path / "fixed.txt").read_text() == "# 2.jpg\n1 2 3 4\n"


@pytest.mark.parametrize("bad", ["1 2 3", "1 2 nan 4", "x 2 3 4", "5 5 -3 9", "5 5 0 9"])
def test_unreadable_line_of_a_text_label_does_not_become_background(bad: str, tmp_path: Path, run: RunScript) -> None:
    for name in ("1.jpg", "2.jpg"):
        write_image(tmp_path / "images" / name, np.zeros((64, 64, 3), np.uint8))
    (tmp_path / "label.txt").write_text(f"# 1.jpg\n1 2 3 4\n{bad}\n# 2.jpg\n0 0 0 0\n5 5 9 9\n5 5 9 9\n")
    run("analyze_data", tmp_path / "label.txt", "--fix", tmp_path / "fixed.txt")
    # 0 0 0 0 is no face, and of two equal faces one is enough.
    assert (tmp_path / "fixed.txt").read_text() == "# 2.jpg\n5 5 9 9\n"


def test_image_listed_twice_goes_whole_with_its_unreadable_face(tmp_path: Path, run: RunScript) -> None:
    for name in ("1.jpg", "2.jpg"):
        write_image(tmp_path / "images" / name, np.zeros((64, 64, 3), np.uint8))
    (tmp_path / "label.txt").write_text("# 1.jpg\n1 2 3 4\n# 2.jpg\n5 5 9 9\n# 1.jpg\n1 2 3\n")
    run("analyze_data", tmp_path / "label.txt", "--fix", tmp_path / "fixed.txt")
    assert (tmp_path / "fixed.txt").read_text() == "# 2.jpg\n5 5 9 9\n"


@pytest.mark.parametrize("image_id", ["01", None, 7])
def test_face_of_an_unknown_image_leaves_no_image_without_faces(image_id: object, tmp_path: Path, run: RunScript) -> None:
    faces = [{"bbox": BOX}, {"bbox": BOX, "image_id": image_id}]
    label = write(tmp_path / "a.json", faces, categories=[{"id": 1, "name": "face"}], images=3)
    checked = run("analyze_data", label, "--check")
    assert "1 annotation is of no image, and may be of those without faces: 2.jpg, 3.jpg" in checked.out
    assert run("analyze_data", label, "--fix", tmp_path / "fixed.txt").code == 1
    assert (tmp_path / "fixed.txt").read_text() == "# 1.jpg\n10 10 40 40\n"


def test_images_that_share_an_id_are_both_left_out(tmp_path: Path, run: RunScript) -> None:
    faces = [{"bbox": BOX, "image_id": n} for n in (1, 3)]
    label = write(tmp_path / "a.json", faces, categories=[{"id": 1, "name": "face"}], images=3)
    content = json.loads(label.read_text())
    content["images"][1]["id"] = 1
    label.write_text(json.dumps(content))
    result = run("analyze_data", label, "--check", "--fix", tmp_path / "fixed.txt")
    assert result.code == 1 and "image 1: the id is given twice, to '1.jpg' and to '2.jpg'" in result.out
    assert (tmp_path / "fixed.txt").read_text() == "# 3.jpg\n10 10 40 40\n"


def test_each_category_says_for_itself_whose_left_is_meant(tmp_path: Path) -> None:
    names = ["left_eye", "right_eye", "nose", "left_mouth", "right_mouth"]
    nose_first = ["nose", *names[:2], *names[3:]]
    categories = [{"id": 1, "name": "frontal", "keypoints": names}, {"id": 2, "name": "turned", "keypoints": nose_first}]
    of_person = flat([POINTS[place] for place in (2, 1, 0, 4, 3)])
    faces = [{"bbox": BOX, "keypoints": flat(POINTS)}] * 3 + [{"bbox": BOX, "keypoints": of_person, "category_id": 2}]
    path = write(tmp_path / "a.json", faces, categories=categories)
    (record,) = read_labels(path, config=DataConfig(classes=("frontal", "turned")))
    assert record.landmarks.tolist() == [POINTS] * 4


def test_names_that_are_not_understood_matter_only_where_points_are_labelled(tmp_path: Path) -> None:
    categories = [{"id": 1, "name": "face", "keypoints": ["p\n1", "p2", "p3", "p4", "p5"]}]
    path = write(tmp_path / "a.json", [{"bbox": BOX}, {"bbox": [1, 1, 5, 5], "keypoints": [0] * 15}], categories=categories)
    assert len(read_labels(path)[0]) == 2
    path = write(tmp_path / "a.json", [{"bbox": BOX, "keypoints": flat(POINTS)}], categories=categories)
    with pytest.raises(ValueError, match=r"corners, left and right, found 'p\\n1', 'p2'"):
        read_labels(path)


def test_images_and_annotations_are_named_by_their_ids_or_else_by_their_places(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", [{"bbox": BOX}, {"bbox": None, "id": 900100259554}])
    with pytest.raises(ValueError, match="a.json: annotation 900100259554: expected a 'bbox' of 4 numbers, found None"):
        read_labels(path)
    path = write(tmp_path / "a.json", [{"bbox": BOX, "id": "7f-a"}, {"bbox": [1, 2, float("nan"), 4], "id": 5}])
    with pytest.raises(ValueError, match="a.json: annotation number 2: expected numbers below"):
        read_labels(path)


def test_same_image_given_twice_is_one_image(tmp_path: Path, run: RunScript) -> None:
    path = write(tmp_path / "a.json", [{"bbox": BOX}, {"bbox": [1, 1, 5, 5], "image_id": 2}], images=2)
    content = json.loads(path.read_text())
    content["images"].append(content["images"][0])
    path.write_text(json.dumps(content))
    with pytest.warns(UserWarning, match="a.json: image 1: '1.jpg' is listed twice"):
        assert [len(record) for record in read_labels(path)] == [1, 1]
    assert run("analyze_data", path, "--check").code == 1
    assert run("analyze_data", path, "--fix", tmp_path / "fixed.txt").code == 0
    assert (tmp_path / "fixed.txt").read_text() == "# 1.jpg\n10 10 40 40\n# 2.jpg\n1 1 5 5\n"


def test_faces_of_other_classes_and_unknown_images_do_not_matter(tmp_path: Path) -> None:
    categories = [{"id": 1, "name": "face"}, {"id": 2, "name": "person"}]
    path = write(tmp_path / "a.json", [{"bbox": BOX}, {"bbox": BOX, "image_id": 9, "category_id": 2}], categories=categories, images=2)
    assert [(len(record), record.incomplete) for record in read_labels(path)] == [(1, False), (0, False)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"annotations": None}, "expected 'annotations' to be a list, found None"),
        ({"annotations": {}}, "expected 'annotations' to be a list, found {}"),
        ({"images": {"1": {"id": 1}}}, "expected 'images' to be a list, found {'1': {'id': 1}}"),
        ({"annotations": [None]}, "expected an object as number 1 of 'annotations', found None"),
        (
            {"categories": [{"id": 1, "name": "face"}, {"id": 1, "name": "hand"}]},
            "expected one name for each category, found 'face' and 'hand' for id 1",
        ),
    ],
)
def test_file_that_cannot_be_understood_is_refused_in_one_line(
    change: dict[str, Any], message: str, tmp_path: Path, run: RunScript
) -> None:
    path = write(tmp_path / "a.json", [{"bbox": BOX}])
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    for option in (["--check"], ["--fix", tmp_path / "fixed.txt"], ["--convert", tmp_path / "converted.txt"]):
        assert run("analyze_data", path, *option).complaint == f"analyze_data.py: {path}: {message}"


@pytest.mark.parametrize("category", [None, 1, "1", 1.0])
def test_only_category_is_that_of_annotations_without_one(category: object, tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", [{"bbox": BOX, "category_id": category}], categories=[{"id": 1, "name": "head"}])
    assert len(read_labels(path)[0]) == 1
