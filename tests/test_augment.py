from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config import AugmentationConfig
from data.augment import INTERPOLATIONS, View, augment, distort, draw_borders, fit, ignore_smaller, mirror, mosaic, pick_interpolation
from data.crops import Faces, Window, choose_window, clip, look_through
from data.records import has_area
from utils.arrays import Image

FILL = (104.0, 117.0, 123.0)
MARKS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255)]    # a colour for each point


def make_faces(boxes: list[list[float]], landmarks: np.ndarray | None = None, ignore: list[bool] | None = None) -> Faces:
    corners = np.array(boxes, dtype=np.float32).reshape(-1, 4)
    count = len(corners)
    points = np.zeros((count, 5, 2), dtype=np.float32) if landmarks is None else landmarks.astype(np.float32)
    return Faces.labelled(corners, points, np.full((count, 5), landmarks is not None), np.array(ignore or [False] * count, dtype=bool))


def painted_face(height: int, width: int, box: list[float]) -> tuple[Image, Faces]:
    """A black image with a disc of its own colour at each of the five points of a face."""
    x1, y1, x2, y2 = box
    places = np.array([[0.3, 0.3], [0.7, 0.3], [0.5, 0.5], [0.35, 0.75], [0.65, 0.75]])
    points = [x1, y1] + places * [x2 - x1, y2 - y1]
    image = np.zeros((height, width, 3), dtype=np.uint8)
    for (x, y), color in zip(points, MARKS, strict=True):
        cv2.circle(image, (round((x - 0.5) * 16), round((y - 0.5) * 16)), 16 * 5, color, cv2.FILLED, shift=4)
    return image, make_faces([box], points[None])


def find_mark(image: Image, color: tuple[int, int, int]) -> np.ndarray | None:
    """The centre, x and y, of the pixels of a colour."""
    alike = (np.abs(image.astype(int) - color).max(axis=2) < 100).nonzero()
    return np.array([alike[1].mean() + 0.5, alike[0].mean() + 0.5]) if len(alike[0]) else None


RECIPES = {
    "classic": AugmentationConfig(distortion=False),
    "zoomed out": AugmentationConfig(distortion=False, crop_scales=(0.6, 1.0, 1.5, 2.0)),
    "low resolution": AugmentationConfig(distortion=False, low_resolution=1),
    "visible share": AugmentationConfig(distortion=False, min_visible=0.3),
}


def see(
    image: Image, faces: Faces, *, size: int, config: AugmentationConfig, rng: np.random.Generator, fill: tuple[float, float, float] = FILL
) -> tuple[Image, Faces]:
    """A random view of an image, as the dataset takes it."""
    window = choose_window(image.shape[1], image.shape[0], faces, scales=config.crop_scales, rng=rng)
    return augment(image, faces, window, size=size, config=config, fill=fill, rng=rng)[:2]


def check_marks(image: Image, points: np.ndarray, known: np.ndarray, *, radius: float, tolerance: float) -> int:
    """Find the discs of a painted face where its points (5,2) say they are; how many were looked for."""
    colors = [find_mark(image, color) for color in MARKS]
    is_mirrored = colors[0] is not None and colors[1] is not None and colors[0][0] > colors[1][0]
    looked_for = 0
    for point, place in enumerate([1, 0, 2, 4, 3] if is_mirrored else range(5)):
        x, y = points[point]
        margin = radius + 2    # a disc at the border is seen in part only
        if known[point] and margin < x < image.shape[1] - margin and margin < y < image.shape[0] - margin:
            mark = colors[place]
            assert mark is not None
            assert np.abs(mark - (x, y)).max() < tolerance
            looked_for += 1
    return looked_for


