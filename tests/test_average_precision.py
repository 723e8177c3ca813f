from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import make_target
from hypothesis import given
from hypothesis import strategies as st

from utils.average_precision import (
    Matches,
    average_precision,
    best_f1,
    match_detections,
    precision_recall,
    size_metrics,
    threshold_metrics,
)
from utils.landmark_eval import landmark_metrics
from utils.structures import Detections, Target


def detect(boxes: list[list[float]], scores: list[float], landmarks: np.ndarray | None = None) -> Detections:
    return Detections(np.array(boxes, np.float32).reshape(-1, 4), np.array(scores, np.float32), landmarks)


def ap(*images: tuple[Detections, Target]) -> float:
    return average_precision([found.scores for found, _ in images], [match_detections(found, target) for found, target in images])


FACE, OTHER = [0, 0, 10, 10], [50, 50, 60, 60]


def test_each_detection_takes_the_best_face_that_is_free() -> None:
    target = make_target([[0, 0, 10, 10], [0, 0, 10, 9]])
    found = detect([[0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 10]], [0.9, 0.8, 0.7])
    assert match_detections(found, target).found.tolist() == [0, 1, -1]


def test_iou_of_a_half_is_enough_and_nothing_is_added_to_the_sides() -> None:
    target = make_target([FACE])
    assert match_detections(detect([[0, 0, 10, 5]], [0.9]), target).found.tolist() == [0]
    assert match_detections(detect([[0, 0, 10, 4.99]], [0.9]), target).found.tolist() == [-1]


def test_ignored_face_takes_detections_out_and_any_number_of_them() -> None:
    target = make_target([FACE, OTHER], ignore=[True, False])
    found = detect([FACE, FACE, OTHER], [0.9, 0.8, 0.7])
    assert match_detections(found, target).found.tolist() == [-2, -2, 1]
    assert ap((found, target)) == 1


def test_ignored_face_comes_after_a_free_wanted_one() -> None:
    target = make_target([FACE, FACE], ignore=[True, False])
    assert match_detections(detect([FACE, FACE], [0.9, 0.8]), target).found.tolist() == [1, -2]


def test_face_without_area_is_not_wanted() -> None:
    target = make_target([[5, 5, 5, 9], FACE])
    assert match_detections(detect([], []), target).wanted.tolist() == [False, True]


def test_area_under_the_envelope_of_a_hand_made_ranking() -> None:
    first = (detect([FACE, OTHER], [0.9, 0.8]), make_target([FACE]))    # right, wrong
    second = (detect([FACE, OTHER], [0.7, 0.6]), make_target([FACE, OTHER]))    # right, right
    third = (detect([], []), make_target([FACE]))    # never found
    # precision 1, 1/2, 2/3, 3/4: its envelope at the three right ones is 1, 3/4, 3/4, of four faces
    assert ap(first, second, third) == pytest.approx((1 + 0.75 + 0.75) / 4)


def test_curve_has_recall_and_precision_after_each_detection() -> None:
    scores = [np.array([0.9, 0.5, 0.4], np.float32), np.array([0.8, 0.3], np.float32)]
    wanted = np.array([True, True])
    matches = [Matches(np.array([0, -2, 1]), wanted), Matches(np.array([-1, 1]), wanted)]
    score, recall, precision = precision_recall(scores, matches)
    assert score.tolist() == pytest.approx([0.9, 0.8, 0.4, 0.3])
    assert recall.tolist() == [0.25, 0.25, 0.5, 0.75]
    assert precision.tolist() == pytest.approx([1, 1 / 2, 2 / 3, 3 / 4])
    assert precision_recall([], [])[0].shape == (0,)
    assert best_f1(scores, matches) == pytest.approx(
        {"confidence": 0.3, "precision": 0.75, "recall": 0.75, "f1": 0.75}
    )
    assert best_f1([], []) == {}


def test_best_f1_takes_all_detections_of_a_score() -> None:
    wanted = np.array([True])
    found = np.array([0, -1, -1])
    scores = np.array([0.5, 0.5, 0.4], np.float32)
    expected = {"confidence": 0.5, "precision": 0.5, "recall": 1, "f1": 2 / 3}
    assert best_f1([scores], [Matches(found, wanted)]) == pytest.approx(expected)
    assert best_f1([scores], [Matches(found - 1, wanted)]) == {}


def test_equal_scores_are_ranked_by_image_then_order() -> None:
    right, wrong = (detect([FACE], [0.5]), make_target([FACE])), (detect([OTHER], [0.5]), make_target([]))
    assert ap(right, wrong) == 1
    assert ap(wrong, right) == 0.5


def test_image_without_faces_can_only_hurt() -> None:
    right = (detect([FACE], [0.5]), make_target([FACE]))
    assert ap((detect([FACE], [0.9]), make_target([])), right) == 0.5
    assert ap((detect([FACE], [0.9]), make_target([]))) == 0


