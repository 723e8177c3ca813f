"""Every setting: its type, its default, and the reason beside it.

Settings come from a preset, then a YAML file, then key=value words, each over the one before:

>>> load_config("mobilenet0.25", overrides=["train.lr=1e-2"]).train.lr
0.01
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

TEST_SIZE = re.compile(r"original|auto|x(?=.*[1-9])\d+(\.\d+)?|long:[1-9]\d*|short:[1-9]\d*:[1-9]\d*")


BackboneName = Literal[
    "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "mobilenet0.25", "mobilenet0.5", "mobilenet1.0", "mobilenet_v2",
    "mobilenet_v3_large", "vgg16",
]    # fmt: skip


def setting(default: Any, *, low: float | None = None, high: float | None = None, above: float | None = None) -> Any:
    """A field with a default and the range of its numbers: low <= value <= high, or above < value."""
    return field(default=default, metadata={"low": low, "high": high, "above": above})


@dataclass(frozen=True)
class DataConfig:
    train: tuple[str, ...] = ()    # label files; several are one set
    val: tuple[str, ...] = ()    # label files to measure AP50 on; without any, the lowest loss picks best.pth
    repeat: tuple[int, ...] = setting((), low=1)    # how often an epoch uses each file of train; (): once
    ground_truth: str | None = None    # folder of wider_{easy,medium,hard}_val.mat: validation on WIDER val gives these figures too
    # The folder of their images, or one for each label file of train, then of val; none: found by the usual layouts, see README.
    images: tuple[str, ...] = ()
    format: Literal["auto", "retinaface", "wider", "labelv2", "coco", "voc", "yolo", "pennfudan"] = "auto"    # auto: by their form
    voc_origin: int = setting(0, low=0, high=1)    # 1 where VOC's corners count from 1: takes 1 off the top left one; tools differ
    split_seed: int = setting(0, low=0)    # shuffles a Penn-Fudan set before it is split into FOLDER:train and FOLDER:test
    classes: tuple[str, ...] = ()    # those that are faces, in COCO, VOC and YOLO; none: `face` where there is one, or the only one
    ignore_invalid: bool = False    # faces marked invalid (WIDER) or difficult (VOC): ignored instead of learnt; published: learnt
    ignore_blurred: bool = False    # the same of heavily blurred ones (WIDER)
    ignore_smaller: float = setting(0.0, low=0)    # the same of faces whose side sqrt(w h) is under so many pixels of the photo
    synthetic: int = setting(0, low=0)    # without data.train: draw this many images, and a quarter of it to validate
    size: int = setting(840, low=64)    # side of a training image in pixels; the cost grows with its square
    workers: int = setting(4, low=0)    # processes that load images, at most one a core; 0 loads in the training process


@dataclass(frozen=True)
class AugmentationConfig:
    # Side of the square crop / short side of the photo, one of these at random. Above 1 it zooms out: the rest is filled with the mean.
    crop_scales: tuple[float, ...] = setting((0.3, 0.45, 0.6, 0.8, 1.0), above=0, high=4)
    anywhere: float = setting(0.0, low=0, high=1)    # chance that the crop need not hold a face: it teaches what is none
    # Share of its area that a face must show to be learnt; what is seen of others is ignored. 0: its centre must show, or it is background.
    min_visible: float = setting(0.0, low=0, high=1)
    ignore_smaller: float = setting(0.0, low=0)    # faces whose side sqrt(w h) is under so many pixels of the training image are ignored
    mosaic: float = setting(0.0, low=0, high=1)    # chance of a picture made of several photos
    mosaic_grids: tuple[int, ...] = setting((2,), low=2, high=8)    # so many photos across and down it, one of these at random
    low_resolution: float = setting(0.0, low=0, high=1)    # chance of a view with up to 3 times fewer pixels a side, as in enlarged photos
    distortion: bool = True    # random brightness, contrast, saturation and hue
    flip: float = setting(0.5, low=0, high=1)    # chance of a mirror image


@dataclass(frozen=True)
class ModelConfig:
    # RetinaFace, or one of torchvision's detectors, to which only `backbone_weights`, `weights`, `proposals`
    # and `class_name` apply.
    architecture: Literal[
        "retinaface", "fasterrcnn_resnet50_fpn", "fasterrcnn_mobilenet_v2", "maskrcnn_resnet50_fpn", "maskrcnn_mobilenet_v2",
        "retinanet_resnet50_fpn",
    ] = "retinaface"    # fmt: skip
    backbone: BackboneName = "resnet50"
    backbone_weights: str | None = None    # where the backbone starts: a file, `default` (torchvision's, fetched once), or none
    # Start all of it from a detector checkpoint, the published ones included; default: torchvision's detectors from COCO, fetched once.
    weights: str | None = None
    # Of an image, that the second stage of torchvision's detectors learns from; a quarter of them may show objects.
    proposals: int = setting(512, low=1)
    class_name: str | None = None    # what torchvision's detectors detect; drawn and listed
    # The backbone's layers that give the levels, such as layer2, layer3 and layer4 of a ResNet; (): its
    # last stages, as many as there are lists in min_sizes. A run and --dry-run print those in use.
    return_layers: tuple[str, ...] = ()
    min_sizes: tuple[tuple[int, ...], ...] = setting(((16, 32), (64, 128), (256, 512)), low=1)    # prior sizes of each level, pixels
    channels: int = setting(256, low=4)    # of the FPN and the SSH modules; a multiple of 4
    landmarks: bool = True    # build the landmark heads (0.09 % of the compute)
    channel_order: Literal["bgr", "rgb"] = "bgr"    # what the backbone was trained with; images stay BGR up to the model
    mean: tuple[float, float, float] = (104.0, 117.0, 123.0)    # subtracted, in that channel order
    std: tuple[float, float, float] = setting((1.0, 1.0, 1.0), above=0)    # divided by, in that channel order


@dataclass(frozen=True)
class LossConfig:
    box: Literal["smooth_l1", "iou", "giou", "diou", "ciou"] = "smooth_l1"
    classification: Literal["mining", "focal"] = "mining"    # 7 hard negatives a positive, or all priors with focal weights
    box_weight: float = setting(2.0, low=0)
    class_weight: float = setting(1.0, low=0)
    landmark_weight: float = setting(1.0, low=0)    # 0 keeps the head and trains nothing through it
    positive_iou: float = setting(0.35, above=0, high=1)    # a prior that overlaps a face this much must find it
    min_best_iou: float = setting(0.2, low=0, high=1)    # a face gets its best prior from here on
    ignore_unmatched: bool = False    # faces under min_best_iou: ignored instead of background


@dataclass(frozen=True)
class TrainConfig:
    epochs: int = setting(100, low=1)
    batch_size: int = setting(24, low=1)    # images a step, all processes and parts together
    accumulation: int = setting(1, low=1)    # parts that each process takes its share of a batch in, one after another, to save memory
    lr: float = setting(1e-3, above=0)
    lr_batch_size: int = setting(24, low=1)    # the batch that `lr` was tuned for
    scale_lr: bool = False    # use lr x batch_size / lr_batch_size; unscaled, a small batch costs much accuracy
    optimizer: Literal["sgd", "adamw"] = "sgd"    # as published, or AdamW: in short trainings better, at lr 1e-3 to 4e-3
    warmup_steps: int = setting(0, low=0)    # iterations in which the learning rate rises linearly from 0
    schedule: Literal["steps", "cosine"] = "steps"    # divide by 10 at `milestones`, or fall along half a cosine to 0
    milestones: tuple[int, ...] = setting((70, 90), low=1)    # epochs after which the learning rate is divided by 10
    momentum: float = setting(0.9, low=0, high=1)    # of SGD
    weight_decay: float = setting(5e-4, low=0)    # SGD: of all weights, as published; AdamW: not of biases and batch norms
    clip_norm: float = setting(0.0, low=0)    # longer gradients are shortened to this length; 0: none is
    ema: float = setting(0.0, low=0, high=0.99999)    # decay of the average of the weights that is measured and kept as best; 0: no average
    freeze_stages: int = setting(0, low=0)    # the backbone's first stages that do not learn, for fine-tuning
    freeze_batch_norm: bool = False    # all batch norms keep the statistics they start with; for batches of very few images
    # Batch norms use the images of all GPUs; else each those of its own GPU, and the running statistics are
    # those of the first GPU.
    sync_batch_norm: bool = False
    skip_nonfinite: int = setting(0, low=0)    # batches whose loss is no number to pass over before the run stops
    seed: int = setting(0, low=0, high=2**32)
    device: str = "auto"    # auto: cuda where there is one, else cpu
    precision: Literal["float32", "bfloat16", "float16", "auto"] = "auto"    # of the network; auto: bfloat16 where the chip has it
    compile: bool = False    # torch.compile: a minute to start, then faster steps on a GPU
    tensorboard: bool = False    # write the losses for TensorBoard too; pip install -e ".[tensorboard]"
    max_steps: int = setting(0, low=0)    # stop after this many iterations and save; 0: go on to the last epoch
    log_every: int = setting(20, low=1)    # iterations between rows of losses.csv
    checkpoint_every: int = setting(500, low=1)    # iterations between writes of last.pth, besides the end of each epoch
    validate_every: int = setting(5, low=1)    # epochs between validations; the last epoch is always measured


@dataclass(frozen=True)
class TestConfig:
    __test__ = False    # keeps pytest from taking the class for tests

    # original, auto (x2 if the long side is under 1280), x2 (times two), long:640 (long side, padded to
    # a square), short:1600:2150 (short side, long side at most)
    size: str = "original"
    max_side: int = setting(4096, low=32)    # a larger image is looked at with this long side; ResNet50 takes 5 GB for 4096 x 4096
    scales: tuple[float, ...] = setting((1.0,), above=0)    # look at each image once for each of these, times `size`, and merge
    flip: bool = False    # look at the mirror image as well, and merge
    gate: bool = True    # of several scales each counts for the faces of the sizes it shows best only
    vote: bool = False    # a face's box and points are the mean of all detections of it, by score, instead of the best one's
    confidence: float = setting(0.02, low=0, high=1)    # detections below are dropped, before NMS and scoring
    draw_confidence: float = setting(0.5, low=0, high=1)    # detections below are neither drawn nor listed
    # Of two boxes with a larger IoU the weaker is dropped. torchvision's detectors have their own NMS,
    # at 0.5, and need this one for several scales only.
    nms: float = setting(0.4, low=0, high=1)
    top_k: int = setting(5000, low=1)    # boxes an image that enter NMS
    max_faces: int = setting(750, low=1)    # faces an image that leave it; WIDER has images with 709
    device: str = "auto"
    # float32, and without TF32, so that metrics do not depend on the chip
    precision: Literal["float32", "bfloat16", "float16", "auto"] = "float32"


@dataclass(frozen=True)
class Config:
    data: DataConfig = DataConfig()
    augmentation: AugmentationConfig = AugmentationConfig()
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    train: TrainConfig = TrainConfig()
    test: TestConfig = TestConfig()


# How label files are read, in training and in testing.
LABEL_SETTINGS = (
    "data.images", "data.format", "data.voc_origin", "data.split_seed", "data.classes", "data.ignore_invalid",
    "data.ignore_blurred", "data.ignore_smaller",
)    # fmt: skip

# resnet50 and mobilenet0.25 are what was published for the PyTorch RetinaFace, so that its weights and figures carry over.
PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "resnet50": {},
    "mobilenet0.25": {
        "data": {"size": 640},
        "model": {"backbone": "mobilenet0.25", "channels": 64},
        "train": {"epochs": 250, "batch_size": 32, "lr_batch_size": 32, "milestones": [190, 220]},
    },
    # Penn-Fudan by the recipe of torchvision's tutorial, from its COCO weights (model.weights=default): as there, the first stage and the
    # statistics of batch norms stay, and the warm-up is the first epoch of the 120 photos.
    "pedestrians": {
        "data": {"size": 512, "train": ["PennFudanPed:train"], "val": ["PennFudanPed:test"]},
        "augmentation": {"crop_scales": [1.0, 1.2, 1.4], "min_visible": 0.3, "distortion": False},
        "model": {"architecture": "maskrcnn_resnet50_fpn", "class_name": "person"},
        "train": {
            "epochs": 10, "batch_size": 2, "lr_batch_size": 2, "lr": 0.005, "warmup_steps": 59, "milestones": [3, 6, 9],
            "freeze_stages": 1, "freeze_batch_norm": True, "log_every": 10, "validate_every": 1,
        },
    },
    # Faces are drawn, so nothing is fetched. The network starts from random weights: hence warm-up and a high learning rate. The
    # images are small, and so are the priors.
    "demo": {
        "data": {"synthetic": 600, "size": 256, "workers": 2},
        "model": {"backbone": "mobilenet0.25", "channels": 64, "min_sizes": [[10, 20], [40, 80], [120, 200]]},
        "train": {
            "epochs": 20, "batch_size": 16, "lr_batch_size": 16, "lr": 0.05, "warmup_steps": 50, "schedule": "cosine",
        },
    },
}  # fmt: skip


def load_config(start: str | Config = "resnet50", *, file: str | Path | None = None, overrides: Sequence[str] = ()) -> Config:
    """The settings of a preset, or those given, changed by a YAML file, then by key=value words such as `train.lr=1e-2`.

    Raises ValueError that names the key, the nearest known one and what is allowed, and FileNotFoundError for the file.
    """
    config = start if isinstance(start, Config) else _preset(start)
    if file is not None:
        config = replace(config, _read_yaml(Path(file)), source=f"{file}: ")
    return override(config, overrides)


def _preset(name: str) -> Config:
    if name not in PRESETS:
        raise ValueError(f"{name}: no such preset; {_nearest(name, PRESETS)} (known: {', '.join(PRESETS)})")
    return replace(Config(), _flatten(PRESETS[name]))


def override(config: Config, words: Sequence[str]) -> Config:
    """The settings with key=value words laid over them; ValueError as `load_config`."""
    values: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals:
            raise ValueError(f"{word}: expected key=value, such as train.lr=0.01")
        values[key] = text if key in _KEYS and _is_text(_KEYS[key].annotation, text) else _parse(text)
    return replace(config, values)


def replace(config: Config, values: Mapping[str, Any], *, source: str = "") -> Config:
    """The settings with `values` by full key (`train.lr`) laid over them; `source` starts the message of a ValueError."""
    sections: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        if key not in _KEYS:
            nearest = _nearest(key, _KEYS)
            raise ValueError(f"{source}{key}: unknown setting; {nearest}, which takes {_KEYS[nearest.split()[-1]].allowed()}")
        section, name = key.split(".")
        try:
            sections.setdefault(section, {})[name] = _coerce(value, _KEYS[key].annotation, _KEYS[key].limits)
        except ValueError:
            raise ValueError(f"{source}{key}: expected {_KEYS[key].allowed()}, found {value!r}") from None
    changed = {name: dataclasses.replace(getattr(config, name), **changes) for name, changes in sections.items()}
    config = dataclasses.replace(config, **changed)
    _check(config, source)
    return config


def to_dict(config: Config) -> dict[str, Any]:
    """The settings as nested dicts of plain values, for YAML, JSON and checkpoints."""
    return typing.cast("dict[str, Any]", _plain(dataclasses.asdict(config)))


def from_dict(values: Mapping[str, Any], *, source: str = "") -> Config:
    """The settings that `to_dict` gave; ValueError where the dict is none of those."""
    return replace(Config(), _flatten(values), source=source)


class _Key(typing.NamedTuple):
    annotation: Any
    limits: Mapping[str, float | None]

    def allowed(self) -> str:
        return _describe(self.annotation, self.limits)


def _keys() -> Iterator[tuple[str, _Key]]:
    for section in dataclasses.fields(Config):
        part: Any = type(section.default)
        hints = typing.get_type_hints(part)
        for item in dataclasses.fields(part):
            yield f"{section.name}.{item.name}", _Key(hints[item.name], item.metadata)


_KEYS = dict(_keys())


def _check(config: Config, source: str) -> None:
    """What no setting can tell alone."""
    model = config.model
    if model.return_layers and len(model.return_layers) != len(model.min_sizes):
        raise ValueError(
            f"{source}model.min_sizes: expected one list for each of the {len(model.return_layers)} model.return_layers, "
            f"found {len(model.min_sizes)}"
        )
    if model.channels % 4:
        raise ValueError(f"{source}model.channels: expected a multiple of 4, found {model.channels}")
    if any(not sizes for sizes in model.min_sizes) or not model.min_sizes:
        raise ValueError(f"{source}model.min_sizes: expected at least one size for each level, found {_plain(model.min_sizes)}")
    if not config.augmentation.crop_scales:
        raise ValueError(f"{source}augmentation.crop_scales: expected at least one, found none")
    if not config.augmentation.mosaic_grids:
        raise ValueError(f"{source}augmentation.mosaic_grids: expected at least one, found none")
    if not config.test.scales:
        raise ValueError(f"{source}test.scales: expected at least one, found none")
    if not TEST_SIZE.fullmatch(config.test.size):
        raise ValueError(f"{source}test.size: expected original, auto, x2, long:640 or short:1600:2150, found {config.test.size!r}")


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such settings file") from None
    except (yaml.YAMLError, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a readable YAML file: {' '.join(str(error).split())}") from None
    if not isinstance(values or {}, dict):
        raise ValueError(f"{path}: expected sections such as 'train:', found {values!r}")
    return _flatten(values or {})


def _flatten(values: Mapping[str, Any]) -> dict[str, Any]:
    """{"train": {"lr": 1}} or {"train.lr": 1} as {"train.lr": 1}."""
    flat: dict[str, Any] = {}
    for section, settings in values.items():
        if isinstance(settings, Mapping):
            flat.update({f"{section}.{name}": value for name, value in settings.items()})
        elif settings is not None or "." in str(section):
            flat[str(section)] = settings
    return flat


def _nearest(key: str, known: Mapping[str, Any]) -> str:
    by_name = {name.rpartition(".")[2]: name for name in known}
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    close = close or [by_name[name] for name in difflib.get_close_matches(key.rpartition(".")[2], by_name, n=1, cutoff=0)]
    return f"the nearest is {close[0]}"


def _parse(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _is_text(annotation: Any, text: str) -> bool:
    """Whether a word is taken as it stands: a folder named 2024 is no number, and one named `set #2` no comment."""
    return annotation is str or (str in typing.get_args(annotation) and not text.lstrip().startswith("["))


def _coerce(value: Any, annotation: Any, limits: Mapping[str, float | None]) -> Any:
    """`value` as the annotated type; ValueError where it is none."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        if _is_none(value):
            return None
        return _coerce(value, arguments[0], limits)
    if origin is tuple:
        return _coerce_tuple(value, arguments, limits)
    if origin is Literal:
        return _choice(value, arguments)
    if annotation is str and type(value) is int:    # a class or a folder whose name is a number
        value = str(value)
    if annotation is bool or annotation is str:
        if not isinstance(value, annotation) or value == "":
            raise ValueError
        return value
    if isinstance(value, str):    # YAML 1.1 reads 1e-3 as text
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not _in_range(value, limits):
        raise ValueError
    if annotation is int and int(value) != value:
        raise ValueError
    return annotation(value)


