"""Every label format, read from what its description says, from malformed files, and from files mutated at random."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from label_writers import HOLDS_POINTS, HOLDS_SIZE, WRITERS, Labelled

from config import DataConfig
from data.labels import read_labels, write_labels
from data.records import FaceRecord, Fault
from utils.images import write_image

POINTS: list[tuple[float, float] | None] = [(12.5, 14), (19, 14.25), (16, 18), None, (18.5, 22)]
IMAGES = [
    Labelled("b/one.jpg", (120, 80), [([10, 10, 12.5, 16.25], POINTS), ([0, 0.5, 4, 3], None)]),
    Labelled("two.jpg", (64, 48), []),
    Labelled("z three.jpg", (50, 60), [([1, 2, 3, 4], [(2, 3)] * 5)]),
]


def as_expected(records: list[FaceRecord], form: str, *, exact: bool = True) -> None:
    assert [record.path for record in records] == [image.name for image in IMAGES]
    for record, image in zip(records, IMAGES, strict=True):
        assert record.size == (image.size if form in HOLDS_SIZE else None)
        boxes = np.array([[x, y, x + w, y + h] for (x, y, w, h), _ in image.faces], np.float32).reshape(-1, 4)
        assert np.allclose(record.boxes, boxes, rtol=0, atol=0 if exact else 1e-4)
        assert not record.ignore.any()
        for face, (_, points) in enumerate(image.faces):
            known = [point is not None for point in points or [None] * 5]
            assert record.has_landmarks[face].tolist() == (known if form in HOLDS_POINTS else [False] * 5)
            for point, place in enumerate(points or []):
                if record.has_landmarks[face, point]:
                    assert np.allclose(record.landmarks[face, point], place, atol=1e-4)


@pytest.mark.parametrize("form", WRITERS)
def test_format_is_recognised_read_and_converted_without_loss(form: str, tmp_path: Path) -> None:
    path = WRITERS[form](tmp_path, IMAGES)
    records = read_labels(path)
    as_expected(records, form, exact=form != "yolo")
    as_expected(read_labels(path, config=DataConfig(format=form)), form, exact=form != "yolo")    # type: ignore[arg-type]
    write_labels(records, tmp_path / "converted.txt")
    again = read_labels(tmp_path / "converted.txt")
    for record, converted in zip(records, again, strict=True):
        assert converted.path == record.path
        for name in ("boxes", "landmarks", "has_landmarks"):
            assert np.array_equal(getattr(record, name), getattr(converted, name))


def test_converting_keeps_every_number_of_a_retinaface_label(tmp_path: Path) -> None:
    text = "# a b.jpg\n449 330 122 149 488.906 373.643 0 542.089 376.442 1 515.031 412.83 0 485.174 425.893 0 538.357 431.491 0 0.82\n"
    text += "# 2.jpg\n# 3.jpg\n1.25 2 3 4\n1 2 3 4 0.5\n-1 0 1e-07 4 " + "-1 -1 -1 " * 4 + "-1 -1 -1\n"
    (tmp_path / "label.txt").write_text(text)
    write_labels(read_labels(tmp_path / "label.txt"), tmp_path / "again.txt")
    assert (tmp_path / "again.txt").read_text() == text


@given(st.lists(st.tuples(*[st.floats(-1e4, 1e4, width=32)] * 2, *[st.floats(0, 1e4, width=32)] * 2), max_size=5))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_converted_corners_are_the_same_float32(tmp_path: Path, corners: list[tuple[float, float, float, float]]) -> None:
    lines = ["# 1.jpg 20 20", *(f"{x1!r} {y1!r} {x1 + w!r} {y1 + h!r}" for x1, y1, w, h in corners)]
    (tmp_path / "corners.txt").write_text("\n".join(lines))
    (record,) = read_labels(tmp_path / "corners.txt")
    write_labels([record], tmp_path / "converted.txt")
    (again,) = read_labels(tmp_path / "converted.txt")
    assert np.array_equal(record.boxes, again.boxes)


MALFORMED = {
    "retinaface": [
        ("# 1.jpg\n1 2 3 4\n1 2 3 4 5 6 7\n", "{}:3: expected 4, 5, 19 or 20 numbers, found 7"),
        ("# 1.jpg\n1 2 three 4\n", "{}:2: expected numbers, found '1 2 three 4'"),
    ],
    "labelv2": [
        ("# 1.jpg 30 40\n1 2 3 4\n# 2.jpg\n", "{}:3: expected '# path width height', found '# 2.jpg'"),
        ("# 1.jpg 30 40\n1 2 3\n", "{}:2: expected 4, 5, 19 or 20 numbers, found 3"),
        ("# 1.jpg 30 40\n1 2 inf 4\n", "{}:2: expected numbers below 1e+09, found '1 2 inf 2'"),
    ],
    "wider": [
        ("1.jpg\n2\n1 2 3 4 0 0 0 0 0 0\n2.jpg\n1\n1 2 3 4 0 0 0 0 0 0\n", "{}:2: '1.jpg' announces 2 faces, found 1"),
        ("1.jpg\n1\n1 2 3 4 0 0 0 0 0 0\n1 2 3 4 0 0 0 0 0 0\n", "{}:2: '1.jpg' announces 1 faces, found 2"),
        ("1.jpg\n1\n1 2 3 4 0\n", "{}:3: expected 4 or 10 numbers, found 5"),
        ("1.jpg\n0\n2.jpg\nthree\n", "{}:4: expected the number of faces in '2.jpg', found 'three'"),
    ],
    "coco": [
        ('{"images": [}', "{}:1: not a readable JSON file: Expecting value"),
        ('{"images": []}', "{}: expected a COCO file with lists of 'images' and 'annotations', found no 'annotations'"),
        ('{"images": 3, "annotations": []}', "{}: expected 'images' to be a list, found 3"),
        ('{"images": [{"id": 1}], "annotations": 3}', "{}: expected 'annotations' to be a list, found 3"),
        ('{"images": [{"id": 1}], "annotations": []}', "{}: image number 1: expected an image with 'id' and 'file_name', found {{'id': 1}}"),    # noqa: E501
        (
            '{"images": [{"id": 1, "file_name": "1.jpg"}],\n "annotations": [\n  {"id": 9, "image_id": 2, "bbox": [1, 2, 3, 4]}]}',
            "{}: annotation 9: it is of image 2, which the file does not list",
        ),
        (
            '{"images": [{"id": 1, "file_name": "1.jpg"}],\n "annotations": [{"id": 9, "image_id": 1, "bbox": [1, 2, 3]}]}',
            "{}: annotation 9: expected a 'bbox' of 4 numbers, found [1, 2, 3]",
        ),
        (
            '{"images": [{"id": 1, "file_name": "a"}],\n"annotations": [{"id": 9, "image_id": 1, "bbox": [1, 2, 3, 4], "keypoints": [1]}]}',
            "{}: annotation 9: expected 'keypoints' of 5 x 3 numbers, found [1]",
        ),
        (
            '{"images": [{"id": 1, "file_name": "1.jpg"}],\n"annotations": [{"id": 9, "image_id": 1, "bbox": [1, 2, NaN, 4]}]}',
            "{}: annotation 9: expected numbers below 1e+09, found '1 2 nan 4'",
        ),
    ],
    "voc": [
        ("<annotation>\n<object>", "{}:2: not a readable XML file: no element found: line 2, column 8"),
        ("<html></html>", "{}: expected an 'annotation' of Pascal VOC, found 'html'"),
        (
            "<annotation><filename>1.jpg</filename>\n<object><name>face</name><bndbox><xmin>1</xmin></bndbox></object></annotation>",
            "{}: object 1: expected a 'bndbox' of numbers xmin, ymin, xmax, ymax, found 1, none, none, none",
        ),
    ],
    "yolo": [
        ("0 0.5 0.5 0.1 0.1\n0 0.5 0.5\n", "{}:2: expected 5, 15 or 20 numbers, or the corners of a polygon, found 3"),
        ("face 0.5 0.5 0.1 0.1\n", "{}:1: expected the number of a class, found 'face'"),
        ("0 0.5 half 0.1 0.1\n", "{}:1: expected numbers, found '0 0.5 half 0.1 0.1'"),
        ("0 0.5 0.5 nan 0.1\n", "{}:1: expected numbers below 1e+09, found 'nan 18 nan 4'"),
    ],
}


def place_label(folder: Path, form: str, text: str) -> tuple[Path, Path]:
    """The path to read a label of one file by, and that file."""
    file = folder / {"coco": "a.json", "voc": "Annotations/1.xml", "yolo": "labels/1.txt"}.get(form, "label.txt")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    return (folder if form in ("voc", "yolo") else file), file


@pytest.mark.parametrize(("form", "text", "message"), [(form, *case) for form, cases in MALFORMED.items() for case in cases])
def test_malformed_file_is_named_with_its_line(form: str, text: str, message: str, tmp_path: Path) -> None:
    path, file = place_label(tmp_path, form, text)
    write_image(tmp_path / "images" / "1.jpg", np.zeros((40, 60, 3), np.uint8))
    with pytest.raises(ValueError) as error:
        read_labels(path, config=DataConfig(format=form))    # type: ignore[arg-type]
    assert str(error.value) == message.format(file)


def test_yolo_needs_the_size_of_its_images_and_takes_it_from_a_list_too(tmp_path: Path) -> None:
    path, _ = place_label(tmp_path, "yolo", "0 0.5 0.5 0.1 0.2\n")
    with pytest.raises(ValueError, match="labels: none of its images is in .*images, and fractions need an image's size"):
        read_labels(path)
    (record,) = read_labels(path, sizes={"1.png": (100, 50)})
    assert record.path == "1.png" and np.allclose(record.boxes, [[45, 20, 55, 30]])


def test_yolo_image_that_is_missing_or_unreadable_keeps_its_place_for_others_to_tell(tmp_path: Path) -> None:
    for name in ("1", "2", "3"):
        place_label(tmp_path, "yolo", "0 0.5 0.5 0.1 0.2\n")[1].with_stem(name).write_text("0 0.5 0.5 0.1 0.2\n")
    write_image(tmp_path / "images" / "1.png", np.zeros((50, 100, 3), np.uint8))
    (tmp_path / "images" / "2.PNG").write_bytes(b"text")
    records = read_labels(tmp_path)
    read = [(record.path, len(record), record.size) for record in records]
    assert read == [("1.png", 1, (100, 50)), ("2.PNG", 0, None), ("3.jpg", 0, None)]


def test_yolo_corner_that_rounding_puts_beyond_the_border_lies_on_it(tmp_path: Path) -> None:
    path, _ = place_label(tmp_path, "yolo", "0 0.499999 0.25 1.000000 0.500002\n")
    (record,) = read_labels(path, sizes={"1.jpg": (1023, 767)})
    assert record.boxes[0, :2].tolist() == [0, 0] and record.boxes[0, 2] <= 1023


def test_yolo_points_may_say_whether_they_are_visible(tmp_path: Path) -> None:
    path, _ = place_label(tmp_path, "yolo", "0 0.5 0.5 0.2 0.2 " + "0.45 0.45 2 0.5 0.5 0 -1 -1 0 0.5 0.55 1 0.6 0.6 2")
    (record,) = read_labels(path, sizes={"1.jpg": (100, 100)})
    assert record.has_landmarks.tolist() == [[True, False, False, True, True]]
    assert np.allclose(record.landmarks[0, 0], [45, 45])


def test_faults_are_collected_and_the_rest_is_read(tmp_path: Path) -> None:
    text = "# 1.jpg\n1 2 3 4\nbad\n1 2 nan 4\n#\n9 9 9 9\n# 2.jpg\n5 5 5 5\n"
    path, _ = place_label(tmp_path, "retinaface", text)
    faults: list[Fault] = []
    records = read_labels(path, complain=faults.append)
    assert [(record.path, record.boxes.tolist(), record.lines.tolist()) for record in records] == [
        ("1.jpg", [[1, 2, 4, 6]], [2]),
        ("2.jpg", [[5, 5, 10, 10]], [8]),
    ]
    assert sorted((fault.line, fault.reason) for fault in faults) == [
        (3, "malformed line"),
        (4, "not a number"),
        (5, "malformed line"),
        (6, "malformed line"),
    ]


def test_crowds_and_marked_faces_are_ignored_as_settings_say(tmp_path: Path) -> None:
    content = {
        "images": [{"id": 7, "file_name": "1.jpg"}],
        "annotations": [{"image_id": 7, "bbox": [0, 0, 20, 20], "iscrowd": crowd} for crowd in (0, 1)],
    }
    path, _ = place_label(tmp_path, "coco", json.dumps(content))
    assert read_labels(path)[0].ignore.tolist() == [False, True]
    wider = tmp_path / "wider.txt"
    wider.write_text("1.jpg\n4\n0 0 9 9 0 0 0 0 0 0\n0 0 9 9 0 0 0 1 0 0\n0 0 9 9 2 0 0 0 0 0\n0 0 4 4 1 0 0 0 2 1\n")
    for config, ignored in (
        (DataConfig(), [False] * 4),
        (DataConfig(ignore_invalid=True), [False, True, False, False]),
        (DataConfig(ignore_blurred=True), [False, False, True, False]),
        (DataConfig(ignore_smaller=5), [False, False, False, True]),
    ):
        assert read_labels(wider, config=config)[0].ignore.tolist() == ignored
    voc, _ = place_label(
        tmp_path / "voc",
        "voc",
        "<annotation><filename>1.jpg</filename><object><name>face</name><difficult>1</difficult><bndbox>"
        "<xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object></annotation>",
    )
    assert read_labels(voc)[0].ignore.tolist() == [False]
    assert read_labels(voc, config=DataConfig(ignore_invalid=True))[0].ignore.tolist() == [True]


def test_classes_that_are_faces_are_picked_or_asked_for(tmp_path: Path) -> None:
    def boxes(names: list[str], *classes: str) -> int:
        categories = [{"id": index, "name": name} for index, name in enumerate(names)]
        annotations = [{"image_id": 1, "bbox": [0, 0, 5, 5], "category_id": index} for index in range(len(names))]
        content = {"images": [{"id": 1, "file_name": "1.jpg"}], "annotations": annotations, "categories": categories}
        path, _ = place_label(tmp_path, "coco", json.dumps(content))
        return len(read_labels(path, config=DataConfig(classes=classes))[0])

    assert boxes(["head"]) == 1
    assert boxes(["person", "Face"]) == 1
    assert boxes(["with_mask", "without_mask", "dog"], "with_mask", "without_mask") == 2
    with pytest.raises(ValueError, match=r"expected one class, or data.classes=\[NAME,...\] .*, found the classes 'cat', 'dog'"):
        boxes(["dog", "cat"])
    with pytest.raises(ValueError, match="data.classes names 'face', found the classes 'cat', 'dog'"):
        boxes(["dog", "cat"], "face")


def coco_of(folder: Path, *, images: object, annotations: object, categories: object = ()) -> Path:
    content = {"images": images, "annotations": annotations, "categories": categories}
    return place_label(folder, "coco", json.dumps(content))[0]


def test_coco_ids_may_be_text_or_whole_floats_and_unlisted_ones_are_told(tmp_path: Path) -> None:
    images = [{"id": 1.0, "file_name": "1.jpg"}, {"id": "b", "file_name": "2.jpg"}]
    categories = [{"id": 1, "name": "face"}, {"id": 2, "name": "person"}]
    annotations = [{"image_id": 1, "bbox": [0, 0, 5, 5], "category_id": 1.0}, {"image_id": "b", "bbox": [0, 0, 5, 5], "category_id": 2.0}]
    path = coco_of(tmp_path, images=images, annotations=annotations, categories=categories)
    assert [len(record) for record in read_labels(path)] == [1, 0]
    only_persons = coco_of(tmp_path, images=images, annotations=annotations[1:], categories=categories)
    assert [len(record) for record in read_labels(only_persons)] == [0, 0]
    without = [{"image_id": 1, "bbox": [0, 0, 5, 5]}]
    assert len(read_labels(coco_of(tmp_path, images=images, annotations=without, categories=categories[:1]))[0]) == 1
    unlisted = coco_of(tmp_path, images=images, annotations=[{**annotations[0], "category_id": 9}], categories=categories)
    with pytest.raises(ValueError, match="annotation 1: it is of category 9, which the file does not list"):
        read_labels(unlisted)


def test_coco_face_with_other_points_keeps_its_box_where_faults_are_collected(tmp_path: Path) -> None:
    images = [{"id": 1, "file_name": "1.jpg"}]
    annotations = [{"image_id": 1, "bbox": [0, 0, 5, 5], "keypoints": points} for points in ([1, 2, 2] * 6, [0] * 51, [])]
    path = coco_of(tmp_path, images=images, annotations=annotations)
    with pytest.raises(ValueError, match="expected 'keypoints' of 5 x 3 numbers"):
        read_labels(path)
    faults: list[Fault] = []
    (record,) = read_labels(path, complain=faults.append)
    assert len(record) == 3 and not record.has_landmarks.any() and [fault.reason for fault in faults] == ["wrong number of points"]
    with pytest.raises(ValueError, match="a.json: expected images and their faces, found no image"):
        read_labels(coco_of(tmp_path, images=[], annotations=[]))


@pytest.mark.parametrize("name", ["x\ny.jpg", " s.jpg", "\ud800.jpg", "IMG 12 34"])
def test_name_that_no_label_can_hold_is_refused(name: str, tmp_path: Path) -> None:
    records = read_labels(coco_of(tmp_path, images=[{"id": 1, "file_name": name}], annotations=[]))
    with pytest.raises(ValueError, match="a.json: image 1: .* is a name that a RetinaFace label cannot hold"):
        write_labels(records, tmp_path / "label.txt")
    assert not (tmp_path / "label.txt").exists()


def test_official_list_of_an_image_without_faces(tmp_path: Path) -> None:
    (tmp_path / "label.txt").write_text("0--Parade/1.jpg\n0\n0 0 0 0 0 0 0 0 0 0 \n2.jpg\n1\n1 2 3 4 2 0 0 0 0 0 \n3 (2).jpg\n0\n")
    records = read_labels(tmp_path / "label.txt")
    assert [(record.path, len(record)) for record in records] == [("0--Parade/1.jpg", 0), ("2.jpg", 1), ("3 (2).jpg", 0)]


def test_folder_of_neither_or_both_kinds_is_asked_about(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected a folder of .xml \(Pascal VOC\) or .txt files, found none"):
        read_labels(tmp_path)
    (tmp_path / "1.xml").write_text("<annotation><filename>1.jpg</filename></annotation>")
    (tmp_path / "1.txt").write_text("")
    with pytest.raises(ValueError, match=r"holds .xml files \(Pascal VOC\) and .txt files \(YOLO\)"):
        read_labels(tmp_path)
    assert len(read_labels(tmp_path, config=DataConfig(format="voc"))) == 1
    with pytest.raises(ValueError, match="data.format=coco: expected a label file, found a folder"):
        read_labels(tmp_path, config=DataConfig(format="coco"))
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "label.txt").write_text("# 1.jpg\n")
    with pytest.raises(ValueError, match=r"expected a folder of YOLO files, found a label file in it: name .*label.txt"):
        read_labels(tmp_path / "set")
    with pytest.raises(ValueError, match="expected a folder of YOLO's label files or a list of images"):
        read_labels(tmp_path / "1.txt", config=DataConfig(format="yolo"))


def test_images_of_a_folder_of_labels_are_found(tmp_path: Path) -> None:
    xml = "<annotation><filename>1.jpg</filename></annotation>"
    for folder, images in (("a/Annotations", "a/JPEGImages"), ("b/annotations", "b/images"), ("c", "c")):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "1.xml").write_text(xml)
        write_image(tmp_path / images / "1.jpg", np.zeros((4, 4, 3), np.uint8))
        (record,) = read_labels(tmp_path / folder.partition("/")[0])
        assert Path(record.folder) == tmp_path / images
    (tmp_path / "e/Annotations/s").mkdir(parents=True)
    (tmp_path / "e/Annotations/s/1.XML").write_text(xml)
    (tmp_path / "e/Annotations/linked").symlink_to(tmp_path / "a/Annotations")
    assert [record.path for record in read_labels(tmp_path / "e")] == ["linked/1.jpg", "s/1.jpg"]
    (tmp_path / "d/labels/train").mkdir(parents=True)
    (tmp_path / "d/labels/train/1.txt").write_text("0 0.5 0.5 0.5 0.5")
    (tmp_path / "d/labels/classes.txt").write_text("face")
    write_image(tmp_path / "d/images/train/1.jpg", np.zeros((4, 4, 3), np.uint8))
    for path, name in (("d", "train/1.jpg"), ("d/labels/train", "1.jpg")):
        (record,) = read_labels(tmp_path / path)
        assert record.path == name and (Path(record.folder) / name).exists()


def test_forms_of_one_real_set_agree(real_data: Path) -> None:
    folder = real_data / "annotations"
    official, four, corners = (
        read_labels(folder / name) for name in ("wider_face_val_bbx_gt.txt", "wider_val_label_boxes_only.txt", "labelv2_val.txt")
    )
    assert [sum(map(len, records)) for records in (official, four, corners)] == [39_708, 39_708, 39_697]
    assert [record.path for record in official] == [record.path for record in four] == [record.path for record in corners]
    for one, other, third in zip(official, four, corners, strict=True):
        assert np.array_equal(one.boxes, other.boxes)
        assert np.array_equal(one.boxes[one.has_area], third.boxes)
        assert third.size is not None