@pytest.mark.parametrize("recipe", RECIPES)
@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1))
def test_painted_points_are_found_where_the_labels_say(recipe: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    image, faces = painted_face(200, 260, [40, 30, 170, 180])
    changed, moved = see(image, faces, size=224, config=RECIPES[recipe], fill=(0, 0, 0), rng=rng)
    assert changed.shape == (224, 224, 3) and changed.dtype == np.uint8
    assert len(moved.boxes) == 1    # a face that fits is kept whole by some crop
    assert moved.landmarks[0, 0, 0] < moved.landmarks[0, 1, 0]    # left stays left in the picture, mirrored or not
    check_marks(changed, moved.landmarks[0], moved.has_landmarks[0], radius=5 * 224 / 60, tolerance=1.5)


def test_painted_points_are_looked_for_at_all() -> None:
    image, faces = painted_face(200, 260, [40, 30, 170, 180])
    window = Window(30, 0, 200, 200)
    changed, moved, _ = augment(image, faces, window, size=224, config=RECIPES["classic"], fill=(0, 0, 0), rng=np.random.default_rng(0))
    assert check_marks(changed, moved.landmarks[0], moved.has_landmarks[0], radius=6, tolerance=1) == 5
    with pytest.raises(AssertionError):
        check_marks(changed, moved.landmarks[0] + 3, moved.has_landmarks[0], radius=6, tolerance=1)


@pytest.mark.parametrize("reduction", [2, 4, 8])
def test_points_are_found_in_a_photo_that_was_decoded_small(reduction: int) -> None:
    """A window may start and end anywhere between the pixels that are left."""
    full, faces = painted_face(1600, 2080, [320, 240, 1360, 1440])
    enlarged = cv2.resize(full, None, fx=1, fy=1)
    image = cv2.resize(enlarged, None, fx=1 / reduction, fy=1 / reduction, interpolation=cv2.INTER_AREA)
    for disc in range(5):    # the discs of painted_face are of 5 pixels, too small to shrink
        x, y = faces.landmarks[0, disc] / reduction
        cv2.circle(image, (round((x - 0.5) * 16), round((y - 0.5) * 16)), 16 * 40 // reduction, MARKS[disc], cv2.FILLED, shift=4)
    for seed, window in enumerate([Window(3, 5, 1595, 1595), Window(481, 0, 1599, 1599), Window(-700, -900, 3000, 3000)]):
        rng = np.random.default_rng(seed)
        config = RECIPES["classic"]
        changed, moved, _ = augment(
            np.asarray(image, np.uint8), faces, window, size=160, config=config, fill=(0, 0, 0), rng=rng, reduction=reduction
        )
        assert check_marks(changed, moved.landmarks[0], moved.has_landmarks[0], radius=5, tolerance=1.2) == 5


@pytest.mark.parametrize("recipe", RECIPES)
@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(0, 8))
def test_augmented_faces_lie_inside_and_keep_to_their_flags(recipe: str, seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    low = rng.uniform(-10, 90, (count, 2))
    boxes = np.hstack([low, low + rng.uniform(1, 60, (count, 2))])
    faces = make_faces(boxes.tolist(), rng.uniform(-20, 140, (count, 5, 2)), ignore=(rng.random(count) < 0.3).tolist())
    image = rng.integers(0, 256, (90, 120, 3)).astype(np.uint8)
    _, moved = see(image, clip(faces, 120, 90), size=64, config=RECIPES[recipe], rng=rng)
    x1, y1, x2, y2 = moved.boxes.T
    assert bool(((x1 >= 0) & (y1 >= 0) & (x2 <= 64.001) & (y2 <= 64.001) & (x2 > x1) & (y2 > y1)).all())
    inside = ((moved.landmarks >= -0.001) & (moved.landmarks <= 64.001)).all(axis=2)
    assert bool(inside[moved.has_landmarks].all())
    assert len(moved.boxes) == len(moved.ignore) == len(moved.landmarks) == len(moved.has_landmarks)


def test_published_rule_drops_faces_by_their_centre_and_points_by_their_place() -> None:
    points = np.array([[[12.0, 12], [28, 12], [20, 20], [12, 28], [28, 28]], [[30.0, 30]] * 5])
    faces = make_faces([[10, 10, 30, 30], [22, 22, 40, 40]], points, ignore=[True, False])
    moved = look_through(faces, Window(5, 5, 20, 20), min_visible=0)
    assert moved.boxes.tolist() == [[5, 5, 20, 20]]
    assert moved.landmarks[0].tolist() == [[7, 7], [23, 7], [15, 15], [7, 23], [23, 23]]
    assert moved.has_landmarks.tolist() == [[True, False, True, False, False]]
    assert moved.ignore.tolist() == [True]


def test_faces_of_which_too_little_shows_are_ignored() -> None:
    faces = make_faces([[0, 0, 10, 10], [15, 0, 25, 10], [18, 0, 28, 10], [30, 0, 40, 10]])
    moved = look_through(faces, Window(0, 0, 20, 20), min_visible=0.5)
    assert moved.boxes.tolist() == [[0, 0, 10, 10], [15, 0, 20, 10], [18, 0, 20, 10]]
    assert moved.ignore.tolist() == [False, False, True]


def test_window_holds_a_whole_face(rng: np.random.Generator) -> None:
    faces = make_faces([[50, 60, 70, 85]])
    for _ in range(50):
        window = choose_window(140, 100, faces, scales=(0.3, 1.0), rng=rng)
        assert window.width == window.height in (30, 100)
        assert 0 <= window.left <= 140 - window.width and 0 <= window.top <= 100 - window.height
        moved = look_through(faces, window, min_visible=0)
        assert (moved.boxes[:, 2:] - moved.boxes[:, :2]).tolist() == [[20, 25]]


def test_window_above_the_size_of_the_photo_holds_it_anywhere(rng: np.random.Generator) -> None:
    windows = [choose_window(140, 100, make_faces([]), scales=(2.0,), rng=rng) for _ in range(200)]
    assert {window.width for window in windows} == {200}
    assert {window.left for window in windows} <= set(range(-60, 1)) and {window.top for window in windows} <= set(range(-100, 1))
    assert len({window.left for window in windows}) > 40
    wide = [choose_window(300, 100, make_faces([]), scales=(2.0,), rng=rng) for _ in range(50)]
    assert all(0 <= window.left <= 100 and -100 <= window.top <= 0 for window in wide)


def test_photo_no_window_can_hold_a_face_of_is_seen_whole(rng: np.random.Generator) -> None:
    image = np.full((60, 100, 3), 7, np.uint8)
    faces = make_faces([[0, 0, 90, 50]])
    config = AugmentationConfig(crop_scales=(0.3, 0.5), distortion=False, flip=0)
    assert choose_window(100, 60, faces, scales=config.crop_scales, rng=rng) == Window(0, 0, 100, 100)
    padded, moved = see(image, faces, size=100, config=config, rng=rng)
    assert np.array_equal(padded[:60], image)
    assert (padded[60:] == FILL).all()
    assert moved.boxes.tolist() == faces.boxes.tolist()


def test_what_fills_a_picture_keeps_its_colour(rng: np.random.Generator) -> None:
    image = rng.integers(0, 256, (60, 100, 3)).astype(np.uint8)
    config = AugmentationConfig(flip=0)
    for size in (40, 100, 300):
        seen, *_ = augment(image, make_faces([]), Window(0, 0, 100, 100), size=size, config=config, fill=FILL, rng=rng)
        assert (seen[round(0.6 * size) :] == FILL).all()


def test_picture_fills_whole_pixels_and_its_faces_go_along() -> None:
    place = fit(Window(-3, 0, 10, 10), 6, 10, size=7)
    assert place.source == ((0, 6), (0, 10)) and place.target == ((2, 6), (0, 7))
    faces = make_faces([[3, 0, 9, 10]]).moved(place.scale, place.shift)    # the photo, as the window shows it
    assert np.allclose(faces.boxes, [[2, 0, 6, 7]])


def test_image_without_faces_is_cropped_too(rng: np.random.Generator) -> None:
    image, moved = see(np.zeros((60, 100, 3), np.uint8), make_faces([]), size=30, config=AugmentationConfig(crop_scales=(0.5,)), rng=rng)
    assert image.shape == (30, 30, 3)
    assert moved.boxes.shape == (0, 4)


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (2, 3)])
def test_tiny_images_come_out_whole(shape: tuple[int, int], rng: np.random.Generator) -> None:
    image = np.full((*shape, 3), 9, np.uint8)
    for config in (AugmentationConfig(), AugmentationConfig(crop_scales=(2.0,))):
        for faces in (make_faces([]), make_faces([[0, 0, shape[1], shape[0]]])):
            changed, _ = see(image, faces, size=32, config=config, rng=rng)
            assert changed.shape == (32, 32, 3)


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(2, 4))
def test_mosaic_shows_each_part_with_its_points(seed: int, cells: int) -> None:
    rng = np.random.default_rng(seed)
    columns, rows = draw_borders(320, cells, rng), draw_borders(320, cells, rng)
    grid = [(left, top, right - left, bottom - top) for top, bottom in pairwise(rows) for left, right in pairwise(columns)]
    parts = [View(*painted_face(side, side, [5, 5, side - 5, side - 5])) for side in (max(width, height) for *_, width, height in grid)]
    image, faces, _ = mosaic(parts, columns=columns, rows=rows, min_visible=0)
    assert image.shape == (320, 320, 3) and len(faces.boxes) == cells * cells
    for face, (left, top, width, height) in enumerate(grid):    # the middle of a part is seen, so the centre of its face too
        cell = image[top : top + height, left : left + width]
        check_marks(cell, faces.landmarks[face] - (left, top), faces.has_landmarks[face], radius=6, tolerance=1)
        assert (faces.boxes[face, :2] >= (left, top)).all() and (faces.boxes[face, 2:] <= (left + width, top + height)).all()


