"""The detector that comes with the code, and what is written of it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from conftest import ROOT, RunScript

from config import from_dict
from detector.face_detector import FaceDetector
from detector.weights import SHIPPED

RECORD = (ROOT / "weights" / "README.md").read_text(encoding="utf-8")

# Where a person put them in the NASA portrait of Eileen Collins, 512 x 512 pixels.
PORTRAIT_POINTS = np.array([[203, 101], [246.5, 103.5], [225, 126], [203, 140.5], [246.5, 140.5]])


def test_file_is_the_one_that_was_measured() -> None:
    content = SHIPPED.read_bytes()
    assert len(content) < 2e6
    assert f"`{hashlib.sha256(content).hexdigest()}`" in RECORD


def test_file_says_how_it_was_made_and_names_no_machine() -> None:
    checkpoint = torch.load(SHIPPED, weights_only=True)
    config = from_dict(checkpoint["config"])
    assert config.model.backbone == "mobilenet0.25"
    assert config == from_dict(read_yaml(SHIPPED.with_suffix(".yaml")))
    assert not any(Path(name).is_absolute() for name in (*config.data.train, *config.data.val, str(config.model.backbone_weights)))


def read_yaml(path: Path) -> dict[str, object]:
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert isinstance(values, dict)
    return values


def test_face_of_the_portrait_is_found_with_its_points(real_data: Path, tmp_path: Path, run: RunScript) -> None:
    assert run("test", real_data / "photos" / "astronaut.png", "--output", tmp_path).code == 0
    (line,) = (tmp_path / "detections.jsonl").read_text().splitlines()
    face = json.loads(line)["detections"][0]
    x1, y1, x2, y2 = face["box"]
    assert face["score"] > 0.8
    errors = np.linalg.norm(np.array(face["landmarks"]) - PORTRAIT_POINTS, axis=1) / np.sqrt((x2 - x1) * (y2 - y1))
    assert errors.max() < 0.05, errors


def test_detector_needs_no_path(real_data: Path) -> None:
    image = cv2.imread(str(real_data / "photos" / "astronaut.png"))
    (face,) = FaceDetector.from_checkpoint()(image).above(0.9).boxes
    assert face[0] < PORTRAIT_POINTS[:, 0].min() and face[2] > PORTRAIT_POINTS[:, 0].max()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("labels", "words"),
    [("boxes_val", []), ("points_val", []), ("wider_val_sample", []), ("wider_val_sample", ["test.size=x2"])],
)
def test_scoring_gives_the_figures_of_the_readme(labels: str, words: list[str], real_data: Path, tmp_path: Path, run: RunScript) -> None:
    command = " ".join([f"`python test.py --labels {labels}/label.txt", *words]) + "`"
    row = next(line for line in (ROOT / "README.md").read_text(encoding="utf-8").splitlines() if command in line)
    ap50, nme = (cell.strip() for cell in row.split("|")[3:5])
    assert run("test", "--labels", real_data / labels / "label.txt", "--output", tmp_path, *words).code == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["ap50"] == pytest.approx(float(ap50), abs=0.001)
    assert not nme or metrics["landmarks"]["nme"] == pytest.approx(float(nme), abs=0.001)
