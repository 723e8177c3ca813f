"""A training run: epochs, measuring, checkpoints, and how it goes on after a stop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import torch
import yaml
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from config import Config, to_dict
from detector.engine import Batch, Detect, Evaluation, Objective, Step, Stepping, evaluate, train_one_epoch
from detector.guard import Guard
from detector.optimizer import WeightAverage, learning_rate, make_optimizer, set_learning
from utils.checkpoint import random_state, restore_random_state, write_checkpoint
from utils.coco_eval import GROUPS, NAMES, Kind, coco_metrics, format_summary, have_masks, is_installed
from utils.devices import pick_dtype, works_behind
from utils.distributed import any_process, broadcast_buffers, distribute, gather, is_main, rank, share
from utils.faults import Faults
from utils.files import whole_file
from utils.history import History, Row
from utils.images import write_image
from utils.progress import Pace, progress
from utils.script import StopRequest
from utils.structures import Photo
from utils.tensorboard import Board
from utils.visualize import FIRST_IMAGES, contact_sheet, draw_cell
from utils.wider_eval import SETTINGS, OfficialFaces

FIGURES = {"ap50": "AP50", **{setting: setting for setting in SETTINGS}}    # what an epoch's line tells, and how


class TrainingBatch(Batch, Protocol):
    """A batch that knows its files, what was wrong with some, and how many boxes reached beyond their photo."""

    @property
    def paths(self) -> list[str]: ...
    @property
    def faults(self) -> list[str]: ...
    @property
    def outside(self) -> int: ...


class Loader(Protocol):
    """Batches, epoch by epoch, the same whenever an epoch is asked for."""

    def __len__(self) -> int: ...
    def epoch(self, epoch: int, *, first: int = 0) -> Iterator[TrainingBatch]: ...


class PhotoSet(Protocol):
    """Labelled photos to measure on."""

    @property
    def num_faces(self) -> int: ...
    def __len__(self) -> int: ...
    def photos(self, indices: Sequence[int] | None = None) -> Iterator[Photo]: ...


class Trainer:
    """Trains a model as the settings say and keeps the run's folder: checkpoints, history, curves, drawn detections.

    `make_objective` says what the model is trained for by way of a network, which is the model or what was made of it for several
    processes; `make_detect` how a trained one detects; `frozen` are parts of it that do not learn. Of several processes each has a
    trainer of its own; the main one writes the files and reports. `official` are WIDER's lists for the photos of `val_set`. `checkpoint`
    is one to go on from: the run ends with the weights, losses and files of one that was never stopped.
    """

    def __init__(
        self,
        model: nn.Module,
        config: Config,
        output: Path,
        *,
        make_objective: Callable[[nn.Module], Objective],
        make_detect: Callable[[nn.Module], Detect],
        frozen: Sequence[nn.Module],
        loader: Loader,
        val_set: PhotoSet | None,
        official: Sequence[OfficialFaces] | None,
        preset: str,
        device: torch.device,
        report: Callable[[str], None],
        checkpoint: dict[str, Any] | None = None,
    ):
        self.model = model
        self.config = config
        self.output = output
        self.make_detect = make_detect
        self.frozen = frozen
        self.loader = loader
        self.val_set = val_set
        self.official = official
        self.preset = preset
        self.report = report
        set_learning(model, config.train, frozen=frozen)
        network = distribute(model, device, compiled=config.train.compile)
        self.average = WeightAverage(model, config.train.ema) if config.train.ema else None
        self.objective = make_objective(network)
        self.stepping = self._make_stepping(network, device)
        self.steps_per_epoch = len(loader)
        self.total_steps = config.train.epochs * self.steps_per_epoch
        self.step = 0    # iterations done
        self.seconds = 0.0    # spent on the epoch at hand
        self.saved = (0, 0)    # iterations and epochs in last.pth
        self.best: Row = {}
        self.faults = Faults()
        self.pace = Pace()
        self.guard = Guard(allowed=config.train.skip_nonfinite, skipped=0, listing=output / "nonfinite.txt")
        self.coco_kinds = self._pick_coco_kinds()
        self.history = History(
            output if is_main() else None,
            self.objective.names,
            checkpoint["history"] if checkpoint else None,
            figures=("ap50", *(SETTINGS if official else ()), *coco_columns(self.coco_kinds)),
        )
        if checkpoint is not None:
            self._restore(checkpoint)
        self.board = Board(output / "tensorboard", step=self.step) if config.train.tensorboard and is_main() else None

    def _pick_coco_kinds(self) -> tuple[Kind, ...]:
        """Choose the kinds of COCO's metrics to validate by; none for RetinaFace."""
        if self.config.model.architecture == "retinaface" or not self.val_set:
            return ()
        if not is_installed():
            self.report('validations measure AP50 only; COCO\'s metrics need pip install -e ".[eval]"')
            return ()
        return ("bbox", "segm") if "mask" in self.objective.names else ("bbox",)

    def _make_stepping(self, network: nn.Module, device: torch.device) -> Stepping:
        train = self.config.train
        dtype = pick_dtype(train.precision, device)
        return Stepping(
            make_optimizer(self.model, train),
            torch.amp.GradScaler(device.type, enabled=dtype == torch.float16),
            device,
            dtype,
            learning_rate=self._learning_rate,
            parts=train.accumulation,
            clip_norm=train.clip_norm,
            no_sync=network.no_sync if isinstance(network, DistributedDataParallel) else nullcontext,
            guarded=list(self.model.buffers()) if train.skip_nonfinite else (),
        )

    def fit(self, stop: StopRequest) -> bool:
        """Train up to the last epoch, `train.max_steps`, or a request to stop, and leave the run's folder complete.

        Gives whether a request stopped it before its end, in this process or another.
        """
        if is_main():
            with whole_file(self.output / "config.yaml") as partial:
                partial.write_text(yaml.safe_dump(to_dict(self.config), sort_keys=False), encoding="utf-8")
        self.history.start()
        while not self._should_stop(stop) and (self._epoch_is_open() or self.step < self.total_steps):
            if not self._epoch_is_open():
                self._train_epoch(stop)
            if self._epoch_is_open():
                self._finish_epoch(stop)
        self.faults.warn_outside()
        self.history.finish(**self._place())
        return any_process(stop.requested) and (self.step < self.total_steps or self._epoch_is_open())

    def try_out(self, steps: int) -> Iterator[Row]:
        """Take so many steps, to see that everything fits, and give the losses of each; nothing is written."""
        taken: list[Row] = []

        def after_step(step: Step) -> bool:
            self.step = step.number
            self.guard.add(step, [])
            taken.extend(self.guard.collect())
            return step.number >= steps

        while self.step < steps:
            self._run_steps(after_step)
        yield from taken

    def _train_epoch(self, stop: StopRequest) -> None:
        """Train to the end of the epoch, or a stop inside it, and save."""
        first = self.step % self.steps_per_epoch
        title = f"epoch {self.step // self.steps_per_epoch + 1}/{self.config.train.epochs}"
        started = time.monotonic() - self.seconds
        self.pace = Pace()

        def after_step(step: Step) -> bool:
            self.step = step.number
            self.seconds = time.monotonic() - started
            if self.average is not None:
                self.average.update_parameters(self.model)
            self.guard.add(step, self.paths)
            bar.update()
            ends_row = self.step % self.config.train.log_every == 0
            if ends_row or not works_behind(self.stepping.device):
                self._collect()
            if ends_row:
                self._end_row(bar)
            if self.step % self.config.train.checkpoint_every == 0 and not self._ends_epoch():
                self._save()
            return self._should_stop(stop)

        with progress(title, total=self.steps_per_epoch, initial=first, unit="step") as bar:
            self._run_steps(after_step)
        self._save()

    def _run_steps(self, after_step: Callable[[Step], bool]) -> None:
        """Train over the rest of the epoch that the next step belongs to."""
        epoch, first = divmod(self.step, self.steps_per_epoch)
        set_learning(self.model, self.config.train, frozen=self.frozen)
        batches = self.pace.measure(self.loader.epoch(epoch, first=first), size=lambda batch: len(batch.paths))
        torch.backends.cudnn.benchmark = True    # all batches are of one size, unlike the photos of a validation
        train_one_epoch(self.objective, map(self._note, batches), self.stepping, first_step=self.step, after_step=after_step)
        torch.backends.cudnn.benchmark = False

    def _note(self, batch: TrainingBatch) -> TrainingBatch:
        self.paths = batch.paths
        self.faults.add(batch.faults)
        if self.step < self.steps_per_epoch:    # later epochs show the same boxes again
            self.faults.outside += batch.outside
        return batch

    def _collect(self) -> None:
        for losses in self.guard.collect():
            self.history.add(losses)

    def _end_row(self, bar: Any) -> None:
        row = self.history.end_row(**self._place())
        bar.set_postfix_str(f"{self.pace}, {format_losses(row)}, lr {row['lr']:.2g}")
        seconds, waited = self.pace.lap()
        if bar.disable:    # without a terminal there is no bar, but a log
            step = (self.step - 1) % self.steps_per_epoch + 1
            eta = self.pace.time_left(self.steps_per_epoch - step)
            losses = format_progress(self.history.medians(), self.history.since_epoch.means())
            self.report(
                f"epoch {row['epoch']} [{step}/{self.steps_per_epoch}] eta {eta} lr {row['lr']:.3g} "
                f"{losses} time {seconds:.2g} data {waited:.2g}"
            )
        if self.board is not None:
            self.board.add("train", row, step=self.step)

    def _learning_rate(self, step: int) -> float:
        return learning_rate(step, config=self.config.train, steps_per_epoch=self.steps_per_epoch)

    def _place(self) -> Row:
        """Where the last iteration was: its epoch, counted from 1, its number and its learning rate."""
        last = max(0, self.step - 1)
        return {"epoch": last // self.steps_per_epoch + 1, "step": self.step, "lr": self._learning_rate(last)}

    def _should_stop(self, stop: StopRequest) -> bool:
        return any_process(stop.requested) or (0 < self.config.train.max_steps <= self.step and not self._epoch_is_open())

    def _ends_epoch(self) -> bool:
        return self.step > 0 and self.step % self.steps_per_epoch == 0

    def _epoch_is_open(self) -> bool:
        """Whether the last iteration of an epoch is done, and its measuring is not."""
        return self._ends_epoch() and len(self.history.epoch_rows) < self.step // self.steps_per_epoch

    def _finish_epoch(self, stop: StopRequest) -> None:
        """Measure, keep the best, and write a row of the history; a stop leaves that to the run that is resumed."""
        epoch, epochs = self.step // self.steps_per_epoch, self.config.train.epochs
        row = {**self._place(), **self.history.since_epoch.means(), "seconds": round(self.seconds, 2)}
        pace = str(self.pace)    # without the time it takes to measure
        evaluation = None
        if self.val_set is not None and (epoch % self.config.train.validate_every == 0 or epoch == epochs):
            evaluation = self._validate(self.val_set, stop)
            row |= {name: evaluation.metrics[name] for name in ("ap50",) if name in evaluation.metrics}
            row |= evaluation.metrics.get("wider", {})
        self.faults.share()
        if any_process(stop.requested):
            return
        self.faults.warn_outside()
        if evaluation is not None and is_main():
            row |= self._measure_coco(evaluation)
        self.history.end_epoch(row)
        self.history.draw()
        if self.val_set is not None and evaluation is not None and is_main():
            draw_first(self.val_set, evaluation, self.output / "detections.png", confidence=self.config.test.draw_confidence)
        self._keep_best(row)
        if self.board is not None:
            self.board.add("epoch", row, step=self.step)
        measured = "".join(f", {title} {row[name]:.4f}" for name, title in FIGURES.items() if name in row)
        self.report(f"epoch {epoch}/{epochs}: {format_losses(row)}{measured}, {pace}, {self.seconds:.0f} s")
        self.seconds = 0.0
        self._save()

    def _validate(self, val_set: PhotoSet, stop: StopRequest) -> Evaluation:
        """Figures of the measured model on a set, each process seeing its share; of a part of it where a stop is requested."""
        # Each process has the statistics of its own images; best.pth is to have those that are measured.
        broadcast_buffers(self.measured_model)
        indices = share(range(len(val_set)))
        with progress("validating", total=len(indices), unit="image") as bar:

            def until_stop() -> Iterator[Photo]:
                for number, photo in enumerate(val_set.photos(indices)):
                    if stop.requested and number:
                        return
                    yield photo
                    bar.update()

            evaluation = evaluate(self.make_detect(self.measured_model), until_stop(), official=self.official)
        self.faults.add(evaluation.faults)
        return evaluation

    def _measure_coco(self, evaluation: Evaluation) -> Row:
        """Print COCO's summaries and return their metrics by the columns of history.csv."""
        row: Row = {}
        for kind in self.coco_kinds:
            if kind == "segm" and not have_masks(evaluation.detections, evaluation.targets):
                continue    # the set has boxes only
            name = f"{GROUPS[kind]}_100"
            metrics = coco_metrics(evaluation.detections, evaluation.targets, kind=kind)[name]
            objects = "boxes" if kind == "bbox" else "masks"
            self.report(f"COCO's metrics of {objects}:\n{format_summary(metrics)}")
            row |= {f"{name}_{key}": value for key, value in metrics.items()}
        return row

    @property
    def measured_model(self) -> nn.Module:
        """The average of the weights where there is one."""
        return self.model if self.average is None else self.average.module

    def _keep_best(self, row: Row) -> None:
        """best.pth has the highest AP50, or the lowest loss without faces to validate on."""
        by_loss = self.val_set is None or not self.val_set.num_faces
        measure, sign = ("total", -1) if by_loss else ("ap50", 1)
        if measure in row and (measure not in self.best or sign * row[measure] > sign * self.best[measure]):
            self.best = {"epoch": row["epoch"], measure: row[measure]}
            if is_main():
                write_checkpoint(self.output / "best.pth", {**self._model_state(self.measured_model), **self.best})

    def _model_state(self, model: nn.Module) -> dict[str, Any]:
        """What it takes to build a model again."""
        return {"config": to_dict(self.config), "model": model.state_dict()}

    def _save(self) -> None:
        """Write last.pth, unless it would hold what is no number: the one before is worth more then."""
        place = self.step, len(self.history.epoch_rows)
        if place == self.saved:    # previous.pth is to stay an earlier one
            return
        self.saved = place
        self._collect()
        if not all(bool(value.isfinite().all()) for value in self.model.state_dict().values()):
            raise ValueError(f"a weight is not finite after iteration {self.step}; the last checkpoint is kept; try a lower train.lr")
        random = gather(random_state())
        if not is_main():
            return
        state = {
            **self._model_state(self.model),
            "preset": self.preset,
            "average": None if self.average is None else self.average.state_dict(),
            "optimizer": self.stepping.optimizer.state_dict(),
            "scaler": self.stepping.scaler.state_dict(),
            "random": random,
            "step": self.step,
            "seconds": self.seconds,
            "skipped": self.guard.skipped,
            "best": self.best,
            "history": self.history.state(),
        }
        write_checkpoint(self.output / "last.pth", state, keep=self.output / "previous.pth")

    def _restore(self, checkpoint: dict[str, Any]) -> None:
        self.model.load_state_dict(checkpoint["model"])
        if self.average is not None:
            if checkpoint["average"] is not None:
                self.average.load_state_dict(checkpoint["average"])
            else:    # an average that is asked for only now starts here
                self.average.module.load_state_dict(checkpoint["model"])
        optimizer = self.stepping.optimizer
        # What the settings say now, of momentum and weight decay, stays.
        optimizer.load_state_dict({**checkpoint["optimizer"], "param_groups": optimizer.state_dict()["param_groups"]})
        if checkpoint["scaler"]:    # empty where the run before needed none
            self.stepping.scaler.load_state_dict(checkpoint["scaler"])
        if rank() < len(checkpoint["random"]):
            restore_random_state(checkpoint["random"][rank()])
        self.step, self.seconds, self.best = checkpoint["step"], checkpoint["seconds"], checkpoint["best"]
        self.guard.skipped = checkpoint["skipped"]
        self.saved = self.step, len(self.history.epoch_rows)


def draw_first(photos: PhotoSet, evaluation: Evaluation, path: Path, *, confidence: float) -> None:
    """Draw what was found in the first photos that can be read."""
    readable = (photo.image for photo in photos.photos() if photo.image is not None)
    pairs = islice(zip(readable, evaluation.detections, strict=False), FIRST_IMAGES)
    write_image(path, contact_sheet([draw_cell(image, detections.above(confidence)) for image, detections in pairs]))


def coco_columns(kinds: Sequence[Kind]) -> list[str]:
    """Return the columns of history.csv that hold COCO's metrics of some kinds."""
    return [f"{GROUPS[kind]}_100_{name}" for kind in kinds for name in NAMES]


def format_progress(recent: Row, epoch: Row) -> str:
    """Format losses as torchvision's references do: the median of the last steps, and in brackets
    the mean of the epoch."""
    names = {"total": "loss", **{name: name for name in recent if name != "total"}}
    pairs = {title: (_digits(recent[name]), _digits(epoch[name])) for name, title in names.items()}
    return " ".join(f"{title} {median} ({mean})" for title, (median, mean) in pairs.items())


def _digits(value: float) -> str:
    """Three digits: 123, 27.0, 4.10, 0.0123."""
    return f"{value:#.3g}".rstrip(".")


def format_losses(row: Row) -> str:
    """The losses of a row in a line."""
    others = {"epoch", "step", "lr", "seconds", *FIGURES}
    names = [name for name in row if name not in others and not name.startswith("coco")]
    return ", ".join(f"{name} {row[name]:.3f}" for name in names)