def test_mosaic_counts_what_a_crop_had_hidden_already() -> None:
    half = look_through(make_faces([[-50, 0, 50, 100]]), Window(0, 0, 100, 100), min_visible=0.4)
    assert half.ignore.tolist() == [False]
    parts = [View(np.zeros((100, 100, 3), np.uint8), half)] * 4
    _, faces, _ = mosaic(parts, columns=[0, 100, 200], rows=[0, 70, 140], min_visible=0.4)
    assert faces.boxes.tolist() == [[0, 0, 50, 70], [100, 0, 150, 70], [0, 70, 50, 140], [100, 70, 150, 140]]
    assert faces.ignore.all()    # 35 % of the face, though 70 % of what was left of it


@given(st.integers(0, 2**32 - 1), st.integers(2, 8))
def test_borders_of_a_mosaic_leave_each_cell_half_its_even_share(seed: int, cells: int) -> None:
    borders = draw_borders(640, cells, np.random.default_rng(seed))
    assert borders[0] == 0 and borders[-1] == 640 and len(borders) == cells + 1
    assert np.diff(borders).min() >= 640 / cells / 2 - 1


def test_small_faces_are_ignored_from_a_size_on() -> None:
    faces = make_faces([[0, 0, 4, 16], [0, 0, 9, 9], [0, 0, 2, 2]], ignore=[False, False, True])
    assert ignore_smaller(faces, 8.5).ignore.tolist() == [True, False, True]
    assert ignore_smaller(faces, 0).ignore.tolist() == [False, False, True]


