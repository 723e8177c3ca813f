from __future__ import annotations

import re
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
import torchvision
from published_networks import SMALL, assert_same_outputs, published_state, randomized, save
from torch import nn

from config import Config, ModelConfig, to_dict
from detector.backbone import build_backbone
from detector.retinaface import RetinaFace
from detector.weights import load_model, published_name, read_weights, start_from
from utils.checkpoint import read_checkpoint


@pytest.mark.parametrize("config", [SMALL, ModelConfig()], ids=["mobilenet0.25", "resnet50"])
def test_published_weights_give_the_published_networks_outputs(config: ModelConfig, tmp_path: Path) -> None:
    state = published_state(randomized(config))
    wrapped = {f"module.{name}": value for name, value in state.items()}
    torch.save(wrapped, tmp_path / "published.pth")
    model = load_model(tmp_path / "published.pth")
    assert model.config == config
    assert_same_outputs(model, state)


def test_real_published_weights_give_the_published_networks_outputs(real_data: Path) -> None:
    path = real_data / "weights" / "retinaface_mobilenet0.25_published.pth"
    state = {name.removeprefix("module."): value for name, value in read_checkpoint(path).items()}
    assert_same_outputs(load_model(path), state)


def test_published_names_map_onto_all_names_here() -> None:
    for config in (SMALL, ModelConfig()):
        model = RetinaFace(config)
        assert {published_name(name) for name in published_state(model)} == set(model.state_dict())


def test_checkpoint_builds_its_own_model(tmp_path: Path) -> None:
    min_sizes = ((8,), (16, 20), (64,), (128,))
    model = randomized(
        ModelConfig(backbone="resnet18", channels=32, min_sizes=min_sizes, landmarks=False)
    )
    loaded = load_model(save(model, tmp_path / "w.pth"))
    assert loaded.config == model.config and not loaded.training
    images = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    assert torch.equal(loaded(images).logits, model(images).logits)


def test_averaged_weights_of_a_run_are_taken_and_described(tmp_path: Path) -> None:
    model, other = randomized(SMALL), RetinaFace(SMALL)
    average = {"n_averaged": torch.tensor(9), **{f"module.{n}": v for n, v in model.state_dict().items()}}
    path = save(other, tmp_path / "last.pth", average=average, step=1234)
    assert read_weights(path).note == "averaged weights of step 1,234"
    loaded, started = load_model(path), RetinaFace(SMALL)
    assert start_from(started, path) == ["averaged weights of step 1,234"]
    for state in (loaded.state_dict(), started.state_dict()):
        assert all(torch.equal(value, model.state_dict()[name]) for name, value in state.items())
    path = save(other, tmp_path / "last.pth", average=None, step=1234)
    assert read_weights(path).note == ""
    assert torch.equal(load_model(path).class_head[0].conv.weight, other.class_head[0].conv.weight)
    average = {name: value for name, value in average.items() if "class_head.0" not in name}
    path = save(other, tmp_path / "last.pth", average=average, step=1234)
    with pytest.raises(ValueError, match="weights of another network: missing class_head.0"):
        load_model(path)


def test_missing_spare_and_wrong_weights_are_named(tmp_path: Path) -> None:
    state = published_state(RetinaFace(SMALL))
    path = tmp_path / "w.pth"

    def complaint(changed: dict[str, Any]) -> str:
        torch.save(changed, path)
        with pytest.raises(ValueError) as error:
            load_model(path)
        assert str(error.value).startswith(f"{path}: ")
        return str(error.value)

    missing = {name: value for name, value in state.items() if name != "ssh2.conv3X3.0.weight"}
    assert complaint(missing).endswith("missing ssh.1.conv3x3.0.weight")
    assert complaint({**state, "extra.weight": torch.zeros(1)}).endswith("spare extra.weight")
    wrong = {**state, "BboxHead.0.conv1x1.bias": torch.zeros(7)}
    assert complaint(wrong).endswith("box_head.0.conv.bias is (7,), expected (8,)")
    assert "holds no weights" in complaint({"epoch": 3})
    assert "expected a RetinaFace checkpoint" in complaint(torchvision.models.resnet18(weights=None).state_dict())
    assert "expected a checkpoint dict, found a list" in complaint([1])    # type: ignore[arg-type]
    assert "unknown setting" in complaint({"config": {"model": {"colour": 3}}, "model": state})
    for nothing in (None, [1], {}):
        assert "holds no weights" in complaint({"config": to_dict(Config()), "model": nothing})
    assert "expected a RetinaFace checkpoint" in complaint({**state, "fpn.output1.0.weight": torch.tensor(1.0)})


