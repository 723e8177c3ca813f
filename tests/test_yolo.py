"""YOLO's sets as other tools write them."""

from __future__ import annotations

import codecs
from pathlib import Path

import numpy as np
import pytest
from conftest import RunScript

from config import DataConfig
from data.labels import read_labels
from data.records import FaceRecord, Fault, image_path
from utils.images import write_image

BOX = "0 0.5 0.5 0.2 0.4"    # of 160 x 160 pixels: x y w h are 64 48 32 64
POLYGON_7 = "0 0.2 0.3 0.3 0.25 0.4 0.3 0.45 0.4 0.4 0.5 0.3 0.55 0.2 0.5"    # seven corners: 15 numbers


def make_set(folder: Path, labels: dict[str, str], *, images: list[str] | None = None) -> Path:
    (folder / "labels").mkdir(parents=True)
    for name, text in labels.items():
        (folder / "labels" / f"{name}.txt").write_text(text)
    for name in list(labels) if images is None else images:
        write_image(folder / "images" / f"{name}.jpg", np.zeros((160, 160, 3), np.uint8))
    return folder


def boxes(record: FaceRecord) -> list[list[float]]:
    rows = record.boxes.astype(float).copy()
    rows[:, 2:] -= rows[:, :2]
    return rows.round(2).tolist()    # type: ignore[no-any-return]


def test_corners_of_polygons_and_turned_boxes_become_the_box_around_them(tmp_path: Path) -> None:
    turned = "0 0.5 0.25 0.75 0.5 0.5 0.75 0.25 0.5"
    folder = make_set(tmp_path, {"a": f"{POLYGON_7}\n{turned}\n{BOX}\n"})
    (record,) = read_labels(folder)
    assert boxes(record) == [[32, 40, 40, 48], [40, 40, 80, 80], [64, 48, 32, 64]]
    assert not record.has_landmarks.any() and not record.incomplete


def test_five_points_outside_their_box_are_reported_not_learned(tmp_path: Path) -> None:
    folder = make_set(tmp_path, {"a": f"{POLYGON_7}\n{BOX}\n", "b": f"{BOX}\n"})
    with pytest.raises(ValueError, match=r"a.txt:1: most of its points lie outside its box"):
        read_labels(folder)
    problems: list[Fault] = []
    first, second = read_labels(folder, complain=problems.append)
    assert first.incomplete and not second.incomplete and len(problems) == 1


def test_points_of_five_pairs_written_0_0_are_not_labelled(tmp_path: Path) -> None:
    points = "0.45 0.45 0.55 0.45 0 0 0.46 0.6 0.54 0.6"
    (record,) = read_labels(make_set(tmp_path, {"a": f"{BOX} {points}\n"}))
    assert record.has_landmarks[0].tolist() == [True, True, False, True, True]
    assert record.landmarks[0, 0].tolist() == pytest.approx([72, 72])


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (f"{BOX} 0.93", "found 6; the sixth may be the score of a prediction"),
        ("0 64 48 32 64", "expected fractions of the image's width and height, found 64, which may be pixels"),
        ("0 0.5 0.5 0.2", "found 4"),
    ],
)
def test_lines_of_another_kind_are_named(line: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"a.txt:2: .*{problem}"):
        read_labels(make_set(tmp_path, {"a": f"{BOX}\n{line}\n"}))


def test_image_without_a_label_file_has_no_faces_and_is_told_of(tmp_path: Path, run: RunScript) -> None:
    folder = make_set(tmp_path, {"b": BOX, "c": ""}, images=["a", "b", "c", "d"])
    with pytest.warns(UserWarning, match=r"2 images in .*images have no label file and count as images without faces: a.jpg, d.jpg"):
        records = read_labels(folder)
    assert {record.path: len(record) for record in records} == {"b.jpg": 1, "c.jpg": 0, "a.jpg": 0, "d.jpg": 0}
    checked = run("analyze_data", folder, "--check")
    assert checked.code == 1 and "1 x image without a label" in checked.out and "in 4 images, 4 of them opened" in checked.out


