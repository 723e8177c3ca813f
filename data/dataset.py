"""A labelled set of images: as training samples, and as it is."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from config import AugmentationConfig, DataConfig
from data.augment import View, augment, draw_borders, ignore_smaller, mosaic
from data.crops import Faces, choose_window, clip
from data.labels import advise_on_images, image_folders, read_labels
from data.penn_fudan import Regions, read_regions
from data.records import FaceRecord, face_rows, find_repeated, has_area, image_path
from utils.arrays import FloatArray, Image
from utils.image_header import UPRIGHT, ImageHeader, parse_header
from utils.images import JPEG_START, decode_image, read_file, read_image
from utils.memory import keep_freed_memory
from utils.structures import Photo, Target
from utils.threads import run_ahead

HEADER_BYTES = 2**16    # where nearly every JPEG has its size
READERS = 4    # threads that read photos
REDUCTIONS = (8, 4, 2)    # that a JPEG can be decoded at
# Images tried in place of one that cannot be read: enough for a set of which 2 % can be read, and few
# enough to end soon if the folder has gone.
REPLACEMENTS = 1000


class Sample(NamedTuple):
    """One training image (3,S,S) uint8, its faces in pixels of it, its file, what was wrong with the
    image asked for if this one replaces it, and how many of its boxes reached beyond the photo."""

    image: Tensor
    target: Target
    path: str
    faults: tuple[str, ...]
    outside: int


class FaceTable:
    """All faces of a set in a few arrays. As tensors they are shared with worker processes, however those are started; a list of
    objects would be copied into each of them, page by page, as its reference counts change."""

    def __init__(self, records: Sequence[FaceRecord]):
        counts = [len(record) for record in records]
        self._paths = _Texts([os.fsencode(image_path(record)) for record in records])
        self._names = _Texts([os.fsencode(Path(record.path)) for record in records])
        self._regions = _Texts([os.fsencode(record.regions or "") for record in records])
        self._first_face = torch.tensor([0, *counts]).cumsum(0)    # (I + 1,)
        self._boxes = _concatenate([record.boxes for record in records])    # (F, 4)
        self._landmarks = _concatenate([record.landmarks for record in records])    # (F, 5, 2)
        self._has_landmarks = _concatenate([record.has_landmarks for record in records])    # (F, 5)
        self._ignore = _concatenate([record.ignore for record in records])    # (F,)
        self._rows = _concatenate([record.rows for record in records])    # (F, 20)

    def __len__(self) -> int:
        return len(self._first_face) - 1

    @property
    def face_count(self) -> int:
        return len(self._boxes)

    @cached_property
    def num_faces(self) -> int:
        """How many faces have an area and are not ignored."""
        return int((has_area(self._boxes.numpy()) & ~self._ignore.numpy()).sum())

    def path(self, index: int) -> str:
        """The file of an image."""
        return os.fsdecode(self._paths[index])

    def regions(self, index: int) -> str | None:
        """The picture that says which face of an image a pixel shows, where there is one."""
        return os.fsdecode(self._regions[index]) or None

    def name(self, index: int) -> str:
        """The file as the label names it."""
        return os.fsdecode(self._names[index])

    def faces(self, index: int) -> Faces:
        """The faces of an image as labelled, in pixels of it."""
        start, end = self._first_face.numpy()[index : index + 2]
        arrays = (self._boxes, self._landmarks, self._has_landmarks, self._ignore)
        return Faces.labelled(*(array.numpy()[start:end] for array in arrays))

    def rows(self, index: int) -> NDArray[np.float64]:
        """The faces (N,20) of an image as a RetinaFace label has them."""
        start, end = self._first_face.numpy()[index : index + 2]
        return self._rows.numpy()[start:end]


class _Texts:
    """Byte strings in one tensor."""

    def __init__(self, texts: Sequence[bytes]):
        self._first = torch.tensor([0, *map(len, texts)]).cumsum(0)    # (I + 1,)
        self._bytes = torch.frombuffer(bytearray(b"".join([*texts, b"\0"])), dtype=torch.uint8)    # which may not be empty

    def __getitem__(self, index: int) -> bytes:
        start, end = self._first.numpy()[index : index + 2]
        return self._bytes.numpy()[start:end].tobytes()


def _concatenate(arrays: Sequence[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.concatenate(arrays))


class FaceDataset(Dataset[Sample]):
    """The images of some label files as one set.

    `dataset[epoch, index]` is a training sample: all of its randomness comes from (seed, epoch, index), so that it depends neither
    on the worker that makes it nor on where a run was resumed. `image(index)` and `target(index)` are the photo and its faces as
    labelled. `imgs_path` and `words` show the set as a list of paths and, for each image, rows of numbers as in a RetinaFace label.
    With `config.repeat` an epoch has several samples of an image, each with its own randomness.
    `len` counts samples, and `num_images` counts images, to which all other indices refer.

    Boxes without area are dropped, with one warning that gives their number. Boxes that reach beyond their photo are clipped to it
    in a sample, and dropped where nothing is left; each sample says how many.
    """

    def __init__(
        self,
        labels: Sequence[str | Path],
        config: DataConfig = DataConfig(),
        *,
        augmentation: AugmentationConfig = AugmentationConfig(),
        fill: tuple[float, float, float] = (0, 0, 0),
        seed: int = 0,
    ):
        """`config` says how labels are read and how large a sample is; `fill` (BGR) is what a crop shows beyond its photo."""
        folders = image_folders(labels, config.images)
        files = [
            read_labels(path, config=config, images=images)
            for path, images in zip(labels, folders, strict=True)
        ]
        records = [record for of_file in files for record in of_file]
        self.table = FaceTable(records)
        self._image_of = repeat_images([len(of_file) for of_file in files], config.repeat)    # (S,)
        self._labels, self._folders = labels, config.images
        self.size = config.size
        self.augmentation = augmentation
        self.fill = fill
        self.seed = seed
        keep_freed_memory()
        if repeated := find_repeated(records):
            warnings.warn(
                f"{len(repeated):,} images are listed twice with different faces, such as {repeated[0].place}: "
                "the faces of one place count as background in the other; analyze_data.py --fix joins them",
                stacklevel=2,
            )
        without_area = sum(int((~record.has_area).sum()) for record in records)
        if without_area:
            warnings.warn(f"{', '.join(map(str, labels))}: {without_area} boxes without area are left out", stacklevel=2)

    def __len__(self) -> int:
        return len(self._image_of)

    @property
    def num_images(self) -> int:
        """How many images there are."""
        return len(self.table)

    @property
    def num_faces(self) -> int:
        """How many faces there are to learn or to find: those that have an area and are not ignored."""
        return self.table.num_faces

    @cached_property
    def imgs_path(self) -> list[str]:
        """The path of each image."""
        return [self.table.path(index) for index in range(self.num_images)]

    @cached_property
    def words(self) -> list[list[list[float]]]:
        """For each image the numbers of each of its faces: 4, 5, 19 or 20, as in a RetinaFace label."""
        return [[row[~np.isnan(row)].tolist() for row in self.table.rows(index)] for index in range(self.num_images)]

    def as_rows(self, index: int | None = None) -> FloatArray:
        """Faces as rows (N,15): x1 y1 x2 y2, five points, 1 where all five are valid, else -1; of one image, or of all in turn."""
        of_images = [self.table.faces(each) for each in (range(self.num_images) if index is None else [index])]
        return np.concatenate([face_rows(faces.boxes, faces.landmarks, faces.has_landmarks) for faces in of_images])

    def check_readable(self) -> None:
        """ValueError that names the first image where none of them can be read; stops at the first that can."""
        faults = []
        for index in range(self.num_images):
            try:
                self.image(index)
            except (FileNotFoundError, ValueError) as error:
                faults.append(str(error))
            else:
                return
        raise ValueError(f"no image readable of {self.num_images}: {faults[0]}; {advise_on_images(self._labels, self._folders)}")

    def image(self, index: int) -> Image:
        """The photo (H,W,3) BGR in the raster that its labels are for; FileNotFoundError or ValueError that names its file."""
        return read_image(self.table.path(index), turn=False)

    def target(self, index: int) -> Target:
        """The faces of a photo that have an area, in pixels of it; a box may leave the photo, as labelled."""
        return _to_target(self._faces(index), self._regions(index))

    def photos(self, indices: Iterable[int] | None = None) -> Iterator[Photo]:
        """Photos as they are with their faces as labelled, all or some of them; one whose file cannot be read comes without its pixels.

        Some threads read ahead.
        """
        return run_ahead(self._photo, range(self.num_images) if indices is None else indices, threads=READERS, ahead=2 * READERS)

    def _photo(self, index: int) -> Photo:
        image, regions, fault = None, None, None
        try:
            photo = self.image(index)
            regions = self._regions(index, of=photo.shape[:2])
            image = photo
        except (FileNotFoundError, ValueError) as error:
            fault = str(error)
        target = _to_target(self._faces(index), regions)
        return Photo(self.table.path(index), self.table.name(index), image, target, fault)

    def __getitem__(self, key: tuple[int, int] | int) -> Sample:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        rng = np.random.default_rng((self.seed, epoch, index))
        image = int(self._image_of[index])
        is_mosaic = rng.random() < self.augmentation.mosaic
        found = self._mosaic(image, rng) if is_mosaic else self._readable_view(image, rng, size=self.size)
        view = found.view
        outside = found.outside if index < self.num_images else 0    # counted once an image
        # Rows, columns, channels in memory, which is the order that convolutions are fastest in.
        pixels = torch.from_numpy(np.ascontiguousarray(view.image)).permute(2, 0, 1)
        return Sample(pixels, _to_target(view.faces, view.regions), self.table.path(found.photo), found.faults, outside)

    def _mosaic(self, index: int, rng: np.random.Generator) -> _Found:
        """Several photos in one picture, each in a cell of a grid; the one asked for in one of them."""
        cells = int(rng.choice(self.augmentation.mosaic_grids))
        columns, rows = draw_borders(self.size, cells, rng), draw_borders(self.size, cells, rng)
        sizes = [max(width, height) for height in np.diff(rows) for width in np.diff(columns)]
        others = map(int, self._image_of[rng.integers(len(self), size=len(sizes) - 1)])
        parts = [self._readable_view(each, rng, size=int(size)) for each, size in zip((index, *others), sizes, strict=True)]
        view = mosaic([part.view for part in parts], columns=columns, rows=rows, min_visible=self.augmentation.min_visible)
        view = view._replace(faces=ignore_smaller(view.faces, self.augmentation.ignore_smaller))    # cut at a border they may be small now
        # The other photos are reported where they are the ones asked for.
        return _Found(view, parts[0].photo, parts[0].faults, parts[0].outside)

    def _readable_view(self, index: int, rng: np.random.Generator, *, size: int) -> _Found:
        """Return a view of the photo, `size` pixels a side, or of another drawn at random if it cannot be read.

        A damaged file must not stop a run of days, nor shift labels. A replacement at random spreads
        a gap of missing files over the whole set; the next image would take the place of all of them.
        """
        try:
            damage: list[str] = []
            view, outside = self._view(index, rng, size=size, damage=damage)
            return _Found(view, index, tuple(damage), outside)
        except (FileNotFoundError, ValueError) as error:
            problem = str(error)
        samples = rng.choice(len(self), size=min(len(self), REPLACEMENTS), replace=False)
        others = self._image_of[samples]
        for other in map(int, others):
            if other == index:
                continue
            try:
                view, _ = self._view(other, rng, size=size, damage=[])    # its boxes are counted where it is the one asked for
            except (FileNotFoundError, ValueError):    # reported where it is the one asked for
                continue
            return _Found(view, other, (problem,), 0)
        raise ValueError(f"no image readable of {len(others)}: {problem}; {advise_on_images(self._labels, self._folders)}")

    def _view(
        self, index: int, rng: np.random.Generator, *, size: int, damage: list[str]
    ) -> tuple[View, int]:
        """Return a random view of a photo with its faces, and how many of its boxes reach beyond it.

        A line about a photo that is damaged, and used all the same, goes to `damage`.
        """
        path = self.table.path(index)
        encoded = read_file(path)
        # A JPEG's header tells what part of it to show; of a crop of twice the size wanted every other pixel is enough to decode.
        header = parse_header(encoded[:HEADER_BYTES].tobytes()) if encoded[:2].tobytes() == JPEG_START else None
        image = None
        if header is None:
            image = decode_image(encoded, path, turn=False, problems=damage)
            header = ImageHeader(image.shape[1], image.shape[0], UPRIGHT)
        width, height, _ = header
        labelled = self._faces(index)
        beyond = (labelled.boxes[:, :2] < 0) | (labelled.boxes[:, 2:] > (width, height))    # (N, 2)
        faces = clip(labelled, width, height)
        window = choose_window(width, height, self._to_hold(faces, rng), scales=self.augmentation.crop_scales, rng=rng)
        reduction = 1
        if image is None:
            reduction = next((factor for factor in REDUCTIONS if factor * size <= window.width), 1)
            image = decode_image(
                encoded, path, turn=False, reduction=reduction, problems=damage
            )
            if image.shape[:2] != (-(-height // reduction), -(-width // reduction)):
                raise ValueError(f"{path}: not a readable image (its header says {width} x {height} pixels, and it has others)")
        view = augment(
            image,
            faces,
            window,
            size=size,
            config=self.augmentation,
            fill=self.fill,
            rng=rng,
            reduction=reduction,
            regions=self._regions(index, of=(height, width)),
        )
        return view, int(beyond.any(axis=1).sum())

    def _regions(self, index: int, *, of: tuple[int, int] | None = None) -> Regions | None:
        """Which face each pixel shows, where that is known; ValueError where the photo, `of` so many rows and columns, has others."""
        path = self.table.regions(index)
        regions = read_regions(path) if path else None
        if regions is not None and of not in (None, regions.shape):
            found, expected = (f"{width} x {height}" for height, width in (regions.shape, of))
            raise ValueError(f"{path}: expected a mask of {expected} pixels as its photo has, found {found}")
        return regions

    def _to_hold(self, faces: Faces, rng: np.random.Generator) -> Faces:
        """The faces of which a crop must hold one."""
        anywhere = self.augmentation.anywhere and rng.random() < self.augmentation.anywhere
        return faces.where(np.zeros(len(faces.boxes), bool)) if anywhere else faces

    def _faces(self, index: int) -> Faces:
        faces = self.table.faces(index)
        return faces.where(has_area(faces.boxes))


def repeat_images(counts: Sequence[int], repeat: Sequence[int]) -> Tensor:
    """Return which image each sample of an epoch shows, (S,) int64.

    `counts` are the numbers of images of the label files, `repeat` how often each file is used; empty
    means once. The first samples are all images in turn, then those of files used at least twice
    follow, and so on. ValueError if `repeat` has another length than `counts`.
    """
    if not repeat:
        return torch.arange(sum(counts))
    if len(repeat) != len(counts):
        raise ValueError(
            f"data.repeat: expected {len(counts)} numbers, one for each label file, found {len(repeat)}"
        )
    files = torch.arange(sum(counts)).split(list(counts))
    rounds = [
        images
        for used in range(max(repeat))
        for images, times in zip(files, repeat, strict=True)
        if times > used
    ]
    return torch.cat(rounds)


class _Found(NamedTuple):
    """What is seen, the index of the photo, and the rest of a Sample."""

    view: View
    photo: int
    faults: tuple[str, ...]
    outside: int


def _to_target(faces: Faces, regions: Regions | None) -> Target:
    return Target(
        boxes=torch.from_numpy(np.ascontiguousarray(faces.boxes)),
        landmarks=torch.from_numpy(np.ascontiguousarray(faces.landmarks)),
        has_landmarks=torch.from_numpy(faces.has_landmarks),
        ignore=torch.from_numpy(faces.ignore),
        regions=None if regions is None else torch.from_numpy(_renumber(regions, faces.number)),
    )


def _renumber(regions: Regions, numbers: NDArray[np.int16]) -> Regions:
    """The regions with 1 for the face of the first of the numbers (N,), and so on, and 0 for those of no face."""
    places = np.zeros(max(int(regions.max(initial=0)), int(numbers.max(initial=0))) + 1, np.int16)
    places[numbers] = np.arange(1, len(numbers) + 1)
    return places[regions]
