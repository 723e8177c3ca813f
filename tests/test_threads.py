from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
import torch

from utils.threads import batched, run_ahead, side_by_side


def test_results_come_in_order_whatever_takes_longest() -> None:
    def work(number: int) -> int:
        time.sleep(0.02 if number % 3 == 0 else 0)
        return number * number

    assert list(run_ahead(work, range(20), threads=4, ahead=6)) == [number * number for number in range(20)]


def test_no_more_is_begun_than_was_asked_for() -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for number in range(100):
            taken += 1
            yield number

    results = run_ahead(lambda number: number, items(), threads=2, ahead=5)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    assert taken <= 3 + 5
    results.close()    # type: ignore[attr-defined]
    assert taken <= 3 + 5


def test_error_comes_up_in_its_place() -> None:
    def work(number: int) -> int:
        if number == 2:
            raise ValueError("two")
        return number

    results = run_ahead(work, range(5), threads=2, ahead=3)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="two"):
        next(results)


def test_list_ends_where_it_is_full_or_heavy_enough() -> None:
    lists = batched([1, 1, 1, 9, 1, 1, 5], size=3, weight=lambda item: item, heaviest=9)
    assert list(lists) == [[1, 1, 1], [9], [1, 1, 5]]
    assert list(batched([], size=3, weight=lambda item: item, heaviest=9)) == []


def test_threads_side_by_side_have_a_core_each_and_leave_the_others_theirs() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        seen = side_by_side(lambda item: (item, torch.get_num_threads(), threading.current_thread().name), range(6))
        assert [item for item, _, _ in seen] == list(range(6))
        assert {cores for _, cores, _ in seen} == {1}
        assert threading.main_thread().name not in {name for _, _, name in seen}
        assert torch.get_num_threads() == 2
        alone = side_by_side(lambda _: torch.get_num_threads(), [0])
        assert alone == [2]
    finally:
        torch.set_num_threads(before)
