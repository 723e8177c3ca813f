from __future__ import annotations

import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from conftest import ROOT

from config import AugmentationConfig, DataConfig
from data.dataset import FaceDataset
from data.loader import Batch, EpochSampler, FaceLoader
from data.synthetic import draw_set
from utils.images import write_image
from utils.structures import Target


def equal(a: Target, b: Target) -> bool:
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in ("boxes", "landmarks", "has_landmarks", "ignore"))


def batches(dataset: FaceDataset, *, workers: int, first: int = 0, epoch: int = 1) -> list[Batch]:
    return list(FaceLoader(dataset, batch_size=5, workers=workers).epoch(epoch, first=first))


def same(a: list[Batch], b: list[Batch]) -> bool:
    return len(a) == len(b) and all(
        torch.equal(one.images, other.images) and one.paths == other.paths and all(map(equal, one.targets, other.targets))
        for one, other in zip(a, b, strict=True)
    )


def test_batches_depend_neither_on_workers_nor_on_where_they_start(drawn_set: Path) -> None:
    dataset = FaceDataset([drawn_set], DataConfig(size=64))
    alone = batches(dataset, workers=0)
    assert [len(batch.paths) for batch in alone] == [5, 5, 2]
    assert same(alone, batches(dataset, workers=2))
    assert same(alone[1:], batches(dataset, workers=0, first=1))
    assert same(alone, batches(FaceDataset([drawn_set], DataConfig(size=64)), workers=0))


def epoch_order(sampler: EpochSampler, epoch: int) -> tuple[int, ...]:
    sampler.start(epoch=epoch)
    return tuple(index for batch in sampler for _, index in batch)


def test_epochs_and_seeds_differ(drawn_set: Path) -> None:
    dataset = FaceDataset([drawn_set], DataConfig(size=64))
    assert not torch.equal(dataset[0, 1].image, dataset[1, 1].image)
    assert not torch.equal(dataset[0, 1].image, FaceDataset([drawn_set], DataConfig(size=64), seed=1)[0, 1].image)
    assert torch.equal(dataset[0, 1].image, dataset[1].image)
    orders = {epoch_order(EpochSampler(12, batch_size=5, seed=seed), epoch) for seed in (0, 1) for epoch in (0, 1)}
    assert len(orders) == 4
    assert all(sorted(order) == list(range(12)) for order in orders)


def test_batch_is_uint8_and_has_a_target_for_each_image(drawn_set: Path) -> None:
    batch = batches(FaceDataset([drawn_set], DataConfig(size=64)), workers=0)[0]
    assert batch.images.shape == (5, 3, 64, 64) and batch.images.dtype == torch.uint8
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert len(batch.targets) == 5
    for target in batch.targets:
        count = len(target.boxes)
        assert target.boxes.shape == (count, 4) and target.boxes.dtype == torch.float32
        assert target.landmarks.shape == (count, 5, 2) and target.landmarks.dtype == torch.float32
        assert target.has_landmarks.shape == (count, 5) and target.has_landmarks.dtype == torch.bool
        assert target.ignore.shape == (count,) and target.ignore.dtype == torch.bool


def make_set(folder: Path, text: str, images: list[str]) -> Path:
    for number, name in enumerate(images):
        write_image(folder / "images" / name, np.full((40, 60, 3), 10 * number + 10, np.uint8))
    label = folder / "label.txt"
    label.write_text(text)
    return label


def test_several_files_are_one_set_and_faceless_images_keep_their_place(tmp_path: Path) -> None:
    one = make_set(tmp_path / "one", "# 1.png\n# 2.png\n5 5 20 20\n", ["1.png", "2.png"])
    two = make_set(tmp_path / "two", "# 1.png\n1 1 9 9\n2 2 9 9\n", ["1.png"])
    dataset = FaceDataset([one, two], DataConfig(size=32))
    assert [len(dataset.target(index).boxes) for index in range(3)] == [0, 1, 2]
    assert dataset.imgs_path == [str(tmp_path / name) for name in ("one/images/1.png", "one/images/2.png", "two/images/1.png")]
    assert dataset.words == [[], [[5, 5, 20, 20]], [[1, 1, 9, 9], [2, 2, 9, 9]]]
    assert dataset.as_rows().shape == (3, 15)
    assert dataset.as_rows(2)[:, :4].tolist() == [[1, 1, 10, 10], [2, 2, 11, 11]]
    assert [len(target.boxes) for target in batches(dataset, workers=0)[0].targets].count(0) >= 1


def test_batch_of_faceless_images_is_a_batch(tmp_path: Path) -> None:
    label = make_set(tmp_path, "# 1.png\n# 2.png\n", ["1.png", "2.png"])
    (batch,) = batches(FaceDataset([label], DataConfig(size=32)), workers=0)
    assert [target.boxes.shape for target in batch.targets] == [(0, 4), (0, 4)]


