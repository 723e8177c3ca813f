"""A labelled set of images: as training samples, and as it is."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from config import AugmentationConfig
from data.augment import Faces, augment, clip
from data.labels import FaceRecord, image_path, read_labels
from utils.arrays import FloatArray, Image
from utils.images import read_image
from utils.structures import Photo, Target


class Sample(NamedTuple):
    """One training image (3,S,S) uint8, its faces in pixels of it, its file, what was wrong with images that it stands in for, and
    how many of its boxes reached beyond the photo."""

    image: Tensor
    target: Target
    path: str
    faults: tuple[str, ...]
    outside: int


class FaceDataset(Dataset[Sample]):
    """The images of some label files as one set.

    `dataset[epoch, index]` is a training sample: all of its randomness comes from (seed, epoch, index), so that it depends neither
    on the worker that makes it nor on where a run was resumed. `image(index)` and `target(index)` are the photo and its faces as
    labelled. `imgs_path` and `words` show the set as a list of paths and, for each image, rows of the numbers in the file.

    Boxes without area are dropped, with one warning that gives their number. Boxes that reach beyond their photo are clipped to it
    in a sample, and dropped where nothing is left; each sample says how many.
    """

    def __init__(
        self,
        labels: Sequence[str | Path],
        *,
        images: str | Path | None = None,
        size: int = 640,
        augmentation: AugmentationConfig = AugmentationConfig(),
        fill: tuple[float, float, float] = (0, 0, 0),
        seed: int = 0,
    ):
        """`images` is the folder of all images, or None for images/ beside each label file; `fill` (BGR) pads crops to squares."""
        self.records: list[FaceRecord] = [record for path in labels for record in read_labels(path)]
        self.paths = [image_path(record, images) for record in self.records]
        self.size = size
        self.augmentation = augmentation
        self.fill = fill
        self.seed = seed
        without_area = sum(int((~record.has_area).sum()) for record in self.records)
        if without_area:
            warnings.warn(f"{', '.join(map(str, labels))}: {without_area} boxes without area are left out", stacklevel=2)

    def __len__(self) -> int:
        return len(self.records)

    @cached_property
    def imgs_path(self) -> list[str]:
        """The path of each image."""
        return [str(path) for path in self.paths]

    @cached_property
    def words(self) -> list[list[list[float]]]:
        """For each image the numbers of each of its lines, as they stand in the file."""
        return [[row.tolist() for row in record.words] for record in self.records]

    def as_rows(self, index: int | None = None) -> FloatArray:
        """Faces as rows (N,15): x1 y1 x2 y2, five points, 1 where all five are valid, else -1; of one image, or of all in turn."""
        records = self.records if index is None else [self.records[index]]
        return np.concatenate([record.as_rows() for record in records])

    def check_readable(self) -> None:
        """ValueError that names the first image where none of them can be read; stops at the first that can."""
        self._readable(0)

    def image(self, index: int) -> Image:
        """The photo (H,W,3) BGR in the raster that its labels are for; FileNotFoundError or ValueError that names its file."""
        return read_image(self.paths[index], turn=False)

    def target(self, index: int) -> Target:
        """The faces of a photo that have an area, in pixels of it; a box may leave the photo, as labelled."""
        return _to_target(self._faces(index))

    def photos(self) -> Iterator[Photo]:
        """Every photo as it is with its faces as labelled; one whose file cannot be read comes without its pixels."""
        for index, path in enumerate(self.paths):
            image, fault = None, None
            try:
                image = self.image(index)
            except (FileNotFoundError, ValueError) as error:
                fault = str(error)
            yield Photo(str(path), image, self.target(index), fault)

    def __getitem__(self, key: tuple[int, int] | int) -> Sample:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        rng = np.random.default_rng((self.seed, epoch, index))
        image, index, faults = self._readable(index)
        height, width = image.shape[:2]
        labelled = self._faces(index)
        faces = clip(labelled, width, height)
        beyond = (labelled.boxes[:, :2] < 0) | (labelled.boxes[:, 2:] > (width, height))    # (N, 2)
        outside = 0 if faults else int(beyond.any(axis=1).sum())    # a stand-in counts its own in its own place
        image, faces = augment(image, faces, size=self.size, config=self.augmentation, fill=self.fill, rng=rng)
        pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
        return Sample(pixels, _to_target(faces), str(self.paths[index]), faults, outside)

    def _readable(self, index: int) -> tuple[Image, int, tuple[str, ...]]:
        """The photo, or the next one that can be read: a damaged file must not stop a run of days, nor shift the others' labels."""
        faults: list[str] = []
        for other in [*range(index, len(self)), *range(index)]:
            try:
                return self.image(other), other, tuple(faults)
            except (FileNotFoundError, ValueError) as error:
                faults.append(str(error))
        raise ValueError(f"no image readable of {len(self)}: {faults[0]}; data.images names their folder")

    def _faces(self, index: int) -> Faces:
        record = self.records[index]
        return Faces(record.boxes, record.landmarks, record.has_landmarks, record.ignore).where(record.has_area)


def _to_target(faces: Faces) -> Target:
    return Target(
        boxes=torch.from_numpy(np.ascontiguousarray(faces.boxes)),
        landmarks=torch.from_numpy(np.ascontiguousarray(faces.landmarks)),
        has_landmarks=torch.from_numpy(faces.has_landmarks),
        ignore=torch.from_numpy(faces.ignore),
    )
