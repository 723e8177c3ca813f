from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
import torch.nn.functional as F
import torchvision
from conftest import ROOT
from torch import Tensor

from config import Config, ModelConfig, to_dict
from detector.backbone import build_backbone
from detector.retinaface import RetinaFace
from detector.weights import describe_weights, load_model, published_name, start_from
from utils.checkpoint import read_checkpoint

SMALL = ModelConfig(backbone="mobilenet0.25", channels=64)
State = dict[str, Tensor]


class Published:
    """The published network, computed from its weights by their published names, layer by layer."""

    def __init__(self, state: State):
        self.state = state

    def conv(self, x: Tensor, name: str, *, stride: int = 1, slope: float | None = None) -> Tensor:
        """Convolution `name`.0, batch norm `name`.1, and maybe a leaky ReLU."""
        return self.conv_pair(x, f"{name}.0", f"{name}.1", stride=stride, slope=slope)

    def conv_pair(self, x: Tensor, conv: str, norm: str, *, stride: int = 1, slope: float | None = None) -> Tensor:
        weight = self.state[f"{conv}.weight"]
        groups = x.shape[1] // weight.shape[1]
        x = F.conv2d(x, weight, stride=stride, padding=weight.shape[2] // 2, groups=groups)
        x = F.batch_norm(x, *(self.state[f"{norm}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")))
        return x if slope is None else F.leaky_relu(x, slope)

    def mobilenet(self, x: Tensor) -> list[Tensor]:
        levels = []
        for stage, strides in {"stage1": [2, 1, 2, 1, 2, 1], "stage2": [2, 1, 1, 1, 1, 1], "stage3": [2, 1]}.items():
            for block, stride in enumerate(strides):
                name = f"body.{stage}.{block}"
                if f"{name}.3.weight" not in self.state:
                    x = self.conv(x, name, stride=stride, slope=0.1)
                    continue
                x = self.conv_pair(x, f"{name}.0", f"{name}.1", stride=stride, slope=0.1)
                x = self.conv_pair(x, f"{name}.3", f"{name}.4", slope=0.1)
            levels.append(x)
        return levels

    def resnet50(self, x: Tensor) -> list[Tensor]:
        network = torchvision.models.resnet50(weights=None).eval()
        network.load_state_dict({n[5:]: v for n, v in self.state.items() if n.startswith("body.")}, strict=False)
        x = network.layer1(network.maxpool(network.relu(network.bn1(network.conv1(x)))))
        levels = []
        for layer in (network.layer2, network.layer3, network.layer4):
            x = layer(x)
            levels.append(x)
        return levels

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = images.float() - torch.tensor([104.0, 117.0, 123.0]).view(3, 1, 1)
        levels = self.mobilenet(x) if "body.stage1.0.0.weight" in self.state else self.resnet50(x)
        slope = 0.1 if "body.stage1.0.0.weight" in self.state else 0.0
        levels = [self.conv(level, f"fpn.output{n}", slope=slope) for n, level in enumerate(levels, start=1)]
        for n in (2, 1):
            above = F.interpolate(levels[n], size=levels[n - 1].shape[2:], mode="nearest")
            levels[n - 1] = self.conv(levels[n - 1] + above, f"fpn.merge{n}", slope=slope)
        outputs: dict[str, list[Tensor]] = {"BboxHead": [], "ClassHead": [], "LandmarkHead": []}
        for n, level in enumerate(levels, start=1):
            shared = self.conv(level, f"ssh{n}.conv5X5_1", slope=slope)
            parts = [self.conv(level, f"ssh{n}.conv3X3"), self.conv(shared, f"ssh{n}.conv5X5_2")]
            parts.append(self.conv(self.conv(shared, f"ssh{n}.conv7X7_2", slope=slope), f"ssh{n}.conv7x7_3"))
            feature = F.relu(torch.cat(parts, dim=1))
            for head, values in (("BboxHead", 4), ("ClassHead", 2), ("LandmarkHead", 10)):
                weight, bias = (self.state[f"{head}.{n - 1}.conv1x1.{part}"] for part in ("weight", "bias"))
                outputs[head].append(F.conv2d(feature, weight, bias).permute(0, 2, 3, 1).reshape(len(images), -1, values))
        boxes, logits, landmarks = (torch.cat(parts, dim=1) for parts in outputs.values())
        return boxes, logits, landmarks


def published_state(model: RetinaFace) -> State:
    """The weights of a model under the published names."""
    stages = {"stem": ("stage1", 0), "stage1": ("stage1", 4)}
    state = {}
    for name, value in model.state_dict().items():
        parts = name.split(".")
        if parts[0] == "body" and parts[1] in stages:
            stage, first = stages[parts[1]]
            parts[1:3] = [stage, str(int(parts[2]) + first)]
        elif parts[0] == "fpn":
            parts[1:3] = [{"lateral": "output", "merge": "merge"}[parts[1]] + str(int(parts[2]) + 1)]
        elif parts[0] == "ssh":
            conv = {"conv7x7_3": "conv7x7_3"}.get(parts[2], parts[2].replace("x", "X"))
            parts[:3] = [f"ssh{int(parts[1]) + 1}", conv]
        elif "head" in parts[0]:
            parts[0] = {"class_head": "ClassHead", "box_head": "BboxHead", "landmark_head": "LandmarkHead"}[parts[0]]
            parts[2] = "conv1x1"
        state[".".join(parts)] = value
    return state


def randomised(config: ModelConfig) -> RetinaFace:
    """A model whose batch norms are no identities."""
    torch.manual_seed(0)
    model = RetinaFace(config).eval()
    for name, value in model.state_dict().items():
        if name.endswith("running_mean"):
            value.normal_(0, 0.1)
        elif name.endswith("running_var"):
            value.uniform_(0.8, 1.2)
    return model


@pytest.mark.parametrize("config", [SMALL, ModelConfig()], ids=["mobilenet0.25", "resnet50"])
def test_published_weights_give_the_published_networks_outputs(config: ModelConfig, tmp_path: Path) -> None:
    state = published_state(randomised(config))
    torch.save({f"module.{name}": value for name, value in state.items()}, tmp_path / "published.pth")
    model = load_model(tmp_path / "published.pth")
    assert model.config == config
    assert_same_outputs(model, state)


def test_real_published_weights_give_the_published_networks_outputs(real_data: Path) -> None:
    path = real_data / "weights" / "retinaface_mobilenet0.25_published.pth"
    state = {name.removeprefix("module."): value for name, value in read_checkpoint(path).items()}
    assert_same_outputs(load_model(path), state)


def assert_same_outputs(model: RetinaFace, state: State) -> None:
    images = torch.randint(0, 256, (1, 3, 101, 150), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours, theirs = model(images), Published(state)(images)
    assert ours.landmarks is not None
    for mine, published in zip((ours.boxes, ours.logits, ours.landmarks.flatten(2)), theirs, strict=True):
        assert torch.allclose(mine, published, atol=1e-4, rtol=1e-4)


def test_published_names_map_onto_all_names_here() -> None:
    for config in (SMALL, ModelConfig()):
        model = RetinaFace(config)
        assert {published_name(name) for name in published_state(model)} == set(model.state_dict())


def save(model: RetinaFace, path: Path, **changes: Any) -> Path:
    torch.save({"config": to_dict(Config(model=model.config)), "model": model.state_dict(), **changes}, path)
    return path


def test_checkpoint_builds_its_own_model(tmp_path: Path) -> None:
    model = randomised(ModelConfig(backbone="resnet18", channels=32, min_sizes=((8,), (16, 20), (64,), (128,)), landmarks=False))
    loaded = load_model(save(model, tmp_path / "w.pth"))
    assert loaded.config == model.config and not loaded.training
    images = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    assert torch.equal(loaded(images).logits, model(images).logits)


def test_averaged_weights_of_a_run_are_taken_and_described(tmp_path: Path) -> None:
    model, other = randomised(SMALL), RetinaFace(SMALL)
    average = {"n_averaged": torch.tensor(9), **{f"module.{n}": v for n, v in model.state_dict().items()}}
    path = save(other, tmp_path / "last.pth", average=average, step=1234)
    assert describe_weights(path) == f"{path}: averaged weights of step 1,234"
    loaded, started = load_model(path), RetinaFace(SMALL)
    assert start_from(started, path) == []
    for state in (loaded.state_dict(), started.state_dict()):
        assert all(torch.equal(value, model.state_dict()[name]) for name, value in state.items())
    path = save(other, tmp_path / "last.pth", average=None, step=1234)
    assert describe_weights(path) == ""
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
    assert "expected settings under 'config', found 'x'" in complaint({"config": "x", "model": state})
    for nothing in (None, [1], {}):
        assert "holds no weights" in complaint({"config": to_dict(Config()), "model": nothing})
    assert "expected a RetinaFace checkpoint" in complaint({**state, "fpn.output1.0.weight": torch.tensor(1.0)})


def test_missing_and_damaged_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no.pth: no such checkpoint"):
        load_model(tmp_path / "no.pth")
    whole = save(RetinaFace(SMALL), tmp_path / "w.pth").read_bytes()
    for content in (b"", b"text", whole[: len(whole) // 2], whole[:100]):
        (tmp_path / "bad.pth").write_bytes(content)
        with pytest.raises(ValueError, match="bad.pth: not a readable checkpoint: "):
            load_model(tmp_path / "bad.pth")


class Attack:
    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("raise SystemExit('code was run')",)


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    torch.save({"config": Attack()}, tmp_path / "bad.pth")
    with pytest.raises(ValueError, match="not a readable checkpoint"):
        load_model(tmp_path / "bad.pth")


def test_start_from_names_the_heads_that_do_not_fit(tmp_path: Path) -> None:
    path = save(randomised(SMALL), tmp_path / "w.pth")
    same = RetinaFace(SMALL)
    assert start_from(same, path) == []
    assert torch.equal(same.class_head[0].conv.weight, load_model(path).class_head[0].conv.weight)
    other = RetinaFace(ModelConfig(backbone="mobilenet0.25", channels=64, min_sizes=((16, 24, 32), (64, 128), (256, 512))))
    assert start_from(other, path) == ["box_head", "class_head", "landmark_head"]
    assert torch.equal(other.body.state_dict()["stem.0.0.weight"], same.body.state_dict()["stem.0.0.weight"])
    without = RetinaFace(ModelConfig(backbone="mobilenet0.25", channels=64, landmarks=False))
    assert start_from(without, path) == []
    assert start_from(RetinaFace(SMALL), save(without, tmp_path / "without.pth")) == ["landmark_head"]
    with pytest.raises(ValueError, match=r"weights of another network: missing body\."):
        start_from(RetinaFace(ModelConfig(backbone="resnet18")), path)


def test_backbone_starts_from_an_imagenet_file_without_its_classifier(tmp_path: Path) -> None:
    network = torchvision.models.resnet18(weights=None)
    torch.save({"state_dict": {f"module.{name}": value for name, value in network.state_dict().items()}}, tmp_path / "r.pth")
    body = build_backbone("resnet18", return_layers=["layer4"], weights=str(tmp_path / "r.pth"))
    assert torch.equal(body.state_dict()["layer4.1.conv2.weight"], network.layer4[1].conv2.weight)
    with pytest.raises(ValueError, match=r"r.pth: weights of another network: missing stage1\."):
        build_backbone("mobilenet0.25", return_layers=["stage3"], weights=str(tmp_path / "r.pth"))


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


def test_building_a_model_fetches_nothing() -> None:
    code = "import socket; socket.socket.connect = None; from config import ModelConfig; from detector.retinaface import RetinaFace; "
    code += "RetinaFace(ModelConfig())"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
