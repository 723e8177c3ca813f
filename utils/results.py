"""The files that a run writes: their names, what they may replace, and which are out of date."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from utils.files import files_below

LONGEST_NAME = 255    # bytes, of most file systems
# Files of which a run leaves at least one when it has finished.
FINISHED = ("detections.jsonl", "metrics.json", "statistics.json", "comparison.md")


class FreeNames:
    """Hands out paths of which no two are the same file, on disks that ignore case too."""

    def __init__(self, taken: Iterable[Path] = ()):
        self._taken = {_key(path) for path in taken}

    def claim(self, stem: Path, suffix: str) -> Path:
        """Return the path of that stem, or with a number behind it if it was handed out already.

        No two stems are the same, whatever their suffixes; names that are too long are cut.
        """
        number = 1
        while True:
            tail = f"_{number}" if number > 1 else ""
            room = LONGEST_NAME - len(os.fsencode(tail + suffix))
            name = os.fsencode(stem.name)
            # Cut between characters, and only where it must be: a name may be no UTF-8 at all.
            short = (
                os.fsdecode(name) if len(name) <= room else name[:room].decode("utf-8", "ignore")
            )
            free = stem.with_name(short + tail)
            if _key(free) not in self._taken:
                self._taken.add(_key(free))
                return free.with_name(free.name + suffix)
            number += 1


def _key(path: Path) -> str:
    """What two names have in common that some file system takes for the same."""
    return unicodedata.normalize("NFC", str(path)).casefold()


def check_replaceable(folder: Path, names: Sequence[str], *, known: Sequence[str]) -> None:
    """ValueError if a file with one of these names is in the folder and may be the user's own.

    It is not if the folder has nothing else than results, those `known`, or a file that only a
    finished run leaves there.
    """
    if not folder.is_dir() or any((folder / name).is_file() for name in FINISHED):
        return
    others = {path.name for path in folder.iterdir()} - set(known)
    for name in names:
        if others and os.path.lexists(folder / name):
            raise ValueError(
                f"--output {folder}: would replace {folder / name}, which no earlier run wrote; "
                "name another folder"
            )


@contextmanager
def stale_results_removed(
    folder: Path, names: Sequence[str], *, predictions: bool = False
) -> Iterator[None]:
    """Remove results of an earlier run that the block does not write anew.

    These are the files of the given names and, with `predictions`, those saved below predictions/.
    Nothing is removed if no run has finished in the folder, or if the block raises an error.
    """
    before: dict[Path, tuple[int, int]] = {}
    if any((folder / name).is_file() for name in FINISHED):
        paths = [folder / name for name in names]
        # Where there is no list of detections, others may have saved these.
        if predictions and (folder / "detections.jsonl").is_file():
            paths += files_below(folder / "predictions", {".txt"})
        before = {path: _version(path) for path in paths if path.is_file()}
    yield
    for path, version in before.items():
        is_own = path.parent == folder or _holds_predictions(path)
        if path.is_file() and _version(path) == version and is_own:
            path.unlink()
            if path.parent != folder and not any(path.parent.iterdir()):
                path.parent.rmdir()


def _version(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_ino, status.st_mtime_ns


def _holds_predictions(path: Path) -> bool:
    """Return True for a text file as `utils.predictions` writes them: a name, then a count."""
    lines = path.read_bytes().split(b"\n", 2)
    return len(lines) > 1 and lines[1].isdigit()