def test_low_resolution_leaves_size_and_mean_but_no_detail(rng: np.random.Generator) -> None:
    config = AugmentationConfig(crop_scales=(1.0,), distortion=False, flip=0, low_resolution=1)
    checks = np.indices((120, 120)).sum(axis=0) % 2 * np.ones((3, 1, 1)) * 255
    image = np.ascontiguousarray(checks.transpose(1, 2, 0).astype(np.uint8))    # light and dark pixels in turn
    spreads = [see(image, make_faces([]), size=120, config=config, rng=rng)[0] for _ in range(20)]
    assert all(abs(float(view.mean()) - 127.5) < 2 and view.shape == (120, 120, 3) for view in spreads)
    assert min(float(view.std()) for view in spreads) < 20 < 127 < float(image.std())


def test_faces_too_small_in_low_resolution_are_ignored(rng: np.random.Generator) -> None:
    config = AugmentationConfig(crop_scales=(1.0,), flip=0, low_resolution=1, ignore_smaller=10)
    faces = make_faces([[0, 0, 9, 9], [20, 20, 36, 36], [40, 40, 80, 80]])
    ignored = np.array([see(np.zeros((120, 120, 3), np.uint8), faces, size=120, config=config, rng=rng)[1].ignore for _ in range(40)])
    assert ignored[:, 0].all() and 0 < ignored[:, 1].mean() < 1 and not ignored[:, 2].any()    # 16 pixels are 10 up to a coarseness of 1.6


