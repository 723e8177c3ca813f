"""What the decoders inside OpenCV print while they decode an image.

libjpeg and libpng print to C's `stderr`, without the name of a file, and OpenCV does not pass on
what they say. In glibc `stderr` is a variable that may be set; elsewhere nothing is caught.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import re
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

R = TypeVar("R")
DECODER_LINE = re.compile(
    "libpng |Corrupt JPEG|Premature end of JPEG|Inconsistent progression|Unknown Adobe color"
    "|Warning: unknown JFIF|Invalid SOS parameters"
)
UNBUFFERED = 2    # _IONBF


class MessageCatcher:
    """Sends C's `stderr` to a file in memory while a decoder runs, in any number of threads.

    What Python and others write to the file descriptor 2 is not touched. What is no decoder's
    message is passed on.
    """

    def __init__(self, libc: ctypes.CDLL, stderr: ctypes.c_void_p) -> None:
        self._stderr = stderr
        self._original = stderr.value
        libc.fdopen.argtypes, libc.fdopen.restype = [ctypes.c_int, ctypes.c_char_p], ctypes.c_void_p
        libc.setvbuf.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
        self._libc = libc
        self.open_file()

    def open_file(self) -> None:
        """Start anew, with a file of this process: a fork shares that of its parent."""
        self._stderr.value = self._original
        self._changed = threading.Condition()
        self._running, self._waiting, self._is_alone = 0, 0, False
        self._descriptor = os.memfd_create("decoder messages")
        self._file = self._libc.fdopen(self._descriptor, b"a")
        self._libc.setvbuf(self._file, None, UNBUFFERED, 0)

    def run(self, decode: Callable[[], R]) -> tuple[R, str]:
        """Return what `decode` returns, and what it printed. It is called twice if it prints."""
        with self._catching(alone=False):
            start = self._size()
            result = decode()
            is_silent = self._size() == start
        if is_silent:
            return result, ""
        # A decoder of another thread may have printed it.
        with self._catching(alone=True):
            start = self._size()
            result = decode()
            printed = os.pread(self._descriptor, self._size() - start, start).decode(errors="replace")
        return result, "\n".join(filter(DECODER_LINE.match, printed.splitlines()))

    @contextlib.contextmanager
    def _catching(self, *, alone: bool) -> Iterator[None]:
        with self._changed:
            self._waiting += alone    # lets no other one begin, or its turn might never come
            self._changed.wait_for(
                lambda: not (self._is_alone or (self._running if alone else self._waiting))
            )
            self._waiting -= alone
            self._running += 1
            self._is_alone = alone
            self._stderr.value = self._file
        try:
            yield
        finally:
            with self._changed:
                self._running -= 1
                self._is_alone = False
                if not self._running:
                    self._stderr.value = self._original
                    self._pass_on()
                self._changed.notify_all()

    def _size(self) -> int:
        return os.fstat(self._descriptor).st_size

    def _pass_on(self) -> None:
        if not (size := self._size()):
            return
        lines = os.pread(self._descriptor, size, 0).decode(errors="replace").splitlines()
        os.ftruncate(self._descriptor, 0)
        if others := [line for line in lines if not DECODER_LINE.match(line)]:
            os.write(2, "".join(f"{line}\n" for line in others).encode())


def _find_stderr() -> MessageCatcher | None:
    if platform.libc_ver()[0] != "glibc":
        return None
    libc = ctypes.CDLL(None)
    try:
        return MessageCatcher(libc, ctypes.c_void_p.in_dll(libc, "stderr"))
    except OSError:    # a sandbox without files in memory
        return None


def _start_anew() -> None:
    """Give a forked process a file of its own, or none where it may not open one more."""
    global _catcher
    if _catcher is not None:
        try:
            _catcher.open_file()
        except OSError:
            _catcher = None


_catcher = _find_stderr()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_anew)


def catch_messages(decode: Callable[[], R]) -> tuple[R, str]:
    """Return what `decode` returns, and the lines that libjpeg or libpng printed meanwhile.

    It is called a second time if anything is printed, while no other thread decodes.
    """
    return (decode(), "") if _catcher is None else _catcher.run(decode)
