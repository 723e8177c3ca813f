"""Weights files that others wrote, and files that are taken for weights."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from published_networks import SMALL, assert_same_outputs, published_state, randomized, yakhyo_name
from torch import nn
from torch.optim.swa_utils import AveragedModel

from config import ModelConfig
from detector.backbone import build_backbone
from detector.weights import load_model
from utils.checkpoint import load_tensors, read_checkpoint


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "is empty; download or save it again"),
        (b"<!DOCTYPE html><html><head>", "is a web page, not a checkpoint: download it again"),
        (
            b"\xef\xbb\xbf\r\n <?xml version='1.0'?><Error>",
            "is a web page, not a checkpoint: download it again",
        ),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 1789735\n",
            "is a Git LFS pointer, not the weights themselves: run git lfs pull",
        ),
        (b"404: Not Found", "is a text file, not a checkpoint"),
        (b'{"message": "Not Found"}\n', "is a text file, not a checkpoint"),
        (
            b'\x40\x00\x00\x00\x00\x00\x00\x00{"w": {"dtype": "F32"}}',
            "is a safetensors file; expected weights written by torch.save",
        ),
    ],
)
def test_files_that_are_no_checkpoints_are_named_for_what_they_are(
    content: bytes, complaint: str, tmp_path: Path
) -> None:
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(ValueError, match=rf"w\.pth: {re.escape(complaint)}$"):
        load_model(tmp_path / "w.pth")


def test_numpy_values_beside_the_weights_are_no_obstacle(tmp_path: Path) -> None:
    state = published_state(randomized(SMALL))
    values = {
        "best": np.float64(0.5),
        "step": np.int64(3),
        "done": np.bool_(True),
        "losses": np.zeros(3, np.float32),
    }
    torch.save({"state_dict": state, **values}, tmp_path / "w.pth")
    assert_same_outputs(load_model(tmp_path / "w.pth"), state)
    # NumPy 1 names its functions in numpy.core, NumPy 2 in numpy._core.
    pickled = pickle.dumps({"best": np.float64(0.5)}, protocol=2)
    for core in (b"numpy.core.", b"numpy._core."):
        (tmp_path / "v.pth").write_bytes(legacy_file(re.sub(rb"numpy\._?core\.", core, pickled)))
        assert read_checkpoint(tmp_path / "v.pth") == {"best": 0.5}


def legacy_file(pickled: bytes) -> bytes:
    """A file as torch.save wrote it before version 1.6, with that pickle as its content."""
    parts = [
        pickle.dumps(part, protocol=2)
        for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
    ]
    return b"".join([*parts, pickled, pickle.dumps([], protocol=2)])


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model", "net", "ema"])
@pytest.mark.parametrize(
    "prefix", ["", "module.", "model.", "_orig_mod.", "module._orig_mod.", "net.model."]
)
def test_weights_are_found_where_other_trainers_put_them(
    key: str, prefix: str, tmp_path: Path
) -> None:
    state = {"a.weight": torch.ones(2), "b.weight": torch.zeros(2)}
    saved = {f"{prefix}{name}": value for name, value in state.items()}
    torch.save(
        {"epoch": 3, "config": {"lr": 0.1}, "optimizer": {"state": {}}, key: saved},
        tmp_path / "w.ckpt",
    )
    assert load_tensors(tmp_path / "w.ckpt").keys() == state.keys()


def test_averaged_model_of_torch_loses_its_counter_and_prefix(tmp_path: Path) -> None:
    torch.save(
        {"ema": AveragedModel(nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))).state_dict()},
        tmp_path / "w.pth",
    )
    assert set(load_tensors(tmp_path / "w.pth")) == {"0.weight", "0.bias", "1.weight", "1.bias"}


# Names of yakhyo/retinaface-pytorch where they differ from the older repo's.
YAKHYO_NAMES = {
    "mobilenet0.25": {
        "fx.stage1.0.0.weight",
        "fx.stage1.1.0.0.weight",
        "fx.stage1.5.1.1.running_var",
        "fx.stage3.1.1.0.weight",
    },
    "mobilenet_v2": {
        "fx.features.0.0.weight",
        "fx.features.18.1.running_mean",
        "fx.features.2.conv.3.weight",
    },
    "resnet18": {
        "fx.conv1.weight",
        "fx.layer4.1.bn2.bias",
        "class_head.class_head.0.weight",
        "bbox_head.bbox_head.2.bias",
    },
}


@pytest.mark.parametrize(
    ("backbone", "channels"),
    [
        ("mobilenet0.25", 64),
        ("mobilenet0.5", 128),
        ("mobilenet_v2", 128),
        ("resnet18", 128),
        pytest.param("resnet101", 256, marks=pytest.mark.slow),
    ],
)
def test_weights_of_the_newer_repo_build_their_own_model(
    backbone: Any, channels: int, tmp_path: Path
) -> None:
    layers = ("6", "13", "18") if backbone == "mobilenet_v2" else ()
    model = randomized(ModelConfig(backbone=backbone, channels=channels, return_layers=layers))
    state = {yakhyo_name(name, backbone): value for name, value in published_state(model).items()}
    assert YAKHYO_NAMES.get(backbone, set()) <= set(state)
    torch.save(
        {"epoch": 3, "model": {f"module.{name}": value for name, value in state.items()}},
        tmp_path / "w.ckpt",
    )
    loaded = load_model(tmp_path / "w.ckpt")
    assert loaded.config == model.config
    assert all(
        torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items()
    )


def test_backbone_that_fits_best_is_named_where_none_fits(tmp_path: Path) -> None:
    state = published_state(randomized(ModelConfig(backbone="resnet18", channels=128)))
    state["body.layer3.1.conv1.weight"] = torch.zeros(7, 256, 3, 3)
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(
        ValueError,
        match=r"w\.pth: read as resnet18: weights of another network: body\.layer3\.1\.conv1\.weight is \(7, ",
    ):
        load_model(tmp_path / "w.pth")


def test_backbone_file_of_the_newer_repo_fits(tmp_path: Path) -> None:
    body = build_backbone("mobilenet0.25", return_layers=["stage3"]).state_dict()
    model = randomized(SMALL)
    names = {name: yakhyo_name(name, "mobilenet0.25") for name in published_state(model)}
    state = {new[3:]: published_state(model)[old] for old, new in names.items() if new[:3] == "fx."}
    torch.save({**state, "fc.weight": torch.zeros(1000, 256)}, tmp_path / "backbone.pth")
    path = str(tmp_path / "backbone.pth")
    loaded = build_backbone("mobilenet0.25", return_layers=["stage3"], weights=path)
    assert set(body) == {name[5:] for name in model.state_dict() if name.startswith("body.")}
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, model.state_dict()[f"body.{name}"])
