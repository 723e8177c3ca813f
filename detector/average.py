"""Weights between a start and what was tuned from it: python -m detector.average START TUNED OUT

Such an average often keeps what the start knew and most of what fine-tuning taught (WiSE-FT,
arXiv 2109.01903; model soups, arXiv 2203.05482).
"""

from __future__ import annotations

import utils.import_errors  # noqa: F401 - the first, since it explains the errors of the others

# isort: split
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from config import Config, from_dict
from detector.models import Model, build_model
from detector.weights import match_levels, read_weights, strides_of
from utils.arrays import Image
from utils.checkpoint import read_checkpoint, write_checkpoint
from utils.files import files_below
from utils.images import IMAGE_SUFFIXES, read_image
from utils.script import DONE, ArgumentParser, count_of, run_script

PROGRAM = "detector.average"
CROPS, BATCH = 2000, 32    # that running statistics are computed on


def average_states(
    start: Mapping[str, Tensor], tuned: Mapping[str, Tensor], alpha: float
) -> dict[str, Tensor]:
    """Return (1 - alpha) start + alpha tuned for each tensor of `tuned`.

    One that `start` lacks, or that counts steps, is that of `tuned`. ValueError for other shapes.
    """
    averaged = {}
    for name, value in tuned.items():
        other = start.get(name)
        if other is None or not value.is_floating_point():
            averaged[name] = value.clone()
        elif other.shape != value.shape:
            raise ValueError(
                f"{name} is {tuple(other.shape)} in one and {tuple(value.shape)} in the other"
            )
        else:
            averaged[name] = torch.lerp(other.to(value.dtype), value, alpha)
    return averaged


def average_files(
    start: str | Path, tuned: str | Path, alpha: float
) -> tuple[dict[str, Any], Model]:
    """Average two weights files; return a checkpoint with the config of `tuned`, and its model.

    Levels that `start` lacks are filled from coarser ones, see `match_levels`. ValueError where the
    two are not of one backbone and number of channels, or `tuned` is no checkpoint of train.py.
    """
    settings = read_checkpoint(tuned).get("config")
    if not isinstance(settings, Mapping):
        raise ValueError(
            f"{tuned}: expected a checkpoint of train.py, whose settings are kept, found none"
        )
    first, second = read_weights(start), read_weights(tuned)
    config = second.config
    for name in ("architecture", "backbone", "channels"):
        found, expected = getattr(first.config, name), getattr(config, name)
        if found != expected:
            raise ValueError(f"{start}: expected the {name} of {tuned}, {expected}, found {found}")
    start_state = first.state
    if config.architecture == "retinaface":
        levels = strides_of(first.config), strides_of(config)
        start_state, _ = match_levels(start_state, *levels, source=start)
    try:
        averaged = average_states(start_state, second.state, alpha)
    except ValueError as error:
        raise ValueError(f"{start} and {tuned}: {error}") from None
    model = build_model(config)
    model.load_state_dict(averaged)
    sources = {"start": str(start), "tuned": str(tuned), "alpha": alpha}
    return {"config": dict(settings), "averaged_from": sources}, model.eval()


def compute_batch_norms(model: Model, crops: Iterator[Image], *, total: int) -> None:
    """Replace the running statistics of all batch norms by the means over batches of some crops."""
    norms = [part for part in model.modules() if isinstance(part, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None    # then they are plain means
        norm.train()
    with torch.no_grad(), tqdm(total=total, unit="crop", disable=None, leave=False) as bar:
        while batch := [crop for crop, _ in zip(crops, range(BATCH), strict=False)]:
            model(torch.from_numpy(np.stack(batch)).permute(0, 3, 1, 2))
            bar.update(len(batch))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()


def random_crops(folder: Path, config: Config, *, count: int) -> Iterator[Image]:
    """Yield random square crops (S,S,3) of data.size pixels from the images in a folder.

    They are scaled as in training, and are the same ones each time. Warns of images that cannot be
    read. ValueError for a folder without any that can.
    """
    files = files_below(folder, IMAGE_SUFFIXES)
    if not files:
        raise ValueError(f"--batch-norm {folder}: no images in this folder")
    rng = np.random.default_rng(0)
    size = config.data.size
    scales = [scale for scale in config.augmentation.crop_scales if scale <= 1] or [1.0]
    remaining = count
    while remaining:
        file = files[rng.integers(len(files))]
        try:
            image = read_image(file, turn=False)
        except (FileNotFoundError, ValueError) as error:
            warnings.warn(str(error), stacklevel=2)
            files.remove(file)
            if not files:
                raise
            continue
        remaining -= 1
        height, width = image.shape[:2]
        side = max(1, int(min(height, width) * rng.choice(scales)))
        top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
        crop = image[top : top + side, left : left + side]
        yield np.asarray(cv2.resize(crop, (size, size), interpolation=cv2.INTER_LINEAR), np.uint8)


def main(argv: Sequence[str] | None = None) -> int:
    parser = ArgumentParser(
        prog=f"python -m {PROGRAM}",
        description="Average the weights of a start and of what was tuned from it: "
        "OUT = (1 - A) START + A TUNED.",
        epilog="OUT has the settings of TUNED. Example: "
        "python -m detector.average weights/retinaface_mobilenet0.25.pth "
        "weights/mine/best.pth weights/mine/averaged.pth --alpha 0.5",
    )
    parser.add_argument(
        "start", metavar="START", help="weights that TUNED started from; they may have fewer levels"
    )
    parser.add_argument("tuned", metavar="TUNED", help="checkpoint of train.py")
    parser.add_argument("out", metavar="OUT", type=Path, help="file to write")
    parser.add_argument(
        "--alpha", metavar="A", type=float, required=True, help="weight of TUNED, from 0 to 1"
    )
    parser.add_argument(
        "--batch-norm", metavar="DIR", type=Path,
        help=f"compute the batch norms' statistics on {CROPS:,} random crops of these images",
    )  # fmt: skip
    parser.add_argument(
        "--draw-confidence", metavar="X", type=float,
        help="from which test.py draws detections of these weights, unless told otherwise",
    )  # fmt: skip
    arguments = parser.parse_args(argv)
    for name in ("alpha", "draw_confidence"):
        value = getattr(arguments, name)
        if value is not None and not 0 <= value <= 1:
            raise ValueError(
                f"--{name.replace('_', '-')}: expected a number from 0 to 1, found {value:g}"
            )
    sources = {Path(arguments.start).resolve(), Path(arguments.tuned).resolve()}
    if arguments.out.resolve() in sources:
        raise ValueError(f"{arguments.out}: would replace one of the two files; name another one")
    if arguments.out.is_dir():
        raise ValueError(f"{arguments.out}: expected a file, found a folder")
    checkpoint, model = average_files(arguments.start, arguments.tuned, arguments.alpha)
    if arguments.batch_norm is not None:
        config = from_dict(checkpoint["config"], source=f"{arguments.tuned}: ")
        compute_batch_norms(
            model, random_crops(arguments.batch_norm, config, count=CROPS), total=CROPS
        )
    if arguments.draw_confidence is not None:
        checkpoint["draw_confidence"] = arguments.draw_confidence
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    write_checkpoint(arguments.out, {**checkpoint, "model": model.state_dict()})
    parameters = sum(values.numel() for values in model.parameters())
    print(
        f"written {arguments.out}: {count_of(parameters, 'parameter')}, "
        f"{arguments.alpha:g} of {arguments.tuned}"
    )
    return DONE


if __name__ == "__main__":
    sys.exit(run_script(main, PROGRAM))