def test_images_of_another_split_in_one_folder_are_no_negatives(tmp_path: Path) -> None:
    for split, name in (("train", "a"), ("val", "b")):
        (tmp_path / "labels" / split).mkdir(parents=True)
        (tmp_path / "labels" / split / f"{name}.txt").write_text(BOX)
        write_image(tmp_path / "images" / f"{name}.jpg", np.zeros((160, 160, 3), np.uint8))
    with pytest.warns(UserWarning, match="1 image in .*images has no label file and is left out: b.jpg"):
        (record,) = read_labels(tmp_path / "labels" / "train")
    assert record.path == "a.jpg" and len(record) == 1


def test_hidden_and_odd_files_do_not_decide_over_the_set(tmp_path: Path, run: RunScript) -> None:
    folder = make_set(tmp_path, {"a": BOX, "odd": BOX})
    (folder / "labels" / "._a.txt").write_bytes(b"\0\5\x16\7 Mac OS X")
    (folder / "labels" / ".ipynb_checkpoints").mkdir()
    (folder / "labels" / ".ipynb_checkpoints" / "a-checkpoint.txt").write_text(BOX)
    (folder / "labels" / "odd.txt").write_bytes(codecs.BOM_UTF16_LE + BOX.encode("utf-16-le"))
    with pytest.raises(ValueError, match=r"odd.txt: not a readable label file: expected text in UTF-8"):
        read_labels(folder)
    checked = run("analyze_data", folder, "--check")
    assert checked.code == 1 and "odd.txt: not a readable label file" in checked.out and "1 fault in 1 image," in checked.out
    fixed = run("analyze_data", folder, "--fix", tmp_path / "fixed.txt")
    assert (tmp_path / "fixed.txt").read_text().count("# ") == 1 and "1 image, 1 face" in fixed.out
    assert "1 change," in fixed.out


def test_files_beside_the_labels_are_no_labels_and_name_the_classes(tmp_path: Path) -> None:
    folder = make_set(tmp_path, {"a": f"{BOX}\n1 0.5 0.5 0.1 0.1\n"})
    for name, text in {
        "train.txt": "data/a.jpg\n", "README.roboflow.txt": "face - v1\n==\nexported 2024\n", "notes.txt": "3 of them are blurred\n",
        "classes.txt": "Face\nhand\n",
    }.items():    # fmt: skip
        (folder / "labels" / name).write_text(text)
    (record,) = read_labels(folder)
    assert boxes(record) == [[64, 48, 32, 64]]    # the class named Face
    (record,) = read_labels(folder, config=DataConfig(classes=("hand",)))
    assert boxes(record) == [[72, 72, 16, 16]]
    (folder / "labels" / "classes.txt").unlink()
    (folder / "data.yaml").write_text("nc: 2\nnames:\n  0: hand\n  1: face\n")
    (record,) = read_labels(folder)
    assert boxes(record) == [[72, 72, 16, 16]]


def test_list_of_images_is_read_as_the_labels_of_those(tmp_path: Path) -> None:
    folder = make_set(tmp_path / "set", {"a": BOX, "b": "", "c": BOX})
    (folder / "train.txt").write_text("data/set/images/a.jpg\nimages/b.jpg\n")
    records = read_labels(folder / "train.txt")
    assert [(image_path(record).name, len(record)) for record in records] == [("a.jpg", 1), ("b.jpg", 0)]


def test_label_named_after_the_whole_file_is_for_that_image(tmp_path: Path) -> None:
    folder = make_set(tmp_path, {"a.jpg": BOX}, images=["a"])
    (record,) = read_labels(folder)
    assert (record.path, len(record)) == ("a.jpg", 1)


