from __future__ import annotations

import io
import sys
from contextlib import redirect_stdout
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import make_target

from utils.coco_eval import GROUPS, NAMES, SUMMARY, Kind, coco_metrics, format_summary, have_masks
from utils.structures import Detections, Target

pytest.importorskip("pycocotools")


def coco(detections: list[Detections], targets: list[Target], *, kind: Kind = "bbox") -> dict[str, float]:
    """The metrics at 1,000 detections an image."""
    return coco_metrics(detections, targets, kind=kind)[GROUPS[kind]]


def found(rows: list[list[float]]) -> Detections:
    array = np.array(rows, np.float32).reshape(-1, 5)
    return Detections(array[:, :4], array[:, 4], None)


def test_perfect_boxes_of_all_sizes_give_one_everywhere() -> None:
    boxes = [[0, 0, 10, 10], [50, 0, 100, 50], [0, 100, 200, 300]]
    metrics = coco([found([[*box, 0.9] for box in boxes])], [make_target(boxes)])
    whole = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR", "ARs", "ARm", "ARl", "AR10", "AR100"]
    assert metrics == pytest.approx(dict.fromkeys(whole, 1.0) | {"AR1": 1 / 3})


def test_loose_box_counts_at_the_low_thresholds_only() -> None:
    metrics = coco([found([[0, 0, 10, 6, 0.9]])], [make_target([[0, 0, 10, 10]])])    # IoU 0.6: at 0.50, 0.55 and 0.60
    assert metrics["AP50"] == pytest.approx(1) and metrics["AP75"] == 0 and metrics["AP"] == pytest.approx(0.3)
    assert "APm" not in metrics


def test_crowds_of_more_than_a_hundred_faces_count_in_full() -> None:
    boxes = [[20 * n, 0, 20 * n + 10, 10] for n in range(150)]
    metrics = coco([found([[*box, 0.9] for box in boxes])], [make_target(boxes)])
    assert metrics["AP"] == pytest.approx(1) and metrics["AR"] == pytest.approx(1) and metrics["AR100"] == pytest.approx(100 / 150)


def test_limits_of_coco_itself_are_beside(rng: np.random.Generator) -> None:
    """They are those of pycocotools' own summarize()."""
    from pycocotools.cocoeval import COCOeval

    low = rng.uniform(0, 900, (150, 2))
    boxes = np.hstack([low, low + rng.uniform(5, 150, (150, 2))])
    rows = np.column_stack([boxes + rng.normal(0, 3, boxes.shape), rng.random(150)])
    groups = coco_metrics([found(rows.tolist())], [make_target(boxes.tolist())])
    assert list(groups) == ["coco", "coco_100"]
    assert set(groups["coco"]) == set(groups["coco_100"]) == set(NAMES)
    assert groups["coco_100"]["AR"] == groups["coco_100"]["AR100"] < groups["coco"]["AR"]
    assert groups["coco_100"]["AP"] < groups["coco"]["AP"]
    summaries = []

    class Summarized(COCOeval):    # type: ignore[misc]
        def accumulate(self, p: object = None) -> None:
            super().accumulate(p)
            limits, self.params.maxDets = self.params.maxDets, [1, 10, 100]
            super().accumulate(p)
            with redirect_stdout(io.StringIO()) as printed:
                self.summarize()
            summaries.append((printed.getvalue(), self.stats))
            self.params.maxDets = limits
            super().accumulate(p)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pycocotools.cocoeval.COCOeval", Summarized)
        groups = coco_metrics([found(rows.tolist())], [make_target(boxes.tolist())])
    ((printed, expected),) = summaries
    assert [groups["coco_100"][name] for name in SUMMARY] == pytest.approx(list(expected))
    assert format_summary(groups["coco_100"]) + "\n" == printed
    assert format_summary({}).count("= -1.000") == 12


def test_ignored_face_is_neither_missed_nor_wrong() -> None:
    target = make_target([[0, 0, 10, 10], [50, 50, 60, 60]], ignore=[False, True])
    metrics = coco([found([[50, 50, 60, 60, 0.9], [0, 0, 10, 10, 0.8]])], [target])
    assert metrics["AP"] == pytest.approx(1)


def test_nothing_found_is_zero_and_nothing_to_find_is_absent() -> None:
    assert coco([Detections.none()], [make_target([[0, 0, 10, 10]])])["AP"] == 0
    assert coco([found([[0, 0, 5, 5, 0.5]])], [make_target([])]) == {}


def masked(found_boxes: list[list[int]], true_boxes: list[list[int]]) -> tuple[Detections, Target]:
    """Full boxes as masks, with cells of a pixel, in an image of 60 x 80 pixels, found with falling scores."""
    regions, masks = torch.zeros(60, 80, dtype=torch.int16), np.full((len(found_boxes), 10, 10), 255, np.uint8)
    for number, (x1, y1, x2, y2) in enumerate(true_boxes, start=1):
        regions[y1:y2, x1:x2] = number
    scores = np.linspace(0.9, 0.5, len(found_boxes), dtype=np.float32)
    target = replace(make_target([list(map(float, box)) for box in true_boxes]), regions=regions)
    return Detections(np.array(found_boxes, np.float32).reshape(-1, 4), scores, None, masks), target


@pytest.mark.parametrize("package", ["pycocotools", "faster_coco_eval"])
def test_masks_are_compared_pixel_by_pixel(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip(package)
    if package != "pycocotools":
        monkeypatch.setitem(sys.modules, "pycocotools.coco", None)
    detections, target = masked([[0, 0, 10, 10], [40, 20, 50, 26]], [[0, 0, 10, 10], [40, 20, 50, 30]])
    assert detections.masks is not None
    detections.masks[0, :5] = 100    # half of it is not sure enough
    assert have_masks([detections], [target]) and not have_masks([found([])], [target])
    metrics = coco([detections], [target], kind="segm")
    assert metrics["AR"] == pytest.approx((0.1 + 0.3) / 2)    # IoU 0.5 at one threshold of ten, IoU 0.6 at three
    assert metrics["AR1"] == pytest.approx(0.05) and metrics["AR10"] == metrics["AR"]
    assert coco([detections], [target])["AR"] == pytest.approx((1 + 0.3) / 2)    # the box itself is right


def test_masks_of_nothing_found_are_zero() -> None:
    detections, target = masked([], [[0, 0, 10, 10]])
    assert coco([detections], [target], kind="segm")["AP"] == 0


def test_either_package_gives_the_same(monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    pytest.importorskip("faster_coco_eval")
    detections, targets = [], []
    for _ in range(6):
        low = rng.uniform(0, 200, (12, 2))
        boxes = np.hstack([low, low + rng.uniform(10, 120, (12, 2))])
        detections.append(found(np.column_stack([boxes + rng.normal(0, 4, boxes.shape), rng.random(12)]).tolist()))
        targets.append(make_target(boxes.tolist()))
    plain = coco(detections, targets)
    monkeypatch.setitem(sys.modules, "pycocotools.coco", None)
    assert coco(detections, targets) == pytest.approx(plain, abs=1e-6)
    assert 0 < plain["AP"] < plain["AP50"] < 1


def test_neither_package_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pycocotools.coco", "faster_coco_eval"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ModuleNotFoundError):
        coco([Detections.none()], [make_target([])])
