"""What the scripts share: how a run ends."""

from __future__ import annotations

import argparse
import signal
import sys
import warnings
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn

DONE, DONE_WITH_FAULTS, FAILED = 0, 1, 2
INTERRUPTED = 130    # what a shell gives for Ctrl-C


def run_script(main: Callable[[], int], name: str) -> int:
    """The exit code of `main`; a user's mistake becomes one line on stderr and code 2, a warning one line without its place."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: print(f"{name}: warning: {message}", file=sys.stderr)
        try:
            return main()
        except (ValueError, OSError) as error:
            print(f"{name}: {' '.join(str(error).split())}", file=sys.stderr)
            return FAILED
        except KeyboardInterrupt:
            print(f"{name}: interrupted", file=sys.stderr)
            return INTERRUPTED


class ArgumentParser(argparse.ArgumentParser):
    """One whose complaint is a ValueError, so that it ends like every other mistake: in one line."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}; --help shows what is expected")


class StopRequest:
    """Within it, the first Ctrl-C or SIGTERM only sets `requested`, so that work can end where it is whole; the second interrupts."""

    def __init__(self) -> None:
        self.requested = False
        self._handlers: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopRequest:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._handlers[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
