"""analyze_data.py as a command."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import RunScript

from utils.images import read_image, write_image


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_set_with_images_is_measured_and_drawn(drawn_set: Path, tmp_path: Path, run: RunScript) -> None:
    result = run("analyze_data", drawn_set, "--output", tmp_path / "out")
    assert result.code == 0, result.err
    assert files(tmp_path / "out") == {"statistics.json", "positions.png", "first_images.png"}
    statistics = json.loads((tmp_path / "out" / "statistics.json").read_text())
    assert list(statistics["files"]) == [str(drawn_set)]
    assert statistics["files"][str(drawn_set)] == statistics["total"]
    total = statistics["total"]
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
    assert files(tmp_path / "out") == {"statistics.json"}
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
    for arguments, message in (
        (["no.txt"], "no.txt: no such label file"),
        ([tmp_path / "malformed.txt"], "malformed.txt:2: expected 4, 5, 19 or 20 numbers, found 3"),
        ([drawn_set, "--sizes", tmp_path / "sizes.txt"], "sizes.txt:1: expected 'name width height'"),
        ([], "the following arguments are required: LABELS"),
        ([drawn_set, "--images", tmp_path / "nowhere"], "nowhere: no such folder of images"),
        ([drawn_set, "--sizes", tmp_path / "others.txt"], "--sizes: names none of the 12 images, such as drawn_0000.jpg"),
        ([drawn_set, "train.lr=1"], "train.lr=1: only data.images can be set here"),
    ):
        result = run("analyze_data", *arguments, "--output", tmp_path / "out")
        assert message in result.complaint
        assert not (tmp_path / "out").exists()


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
    assert total["out_of_range_faces"] == 0


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
    assert (total["faces"], total["images_with_known_size"], total["out_of_range_faces"]) == (199_132, 16_106, 0)
