"""What a user points at: images, folders, globs, videos and cameras, and where the results of each go."""

from __future__ import annotations

import glob
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from utils.images import IMAGE_SUFFIXES, READ_ONLY_SUFFIXES
from utils.video import VIDEO_SUFFIXES


@dataclass(frozen=True)
class Source:
    """An image, a video, or a camera, whose `path` is its number; `name` is that of its results within their folder."""

    path: Path | int
    name: Path

    @property
    def is_image(self) -> bool:
        return isinstance(self.path, Path) and self.path.suffix.lower() not in VIDEO_SUFFIXES

    @property
    def is_camera(self) -> bool:
        return isinstance(self.path, int)

    def __str__(self) -> str:
        return f"camera {self.path}" if self.is_camera else str(self.path)


def find_sources(word: str, *, but: Path) -> Iterator[Source]:
    """The sources that a word of the command line names; ValueError or FileNotFoundError where there is none.

    Of a folder what lies in the folder `but` is left out: the drawings of an earlier run.
    """
    path = Path(word)
    if path.is_dir():
        files = (child for child in path.rglob("*") if child.suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES and child.is_file())
        found = sorted(child for child in files if path == but or but.resolve() not in child.resolve().parents)
        if not found:
            raise ValueError(f"{word}: no images or videos in this folder; expected files such as .jpg, .png or .mp4")
        yield from (Source(child, child.relative_to(path)) for child in found)
    elif not path.exists() and word.isdecimal():
        yield Source(int(word), Path(f"camera_{word}"))
    elif not path.exists() and glob.has_magic(word):
        matches = sorted(Path(name) for name in glob.glob(word, recursive=True) if Path(name).is_file())
        if not matches:
            raise FileNotFoundError(f"{word}: no file matches")
        yield from (Source(match, Path(match.name)) for match in matches)
    else:
        yield Source(path, Path(path.name))


def result_paths(sources: Sequence[Source], output: Path, *, taken: Sequence[str]) -> list[Path]:
    """Where the drawing of each source goes: under its own name, with a number where another, or one `taken`, has that.

    No two have one name without suffix. ValueError to save a source from being drawn over.
    """
    inputs = {source.path.resolve() for source in sources if isinstance(source.path, Path)}
    used = {output / name for name in taken}
    targets = []
    for source in sources:
        stem = free_path(output / source.name.with_suffix(""), used)
        used.add(stem)
        target = stem.with_name(stem.name + _drawn_suffix(source))
        if target.resolve() in inputs:
            raise ValueError(f"--output {output}: would draw over {target}, which is a source; name another folder")
        targets.append(target)
    return targets


def free_path(path: Path, taken: Collection[Path]) -> Path:
    """The path, or one with a number behind its name, that is not taken yet."""
    free, number = path, 1
    while free in taken:
        number += 1
        free = path.with_name(f"{path.stem}_{number}{path.suffix}")
    return free


def _drawn_suffix(source: Source) -> str:
    if not source.is_image:
        return ".mp4"
    suffix = source.name.suffix
    return suffix if suffix.lower() in IMAGE_SUFFIXES - READ_ONLY_SUFFIXES else ".png"
