"""What a user points at: images, videos, folders, globs, cameras, streams; and where results go."""

from __future__ import annotations

import glob
import json
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import cv2

from utils.files import files_below, is_hidden, openable
from utils.images import IMAGE_SUFFIXES
from utils.predictions import prediction_path
from utils.results import FreeNames
from utils.video import VIDEO_SUFFIXES, is_address, source_name

# An image keeps its suffix if OpenCV writes all colors in that format; others become .png.
DRAWN_SUFFIXES = {".bmp", ".jpe", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
# Brands of HEIF and AVIF files. FFmpeg opens some of them as a video of a part of the image.
IMAGE_BRANDS = {b"avif", b"avis", b"heic", b"heim", b"heis", b"heix", b"hevc", b"mif1", b"msf1"}


@dataclass(frozen=True)
class Source:
    """An image or video file, a camera (`path` is its number) or a stream (its address).

    `name` is the relative path of its results; printed, it shows no password.
    """

    path: Path | int | str
    name: Path
    is_image: bool

    @property
    def is_live(self) -> bool:
        """Return True for a camera or a stream, which may never end."""
        return not isinstance(self.path, Path)

    def __str__(self) -> str:
        return source_name(self.path)


def find_sources(word: str, *, exclude: Path) -> Iterator[Source]:
    """Find the sources that a word of the command line names; an error that names it if there is
    none.

    Of a folder, what lies in the folder `exclude` is left out: the drawings of an earlier run. A
    warning counts its files of other kinds.
    """
    path = Path(word)
    exists = os.path.exists(word)
    if is_address(word):
        host = re.split("[/:]", source_name(word).partition("://")[2])[0]
        name = re.sub("[^0-9A-Za-z]+", "_", f"stream_{host}").rstrip("_")
        yield Source(word, Path(name), is_image=False)
    elif os.path.isdir(word):
        yield from _sources_in(path, exclude)
    elif not exists and word.isdecimal():
        yield Source(int(word), Path(f"camera_{word}"), is_image=False)
    elif not exists and glob.has_magic(word):
        # A wildcard means no hidden files; what is spelled out is meant.
        fixed = Path(*takewhile(lambda part: not glob.has_magic(part), path.parts))
        matches = sorted(map(Path, glob.glob(word, recursive=True)))
        files = [
            match
            for match in matches
            if os.path.isfile(match) and not is_hidden(match.relative_to(fixed))
        ]
        if not files:
            raise FileNotFoundError(f"{word}: no file matches")
        yield from (Source(file, Path(file.name), is_image=_is_image(file)) for file in files)
    else:
        yield Source(path, Path(path.name), is_image=_is_image(path))


def _sources_in(folder: Path, exclude: Path) -> Iterator[Source]:
    unreadable: list[Path] = []
    files = files_below(folder, None, unreadable=unreadable)
    if folder.resolve() in exclude.resolve().parents:
        files = [file for file in files if exclude.resolve() not in file.resolve().parents]
    is_source = {file: file.suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES for file in files}
    others = _count_kinds(file for file in files if not is_source[file])
    # As a source it is listed with the reason when it is read, and the rest is done.
    yield from (Source(path, path.relative_to(folder), is_image=True) for path in unreadable)
    if not any(is_source.values()) and not unreadable:
        found = f"; found {others}" if others else "; expected files such as .jpg, .png or .mp4"
        raise ValueError(f"{folder}: no images or videos in this folder{found}")
    if others:
        warnings.warn(f"{folder}: passed over {others}", stacklevel=2)
    for file in files:
        if is_source[file]:
            yield Source(file, file.relative_to(folder), is_image=_is_image(file))


def _count_kinds(files: Iterable[Path]) -> str:
    """Say how many files there are of which kinds: "3 files of other kinds: .heic 2, .psd 1"."""
    kinds = Counter(file.suffix.lower() or "no suffix" for file in files)
    if not kinds:
        return ""
    count = sum(kinds.values())
    listed = ", ".join(f"{kind} {number:,}" for kind, number in kinds.most_common())
    return f"{count:,} file{'s' if count > 1 else ''} of other kinds: {listed}"


def _is_image(file: Path) -> bool:
    """Return True for an image by its suffix, or by its content if the suffix tells neither."""
    suffix = file.suffix.lower()
    if suffix in IMAGE_SUFFIXES or not os.path.isfile(file):
        return suffix not in VIDEO_SUFFIXES
    if suffix in VIDEO_SUFFIXES:
        return False
    try:
        with open(file, "rb") as opened:
            start = opened.read(12)
    except OSError:    # told when it is read
        return True
    if start[4:8] == b"ftyp" and start[8:12] in IMAGE_BRANDS:
        return True
    with openable(file) as path:
        return not start or cv2.haveImageReader(path)


def result_paths(sources: Sequence[Source], output: Path, *, taken: Sequence[str]) -> list[Path]:
    """Choose where the drawing of each source goes: its own name, with a number if that is taken.

    No two have one name without suffix, nor one of those `taken`. ValueError if a drawing would
    replace a source, or an image or video that no earlier run wrote.
    """
    inputs = {os.path.realpath(source.path) for source in sources if isinstance(source.path, Path)}
    names = FreeNames(output / name for name in taken)
    targets = []
    for source in sources:
        suffix = _drawn_suffix(source)
        target = names.claim(output / source.name.with_suffix(""), suffix)
        if os.path.realpath(target) in inputs:
            raise ValueError(
                f"--output {output}: would draw over {target}, which is a source; "
                "name another folder"
            )
        if os.path.lexists(target) and not _is_drawing(target, output, source):
            raise ValueError(
                f"--output {output}: would replace {target}, which no earlier run drew; "
                "name another folder"
            )
        targets.append(target)
    return targets


def _drawn_suffix(source: Source) -> str:
    if not source.is_image:
        return ".mp4"
    suffix = source.name.suffix
    return suffix if suffix.lower() in DRAWN_SUFFIXES else ".png"


def _is_drawing(target: Path, output: Path, source: Source) -> bool:
    """Return True for what an earlier run drew: it then also saved what it detected."""
    if source.is_image:
        return prediction_path(output / "predictions", target.relative_to(output)).is_file()
    try:
        with open(output / "detections.jsonl", encoding="utf-8") as file:
            rows = map(json.loads, file)
            drawn = {row["source"] for row in rows if row["frame"] is not None}
    except (OSError, ValueError, KeyError, TypeError):    # of no run of ours
        return False
    return str(source) in drawn or source.name.stem in {Path(name).stem for name in drawn}
