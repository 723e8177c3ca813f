from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.models.detection.roi_heads import paste_masks_in_image

from utils.masks import encode_mask, paste_mask


def test_full_mask_covers_the_pixels_of_its_box() -> None:
    full = np.full((28, 28), 255, np.uint8)
    pasted = paste_mask(full, np.array([3, 2, 9, 6], np.float32), height=8, width=12)
    inside = np.zeros((8, 12), bool)
    inside[2:6, 3:9] = True
    assert ((pasted >= 128) == inside).all()


def test_mask_moves_with_fractions_of_a_pixel() -> None:
    ramp = np.tile(np.linspace(0, 252, 28).astype(np.uint8), (28, 1))
    boxes = [np.array([10 + shift, 5, 66 + shift, 61], np.float32) for shift in (0, 0.5, 1)]    # cells of two pixels
    middle = [int(paste_mask(ramp, box, height=70, width=80)[30, 40]) for box in boxes]
    assert middle[0] > middle[1] > middle[2] and middle[0] - middle[2] == pytest.approx(252 / 27 / 2, abs=2)


def test_cells_lie_where_torchvision_has_them(rng: np.random.Generator) -> None:
    mask = rng.integers(0, 256, (28, 28)).astype(np.uint8)
    box = np.array([28, 28, 28 + 84, 28 + 84], np.float32)    # cells of three pixels
    ours = paste_mask(mask, box, height=140, width=140)
    theirs = paste_masks_in_image(torch.from_numpy(mask)[None, None].float(), torch.from_numpy(box)[None], (140, 140))[0, 0].numpy()
    centres = slice(28 + 4, 28 + 81, 3)
    assert np.abs(ours[centres, centres].astype(int) - mask[1:27, 1:27]).max() <= 1
    assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > 0.95    # whose boxes are cut to whole pixels


@pytest.mark.parametrize("box", [[5, 5, 5, 9], [9, 5, 5, 9], [-30, 0, -20, 10], [100, 100, 110, 110]])
def test_box_without_pixels_has_none(box: list[float]) -> None:
    assert not paste_mask(np.full((28, 28), 255, np.uint8), np.array(box, np.float32), height=20, width=20).any()


def test_box_that_leaves_the_image_shows_the_rest_of_its_mask() -> None:
    half = np.zeros((28, 28), np.uint8)
    half[:, 14:] = 255
    pasted = paste_mask(half, np.array([-10, -10, 10, 30], np.float32), height=20, width=20)
    assert (pasted[:, 1:9] >= 200).all() and not pasted[:, 11:].any()


@pytest.mark.parametrize("shape", [(5, 7), (1, 1), (3, 1)])
def test_run_lengths_are_those_of_coco(shape: tuple[int, int], rng: np.random.Generator) -> None:
    mask = pytest.importorskip("pycocotools.mask")
    for pixels in (rng.random(shape) < 0.5, np.ones(shape, bool), np.zeros(shape, bool)):
        encoded = encode_mask(pixels)
        assert encoded["size"] == list(shape) and sum(encoded["counts"]) == pixels.size
        assert np.array_equal(mask.decode(mask.frPyObjects(encoded, *shape)), pixels)


def test_run_lengths_go_down_the_columns_and_begin_with_the_background() -> None:
    pixels = np.array([[True, False], [True, True]])
    assert encode_mask(pixels) == {"size": [2, 2], "counts": [0, 2, 1, 1]}
