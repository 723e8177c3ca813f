from __future__ import annotations

from pathlib import Path

import pytest
import torch

from utils.checkpoint import load_tensors, read_checkpoint, write_checkpoint


def test_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    saved = {"step": 3, "rows": [{"a": 0.5}], "weights": {"w": torch.arange(3)}, "none": None}
    write_checkpoint(tmp_path / "last.pth", saved)
    read = read_checkpoint(tmp_path / "last.pth")
    assert torch.equal(read.pop("weights")["w"], torch.arange(3))
    assert read == {"step": 3, "rows": [{"a": 0.5}], "none": None}


def test_the_one_before_is_kept_and_nothing_else_is_left(tmp_path: Path) -> None:
    last, previous = tmp_path / "last.pth", tmp_path / "previous.pth"
    for step in range(3):
        write_checkpoint(last, {"step": step}, keep=previous)
    assert (read_checkpoint(last)["step"], read_checkpoint(previous)["step"]) == (2, 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.pth", "previous.pth"]


def test_failed_write_leaves_the_older_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    last, previous = tmp_path / "last.pth", tmp_path / "previous.pth"
    write_checkpoint(last, {"step": 1}, keep=previous)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space left"):
        write_checkpoint(last, {"step": 2}, keep=previous)
    assert read_checkpoint(last)["step"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["last.pth"]


def test_weights_are_found_under_state_dict_and_behind_module(tmp_path: Path) -> None:
    torch.save({"state_dict": {"module.a.weight": torch.ones(2)}, "epoch": 3}, tmp_path / "w.tar")
    assert list(load_tensors(tmp_path / "w.tar")) == ["a.weight"]
    torch.save({"epoch": 3}, tmp_path / "w.tar")
    with pytest.raises(ValueError, match="holds no weights: expected tensors by name, found epoch"):
        load_tensors(tmp_path / "w.tar")
