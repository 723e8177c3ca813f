from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data.labels import read_labels, read_sizes
from data.records import image_path

POINTS = "11 12 0.0 21 12 0.0 16 18 0.0 12 24 0.0 20 24 0.0"


def write(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


def test_rows_of_every_length_are_read(tmp_path: Path) -> None:
    label = write(tmp_path / "label.txt", f"# a b/1.jpg\n10 10 12 16 {POINTS} 0.9\n10 10 12 16 {POINTS}\n# 2.jpg\n1 2 3 4\n1 2 3 4 0.5\n")
    first, second = read_labels(label)
    assert (first.path, first.line, second.path, second.line) == ("a b/1.jpg", 1, "2.jpg", 4)
    assert first.boxes.tolist() == [[10, 10, 22, 26]] * 2
    assert first.landmarks[1].tolist() == [[11, 12], [21, 12], [16, 18], [12, 24], [20, 24]]
    assert first.has_landmarks.all()
    assert second.boxes.tolist() == [[1, 2, 4, 6]] * 2
    assert not second.has_landmarks.any()
    assert [len(row) for row in (*first.words, *second.words)] == [20, 19, 4, 5]


def test_windows_line_ends_blank_lines_and_a_byte_order_mark_are_fine(tmp_path: Path) -> None:
    label = write(tmp_path / "label.txt", "\ufeff\r\n# 1.jpg\r\n\r\n1 2 3 4\r\n\r\n# 2.jpg\r\n5 6 7 8")
    read = [(record.path, record.boxes.tolist()) for record in read_labels(label)]
    assert read == [("1.jpg", [[1, 2, 4, 6]]), ("2.jpg", [[5, 6, 12, 14]])]


def test_faceless_image_keeps_its_place(tmp_path: Path) -> None:
    label = write(tmp_path / "label.txt", "# 1.jpg\n# 2.jpg\n1 2 3 4\n# 3.jpg\n")
    records = read_labels(label)
    assert [(record.path, len(record)) for record in records] == [("1.jpg", 0), ("2.jpg", 1), ("3.jpg", 0)]
    assert records[0].boxes.shape == (0, 4) and records[0].as_rows().shape == (0, 15)


def test_each_point_has_its_own_validity(tmp_path: Path) -> None:
    points = "11 12 0 -1 -1 0 16 -3 0 12 24 0 20 24 0"
    (record,) = read_labels(write(tmp_path / "label.txt", f"# 1.jpg\n10 10 12 16 {points} 1\n10 10 12 16 {'-1 ' * 15} 1"))
    assert record.has_landmarks.tolist() == [[True, False, False, True, True], [False] * 5]


def test_rows_show_corners_points_and_whether_all_are_valid(tmp_path: Path) -> None:
    label = write(tmp_path / "label.txt", f"# 1.jpg\n10 10 12 16 {POINTS} 0.9\n1 2 3 4 {'-1 ' * 15} 0.1\n")
    rows = read_labels(label)[0].as_rows()
    assert rows.tolist() == [[10, 10, 22, 26, 11, 12, 21, 12, 16, 18, 12, 24, 20, 24, 1], [1, 2, 4, 6, *[-1] * 11]]


def test_boxes_without_area_are_read_and_marked(tmp_path: Path) -> None:
    (record,) = read_labels(write(tmp_path / "label.txt", "# 1.jpg\n0 0 0 0\n5 5 -2 4\n5 5 2 4\n"))
    assert record.has_area.tolist() == [False, False, True]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# 1.jpg\n1 2 3 4\n1 2 3 4 5 6 7\n", "{}:3: expected 4, 5, 19 or 20 numbers, found 7"),
        ("# 1.jpg\n1 2 three 4\n", "{}:2: expected numbers, found '1 2 three 4'"),
        ("# 1.jpg\n1 2 nan 4\n", "{}:2: expected numbers below 1e+09, found '1 2 nan 4'"),
        ("# 1.jpg\n1 2 3 -inf\n", "{}:2: expected numbers below 1e+09, found '1 2 3 -inf'"),
        ("1 2 3 4\n", "{}:1: expected '# path of an image' before the first face, found '1 2 3 4'"),
        ("# 1.jpg\n#\n", "{}:2: expected '# path of an image', found nothing behind '#'"),
        ("\n\n", "{}: no images: expected '# path of an image' and a line for each of its faces, found an empty file"),
    ],
)
def test_malformed_line_is_named(text: str, message: str, tmp_path: Path) -> None:
    label = write(tmp_path / "label.txt", text)
    with pytest.raises(ValueError) as error:
        read_labels(label)
    assert str(error.value) == message.format(label)


def test_missing_and_binary_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no.txt: no such label file"):
        read_labels(tmp_path / "no.txt")
    (tmp_path / "bad.txt").write_bytes(b"\xff\xfe\x00\x9d")
    with pytest.raises(ValueError, match="bad.txt: not a readable label file"):
        read_labels(tmp_path / "bad.txt")
    with pytest.raises(ValueError, match="not a readable label file"):
        read_labels(tmp_path)


def test_images_lie_beside_the_label_or_where_told(tmp_path: Path) -> None:
    label = write(tmp_path / "mylabel.txt", "# a/1.jpg\n")
    (record,) = read_labels(label)
    assert image_path(record) == tmp_path / "images" / "a" / "1.jpg"
    (record,) = read_labels(label, images="elsewhere")
    assert image_path(record) == Path("elsewhere/a/1.jpg")


def test_sizes_are_read_and_their_faults_named(tmp_path: Path) -> None:
    sizes = write(tmp_path / "sizes.txt", "a b/1.jpg 1024 678\n\n2.jpg 10 20\n")
    assert read_sizes(sizes) == {"a b/1.jpg": (1024, 678), "2.jpg": (10, 20)}
    with pytest.raises(ValueError, match="sizes.txt:1: expected 'name width height', found '1.jpg 10'"):
        read_sizes(write(sizes, "1.jpg 10\n"))
    with pytest.raises(ValueError, match="sizes.txt:1: expected 'name width height', found '1.jpg 0 10'"):
        read_sizes(write(sizes, "1.jpg 0 10\n"))


def test_published_train_label_excerpt_gives_its_points(real_data: Path) -> None:
    records = read_labels(real_data / "annotations" / "wider_train_label_excerpt.txt")
    assert [len(record) for record in records] == [1, 1, 5]
    assert records[0].landmarks[0, 0].tolist() == pytest.approx([488.906, 373.643])
    assert records[2].has_landmarks.all(axis=1).tolist() == [False, True, True, True, True]
    assert np.array_equal(records[0].boxes, np.array([[449, 330, 571, 479]], dtype=np.float32))
