"""Pascal VOC as other tools write it."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from conftest import RunScript

from config import DataConfig
from data.labels import read_labels
from data.records import Fault, image_path
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


def test_object_without_a_name_may_be_a_face_and_is_named(tmp_path: Path, run: RunScript) -> None:
    unnamed = face(2, 2, 8, 8).replace("<name>face</name>", "")
    folder = make_set(tmp_path, {"a": face(1, 1, 9, 9), "b": face(1, 1, 9, 9) + unnamed})
    with pytest.raises(ValueError, match=r"b.xml: object 2: expected an object with a 'name', found none"):
        read_labels(folder)
    assert run("analyze_data", folder, "--fix", tmp_path / "fixed.txt").code == 1
    assert (tmp_path / "fixed.txt").read_text() == "# a.jpg\n1 1 8 8\n"


def test_object_of_another_class_needs_no_box(tmp_path: Path) -> None:
    folder = make_set(tmp_path, {"a": face(1, 1, 9, 9) + "<object><name>hat</name></object>"})
    assert read_labels(folder)[0].boxes.tolist() == [[1, 1, 9, 9]]


def test_odd_files_do_not_decide_over_the_set(tmp_path: Path) -> None:
    folder = make_set(tmp_path, {"a": face(1.5, 1, 9.25, 9), "b": face(1, 1, 9, 9)})
    folder = folder / "Annotations"
    (folder / "._a.xml").write_bytes(b"\0\5\x16\7 Mac OS X")
    (folder / "readme.txt").write_bytes("made by hand".encode("utf-16"))
    (folder / "c.xml").write_text("")
    (folder / "d.xml").mkdir()
    (folder / "e.xml").symlink_to("nowhere")
    (folder / "f.xml").write_text("<catalog/>")
    problems: list[Fault] = []
    records = read_labels(folder, complain=problems.append)
    assert [record.boxes.tolist() for record in records] == [[[1.5, 1, 9.25, 9]], [[1, 1, 9, 9]]]
    assert sorted(Path(problem.source).name for problem in problems) == ["c.xml", "d.xml", "e.xml", "f.xml"]


def test_xml_in_another_encoding_is_read(tmp_path: Path) -> None:
    folder = make_set(tmp_path, {"a": face(1, 1, 9, 9)})
    file = folder / "Annotations" / "a.xml"
    file.write_bytes(('<?xml version="1.0" encoding="UTF-16"?>' + file.read_text()).encode("utf-16"))
    assert len(read_labels(folder / "Annotations")[0]) == 1
    assert read_labels(folder)[0].boxes.tolist() == [[1, 1, 9, 9]]


@pytest.mark.slow
def test_numbers_of_a_large_set_take_little_memory(tmp_path: Path) -> None:
    folder = make_set(tmp_path, {f"{number:03}": face(1, 1, 9, 9) * 200 for number in range(100)}, images=["000"])
    tracemalloc.start()
    records = read_labels(folder)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sum(map(len, records)) == 20_000 and peak < 20_000 * 1000    # bytes; the records need 400 a face


@pytest.mark.parametrize("encoding", ["gb2312", "GBK", "shift_jis", "iso-8859-1", "utf-8"])
def test_xml_says_its_encoding(encoding: str, tmp_path: Path) -> None:
    name = {"utf-8": "é日", "iso-8859-1": "é"}.get(encoding, "日本")
    folder = make_set(tmp_path, {"a": face(1, 1, 9, 9)}, images=[name])
    text = f'<?xml version="1.0" encoding="{encoding}"?>\n<annotation><filename>{name}.jpg</filename>{face(1, 1, 9, 9)}</annotation>'
    (folder / "Annotations" / "a.xml").write_bytes(text.encode(encoding))
    (record,) = read_labels(folder)
    assert image_path(record).is_file() and record.boxes.tolist() == [[1, 1, 9, 9]]


@pytest.mark.parametrize("encoding", ["utf-8", "gbk", "nonsense"])
def test_image_of_an_unreadable_xml_file_is_not_one_without(encoding: str, tmp_path: Path, run: RunScript) -> None:
    folder = make_set(tmp_path, {"a": face(1, 1, 9, 9), "b": face(1, 1, 9, 9)})
    (folder / "Annotations" / "a.xml").write_bytes(f'<?xml version="1.0" encoding="{encoding}"?>'.encode() + b"<annotation>\xff\xff")
    checked = run("analyze_data", folder, "--check")
    assert checked.code == 1 and "a.xml" in checked.out and "not a readable XML file" in checked.out
    assert "1 fault in 1 image," in checked.out