def test_boxes_without_area_are_dropped_with_one_warning_and_boxes_outside_clipped(tmp_path: Path) -> None:
    label = make_set(tmp_path, "# 1.png\n0 0 0 0\n5 5 -2 4\n50 30 20 20\n", ["1.png"])
    with pytest.warns(UserWarning, match="2 boxes without area are left out") as caught:
        dataset = FaceDataset([label], DataConfig(size=32))
    assert len(caught) == 1
    assert dataset.target(0).boxes.tolist() == [[50, 30, 70, 50]]
    for epoch in range(20):
        boxes = dataset[epoch, 0].target.boxes
        assert len(boxes) == 1
        assert float(boxes.min()) >= 0 and float(boxes.max()) <= 32.001
        assert dataset[epoch, 0].outside == 1


def test_unreadable_image_is_named_and_replaced_by_another(tmp_path: Path) -> None:
    label = make_set(tmp_path, "# 1.png\n1 1 9 9\n# 2.png\n2 2 9 9\n", ["1.png", "2.png"])
    (tmp_path / "images" / "2.png").write_bytes(b"no picture")
    dataset = FaceDataset([label], DataConfig(size=32))
    sample = dataset[0, 1]
    assert sample.path.endswith("1.png")
    assert len(sample.faults) == 1 and "2.png: not a readable image" in sample.faults[0]
    (batch,) = batches(dataset, workers=0)
    assert batch.faults == list(sample.faults)
    photos = list(dataset.photos())
    assert photos[0].image is not None and photos[0].fault is None
    assert photos[1].image is None and photos[1].fault == sample.faults[0]


def test_set_without_a_readable_image_says_so(tmp_path: Path) -> None:
    label = make_set(tmp_path, "# 1.png\n# 2.png\n", ["1.png"])
    shutil.rmtree(tmp_path / "images")
    with pytest.raises(ValueError, match="no image readable of 2: .*1.png: no such image; tried .*data.images names their folder"):
        FaceDataset([label], DataConfig(size=32)).check_readable()


def test_index_beyond_the_set_is_an_index_error(drawn_set: Path) -> None:
    with pytest.raises(IndexError, match="sample 12 of 12"):
        FaceDataset([drawn_set])[0, 12]


def test_crops_anywhere_need_not_hold_a_face(tmp_path: Path) -> None:
    label = make_set(tmp_path, "# 1.png\n2 2 8 8\n", ["1.png"])
    counts = {}
    for chance in (0.0, 0.5):
        config = AugmentationConfig(crop_scales=(0.5,), anywhere=chance)
        dataset = FaceDataset([label], DataConfig(size=64), augmentation=config)
        counts[chance] = [len(dataset[epoch, 0].target.boxes) for epoch in range(40)]
    assert counts[0.0] == [1] * 40
    assert 0 < sum(counts[0.5]) < 40


def mosaics() -> AugmentationConfig:
    return AugmentationConfig(mosaic=0.5, mosaic_grids=(2, 3), crop_scales=(0.5, 1.0, 2.0), min_visible=0.3, ignore_smaller=6)


def test_mosaics_too_depend_neither_on_workers_nor_on_where_they_start(drawn_set: Path) -> None:
    dataset = FaceDataset([drawn_set], DataConfig(size=64), augmentation=mosaics())
    alone = batches(dataset, workers=0)
    assert same(alone, batches(dataset, workers=2))
    assert same(alone[2:], batches(dataset, workers=0, first=2))
    assert any(target.ignore.any() for batch in alone for target in batch.targets)


def test_workers_go_on_through_epochs_and_an_epoch_may_be_left(drawn_set: Path) -> None:
    dataset = FaceDataset([drawn_set], DataConfig(size=64))
    loader = FaceLoader(dataset, batch_size=5, workers=2)
    assert len(loader) == 3
    assert next(loader.epoch(0)).images.shape == (5, 3, 64, 64)    # and no further
    assert same(list(loader.epoch(1)), batches(dataset, workers=0, epoch=1))
    assert same(list(loader.epoch(2, first=1)), batches(dataset, workers=0, epoch=2, first=1))


def test_processes_share_each_batch(drawn_set: Path) -> None:
    dataset = FaceDataset([drawn_set], DataConfig(size=64))
    whole = sorted(path for batch in batches(dataset, workers=0) for path in batch.paths)
    parts = [list(FaceLoader(dataset, batch_size=5 * 2, workers=0, rank=rank, world_size=2).epoch(1)) for rank in (0, 1)]
    assert [len(part) for part in parts] == [2, 2]
    assert whole == sorted(path for part in parts for batch in part for path in batch.paths)
    with pytest.raises(ValueError, match=r"train.batch_size: expected a multiple of the 2 processes, found 5"):
        FaceLoader(dataset, batch_size=5, workers=0, world_size=2)