def test_faces_of_a_missing_image_are_not_converted_to_background(tmp_path: Path, run: RunScript) -> None:
    folder = make_set(tmp_path, {"a": BOX, "gone": BOX}, images=["a"])
    result = run("analyze_data", folder, "--convert", tmp_path / "label.txt")
    assert result.code == 1 and "gone.jpg is not known" in result.err and "1 image, 1 face; 1 image left out" in result.out
    assert "gone" not in (tmp_path / "label.txt").read_text()
    assert run("analyze_data", folder, "--fix", tmp_path / "fixed.txt").code == 1
    assert "gone" not in (tmp_path / "fixed.txt").read_text() and "gone" in (tmp_path / "fixed.txt.changes.txt").read_text()


@pytest.mark.parametrize("line", ["0 0.5 0.5 0.2 0.4 0.1", "0 nan 0.5 0.2 0.4", "0 a b c d"])
def test_unreadable_face_does_not_become_background(line: str, tmp_path: Path, run: RunScript) -> None:
    folder = make_set(tmp_path, {"a": BOX, "b": f"{BOX}\n{line}\n"})
    result = run("analyze_data", folder, "--fix", tmp_path / "fixed.txt")
    assert result.code == 1 and (tmp_path / "fixed.txt").read_text().startswith("# a.jpg\n")
    assert "b.jpg" not in (tmp_path / "fixed.txt").read_text()
    (folder / "labels" / "a.txt").write_text(line)
    failed = run("analyze_data", folder, "--fix", tmp_path / "none.txt")
    assert "no image is left" in failed.complaint and not (tmp_path / "none.txt").exists()


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (f"{BOX} 0.93", "found 6; the sixth may be the score"),
        (f"{BOX} {'0.5 0.5 ' * 5} 0.93", "found 16; the last may be the score"),
        ("0 64 48 32 64", "found 64, which may be pixels"),
        ("face 0.5 0.5 0.2 0.4", "expected the number of a class, found 'face'"),
    ],
)
def test_problem_of_all_lines_of_a_set_is_one_line(line: str, problem: str, tmp_path: Path, run: RunScript) -> None:
    folder = make_set(tmp_path, dict.fromkeys("abc", f"{line}\n{line}\n"))
    checked = run("analyze_data", folder, "--check")
    assert checked.code == 1 and checked.out.count(problem) == 1 and "1 fault in 3 images" in checked.out
    assert "a.txt:1: " in checked.out and "the same is wrong with all 6 lines of the set" in checked.out
    assert "no image is left" in run("analyze_data", folder, "--fix", tmp_path / "fixed.txt").complaint
    with pytest.raises(ValueError, match=problem):
        read_labels(folder)


def test_class_may_be_written_as_a_float(tmp_path: Path) -> None:
    (record,) = read_labels(make_set(tmp_path, {"a": f"0.000000 {BOX[2:]}\n{BOX}\n"}))
    assert boxes(record) == [[64, 48, 32, 64]] * 2


@pytest.mark.parametrize("visible", ["", " 2"])
def test_box_with_other_than_five_points_is_read_without_them(visible: str, tmp_path: Path) -> None:
    around = [(0.45, 0.4), (0.55, 0.4), (0.5, 0.5), (0.46, 0.6), (0.54, 0.6), (0.5, 0.62)]
    line = BOX + "".join(f" {x} {y}{visible}" for x, y in around)
    with pytest.warns(UserWarning, match=r"its lines of \d\d numbers are read as a box and points that are not the five of a face"):
        (record,) = read_labels(make_set(tmp_path / "told by form", {"a": line}))
    assert boxes(record) == [[64, 48, 32, 64]] and not record.has_landmarks.any()


def test_data_yaml_says_how_many_points_a_box_has(tmp_path: Path) -> None:
    folder = make_set(tmp_path, {"a": f"{BOX} 0.9 0.9 2 0.9 0.8 2\n"})
    (folder / "data.yaml").write_text("names: [face]\nkpt_shape: [2, 3]\n")
    with pytest.warns(UserWarning, match="its lines of 11 numbers"):
        (record,) = read_labels(folder)
    assert boxes(record) == [[64, 48, 32, 64]]


