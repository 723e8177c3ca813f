"""Train a face detector."""

from __future__ import annotations

import utils.import_errors  # noqa: F401 - the first, since it explains the errors of the others

# isort: split
import argparse
import math
import socket
import sys
import tempfile
import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from config import LABEL_SETTINGS, PRESETS, Config, ModelConfig, TrainConfig, from_dict, load_config, to_dict
from data.dataset import FaceDataset
from data.ground_truth import faces_of_images, read_ground_truth
from data.labels import image_folders
from data.loader import FaceLoader
from data.synthetic import draw_set
from detector.backbone import IMAGENET_MEAN, IMAGENET_STD
from detector.face_detector import FaceDetector
from detector.models import Model, build_model, make_objective
from detector.optimizer import full_rate
from detector.retinaface import RetinaFace
from detector.summary import format_table, layers_of, sum_up
from detector.trainer import Trainer, format_losses
from detector.weights import start_from
from utils.checkpoint import find_run
from utils.devices import peak_memory, pick_device
from utils.distributed import (
    Job,
    from_main,
    gather,
    is_main,
    local_rank,
    process_group,
    rank,
    require_same,
    sync_batch_norms,
    wait_for_all,
    world_size,
)
from utils.files import remove_unfinished
from utils.folder_lock import lock_folder, sees_lock
from utils.script import DONE, DONE_WITH_FAULTS, INTERRUPTED, ArgumentParser, StopRequest, count_of, run_script
from utils.wider_eval import OfficialFaces

DRY_STEPS = 2
# What a resumed run shares with the run before, besides all of model, loss and augmentation; workers and the like may differ.
MUST_MATCH = (
    "data.train", "data.repeat", "data.val",
    *LABEL_SETTINGS, "data.synthetic", "data.size", "train.batch_size", "train.seed", "train.optimizer",
)  # fmt: skip


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
    parser.add_argument("--dry-run", action="store_true", help="print settings, parameters, GMAC and memory, take two steps, write nothing")
    parser.add_argument("settings", metavar="key=value", nargs="*", help="settings over those of preset and file, such as train.lr=0.01")
    return parser.parse_intermixed_args(argv)


def make_trainer(
    config: Config, output: Path, *, preset: str, report: Callable[[str], None], checkpoint: dict[str, Any] | None = None
) -> tuple[Trainer, str]:
    """The run that settings describe, or that a checkpoint goes on with, and a description of it."""
    device = pick_device(config.train.device, local_rank=local_rank())
    if device.type == "cuda":
        torch.cuda.set_device(device)    # else every process would also take memory of the first GPU
    torch.manual_seed(config.train.seed)
    model, notes = make_model(config, fresh=checkpoint is None)
    if config.train.sync_batch_norm:
        sync_batch_norms(model, device)
    model = model.to(device, memory_format=torch.channels_last)    # type: ignore[call-overload]
    train_set, val_set = make_datasets(config, output, draw_anew=checkpoint is None, report=report)
    loader = FaceLoader(
        train_set,
        batch_size=config.train.batch_size,
        workers=config.data.workers,
        device=device,
        rank=rank(),
        world_size=world_size(),
    )
    require_same_start(config, train_set, val_set)
    trainer = Trainer(
        model,
        config,
        output,
        make_objective=lambda network: make_objective(network, model, config.loss),
        make_detect=lambda trained: FaceDetector(trained, config.test).detect,    # type: ignore[arg-type]
        frozen=[*model.first_stages(config.train.freeze_stages), *model.idle(config.loss)],
        loader=loader,
        val_set=val_set,
        official=official_faces(val_set, config.data.ground_truth),
        preset=preset,
        device=device,
        report=report,
        checkpoint=checkpoint,
    )
    return trainer, describe(trainer, train_set, notes)


def require_same_start(config: Config, train_set: FaceDataset, val_set: FaceDataset | None) -> None:
    """Raise ValueError if processes have other settings or label files than the first one."""
    shared = {section: values for section, values in to_dict(config).items() if section not in ("data", "test")}
    settings = {f"{section}.{name}": value for section, values in shared.items() for name, value in values.items()}
    sets = {"data.train": train_set, "data.val": val_set}
    sizes = {name: describe_size(part) if part else "none" for name, part in sets.items()}
    require_same({**settings, **sizes})


def describe_size(dataset: FaceDataset) -> str:
    """Say how many images and faces a set has."""
    return f"{dataset.num_images:,} images with {dataset.table.face_count:,} faces"