@pytest.mark.parametrize("count", [9, 10, 13, 15])
def test_all_processes_take_as_many_steps_and_together_those_of_one(count: int) -> None:
    samplers = [EpochSampler(count, batch_size=8, seed=0, rank=rank, world_size=4) for rank in range(4)]
    orders = [[[index for _, index in batch] for batch in sampler] for sampler in samplers]
    alone = [[index for _, index in batch] for batch in EpochSampler(count, batch_size=8, seed=0)]
    assert [len(order) for order in orders] == [2] * 4
    for step, batch in enumerate(alone):
        together = [index for order in orders for index in order[step]]
        assert set(together) >= set(batch)
        assert len(together) == max(4, len(batch))    # every process has an image at least
    assert all(order[1] for order in orders)


def test_epoch_of_one_image_serves_all_processes() -> None:
    assert [list(EpochSampler(1, batch_size=8, seed=0, rank=rank, world_size=4)) for rank in range(4)] == [[[(0, 0)]]] * 4


def read_shared(dataset: FaceDataset, answers: Any) -> None:
    answers.put(bool(dataset.table._boxes.is_shared()) and len(dataset[0, 0].target.boxes) >= 0)


@pytest.mark.slow
def test_faces_are_shared_with_workers_that_are_not_forked(drawn_set: Path) -> None:
    context = torch.multiprocessing.get_context("spawn")
    answers = context.Queue()
    worker = context.Process(target=read_shared, args=(FaceDataset([drawn_set], DataConfig(size=64)), answers))
    worker.start()
    assert answers.get(timeout=300)
    worker.join()


