"""A run folder that one process writes: whoever starts a second run in it is told so."""

from __future__ import annotations

import errno
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

LOCK_FILE = "run.lock"
LOCKED_BYTE = 2**20    # beyond the text: Windows lets nobody read a locked byte
TAKEN = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)    # some file systems
WAIT_SECONDS = 10.0    # a network file system may show a new file late


@contextmanager
def lock_folder(folder: Path, *, mark: str) -> Iterator[None]:
    """Hold the folder of a run for this process; it is made where it is missing.

    `mark` stands in its lock file, so that `sees_lock` can tell whether another process sees the
    same folder. The system releases the lock of a process that dies. A folder that is still empty
    in the end is removed. ValueError if another process holds it.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK_FILE
    handle = _open_locked(path)
    try:
        _write(handle, f"{mark}\nprocess {os.getpid()} on {socket.gethostname()}\n", path)
        yield
    finally:
        if sys.platform == "win32":    # where an open file cannot be removed
            os.close(handle)
        with suppress(OSError):    # or it is gone
            path.unlink()
        if sys.platform != "win32":
            os.close(handle)
        with suppress(OSError):    # the first one that is not empty
            for empty in missing:
                empty.rmdir()


def _write(handle: int, text: str, path: Path) -> None:
    """Write by the handle: POSIX drops a lock when its process closes any handle of the file."""
    try:
        os.ftruncate(handle, 0)
        os.write(handle, text.encode())
    except OSError as error:
        raise OSError(f"{path}: cannot be written: {error.strerror}") from None


def _open_locked(path: Path) -> int:
    """Return a handle of the lock file, locked where its file system knows locks."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _lock(handle)
        except OSError as error:
            if error.errno in NO_LOCKS:
                return handle
            os.close(handle)
            if error.errno not in TAKEN:
                raise
            raise ValueError(
                f"{path.parent}: another process is writing this run{_holder(path)}; wait for its end "
                "or name another --output (torchrun starts several processes as one run)"
            ) from None
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), os.stat(path)):
                return handle
        os.close(handle)    # the process that held it has just removed it


def _lock(handle: int) -> None:
    """Lock a file until its handle is closed or this process ends; OSError if another one has it."""
    if sys.platform == "win32":
        os.lseek(handle, LOCKED_BYTE, os.SEEK_SET)
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        os.lseek(handle, 0, os.SEEK_SET)
    else:
        # Unlike flock it works on NFS and is not inherited by the workers of a loader.
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _holder(path: Path) -> str:
    """Return which process wrote a lock file, in brackets."""
    with suppress(OSError, IndexError):
        return f" ({path.read_text(encoding='utf-8').splitlines()[1]})"
    return ""


def sees_lock(folder: Path, mark: str) -> bool:
    """Return whether the lock file in a folder bears the mark; waits for a slow file system."""
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        with suppress(OSError):
            if (folder / LOCK_FILE).read_text(encoding="utf-8").startswith(f"{mark}\n"):
                return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
