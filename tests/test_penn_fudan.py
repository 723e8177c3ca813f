from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import RunScript

from config import AugmentationConfig, DataConfig
from data.augment import View, mosaic, show_regions
from data.crops import Window
from data.dataset import FaceDataset
from data.drawn_people import draw_people
from data.labels import read_labels
from data.loader import FaceLoader
from data.penn_fudan import boxes_of, read_regions
from utils.images import write_image


def make_set(folder: Path, masks: dict[str, np.ndarray], *, photo_channels: int = 3) -> Path:
    for name, mask in masks.items():
        write_image(folder / "PNGImages" / f"{name}.png", np.full((*mask.shape[:2], photo_channels), 90, np.uint8))
        write_image(folder / "PedMasks" / f"{name}_mask.png", mask)
    return folder


def two_people() -> np.ndarray:
    """A mask (30,40) of someone in columns 5 to 9, and someone else in columns 20 to 29 with a gap in the middle."""
    mask = np.zeros((30, 40), np.uint8)
    mask[10:25, 5:10] = 1
    mask[2:28, 20:23] = mask[4:28, 27:30] = 2
    return mask


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """55 drawn pictures of people, of 64 x 48 pixels; do not write to it."""
    return draw_people(tmp_path_factory.mktemp("people"), images=55, size=64, seed=0)


def test_each_colour_is_someone_with_the_box_of_its_pixels(tmp_path: Path) -> None:
    make_set(tmp_path, {"FudanPed1": two_people()})
    (record,) = read_labels(tmp_path)
    assert record.path == "FudanPed1.png" and record.size == (40, 30)
    assert record.boxes.tolist() == [[5, 10, 10, 25], [20, 2, 30, 28]]
    assert not record.has_landmarks.any()


@pytest.mark.parametrize("channels", [3, 4])
def test_masks_in_colours_and_photos_with_alpha_are_read(tmp_path: Path, channels: int) -> None:
    numbers = two_people()
    colours = np.zeros((30, 40, 3), np.uint8)
    colours[numbers == 1], colours[numbers == 2] = (0, 0, 200), (0, 180, 0)
    make_set(tmp_path, {"a": colours}, photo_channels=channels)
    dataset = FaceDataset([tmp_path])
    assert dataset.image(0).shape == (30, 40, 3)
    target = dataset.target(0)
    assert sorted(target.boxes.tolist()) == [[5, 10, 10, 25], [20, 2, 30, 28]]
    masks = target.masks().numpy()
    for box, mask in zip(target.boxes.tolist(), masks, strict=True):
        assert boxes_of(mask.astype(np.int16)).tolist() == [box]
    assert (masks.any(axis=0) == (numbers > 0)).all()


def test_last_fifty_of_the_shuffled_photos_are_for_testing(people: Path) -> None:
    names = {part: [record.path for record in read_labels(f"{people}:{part}")] for part in ("train", "test")}
    assert len(names["train"]) == 5 and len(names["test"]) == 50
    assert sorted(names["train"] + names["test"]) == [record.path for record in read_labels(people)]
    other = [record.path for record in read_labels(f"{people}:test", config=DataConfig(split_seed=1))]
    assert len(other) == 50 and set(other) != set(names["test"])


def test_drawn_people_have_boxes_and_masks_that_agree(people: Path) -> None:
    again = draw_people(people.parent / "again", images=2, size=64, seed=0)
    for record in read_labels(people):
        assert record.regions is not None
        regions = read_regions(record.regions)
        assert 1 <= len(record) == regions.max() <= 3
        assert (regions > 0).mean() < 0.6
    assert (again / "PedMasks" / "drawn_0001_mask.png").read_bytes() == (people / "PedMasks" / "drawn_0001_mask.png").read_bytes()


def test_training_images_show_each_mask_where_its_box_is(people: Path) -> None:
    config = AugmentationConfig(mosaic=0.5, mosaic_grids=(2, 3), crop_scales=(0.6, 1.0, 1.6), min_visible=0.3)
    dataset = FaceDataset([people], DataConfig(size=96), augmentation=config)
    shown = 0
    for index in range(40):
        target = dataset[1, index].target
        assert target.regions is not None and target.regions.shape == (96, 96) and int(target.regions.max()) <= len(target.boxes)
        for box, mask, ignore in zip(target.boxes, target.masks(), target.ignore, strict=True):
            if ignore or not mask.any():
                continue
            around = torch.from_numpy(boxes_of(mask.numpy().astype(np.int16))[0]).float()
            assert (around - box).abs().max() < 12    # who is partly hidden shows less than the box, cut by a crop
            shown += 1
    assert shown > 40


