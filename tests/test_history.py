from __future__ import annotations

import csv
from pathlib import Path

import pytest

from utils.history import History, LossMeter
from utils.images import read_image


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def run_steps(history: History, steps: range, *, every: int = 3) -> None:
    for step in steps:
        history.add({"class": float(step), "box": 1.0})
        if step % every == 0:
            history.end_row(epoch=1, step=step, lr=0.1)


def test_meter_gives_the_means_since_it_began() -> None:
    meter = LossMeter()
    for value in (1.0, 2.0, 6.0):
        meter.add({"a": value, "b": 1.0})
    assert meter.means() == {"a": 3.0, "b": 1.0, "total": 4.0}


def test_rows_hold_means_and_the_last_one_may_be_partial(tmp_path: Path) -> None:
    history = History(tmp_path, ["class", "box"])
    history.start()
    run_steps(history, range(1, 8))
    history.finish(epoch=1, step=7, lr=0.1)
    assert [(row["step"], row["class"], row["total"]) for row in rows(tmp_path / "losses.csv")] == [
        ("3", "2.0", "3.0"), ("6", "5.0", "6.0"), ("7", "7.0", "8.0"),
    ]  # fmt: skip
    assert read_image(tmp_path / "loss_curves.png", turn=False).shape[2] == 3


def test_medians_are_those_of_the_last_twenty_steps() -> None:
    history = History(None, ["class", "box"])
    assert history.medians() == {}
    run_steps(history, range(1, 42))
    assert history.medians() == {"class": 31.5, "box": 1.0, "total": 32.5}
    history.end_epoch({"epoch": 1})
    assert history.medians() == {}


def test_resumed_history_keeps_columns_that_it_no_longer_measures(tmp_path: Path) -> None:
    history = History(tmp_path, ["class"], figures=("ap50", "coco_100_AP"))
    history.end_epoch({"epoch": 1, "ap50": 0.5, "coco_100_AP": 0.25})
    resumed = History(tmp_path, ["class"], history.state())
    resumed.start()
    resumed.end_epoch({"epoch": 2, "ap50": 0.75})
    saved = [(row["ap50"], row["coco_100_AP"]) for row in rows(tmp_path / "history.csv")]
    assert saved == [("0.5", "0.25"), ("0.75", "")]


def test_resumed_history_ends_with_the_rows_of_one_that_was_not_stopped(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    history = History(whole, ["class", "box"])
    history.start()
    run_steps(history, range(1, 11))
    history.finish(epoch=1, step=10, lr=0.1)

    first = History(parts, ["class", "box"])
    first.start()
    run_steps(first, range(1, 6))
    state = first.state()
    first.finish(epoch=1, step=5, lr=0.1)
    assert [row["step"] for row in rows(parts / "losses.csv")] == ["3", "5"]
    second = History(parts, ["class", "box"], state)
    second.start()
    run_steps(second, range(6, 11))
    second.finish(epoch=1, step=10, lr=0.1)
    assert (parts / "losses.csv").read_text() == (whole / "losses.csv").read_text()


def test_epoch_row_leaves_out_what_was_not_measured(tmp_path: Path) -> None:
    history = History(tmp_path, ["class"])
    history.start()
    history.add({"class": 2.0})
    history.end_epoch({"epoch": 1, "step": 1, "lr": 0.1, **history.since_epoch.means(), "seconds": 5.0})
    (row,) = rows(tmp_path / "history.csv")
    assert row == {"epoch": "1", "step": "1", "lr": "0.1", "class": "2.0", "total": "2.0", "ap50": "", "seconds": "5.0"}
    assert history.since_epoch.count == 0


def test_unknown_column_is_refused(tmp_path: Path) -> None:
    history = History(tmp_path, ["class"])
    history.start()
    with pytest.raises(ValueError, match="colour"):
        history.end_epoch({"epoch": 1, "colour": 3})
