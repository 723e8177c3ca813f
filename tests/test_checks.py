from __future__ import annotations

import ast
import struct
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from data.checks import ACTIONS, duplicates, find_faults, inspect_image, inspect_images, repair, swapped_pairs
from data.labels import read_labels, read_sizes, write_labels
from data.records import FaceRecord
from utils.images import write_image

FRONTAL = "20 20 0 40 20 0 30 30 0 22 42 0 38 42 0"    # the points of the box 10 10 40 40


def records_of(folder: Path, text: str) -> list[FaceRecord]:
    (folder / "label.txt").write_text(text)
    return read_labels(folder / "label.txt")


def reasons(records: list[FaceRecord], sizes: dict[int, tuple[int, int]] | None = None) -> list[tuple[int, str]]:
    findings = find_faults(records, inspections={}, sizes=sizes or {})
    return [(finding.fault.line, finding.fault.reason) for finding in findings]


def test_clean_label_has_no_faults(tmp_path: Path) -> None:
    records = records_of(tmp_path, f"# 1.jpg\n10 10 40 40 {FRONTAL} 1\n# a/2.jpg\n# 3.jpg\n0 0 50 60\n")
    assert reasons(records, {0: (50, 50), 2: (50, 60)}) == []


def test_faults_of_boxes_are_found_with_their_lines(tmp_path: Path) -> None:
    text = "# 1.jpg\n1 1 5 5\n0 0 0 0\n5 5 -2 4\n1 1 5 5\n45 0 10 10\n-1 0 9 9\n# 2.jpg\n1 1 5 5\n"
    assert reasons(records_of(tmp_path, text), {0: (50, 50)}) == [
        (3, "box without area"),
        (4, "box without area"),
        (5, "duplicate box"),
        (6, "box out of range"),
        (7, "box out of range"),
    ]
    findings = find_faults(records_of(tmp_path, text), inspections={}, sizes={0: (50, 50)})
    assert str(findings[3].fault) == f"{tmp_path / 'label.txt'}:6: box 45 0 10 10 (x y w h) leaves its image of 50 x 50 pixels"


def test_box_without_area_is_one_fault_wherever_it_lies(tmp_path: Path) -> None:
    records = records_of(tmp_path, "# 1.jpg\n52 4 -2 23\n-3 -3 0 0\n")
    assert reasons(records, {0: (50, 50)}) == [(2, "box without area"), (3, "box without area")]


def test_without_a_size_only_boxes_before_the_image_are_out_of_range(tmp_path: Path) -> None:
    assert reasons(records_of(tmp_path, "# 1.jpg\n45 0 10 10\n-1 0 9 9\n")) == [(3, "box out of range")]


def test_points_outside_their_box_are_named(tmp_path: Path) -> None:
    points = FRONTAL.replace("30 30", "90 30")
    findings = find_faults(records_of(tmp_path, f"# 1.jpg\n10 10 40 40 {points} 1\n"), inspections={}, sizes={})
    assert [finding.fault.text for finding in findings] == ["nose outside of box 10 10 40 40 (x y w h)"]


@pytest.mark.parametrize(
    ("points", "swapped"),
    [
        (FRONTAL, [False, False]),
        ("40 20 0 20 20 0 30 30 0 38 42 0 22 42 0", [True, True]),
        ("40 20 0 20 20 0 30 30 0 22 42 0 38 42 0", [True, False]),
        ("20 20 0 40 20 0 30 30 0 38 42 0 22 42 0", [False, True]),
        ("31 20 0 29 20 0 30 30 0 31 42 0 29 42 0", [False, False]),    # a profile
        ("40 42 0 20 42 0 30 30 0 38 20 0 22 20 0", [False, False]),    # upside down
        ("40 20 0 20 20 0 -1 -1 0 -1 -1 0 22 42 0", [False, False]),    # a corner of the mouth is unknown
    ],
)
def test_swapped_sides_are_told_from_turned_heads(points: str, swapped: list[bool], tmp_path: Path) -> None:
    (record,) = records_of(tmp_path, f"# 1.jpg\n10 10 40 40 {points} 1\n")
    assert swapped_pairs(record).tolist() == [swapped]
    assert bool(reasons([record])) == any(swapped)


def test_image_listed_twice_and_paths_that_leave_the_folder(tmp_path: Path) -> None:
    text = "# a/1.jpg\n# ../1.jpg\n# a/./1.jpg\n# /etc/1.jpg\n# a/../../1.jpg\n# C:\\1.jpg\n# a/../2.jpg\n"
    assert reasons(records_of(tmp_path, text)) == [
        (2, "path outside the image folder"),
        (3, "image listed twice"),
        (4, "path outside the image folder"),
        (5, "path outside the image folder"),
        (6, "path outside the image folder"),
    ]


