"""analyze_data.py as a command."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, RunScript

from config import Config, ModelConfig
from data.dataset import FaceDataset
from data.labels import read_labels
from data.synthetic import draw_set
from detector.retinaface import RetinaFace
from utils.images import read_image, write_image


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_set_with_images_is_measured_and_drawn(drawn_set: Path, tmp_path: Path, run: RunScript) -> None:
    result = run("analyze_data", drawn_set, "--output", tmp_path / "out")
    assert result.code == 0, result.err
    pictures = {"histograms.png", "positions.png", "coverage.png", "first_images.png"}
    assert files(tmp_path / "out") == {"statistics.json", "report.html", *pictures}
    assert (tmp_path / "out" / "report.html").read_text().count("data:image/png;base64,") == len(pictures)
    statistics = json.loads((tmp_path / "out" / "statistics.json").read_text())
    assert list(statistics["files"]) == [str(drawn_set)]
    total = statistics["total"]
    assert statistics["files"][str(drawn_set)].items() <= total.items()
    assert list(total["coverage"]) == ["training", "original"] and total["coverage"]["original"]["faces"] == total["faces"]
    assert total["images"] == 12 and total["faces"] == total["faces_with_landmarks"] > 12
    assert (total["overlapping_faces"], total["out_of_range_faces"], total["degenerate_faces"]) == (0, 0, 0)
    assert read_image(tmp_path / "out" / "first_images.png", turn=False).shape == (1280, 1280, 3)


def test_files_are_counted_alone_and_together(drawn_set: Path, tmp_path: Path, run: RunScript) -> None:
    (tmp_path / "other.txt").write_text("# x.jpg\n1 2 30 40\n")
    result = run("analyze_data", drawn_set, tmp_path / "other.txt", "--output", tmp_path / "out")
    assert result.code == 0
    statistics = json.loads((tmp_path / "out" / "statistics.json").read_text())
    alone = [statistics["files"][str(path)]["faces"] for path in (drawn_set, tmp_path / "other.txt")]
    assert alone[1] == 1 and statistics["total"]["faces"] == sum(alone)
    assert "total\n" in result.out


def test_sizes_stand_in_for_images(tmp_path: Path, run: RunScript) -> None:
    (tmp_path / "label.txt").write_text("# a.jpg\n90 10 20 20\n5 5 10 10\n# b.jpg\n0 0 10 10\n")
    (tmp_path / "sizes.txt").write_text("a.jpg 100 50\nb.jpg 10 10\n")
    result = run("analyze_data", tmp_path / "label.txt", "--sizes", tmp_path / "sizes.txt", "--output", tmp_path / "out")
    assert result.code == 0
    assert json.loads((tmp_path / "out" / "statistics.json").read_text())["total"]["out_of_range_faces"] == 1
    assert "1 boxes leave their image" in result.out


def test_without_images_the_rest_is_still_measured(tmp_path: Path, run: RunScript) -> None:
    (tmp_path / "label.txt").write_text("# a.jpg\n90 10 20 20\n")
    result = run("analyze_data", tmp_path / "label.txt", "--output", tmp_path / "out")
    assert result.code == 0
    assert files(tmp_path / "out") == {"statistics.json", "report.html", "histograms.png", "coverage.png"}
    assert list(json.loads((tmp_path / "out" / "statistics.json").read_text())["total"]["coverage"]) == ["original"]
    assert "whether boxes leave their image is not known" in result.out


def test_images_may_lie_elsewhere(drawn_set: Path, tmp_path: Path, run: RunScript) -> None:
    shutil.copy(drawn_set, tmp_path / "moved.txt")
    for number, words in enumerate((["--images", drawn_set.parent / "images"], [f"data.images={drawn_set.parent / 'images'}"])):
        assert run("analyze_data", tmp_path / "moved.txt", *words, "--output", tmp_path / str(number)).code == 0
        statistics = json.loads((tmp_path / str(number) / "statistics.json").read_text())
        assert statistics["total"]["images_with_known_size"] == 12


def test_unreadable_images_are_listed(drawn_set: Path, tmp_path: Path, run: RunScript) -> None:
    shutil.copytree(drawn_set.parent, tmp_path / "set")
    (tmp_path / "set" / "images" / "drawn_0000.jpg").unlink()
    (tmp_path / "set" / "images" / "drawn_0002.jpg").write_bytes(b"text")
    result = run("analyze_data", tmp_path / "set" / "label.txt", "--output", tmp_path / "out")
    assert result.code == 1
    assert "drawn_0000.jpg: no such image" in result.err and "drawn_0002.jpg: not a readable image" in result.err
    assert json.loads((tmp_path / "out" / "statistics.json").read_text())["total"]["images_with_known_size"] == 10


def test_bad_input_is_one_line_and_leaves_nothing(drawn_set: Path, tmp_path: Path, run: RunScript) -> None:
    (tmp_path / "malformed.txt").write_text("# a.jpg\n1 2 3\n")
    (tmp_path / "sizes.txt").write_text("a.jpg wide high\n")
    (tmp_path / "others.txt").write_text("other.jpg 10 10\n")
    (tmp_path / "one.txt").write_text("# 1.jpg\n")
    for arguments, message in (
        (["no.txt"], "no.txt: no such label file"),
        ([tmp_path / "malformed.txt"], "malformed.txt:2: expected 4, 5, 19 or 20 numbers, found 3"),
        ([drawn_set, "--sizes", tmp_path / "sizes.txt"], "sizes.txt:1: expected 'name width height'"),
        ([], "the following arguments are required: LABELS"),
        ([drawn_set, "--images", tmp_path / "nowhere"], "nowhere: no such folder of images"),
        ([drawn_set, "--sizes", tmp_path / "others.txt"], "--sizes: names none of the 12 images, such as drawn_0000.jpg"),
        ([drawn_set, "--show-augmented", "0"], "--show-augmented: expected a number of images of at least 1, found 0"),
        ([drawn_set, "--fix", drawn_set], "would write over a label that is read"),
        ([drawn_set, "--convert", tmp_path], "expected a file, found a folder"),
        ([drawn_set, tmp_path / "one.txt", "--convert", tmp_path / "two.txt"], "one label has one image folder, found"),
        ([drawn_set, drawn_set], "label.txt: given twice"),
        ([drawn_set, "--fix", tmp_path / "a.txt", "--convert", tmp_path / "a.txt"], "--fix and --convert: expected two files"),
        ([drawn_set, "--rows", drawn_set], "--rows .*: would write over a label that is read".replace(".*", str(drawn_set))),
        ([drawn_set, "--rows", tmp_path], "expected a file, found a folder"),
        ([drawn_set, "--fix", tmp_path / "a.txt", "--rows", tmp_path / "a.txt"], "--fix and --rows: expected two files"),
        ([drawn_set, "--format", "voc"], "data.format=voc: expected a folder of label files"),
        ([drawn_set, "--format", "csv"], "data.format: expected"),
        ([drawn_set, "--preset", "resnet5"], "resnet5: no such preset"),
        ([drawn_set, "--ground-truth", tmp_path], "wider_easy_val.mat: no such list"),
        ([drawn_set, "model.min_sizes=[[1],[2],[3],[4],[5]]"], "model.min_sizes: expected at most 4 lists"),
        ([drawn_set, "train.lr=1"], "train.lr=1: only data.*, augmentation.*, model.*, loss.*, test.* can be set here"),
    ):
        result = run("analyze_data", *arguments, "--output", tmp_path / "out")
        assert message in result.complaint
        assert not (tmp_path / "out").exists()


def test_check_lists_faults_and_ends_with_one(tmp_path: Path, run: RunScript) -> None:
    label = tmp_path / "label.txt"
    label.write_text("# a.jpg\n1 1 5 5\n1 1 5 5\nnot a face\n# b.jpg\n0 0 0 0\n")
    result = run("analyze_data", label, "--check", "--output", tmp_path / "out")
    assert result.code == 1 and result.err == ""
    lines = result.out.splitlines()
    assert lines[:3] == [
        f"{label}:4: expected 4, 5, 19 or 20 numbers, found 3",
        f"{label}:3: box 1 1 5 5 (x y w h) stands in this image twice",
        f"{label}:6: box 0 0 0 0 (x y w h) has no area",
    ]
    assert "3 faults in 2 images, 0 of them opened" in result.out and "  1 x duplicate box" in result.out
    assert f"no image could be opened: tried {tmp_path / 'images'}" in result.out
    assert not (tmp_path / "out").exists()


def test_check_of_a_clean_set_ends_with_zero(drawn_set: Path, run: RunScript) -> None:
    result = run("analyze_data", drawn_set, "--check")
    assert (result.code, result.out) == (0, "0 faults in 12 images, 12 of them opened\n")


def test_fixed_label_checks_clean_and_lists_its_changes(drawn_set: Path, tmp_path: Path, run: RunScript) -> None:
    shutil.copytree(drawn_set.parent, tmp_path / "set")
    label, fixed = tmp_path / "set" / "label.txt", tmp_path / "set" / "fixed.txt"
    label.write_text(label.read_text() + "bad line here\n# drawn_0000.jpg\n100 100 90 90\n# missing.jpg\n1 1 2 2\n")
    before = label.read_bytes()
    assert run("analyze_data", label, "--check").code == 1
    result = run("analyze_data", label, "--fix", fixed)
    assert result.code == 1 and "4 changes" in result.out    # an image is left out with its unreadable face
    changes = (tmp_path / "set" / "fixed.txt.changes.txt").read_text().splitlines()
    assert [change.rpartition("; ")[2] for change in changes] == [
        "image left out",
        "faces moved to the first place",
        "clipped to the image",
        "image left out",
    ]
    assert label.read_bytes() == before
    assert run("analyze_data", fixed, "--check").code == 0


def test_repair_of_a_label_without_a_single_image_says_so(drawn_set: Path, tmp_path: Path, run: RunScript) -> None:
    (tmp_path / "label.txt").write_text("# 1.jpg\n")
    result = run("analyze_data", tmp_path / "label.txt", "--images", drawn_set.parent / "images", "--fix", tmp_path / "out.txt")
    assert "out.txt: no image is left: " in result.complaint
    assert not (tmp_path / "out.txt").exists()


def test_coco_is_converted_and_its_ignored_faces_are_told_of(tmp_path: Path, run: RunScript) -> None:
    label = draw_set(tmp_path / "mine", images=3, size=96, coco=True)
    content = json.loads(label.read_text())
    content["annotations"][0]["iscrowd"] = 1
    label.write_text(json.dumps(content))
    result = run("analyze_data", label, "--convert", tmp_path / "mine" / "label.txt")
    assert result.code == 0
    assert "1 ignored face written like the others" in result.err
    assert result.out.startswith(f"written {tmp_path / 'mine' / 'label.txt'}: 3 images, ") and "its images lie" not in result.out
    assert "its images lie in" in run("analyze_data", label, "--convert", tmp_path / "else.txt").out
    converted = read_labels(tmp_path / "mine" / "label.txt")
    assert sum(map(len, converted)) == len(content["annotations"])


def test_nothing_is_converted_of_a_label_with_lines_that_cannot_be_read(tmp_path: Path, run: RunScript) -> None:
    (tmp_path / "bad.txt").write_text("garbage\n")
    (tmp_path / "out.txt").write_text("precious")
    result = run("analyze_data", tmp_path / "bad.txt", "--check", "--convert", tmp_path / "out.txt")
    assert result.code == 2 and "bad.txt:1: expected '# path of an image' before the first face" in result.err
    assert (tmp_path / "out.txt").read_text() == "precious"


def test_rows_are_those_of_the_dataset(tmp_path: Path, run: RunScript) -> None:
    label = tmp_path / "label.txt"
    points = "1 1 0 " * 4
    text = f"# a,b.jpg\n1.1 2 10 20.7\n5 5 0 3 {points} 2.5 3 0 0.9\n# c.jpg\n# d.jpg\n9 9 9 9 {points} -1 -1 -1\n"
    label.write_text(text)
    result = run("analyze_data", label, "--rows", tmp_path / "rows.csv")
    assert (result.code, result.err) == (0, "")
    assert result.out == f"written {tmp_path / 'rows.csv'}: 3 images, 3 faces\n"
    with open(tmp_path / "rows.csv", newline="") as file:
        header, *rows = csv.reader(file)
    names = [f"l{number}{axis}" for number in range(5) for axis in "xy"]
    assert header == ["image", "x1", "y1", "x2", "y2", *names, "has_landmarks"]
    assert [row[0] for row in rows] == ["a,b.jpg", "a,b.jpg", "d.jpg"]
    expected = FaceDataset([label]).as_rows()
    assert np.array_equal(np.array([row[1:] for row in rows], np.float32), expected)
    assert rows[0][1:5] == ["1.1", "2", "11.1", "22.7"] and [row[15] for row in rows] == ["-1", "1", "-1"]


def test_rows_leave_out_images_with_a_face_that_cannot_be_read(
    tmp_path: Path, run: RunScript
) -> None:
    label = tmp_path / "bad.txt"
    label.write_text("# a.jpg\n1 1 5 5\n1 2 3\n# b.jpg\n1 1 5 5\n")
    result = run("analyze_data", label, "--rows", tmp_path / "rows.csv")
    assert result.code == 1 and "1 image, 1 face; 1 image left out" in result.out
    assert "bad.txt:3: expected 4, 5, 19 or 20 numbers, found 3" in result.err
    assert (tmp_path / "rows.csv").read_text().count("\n") == 2
    label.write_text("# a.jpg\n1 2 3\n")
    complaint = run("analyze_data", label, "--rows", tmp_path / "rows.csv").complaint
    assert "no image is left" in complaint


def test_image_with_a_line_that_cannot_be_read_is_not_converted(tmp_path: Path, run: RunScript) -> None:
    label = tmp_path / "bad.txt"
    label.write_text("# a.jpg\n1 1 5 5\n1 2 3\n# b.jpg\n1 1 5 5\n# ./a.jpg\n2 2 6 6\n# c.jpg\n")
    result = run("analyze_data", label, "--convert", tmp_path / "out.txt")
    assert result.code == 1 and "2 images, 1 face; 2 images left out" in result.out
    assert (tmp_path / "out.txt").read_text() == "# b.jpg\n1 1 5 5\n# c.jpg\n"
    assert result.err.splitlines() == [
        f"analyze_data.py: {label}:3: expected 4, 5, 19 or 20 numbers, found 3, of 'a.jpg'; image left out",
        f"analyze_data.py: {label}:6: a face of './a.jpg' that is listed elsewhere cannot be read; image left out",
    ]


@pytest.mark.parametrize("lines", ["# missing.jpg\n1 1 2 2\n", "# drawn_0000.jpg\n9 9 -5 5\n", "# drawn_0000.jpg\n9 999 5 5\n"])
def test_repair_that_leaves_an_image_out_ends_with_one(lines: str, drawn_set: Path, tmp_path: Path, run: RunScript) -> None:
    label = tmp_path / "label.txt"
    label.write_text("# drawn_0001.jpg\n5 5 9 9\n5 5 9 9\n0 0 0 0\n")
    images = ["--images", drawn_set.parent / "images"]
    assert run("analyze_data", label, *images, "--fix", tmp_path / "fixed.txt").code == 0
    label.write_text(label.read_text() + lines)
    assert run("analyze_data", label, *images, "--fix", tmp_path / "fixed.txt").code == 1
    assert (tmp_path / "fixed.txt").read_text() == "# drawn_0001.jpg\n5 5 9 9\n"
    changes = (tmp_path / "fixed.txt.changes.txt").read_text().splitlines()
    assert [change.rpartition("; ")[2] for change in changes].count("image left out") == 1


def test_label_is_not_written_among_those_of_a_folder(drawn_set: Path, tmp_path: Path, run: RunScript) -> None:
    (tmp_path / "labels").mkdir()
    shutil.copytree(drawn_set.parent / "images", tmp_path / "images")
    (tmp_path / "labels" / "drawn_0000.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    refused = run("analyze_data", f"{tmp_path}/", "--convert", tmp_path / "labels" / "label.txt")
    assert refused.code == 2 and "would be taken for one of the label files" in refused.err
    assert run("analyze_data", tmp_path, "--convert", tmp_path / "label.txt").code == 0


def test_unreadable_images_are_listed_where_augmented_ones_are_drawn(drawn_set: Path, tmp_path: Path, run: RunScript) -> None:
    shutil.copytree(drawn_set.parent, tmp_path / "set")
    (tmp_path / "set" / "images" / "drawn_0001.jpg").unlink()
    result = run("analyze_data", tmp_path / "set" / "label.txt", "--show-augmented", "3", "data.size=64", "--output", tmp_path / "out")
    assert result.code == 1 and result.err.count("drawn_0001.jpg: no such image") == 1


def test_augmented_images_are_drawn(drawn_set: Path, tmp_path: Path, run: RunScript) -> None:
    settings = ["data.size=64", "augmentation.mosaic=0.5", "augmentation.ignore_smaller=12"]
    result = run("analyze_data", drawn_set, "--show-augmented", "5", *settings, "--output", tmp_path)
    assert result.code == 0 and files(tmp_path) == {"augmented.png"}
    sheet = read_image(tmp_path / "augmented.png", turn=False)
    assert sheet.shape == (2 * 640, 3 * 640, 3)
    assert (sheet[640:, 1280:] == 64).all() and sheet[:640].std() > 10    # five of six places are taken


def test_official_lists_split_the_set(real_data: Path, tmp_path: Path, run: RunScript) -> None:
    label = real_data / "annotations" / "labelv2_val.txt"
    result = run("analyze_data", label, "--ground-truth", real_data / "wider_eval", "--output", tmp_path)
    assert result.code == 0
    lists = json.loads((tmp_path / "statistics.json").read_text())["total"]["wider"]
    assert {name: numbers["faces"] for name, numbers in lists.items()} == {"easy": 7211, "medium": 13319, "hard": 31957}
    covered = lists["hard"]["coverage"]["original"]
    assert [covered["iou_0.35"], covered["iou_0.5"]] == pytest.approx([0.943, 0.735], abs=0.005)


def test_file_name_with_html_in_it_stays_text(tmp_path: Path, run: RunScript) -> None:
    name = "<img src=x onerror=alert(1)>.txt"
    (tmp_path / name).write_text("# 1.jpg\n1 1 20 20\n")
    assert run("analyze_data", tmp_path / name, "--output", tmp_path / "out").code == 0
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<img src=x" not in page and "&lt;img src=x onerror=alert(1)&gt;.txt" in page


def test_steps_told_without_the_network_are_those_of_the_network(run: RunScript) -> None:
    run("analyze_data", "none")    # loads the module
    priors_of = sys.modules["script_analyze_data"].priors_of
    for backbone in ("resnet18", "mobilenet0.25"):
        for min_sizes in (((16,),), ((16,), (32,)), ((16, 32), (64, 128), (256, 512)), ((8,), (16,), (64,), (256,))):
            model = ModelConfig(backbone=backbone, min_sizes=min_sizes, channels=16)    # type: ignore[arg-type]
            assert priors_of(Config(model=model)).steps == RetinaFace(model).prior_box.steps
    model = ModelConfig(backbone="resnet18", min_sizes=((16,), (64,)), return_layers=("layer1", "layer3"), channels=16)
    assert priors_of(Config(model=model)).steps == RetinaFace(model).prior_box.steps == (4, 16)


def test_measuring_and_checking_do_without_pytorch(drawn_set: Path, tmp_path: Path) -> None:
    for words in ([], ["--check"], ["--convert", tmp_path / "c.txt"]):
        code = f"""
