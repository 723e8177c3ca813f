from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from config import Config, from_dict, load_config, override, to_dict


def test_later_sources_win_over_earlier_ones(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("train:\n  lr: 1e-2\n  epochs: 7\n")
    config = load_config("mobilenet0.25", file=file, overrides=["train.epochs=3"])
    assert (config.data.size, config.train.lr, config.train.epochs) == (640, 0.01, 3)


def test_published_presets_have_the_published_settings() -> None:
    large, small = load_config("resnet50"), load_config("mobilenet0.25")
    assert (large.model.backbone, large.data.size, large.train.batch_size, large.train.epochs) == ("resnet50", 840, 24, 100)
    assert (small.model.backbone, small.data.size, small.train.batch_size, small.train.epochs) == ("mobilenet0.25", 640, 32, 250)
    assert (large.train.milestones, small.train.milestones) == ((70, 90), (190, 220))
    for config in (large, small):
        assert config.model.min_sizes == ((16, 32), (64, 128), (256, 512))
        assert (config.model.channel_order, config.model.mean, config.model.std) == ("bgr", (104, 117, 123), (1, 1, 1))
        assert (config.loss.positive_iou, config.loss.min_best_iou, config.loss.box_weight) == (0.35, 0.2, 2)
        assert (config.train.lr, config.train.momentum, config.train.weight_decay) == (1e-3, 0.9, 5e-4)


@pytest.mark.parametrize("preset", ["resnet50", "mobilenet0.25", "demo"])
def test_saved_settings_give_the_same_settings(preset: str, tmp_path: Path) -> None:
    config = load_config(preset)
    assert from_dict(to_dict(config)) == config
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(to_dict(config)))
    assert load_config("resnet50", file=file) == config


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("train.lr=1e-3", 0.001),
        ("train.epochs=3", 3),
        ("data.train=a.txt", ("a.txt",)),
        ("data.train=[a.txt, b c.txt]", ("a.txt", "b c.txt")),
        ("data.val=none", ()),
        ("data.train=my set #2/label.txt", ("my set #2/label.txt",)),
        ("data.images=2024", ("2024",)),
        ("model.landmarks=false", False),
        ("model.backbone_weights=none", None),
        ("model.min_sizes=[[8,11],[16,32]]", ((8, 11), (16, 32))),
        ("test.size=short:1600:2150", "short:1600:2150"),
    ],
)
def test_word_is_read_as_its_settings_type(word: str, value: object) -> None:
    section, name = word.split("=")[0].split(".")
    assert getattr(getattr(override(Config(), [word]), section), name) == value


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("train.lrr=3", "train.lrr: unknown setting; the nearest is train.lr, which takes a number above 0"),
        ("lr=3", "lr: unknown setting; the nearest is train.lr, which takes a number above 0"),
        ("train.lr=fast", "train.lr: expected a number above 0, found 'fast'"),
        ("train.lr=-1", "train.lr: expected a number above 0, found -1"),
        ("train.epochs=2.5", "train.epochs: expected a whole number of at least 1, found 2.5"),
        ("train.epochs=nan", "train.epochs: expected a whole number of at least 1, found 'nan'"),
        ("train.epochs=inf", "train.epochs: expected a whole number of at least 1, found 'inf'"),
        ("model.landmarks=0", "model.landmarks: expected true or false, found 0"),
        ("model.mean=[1,2]", "model.mean: expected a list of 3, each a number, found [1, 2]"),
        (
            "model.backbone=resnet51",
            "model.backbone: expected one of resnet18, resnet34, resnet50, resnet101, resnet152, mobilenet0.25, mobilenet0.5, "
            "mobilenet1.0, mobilenet_v2, mobilenet_v3_large, vgg16, found 'resnet51'",
        ),
        ("augmentation.flip=2", "augmentation.flip: expected a number of at least 0 and of at most 1, found 2"),
        ("test.size=huge", "test.size: expected original, auto, x2, long:640 or short:1600:2150, found 'huge'"),
        ("test.size=x0", "test.size: expected original, auto, x2, long:640 or short:1600:2150, found 'x0'"),
        ("augmentation.crop_scales=[]", "augmentation.crop_scales: expected at least one, found none"),
        ("augmentation.mosaic_grids=[]", "augmentation.mosaic_grids: expected at least one, found none"),
        ("test.scales=[]", "test.scales: expected at least one, found none"),
        ("test.scales=[1,0]", "test.scales: expected a list, each item a number above 0, found [1, 0]"),
        ("model.channels=42", "model.channels: expected a multiple of 4, found 42"),
        ("model.min_sizes=[]", "model.min_sizes: expected at least one size for each level, found []"),
        ("train.lr", "train.lr: expected key=value, such as train.lr=0.01"),
    ],
)
def test_wrong_word_is_named_with_what_is_allowed(word: str, message: str) -> None:
    with pytest.raises(ValueError) as error:
        override(Config(), [word])
    assert str(error.value) == message


def test_layers_and_prior_sizes_must_agree() -> None:
    with pytest.raises(ValueError, match=r"^model\.min_sizes: expected one list for each of the 2 model\.return_layers, found 3$"):
        override(Config(), ["model.return_layers=[layer3, layer4]"])


def test_unknown_preset_names_the_known_ones() -> None:
    known = r"\(known: resnet50, mobilenet0.25, pedestrians, demo\)"
    with pytest.raises(ValueError, match=rf"^resnet5: no such preset; the nearest is resnet50 {known}$"):
        load_config("resnet5")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: [1", "not a readable YAML file"),
        ("hello", "expected sections such as 'train:', found 'hello'"),
        ("train:\n  rate: 1", "train.rate: unknown setting; the nearest is train."),
        ("train: 3", "train: unknown setting"),
        ("train:\n  lr: fast", "train.lr: expected a number above 0, found 'fast'"),
    ],
)
def test_faulty_file_is_named(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match="run.yaml: ") as error:
        load_config("demo", file=file)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no.yaml: no such settings file"):
        load_config(file=tmp_path / "no.yaml")