def test_areas_are_averaged_only_where_a_picture_shrinks_much(rng: np.random.Generator) -> None:
    assert cv2.INTER_AREA in {pick_interpolation(rng, zoom=0.4) for _ in range(60)}
    assert cv2.INTER_AREA not in {pick_interpolation(rng, zoom=0.6) for _ in range(60)}


def test_clipping_drops_what_lies_outside() -> None:
    faces = make_faces([[-5, -5, 5, 5], [20, 20, 30, 30], [8, 8, 12, 12]])
    assert clip(faces, 10, 10).boxes.tolist() == [[0, 0, 5, 5], [8, 8, 10, 10]]


def test_two_mirrors_are_none() -> None:
    _, faces = painted_face(50, 70, [10, 10, 50, 45])
    twice = mirror(mirror(faces, 70), 70)
    assert np.allclose(twice.boxes, faces.boxes) and np.allclose(twice.landmarks, faces.landmarks)


def test_nothing_handed_in_is_written_to(rng: np.random.Generator) -> None:
    image, faces = painted_face(64, 64, [10, 10, 50, 55])
    copies = [image.copy(), faces.boxes.copy(), faces.landmarks.copy(), faces.has_landmarks.copy()]
    for _ in range(20):
        see(image, faces, size=48, config=AugmentationConfig(), rng=rng)
    for copy, now in zip(copies, [image, faces.boxes, faces.landmarks, faces.has_landmarks], strict=True):
        assert np.array_equal(copy, now)


def test_distortion_changes_most_images_and_leaves_some(rng: np.random.Generator) -> None:
    image = rng.integers(0, 256, (16, 16, 3)).astype(np.uint8)
    changed = [distort(image, rng) for _ in range(200)]
    share = np.mean([not np.array_equal(each, image) for each in changed])
    assert 0.85 < share < 0.99    # four independent halves leave one in sixteen alone
    assert {each.shape for each in changed} == {image.shape}


def slow_distort(image: Image, rng: np.random.Generator) -> Image:
    """What distort draws, done on each pixel in float."""
    applied = rng.random(5) < 0.5
    brightness = int(rng.integers(-32, 33))
    contrast, saturation = rng.uniform(0.5, 1.5, size=2)
    turn = int(rng.integers(-18, 19))

    def contrasted(values: Image) -> Image:
        return np.clip(np.rint(values * contrast), 0, 255).astype(np.uint8) if applied[1] else values

    if applied[0]:
        image = np.clip(image.astype(int) + brightness, 0, 255).astype(np.uint8)
    image = contrasted(image) if applied[4] else image
    if applied[2] or applied[3]:
        hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV).astype(float)
        if applied[3]:
            hsv[..., 0] = (hsv[..., 0] + turn) % 180
        if applied[2]:
            hsv[..., 1] = np.clip(np.rint(hsv[..., 1] * saturation), 0, 255)
        image = np.asarray(cv2.cvtColor(hsv.astype(np.uint8), cv2.COLOR_HSV2BGR), np.uint8)
    return image if applied[4] else contrasted(image)


@given(st.integers(0, 2**32 - 1))
def test_distortion_is_that_of_slow_arithmetic(seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (9, 13, 3)).astype(np.uint8)
    fast, slow = (way(image, np.random.default_rng(seed)) for way in (distort, slow_distort))
    difference = np.abs(fast.astype(int) - slow)
    assert difference.max() <= 24 and difference.mean() < 2    # halves may round either way, a step of hue is up to 9 levels


