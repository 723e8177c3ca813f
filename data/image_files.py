"""From the name of an image in a label file to the image file, the same for all label formats.

Needs no PyTorch.
"""

from __future__ import annotations

import os
import posixpath
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from utils.files import files_below
from utils.images import IMAGE_SUFFIXES

SPLITS = {
    "train": ("train", "training", "train2017"),
    "val": ("val", "valid", "validation", "val2017"),
    "valid": ("valid", "val", "validation"),
    "validation": ("validation", "val", "valid"),
    "test": ("test",),
    "default": ("default",),
}
SPLIT = re.compile(rf"(?<![a-z])({'|'.join(sorted(SPLITS, key=len, reverse=True))})(\d{{4}})?(?![a-z\d])")
# Where label files lie, and where their images are in the same place of another tree.
MIRRORED = {"labels": ("images",), "annotations": ("images", "JPEGImages"), "Annotations": ("JPEGImages", "images")}
SAMPLE = 20    # names that tell which folder holds the images of a label file
WIDE_SAMPLE = 200    # names from all of the label where none of the first ones is found
ROOT = re.compile(r"/+|[A-Za-z]:/*|[A-Za-z][A-Za-z0-9+.-]+:/+")    # how absolute paths begin: a slash, a drive, a URL
# Label Studio names an uploaded a.jpg ab12cd34-a.jpg, and its tools name one that they fetched ab12cd34__a.jpg.
UPLOAD = re.compile(r"[0-9a-f]{8}(-|__)(?=.)")


class ImageFolder:
    """The files below a folder. Each sub-folder is listed once, when a name in it is first wanted:
    looking files up one by one takes minutes on a network drive."""

    def __init__(self, root: str | Path):
        self.root = Path(root)
        self._listed: dict[str, tuple[frozenset[str], frozenset[str]]] = {}
        self._similar: dict[str, tuple[dict[str, list[str]], dict[str, list[str]]]] = {}

    def find(self, name: str, *, other: str = "") -> list[str]:
        """Return the files that a label's `name` may mean, relative to the folder: one, none, or several.

        In turn: the name as it is; with / for \\; without leading folders that are not in this one;
        the image of that name in another case, or of that stem where the name has no image suffix;
        all that without the prefix of Label Studio's uploads; and the image whose stem is `other`.
        The files are all below the folder, wherever the name leads.
        """
        if self.has(name):
            path = posixpath.normpath(name)
            return [path if self._has(path) else _normalize(name)]
        folder, base = posixpath.split(_normalize(name))
        paths = [posixpath.join(folder, base)]
        if UPLOAD.match(base):
            paths.append(posixpath.join(folder, UPLOAD.sub("", base, count=1)))
        for path in paths:
            spellings = list(self._spellings(path))
            for spelling in spellings:
                if self._has(spelling):
                    return [spelling]
            for spelling in spellings:
                if found := self._find_similar(spelling):
                    return found
        return self._find_similar(other) if other else []

    def find_all(self, names: Sequence[str], *, others: Sequence[str] = ()) -> list[list[str]]:
        """Return what `find` finds for each of the images of a label.

        A name that is neither that of its file nor its stem does not mean a file that another image
        has by its own name, or by as good a guess: its file is missing, and that one shows other faces.
        """
        pairs = zip(names, others or [""] * len(names), strict=True)
        found = [self.find(name, other=other) for name, other in pairs]
        exact = [
            len(files) == 1 and (self.has(name) or os.path.splitext(files[0])[0] == _normalize(name))
            for name, files in zip(names, found, strict=True)
        ]
        owners: dict[str, set[str]] = {}
        for name, files, is_exact in zip(names, found, exact, strict=True):
            for file in files:
                owners.setdefault(file, set()).add("" if is_exact else name)
        return [
            files if is_exact else [file for file in files if owners[file] == {name}]
            for name, files, is_exact in zip(names, found, exact, strict=True)
        ]

    def has(self, name: str) -> bool:
        """Return whether the folder has the file of that very name, written with / or \\."""
        if is_outside(name):
            return False
        return self._has(posixpath.normpath(name)) or self._has(_normalize(name))

    def _spellings(self, path: str) -> Iterator[str]:
        """Yield a path, and what it may be in this folder where its leading folders are not in it."""
        root = ROOT.match(path)
        parts = [part for part in path[root.end() if root else 0 :].split("/") if part != ".."]
        if not is_outside(path):
            yield path
            if self.find_folder(parts[0]) is not None and parts[0] != self.root.absolute().name:
                return
            parts = parts[1:]
        for start in range(len(parts)):
            yield "/".join(parts[start:])

    def _has(self, name: str) -> bool:
        folder, base = posixpath.split(name)
        return base in self._list(folder)[0]

    def _list(self, folder: str) -> tuple[frozenset[str], frozenset[str]]:
        """The names of the files and of the folders in a sub-folder."""
        if folder not in self._listed:
            files: list[str] = []
            folders: list[str] = []
            try:
                with os.scandir(self.root / folder) as entries:
                    for each in entries:
                        (folders if each.is_dir() else files).append(each.name)
            except (OSError, ValueError):
                pass
            self._listed[folder] = frozenset(files), frozenset(folders)
        return self._listed[folder]

    def find_folder(self, folder: str) -> str | None:
        """Return the sub-folder of that name, in any case; None where there is none, or several."""
        parent, base = posixpath.split(folder)
        if not base:
            return parent
        above = self.find_folder(parent)
        if above is None:
            return None
        folders = self._list(above)[1]
        matches = [base] if base in folders else [each for each in folders if _key(each) == _key(base)]
        return posixpath.join(above, matches[0]) if len(matches) == 1 else None

    def _find_similar(self, name: str) -> list[str]:
        """The images of that name in any case, or else of that stem."""
        folder, base = posixpath.split(name)
        if folder not in self._similar:
            by_name: dict[str, list[str]] = {}
            by_stem: dict[str, list[str]] = {}
            real = self.find_folder(folder)
            for each in sorted(self._list(real)[0]) if real is not None else ():
                stem, suffix = os.path.splitext(each)
                if suffix.lower() in IMAGE_SUFFIXES and not each.startswith("."):
                    file = posixpath.join(real or "", each)
                    by_name.setdefault(_key(each), []).append(file)
                    by_stem.setdefault(_key(stem), []).append(file)
            self._similar[folder] = by_name, by_stem
        key = _key(base)
        by_name, by_stem = self._similar[folder]
        found = by_name.get(key) or by_stem.get(key, [])
        # On Linux a.txt and A.txt have images of their own.
        same_case = [file for file in found if posixpath.splitext(posixpath.basename(file))[0] == base]
        return same_case or found

    def images(self) -> list[str]:
        """Return the names of all image files below the folder, hidden ones left out."""
        files = files_below(self.root, IMAGE_SUFFIXES)
        return [file.relative_to(self.root).as_posix() for file in files]


