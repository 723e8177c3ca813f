from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from utils.arrays import Image
from utils.structures import Detections
from utils.visualize import (
    BLACK,
    GREEN,
    MASK_COLORS,
    RED,
    SHEET_CELL,
    WHITE,
    contact_sheet,
    draw_cell,
    draw_detections,
    draw_faces,
    fit_cell,
    lay_masks,
)


def has_color(image: Image, color: tuple[int, int, int]) -> np.ndarray:
    return (np.abs(image.astype(int) - color).max(axis=2) < 60).nonzero()


def one_face(box: list[float]) -> Detections:
    x1, y1, x2, y2 = box
    points = np.array([x1, y1]) + np.array([[0.3, 0.3], [0.7, 0.3], [0.5, 0.5], [0.3, 0.7], [0.7, 0.7]]) * [x2 - x1, y2 - y1]
    return Detections(np.array([box], np.float32), np.array([0.987], np.float32), points[None].astype(np.float32))


def test_box_is_green_and_ends_where_it_says_and_points_are_red() -> None:
    image = np.zeros((200, 300, 3), np.uint8)
    drawn = draw_detections(image, one_face([50, 60, 150, 180]))
    rows, columns = has_color(drawn, GREEN)
    assert (columns.min(), rows.min()) == pytest.approx((50, 60), abs=1)
    assert (columns.max(), rows.max()) == pytest.approx((149, 179), abs=1)
    rows, columns = has_color(drawn, RED)
    assert (columns.mean(), rows.mean()) == pytest.approx((100, 120), abs=2)
    assert not image.any()


@pytest.mark.parametrize("box", [[-50, -50, 20, 20], [290, 190, 400, 400], [0, 0, 300, 200], [5, 5, 8, 9], [-1e30, 0, 1e30, 5]])
def test_face_at_or_beyond_the_border_is_drawn_without_harm(box: list[float]) -> None:
    drawn = draw_detections(np.zeros((200, 300, 3), np.uint8), one_face(box))
    assert drawn.shape == (200, 300, 3) and drawn.any()


def test_image_of_one_pixel_is_drawn_on() -> None:
    assert draw_detections(np.zeros((1, 1, 3), np.uint8), one_face([0, 0, 1, 1])).shape == (1, 1, 3)


def test_cell_of_a_sheet_is_drawn_at_its_own_size() -> None:
    cell = draw_cell(np.zeros((50, 100, 3), np.uint8), one_face([10, 10, 40, 40]))
    assert cell.shape == (320, 640, 3)
    rows, columns = has_color(cell, GREEN)
    assert (columns.min(), rows.min(), columns.max(), rows.max()) == pytest.approx((64, 64, 255, 255), abs=1)


def test_labelled_points_are_drawn_only_where_they_are_known() -> None:
    face = one_face([50, 60, 150, 180])
    assert face.landmarks is not None
    known = np.array([[True, False, False, False, False]])
    blank = np.zeros((200, 300, 3), np.uint8)
    drawn = draw_faces(blank, face.boxes, face.landmarks, known, ignore=np.array([False]))
    rows, columns = has_color(drawn, RED)
    assert (columns.mean(), rows.mean()) == pytest.approx(face.landmarks[0, 0].tolist(), abs=1)
    ignored = draw_faces(blank, face.boxes, face.landmarks, known, ignore=np.array([True]))
    blue, green, red = drawn[150, 50]    # on the left edge
    assert green > 100 and blue == red == 0
    assert ignored[150, 50].min() > 60 and np.ptp(ignored[150, 50]) == 0