def test_missing_and_damaged_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no.pth: no such checkpoint"):
        load_model(tmp_path / "no.pth")
    whole = save(RetinaFace(SMALL), tmp_path / "w.pth").read_bytes()
    for content in (whole[: len(whole) // 2], whole[:100], b"\x80\x02" + bytes(100)):
        (tmp_path / "bad.pth").write_bytes(content)
        with pytest.raises(ValueError, match="bad.pth: not a readable checkpoint: "):
            load_model(tmp_path / "bad.pth")


class Attack:
    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("raise SystemExit('code was run')",)


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    torch.save({"config": Attack()}, tmp_path / "bad.pth")
    complaint = "refers to .*exec, which is not loaded because it could run code"
    with pytest.raises(ValueError, match=complaint):
        load_model(tmp_path / "bad.pth")


def test_a_refused_class_is_named(tmp_path: Path) -> None:
    layer = nn.Linear(1, 1)
    for value, name in (
        (Namespace(lr=0.1), "argparse.Namespace"),
        (layer, "torch.nn.modules.linear.Linear"),
    ):
        torch.save({"args": value}, tmp_path / "bad.pth")
        complaint = rf"bad\.pth: refers to {name}, which is not loaded because it could run code; "
        with pytest.raises(ValueError, match=complaint + "expected weights alone"):
            load_model(tmp_path / "bad.pth")


def test_start_from_names_the_heads_that_do_not_fit(tmp_path: Path) -> None:
    path = save(randomized(SMALL), tmp_path / "w.pth")
    same = RetinaFace(SMALL)
    assert start_from(same, path) == []
    assert torch.equal(same.class_head[0].conv.weight, load_model(path).class_head[0].conv.weight)
    other = RetinaFace(ModelConfig(backbone="mobilenet0.25", channels=64, min_sizes=((16, 24, 32), (64, 128), (256, 512))))
    (note,) = start_from(other, path)
    assert note == "box_head, class_head, landmark_head did not fit and start from random weights"
    assert torch.equal(other.body.state_dict()["stem.0.0.weight"], same.body.state_dict()["stem.0.0.weight"])
    without = RetinaFace(ModelConfig(backbone="mobilenet0.25", channels=64, landmarks=False))
    assert start_from(without, path) == []
    (note,) = start_from(RetinaFace(SMALL), save(without, tmp_path / "without.pth"))
    assert note == "landmark_head did not fit and starts from random weights"
    with pytest.raises(ValueError, match=r"weights of another network: missing body\."):
        start_from(RetinaFace(ModelConfig(backbone="resnet18")), path)


def test_finer_level_starts_from_the_one_above_it(tmp_path: Path) -> None:
    source = randomized(SMALL)
    sizes = ((8, 11), (16, 32), (64, 128), (256, 512))
    model = RetinaFace(replace(SMALL, min_sizes=sizes))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    (note,) = start_from(model, save(source, tmp_path / "three.pth"))
    assert note == (
        "the level of stride 4 takes SSH, FPN merge and heads from that of stride 8; "
        "its lateral convolution starts from random weights"
    )
    after, theirs = model.state_dict(), source.state_dict()
    for name, value in after.items():
        part, *rest = re.split(r"\.(\d)\.", name, maxsplit=1)
        if part.startswith("body"):
            expected = theirs[name]
        elif name.startswith("fpn.lateral.0."):
            expected = before[name]
        else:
            level = int(rest[0])
            expected = theirs[f"{part}.{max(0, level - 1)}.{rest[1]}"]
        assert torch.equal(value, expected), name


def test_coarser_levels_alone_start_from_their_own(tmp_path: Path) -> None:
    source = randomized(SMALL)
    path = save(source, tmp_path / "three.pth")
    model = RetinaFace(replace(SMALL, min_sizes=((64, 128), (256, 512))))
    assert start_from(model, path) == ["its level of stride 8 is not used"]
    for level in (0, 1):
        ours, theirs = model.ssh[level].state_dict(), source.ssh[level + 1].state_dict()
        assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    fine = RetinaFace(replace(SMALL, return_layers=("stem", "stage1", "stage2")))
    (unused, *notes) = start_from(fine, path)[::-1]
    assert unused == "its level of stride 32 is not used" and len(notes) == 1
    with pytest.raises(ValueError, match=r"its levels have strides \[4, 8, 16\], expected \[8, 16, 32\]"):
        start_from(RetinaFace(SMALL), save(fine, tmp_path / "fine.pth"))


def test_start_of_other_channels_is_another_network(tmp_path: Path) -> None:
    path = save(randomized(SMALL), tmp_path / "w.pth")
    sizes = ((8, 11), (16, 32), (64, 128), (256, 512))
    with pytest.raises(ValueError, match="weights of another network: "):
        start_from(RetinaFace(replace(SMALL, channels=48, min_sizes=sizes)), path)


def test_backbone_starts_from_an_imagenet_file_without_its_classifier(tmp_path: Path) -> None:
    network = torchvision.models.resnet18(weights=None)
    torch.save({"state_dict": {f"module.{name}": value for name, value in network.state_dict().items()}}, tmp_path / "r.pth")
    body = build_backbone("resnet18", return_layers=["layer4"], weights=str(tmp_path / "r.pth"))
    assert torch.equal(body.state_dict()["layer4.1.conv2.weight"], network.layer4[1].conv2.weight)
    with pytest.raises(ValueError, match=r"r.pth: weights of another network: missing stage1\."):
        build_backbone("mobilenet0.25", return_layers=["stage3"], weights=str(tmp_path / "r.pth"))


def test_a_whole_detector_is_no_file_of_backbone_weights(tmp_path: Path) -> None:
    state = published_state(RetinaFace(SMALL))
    wrapped = {f"module.{name}": value for name, value in state.items()}
    torch.save(wrapped, tmp_path / "published.pth")
    save(RetinaFace(SMALL), tmp_path / "own.pth")
    faster_rcnn = ("backbone.body.conv1.weight", "rpn.head.conv.bias")
    torch.save(dict.fromkeys(faster_rcnn, torch.zeros(1)), tmp_path / "tv.pth")
    for name in ("published.pth", "own.pth", "tv.pth"):
        complaint = rf"model\.backbone_weights: .*{name} holds a whole detector; model\.weights"
        with pytest.raises(ValueError, match=complaint):
            build_backbone("mobilenet0.25", return_layers=["stage3"], weights=str(tmp_path / name))


def test_real_imagenet_file_of_the_mobilenet_fits(real_data: Path) -> None:
    path = real_data / "weights" / "mobilenetV1X0.25_pretrain.tar"
    body = build_backbone("mobilenet0.25", return_layers=["stage1", "stage2", "stage3"], weights=str(path))
    state = read_checkpoint(path)["state_dict"]
    assert torch.equal(body.state_dict()["stage1.1.3.weight"], state["module.stage1.5.3.weight"])


def test_failed_download_names_the_file_to_fetch(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", refuse)
    with pytest.raises(ValueError, match=r"download failed .*no route to host.*; fetch https://.*resnet18-.*\.pth by hand into "):
        build_backbone("resnet18", return_layers=["layer4"], weights="default")
    with pytest.raises(ValueError, match="torchvision has none for mobilenet0.25"):
        build_backbone("mobilenet0.25", return_layers=["stage3"], weights="default")


def test_building_a_model_fetches_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[object] = []
    monkeypatch.setattr("socket.socket.connect", lambda *address: fetched.append(address))
    monkeypatch.setattr("torch.hub.load_state_dict_from_url", lambda *url: fetched.append(url))
    RetinaFace(ModelConfig())
    assert fetched == []
