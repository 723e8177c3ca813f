"""From the name of an image in a label file to the image file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import RunScript

from config import DataConfig, load_config
from data.dataset import FaceDataset
from data.image_files import ImageFolder
from data.labels import read_labels
from data.records import Fault, image_path
from utils.images import write_image


def place(*paths: Path) -> None:
    for path in paths:
        write_image(path, np.zeros((48, 64, 3), np.uint8))


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("a.jpg", "a.jpg"),
        ("sub\\a.jpg", "sub/a.jpg"),
        ("./sub/a.jpg", "sub/a.jpg"),
        ("sub\\..\\b.png", "b.png"),
        ("images\\sub\\a.jpg", "sub/a.jpg"),
        ("images/b.PNG", "b.png"),
        ("data/images/b", "b.png"),
        ("photos/a.jpg", "a.jpg"),
        ("SUB/A.JPG", "sub/a.jpg"),
        ("only/a.jpg", None),    # there is such a folder, and another image in it
        ("B.png", "b.png"),
        ("b", "b.png"),
        ("v1.2", "v1.2.jpg"),
        ("missing.jpg", None),
        ("a.png", None),    # another file of the same stem is another image
        ("../secret.jpg", None),
        ("../images/sub/a.jpg", "sub/a.jpg"),
        ("/home/me/set/images/sub/a.jpg", "sub/a.jpg"),
        ("C:\\Users\\me\\sub\\A.jpg", "sub/a.jpg"),
        ("\\\\server\\share\\a.jpg", "a.jpg"),
        ("https://host:8080/data/a.jpg", "a.jpg"),
        ("0a1b2c3d-a.jpg", "a.jpg"),
        ("..\\..\\media\\upload\\4\\0a1b2c3d-b.png", "b.png"),
        ("images\\0a1b2c3d-sub.jpg", None),
        ("ca\u0301fe.jpg", "c\u00e1fe.jpg"),
    ],
)
def test_name_is_matched_to_the_file_that_it_means(name: str, file: str | None, tmp_path: Path) -> None:
    root = tmp_path / "images"
    place(tmp_path / "secret.jpg", *(root / each for each in ("a.jpg", "sub/a.jpg", "b.png", "v1.2.jpg", "only/c.jpg", "c\u00e1fe.jpg")))
    assert ImageFolder(root).find(name) == ([] if file is None else [file])


def test_name_that_several_files_fit_is_a_problem_that_names_them(tmp_path: Path) -> None:
    place(tmp_path / "images" / "a.jpg", tmp_path / "images" / "a.png")
    label = tmp_path / "label.txt"
    label.write_text("# a\n1 1 9 9\n")
    with pytest.raises(ValueError, match=r"label.txt:1: 'a' may be a.jpg or a.png in .*images"):
        read_labels(label)
    problems: list[Fault] = []
    (record,) = read_labels(label, complain=problems.append)
    assert record.incomplete and [each.reason for each in problems] == ["ambiguous image name"]


def test_image_that_another_name_means_stands_for_no_missing_one(tmp_path: Path) -> None:
    place(*(tmp_path / "images" / name for name in ("a.jpg", "b.jpg", "c.jpg", "c.png")))
    names = ["a.jpg", "A.jpg", "one/b.jpg", "two/b.jpg", "c.png", "c"]
    label = tmp_path / "label.txt"
    label.write_text("".join(f"# {name}\n1 1 9 9\n" for name in names))
    # Of a.jpg there is one image, b.jpg may be that of either folder, and c.png is taken.
    assert [record.file for record in read_labels(label)] == ["a.jpg", "A.jpg", "one/b.jpg", "two/b.jpg", "c.png", "c.jpg"]


def test_yolo_labels_of_two_folders_share_no_image(tmp_path: Path) -> None:
    place(tmp_path / "images" / "1.jpg", tmp_path / "images" / "2.jpg")
    for name in ("cam1/1", "cam2/1", "cam2/2", "2"):
        label = tmp_path / "labels" / f"{name}.txt"
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text("0 0.5 0.5 0.2 0.3\n")
    found = {record.path: len(record) for record in read_labels(tmp_path, complain=lambda _: None)}
    assert found == {"2.jpg": 1, "cam1/1.jpg": 0, "cam2/1.jpg": 0, "cam2/2.jpg": 0}


@pytest.mark.parametrize("name", ["x.jpg", "x", "0a1b2c3d-x", "X"])
def test_yolo_label_may_be_named_like_the_image_or_its_upload(name: str, tmp_path: Path) -> None:
    place(tmp_path / "images" / "x.jpg")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / f"{name}.txt").write_text("0 0.5 0.5 0.2 0.3\n")
    (record,) = read_labels(tmp_path)
    assert image_path(record) == tmp_path / "images" / "x.jpg" and len(record) == 1


def test_images_of_two_names_that_differ_in_case_are_told_apart(tmp_path: Path) -> None:
    place(tmp_path / "a.jpg", tmp_path / "A.jpg")
    if len(list(tmp_path.iterdir())) == 1:
        pytest.skip("this disk does not tell case")
    assert [ImageFolder(tmp_path).find(name) for name in "aA"] == [["a.jpg"], ["A.jpg"]]


def test_folder_is_found_where_the_first_images_are_missing(tmp_path: Path) -> None:
    place(tmp_path / "images" / "train" / "99.jpg")
    write_coco(tmp_path / "annotations" / "instances_train.json", [f"{number}.jpg" for number in range(100)])
    records = read_labels(tmp_path / "annotations" / "instances_train.json")
    assert {record.folder for record in records} == {str(tmp_path / "images" / "train")}


def test_image_folder_may_be_written_in_another_case(tmp_path: Path) -> None:
    place(tmp_path / "Images" / "Train" / "1.jpg")
    write_coco(tmp_path / "Annotations" / "instances_train.json", ["1.jpg"])
    assert image_path(read_labels(tmp_path / "Annotations" / "instances_train.json")[0]).is_file()


@pytest.mark.parametrize("images", ["images/train", "far"])
def test_list_of_images_finds_them_in_usual_layouts_and_in_a_named_folder(images: str, tmp_path: Path) -> None:
    place(tmp_path / images / "1.jpg")
    (tmp_path / images / "1.txt").write_text("0 0.5 0.5 0.2 0.3\n")
    (tmp_path / "train.txt").write_text("C:\\work\\1.jpg\n")
    named = str(tmp_path / "far") if images == "far" else None
    (record,) = read_labels(tmp_path / "train.txt", images=named)
    assert image_path(record) == tmp_path / images / "1.jpg" and len(record) == 1


def test_named_folder_holds_the_photos_of_penn_fudan(tmp_path: Path) -> None:
    place(tmp_path / "photos" / "FudanPed00001.png")
    write_image(tmp_path / "set" / "PedMasks" / "FudanPed00001_mask.png", np.eye(48, 64, dtype=np.uint8)[..., None].repeat(3, 2))
    (record,) = read_labels(tmp_path / "set", images=str(tmp_path / "photos"))
    assert image_path(record).is_file() and len(record) == 1


def test_own_names_count_more_than_similar_ones(tmp_path: Path) -> None:
    place(*(tmp_path / "images" / f"{number}.jpg" for number in range(3)))
    place(*(tmp_path / "train" / f"{number}.jpg" for number in range(3)))
    write_coco(tmp_path / "labels.json", [f"train/{number}.jpg" for number in range(3)])
    assert image_path(read_labels(tmp_path / "labels.json")[0]) == tmp_path / "train" / "0.jpg"


def test_folders_are_listed_once_and_only_where_names_are_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place(*(tmp_path / "images" / f"{event}" / f"{n}.jpg" for event in "ab" for n in range(30)))
    (tmp_path / "label.txt").write_text("".join(f"# {event}/{n}.jpg\n1 1 9 9\n" for event in "ab" for n in range(30)))
    listed: list[str] = []
    import data.image_files

    scandir = data.image_files.os.scandir
    monkeypatch.setattr(data.image_files.os, "scandir", lambda path: listed.append(str(path)) or scandir(path))
    monkeypatch.setattr(Path, "exists", lambda self: pytest.fail("a file is looked up by itself"))
    records = read_labels(tmp_path / "label.txt")
    assert len(records) == 60 and len(listed) == len(set(listed)) == 2


def write_coco(path: Path, names: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [{"id": n, "file_name": name, "width": 64, "height": 48} for n, name in enumerate(names)]
    annotations = [{"id": n, "image_id": n, "category_id": 1, "bbox": [10, 10, 20, 20]} for n in range(len(names))]
    categories = [{"id": 1, "name": "face"}]
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))


def write_wider(path: Path, names: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{name}\n1\n10 10 20 20 0 0 0 0 0 0 \n" for name in names))


LAYOUTS = {    # the label of each split, its images, and the names in the label
    "datumaro, CVAT": ("annotations/instances_{}.json", "images/{}", "{}_{}.jpg"),
    "Roboflow": ("{}/_annotations.coco.json", "{}", "{}_{}.jpg"),
    "COCO": ("annotations/instances_{}2017.json", "{}2017", "{}_{}.jpg"),
    "FiftyOne": ("{}/labels.json", "{}/data", "{}_{}.jpg"),
    "Label Studio": ("{}/result.json", "{}/images", "images\\{}_{}.jpg"),
    "official WIDER": ("wider_face_split/wider_face_{}_bbx_gt.txt", "WIDER_{}/images", "0--Parade/{}_{}.jpg"),
    "one folder": ("{}.json", "images", "{}_{}.jpg"),
    "labels in a folder each": ("annotations/{}/labels.json", "images/{}", "{}_{}.jpg"),
    "a folder each": ("annotations/{}.json", "{}/images", "{}_{}.jpg"),
    "RetinaFace labels beside WIDER's zips": ("{}/label.json", "WIDER_{}/images", "0--Parade/{}_{}.jpg"),
    "RetinaFace labels in their own folder": ("retinaface_gt/{}/label.json", "WIDER_{}/images", "0--Parade/{}_{}.jpg"),
    "WIDER's zips in a folder each": (
        "wider_face_split/wider_face_split/wider_face_{}_bbx_gt.txt", "WIDER_{0}/WIDER_{0}/images", "0--Parade/{}_{}.jpg",
    ),
}


def make_layout(folder: Path, name: str, *, splits: tuple[str, ...] = ("train", "val")) -> list[Path]:
    label, images, pattern = LAYOUTS[name]
    labels = []
    for split in splits:
        names = [pattern.format(split, n) for n in range(3)]
        for each in names:
            file = each.replace("images\\", "")
            place(folder / images.format(split) / file)
        labels.append(folder / label.format(split))
        (write_wider if labels[-1].suffix == ".txt" else write_coco)(labels[-1], names)
    return labels


@pytest.mark.parametrize("name", LAYOUTS)
def test_images_of_usual_layouts_are_found_without_a_setting(name: str, tmp_path: Path) -> None:
    for label in make_layout(tmp_path, name):
        dataset = FaceDataset([label])
        assert [dataset.image(index).shape for index in range(3)] == [(48, 64, 3)] * 3
        # Predictions keep the names of the label.
        assert dataset.table.name(0) == read_labels(label)[0].path


@pytest.mark.parametrize("name", ["datumaro, CVAT", "official WIDER"])
def test_usual_layouts_train_with_validation(name: str, tmp_path: Path, run: RunScript) -> None:
    train, val = make_layout(tmp_path, name)
    result = run(
        "train", "--preset", "demo", f"data.train={train}", f"data.val={val}", "data.size=64", "data.workers=0",
        "train.epochs=1", "train.batch_size=3", "train.device=cpu", "--output", tmp_path / "run",
    )    # fmt: skip
    assert result.code == 0 and ", AP50 " in result.out


def test_each_label_file_may_have_its_own_image_folder(tmp_path: Path, run: RunScript) -> None:
    labels = []
    for split in ("train", "val"):
        write_coco(tmp_path / f"{split}.json", ["a.jpg"])
        write_image(tmp_path / "far" / split / "x" / "a.jpg", np.full((48, 64, 3), len(labels) * 50, np.uint8))
        labels.append(tmp_path / f"{split}.json")
    folders = [str(tmp_path / "far" / split / "x") for split in ("train", "val")]
    dataset = FaceDataset(labels, DataConfig(images=tuple(folders)))
    assert [int(dataset.image(index).mean()) for index in (0, 1)] == [0, 50]
    settings = [
        f"data.train={labels[0]}", f"data.val={labels[1]}", f"data.images=[{', '.join(folders)}]",
        "data.size=64", "data.workers=0", "train.epochs=1", "train.batch_size=1", "train.device=cpu",
    ]    # fmt: skip
    assert run("train", "--preset", "demo", *settings, "--output", tmp_path / "run").code == 0
    wrong = run("train", "--preset", "demo", *settings, f"data.images=[{folders[0]}, b, c]", "--output", tmp_path / "no")
    assert "data.images: expected one folder, or one for each of the 2 label files, found 3" in wrong.complaint


def test_folders_that_were_tried_are_named_where_no_image_is_found(tmp_path: Path, run: RunScript) -> None:
    (train, val) = make_layout(tmp_path, "datumaro, CVAT")
    shutil.rmtree(tmp_path / "images")
    checked = run("analyze_data", train, "--check")
    assert checked.code == 1 and "no image could be opened: tried" in checked.out
    assert str(tmp_path / "images" / "train") in checked.out
    failed = run("train", "--preset", "demo", f"data.train={train}", f"data.val={val}", "--output", tmp_path / "run")
    assert "no image readable of 3" in failed.complaint and str(tmp_path / "images" / "train") in failed.complaint
    failed = run("test", "--labels", train, "--output", tmp_path / "scored")
    assert "no image readable of 3" in failed.complaint and str(tmp_path / "images" / "train") in failed.complaint


def test_check_fails_for_one_label_of_several_without_images(tmp_path: Path, run: RunScript) -> None:
    (train, val) = make_layout(tmp_path, "official WIDER")
    shutil.rmtree(tmp_path / "WIDER_val")
    checked = run("analyze_data", train, val, "--check")
    assert checked.code == 1 and f"{val}: no image could be opened: tried" in checked.out
    assert f"{train}: no image" not in checked.out and str(tmp_path / "WIDER_val" / "images") in checked.out


def test_only_the_folder_that_was_named_is_tried(tmp_path: Path, run: RunScript) -> None:
    (train, _) = make_layout(tmp_path, "official WIDER")
    (tmp_path / "empty").mkdir()
    checked = run("analyze_data", train, "--images", tmp_path / "empty", "--check")
    assert checked.code == 1 and f"tried {tmp_path / 'empty'}; --images" in checked.out


def test_file_named_like_the_xml_is_taken_where_voc_names_none(tmp_path: Path) -> None:
    place(tmp_path / "JPEGImages" / "a.jpg", tmp_path / "JPEGImages" / "b.jpg")
    folder = tmp_path / "Annotations"
    folder.mkdir()
    box = "<object><name>face</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object>"
    for stem, name in (("a", "a"), ("b", "other.jpg")):
        (folder / f"{stem}.xml").write_text(f"<annotation><filename>{name}</filename>{box}</annotation>")
    records = read_labels(tmp_path)
    assert [image_path(record) for record in records] == [tmp_path / "JPEGImages" / f"{stem}.jpg" for stem in "ab"]


def test_sizes_are_given_by_the_name_in_the_label_or_that_of_the_file(tmp_path: Path, run: RunScript) -> None:
    place(tmp_path / "images" / "a.jpg", tmp_path / "images" / "b.jpg")
    (tmp_path / "label.txt").write_text("# images\\A.jpg\n90 10 20 20\n# b\n90 10 20 20\n")
    (tmp_path / "sizes.txt").write_text("a.jpg 100 50\nb 100 50\n")
    result = run("analyze_data", tmp_path / "label.txt", "--sizes", tmp_path / "sizes.txt", "--output", tmp_path / "out")
    total = json.loads((tmp_path / "out" / "statistics.json").read_text())["total"]
    assert result.code == 0 and total["out_of_range_faces"] == 2


def test_byte_order_mark_hides_no_setting_and_no_listed_image(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("train:\n  lr: 0.5\n", encoding="utf-8-sig")
    assert load_config(file=tmp_path / "config.yaml").train.lr == 0.5
    place(tmp_path / "a.jpg")
    (tmp_path / "a.txt").write_text("0 0.5 0.5 0.2 0.3\n", encoding="utf-8-sig")
    (tmp_path / "train.list.txt").write_text("data/set/a.jpg\n", encoding="utf-8-sig")
    assert [len(record) for record in read_labels(tmp_path / "train.list.txt")] == [1]


def test_byte_order_mark_hides_no_line(tmp_path: Path, run: RunScript) -> None:
    (tmp_path / "label.txt").write_text("# a.jpg\n90 10 20 20\n# b.jpg\n1 1 2 2\n")
    (tmp_path / "sizes.txt").write_text("\ufeffa.jpg 100 50\nb.jpg 100 50\n", encoding="utf-8")
    result = run("analyze_data", tmp_path / "label.txt", "--sizes", tmp_path / "sizes.txt", "--output", tmp_path / "out")
    total = json.loads((tmp_path / "out" / "statistics.json").read_text())["total"]
    assert result.code == 0 and total["out_of_range_faces"] == 1



@pytest.mark.parametrize("name", ["/home/me/a.jpg", "C:\\sets\\a.jpg", "../a.jpg"])
def test_voc_name_that_leads_elsewhere_means_the_file_named_like_the_xml(name: str, tmp_path: Path) -> None:
    place(tmp_path / "JPEGImages" / "a.jpg")
    (tmp_path / "Annotations").mkdir()
    box = "<object><name>face</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object>"
    (tmp_path / "Annotations" / "a.xml").write_text(f"<annotation><filename>{name}</filename>{box}</annotation>")
    (record,) = read_labels(tmp_path)
    assert image_path(record) == tmp_path / "JPEGImages" / "a.jpg"