def exif(orientation: int) -> bytes:
    """A block of JPEG that holds an EXIF orientation."""
    tiff = b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)
    body = b"Exif\0\0" + tiff
    return b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body


def test_images_are_inspected_whole(tmp_path: Path) -> None:
    write_image(tmp_path / "images" / "good.jpg", np.random.default_rng(0).integers(0, 256, (90, 120, 3)).astype(np.uint8))
    good = (tmp_path / "images" / "good.jpg").read_bytes()
    files = {"cut.jpg": good[: len(good) // 2], "text.jpg": b"text", "empty.jpg": b"", "turned.jpg": good[:2] + exif(6) + good[2:]}
    for name, data in files.items():
        (tmp_path / "images" / name).write_bytes(data)
    names = ["good.jpg", *files, "missing.jpg"]
    records = records_of(tmp_path, "".join(f"# {name}\n" for name in names))
    inspections = dict(enumerate(inspect_images(records)))
    findings = find_faults(records, inspections=inspections, sizes={})
    assert {names[finding.image]: finding.fault.reason for finding in findings} == {
        "cut.jpg": "unreadable image",
        "text.jpg": "unreadable image",
        "empty.jpg": "unreadable image",
        "turned.jpg": "image turned by EXIF",
        "missing.jpg": "missing image",
    }
    assert inspections[0].size == inspections[4].size == (120, 90)
    assert inspections[4].orientation == 6


def test_size_in_the_label_is_compared_with_the_image(tmp_path: Path) -> None:
    write_image(tmp_path / "images" / "1.png", np.zeros((30, 40, 3), np.uint8))
    records = records_of(tmp_path, "# 1.png 30 40\n1 1 5 5\n")
    inspection = inspect_image(tmp_path / "images" / "1.png")
    findings = find_faults(records, inspections={0: inspection}, sizes={0: (30, 40)})
    assert [finding.fault.text for finding in findings] == ["'1.png' is labelled as 30 x 40 pixels, the image has 40 x 30"]
    fixed, changes = repair(records, inspections={0: inspection}, sizes={0: (30, 40)})
    assert fixed[0].size == (40, 30) and len(changes) == 1


def test_repair_mends_each_kind_and_leaves_the_rest_alone(tmp_path: Path) -> None:
    swapped = "40 20 0 20 20 0 30 30 0 38 42 0 22 42 0"
    outside = FRONTAL.replace("30 30", "90 30")
    text = (
        f"# 1.jpg\n1 1 5 5\n0 0 0 0\n1 1 5 5\n45 40 10 10\n10 10 40 40 {swapped} 1\n12 10 38 40 {outside} 0.5\n"
        "# ../out.jpg\n1 1 2 2\n# 2.jpg\n# 1.jpg\n3 3 5 5\n1 1 5 5\n"
    )
    records = records_of(tmp_path, text)
    before = [record.rows.copy() for record in records]
    fixed, changes = repair(records, inspections={}, sizes={0: (50, 50), 3: (50, 50)})
    assert [record.path for record in fixed] == ["1.jpg", "2.jpg"]
    assert fixed[0].words == [
        [1, 1, 5, 5],
        [45, 40, 5, 10],
        [10, 10, 40, 40, *map(float, FRONTAL.split()), 1],
        [12, 10, 38, 40, *map(float, FRONTAL.replace("30 30 0", "-1 -1 -1").split()), 0.5],
        [3, 3, 5, 5],
    ]
    assert Counter(change.rpartition("; ")[2] for change in changes) == {
        "left out": 3,
        "clipped to the image": 1,
        "swapped back": 1,
        "marked as not labelled": 1,
        "image left out": 1,
        "faces moved to the first place": 1,
    }
    assert all(np.array_equal(old, record.rows, equal_nan=True) for old, record in zip(before, records, strict=True))


def test_image_is_not_merged_into_one_that_is_left_out(tmp_path: Path) -> None:
    records = records_of(tmp_path, "# ../images/b.jpg\n1 1 3 3\n# b.jpg\n2 2 5 5\n# sub\\a.jpg\n1 1 9 9\n# sub/a.jpg\n3 3 9 9\n")
    fixed, changes = repair(records, inspections={}, sizes={})
    assert [(record.path, len(record)) for record in fixed] == [("b.jpg", 1), ("sub\\a.jpg", 2)]
    assert [change.rpartition("; ")[2] for change in changes] == ["image left out", "faces moved to the first place"]


@pytest.mark.parametrize("box", ["90 90 5 5", "90 10 5 5", "50 0 5 5", "0 50 5 5", "-9 0 9 9", "49.9999999 0 5 5"])
def test_image_of_a_box_that_lies_outside_is_left_out(box: str, tmp_path: Path) -> None:
    """Its face is somewhere in the image, and must not become background."""
    fixed, changes = repair(records_of(tmp_path, f"# 1.jpg\n1 1 5 5\n{box}\n"), inspections={}, sizes={0: (50, 50)})
    assert fixed == []
    assert [change.rpartition("; ")[2] for change in changes] == ["image left out"]


def test_every_kind_of_problem_has_an_action() -> None:
    """Kinds are the string arguments in third place of Fault(...), and those of a finding."""
    kinds = set()
    for path in (ROOT / "data").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("Fault", "found", "_of_image"):
                place = 1 if node.func.id == "found" else 2
                arguments = node.args[place : place + 1]
                kinds |= {each.value for each in arguments if isinstance(each, ast.Constant)}
    assert len(kinds) > 12 and kinds <= set(ACTIONS)


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1))
def test_repaired_label_checks_clean_once_written(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    folder = tmp_path_factory.mktemp("repair")
    rng = np.random.default_rng(seed)
    lines = []
    for _ in range(4):
        lines.append(f"# {rng.choice(['1.jpg', '2.jpg', '../3.jpg', 'a/4.jpg'])}")
        for _ in range(int(rng.integers(6))):
            box, points = rng.uniform(-10, 70, 2).tolist() + rng.uniform(-5, 60, 2).tolist(), rng.uniform(-5, 80, (5, 2))
            places = " ".join(f"{x:.3f} {y:.3f} 0" for x, y in points)
            lines.append(f"{' '.join(f'{value:.2f}' for value in box)} {places} 1")
    records = records_of(folder, "\n".join(lines) + "\n")
    sizes = dict.fromkeys(range(len(records)), (64, 48))
    fixed, _ = repair(records, inspections={}, sizes=sizes)
    if fixed:
        write_labels(fixed, folder / "fixed.txt")
        again = read_labels(folder / "fixed.txt")
        assert find_faults(again, inspections={}, sizes=dict.fromkeys(range(len(again)), (64, 48))) == []


def test_duplicates_are_those_of_a_slow_search(rng: np.random.Generator) -> None:
    image = np.sort(rng.integers(0, 8, 200))
    boxes = rng.integers(0, 3, (200, 4)).astype(float)
    seen: set[tuple[float, ...]] = set()
    slow = []
    for key in zip(image, *boxes.T, strict=True):
        slow.append(key in seen)
        seen.add(key)
    assert duplicates(image, boxes, np.zeros(200, int)).tolist() == slow and any(slow)
    same = np.zeros((3, 4))
    assert duplicates(np.zeros(3, int), same, np.array([0, 5, 5])).tolist() == [True, False, True]


@pytest.mark.slow
def test_published_labels_have_their_known_faults(real_data: Path) -> None:
    for name, expected in (("train", {"box without area": 31, "duplicate box": 3}), ("val", {"box without area": 11, "duplicate box": 1})):
        folder = real_data / "annotations"
        records = read_labels(folder / f"wider_{name}_label_boxes_only.txt")
        corners = {record.path: record.size for record in read_labels(folder / "labelv2_val.txt") if record.size}
        sizes = read_sizes(folder / "wider_train_sizes.txt") if name == "train" else corners
        assert Counter(reason for _, reason in reasons(records)) == expected
        assert Counter(reason for _, reason in reasons(records, {n: sizes[r.path] for n, r in enumerate(records)})) == expected


def test_points_may_lie_a_pixel_outside_their_box_and_no_more(tmp_path: Path) -> None:
    def line(nose_y: float) -> str:
        return f"10 10 40 40 20 20 0 40 20 0 30 {nose_y} 0 22 42 0 38 42 0 1"

    records = records_of(tmp_path, f"# 1.jpg\n{line(51)}\n# 2.jpg\n{line(51.5)}\n")
    assert reasons(records) == [(4, "point outside its box")]


def test_left_and_right_are_swapped_from_a_tenth_of_the_width_on(tmp_path: Path) -> None:
    def line(left_x: float) -> str:    # the right eye lies at 30, the face is 40 wide
        return f"10 10 40 40 {left_x} 20 0 30 20 0 30 30 0 22 42 0 38 42 0 1"

    records = records_of(tmp_path, f"# 1.jpg\n{line(33)}\n# 2.jpg\n{line(36)}\n")
    assert reasons(records) == [(4, "left and right swapped")]
