from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from config import AugmentationConfig
from data.coverage import Priors, Raster, best_iou, bin_names, cluster, coverage, propose_sizes, resized_raster, share_out, training_raster
from data.ground_truth import read_ground_truth, split_faces
from data.labels import read_labels
from data.records import FaceRecord
from layers.prior_box import PriorBox
from utils.box_utils import cxcywh_to_xyxy, jaccard
from utils.wider_eval import SETTINGS

PUBLISHED = Priors(((16, 32), (64, 128), (256, 512)), (8, 16, 32))


@settings(max_examples=50)
@given(st.integers(0, 2**32 - 1))
def test_best_iou_is_that_of_comparing_with_every_prior(seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = (int(side) for side in rng.integers(20, 300, 2))
    low = rng.uniform(-10, [width, height], (12, 2))
    boxes = np.hstack([low, low + np.exp(rng.uniform(0, 6, (12, 2)))])
    priors = Priors(((8, 11), (16, 32), (64,)), (4, 8, 16))
    every = cxcywh_to_xyxy(PriorBox(priors.min_sizes, priors.steps)(height, width)).double()
    slow = jaccard(torch.from_numpy(boxes), every).amax(dim=1)
    fast = best_iou(boxes, np.full((12, 2), [width, height], dtype=float), priors)
    assert np.allclose(fast, slow, atol=1e-6)


def test_shares_are_counted_by_size() -> None:
    boxes = np.array([[4.0, 4, 20, 20], [0, 0, 4, 4], [0, 0, 300, 300]])    # the first is a prior of 16 pixels at (12, 12)
    numbers = coverage(Raster(boxes, np.full((3, 2), 640.0)), PUBLISHED)
    assert numbers["faces"] == 3
    assert numbers["iou_0.35"] == numbers["iou_0.5"] == pytest.approx(2 / 3)
    assert numbers["never_learnt"] == pytest.approx(1 / 3)
    assert list(numbers["by_size"]) == bin_names()
    assert numbers["by_size"]["under 8"] == {"faces": 1, "iou_0.35": 0, "iou_0.5": 0, "never_learnt": 1, "mean_best_iou": 0.0625}
    assert numbers["by_size"]["8 to 16"] == {"faces": 0}
    assert numbers["by_size"]["16 to 32"]["faces"] == 1


def test_faces_are_resized_as_a_test_does_it() -> None:
    boxes = np.array([[10.0, 10, 20, 20], [10, 10, 20, 20], [10, 10, 20, 20]])
    photos = np.array([[100.0, 50], [50, 200], [np.nan, np.nan]])
    raster = resized_raster(boxes, photos, "long:400")
    assert raster.boxes.tolist() == [[40, 40, 80, 80], [20, 20, 40, 40]]
    assert raster.input_sizes.tolist() == [[400, 200], [100, 400]]
    raster = resized_raster(boxes, photos, "x2")
    assert raster.boxes.tolist() == [[20, 20, 40, 40]] * 3
    assert raster.input_sizes.tolist() == [[200, 100], [100, 400], [np.inf, np.inf]]


def record_of(tmp_path: Path, text: str) -> list[FaceRecord]:
    (tmp_path / "label.txt").write_text(text)
    return read_labels(tmp_path / "label.txt")


def test_training_shows_faces_through_its_windows(tmp_path: Path) -> None:
    records = record_of(tmp_path, "# 1.jpg\n40 40 20 20\n0 0 0 0\n# 2.jpg\n5 5 9 9\n# 3.jpg\n")
    raster = training_raster(records, [(100, 100), None, (50, 50)], size=200, config=AugmentationConfig(crop_scales=(0.5, 1.0)), seed=0)
    sides = raster.boxes[:, 2:] - raster.boxes[:, :2]
    assert len(sides) == 3 and {tuple(side) for side in sides.tolist()} <= {(40, 40), (80, 80)}    # once an epoch
    assert (raster.input_sizes == 200).all()
    assert len(training_raster(records, [None] * 3, size=200, config=AugmentationConfig(), seed=0).boxes) == 0
    ignoring = AugmentationConfig(crop_scales=(0.5, 1.0), ignore_smaller=41)
    assert (training_raster(records, [(100, 100), None, None], size=200, config=ignoring, seed=0).boxes[:, 2:] > 60).all()


def test_clusters_lie_where_the_sizes_are(rng: np.random.Generator) -> None:
    sizes = np.concatenate([rng.normal(3, 0.05, 700), rng.normal(6, 0.05, 300)])
    assert cluster(sizes, 2) == [8, 64]
    assert cluster(np.full(10, 5.0), 4) == [32]


def test_sizes_go_to_the_coarsest_level_that_is_dense_enough() -> None:
    assert share_out([16, 32, 64, 128, 256, 512], (8, 16, 32)) == ((16,), (32,), (64, 128, 256, 512))
    assert share_out([5, 9, 20, 33], (8, 16)) == ((5, 9, 20), (33,))
    assert share_out([5, 9], (8, 16)) is None


def test_proposed_sizes_cover_more_or_are_none(rng: np.random.Generator) -> None:
    low = rng.uniform(0, 500, (2000, 2))
    tiny = Raster(np.hstack([low, low + np.exp2(rng.uniform(2.5, 6.5, (2000, 1)))]), np.full((2000, 2), 640.0))
    proposed = propose_sizes(tiny, PUBLISHED)
    assert proposed is not None and proposed.steps == (4, 8, 16, 32)
    assert coverage(tiny, proposed)["iou_0.5"] > coverage(tiny, PUBLISHED)["iou_0.5"] + 0.1
    fitting = Raster(tiny.boxes[:, [0, 1, 0, 1]] // 8 * 8 + [-4.0, -4, 12, 12], tiny.input_sizes)
    assert propose_sizes(fitting, PUBLISHED) is None
    assert propose_sizes(Raster(np.empty((0, 4)), np.empty((0, 2))), PUBLISHED) is None


def test_hard_faces_of_wider_are_covered_as_is_known(real_data: Path) -> None:
    records = read_labels(real_data / "annotations" / "labelv2_val.txt")
    lists = split_faces(records, read_ground_truth(real_data / "wider_eval"))
    counts = {setting: sum(int(which.sum()) for which in lists[setting]) for setting in SETTINGS}
    assert counts == {"easy": 7211, "medium": 13319, "hard": 31957}    # labelv2 lacks the hard face of negative width
    boxes = np.concatenate([record.boxes[which] for record, which in zip(records, lists["hard"], strict=True)]).astype(np.float64)
    photos = np.array([record.size for record, which in zip(records, lists["hard"], strict=True) for _ in range(which.sum())], float)
    for size, reached in (("original", [0.943, 0.735]), ("x0.625", [0.679, 0.498])):    # WIDER's images are 1024 wide, so 640 here
        numbers = coverage(resized_raster(boxes, photos, size), PUBLISHED)
        assert [numbers["iou_0.35"], numbers["iou_0.5"]] == pytest.approx(reached, abs=0.001)


def test_foreign_and_missing_lists_are_named(tmp_path: Path, real_data: Path) -> None:
    with pytest.raises(FileNotFoundError, match="wider_easy_val.mat: no such list"):
        read_ground_truth(tmp_path)
    (tmp_path / "wider_easy_val.mat").write_bytes(b"MATLAB 5.0 MAT-file" * 30)
    with pytest.raises(ValueError, match="wider_easy_val.mat: not one of the official WIDER FACE lists"):
        read_ground_truth(tmp_path)
    with pytest.raises(ValueError, match="--ground-truth: has none of the 1 images, such as 1.jpg"):
        split_faces(record_of(tmp_path, "# 1.jpg\n"), read_ground_truth(real_data / "wider_eval"))
