from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import RunScript, make_target

from detector.compare import Count, choose_drawings, count_mistakes, main
from utils.images import write_image
from utils.script import run_script
from utils.structures import Detections


def test_false_boxes_and_duplicates_are_told_apart() -> None:
    target = make_target([[0, 0, 10, 10], [50, 50, 60, 60]], ignore=[False, True])
    boxes = [[0, 0, 10, 10], [0, 0, 10, 9], [30, 30, 40, 40], [50, 50, 60, 60], [0, 5, 10, 15]]
    detections = Detections(np.array(boxes, np.float32), np.array([0.9, 0.8, 0.7, 0.6, 0.5], np.float32), None)
    assert count_mistakes(detections, target) == Count(boxes=5, false=2, duplicate=1)
    assert count_mistakes(detections, make_target([])) == Count(5, 5, 0)
    assert count_mistakes(Detections.none(), target) == Count(0, 0, 0)


@pytest.fixture
def scored(drawn_set: Path, untrained: Path, tmp_path: Path, run: RunScript) -> Path:
    result = run("test", "--labels", drawn_set, "--weights", untrained, "--output", tmp_path / "scored", "test.size=long:64")
    assert result.code == 0
    return tmp_path / "scored"


def test_runs_stand_side_by_side(scored: Path, drawn_set: Path, untrained: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    photos = sorted((drawn_set.parent / "images").iterdir())[:2]
    arguments = [scored, untrained, "--images", *photos, "--size", 64, "--output", tmp_path / "out"]
    assert main([str(word) for word in arguments]) == 0
    lines = capfd.readouterr().out.splitlines()
    ap50 = json.loads((scored / "metrics.json").read_text())["ap50"]
    header, _, first, second = ([cell.strip() for cell in line.split("|")[1:-1]] for line in lines[:4])
    assert header == ["run", "model", "AP50", "COCO AP", "M parameters", "GMAC", "ms an image"]
    assert first[:3] == [str(scored), "retinaface mobilenet0.25", f"{ap50:.4f}"] and first[4:6] == ["0.43", "0.01"]
    assert second[:4] == [str(untrained), "retinaface mobilenet0.25", "-", "-"] and float(second[6]) > 0
    assert lines[4].startswith("GMAC and time: one image of 64 x 64 pixels, looked at once, on ")
    assert [line.partition(": ")[0] for line in lines[5:]] == [str(scored), str(untrained), f"written to {tmp_path / 'out'}"]
    assert (tmp_path / "out" / "comparison.md").read_text() == "\n".join(lines[:4]) + "\n"
    drawn = [cv2.imread(str(tmp_path / "out" / "photos" / f"{photo.stem}.png")) for photo in photos]
    assert all(each.shape[1] == 2 * 640 and each.shape[0] > 640 for each in drawn)


def test_ap_of_masks_has_a_column_where_a_run_has_it(
    scored: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    other = shutil.copytree(scored, tmp_path / "masks")
    metrics = json.loads((other / "metrics.json").read_text())
    (other / "metrics.json").write_text(json.dumps({**metrics, "coco_masks": {"AP": 0.25}}))
    words = [scored, other, "--size", 64, "--output", tmp_path / "out"]
    assert main([str(word) for word in words]) == 0
    lines = capfd.readouterr().out.splitlines()[:4]
    header, _, first, second = ([cell.strip() for cell in line.split("|")[1:-1]] for line in lines)
    assert header[4] == "COCO mask AP" and (first[4], second[4]) == ("-", "0.2500")


def test_photos_that_no_run_was_scored_on_are_told(
    scored: Path, drawn_set: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    photo = shutil.copy(next((drawn_set.parent / "images").iterdir()), tmp_path)
    assert main([str(scored), "--images", photo, "--size", "64", "--output", str(tmp_path / "out")]) == 0
    told = capfd.readouterr().out.splitlines()[-2]
    assert told == "false boxes are not counted: from this folder none of these photos is one that a run was scored on"


def test_folder_of_a_run_gives_its_own_ap(tmp_path: Path, untrained: Path, capfd: pytest.CaptureFixture[str]) -> None:
    checkpoint = torch.load(untrained, weights_only=True)
    (tmp_path / "run").mkdir()
    torch.save({**checkpoint, "epoch": 3, "ap50": 0.25}, tmp_path / "run" / "best.pth")
    assert main([str(tmp_path / "run"), "--size", "64", "--output", str(tmp_path / "out")]) == 0
    assert "| 0.2500 | -" in capfd.readouterr().out
    assert (tmp_path / "out" / "comparison.png").stat().st_size > 1000


def test_ap_of_other_labels_is_told(scored: Path, drawn_set: Path, untrained: Path, tmp_path: Path, run: RunScript) -> None:
    words = ["--labels", drawn_set, "--weights", untrained]
    assert run("test", *words, "--output", tmp_path / "again").code == 0
    assert run("test", *words, "data.ignore_smaller=20", "--output", tmp_path / "other").code == 0
    out = ["--size", "64", "--output", str(tmp_path / "out")]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        main([str(scored), str(tmp_path / "again"), *out])
    with pytest.warns(UserWarning, match=f"{tmp_path / 'other'} was scored on other labels than {scored}: their AP cannot be compared"):
        main([str(scored), str(tmp_path / "other"), *out])


def test_mistakes_are_one_line_and_leave_nothing(tmp_path: Path, untrained: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "metrics.json").write_text("[]")
    for words, message in [
        ([tmp_path / "empty"], f"{tmp_path / 'empty'}: expected metrics.json of test.py --labels or best.pth of train.py, found neither"),
        ([tmp_path / "other"], f"{tmp_path / 'other' / 'metrics.json'}: expected the figures of test.py --labels, found others"),
        ([tmp_path / "no.pth"], f"{tmp_path / 'no.pth'}: no such checkpoint"),
        ([tmp_path / "a.onnx"], f"{tmp_path / 'a.onnx'}: expected the checkpoint that the file was made of, to count what it computes"),
        ([untrained, "--images", "no.jpg"], "no.jpg: no such image"),
        ([untrained, "--size", "0"], "--size: expected at least 1 pixel, found 0"),
    ]:
        arguments = [*map(str, words), "--output", str(tmp_path / "out")]
        assert run_script(lambda arguments=arguments: main(arguments), "detector.compare") == 2    # type: ignore[misc]
        assert capfd.readouterr().err == f"detector.compare: {message}\n"
        assert not (tmp_path / "out").exists()


def test_comparison_replaces_no_picture_of_the_user(tmp_path: Path) -> None:
    photo = tmp_path / "photos" / "a.png"
    for path in (photo, tmp_path / "b.png"):
        write_image(path, np.zeros((8, 8, 3), np.uint8))
    for _ in range(2):
        with pytest.raises(ValueError, match=r"would replace .*photos/a\.png, which no earlier run"):
            choose_drawings([tmp_path / "b.png", photo], tmp_path)
        (tmp_path / "comparison.md").touch()
    photo.unlink()
    (tmp_path / "comparison.md").unlink()
    assert choose_drawings([tmp_path / "b.png", tmp_path / "B.png"], tmp_path) == [
        tmp_path / "photos" / "b.png", tmp_path / "photos" / "B_2.png",
    ]  # fmt: skip
