"""What is wrong with the images of a run."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

from utils.distributed import gather, is_main


class Faults:
    """Images that could not be read, each warned of once, and how many boxes reach beyond their photo."""

    def __init__(self) -> None:
        self.seen: set[str] = set()
        self.outside = 0

    def __bool__(self) -> bool:
        return bool(self.seen)

    def add(self, faults: Iterable[str]) -> None:
        """Warn of those that are new."""
        for fault in faults:
            if fault not in self.seen:
                self.seen.add(fault)
                warnings.warn(fault, stacklevel=2)

    def share(self) -> None:
        """Tell the other processes, of which the main one speaks, what this one has seen."""
        for faults in gather(sorted(self.seen)):
            self.add(faults)
        outside = sum(gather(self.outside))
        self.outside = outside if is_main() else 0

    def warn_outside(self) -> None:
        """Tell the number of boxes once."""
        if self.outside:
            warnings.warn(f"{self.outside} boxes reach beyond their image and are clipped to it, or dropped outside it", stacklevel=2)
            self.outside = 0
