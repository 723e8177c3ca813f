"""What a run survives: kill -9, damaged checkpoints, full disks, losses that are no number."""

from __future__ import annotations

import random
import re
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT, RunScript
from test_train import arguments, equal, losses, weights

from data.dataset import FaceDataset, Sample
from utils.checkpoint import find_run, read_checkpoint
from utils.files import UNFINISHED


def start(*words: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(ROOT / "train.py"), *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_run_killed_at_random_moments_goes_on_each_time(drawn_set: Path, tmp_path: Path) -> None:
    every = 3
    words = ["train.epochs=60", f"train.checkpoint_every={every}", "train.log_every=1", f"data.val={drawn_set}", "train.ema=0.9"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    process, started = start(*arguments(drawn_set, whole, *words)), time.monotonic()
    while not (whole / "losses.csv").exists() and process.poll() is None:
        time.sleep(0.05)
    before_steps = time.monotonic() - started    # as long as this machine takes
    assert process.wait(timeout=1500) == 0
    steps = time.monotonic() - started - before_steps
    random.seed(0)
    kills = 0
    for _ in range(60):
        process = start(*arguments(drawn_set, killed, *words, "--resume"))
        try:
            timeout = before_steps * random.uniform(0.8, 1.2) + steps * random.uniform(0, 0.3)
            _, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            seen = len((killed / "losses.csv").read_text().splitlines()) - 1 if (killed / "losses.csv").exists() else 0
            process.kill()
            process.communicate()
            kills += 1
            checkpoint = find_run(killed, resume=True)
            assert seen - (checkpoint["step"] if checkpoint else 0) <= every
        else:
            assert process.returncode == 0, err
            break
    assert kills > 2
    assert losses(whole) == losses(killed)
    assert equal(weights(whole / "last.pth"), weights(killed / "last.pth"))
    assert equal(weights(whole / "best.pth"), weights(killed / "best.pth"))
    assert {path.name for path in killed.iterdir()} == {path.name for path in whole.iterdir()}


def test_checkpoint_damaged_anywhere_is_told_or_passed_over(drawn_set: Path, tmp_path: Path, run: RunScript) -> None:
    output = tmp_path / "run"
    run("train", *arguments(drawn_set, output, "train.max_steps=2", "train.checkpoint_every=1"))
    whole, model = (output / "last.pth").read_bytes(), weights(output / "last.pth")
    random.seed(1)
    cut = [whole[: random.randrange(len(whole))] for _ in range(15)]
    noise = [random.randbytes(size) for size in (0, 1, 10, 1000, len(whole))]
    flipped = [bytearray(whole) for _ in range(8)]
    for data in flipped:
        data[random.randrange(len(data))] ^= 0xFF
    fallbacks = 0
    for data in [*cut, *noise, *flipped]:
        (output / "last.pth").write_bytes(data)
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            checkpoint = find_run(output, resume=True)
        assert checkpoint is not None
        if warned:
            assert re.search(r"last\.pth: .*; going on from ", str(warned[0].message))
            assert checkpoint["step"] == 1
            fallbacks += 1
        else:    # a byte that means nothing, such as padding between the records
            assert data in flipped and equal(checkpoint["model"], model)
    assert fallbacks >= 20


def test_checkpoint_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (Path(str(tmp_path / "ran")),)    # type: ignore[return-value]

    torch.save({"model": Evil()}, tmp_path / "last.pth")
    with pytest.raises(ValueError, match=r"last.pth: refers to .*, which is not loaded because it could run code"):
        read_checkpoint(tmp_path / "last.pth")
    assert not (tmp_path / "ran").exists()


def fill_disk(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Let a file of that name find no space left when it is written."""
    make_folder = tempfile.mkdtemp

    def make_full_folder(*args: Any, **kwargs: Any) -> str:
        folder = make_folder(*args, **kwargs)
        Path(folder, name).symlink_to("/dev/full")
        return folder

    monkeypatch.setattr(tempfile, "mkdtemp", make_full_folder)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no device that is always full")
def test_full_disk_is_told_and_leaves_the_older_checkpoint(
    drawn_set: Path, tmp_path: Path, run: RunScript, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "run"
    run("train", *arguments(drawn_set, output, "train.max_steps=2", "train.checkpoint_every=1"))
    before = {name: (output / name).read_bytes() for name in ("last.pth", "previous.pth")}
    fill_disk(monkeypatch, "last.pth")
    result = run("train", *arguments(drawn_set, output, "--resume", "train.max_steps=3"))
    assert "last.pth: cannot be written: No space left on device" in result.complaint
    assert {name: (output / name).read_bytes() for name in before} == before


def test_run_removes_what_a_killed_one_left_half_written(
    drawn_set: Path, tmp_path: Path, run: RunScript
) -> None:
    left = tmp_path / "run" / f"{UNFINISHED}abc"
    left.mkdir(parents=True)
    (left / "last.pth").write_text("half")
    assert run("train", *arguments(drawn_set, tmp_path / "run", "train.max_steps=1")).code == 0
    assert not left.exists()


def poison(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Let the pixels of an image be no numbers, which no file can hold."""
    get = FaceDataset.__getitem__

    def get_poisoned(dataset: FaceDataset, key: tuple[int, int]) -> Sample:
        sample = get(dataset, key)
        pixels = sample.image.float()
        return sample._replace(image=pixels.fill_(np.nan) if sample.path.endswith(name) else pixels)

    monkeypatch.setattr(FaceDataset, "__getitem__", get_poisoned)


def test_image_that_is_no_number_stops_the_run_and_is_named(
    drawn_set: Path, tmp_path: Path, run: RunScript, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, "drawn_0007.jpg")
    result = run("train", *arguments(drawn_set, tmp_path / "run", "train.epochs=2", "train.checkpoint_every=1"))
    assert "the loss or its gradient is not finite at iteration " in result.complaint
    assert "(class nan, box " in result.complaint and "drawn_0007.jpg" in result.complaint
    listing = (tmp_path / "run" / "nonfinite.txt").read_text().splitlines()
    assert len(listing) == 5 and any(line.endswith("drawn_0007.jpg") for line in listing)
    for path in (tmp_path / "run").glob("*.pth"):
        assert all(bool(value.isfinite().all()) for value in weights(path).values())


def test_some_batches_that_are_no_number_may_be_passed_over(
    drawn_set: Path, tmp_path: Path, run: RunScript, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, "drawn_0007.jpg")
    words = ["train.epochs=3", "train.log_every=1", "train.ema=0.9"]
    result = run("train", *arguments(drawn_set, tmp_path / "run", *words, "train.skip_nonfinite=3"))
    assert result.code == 0
    assert result.err.count("is passed over: its loss is not finite (class nan") == 3
    last = read_checkpoint(tmp_path / "run" / "last.pth")
    assert (last["step"], last["skipped"]) == (9, 3)
    assert all(bool(value.isfinite().all()) for value in [*last["model"].values(), *last["average"].values()])
    result = run("train", *arguments(drawn_set, tmp_path / "fewer", *words, "train.skip_nonfinite=2"))
    assert result.code == 2 and "drawn_0007.jpg" in result.err.splitlines()[-1]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no device that is always full")
@pytest.mark.parametrize("name", ["losses.csv", "loss_curves.png", "config.yaml"])
def test_full_disk_is_told_with_the_file(
    drawn_set: Path, tmp_path: Path, run: RunScript, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    output = tmp_path / "run"
    fill_disk(monkeypatch, name)
    result = run("train", *arguments(drawn_set, output, "train.max_steps=1", "train.log_every=1"))
    assert result.complaint == f"train.py: {output / name}: cannot be written: No space left on device"