def test_small_polygons_of_seven_corners_are_not_read_as_five_points(tmp_path: Path) -> None:
    heptagon = "0 .70 .68 .72 .67 .75 .69 .76 .72 .74 .75 .71 .75 .69 .73"
    with pytest.raises(ValueError, match=r"a.txt:1: its 15 numbers look like the seven corners of a polygon"):
        read_labels(make_set(tmp_path, {"a": f"{heptagon}\n" * 6}))


def test_scores_of_predicted_poses_are_no_corners(tmp_path: Path) -> None:
    points = "0.45 0.45 .98 0.55 0.45 .97 .5 .5 .99 0.46 0.6 .9 0.54 0.6 .91"
    with pytest.raises(ValueError, match="found 21; the last may be the score"):
        read_labels(make_set(tmp_path, {"a": f"{BOX} {points} 0.88\n"}))


@pytest.mark.parametrize("odd", ["broken link", "folder"])
def test_label_that_is_no_file_is_named_and_the_rest_goes_on(odd: str, tmp_path: Path, run: RunScript) -> None:
    folder = make_set(tmp_path, {"a": BOX}, images=["a", "b"])
    label = folder / "labels" / "b.txt"
    label.mkdir() if odd == "folder" else label.symlink_to("nowhere")
    checked = run("analyze_data", folder, "--check")
    assert checked.code == 1 and "b.txt: " in checked.out and "1 fault in 1 image," in checked.out
    fixed = run("analyze_data", folder, "--fix", tmp_path / "fixed.txt")
    assert "1 image, 1 face" in fixed.out and "b.jpg" not in (tmp_path / "fixed.txt").read_text()


def test_malformed_label_of_a_missing_image_is_named(tmp_path: Path) -> None:
    problems: list[Fault] = []
    read_labels(make_set(tmp_path, {"a": BOX, "gone": "0 0.5 0.5 0.2"}, images=["a"]), complain=problems.append)
    assert [Path(problem.source).name for problem in problems] == ["gone.txt"]


def test_missing_image_without_faces_of_the_class_is_not_lost(tmp_path: Path) -> None:
    folder = make_set(tmp_path, {"a": BOX, "gone": "1 0.5 0.5 0.2 0.4"}, images=["a"])
    records = read_labels(folder, config=DataConfig(classes=("0",)))
    assert [(record.path, record.incomplete) for record in records] == [("a.jpg", False), ("gone.jpg", False)]


def test_named_image_folder_of_the_set_makes_images_without_labels_negatives(tmp_path: Path) -> None:
    folder = make_set(tmp_path, {"a": BOX}, images=["a", "b"])
    (tmp_path / "link").symlink_to(folder / "images")
    with pytest.warns(UserWarning, match="1 image in .* has no label file and counts as an image without faces: b.jpg"):
        assert len(read_labels(folder, images=str(tmp_path / "link"))) == 2


@pytest.mark.parametrize("name", ["wider.yaml", "data.yml", "face.names", "labels/_darknet.labels"])
def test_class_names_stand_in_files_of_many_names(name: str, tmp_path: Path) -> None:
    folder = make_set(tmp_path, {"a": f"{BOX}\n1 0.5 0.5 0.1 0.1\n"})
    (folder / "notes.yaml").write_text("author: me\n")
    (folder / name).write_text("names: [hand, face]\n" if ".y" in name else "hand\nface\n")
    for classes in ((), ("face",), ("1",)):
        (record,) = read_labels(folder, config=DataConfig(classes=classes))
        assert boxes(record) == [[72, 72, 16, 16]]


