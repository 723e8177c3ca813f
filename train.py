"""Train a face detector."""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor
from tqdm import tqdm

from config import LABEL_SETTINGS, PRESETS, Config, from_dict, load_config, to_dict
from data.dataset import FaceDataset
from data.loader import Batch, FaceLoader
from data.synthetic import draw_set
from detector.engine import evaluate, full_rate, learning_rate, train_one_epoch
from detector.face_detector import FaceDetector
from detector.retinaface import RetinaFace
from detector.weights import start_from
from layers.multibox_loss import MultiBoxLoss
from utils.arrays import Image
from utils.checkpoint import find_run, write_checkpoint
from utils.devices import pick_device, pick_dtype
from utils.files import whole_file
from utils.history import History, Row
from utils.images import write_image
from utils.script import DONE, DONE_WITH_FAULTS, INTERRUPTED, ArgumentParser, StopRequest, run_script
from utils.structures import Detections, Photo, Target
from utils.visualize import FIRST_IMAGES, contact_sheet, draw_cell

DRY_STEPS = 2
# What a resumed run shares with the run before, besides all of model, loss and augmentation; workers and the like may differ.
MUST_MATCH = ("data.train", "data.val", *LABEL_SETTINGS, "data.synthetic", "data.size", "train.batch_size", "train.seed")


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = ArgumentParser(
        prog="train.py",
        description="Train a face detector. Settings, losses, curves, validation and checkpoints of the run go to one folder.",
        epilog="Settings, with their defaults and reasons, are in config.py. Example: "
        "python train.py --preset mobilenet0.25 data.train=widerface/train/label.txt data.val=widerface/val/label.txt",
    )
    parser.add_argument("--preset", metavar="NAME", help=f"settings to start from: {', '.join(PRESETS)} (default: resnet50)")
    parser.add_argument("--config", metavar="FILE", type=Path, help="YAML file of settings, over those of the preset")
    parser.add_argument("--output", metavar="DIR", type=Path, help="folder of the run (default: weights/<preset>)")
    parser.add_argument("--resume", action="store_true", help="go on from the folder's last.pth; start anew where there is none")
    parser.add_argument("--dry-run", action="store_true", help="print settings and parameters, train two iterations, write nothing")
    parser.add_argument("settings", metavar="key=value", nargs="*", help="settings over those of preset and file, such as train.lr=0.01")
    return parser.parse_intermixed_args(argv)


