"""From the name of an image in a label file to the image file, the same for all label formats.

Needs no PyTorch.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from utils.files import files_below
from utils.images import IMAGE_SUFFIXES

SPLITS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "valid": ("valid", "val", "validation"),
    "validation": ("validation", "val", "valid"),
    "test": ("test",),
    "default": ("default",),
}
SPLIT = re.compile(rf"(?<![a-z])({'|'.join(sorted(SPLITS, key=len, reverse=True))})(\d{{4}})?(?![a-z\d])")
# Where label files lie, and where their images are in the same place of another tree.
MIRRORED = {"labels": ("images",), "annotations": ("images", "JPEGImages"), "Annotations": ("JPEGImages", "images")}
SAMPLE = 20    # names that tell which folder holds the images of a label file


class ImageFolder:
    """The files below a folder. Each sub-folder is listed once, when a name in it is first wanted:
    looking files up one by one takes minutes on a network drive."""

    def __init__(self, root: str | Path):
        self.root = Path(root)
        self._names: dict[str, frozenset[str]] = {}
        self._similar: dict[str, dict[str, list[str]]] = {}

    def find(self, name: str, *, other: str = "") -> list[str]:
        """Return the files that a label's `name` may mean, relative to the folder: one, none, or several.

        In turn: the name as it is; with / for \\; without leading folders that `root` ends with; the
        image of that name in another case, or of that stem where the name has no image suffix; and
        the image whose stem is `other`. A name that leads out of the folder means no file.
        """
        path = posixpath.normpath(name.replace("\\", "/"))
        if path.startswith(("/", "../")) or path == ".." or re.match("[A-Za-z]:", path):
            return []
        if self._has(name):
            return [name]
        spellings = list(self._spellings(path))
        for spelling in spellings:
            if self._has(spelling):
                return [spelling]
        for spelling in [*spellings, *([other] if other else [])]:
            if found := self._find_similar(spelling):
                return found
        return []

    def _spellings(self, path: str) -> Iterator[str]:
        yield path
        parts = path.split("/")
        tail = self.root.absolute().parts
        for count in range(1, len(parts)):
            if tuple(parts[:count]) == tail[-count:]:
                yield "/".join(parts[count:])

    def _has(self, name: str) -> bool:
        folder, base = posixpath.split(name)
        return base in self._list(folder)

    def _list(self, folder: str) -> frozenset[str]:
        if folder not in self._names:
            try:
                with os.scandir(self.root / folder) as entries:
                    self._names[folder] = frozenset(each.name for each in entries if not each.is_dir())
            except (OSError, ValueError):
                self._names[folder] = frozenset()
        return self._names[folder]

    def _find_similar(self, name: str) -> list[str]:
        folder, base = posixpath.split(name)
        if folder not in self._similar:
            by_key: dict[str, list[str]] = {}
            for each in sorted(self._list(folder)):
                stem, suffix = os.path.splitext(each)
                if suffix.lower() in IMAGE_SUFFIXES and not each.startswith("."):
                    for key in (each.lower(), stem.lower()):
                        by_key.setdefault(key, []).append(each)
            self._similar[folder] = by_key
        found = self._similar[folder].get(base.lower(), [])
        return [posixpath.join(folder, each) for each in found]

    def images(self) -> list[str]:
        """Return the names of all image files below the folder, hidden ones left out."""
        files = files_below(self.root, IMAGE_SUFFIXES)
        return [file.relative_to(self.root).as_posix() for file in files]


def find_image_folder(label: Path, names: Sequence[str]) -> ImageFolder:
    """Return the folder with the images of a label file, or of a folder of label files.

    Of `candidate_folders` it is the first that has most of the first images; images/ beside the
    label file where none has any.
    """
    sample = names[:SAMPLE]
    best, most = ImageFolder(default_folder(label)), 0
    for candidate in candidate_folders(label):
        folder = ImageFolder(candidate)
        count = sum(bool(folder.find(name)) for name in sample)
        if count > most:
            best, most = folder, count
        if count == len(sample):
            break
    return best


def own_folders(label: Path) -> list[Path]:
    """Return the folders whose images are all meant by a folder of label files."""
    return [*_mirrored_folders(label), label / "images", label]


def default_folder(label: Path) -> Path:
    """Return the folder that is expected to hold a label's images where none of them is found."""
    mirrored = list(_mirrored_folders(label)) if label.is_dir() else []
    return mirrored[0] if mirrored else (label if label.is_dir() else label.parent) / "images"


def candidate_folders(label: Path) -> list[Path]:
    """Return where the images of a label file, or of a folder of label files, may lie, likeliest first.

    `<split>` stands for train, val, test and the like in the name of the label or of its folder.
    """
    here = label if label.is_dir() else label.parent
    up = Path(os.path.normpath(here / ".."))
    splits = _splits(label)
    candidates = [
        *_mirrored_folders(label),
        here / "images",
        here,
        *_parents_of_mirrored(label),
        up / "images",
        *(up / "images" / split for split in splits),
        *(up / split for split in splits),
        here / "data",
        up / "JPEGImages",
        *(up / f"WIDER_{split}" / "images" for split in splits),
        *(here / "images" / split for split in splits),
        here / "JPEGImages",
        *(here / split for split in splits),
        *(here / f"WIDER_{split}" / "images" for split in splits),
        up / "data",
        up,
    ]
    return list(dict.fromkeys(candidates))


def _mirrored_folders(label: Path) -> Iterator[Path]:
    """Yield images/train for labels/train, JPEGImages for Annotations, and the like."""
    if not label.is_dir():
        return
    parts = label.parts if set(label.parts) & set(MIRRORED) else label.absolute().parts
    for at in reversed(range(len(parts))):
        if parts[at] in MIRRORED:
            yield from (Path(*parts[:at], name, *parts[at + 1 :]) for name in MIRRORED[parts[at]])
            return


def _parents_of_mirrored(label: Path) -> list[Path]:
    """images/ for labels/train, whose images may lie in one folder with those of labels/val."""
    return [Path(os.path.normpath(folder / "..")) for folder in _mirrored_folders(label)]


def _splits(label: Path) -> list[str]:
    splits = []
    for text in (label.name if label.is_dir() else label.stem, label.absolute().parent.name):
        for found in SPLIT.finditer(text.lower()):
            splits += [found[0], *SPLITS[found[1]]]
    return list(dict.fromkeys(splits))
