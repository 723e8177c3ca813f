"""Pascal VOC as other tools write it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import RunScript

from config import DataConfig
from data.labels import read_labels
from data.records import Fault
from utils.images import write_image


def face(x1: object, y1: object, x2: object, y2: object) -> str:
    corners = f"<xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax>"
    return f"<object><name>face</name><bndbox>{corners}</bndbox></object>"


def make_set(folder: Path, faces: dict[str, str], *, images: list[str] | None = None) -> Path:
    (folder / "Annotations").mkdir(parents=True)
    for stem, text in faces.items():
        xml = f"<annotation><filename>{stem}.jpg</filename>{text}</annotation>"
        (folder / "Annotations" / f"{stem}.xml").write_text(xml)
    for stem in list(faces) if images is None else images:
        write_image(folder / "JPEGImages" / f"{stem}.jpg", np.zeros((48, 64, 3), np.uint8))
    return folder


def test_corners_that_count_from_1_lose_1_at_the_top_left(tmp_path: Path, run: RunScript) -> None:
    folder = make_set(tmp_path, {"a": face(11, 21, 18, 28)})
    assert read_labels(folder)[0].boxes.tolist() == [[11, 21, 18, 28]]
    assert read_labels(folder, config=DataConfig(voc_origin=1))[0].boxes.tolist() == [[10, 20, 18, 28]]
    result = run("analyze_data", folder, "data.voc_origin=1", "--convert", tmp_path / "label.txt")
    assert result.code == 0 and "\n10 20 8 8\n" in (tmp_path / "label.txt").read_text()


def test_images_without_an_xml_file_are_named_and_left_out(tmp_path: Path, run: RunScript) -> None:
    folder = make_set(tmp_path, {"b": face(1, 1, 9, 9)}, images=["a", "b", "c"])
    with pytest.warns(UserWarning, match=r"2 images in .*JPEGImages have no XML file and are left out: a.jpg, c.jpg"):
        assert len(read_labels(folder)) == 1
    checked = run("analyze_data", folder, "--check")
    assert checked.code == 1 and "1 x image without a label" in checked.out


@pytest.mark.parametrize("bad", [face(9, 9, 1, 1), face(1, 9, 9, 1), face("x", 1, 9, 9), "<object><name>face</name></object>"])
def test_unreadable_face_does_not_become_background(bad: str, tmp_path: Path, run: RunScript) -> None:
    folder = make_set(tmp_path, {"a": face(1, 1, 9, 9), "b": face(1, 1, 9, 9) + bad})
    run("analyze_data", folder, "--fix", tmp_path / "fixed.txt")
    assert (tmp_path / "fixed.txt").read_text() == "# a.jpg\n1 1 8 8\n"
    assert "b.xml: object 2: " in (tmp_path / "fixed.txt.changes.txt").read_text()


def test_entities_that_stand_for_gigabytes_are_refused(tmp_path: Path) -> None:
    folder = make_set(tmp_path, {"a": face(1, 1, 9, 9), "b": face(1, 1, 9, 9)})
    entities = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 50}">' for n in range(1, 9))
    bomb = f'<!DOCTYPE a [<!ENTITY e0 "{"x" * 50}">{entities}]><annotation><filename>&e8;</filename></annotation>'
    (folder / "Annotations" / "b.xml").write_text(bomb)
    problems: list[Fault] = []
    assert len(read_labels(folder, complain=problems.append)) == 1
    assert "b.xml" in str(problems[0]) and "not a readable XML file" in str(problems[0])
