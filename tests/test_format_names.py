"""Files that are no labels of a known format are named in one line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import RunScript

from utils.images import write_image

EXPORT = "export COCO or Pascal VOC from there"
LABELME = json.dumps({"version": "5.4", "flags": {}, "shapes": [{"label": "face", "points": [[1, 2], [3, 4]]}], "imagePath": "a.jpg"})
OTHERS = {    # file, its text, and what it looks like
    "a.json": (LABELME, "labelme"),
    "_annotations.createml.json": (json.dumps([{"image": "a.jpg", "annotations": [{"label": "face"}]}]), "CreateML"),
    "via.json": (json.dumps({"a.jpg1": {"filename": "a.jpg", "size": 1, "regions": []}}), "VGG Image Annotator"),
    "results.json": (json.dumps([{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}]), "annotations of COCO without their images"),
    "annotations.xml": ("<?xml version='1.0'?>\n<annotations><version>1.1</version><image id='0'/></annotations>", "CVAT XML"),
    "_annotations.csv": ("filename,width,height,class,xmin,ymin,xmax,ymax\n" + "a.jpg,9,9,face,1,2,3,4\n" * 2000, "CSV"),
    "semicolons.csv": ("name;x;y\na.jpg;1;2\n", "CSV"),
    "labels.tsv": ("a.jpg\t1\t2\t3\t4\n", "CSV"),
    "a.yaml": ("annotation:\n  filename: a.jpg\n", "YAML"),
    "a.tfrecord": ("\0\1", "TFRecord"),
    "a.parquet": ("PAR1", "Parquet"),
    "wider_face_val.mat": ("MATLAB 5.0", "MATLAB"),
    "kitti.txt": ("Car 0.00 0 -0.20 712.40 143.00 810.73 307.92 1.89 0.48 1.20 1.84 1.47 8.41 0.01\n" * 9, "KITTI"),
    "dota.txt": ("imagesource:GoogleEarth\ngsd:0.1\n1 2 3 4 5 6 7 8 plane 0\n", "DOTA"),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("of_folder", [False, True])
def test_other_format_is_named_in_one_line(name: str, of_folder: bool, tmp_path: Path, run: RunScript) -> None:
    text, form = OTHERS[name]
    (tmp_path / name).write_text(text)
    write_image(tmp_path / "a.jpg", np.zeros((9, 9, 3), np.uint8))
    for option in ([], ["--check"], ["--fix", tmp_path / "fixed" / "label.txt"]):
        result = run("analyze_data", tmp_path if of_folder else tmp_path / name, "--output", tmp_path / "out", *option)
        assert result.code == 2 and result.complaint.count("\n") <= 1
        assert f"not a label of a known format; it looks like {form}: {EXPORT}" in result.complaint and name in result.complaint


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("set.zip", "PK", "an archive: unpack it"),
        ("a.jpg", "x", "found an image"),
        ("data.yaml", "train: images\nnc: 1\nnames: [face]\n", "the settings of a YOLO set; name the folder of its labels"),
        ("obj.data", "classes = 1\nnames = obj.names\n", "YOLO's settings; name the folder of its labels"),
        ("obj.names", "face\n", "YOLO's settings; name the folder of its labels"),
        ("a.txt", "0 0.5 0.5 0.2 0.4\n" * 9, "one of YOLO's, which are read by the folder; name that"),
        ("a.txt", "once upon a time\nthere was a set\n" * 9, "a.txt:1: expected '# path of an image' before the first face"),
    ],
)
def test_file_that_holds_no_labels_is_one_line(name: str, text: str, problem: str, tmp_path: Path, run: RunScript) -> None:
    (tmp_path / name).write_text(text)
    for option in ([], ["--check"]):
        result = run("analyze_data", tmp_path / name, *option)
        assert result.code == 2 and problem in result.complaint


def test_folder_of_coco_says_which_file_to_name(tmp_path: Path, run: RunScript) -> None:
    (tmp_path / "instances.json").write_text(json.dumps({"images": [], "annotations": []}))
    assert f"name a label file, such as {tmp_path / 'instances.json'}" in run("analyze_data", tmp_path).complaint


def test_kitti_in_a_folder_of_labels_is_named(tmp_path: Path, run: RunScript) -> None:
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text(OTHERS["kitti.txt"][0])
    write_image(tmp_path / "images" / "a.jpg", np.zeros((9, 9, 3), np.uint8))
    assert "a.txt: not a label of a known format; it looks like KITTI" in run("analyze_data", tmp_path, "--check").complaint
