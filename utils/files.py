"""Files that appear whole or not at all, and the files of a folder."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath

# That every other file meets too.
DISK_ERRORS = {
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM, errno.EPIPE,
}  # fmt: skip
UNFINISHED = ".unfinished-"    # how the folders begin in which files are written
# What systems and tools put into folders of images, besides what begins with a dot.
HIDDEN_NAMES = {
    "__macosx", "@eadir", "@recycle", "#recycle", "$recycle.bin", "system volume information",
    "thumbs.db", "desktop.ini",
}  # fmt: skip


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Yield a path to write to, which replaces `path` when the block ends without an error.

    It has the same name in a new hidden folder, so no file of anybody else is touched. Where
    `path` is a symlink, the link is replaced and the file it leads to stays. Missing parent
    folders are made. OSError that names `path` if, for example, the disk is full.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # A folder, because a name with anything added could be too long, and because files that are
    # made in it get their mode from the umask.
    with _named(path), tempfile.TemporaryDirectory(prefix=UNFINISHED, dir=path.parent) as folder:
        partial = Path(folder, path.name)
        yield partial
        partial.replace(path)


def remove_unfinished(folder: Path) -> None:
    """Remove what killed processes left in a folder, into which nobody else may be writing."""
    for left in folder.glob(f"{UNFINISHED}*"):
        shutil.rmtree(left, ignore_errors=True)


def concerns_one_file(error: OSError) -> bool:
    """Return True if a file cannot be written, for example for its name, and others still can."""
    return error.errno not in DISK_ERRORS


@contextmanager
def openable(path: Path) -> Iterator[str]:
    """Yield a name under which OpenCV opens a file: its own, or a link if that is no UTF-8."""
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError:
        with tempfile.TemporaryDirectory() as folder:
            link = Path(folder, "file" + path.suffix.encode("ascii", "ignore").decode())
            link.symlink_to(path.absolute())
            yield str(link)
    else:
        yield str(path)


def append_text(path: Path, text: str) -> None:
    """Append text to a file; OSError that names it."""
    with _named(path), open(path, "a", newline="", encoding="utf-8") as file:
        file.write(text)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Have an error of the system, such as that of a full disk, name the file."""
    try:
        yield
    except OSError as error:
        if error.filename is not None and UNFINISHED not in os.fsdecode(error.filename):
            raise
        named = OSError(f"{path}: cannot be written: {error.strerror or error}")
        named.errno = error.errno
        raise named from None


def is_hidden(path: PurePath) -> bool:
    """Return True for what is never data: a leading dot, `__MACOSX`, `@eaDir`, `Thumbs.db` ...

    Any part of the path counts, so give it relative to the folder of the data. The sources of
    test.py and the folders of labels and images go by it, since `files_below` does.
    """
    return any(
        (part.startswith(".") and part != "..") or part.lower() in HIDDEN_NAMES
        for part in path.parts
    )


def files_below(
    folder: Path,
    suffixes: Collection[str] | None,
    *,
    unreadable: list[Path] | None = None,
) -> list[Path]:
    """List the files below a folder that have one of these suffixes (`.txt`) in any case, by name.

    With None as suffixes, all files. Links to folders are followed; hidden files and folders are
    left out (see `is_hidden`). ValueError that names a sub-folder that cannot be read, unless there
    is a list `unreadable` to add it to; a folder that does not exist has no files.
    """

    def fail(error: OSError) -> None:
        if isinstance(error, FileNotFoundError):
            return
        if unreadable is None:
            raise ValueError(f"{error.filename}: cannot read this folder: {error.strerror}")
        unreadable.append(Path(error.filename))

    files: list[Path] = []
    visited: set[str] = set()
    for parent, folders, names in os.walk(folder, followlinks=True, onerror=fail):
        real = os.path.realpath(parent)
        if real in visited:    # a link that leads back
            folders.clear()
            continue
        visited.add(real)
        folders[:] = [name for name in folders if not is_hidden(PurePath(name))]
        files += [
            Path(parent, name)
            for name in names
            if not is_hidden(PurePath(name))
            and (suffixes is None or os.path.splitext(name)[1].lower() in suffixes)
        ]
    return sorted(files)
