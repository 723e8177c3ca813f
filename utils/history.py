"""The record of a run: losses.csv, history.csv and loss_curves.png."""

from __future__ import annotations

import csv
import io
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from utils.files import append_text, whole_file
from utils.plots import plot_losses

Row = dict[str, float]
RECENT_STEPS = 20    # over which a line of a log takes the median of each loss


class LossMeter:
    """Means of losses over steps."""

    def __init__(self, sums: Mapping[str, float] | None = None, count: int = 0):
        self.sums = dict(sums or {})
        self.count = count

    def add(self, losses: Mapping[str, float]) -> None:
        """Count the losses of a step."""
        self.sums = {name: self.sums.get(name, 0.0) + loss for name, loss in losses.items()}
        self.count += 1

    def means(self) -> Row:
        """The mean of each loss and, as `total`, of their sum; nothing where no step was counted."""
        if not self.count:
            return {}
        means = {name: total / self.count for name, total in self.sums.items()}
        return {**means, "total": sum(means.values())}

    def state(self) -> dict[str, Any]:
        """What to hand to the constructor to go on counting."""
        return {"sums": dict(self.sums), "count": self.count}


class History:
    """Rows of mean losses over some iterations and over each epoch, in memory and as CSV files in a run's folder, if one is named.

    `loss_names` are the columns between `lr` and `total`, `figures` those that an epoch may have besides; `state` is that of a run to go
    on from.
    """

    def __init__(
        self,
        folder: Path | None,
        loss_names: Sequence[str],
        state: Mapping[str, Any] | None = None,
        *,
        figures: Sequence[str] = ("ap50",),
    ):
        self.folder = folder
        self.loss_names = list(loss_names)
        self.columns = ["epoch", "step", "lr", *loss_names, "total"]
        self.epoch_columns = [*self.columns, *figures, "seconds"]
        state = state or {"losses": [], "epochs": [], "since_row": {}, "since_epoch": {}}
        self.loss_rows: list[Row] = list(state["losses"])
        self.epoch_rows: list[Row] = list(state["epochs"])
        self.since_row = LossMeter(**state["since_row"])
        self.since_epoch = LossMeter(**state["since_epoch"])
        self._recent: deque[Row] = deque(maxlen=RECENT_STEPS)
        # A run that is resumed may measure less than the run before.
        known = {*self.epoch_columns}
        more = dict.fromkeys(name for row in self.epoch_rows for name in row if name not in known)
        self.epoch_columns[-1:-1] = more

    def state(self) -> dict[str, Any]:
        """Everything a resumed run needs to end with the files of one that was not stopped."""
        return {
            "losses": self.loss_rows,
            "epochs": self.epoch_rows,
            "since_row": self.since_row.state(),
            "since_epoch": self.since_epoch.state(),
        }

    def start(self) -> None:
        """Write the files anew, with the rows there are."""
        self._write("losses.csv", self.columns, self.loss_rows)
        self._write("history.csv", self.epoch_columns, self.epoch_rows)

    def add(self, losses: Mapping[str, float]) -> None:
        """Count the losses of a step."""
        self.since_row.add(losses)
        self.since_epoch.add(losses)
        self._recent.append({**losses, "total": sum(losses.values())})

    def medians(self) -> Row:
        """Return the median of each loss, and of their sum as `total`, over the last 20 steps."""
        names = self._recent[-1] if self._recent else ()
        return {name: median(losses[name] for losses in self._recent) for name in names}

    def end_row(self, **place: float) -> Row:
        """Write the means since the row before, with their epoch, step and lr, to losses.csv."""
        row = {**place, **self.since_row.means()}
        self.since_row = LossMeter()
        self.loss_rows.append(row)
        self._append("losses.csv", self.columns, row)
        return row

    def end_epoch(self, row: Row) -> None:
        """Write the row of an epoch to history.csv, and start counting the next."""
        self.since_epoch = LossMeter()
        self._recent.clear()
        self.epoch_rows.append(row)
        self._append("history.csv", self.epoch_columns, row)

    def finish(self, **place: float) -> None:
        """Write the last, partial row, which a resumed run counts on from and replaces, and draw the curves."""
        rows = self.loss_rows
        if self.since_row.count:
            rows = [*rows, {**place, **self.since_row.means()}]
            self._write("losses.csv", self.columns, rows)
        self.draw(rows)

    def draw(self, rows: Sequence[Row] | None = None) -> None:
        """Draw the curves of losses.csv."""
        rows = self.loss_rows if rows is None else rows
        if rows and self.folder is not None:
            plot_losses(rows, self.loss_names, self.folder / "loss_curves.png")

    def _write(self, name: str, columns: Sequence[str], rows: Sequence[Row]) -> None:
        if self.folder is None:
            return
        with whole_file(self.folder / name) as partial:
            partial.write_text(_csv(columns, rows, header=True), encoding="utf-8", newline="")

    def _append(self, name: str, columns: Sequence[str], row: Row) -> None:
        if self.folder is None:
            return
        append_text(self.folder / name, _csv(columns, [row], header=False))


def _csv(columns: Sequence[str], rows: Sequence[Row], *, header: bool) -> str:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