def test_regions_follow_the_window_and_pixels_outside_show_nobody() -> None:
    regions = two_people().astype(np.int16)
    assert (show_regions(regions, Window(0, 0, 40, 40), size=40)[:30] == regions).all()
    shown = show_regions(regions, Window(-20, -20, 80, 80), size=160)
    assert shown.shape == (160, 160)
    assert (shown[40:100:2, 40:120:2] == regions).all() and not shown[:40].any()


def test_mosaic_keeps_people_of_all_parts_apart(people: Path) -> None:
    dataset = FaceDataset([people], DataConfig(size=64), augmentation=AugmentationConfig(crop_scales=(1.0,)))
    parts = [dataset._readable_view(index, np.random.default_rng(index), size=64).view for index in range(4)]
    whole = mosaic(parts, columns=[0, 64, 128], rows=[0, 64, 128], min_visible=0)
    assert whole.regions is not None
    assert sorted(set(np.unique(whole.regions)) - {0}) == sorted(set(whole.faces.number.tolist()))
    plain = View(parts[0].image, parts[0].faces)
    beside = mosaic([plain, *parts[1:]], columns=[0, 64, 128], rows=[0, 64, 128], min_visible=0)
    assert beside.regions is not None and not beside.regions[:64, :64].any()


def test_batches_bring_masks_whatever_the_workers(people: Path) -> None:
    dataset = FaceDataset([people], DataConfig(size=64))
    alone, shared = (list(FaceLoader(dataset, batch_size=16, workers=workers).epoch(0)) for workers in (0, 2))
    for one, other in zip(alone, shared, strict=True):
        for a, b in zip(one.targets, other.targets, strict=True):
            assert a.regions is not None and b.regions is not None and torch.equal(a.regions, b.regions)


def test_masks_where_there_are_none_is_a_value_error(drawn_set: Path) -> None:
    with pytest.raises(ValueError, match="expected to know which pixels show a face, found boxes only"):
        FaceDataset([drawn_set]).target(0).masks()


def test_bad_sets_are_named(tmp_path: Path, run: RunScript) -> None:
    (tmp_path / "empty" / "PedMasks").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"PedMasks: expected masks such as FudanPed00001_mask.png, found none"):
        read_labels(tmp_path / "empty")
    make_set(tmp_path / "few", {"a": two_people()})
    with pytest.raises(ValueError, match=r"few: expected more than the 50 photos that are for testing, found 1"):
        read_labels(f"{tmp_path / 'few'}:train")
    (tmp_path / "few" / "PedMasks" / "b_mask.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"few/PedMasks/b_mask.png:1: not a readable mask"):
        read_labels(tmp_path / "few")


def test_command_draws_people_and_the_analysis_reads_them(tmp_path: Path, run: RunScript, capfd: pytest.CaptureFixture[str]) -> None:
    from data.synthetic import main

    assert main([str(tmp_path / "p"), "--people", "--images", "3", "--size", "64"]) == 0
    assert sorted(path.name for path in (tmp_path / "p").iterdir()) == ["PNGImages", "PedMasks"]
    assert cv2.imread(str(tmp_path / "p" / "PNGImages" / "drawn_0000.png")).shape == (48, 64, 3)
    assert run("analyze_data", tmp_path / "p", "--output", tmp_path / "statistics").code == 0
    assert run("analyze_data", tmp_path / "p", "--check").code == 0


def test_mask_of_another_size_than_its_photo_is_left_out_by_name(tmp_path: Path) -> None:
    make_set(tmp_path, {"a": two_people(), "b": two_people()})
    write_image(tmp_path / "PNGImages" / "a.png", np.zeros((60, 80, 3), np.uint8))
    dataset = FaceDataset([tmp_path], DataConfig(size=32))
    sample = dataset[0, 0]
    message = f"{tmp_path / 'PedMasks' / 'a_mask.png'}: expected a mask of 80 x 60 pixels as its photo has, found 40 x 30"
    assert sample.faults == (message,) and sample.path.endswith("b.png")
    first, second = dataset.photos()
    assert first.image is None and first.fault == message and second.image is not None


@pytest.mark.parametrize(("path", "format_name"), [("{0}:train", "auto"), ("{0}", "pennfudan"), ("{0}/label.txt", "pennfudan")])
def test_set_that_is_none_says_what_was_expected(tmp_path: Path, path: str, format_name: str) -> None:
    config = DataConfig(format=format_name)    # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"expected a folder with PNGImages/ and PedMasks/"):
        read_labels(path.format(tmp_path), config=config)