def test_part_of_an_image_is_distorted_like_the_same_part_alone(rng: np.random.Generator) -> None:
    image = rng.integers(0, 256, (20, 30, 3)).astype(np.uint8)
    for seed in range(20):
        part = distort(image[3:13, 5:25], np.random.default_rng(seed))
        assert np.array_equal(part, distort(image[3:13, 5:25].copy(), np.random.default_rng(seed)))


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("zoom", [0.3, 0.45, 0.7, 1.0, 1.7])
def test_every_interpolation_shows_places_where_the_labels_say(interpolation: int, zoom: float) -> None:
    """A ramp shows at each pixel which column of the image it came from."""
    width, size = 240, round(240 * zoom)
    ramp = np.repeat(np.arange(width, dtype=np.float32)[None] + 0.5, 8, axis=0)
    shown = cv2.resize(ramp, (size, 8), interpolation=interpolation)
    expected = (np.arange(size) + 0.5) * width / size
    inner = slice(size // 10, -size // 10)
    offset = (shown[4] - expected)[inner] * zoom    # pixels of the result
    assert abs(offset.mean()) < 0.1


@pytest.mark.parametrize("flip", [0.0, 1.0])
@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(300, 1500), st.integers(2, 3))
def test_boxes_that_float32_rounds_to_nothing_are_dropped(
    flip: float, seed: int, side: int, cells: int
) -> None:
    """Scaling, mirroring and the way into a mosaic may each leave a box without its last bit."""
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, side, (50, 2)).astype(np.float32)
    tiny = np.concatenate([corners, np.nextafter(corners, np.float32(np.inf))], axis=1)
    image, config = np.zeros((side, side, 3), np.uint8), AugmentationConfig(distortion=False, flip=flip)
    faces = make_faces([*tiny.tolist(), [0, 0, side, side]])
    window = Window(-int(rng.integers(20)), 0, side + 20, side + 20)
    view = augment(image, faces, window, size=64, config=config, fill=FILL, rng=rng)
    assert has_area(view.faces.boxes).all() and len(view.faces.boxes) >= 1
    borders = draw_borders(64, cells, rng)
    whole = mosaic([view] * cells**2, columns=borders, rows=borders, min_visible=0)
    assert has_area(whole.faces.boxes).all() and len(whole.faces.boxes) >= 1


def test_colors_are_distorted_whether_a_crop_shrinks_or_grows() -> None:
    image = np.random.default_rng(3).integers(0, 256, (60, 60, 3)).astype(np.uint8)
    for size in (30, 120):
        plain, distorted = (
            [
                augment(
                    image, make_faces([]), Window(0, 0, 60, 60), size=size,
                    config=AugmentationConfig(distortion=distortion, flip=0), fill=FILL, rng=np.random.default_rng(seed),
                ).image
                for seed in range(8)
            ]
            for distortion in (False, True)
        )    # fmt: skip
        means = [float(np.abs(a.mean((0, 1)) - b.mean((0, 1))).max()) for a, b in zip(plain, distorted, strict=True)]
        assert max(means) > 5, (size, means)


def test_views_of_low_resolution_are_enlarged_without_steps() -> None:
    ramp = np.tile(np.linspace(0, 255, 96).astype(np.uint8)[None, :, None], (96, 1, 3))
    config = AugmentationConfig(distortion=False, flip=0, low_resolution=1)
    for seed in range(16):
        rng = np.random.default_rng(seed)
        window = Window(0, 0, 96, 96)
        view = augment(ramp, make_faces([]), window, size=96, config=config, fill=FILL, rng=rng)
        assert np.abs(np.diff(view.image.astype(int), axis=1)).max() <= 4    # 2.7 in the image


def test_window_need_not_hold_an_ignored_face(rng: np.random.Generator) -> None:
    faces = make_faces([[30, 30, 50, 50], [150, 150, 170, 170]], ignore=[True, False])
    for _ in range(50):
        window = choose_window(200, 200, faces, scales=(0.5,), rng=rng)
        assert window.width == 100 and window.left >= 70 and window.top >= 70
