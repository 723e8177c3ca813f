"""Text labels as other tools and editors leave them, and what becomes of lines that cannot be read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import RunScript

from config import DataConfig
from data.labels import read_labels
from data.records import Fault
from utils.images import write_image

FACE = "1 2 3 4 0 0 0 0 0 0"


def fixed_label(folder: Path, text: str, run: RunScript) -> str:
    """The repaired label of a text whose images 1.jpg, 2.jpg and 3.jpg are there; empty if none is left."""
    for name in ("1.jpg", "2.jpg", "3.jpg"):
        write_image(folder / "images" / name, np.zeros((64, 64, 3), np.uint8))
    (folder / "label.txt").write_text(text)
    result = run("analyze_data", folder / "label.txt", "--fix", folder / "fixed.txt")
    assert (result.code == 2) == (not (folder / "fixed.txt").exists())
    return (folder / "fixed.txt").read_text() if result.code < 2 else ""


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (f"1.jpg\n0\nx 2 3 4 0 0 0 0 0 0\n2.jpg\n1\n{FACE}\n", "# 2.jpg\n1 2 3 4\n"),
        (f"3.jpg\n0\n1.jpg\nx 2 3 4 0 0 0 0 0 0\n2.jpg\n1\n{FACE}\n", "# 3.jpg\n# 2.jpg\n1 2 3 4\n"),
        (f"1.jpg\n0\n2.jpg\n?\n{FACE}\n3.jpg\n0\n", "# 1.jpg\n# 3.jpg\n"),
        (f"3.jpg\n0\n1.jpg\none\n{FACE}\n2.jpg\n1\n{FACE}\n", "# 3.jpg\n# 2.jpg\n1 2 3 4\n"),
        (f"1.jpg\n2\n{FACE}\n2.jpg\n1\n{FACE}\n", "# 2.jpg\n1 2 3 4\n"),
        ("1.jpg\n1\n1 2 3\n2.jpg\n00\n0 0 0 0 0 0 0 0 0 0\n", "# 2.jpg\n"),
        (f"1.jpg\n1\n1 2 nan 4 0 0 0 0 0 0\n2.jpg\n1\n{FACE}\n", "# 2.jpg\n1 2 3 4\n"),
        ("1.jpg\n1\n1 2 3\n", ""),
    ],
)
def test_image_with_a_broken_line_of_a_wider_list_is_left_out(text: str, left: str, tmp_path: Path, run: RunScript) -> None:
    assert fixed_label(tmp_path, text, run) == left


def test_line_behind_an_image_without_a_count_may_be_its_face(tmp_path: Path) -> None:
    (tmp_path / "wider.txt").write_text(f"1.jpg\n1\n{FACE}\n2.jpg\n3.jpg\n{FACE}\n")
    problems: list[Fault] = []
    records = read_labels(tmp_path / "wider.txt", complain=problems.append)
    assert [(record.path, record.incomplete) for record in records] == [("1.jpg", False), ("2.jpg", False)]
    assert [each.line for each in problems] == [6, 6]    # 3.jpg has no number of faces, and so no image has that face


@pytest.mark.parametrize("columns", [5, 8, 11, 12])
def test_wider_list_may_have_other_columns_if_all_lines_have_them(columns: int, tmp_path: Path) -> None:
    row = [*"1234200100", "0.5", "7"]
    text = f"1.jpg\n2\n{' '.join(row[:columns])}\n{' '.join(row[:columns])}\n2.jpg\n0\n0 0 0 0 0 0 0 0 0 0\n"
    (tmp_path / "wider.txt").write_text(text)
    records = read_labels(tmp_path / "wider.txt", config=DataConfig(ignore_invalid=True))
    assert [record.boxes.tolist() for record in records] == [[[1, 2, 4, 6]] * 2, []]
    assert records[0].ignore.all() == (columns > 10)    # of fewer columns nobody knows which they are
    (tmp_path / "wider.txt").write_text(text + f"3.jpg\n1\n{FACE}\n")
    with pytest.raises(ValueError, match=f"wider.txt:3: expected 4 or 10 numbers, found {columns}"):
        read_labels(tmp_path / "wider.txt")


@pytest.mark.parametrize("word", ["1_0", "\uff11", "1e", "0x1", "1,5", "--1", "nan", "-inf"])
def test_words_that_are_no_numbers_are_not_taken_for_some(word: str, tmp_path: Path) -> None:
    (tmp_path / "label.txt").write_text(f"# 1.jpg\n1 2 {word} 4\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"label.txt:2: expected numbers"):
        read_labels(tmp_path / "label.txt")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32-le", "latin-1", "cp1252"])
@pytest.mark.parametrize("form", ["retinaface", "wider", "coco"])
def test_other_encodings_are_named_in_one_line(form: str, encoding: str, tmp_path: Path, run: RunScript) -> None:
    text = {
        "retinaface": "# \u00e9t\u00e9.jpg\n1 2 3 4\n",
        "wider": f"\u00e9t\u00e9.jpg\n1\n{FACE}\n",
        "coco": '{"images": [{"id": 1, "file_name": "\u00e9t\u00e9.jpg"}], "annotations": []}',
    }[form]
    path = tmp_path / ("label.json" if form == "coco" else "label.txt")
    path.write_bytes(text.encode(encoding))
    for option in (["--check"], ["--fix", tmp_path / "fixed.txt"], ["--convert", tmp_path / "converted.txt"]):
        result = run("analyze_data", path, *option)
        assert result.complaint == (
            f"analyze_data.py: {path}: not a readable label file: expected text in UTF-8; save it in that encoding"
        )


def test_marks_at_the_start_of_joined_files_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "label.txt").write_bytes(b"\xef\xbb\xbf# 1.jpg\r\n1 2 3 4\r\n\xef\xbb\xbf# 2.jpg\r\n5 6 7 8\r\n")
    assert [(record.path, len(record)) for record in read_labels(tmp_path / "label.txt")] == [("1.jpg", 1), ("2.jpg", 1)]