class Run:
    """A training run: the parts it is built of, and where it stands. `checkpoint` is one to go on from."""

    def __init__(self, config: Config, output: Path, *, preset: str, checkpoint: dict[str, Any] | None = None):
        self.config = config
        self.output = output
        self.preset = preset
        self.device = pick_device(config.train.device)
        self.dtype = pick_dtype(config.train.precision, self.device)
        torch.manual_seed(config.train.seed)
        model, self.heads_anew = make_model(config, fresh=checkpoint is None)
        self.model: RetinaFace = model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.criterion = MultiBoxLoss(**to_dict(config)["loss"])
        self.optimizer = torch.optim.SGD(
            self.model.parameters(), lr=config.train.lr, momentum=config.train.momentum, weight_decay=config.train.weight_decay
        )
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)
        self.train_set, self.val_set = make_datasets(config, output, draw_anew=checkpoint is None)
        self.loader = FaceLoader(
            self.train_set,
            batch_size=config.train.batch_size,
            workers=config.data.workers,
            pin_memory=self.device.type == "cuda",
        )
        self.steps_per_epoch = len(self.loader)
        self.total_steps = config.train.epochs * self.steps_per_epoch
        self.step = 0    # iterations done
        self.seconds = 0.0    # spent on the epoch at hand
        self.best: Row = {}
        self.faults: set[str] = set()    # images that could not be read
        self.outside = 0    # boxes that reach beyond their photo, seen in the first epoch
        has_landmark_loss = config.model.landmarks and config.loss.landmark_weight
        loss_names = ["class", "box", "landmark"] if has_landmark_loss else ["class", "box"]
        self.history = History(output, loss_names, checkpoint["history"] if checkpoint else None)
        if checkpoint is not None:
            self._restore(checkpoint)

    def fit(self, stop: StopRequest) -> None:
        """Train up to the last epoch, `train.max_steps`, or a request to stop, and leave the run's folder complete."""
        with whole_file(self.output / "config.yaml") as partial:
            partial.write_text(yaml.safe_dump(to_dict(self.config), sort_keys=False), encoding="utf-8")
        self.history.start()
        while not self._should_stop(stop) and (self._epoch_is_open() or self.step < self.total_steps):
            if not self._epoch_is_open():
                self._train_epoch(stop)
            if self._epoch_is_open():
                self._finish_epoch(stop)
        self._warn_outside()
        self.history.finish(**self._place())

    def try_out(self) -> None:
        """Print what the run is made of and take two steps, without writing anything."""
        print(yaml.safe_dump(to_dict(self.config), sort_keys=False))
        for name, part in [*self.model.named_children(), ("all", self.model)]:
            print(f"{name:14}{sum(weight.numel() for weight in part.parameters()):12,} parameters")
        print(self)

        def after_step(step: int, losses: dict[str, Tensor]) -> bool:
            self.step = step
            print(f"iteration {step}: {format_losses({name: float(loss) for name, loss in losses.items()})}")
            return step >= DRY_STEPS

        while self.step < DRY_STEPS:
            self._run_steps(after_step)

    def _train_epoch(self, stop: StopRequest) -> None:
        """Train to the end of the epoch, or a stop inside it, and save."""
        epoch, first = divmod(self.step, self.steps_per_epoch)
        title = f"epoch {epoch + 1}/{self.config.train.epochs}"
        bar = tqdm(total=self.steps_per_epoch, initial=first, desc=title, unit="step", disable=None, leave=False)
        started = time.monotonic() - self.seconds

        def after_step(step: int, losses: dict[str, Tensor]) -> bool:
            self.step = step
            self.seconds = time.monotonic() - started
            self.history.add(losses)
            bar.update()
            if step % self.config.train.log_every == 0:
                row = self.history.end_row(**self._place())
                self._check_finite(row)
                bar.set_postfix_str(format_losses(row))
            if step % self.config.train.checkpoint_every == 0 and step % self.steps_per_epoch:
                self._save()
            return self._should_stop(stop)

        with bar:
            self._run_steps(after_step)
        self._save()

    def _run_steps(self, after_step: Callable[[int, dict[str, Tensor]], bool]) -> None:
        """Train over the rest of the epoch that the next step belongs to."""
        epoch, first = divmod(self.step, self.steps_per_epoch)
        self.model.train()
        train_one_epoch(
            self._losses,
            map(self._note_faults, self.loader.epoch(epoch, first=first)),
            self.optimizer,
            device=self.device,
            dtype=self.dtype,
            scaler=self.scaler,
            learning_rate=self._learning_rate,
            first_step=self.step,
            after_step=after_step,
        )

    def _losses(self, images: Tensor, targets: list[Target]) -> dict[str, Tensor]:
        return self.criterion(self.model(images), self.model.priors(*images.shape[2:]), targets)

    def _learning_rate(self, step: int) -> float:
        return learning_rate(step, config=self.config.train, steps_per_epoch=self.steps_per_epoch)

    def _place(self) -> Row:
        """Where the last iteration was: its epoch, counted from 1, its number and its learning rate."""
        last = max(0, self.step - 1)
        return {"epoch": last // self.steps_per_epoch + 1, "step": self.step, "lr": self._learning_rate(last)}

    def _should_stop(self, stop: StopRequest) -> bool:
        return stop.requested or (0 < self.config.train.max_steps <= self.step and not self._epoch_is_open())

    def _epoch_is_open(self) -> bool:
        """Whether the last iteration of an epoch is done, and its measuring is not."""
        return self.step > 0 and self.step % self.steps_per_epoch == 0 and self.history.since_epoch.count > 0

    def _finish_epoch(self, stop: StopRequest) -> None:
        """Measure, keep the best, and write a row of the history; a stop leaves that to the run that is resumed."""
        epoch, epochs = self.step // self.steps_per_epoch, self.config.train.epochs
        row = {**self._place(), **self.history.since_epoch.means(), "seconds": round(self.seconds, 2)}
        line = f"epoch {epoch}/{epochs}: {format_losses(row)}"
        if self.val_set is not None and (epoch % self.config.train.validate_every == 0 or epoch == epochs):
            row["ap50"] = self._validate(self.val_set, stop)
            line += f", AP50 {row['ap50']:.4f}"
        if stop.requested:
            return
        self._warn_outside()
        self.history.end_epoch(row)
        self.history.draw()
        self._keep_best(row)
        print(f"{line}, {self.seconds:.0f} s", flush=True)
        self.seconds = 0.0
        self._save()

    def _validate(self, dataset: FaceDataset, stop: StopRequest) -> float:
        """AP50 on a set, whose first images are drawn; over a part of it where a stop is requested."""
        drawn: list[Image] = []

        def see(photo: Photo, detections: Detections) -> None:
            if photo.image is not None and len(drawn) < FIRST_IMAGES:
                drawn.append(draw_cell(photo.image, detections.above(self.config.test.draw_confidence)))

        photos = tqdm(dataset.photos(), desc="validating", total=len(dataset), unit="image", disable=None, leave=False)
        until_stop = (photo for number, photo in enumerate(photos) if not stop.requested or not number)
        evaluation = evaluate(FaceDetector(self.model, self.config.test).detect, until_stop, see=see)
        self._warn(evaluation.faults)
        write_image(self.output / "detections.png", contact_sheet(drawn))
        return float(evaluation.metrics["ap50"])

    def _keep_best(self, row: Row) -> None:
        """best.pth has the highest AP50, or without validation the lowest loss."""
        measure, sign = ("total", -1) if self.val_set is None else ("ap50", 1)
        if measure in row and (not self.best or sign * row[measure] > sign * self.best[measure]):
            self.best = {"epoch": row["epoch"], measure: row[measure]}
            write_checkpoint(self.output / "best.pth", {**self._model_state(), **self.best})

    def _check_finite(self, row: Row) -> None:
        if not all(map(math.isfinite, row.values())):
            raise ValueError(
                f"the loss is not finite by iteration {self.step} ({format_losses(row)}); the last checkpoint is kept; "
                "a lower train.lr or train.precision=float32 may help"
            )

    def _note_faults(self, batch: Batch) -> Batch:
        self._warn(batch.faults)
        if self.step < self.steps_per_epoch:
            self.outside += batch.outside
        return batch

    def _warn_outside(self) -> None:
        """Once, when the first epoch has shown every image."""
        if self.outside:
            warnings.warn(f"{self.outside} boxes reach beyond their image and are clipped to it, or dropped outside it", stacklevel=2)
            self.outside = 0

    def _warn(self, faults: Sequence[str]) -> None:
        """Each fault once."""
        for fault in faults:
            if fault not in self.faults:
                self.faults.add(fault)
                warnings.warn(fault, stacklevel=2)

    def _model_state(self) -> dict[str, Any]:
        """What it takes to build the model again."""
        return {"config": to_dict(self.config), "model": self.model.state_dict()}

    def _save(self) -> None:
        """Write last.pth, unless it would hold what is no number: the one before is worth more then."""
        if self.history.since_row.count:
            self._check_finite(self.history.since_row.means())
        if not all(bool(value.isfinite().all()) for value in self.model.state_dict().values()):
            raise ValueError(f"a weight is not finite after iteration {self.step}; the last checkpoint is kept; try a lower train.lr")
        state = {
            **self._model_state(),
            "preset": self.preset,
            "step": self.step,
            "seconds": self.seconds,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "best": self.best,
            "history": self.history.state(),
        }
        write_checkpoint(self.output / "last.pth", state, keep=self.output / "previous.pth")

    def _restore(self, checkpoint: dict[str, Any]) -> None:
        self.model.load_state_dict(checkpoint["model"])
        self.optimizer.load_state_dict(checkpoint["optimizer"])
        if checkpoint["scaler"]:    # empty where the run before needed none
            self.scaler.load_state_dict(checkpoint["scaler"])
        self.step, self.seconds, self.best = checkpoint["step"], checkpoint["seconds"], checkpoint["best"]

    def __str__(self) -> str:
        faces = self.train_set.table.face_count
        train = self.config.train
        return (
            f"{len(self.train_set):,} images with {faces:,} faces, {self.steps_per_epoch:,} steps of {train.batch_size} an epoch, "
            f"{train.epochs} epochs, learning rate {full_rate(train):g}, on {self.device} in {str(self.dtype).removeprefix('torch.')}"
        )


def make_model(config: Config, *, fresh: bool) -> tuple[RetinaFace, list[str]]:
    """The model with the weights it starts from, and the names of heads that did not fit those; not `fresh`, it gets its own later."""
    if fresh and config.model.weights is None:
        return RetinaFace(config.model), []
    model = RetinaFace(replace(config.model, backbone_weights=None))
    return model, start_from(model, config.model.weights) if fresh and config.model.weights else []


def make_datasets(config: Config, output: Path, *, draw_anew: bool) -> tuple[FaceDataset, FaceDataset | None]:
    """The training set and, where there is one, the validation set; drawn ones are drawn into the run's folder."""
    train, val = config.data.train, config.data.val
    if not train and config.data.synthetic:
        for part, images, seed in (("train", config.data.synthetic, 0), ("val", math.ceil(config.data.synthetic / 4), 1)):
            folder = output / "data" / part
            if draw_anew or not (folder / "label.txt").exists():
                print(f"drawing {images:,} images into {folder}", flush=True)
                draw_set(folder, images=images, size=config.data.size, seed=seed)
        train = (str(output / "data" / "train" / "label.txt"),)
        val = val or (str(output / "data" / "val" / "label.txt"),)
    if not train:
        raise ValueError("data.train: expected label files, found none; see --preset demo, or data.train=widerface/train/label.txt")
    return make_dataset(train, config), make_dataset(val, config) if val else None


def make_dataset(labels: Sequence[str], config: Config) -> FaceDataset:
    """The images of some label files; ValueError where none of them can be read."""
    dataset = FaceDataset(
        labels,
        config.data,
        augmentation=config.augmentation,
        fill=config.model.mean if config.model.channel_order == "bgr" else config.model.mean[::-1],
        seed=config.train.seed,
    )
    dataset.check_readable()
    return dataset


def format_losses(row: Row) -> str:
    """The losses of a row in a line."""
    return ", ".join(f"{name} {row[name]:.3f}" for name in ("class", "box", "landmark", "total") if name in row)


def settings_to_go_on_with(checkpoint: dict[str, Any], arguments: argparse.Namespace, output: Path) -> Config:
    """The settings of a run, under those of this command; ValueError that names the first one that must not differ, and does."""
    source = output / "last.pth"
    if arguments.preset not in (None, checkpoint["preset"]):
        raise ValueError(f"--preset: {source} was trained with {checkpoint['preset']!r}, found {arguments.preset!r}")
    saved = from_dict(checkpoint["config"], source=f"{source}: ")
    # Where the run was told to stop is no reason to stop there again.
    config = load_config(replace(saved, train=replace(saved.train, max_steps=0)), file=arguments.config, overrides=arguments.settings)
    ours, theirs = to_dict(config), to_dict(saved)
    whole_sections = [f"{section}.{name}" for section in ("model", "loss", "augmentation") for name in ours[section]]
    for key in [*MUST_MATCH, *whole_sections]:
        section, name = key.split(".")
        if ours[section][name] != theirs[section][name]:
            raise ValueError(f"{key}: {source} was trained with {theirs[section][name]!r}, found {ours[section][name]!r}")
    return config


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    preset = arguments.preset or "resnet50"
    config = load_config(preset, file=arguments.config, overrides=arguments.settings)
    if arguments.dry_run:
        with tempfile.TemporaryDirectory() as folder:
            Run(config, Path(folder), preset=preset).try_out()
        return DONE
    output = arguments.output or Path("weights") / preset
    checkpoint = find_run(output, resume=arguments.resume)
    if checkpoint is not None:
        config, preset = settings_to_go_on_with(checkpoint, arguments, output), checkpoint["preset"]
    run = Run(config, output, preset=preset, checkpoint=checkpoint)
    print(run)
    if run.heads_anew:
        print(f"{config.model.weights}: {', '.join(run.heads_anew)} did not fit and starts from random weights")
    if run.step:
        print(f"going on from iteration {run.step:,} of {run.total_steps:,}")
    elif config.model.weights is None and config.model.backbone_weights is None:
        print("the backbone starts from random weights; see model.backbone_weights and model.weights")
    with StopRequest() as stop:
        run.fit(stop)
    if stop.requested:
        print(f"stopped after iteration {run.step:,} of {run.total_steps:,}; --resume goes on from {output / 'last.pth'}")
        return INTERRUPTED
    best = ", ".join(f"{name} {value:.4g}" for name, value in run.best.items())
    print(f"written to {output}" + (f", best.pth: {best}" if best else ""))
    return DONE_WITH_FAULTS if run.faults else DONE


if __name__ == "__main__":
    sys.exit(run_script(main, "train.py"))
