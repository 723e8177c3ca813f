"""Penn-Fudan (Wang et al., ACCV 2007): photos of pedestrians in PNGImages/, and in PedMasks/ pictures that colour each of them."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from data.records import ABSENT_POINTS, Fault, RecordBuilder
from utils.decoder_messages import catch_messages
from utils.images import read_file

PHOTOS, MASKS = "PNGImages", "PedMasks"
PART = re.compile(r"(.+):(train|test)")    # of a folder, by the split that seed and HELD_OUT make
HELD_OUT = 50    # photos for testing, as in torchvision's tutorial
Regions = NDArray[np.int16]    # (H,W), which object of a photo a pixel shows: 0 none, 1 the first, and so on


def split_path(path: str) -> tuple[str, str | None]:
    """The folder of a set, and which part of it is meant: train, test, or None for all of it."""
    found = PART.fullmatch(path)
    return (found[1], found[2]) if found and not Path(path).exists() else (path, None)


def is_penn_fudan(folder: Path) -> bool:
    """Whether a folder holds such a set."""
    return (folder / MASKS).is_dir()


def read_penn_fudan(
    folder: Path, builder: RecordBuilder, *, images: str | None, part: str | None, seed: int
) -> None:
    """The people of each photo in `images`, or else PNGImages/, with the box of the pixels that their mask gives them.

    Shuffled by the seed the last 50 photos are for testing and the others for training. ValueError where there are no masks.
    """
    if not is_penn_fudan(folder):
        raise ValueError(f"{folder}: expected a folder with {PHOTOS}/ and {MASKS}/, as Penn-Fudan has them, found none")
    masks = sorted((folder / MASKS).glob("*_mask.png"))
    if not masks:
        raise ValueError(f"{folder / MASKS}: expected masks such as FudanPed00001_mask.png, found none")
    if part is not None:
        order = np.random.default_rng(seed).permutation(len(masks))
        masks = [masks[index] for index in (order[-HELD_OUT:] if part == "test" else order[:-HELD_OUT])]
        if not masks:
            raise ValueError(f"{folder}: expected more than the {HELD_OUT} photos that are for testing, found {len(order)}")
    for path in masks:
        try:
            regions = read_regions(path)
        except ValueError as error:
            builder.complain(Fault(str(path), 1, "unreadable mask", str(error).removeprefix(f"{path}: ")))
            continue
        height, width = regions.shape
        name = path.name.removesuffix("_mask.png") + ".png"
        photos = images or str(folder / PHOTOS)
        builder.add_image(name, source=str(path), line=1, size=(width, height), regions=str(path), folder=photos)
        for x1, y1, x2, y2 in boxes_of(regions).tolist():
            builder.add_face([x1, y1, x2 - x1, y2 - y1, *ABSENT_POINTS, float("nan")], 1, given=4)


def read_regions(path: str | Path) -> Regions:
    """The regions (H,W) that a mask gives objects, numbered from 1 by their colours; black is none of them.

    FileNotFoundError or ValueError that names the file.
    """
    encoded = read_file(path)
    mask = None
    if encoded.size:
        mask, _ = catch_messages(lambda: cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED))
    if mask is None:
        raise ValueError(f"{path}: not a readable mask")
    colours = mask.astype(np.int64)
    if mask.ndim == 3:
        colours = colours[..., :3] @ np.array([1, 256, 65536])
    values, numbers = np.unique(colours, return_inverse=True)
    if len(values) > np.iinfo(np.int16).max:
        raise ValueError(f"{path}: expected a mask with a colour for each person, found {len(values):,} colours")
    numbers = numbers.reshape(colours.shape)
    return (numbers if values[0] == 0 else numbers + 1).astype(np.int16)


def boxes_of(regions: Regions) -> NDArray[np.float64]:
    """The box (N,4) xyxy around each region, in pixels."""
    count = int(regions.max(initial=0))
    boxes = np.zeros((count, 4))
    for number in range(1, count + 1):
        rows, columns = np.nonzero(regions == number)
        boxes[number - 1] = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    return boxes
