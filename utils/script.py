"""What the scripts share: how a run ends."""

from __future__ import annotations

import argparse
import io
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, NoReturn

from utils.shortage import advise, find_shortage

DONE, DONE_WITH_FAULTS, FAILED = 0, 1, 2
INTERRUPTED, OUTPUT_CLOSED = 130, 141    # what a shell gives for Ctrl-C, and for a reader that went away
INTERRUPT_AFTER = 1.0    # seconds after the first signal


def run_script(main: Callable[[], int], name: str) -> int:
    """The exit code of `main`; a user's mistake becomes one line on stderr and code 2, a warning one line without its place."""
    # A name of a file may hold what the encoding of the terminal lacks.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: print(one_line(f"{name}: warning: {message}"), file=sys.stderr)
        try:
            code = main()
            sys.stdout.flush()
            return code
        except BrokenPipeError:    # whoever read the output, such as head, has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return OUTPUT_CLOSED
        except (ValueError, OSError) as error:
            print(one_line(f"{name}: {error}"), file=sys.stderr)
            return FAILED
        except (MemoryError, RuntimeError) as error:
            shortage = find_shortage(error)
            if shortage is None:    # a bug, which its traceback helps to find
                raise
            print(f"{name}: {advise(shortage)}", file=sys.stderr)
            return FAILED
        except KeyboardInterrupt:
            print(f"{name}: interrupted", file=sys.stderr)
            return INTERRUPTED


def one_line(text: str) -> str:
    """The text without line ends."""
    return " ".join(text.split())


def count_of(count: int, noun: str) -> str:
    """A number with its noun: 1 fault, 2 faults."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def split_settings(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Part words into key=value settings and others, such as a file or address with an =."""
    settings = [
        word
        for word in words
        if "=" in word and "://" not in word.partition("=")[0] and not os.path.exists(word)
    ]
    return settings, [word for word in words if word not in settings]


class ArgumentParser(argparse.ArgumentParser):
    """One whose complaint is a ValueError, so that it ends like every other mistake: in one line."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}; --help shows what is expected")


class StopRequest:
    """Turn the first Ctrl-C or SIGTERM into a request, so that work can end where its files are whole.

    A later SIGTERM changes nothing: systemd and torchrun send two, one right behind the other.
    A second Ctrl-C interrupts, unless it comes within `INTERRUPT_AFTER` seconds of the first
    signal, as one that a launcher passes on does. Both still hold after the block if there was a
    request, because the program is about to end then.
    """

    def __init__(self) -> None:
        self.requested = False
        self._since = 0.0    # the time of the first request, on the monotonic clock
        self._handlers: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopRequest:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._handlers[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            if not self.requested:
                signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self.requested:
            self.requested, self._since = True, time.monotonic()
        elif number == signal.SIGINT and time.monotonic() - self._since >= INTERRUPT_AFTER:
            raise KeyboardInterrupt