import sys, analyze_data
assert analyze_data.main({[str(word) for word in (drawn_set, *words, "--output", tmp_path / "out")]}) == 0
assert "torch" not in sys.modules, "PyTorch was imported"
"""
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_published_labels_give_their_known_figures(real_data: Path, tmp_path: Path, run: RunScript) -> None:
    folder = real_data / "annotations"
    train, val = folder / "wider_train_label_boxes_only.txt", folder / "wider_val_label_boxes_only.txt"
    assert run("analyze_data", train, val, "--sizes", folder / "wider_train_sizes.txt", "--output", tmp_path).code == 0
    statistics = json.loads((tmp_path / "statistics.json").read_text())
    assert [statistics["files"][str(path)]["faces"] for path in (train, val)] == [159_424, 39_708]
    assert [statistics["files"][str(path)]["overlapping_faces"] for path in (train, val)] == [19_763, 4_814]
    assert [statistics["files"][str(path)]["degenerate_faces"] for path in (train, val)] == [31, 11]
    total = statistics["total"]
    assert [total[name] for name in ("mean_width", "mean_height", "mean_area")] == pytest.approx([29.00, 37.44, 3847.96], abs=0.005)
    outside = [statistics["files"][str(path)].get("out_of_range_faces") for path in (train, val)]
    assert outside == [2, None] and total["out_of_range_faces"] == 2


@pytest.mark.slow
def test_published_labels_on_blank_images_of_their_true_sizes(real_data: Path, tmp_path: Path, run: RunScript) -> None:
    folder = real_data / "annotations"
    headers = [line[2:] for line in (folder / "labelv2_val.txt").read_text().splitlines() if line.startswith("# ")]
    for line in [*(folder / "wider_train_sizes.txt").read_text().splitlines(), *headers]:
        name, width, height = line.rsplit(maxsplit=2)
        write_image(tmp_path / "images" / name, np.zeros((int(height), int(width), 3), np.uint8))
    labels = [folder / "wider_train_label_boxes_only.txt", folder / "wider_val_label_boxes_only.txt"]
    result = run("analyze_data", *labels, "--images", tmp_path / "images", "--output", tmp_path / "out")
    assert result.code == 0
    total = json.loads((tmp_path / "out" / "statistics.json").read_text())["total"]
    assert (total["faces"], total["images_with_known_size"], total["out_of_range_faces"]) == (199_132, 16_106, 3)