@pytest.mark.slow
def test_program_with_workers_left_over_ends(drawn_set: Path) -> None:
    code = f"""
from config import DataConfig
from data.dataset import FaceDataset
from data.loader import FaceLoader
loader = FaceLoader(FaceDataset(["{drawn_set}"], DataConfig(size=64)), batch_size=4, workers=2)
batches = loader.epoch(0)
next(batches)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_large_photo_gives_the_same_sample_however_it_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = np.random.default_rng(0).integers(0, 256, (12, 16, 3)).astype(np.uint8)
    write_image(tmp_path / "images" / "1.jpg", np.asarray(cv2.resize(small, (1600, 1200), interpolation=cv2.INTER_CUBIC), np.uint8))
    (tmp_path / "label.txt").write_text("# 1.jpg\n300 300 400 500\n")
    augmentation = AugmentationConfig(distortion=False, crop_scales=(0.7, 1.0))
    dataset = FaceDataset([tmp_path / "label.txt"], DataConfig(size=96), augmentation=augmentation)
    reduced = [dataset[epoch, 0] for epoch in range(12)]
    monkeypatch.setattr("data.dataset.REDUCTIONS", ())
    for epoch, sample in enumerate(reduced):
        whole = dataset[epoch, 0]
        assert torch.allclose(sample.target.boxes, whole.target.boxes, atol=1)    # of 96: a crop ends between two of the pixels left
        assert (sample.image.float() - whole.image.float()).abs().mean() < 6


def test_photo_of_another_size_than_its_header_says_is_a_fault(tmp_path: Path) -> None:
    label = make_set(tmp_path, "# 1.jpg\n1 1 9 9\n# 2.jpg\n2 2 9 9\n", ["1.jpg", "2.jpg"])
    data = bytearray((tmp_path / "images" / "1.jpg").read_bytes())
    at = data.index(b"\xff\xc0") + 5    # the height, of 40
    data[at : at + 2] = (0).to_bytes(2, "big")
    (tmp_path / "images" / "1.jpg").write_bytes(bytes(data))
    sample = FaceDataset([label], DataConfig(size=32))[0, 0]
    assert sample.path.endswith("2.jpg") and len(sample.faults) == 1 and "1.jpg: " in sample.faults[0]


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_large_photo_of_any_kind_and_odd_size_makes_a_sample(suffix: str, tmp_path: Path) -> None:
    write_image(tmp_path / "images" / f"1{suffix}", np.full((603, 801, 3), 90, np.uint8))
    (tmp_path / "label.txt").write_text(f"# 1{suffix}\n600 400 201 203\n")
    dataset = FaceDataset([tmp_path / "label.txt"], DataConfig(size=64), augmentation=AugmentationConfig(crop_scales=(1.0,)))
    for epoch in range(8):
        sample = dataset[epoch, 0]
        assert sample.faults == () and len(sample.target.boxes) == 1 and sample.image.shape == (3, 64, 64)


def test_labels_of_any_format_make_a_set(tmp_path: Path) -> None:
    label = draw_set(tmp_path, images=4, size=96, coco=True)
    dataset = FaceDataset([label], DataConfig(size=64))
    assert len(dataset) == 4 and dataset.table.face_count == len(dataset.as_rows())
    assert {len(row) for of_image in dataset.words for row in of_image} == {19}
    assert FaceDataset([label], DataConfig(size=64, ignore_smaller=1000)).target(0).ignore.all()


@pytest.mark.parametrize("side", [64, 1024])
def test_images_are_not_turned_by_exif_for_their_labels(side: int, tmp_path: Path) -> None:
    """Labels are for the image as stored, at full size and where a large JPEG is decoded smaller."""
    image = np.zeros((side // 2, side, 3), np.uint8)
    image[:, : side // 2] = 255    # white on the left as stored
    write_image(tmp_path / "images" / "1.jpg", image)
    encoded = (tmp_path / "images" / "1.jpg").read_bytes()
    tag = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
    header = b"\xff\xe1" + (len(tag) + 2).to_bytes(2, "big") + tag
    (tmp_path / "images" / "1.jpg").write_bytes(encoded[:2] + header + encoded[2:])
    (tmp_path / "label.txt").write_text(f"# 1.jpg\n1 1 {side - 2} {side // 2 - 2}\n")
    augmentation = AugmentationConfig(distortion=False, crop_scales=(2.0,), flip=0)
    dataset = FaceDataset([tmp_path / "label.txt"], DataConfig(size=64), augmentation=augmentation)
    assert dataset.image(0).shape == (side // 2, side, 3)
    photo = next(iter(dataset.photos()))
    assert photo.image is not None and photo.image.shape == (side // 2, side, 3)
    sample = dataset[0, 0]
    x1, y1, x2, y2 = sample.target.boxes[0].round().int().tolist()
    middle = (x1 + x2) // 2
    assert sample.image[:, y1 + 2 : y2 - 2, x1 + 2 : middle - 2].float().mean() > 250
    assert sample.image[:, y1 + 2 : y2 - 2, middle + 2 : x2 - 2].float().mean() < 5


def test_image_listed_twice_with_different_faces_is_warned_of(tmp_path: Path) -> None:
    label = tmp_path / "label.txt"
    label.write_text("# a.jpg\n1 1 9 9\n# b.jpg\n1 1 9 9\n# a.jpg\n20 20 9 9\n# b.jpg\n1 1 9 9\n")
    with pytest.warns(UserWarning, match=r"^1 images are listed twice with different faces, such as .*label.txt:5: "):
        FaceDataset([label])


def test_label_files_are_used_as_often_as_asked(tmp_path: Path) -> None:
    labels = [
        draw_set(tmp_path / f"set{number}", images=count, size=64, seed=number)
        for number, count in enumerate((2, 3, 1))
    ]
    plain = FaceDataset(labels, DataConfig(size=64))
    dataset = FaceDataset(labels, DataConfig(size=64, repeat=(1, 3, 2)))
    assert (len(plain), len(dataset), dataset.num_images) == (6, 13, 6)
    assert dataset.imgs_path == plain.imgs_path and len(list(dataset.photos())) == 6
    counts = Counter(Path(dataset[0, index].path).parts[-3] for index in range(len(dataset)))
    assert counts == {"set0": 2, "set1": 9, "set2": 2}
    for index in range(6):    # the first uses are what they would be without repeats
        assert torch.equal(dataset[0, index].image, plain[0, index].image)
    again = [index for index in range(6, 13) if dataset[0, index].path == dataset[0, 2].path]
    assert len(again) == 2
    assert not torch.equal(dataset[0, again[0]].image, dataset[0, 2].image)
    with pytest.raises(IndexError, match="sample 13 of 13"):
        dataset[0, 13]


def test_repeats_go_with_the_label_files(drawn_set: Path) -> None:
    for repeat in ((2, 1), (1, 1, 1)):
        with pytest.raises(ValueError, match=r"data.repeat: expected 1 numbers, one for each label file, found \d"):
            FaceDataset([drawn_set], DataConfig(repeat=repeat))


def test_box_beyond_its_image_is_counted_once_an_epoch(tmp_path: Path) -> None:
    label = draw_set(tmp_path, images=1, size=64, seed=0)
    label.write_text(label.read_text() + "-5 -5 20 20\n")
    dataset = FaceDataset([label], DataConfig(size=64, repeat=(3,)))
    assert [dataset[0, index].outside for index in range(3)] == [1, 0, 0]
