"""What the run does about steps whose loss or gradient is not finite."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch

from detector.engine import Step
from detector.guard import OVERFLOWS_IN_A_ROW, Guard


def step(number: int, *, finite: bool = True, overflowed: bool = False, scale: float = 1.0) -> Step:
    losses = {"class": torch.tensor(0.5 if finite else float("nan"))}
    return Step(number, losses, torch.tensor(finite), torch.tensor(overflowed), torch.tensor(scale))


def collect(guard: Guard, steps: list[Step]) -> int:
    for each in steps:
        guard.add(each, [f"{each.number}.jpg"])
    return len(guard.collect())


def test_overflows_of_float16_are_no_error_while_some_steps_succeed(tmp_path: Path) -> None:
    guard = Guard(allowed=0, skipped=0, listing=tmp_path / "nonfinite.txt")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for start in range(1, 100, OVERFLOWS_IN_A_ROW):
            numbers = range(start, start + OVERFLOWS_IN_A_ROW)
            steps = [step(number, overflowed=number != start) for number in numbers]
            assert collect(guard, steps) == OVERFLOWS_IN_A_ROW
    assert not (tmp_path / "nonfinite.txt").exists()


def test_gradients_that_overflow_for_good_end_the_run(tmp_path: Path) -> None:
    guard = Guard(allowed=1000, skipped=0, listing=tmp_path / "nonfinite.txt")
    collect(guard, [step(n, overflowed=True) for n in range(1, 8)])    # read in several portions
    complaint = r"not finite at iteration 20 \(class 0.5; .*overflowed 20 times.*20.jpg.*float32"
    with pytest.raises(ValueError, match=complaint):
        collect(guard, [step(n, overflowed=True) for n in range(8, 30)])
    assert "iteration 20: class 0.5\n    20.jpg\n" in (tmp_path / "nonfinite.txt").read_text()


def test_scale_that_has_fallen_to_nothing_ends_the_run(tmp_path: Path) -> None:
    """Overflows with a sound step now and then halve it too, until all gradients round to 0."""
    guard = Guard(allowed=0, skipped=0, listing=tmp_path / "nonfinite.txt")
    steps = [step(n, overflowed=n % 2 == 0, scale=2.0 ** -(n // 2)) for n in range(60)]
    assert collect(guard, steps[:30]) == 30
    complaint = r"iteration 40 .*overflowed 1 times in a row, scale 9.5e-07\), on 40.jpg"
    with pytest.raises(ValueError, match=complaint):
        collect(guard, steps[30:])


def test_allowed_steps_are_listed_and_the_next_one_ends_the_run(tmp_path: Path) -> None:
    guard = Guard(allowed=1, skipped=0, listing=tmp_path / "nonfinite.txt")
    with pytest.warns(UserWarning, match="iteration 1 is passed over"):
        collect(guard, [step(1, finite=False), step(2)])
    with pytest.raises(ValueError, match=r"at iteration 3 \(class nan\), on 3.jpg"):
        collect(guard, [step(3, finite=False)])
    assert guard.skipped == 2
