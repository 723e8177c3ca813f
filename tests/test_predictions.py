from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from utils.predictions import guess_form, prediction_path, read_predictions, write_predictions
from utils.structures import Detections
from utils.wider_eval import SETTINGS, OfficialFaces


def test_what_is_written_is_read_back_with_its_fractions(tmp_path: Path) -> None:
    detections = Detections(np.array([[1.25, 2.5, 11.375, 8.0]], np.float32), np.array([0.123456], np.float32), None)
    path = prediction_path(tmp_path, "0--Parade/a b.jpg")
    write_predictions(path, detections)
    assert path == tmp_path / "0--Parade" / "a b.txt"
    assert path.read_text().splitlines() == ["a b", "1", "1.250 2.500 10.125 5.500 0.12345600"]
    again = read_predictions(path)
    assert again.boxes.tolist() == [[1.25, 2.5, 11.375, 8.0]] and again.scores == pytest.approx([0.123456])


def test_nothing_found_is_a_file_too(tmp_path: Path) -> None:
    write_predictions(tmp_path / "a.txt", Detections.none())
    assert (tmp_path / "a.txt").read_text() == "a\n0\n"
    assert len(read_predictions(tmp_path / "a.txt")) == 0


@pytest.mark.parametrize("name", ["../../outside.jpg", "/etc/outside.jpg", "a/../../outside.jpg"])
def test_no_name_leads_out_of_the_folder(name: str, tmp_path: Path) -> None:
    assert tmp_path / "p" in prediction_path(tmp_path / "p", name).parents


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a name, a count, and lines of x y w h score"),
        ("a\n", "expected a name, a count, and lines of x y w h score"),
        ("a\nmany\n1 2 3 4 0.5\n", "expected a name, a count, and lines of x y w h score"),
        ("a\n1\n1 2 3 4\n", "expected a name, a count, and lines of x y w h score"),
        ("a\n1\n1 2 3 4 x\n", "expected a name, a count, and lines of x y w h score"),
        ("a\n2\n1 2 3 4 0.5\n", ":2: expected 2 lines of finite x y w h score, found 1"),
        ("a\n1\n1 2 3 nan 0.5\n", ":2: expected 1 lines of finite x y w h score"),
    ],
)
def test_malformed_file_is_named(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(text)
    with pytest.raises(ValueError) as error:
        read_predictions(tmp_path / "a.txt")
    assert str(error.value).startswith(str(tmp_path / "a.txt")) and message in str(error.value)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"b.txt: no such file of predictions"):
        read_predictions(tmp_path / "a" / "b.txt")


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ("fractions", "look like fractions of the image's width and height"),
        ("fractions of corners", "look like fractions of the image's width and height"),
        ("corners", "look like corners x1 y1 x2 y2, with which AP would be 1.00"),
        ("centers", "look like a center and a size, cx cy w h, with which AP would be 1.00"),
        ("rows first", "look like y before x, y x h w, with which AP would be 1.00"),
        ("elsewhere", "next to no box matches a face"),
    ],
)
def test_form_of_predictions_is_told_from_their_numbers(form: str, said: str) -> None:
    rng = np.random.default_rng(0)
    truth, detections = [], []
    for _ in range(30):
        x, y, w, h = rng.uniform((100, 40, 10, 10), (800, 300, 60, 60), size=(5, 4)).T
        kept = dict.fromkeys(SETTINGS, np.ones(5, bool))
        truth.append(OfficialFaces(np.stack([x, y, w, h], 1), kept))
        numbers = {
            "fractions": [x / 1024, y / 768, w / 1024, h / 768],
            "fractions of corners": [x / 1024, y / 768, (x + w) / 1024, (y + h) / 768],
            "corners": [x, y, x + w, y + h],
            "centers": [x + w / 2, y + h / 2, w, h],
            "rows first": [y, x, h, w],
            "elsewhere": [3000 + x, y, w, h],
        }[form]
        rows = np.stack(numbers, 1)
        # As a file of x y w h is read.
        boxes = np.hstack([rows[:, :2], rows[:, :2] + rows[:, 2:]])
        detections.append(Detections(boxes, rng.uniform(0.1, 1, 5), None))
    assert said in guess_form(detections, truth)