@pytest.mark.parametrize(("count", "columns", "shape"), [(1, 2, (1, 1)), (2, 2, (1, 2)), (3, 2, (2, 2)), (5, 4, (2, 4))])
def test_contact_sheet_has_a_cell_for_each_image(count: int, columns: int, shape: tuple[int, int]) -> None:
    images = [np.full((30 + n, 70, 3), 250, np.uint8) for n in range(count)]
    sheet = contact_sheet([fit_cell(image)[0] for image in images], columns=columns)
    assert sheet.shape == (shape[0] * SHEET_CELL, shape[1] * SHEET_CELL, 3)
    centres = [sheet[(n // shape[1]) * SHEET_CELL + 320, (n % shape[1]) * SHEET_CELL + 320, 0] for n in range(shape[0] * shape[1])]
    assert centres == [250] * count + [64] * (len(centres) - count)


def many_faces(boxes: list[list[float]]) -> Detections:
    scores = np.linspace(0.9, 0.5, len(boxes)).astype(np.float32)
    return Detections(np.array(boxes, np.float32), scores, None)


def test_numbers_hide_no_face_and_no_other_number() -> None:
    grid = [[x, y, x + 12, y + 12] for y in range(20, 280, 16) for x in range(10, 380, 14)]    # no room between them
    image = np.full((300, 400, 3), 128, np.uint8)
    drawn = draw_detections(image, many_faces(grid))
    inside = [drawn[y + 3 : y + 9, x + 3 : x + 9] for x, y, *_ in grid]
    assert all((part == 128).all() for part in inside)
    black = (drawn == 0).all(axis=2)
    assert black.any()    # at the margin some numbers have room


def test_number_stands_above_below_beside_or_within() -> None:
    def number_of(box: list[float], *, height: int, width: int) -> tuple[float, float]:
        drawn = draw_detections(np.full((height, width, 3), 128, np.uint8), many_faces([box]))
        rows, columns = has_color(drawn, BLACK)
        return (float(rows.mean()), float(columns.mean())) if len(rows) else (-1, -1)

    above, _ = number_of([50, 50, 100, 100], height=200, width=200)
    below, _ = number_of([50, 2, 100, 52], height=200, width=200)
    _, beside = number_of([50, 0, 100, 200], height=200, width=200)
    within = number_of([0, 0, 200, 200], height=200, width=200)
    assert above < 50 and below > 52 and beside > 100 and 0 < within[0] < 30 and 0 < within[1] < 50
    assert number_of([0, 0, 20, 20], height=20, width=20) == (-1, -1)    # no room at all


def test_tiny_face_is_not_hidden_by_its_points() -> None:
    image = np.full((100, 100, 3), 128, np.uint8)
    assert not len(has_color(draw_detections(image, one_face([40, 40, 52, 54])), RED)[0])
    assert len(has_color(draw_detections(image, one_face([40, 40, 60, 64])), RED)[0])


def test_name_of_the_class_stands_before_the_number() -> None:
    image = np.zeros((200, 300, 3), np.uint8)
    box = np.array([[100, 100, 160, 180]], np.float32)
    plain = Detections(box, np.array([0.998], np.float32), None)
    named = draw_detections(image, replace(plain, class_name="person"))
    drawings = draw_detections(image, plain), named
    short, long = (np.ptp(has_color(drawing, WHITE)[1]) for drawing in drawings)
    assert long > 2 * short > 0


def test_masks_tint_what_they_are_sure_of_the_best_on_top() -> None:
    masks = np.zeros((2, 40, 40), np.uint8)
    masks[0, :, 5:20], masks[1, :, 15:30] = 255, 180
    masks[:, 30:] = 170    # not sure enough
    boxes = np.array([[0, 0, 40, 40]] * 2, np.float32)
    detections = Detections(boxes, np.array([0.9, 0.8], np.float32), None, masks)
    photo = np.full((40, 40, 3), 100, np.uint8)
    laid = lay_masks(photo, detections)
    plain, first, second = ((100,) * 3, *(tuple((100 + np.array(color)) // 2) for color in MASK_COLORS[:2]))
    assert [tuple(laid[10, x]) for x in (2, 7, 17, 25, 35)] == [plain, first, first, second, plain]
    assert (laid[35] == 100).all() and (photo == 100).all()
    assert tuple(draw_detections(photo, detections)[10, 10]) == first
    assert tuple(draw_cell(photo, detections, side=80)[20, 24]) == first    # twice as large
