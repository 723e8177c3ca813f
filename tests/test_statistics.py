from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data.labels import read_labels
from data.records import FaceRecord
from data.statistics import (
    GRID,
    Statistics,
    best_overlaps,
    chi_square_quantile,
    count,
    count_positions,
    describe_uniformity,
    join_measures,
    measure,
    summarise,
    uniformity,
)
from utils.box_utils import jaccard


def records_of(text: str, folder: Path) -> list[FaceRecord]:
    (folder / "label.txt").write_text(text)
    return read_labels(folder / "label.txt")


def test_numbers_of_a_hand_made_set(tmp_path: Path) -> None:
    points = "1 1 0 " * 5
    records = records_of(f"# 1.jpg\n0 0 10 20 {points} 1\n5 5 20 20\n0 0 0 0\n# 2.jpg\n# 3.jpg\n-1 0 10 10\n95 40 10 10\n", tmp_path)
    numbers = summarise(measure(records, {0: (100, 100), 2: (100, 50)})).numbers
    assert numbers["images"] == 3 and numbers["images_without_faces"] == 1 and numbers["faces"] == 5
    assert (numbers["mean_width"], numbers["mean_height"], numbers["mean_area"]) == (10, 12, 160)
    assert (numbers["overlapping_faces"], numbers["overlapping_share"]) == (2, 0.4)
    assert (numbers["degenerate_faces"], numbers["faces_with_landmarks"]) == (1, 1)
    assert (numbers["images_with_known_size"], numbers["out_of_range_faces"]) == (2, 2)


def test_box_of_negative_width_leaves_its_image_where_one_of_its_corners_does(
    tmp_path: Path,
) -> None:
    text = "# 1.jpg\n105 14 -6 5\n0 5 -11 5\n50 5 -11 5\n5 5 20 -6\n"
    numbers = summarise(measure(records_of(text, tmp_path), {0: (100, 100)})).numbers
    assert (numbers["out_of_range_faces"], numbers["degenerate_faces"]) == (3, 4)


def test_files_together_are_measured_as_one_set(tmp_path: Path) -> None:
    records = records_of("# 1.jpg\n0 0 10 20\n5 5 20 20\n# 2.jpg\n# 3.jpg\n1 1 4 4\n", tmp_path)
    sizes = {0: (100, 100), 2: (50, 50)}
    whole = summarise(measure(records, sizes))
    parts = summarise(join_measures([measure(records[:1], {0: sizes[0]}), measure(records[1:], {1: sizes[2]})]))
    assert parts.numbers == whole.numbers
    assert parts.positions is not None and np.array_equal(parts.positions, whole.positions)


def test_histogram_counts_every_value() -> None:
    histogram = count(np.array([-5, 0, 1, 1.5, 2, 99]), (0, 1, 2, 4))
    assert histogram.counts.tolist() == [2, 2, 2]
    assert histogram.as_dict() == {"edges": [0, 1, 2, 4], "counts": [2, 2, 2]}


def test_ignored_and_large_crowds_are_in_the_numbers(tmp_path: Path) -> None:
    (record,) = records_of("# 1.jpg\n0 0 10 10\n0 0 2 2\n", tmp_path)
    marked = record.with_faces(record.rows, record.lines, np.array([False, True]))
    numbers = summarise(measure([marked], {})).numbers
    assert (numbers["ignored_faces"], numbers["most_faces"], numbers["median_size"]) == (1, 2, 6)
    of_one = measure([marked], {}).of_faces(np.array([True, False]))
    assert summarise(of_one).numbers["mean_area"] == 100


def test_without_sizes_what_needs_none_is_still_measured(tmp_path: Path) -> None:
    statistics = summarise(measure(records_of("# 1.jpg\n0 0 10 20\n", tmp_path), {}))
    assert statistics.positions is None
    assert "out_of_range_faces" not in statistics.numbers
    assert statistics.numbers["mean_area"] == 200
    assert describe_uniformity(statistics).startswith("Whether the faces are uniformly distributed is not known")


def test_set_without_faces_is_measured(tmp_path: Path) -> None:
    statistics = summarise(measure(records_of("# 1.jpg\n", tmp_path), {0: (10, 10)}))
    assert statistics.numbers["faces"] == 0
    assert statistics.numbers["overlapping_share"] == 0
    assert "uniformity" not in statistics.numbers


@given(st.integers(0, 2**32 - 1), st.integers(0, 40))
def test_overlaps_are_those_of_the_iou(seed: int, faces: int) -> None:
    rng = np.random.default_rng(seed)
    low = rng.integers(0, 60, (faces, 2)).astype(np.float32)    # whole numbers: boxes touch and boxes without area occur
    boxes = np.hstack([low, low + rng.integers(0, 12, (faces, 2))]).astype(np.float32)
    iou = jaccard(torch.from_numpy(boxes), torch.from_numpy(boxes)).fill_diagonal_(0)
    assert np.allclose(best_overlaps(boxes), iou.amax(dim=1) if faces else [])
    assert (best_overlaps(boxes) > 0).tolist() == (iou > 0).any(dim=1).tolist()


def test_crowd_is_compared_in_parts(monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    low = rng.uniform(0, 100, (50, 2))
    boxes = np.hstack([low, low + 9]).astype(np.float32)
    whole = best_overlaps(boxes)
    monkeypatch.setattr("data.statistics.PAIRS_AT_ONCE", 120)
    assert 0 < (whole > 0).sum() < 50
    assert np.array_equal(best_overlaps(boxes), whole)


def test_chi_square_of_hand_made_counts() -> None:
    assert uniformity(np.full((2, 2), 5))["chi_square"] == 0
    assert uniformity(np.array([[20, 0], [0, 0]])) == {
        "chi_square": 60.0,
        "degrees_of_freedom": 3,
        "critical_value": pytest.approx(11.345, rel=0.005),
    }
    assert chi_square_quantile(63) == pytest.approx(92.01, rel=0.001)    # from a table


def test_sentence_tells_even_from_uneven_faces(rng: np.random.Generator) -> None:
    even, uneven = rng.random((5000, 2)), rng.random((5000, 2)) * [1, 0.5]
    for points, start in ((even, "Nothing speaks against"), (uneven, "The faces are not uniformly")):
        counts = count_positions(points)
        assert counts.shape == (GRID, GRID) and counts.sum() == 5000
        assert describe_uniformity(Statistics({"uniformity": uniformity(counts)}, {}, counts)).startswith(start)


def test_rows_of_the_histogram_run_from_the_top() -> None:
    counts = count_positions(np.array([[0.9, 0.1], [2.0, 0.5]]))
    assert counts.sum() == 1 and counts[0, 7] == 1