def describe(trainer: Trainer, train_set: FaceDataset, notes: Sequence[str]) -> str:
    """What a run is made of, in some lines; `notes` say how the weights it starts from fit."""
    config, train = trainer.config, trainer.config.train
    rate = f"learning rate {full_rate(train):g}"
    if train.scale_lr:
        rate += f" ({train.lr:g} scaled from a batch of {train.lr_batch_size} to {train.batch_size})"
    elif train.batch_size != train.lr_batch_size:
        rate += f" (meant for a batch of {train.lr_batch_size}; train.scale_lr=true scales it)"
    place = f"on {trainer.stepping.device} in {str(trainer.stepping.dtype).removeprefix('torch.')}"
    lines = [
        describe_size(train_set)
        + (f", {len(train_set):,} samples an epoch by data.repeat" if config.data.repeat else "")
        + f", {count_of(trainer.steps_per_epoch, 'step')} of "
        f"{train.batch_size} an epoch, {count_of(train.epochs, 'epoch')}, {train.optimizer}, {rate}, {place}"
        + (f", {world_size()} processes" if world_size() > 1 else "")
    ]
    if isinstance(trainer.model, RetinaFace):
        strides = ", ".join(map(str, trainer.model.levels.values()))
        lines.append(f"levels: {', '.join(trainer.model.levels)} (strides {strides})")
    lines += [f"{config.model.weights}: {note}" for note in notes]
    if trainer.step:
        lines.append(f"going on from iteration {trainer.step:,} of {trainer.total_steps:,}")
    elif config.model.weights is None and config.model.backbone_weights is None:
        lines.append("the backbone starts from random weights; see model.backbone_weights and model.weights")
        if config.train.freeze_batch_norm or config.train.freeze_stages:
            lines.append("train.freeze_batch_norm or train.freeze_stages keeps some of these as they are, so that it will learn little")
    return "\n".join(lines)


def try_out(config: Config, *, preset: str, report: Callable[[str], None]) -> None:
    """Say what a run would be made of and take two steps, without leaving anything."""
    with tempfile.TemporaryDirectory() as own_folder:
        folder = Path(gather(own_folder)[0])    # where the main process draws
        trainer, description = make_trainer(config, folder, preset=preset, report=report)
        report(yaml.safe_dump(to_dict(config), sort_keys=False))
        layers = layers_of(trainer.model, size=config.data.size)
        report(format_table(layers))
        report(sum_up(layers, size=config.data.size))
        report(description)
        for number, losses in enumerate(trainer.try_out(DRY_STEPS), start=1):
            report(f"iteration {number}: {format_losses(losses)}")
        report(f"{peak_memory(trainer.stepping.device)}, with batches of {config.train.batch_size} at {config.data.size} pixels")
        wait_for_all()


def warn_of_normalization(model: ModelConfig, train: TrainConfig) -> None:
    """Warn if layers are frozen that expect images normalized as those of their ImageNet weights."""
    if model.architecture != "retinaface" or not model.backbone_weights:
        return
    if not train.freeze_stages and not train.freeze_batch_norm:
        return    # batch norms soon have statistics of the images as they are
    found = model.channel_order, *model.mean, *model.std
    expected = "rgb", *IMAGENET_MEAN, *IMAGENET_STD
    if found[0] != expected[0] or not np.allclose(found[1:], expected[1:], rtol=0.05):
        mean, std = (str(list(values)).replace(" ", "") for values in (IMAGENET_MEAN, IMAGENET_STD))
        warnings.warn(
            "train.freeze_stages and train.freeze_batch_norm keep layers and statistics that "
            "model.backbone_weights has from images normalized as torchvision does; "
            f"set model.channel_order=rgb model.mean={mean} model.std={std}",
            stacklevel=2,
        )


def make_model(config: Config, *, fresh: bool) -> tuple[Model, list[str]]:
    """Build the model with the weights it starts from, unless it is resumed; return the notes on them."""
    if fresh and config.model.weights is None:
        warn_of_normalization(config.model, config.train)
        return build_model(config.model), []
    model = build_model(replace(config.model, backbone_weights=None))
    return model, start_from(model, config.model.weights) if fresh and config.model.weights else []


def make_datasets(
    config: Config, output: Path, *, draw_anew: bool, report: Callable[[str], None]
) -> tuple[FaceDataset, FaceDataset | None]:
    """The training set and, where there is one, the validation set; drawn ones are drawn into the run's folder, by the main process."""
    train, val = config.data.train, config.data.val
    if not train and config.data.synthetic:
        for part, images, seed in (("train", config.data.synthetic, 0), ("val", math.ceil(config.data.synthetic / 4), 1)):
            folder = output / "data" / part
            if is_main() and (draw_anew or not (folder / "label.txt").exists()):
                report(f"drawing {images:,} images into {folder}")
                draw_set(folder, images=images, size=config.data.size, seed=seed)
        wait_for_all()
        train = (str(output / "data" / "train" / "label.txt"),)
        val = val or (str(output / "data" / "val" / "label.txt"),)
    if not train:
        raise ValueError("data.train: expected label files, found none; see --preset demo, or data.train=widerface/train/label.txt")
    folders = image_folders((*train, *val), config.data.images)
    train_set = make_dataset(train, config, images=folders[: len(train)])
    val_config = replace(config, data=replace(config.data, repeat=()))
    val_set = make_dataset(val, val_config, images=folders[len(train) :]) if val else None
    if not train_set.num_faces:
        raise ValueError(no_face("data.train", train, train_set))
    if val_set is not None and not val_set.num_faces:
        warnings.warn(f"{no_face('data.val', val, val_set)} Without faces there is no AP50, and best.pth has the lowest loss", stacklevel=2)
    return train_set, val_set