def _coerce_tuple(value: Any, arguments: tuple[Any, ...], limits: Mapping[str, float | None]) -> tuple[Any, ...]:
    item, length = arguments[0], None if arguments[-1] is Ellipsis else len(arguments)
    if _is_none(value):
        value = []
    elif isinstance(value, (str, int, float)) and length is None and typing.get_origin(item) is not tuple:
        value = [value]
    if not isinstance(value, (list, tuple)) or length not in (None, len(value)):
        raise ValueError
    return tuple(_coerce(part, item, limits) for part in value)


def _is_none(value: Any) -> bool:
    return value is None or (isinstance(value, str) and value.lower() in ("none", "null", ""))


def _choice(value: Any, choices: tuple[Any, ...]) -> Any:
    if value not in choices:
        raise ValueError
    return value


def _in_range(value: float, limits: Mapping[str, float | None]) -> bool:
    low, high, above = limits.get("low"), limits.get("high"), limits.get("above")
    return (
        abs(value) < float("inf")
        and (low is None or value >= low)
        and (high is None or value <= high)
        and (above is None or value > above)
    )


def _describe(annotation: Any, limits: Mapping[str, float | None]) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return f"{_describe(arguments[0], limits)} or none"
    if origin is tuple:
        items = _describe(arguments[0], limits)
        return f"a list, each item {items}" if arguments[-1] is Ellipsis else f"a list of {len(arguments)}, each {items}"
    if origin is Literal:
        return "one of " + ", ".join(map(str, arguments))
    if annotation is bool:
        return "true or false"
    if annotation is str:
        return "a text"
    noun = "a whole number" if annotation is int else "a number"
    bounds = [
        f"{word} {limits[name]:g}"
        for name, word in (("above", "above"), ("low", "of at least"), ("high", "of at most"))
        if limits.get(name) is not None
    ]
    return " ".join([noun, " and ".join(bounds)]).strip()


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
