"""Which sizes of faces each scale of an image may find."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.merging import LARGEST, SMALLEST, gates

FACTORS = st.lists(st.floats(0.05, 20), min_size=1, max_size=5, unique=True).map(sorted)


@given(FACTORS, st.floats(1e-3, 1e5))
def test_every_size_of_face_is_found_by_some_scale(factors: list[float], size: float) -> None:
    assert any(low <= size < high for low, high in gates(factors))


@pytest.mark.parametrize("factors", [[1, 4], [0.5, 2], [0.5, 1, 4], [1, 3.5, 20]])
def test_ranges_of_far_scales_meet_at_the_geometric_mean(factors: list[float]) -> None:
    ranges = gates(factors)
    far = [(a, b) for a, b in zip(range(len(factors)), range(1, len(factors)), strict=False) if factors[b] > 3 * factors[a]]
    assert far
    for a, b in far:
        assert ranges[a][0] == ranges[b][1]
        assert ranges[a][0] == pytest.approx(math.sqrt(SMALLEST / factors[a] * LARGEST / factors[b]))


def test_ranges_of_near_scales_are_the_sizes_each_shows_best() -> None:
    assert gates([1, 2]) == [(SMALLEST, math.inf), (0.0, LARGEST / 2)]
    assert gates([0.5, 1, 2]) == [(64, math.inf), (32, 96), (0, 48)]
    assert gates([1]) == [(0.0, math.inf)]
