"""Sets without any face: refused for training, and scored by what can be said of them."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
from conftest import RunScript
from test_train import arguments, losses

from data.labels import read_labels
from detector.compare import find_run
from utils.checkpoint import read_checkpoint


def without_faces(label: Path, folder: Path) -> Path:
    """A copy of a set whose images have no face."""
    shutil.copytree(label.parent, folder)
    headers = [line for line in label.read_text().splitlines() if line.startswith("#")]
    (folder / "label.txt").write_text("\n".join(headers) + "\n")
    return folder / "label.txt"


def test_training_set_without_a_face_is_refused(
    drawn_set: Path, tmp_path: Path, run: RunScript
) -> None:
    label = without_faces(drawn_set, tmp_path / "set")
    result = run("train", *arguments(label, tmp_path / "run"))
    assert result.complaint == (
        f"train.py: no face in data.train: {label}; "
        "are the label files empty, or does data.classes name the wrong class?"
    )
    assert not (tmp_path / "run").exists()


def test_training_set_of_ignored_faces_is_refused(
    drawn_set: Path, tmp_path: Path, run: RunScript
) -> None:
    result = run("train", *arguments(drawn_set, tmp_path / "run", "data.ignore_smaller=1000"))
    assert (
        "boxes are ignored or without area; is data.ignore_smaller too large?" in result.complaint
    )
    result = run(
        "train", "--dry-run", *arguments(drawn_set, tmp_path / "run", "data.ignore_smaller=1000")
    )
    assert "boxes are ignored or without area" in result.complaint


def test_images_without_faces_may_stand_beside_others(
    drawn_set: Path, tmp_path: Path, run: RunScript
) -> None:
    negatives = without_faces(drawn_set, tmp_path / "set")
    words = arguments(
        drawn_set, tmp_path / "run", f"data.train=[{drawn_set},{negatives}]", "train.max_steps=1"
    )
    result = run("train", *words)
    assert (result.code, result.err) == (0, "")
    assert "24 images with " in result.out


def test_validation_without_faces_has_no_ap50_and_the_loss_decides(
    drawn_set: Path, tmp_path: Path, run: RunScript
) -> None:
    label = without_faces(drawn_set, tmp_path / "set")
    output = tmp_path / "run"
    result = run(
        "train",
        *arguments(
            drawn_set, output, f"data.val={label}", "train.epochs=3", "train.validate_every=2"
        ),
    )
    assert result.code == 0, result.err
    assert result.err.count("\n") == 1 and f"warning: no face in data.val: {label}; " in result.err
    assert "AP50 " not in result.out and "best.pth: epoch " in result.out
    with open(output / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["ap50"] for row in rows] == ["", "", ""]
    best = read_checkpoint(output / "best.pth")
    assert "ap50" not in best and best["total"] == pytest.approx(
        min(float(row["total"]) for row in rows)
    )
    assert (output / "detections.png").exists() and len(losses(output)) > 0
    assert find_run(str(output)).ap50 is None


def test_scores_of_a_set_without_faces_are_its_false_positives(
    drawn_set: Path, untrained: Path, tmp_path: Path, run: RunScript
) -> None:
    label = without_faces(drawn_set, tmp_path / "set")
    assert sum(len(record) for record in read_labels(label)) == 0
    words = ["--weights", untrained, "--output", tmp_path / "score", "test.draw_confidence=0.02"]
    result = run("test", "--labels", label, *words)
    assert (result.code, result.err) == (0, "")
    assert "no face in 12 images, so that there is no AP50\n" in result.out
    assert "false positives an image" in result.out
    metrics = json.loads((tmp_path / "score" / "metrics.json").read_text())
    assert set(metrics) == {"images", "faces", "at_draw_confidence", "settings"}
    assert (metrics["images"], metrics["faces"]) == (12, 0)
    assert set(metrics["at_draw_confidence"]) == {"confidence", "false_positives_per_image"}
    assert find_run(str(tmp_path / "score")).ap50 is None
    result = run("test", "--labels", label, drawn_set, *words)
    metrics = json.loads((tmp_path / "score" / "metrics.json").read_text())
    assert metrics["faces"] > 0 and {"ap50", "by_size"} <= set(metrics)