def is_outside(name: str) -> bool:
    """Return whether a name leads out of the folder that it is joined to."""
    path = _normalize(name)
    return path.startswith(("/", "../")) or path == ".." or ROOT.match(path) is not None


def _normalize(name: str) -> str:
    return posixpath.normpath(name.replace("\\", "/"))


def _key(name: str) -> str:
    # macOS writes an accent as a character of its own.
    return unicodedata.normalize("NFC", name).lower()


def find_image_folder(label: Path, names: Sequence[str], *, others: Sequence[str] = ()) -> ImageFolder:
    """Return the folder with the images of a label file, or of a folder of label files.

    Of `candidate_folders` it is the first that has most of the first images, by their own `names`
    rather than by similar ones or by `others`, see `ImageFolder.find`. Where no folder has any of
    these, images from all of the label decide, then folders of such a name in another case (Images);
    else it is the default folder.
    """
    pairs = list(zip(names, others or [""] * len(names), strict=True))
    wide_sample = pairs[:: len(pairs) // WIDE_SAMPLE + 1]
    candidates = candidate_folders(label)
    return (
        _best_folder(candidates, pairs[:SAMPLE])
        or _best_folder(candidates, wide_sample)
        or _best_folder(_in_other_case(candidates, label), wide_sample)
        or ImageFolder(default_folder(label))
    )


def _best_folder(candidates: Iterable[Path], sample: Sequence[tuple[str, str]]) -> ImageFolder | None:
    """The first folder that has most of some images, by name and other name; None where none has any."""
    best, most = None, 0
    for candidate in candidates:
        folder = ImageFolder(candidate)
        exact = sum(folder.has(name) for name, _ in sample)
        if exact == len(sample) > 0:
            return folder
        score = exact + sum(bool(folder.find(name, other=other)) for name, other in sample)
        if score > most:
            best, most = folder, score
    return best


def _in_other_case(candidates: Iterable[Path], label: Path) -> Iterator[Path]:
    here = label if label.is_dir() else label.parent
    bases = [ImageFolder(here), ImageFolder(os.path.normpath(here / ".."))]
    for candidate in candidates:
        base = next((base for base in bases if candidate.is_relative_to(base.root)), None)
        if base is not None and (folder := base.find_folder(candidate.relative_to(base.root).as_posix())):
            yield base.root / folder


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
    up, above = Path(os.path.normpath(here / "..")), Path(os.path.normpath(here / "../.."))
    splits = _splits(label)
    wider = [f"WIDER_{split}" for split in splits]
    candidates = [
        *_mirrored_folders(label),
        here / "images",
        here,
        *_parents_of_mirrored(label),
        up / "images",
        *(up / "images" / split for split in splits),
        *(up / split for split in splits),
        *(up / split / "images" for split in splits),
        *(above / images / here.name for images in MIRRORED.get(up.name, ())),
        *(above / images for images in MIRRORED.get(up.name, ())),
        here / "data",
        up / "JPEGImages",
        # The official zips of WIDER FACE, each unpacked beside the labels or into a folder of its own.
        *(up / name / "images" for name in wider),
        *(up / name / name / "images" for name in wider),
        *(above / name / "images" for name in wider),
        *(above / name / name / "images" for name in wider),
        *(here / "images" / split for split in splits),
        here / "JPEGImages",
        *(here / split for split in splits),
        *(here / split / "images" for split in splits),
        *(here / "data" / split for split in splits),
        *(here / name / "images" for name in wider),
        up / "data",
        *(up / "data" / split for split in splits),
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