def no_face(key: str, labels: Sequence[str], dataset: FaceDataset) -> str:
    """Say that a set has no face to learn or to find, and where that may come from."""
    where = f"no face in {key}: {', '.join(labels)}"
    if dataset.table.face_count:
        return f"{where}; all {dataset.table.face_count:,} boxes are ignored or without area; is data.ignore_smaller too large?"
    return f"{where}; are the label files empty, or does data.classes name the wrong class?"


def official_faces(val_set: FaceDataset | None, folder: str | None) -> list[OfficialFaces] | None:
    """WIDER's own lists for the photos of the validation set, where their folder is given."""
    if val_set is None or folder is None:
        return None
    return faces_of_images(val_set.imgs_path, read_ground_truth(folder), source="data.ground_truth")


def make_dataset(labels: Sequence[str], config: Config, *, images: Sequence[str | None]) -> FaceDataset:
    """The images of some label files, which lie in the folders `images`; ValueError where none of them can be read."""
    dataset = FaceDataset(
        labels,
        replace(config.data, images=tuple(folder for folder in images if folder is not None)),
        augmentation=config.augmentation,
        fill=config.model.mean if config.model.channel_order == "bgr" else config.model.mean[::-1],
        seed=config.train.seed,
    )
    dataset.check_readable()
    return dataset


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
    with process_group() as job:
        if not is_main():
            warnings.simplefilter("ignore")    # the main process says it
        arguments = parse_arguments(argv)
        report = partial(print, flush=True) if is_main() else lambda text: None
        preset = arguments.preset or "resnet50"
        config = load_config(preset, file=arguments.config, overrides=arguments.settings)
        if arguments.dry_run:
            try_out(config, preset=preset, report=report)
            return DONE
        output = arguments.output or Path("weights") / preset
        with hold_folder(output):
            checkpoint = find_common_run(output, job, resume=arguments.resume)
            return train(arguments, config, output, preset=preset, report=report, checkpoint=checkpoint)


@contextmanager
def hold_folder(output: Path) -> Iterator[None]:
    """Hold the folder of the run for these processes; ValueError if others do, or see another one."""
    mark = from_main(uuid.uuid4().hex)
    with lock_folder(output, mark=mark) if is_main() else nullcontext():
        wait_for_all()    # for the lock file
        seen = gather((socket.gethostname(), is_main() or sees_lock(output, mark)))
        for number, (host, sees) in enumerate(seen):
            if not sees:
                raise ValueError(
                    f"{output}: process {number} on {host} does not see the folder that process 0 "
                    "sees there; --output must name a folder that all machines share"
                )
        if is_main():
            remove_unfinished(output)    # what a killed run left half written
        yield


def find_common_run(output: Path, job: Job, *, resume: bool) -> dict[str, Any] | None:
    """Return the checkpoint to go on from in all processes, or None; the main process decides.

    Without --resume it goes on only with what this very job began before torchrun restarted it.
    """
    checkpoint = None
    if is_main():
        checkpoint = find_run(output, resume=resume or job.has_started())
        job.start()
    return from_main(checkpoint)


def train(
    arguments: argparse.Namespace,
    config: Config,
    output: Path,
    *,
    preset: str,
    report: Callable[[str], None],
    checkpoint: dict[str, Any] | None,
) -> int:
    """Start or go on with a run; gives the exit code."""
    if checkpoint is not None:
        config, preset = settings_to_go_on_with(checkpoint, arguments, output), checkpoint["preset"]
    trainer, description = make_trainer(config, output, preset=preset, report=report, checkpoint=checkpoint)
    report(description)
    with StopRequest() as stop:
        stopped = trainer.fit(stop)
    if stopped:
        report(f"stopped after iteration {trainer.step:,} of {trainer.total_steps:,}; --resume goes on from {output / 'last.pth'}")
        return INTERRUPTED
    best = ", ".join(f"{name} {value:.4g}" for name, value in trainer.best.items())
    report(f"written to {output}" + (f", best.pth: {best}" if best else ""))
    return DONE_WITH_FAULTS if trainer.faults else DONE


if __name__ == "__main__":
    sys.exit(run_script(main, "train.py"))