@given(st.integers(0, 2**32 - 1))
def test_ap_equals_a_plain_sum_over_the_ranking(seed: int) -> None:
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(4):
        low = rng.integers(0, 20, (rng.integers(0, 6), 2))
        target = make_target(np.hstack([low, low + rng.integers(1, 20, low.shape)]).tolist())
        low = rng.integers(0, 20, (rng.integers(0, 9), 2))
        scores = np.sort(rng.integers(0, 6, len(low)) / 6)[::-1]
        images.append((detect(np.hstack([low, low + rng.integers(1, 20, low.shape)]).tolist(), scores.tolist()), target))
    ranking = []
    for number, (found, target) in enumerate(images):
        outcome = match_detections(found, target).found
        ranking += [(-float(score), number, place, outcome[place] >= 0) for place, score in enumerate(found.scores)]
    hits = [right for *_, right in sorted(ranking)]
    precision = [sum(hits[: n + 1]) / (n + 1) for n in range(len(hits))]
    faces = sum(len(target.boxes) for _, target in images)
    expected = sum(max(precision[n:]) for n in range(len(hits)) if hits[n]) / faces if faces else 0
    assert ap(*images) == pytest.approx(expected)


def test_landmark_figures_of_hand_made_faces() -> None:
    boxes = torch.tensor([[0.0, 0, 40, 10], [100, 0, 120, 20], [200, 0, 220, 20], [300, 0, 320, 20]])    # sqrt(w h) = 20
    points = boxes[:, None, :2].repeat(1, 5, 1)
    known = torch.ones(4, 5, dtype=torch.bool)
    known[2, 3] = False
    target = Target(boxes, points, known, torch.zeros(4, dtype=torch.bool))
    predicted = points[:3].numpy() + np.array([1.0, 5.0, 0.0], np.float32)[:, None, None] * [0.6, 0.8]
    found = Detections(boxes[:3].numpy(), np.array([0.9, 0.8, 0.7], np.float32), predicted.astype(np.float32))
    figures = landmark_metrics([found], [target], [match_detections(found, target)])
    assert figures == pytest.approx({"nme": (1 / 20 + 5 / 20) / 2, "failure_rate": 0.5, "matched": 2 / 3})


def test_landmark_figures_are_absent_where_there_is_nothing_to_compare() -> None:
    target = make_target([FACE])
    without = detect([FACE], [0.9])
    assert landmark_metrics([without], [target], [match_detections(without, target)]) == {}
    blind = detect([], [], np.zeros((0, 5, 2), np.float32))
    targets = [target, make_target([])]
    assert landmark_metrics([blind, blind], targets, [match_detections(blind, each) for each in targets]) == {"matched": 0.0}
    assert landmark_metrics([blind], [targets[1]], [match_detections(blind, targets[1])]) == {}


def test_threshold_shows_what_a_user_sees() -> None:
    images = [
        (detect([FACE, OTHER, [80, 80, 90, 90], FACE], [0.9, 0.7, 0.6, 0.2]), make_target([FACE, OTHER, [200, 0, 210, 10]])),
        (detect([FACE, OTHER], [0.8, 0.4]), make_target([OTHER], ignore=[True])),
    ]
    detections, matches = [found for found, _ in images], [match_detections(found, target) for found, target in images]
    # Right: two of three faces; wrong: one in each image. What lies on the ignored face does not count.
    assert threshold_metrics(detections, matches, confidence=0.5) == pytest.approx(
        {"confidence": 0.5, "false_positives_per_image": 1.0, "precision": 0.5, "recall": 2 / 3, "f1": 4 / 7}
    )
    assert threshold_metrics(detections, matches, confidence=0.95) == {
        "confidence": 0.95, "false_positives_per_image": 0.0, "recall": 0.0, "f1": 0.0
    }  # fmt: skip
    nothing = threshold_metrics([detect([], [])], [match_detections(detect([], []), make_target([]))], confidence=0.5)
    assert nothing == {"confidence": 0.5, "false_positives_per_image": 0.0}


def test_each_size_is_measured_for_itself() -> None:
    small, large = [0, 0, 10, 10], [100, 100, 200, 200]
    missed = [300, 0, 312, 12]
    wrong_and_small, wrong_and_large = [50, 0, 60, 10], [300, 300, 400, 400]
    found = detect([wrong_and_small, small, large, wrong_and_large], [0.9, 0.8, 0.7, 0.6])
    target = make_target([small, large, missed])
    metrics = size_metrics([found], [target], [match_detections(found, target)])
    # Of two small faces one is found, behind a wrong small one; the large one is found before the wrong large one.
    assert metrics == {"8-16": {"faces": 2, "ap50": pytest.approx(0.25)}, "64-128": {"faces": 1, "ap50": 1.0}}


def test_size_of_a_detection_is_that_of_the_face_it_found() -> None:
    found, target = detect([[0, 0, 15, 15]], [0.9]), make_target([[0, 0, 18, 18]])    # sides on both sides of 16
    assert size_metrics([found], [target], [match_detections(found, target)]) == {"16-32": {"faces": 1, "ap50": 1.0}}