def test_list_of_images_goes_on_where_an_image_or_a_label_is_missing(tmp_path: Path, run: RunScript) -> None:
    folder = make_set(tmp_path / "set", {"a": BOX, "b": BOX}, images=["a", "b", "c"])
    listed = folder / "train.txt"
    listed.write_text("data\\other\\images\\a.jpg\ndata/other/images/gone.jpg\n" + f"{folder}/images/b.jpg\nimages/c.jpg\n")
    problems: list[Fault] = []
    records = read_labels(listed, complain=problems.append)
    read = [(record.path, len(record), record.incomplete) for record in records]
    gone = "data/other/images/gone.jpg"
    assert read == [
        ("images/a.jpg", 1, False), ("images/b.jpg", 1, False), ("images/c.jpg", 0, False), (gone, 0, True),
    ]  # fmt: skip
    assert [problem.reason for problem in problems] == ["image without a label"]
    checked = run("analyze_data", listed, "--check")
    assert checked.code == 1 and "train.txt:2: " in checked.out and "gone.jpg: no such image" in checked.out
    assert run("analyze_data", listed, "--fix", tmp_path / "fixed.txt").code == 1
    assert "gone" not in (tmp_path / "fixed.txt").read_text()
    listed.write_text("images/x.jpg\nimages/y.jpg\n")
    assert "none of the images that it lists is there, such as 'images/x.jpg'" in run("analyze_data", listed).complaint


def test_image_of_a_misnamed_label_is_no_image_without_faces(tmp_path: Path, run: RunScript) -> None:
    folder = make_set(tmp_path, {"a": BOX}, images=["a", "b"])
    (folder / "labels" / "b_faces.txt").write_text(BOX)
    result = run("analyze_data", folder, "--convert", tmp_path / "label.txt")
    assert result.code == 1 and (tmp_path / "label.txt").read_text().count("# ") == 1
    assert "has no label file and is left out: b.jpg" in result.err


def test_label_and_image_may_spell_an_umlaut_in_one_and_two_code_points(tmp_path: Path) -> None:
    folder = make_set(tmp_path, {"\u00e4": BOX, "b": BOX}, images=["a\u0308", "b"])
    assert [(image_path(record).is_file(), len(record)) for record in read_labels(folder)] == [(True, 1)] * 2


def test_face_of_a_class_without_a_name_does_not_become_background(tmp_path: Path, run: RunScript) -> None:
    folder = make_set(tmp_path, {"a": BOX, "b": BOX.replace("0", "1", 1)})
    (folder / "classes.txt").write_text("face\n")
    with pytest.raises(ValueError, match=r"b.txt:1: class 1 has no name where others have one"):
        read_labels(folder)
    assert run("analyze_data", folder, "--fix", tmp_path / "fixed.txt").code == 1
    assert "b.jpg" not in (tmp_path / "fixed.txt").read_text()
    assert [len(each) for each in read_labels(folder, config=DataConfig(classes=("face", "1")))] == [1, 1]


def test_repair_that_leaves_out_an_unreadable_label_exits_with_1(tmp_path: Path, run: RunScript) -> None:
    folder = make_set(tmp_path, {"a": BOX, "b": BOX})
    (folder / "labels" / "b.txt").write_bytes(codecs.BOM_UTF16_LE + BOX.encode("utf-16-le"))
    assert run("analyze_data", folder, "--fix", tmp_path / "fixed.txt").code == 1


def test_folder_of_one_set_is_that_set_and_of_several_asks_for_one(tmp_path: Path) -> None:
    make_set(tmp_path / "train", {"a": BOX})
    (tmp_path / "README.roboflow.txt").write_text("faces - v3\n")
    (record,) = read_labels(tmp_path)
    assert record.path == "a.jpg" and image_path(record).is_file()
    make_set(tmp_path / "valid", {"b": BOX})
    with pytest.raises(ValueError, match=r"holds several sets; name one, such as .*train$"):
        read_labels(tmp_path)
