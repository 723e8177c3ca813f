"""Files that appear whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """A path beside `path` to write to, that takes its place when the block ends well and is removed when it does not.

    The folder is made where it is missing. OSError that names the file where, say, the disk is full.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.stem}.partial{path.suffix}")    # some writers go by the suffix
    try:
        with _named(path):
            yield partial
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def append_text(path: Path, text: str) -> None:
    """Write text behind what a file holds; OSError that names it."""
    with _named(path), open(path, "a", newline="", encoding="utf-8") as file:
        file.write(text)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Have an error of the system, such as that of a full disk, name the file."""
    try:
        yield
    except OSError as error:
        if error.filename is not None:
            raise
        raise OSError(f"{path}: cannot be written: {error.strerror or error}") from None


def files_below(folder: Path, suffixes: Collection[str]) -> list[Path]:
    """The files in a folder and its sub-folders, linked ones too, with one of those suffixes (`.txt`) in any case, by name.

    ValueError that names a sub-folder that cannot be read; a folder that is not there has no files.
    """

    def fail(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise ValueError(f"{error.filename}: cannot read this folder: {error.strerror}")

    found: list[Path] = []
    seen: set[str] = set()
    for place, folders, names in os.walk(folder, followlinks=True, onerror=fail):
        real = os.path.realpath(place)
        if real in seen:    # a link that leads back
            folders.clear()
            continue
        seen.add(real)
        found += [Path(place, name) for name in names if os.path.splitext(name)[1].lower() in suffixes]
    return sorted(found)
