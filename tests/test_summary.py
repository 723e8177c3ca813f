from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest
import torch
from conftest import RunScript
from published_networks import SMALL, randomized, save
from torch import nn
from torchvision.models import ResNet

from config import ModelConfig
from detector import compare, export
from detector.retinaface import RetinaFace
from detector.summary import DETECTIONS, find_model, format_table, layers_of, main
from detector.torchvision_detectors import TorchvisionDetector
from utils.script import run_script


def test_layers_of_vgg16_are_those_of_the_paper() -> None:
    layers = {layer.name: layer for layer in layers_of(find_model("torchvision:vgg16")[0], size=64)}
    assert layers["features.0"].parameters == 1_792 and layers["features.0"].weights == 1_728
    assert layers["features.0"].shape == (1, 64, 64, 64) and layers["features.0"].macs == 64 * 64 * 1_728
    assert layers["classifier.0"].parameters == 102_764_544
    assert layers["features.4"].shape == (1, 64, 32, 32) and layers["features.4"].parameters == 0
    assert sum(layer.parameters for layer in layers.values()) == 138_357_544


def test_published_resnet50_has_its_parameters_and_compute() -> None:
    layers = layers_of(RetinaFace(ModelConfig()), size=640)
    assert sum(layer.parameters for layer in layers) == 27_293_600
    assert sum(layer.macs for layer in layers) == pytest.approx(44.3e9, rel=0.01)


class Twice(nn.Module):
    """A convolution of 4 parameters used on two sizes, beside one that is never used, and a weight of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.idle = nn.Linear(5, 2)
        self.conv = nn.Conv2d(3, 1, 1)
        self.gain = nn.Parameter(torch.ones(7))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.conv(images) + self.conv(images[..., ::2, ::2]).sum()


def test_layer_used_twice_costs_twice_and_one_never_used_nothing() -> None:
    model = Twice().train()
    layers = {layer.name: layer for layer in layers_of(model, size=8)}
    assert layers["conv"].macs == 3 * (64 + 16) and layers["conv"].shape == (1, 1, 8, 8)
    assert (layers["idle"].parameters, layers["idle"].macs, layers["idle"].shape) == (12, 0, ())
    assert layers[""].weights == 7
    assert model.training and not model.conv._forward_hooks


@pytest.mark.slow
def test_two_stages_cost_what_they_may_look_at_whatever_they_find() -> None:
    torch.manual_seed(0)
    model = TorchvisionDetector(ModelConfig(architecture="maskrcnn_mobilenet_v2"))
    untrained = sum(layer.macs for layer in layers_of(model, size=160))
    with torch.no_grad():
        model.detector.roi_heads.box_predictor.cls_score.bias[:] = torch.tensor([20.0, -20.0])    # finds nothing
    assert sum(layer.macs for layer in layers_of(model, size=160)) == untrained
    fully_connected = next(layer for layer in layers_of(model, size=160) if layer.name.endswith("box_head.fc6"))
    assert fully_connected.macs == 25 * 15 * 1280 * 49 * 1024    # a proposal from each of 15 priors at 5 x 5 places
    upsampling = next(layer for layer in layers_of(model, size=160) if layer.name.endswith("mask_predictor.conv5_mask"))
    assert upsampling.macs == DETECTIONS * 28 * 28 * 256 * 256


@pytest.mark.parametrize(("name", "size"), [("vit_b_16", "320"), ("vgg16", "16"), ("r3d_18", "224")])
def test_model_that_takes_no_such_image_is_one_line(name: str, size: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert run_script(lambda: main([f"torchvision:{name}", "--size", size]), "detector.summary") == 2
    told = capfd.readouterr().err
    assert told.count("\n") == 1 and f"takes no image of {size} x {size} pixels" in told


def test_table_has_a_line_a_layer_and_the_sums() -> None:
    *_, last = lines = format_table(layers_of(Twice(), size=8)).splitlines()
    assert len(lines) == 5 and len({len(line) for line in lines}) == 1
    assert last.split() == ["all", "20", "3", "23", "0.0000"]


def test_command_takes_presets_checkpoints_and_torchvision_models(capfd: pytest.CaptureFixture[str], untrained: Path) -> None:
    for name, last in [
        ("mobilenet0.25", "mobilenet0.25: 426,608 parameters, 0.25 GMAC for an image of 320 x 320 pixels"),
        (str(untrained), f"{untrained}: 426,608 parameters, 0.25 GMAC for an image of 320 x 320 pixels"),
        ("torchvision:squeezenet1_1", "torchvision:squeezenet1_1: 1,235,496 parameters, 0.74 GMAC for an image of 320 x 320 pixels"),
        ("squeezenet1_1", "squeezenet1_1: 1,235,496 parameters, 0.74 GMAC for an image of 320 x 320 pixels"),
    ]:
        assert main([name, "--size", "320"]) == 0
        assert capfd.readouterr().out.splitlines()[-1] == last
    for arguments, message in [
        (["torchvision:nope"], "detector.summary: torchvision:nope: torchvision has no model of that name\n"),
        (["nope.pth"], "detector.summary: nope.pth: no such checkpoint, nor a preset (resnet50, mobilenet0.25, pedestrians, demo) "
         "or a classification model of torchvision\n"),
        (["mobilenet0.25", "--size", "0"], "detector.summary: --size: expected at least 1 pixel, found 0\n"),
    ]:
        assert run_script(lambda arguments=arguments: main(arguments), "detector.summary") == 2    # type: ignore[misc]
        assert capfd.readouterr().err == message


def test_commands_say_that_the_weights_are_averaged(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = randomized(SMALL)
    average = {f"module.{name}": value for name, value in model.state_dict().items()}
    last = save(model, tmp_path / "last.pth", average=average, step=12)
    commands = {
        main: [last, "--size", 64],
        compare.main: [last, "--size", 64, "--output", tmp_path / "out"],
    }
    if importlib.util.find_spec("onnx") is not None:
        commands[export.main] = [last, tmp_path / "last.onnx"]
    for command, words in commands.items():
        assert command([str(word) for word in words]) == 0
        assert f"{last}: averaged weights of step 12\n" in capfd.readouterr().out


def test_name_means_a_preset_then_a_file_then_a_classifier(
    capfd: pytest.CaptureFixture[str], untrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(find_model("resnet50")[0], RetinaFace)
    assert isinstance(find_model("torchvision:resnet50")[0], ResNet)
    monkeypatch.chdir(tmp_path)
    assert main(["alexnet"]) == 0
    assert "for an image of 224 x 224 pixels" in capfd.readouterr().out
    shutil.copy(untrained, tmp_path / "alexnet")
    assert main(["alexnet"]) == 0
    assert capfd.readouterr().out.splitlines()[-1].startswith("alexnet: 426,608 parameters, ")


def test_dry_run_shows_the_same_table(drawn_set: Path, run: RunScript) -> None:
    result = run("train", "--preset", "demo", "--dry-run", f"data.train={drawn_set}", "data.size=64", "data.workers=0")
    table = format_table(layers_of(find_model("demo")[0], size=64))
    assert result.code == 0 and table in result.out
    assert "levels: stage1, stage2, stage3 (strides 8, 16, 32)" in result.out.splitlines()
