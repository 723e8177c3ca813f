"""Images that cannot be read: what takes their place in training, and what is said of them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from config import AugmentationConfig, DataConfig
from data.dataset import REPLACEMENTS, FaceDataset
from utils.images import write_image


def make_set(folder: Path, *, readable: list[str], missing: list[str]) -> Path:
    """A label of images of which the missing ones come first."""
    for name in readable:
        write_image(folder / "images" / name, np.full((24, 32, 3), 90, np.uint8))
    label = folder / "label.txt"
    label.write_text("".join(f"# {name}\n5 5 12 12\n" for name in [*missing, *readable]))
    return label


def gap(folder: Path) -> FaceDataset:
    names = [f"{number:03d}.png" for number in range(200)]
    label = make_set(folder, readable=names[100:], missing=names[:100])
    return FaceDataset([label], DataConfig(size=32))


def test_no_image_takes_the_place_of_a_whole_gap(tmp_path: Path) -> None:
    dataset = gap(tmp_path)
    samples = [dataset[epoch, index] for epoch in range(5) for index in range(len(dataset))]
    paths = Counter(sample.path for sample in samples)
    assert len(paths) == 100
    assert max(paths.values()) <= 5 + 20    # once an epoch, and as often again by chance on average
    for sample, index in zip(samples, [*range(200)] * 5, strict=True):
        missing = f"{index:03d}.png" if index < 100 else None
        assert len(sample.faults) == (missing is not None)
        assert missing is None or f"{missing}: no such image" in sample.faults[0]


def test_replacement_depends_on_seed_epoch_and_index_alone(tmp_path: Path) -> None:
    one, other = gap(tmp_path), FaceDataset([tmp_path / "label.txt"], DataConfig(size=32))
    other[0, 7]    # what was asked for before makes no difference
    assert one[3, 5].path == other[3, 5].path
    assert torch.equal(one[3, 5].image, other[3, 5].image)
    seeds = [
        FaceDataset([tmp_path / "label.txt"], DataConfig(size=32), seed=seed) for seed in range(8)
    ]
    assert len({dataset[3, 5].path for dataset in seeds}) > 1
    assert len({one[epoch, 5].path for epoch in range(8)}) > 1


def test_mosaic_reports_the_image_asked_for_only(tmp_path: Path) -> None:
    gap(tmp_path)
    augmentation = AugmentationConfig(mosaic=1.0, mosaic_grids=(3,))
    dataset = FaceDataset([tmp_path / "label.txt"], DataConfig(size=96), augmentation=augmentation)
    assert [len(dataset[0, index].faults) for index in (0, 50, 100, 150)] == [1, 1, 0, 0]


def test_single_readable_image_is_found(tmp_path: Path) -> None:
    missing = [f"{number:03d}.png" for number in range(300)]
    dataset = FaceDataset(
        [make_set(tmp_path, readable=["x.png"], missing=missing)], DataConfig(size=32)
    )
    assert {Path(dataset[0, index].path).name for index in range(0, 301, 20)} == {"x.png"}


class Attempts:
    """Counts the files that are opened in a set whose images have all gone."""

    def __init__(self, folder: Path, images: int, monkeypatch: pytest.MonkeyPatch):
        names = [f"{number:06d}.png" for number in range(images)]
        self.dataset = FaceDataset(
            [make_set(folder, readable=[], missing=names)], DataConfig(size=32)
        )
        self.paths: list[str] = []
        monkeypatch.setattr("data.dataset.read_file", self.read)

    def read(self, path: str) -> Any:
        self.paths.append(path)
        raise FileNotFoundError(f"{path}: no such image")


@pytest.mark.parametrize("images", [3, 5000])
def test_set_whose_images_have_gone_is_given_up_soon(
    images: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = Attempts(tmp_path, images, monkeypatch)
    tries = min(images, REPLACEMENTS)
    message = (
        f"no image readable of {tries}: .*000001.png: no such image; tried .*"
        "data.images names their folder"
    )
    with pytest.raises(ValueError, match=message):
        attempts.dataset[0, 1]
    assert len(attempts.paths) <= tries + 1
    assert len(set(attempts.paths)) >= tries


def test_work_for_a_sample_does_not_grow_with_the_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A set that only claims to be a million times larger takes as much memory for a sample."""
    import tracemalloc

    label = make_set(tmp_path, readable=["1.png", "2.png"], missing=[])
    peaks = []
    for length in (2, 2_000_000):
        dataset = FaceDataset([label], DataConfig(size=32))
        monkeypatch.setattr(FaceDataset, "__len__", lambda self, length=length: length)
        dataset[0, 1]
        tracemalloc.start()
        dataset[1, 1]
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 100_000    # a list of all indices takes 16 MB
