from __future__ import annotations

import math
from itertools import product

import pytest
import torch

from layers.prior_box import PriorBox

SIZES, STEPS = [[16, 32], [64, 128], [256, 512]], [8, 16, 32]


def plain_priors(height: int, width: int) -> list[list[float]]:
    """The contract: level, row, column, size."""
    priors: list[list[float]] = []
    for sizes, step in zip(SIZES, STEPS, strict=True):
        for row, column, size in product(range(math.ceil(height / step)), range(math.ceil(width / step)), sizes):
            priors.append([(column + 0.5) * step, (row + 0.5) * step, size, size])
    return priors


@pytest.mark.parametrize(("height", "width"), [(64, 96), (65, 97), (1, 1), (33, 250)])
def test_priors_equal_the_plain_loop(height: int, width: int) -> None:
    assert PriorBox(SIZES, STEPS)(height, width).tolist() == plain_priors(height, width)


def test_counts_of_the_published_image_sizes() -> None:
    for size, expected in ((840, [22_050, 5_618, 1_458]), (640, [12_800, 3_200, 800])):
        priors = PriorBox(SIZES, STEPS)(size, size)
        assert priors.dtype == torch.float32
        by_level = [int(torch.isin(priors[:, 2], torch.tensor(sizes, dtype=torch.float32)).sum()) for sizes in SIZES]
        assert by_level == expected
        assert len(priors) == sum(expected)


def test_priors_of_a_size_are_made_once() -> None:
    first, second = PriorBox(SIZES, STEPS), PriorBox(SIZES, STEPS)
    assert first(320, 320) is second(320, 320)


def test_priors_made_in_inference_mode_serve_training_too() -> None:
    with torch.inference_mode():
        PriorBox(SIZES, STEPS)(77, 88)
    priors = PriorBox(SIZES, STEPS)(77, 88)
    (torch.ones_like(priors, requires_grad=True) * priors).sum().backward()
    assert not priors.is_inference()


def test_levels_without_steps_are_refused() -> None:
    with pytest.raises(ValueError, match="min_sizes has 3 levels and steps has 2"):
        PriorBox(SIZES, [8, 16])
