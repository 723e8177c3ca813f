from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import RunScript

from config import Config, ModelConfig, TestConfig, to_dict
from detector.export import main
from detector.face_detector import FaceDetector
from detector.onnx_network import OnnxNetwork
from detector.retinaface import RetinaFace
from detector.weights import load_model
from utils.box_utils import decode, decode_landmarks
from utils.images import read_image
from utils.script import run_script

onnxruntime = pytest.importorskip("onnxruntime")


def save(path: Path, config: ModelConfig) -> Path:
    """Random weights whose heads say something else of each prior."""
    torch.manual_seed(0)
    model = RetinaFace(config)
    for head in model.class_head:
        torch.nn.init.normal_(head.conv.weight)    # type: ignore[union-attr,arg-type]
    torch.save({"config": to_dict(Config(model=config)), "model": model.state_dict()}, path)
    return path


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = ModelConfig(backbone="mobilenet0.25", channels=64, mean=(120.0, 110.0, 100.0), channel_order="rgb")
    return save(tmp_path_factory.mktemp("export") / "a.pth", config)


@pytest.fixture(scope="module")
def exported(weights: Path) -> Path:
    path = weights.with_suffix(".onnx")
    assert main([str(weights), str(path)]) == 0
    return path


def test_export_says_that_it_agrees(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(weights), str(tmp_path / "b.onnx")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "they agree" and len(lines) == 5 and "scores" in lines[1] and "landmarks" in lines[1]


def test_inputs_and_outputs_have_names_and_free_sizes(exported: Path) -> None:
    session = onnxruntime.InferenceSession(str(exported))
    (images,) = session.get_inputs()
    assert (images.name, images.type, images.shape) == ("images", "tensor(uint8)", ["batch", 3, "height", "width"])
    assert [output.name for output in session.get_outputs()] == ["boxes", "scores", "landmarks"]
    settings = json.loads(session.get_modelmeta().custom_metadata_map["model"])
    assert settings["mean"] == [120.0, 110.0, 100.0] and settings["backbone"] == "mobilenet0.25"
    for batch, height, width in [(1, 1, 1), (3, 33, 100), (2, 128, 64)]:
        boxes, scores, landmarks = session.run(None, {"images": np.zeros((batch, 3, height, width), np.uint8)})
        priors = scores.shape[1]
        assert boxes.shape == (batch, priors, 4) and landmarks.shape == (batch, priors, 5, 2)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (33, 90), (128, 50)])
def test_onnx_runtime_says_the_same_of_every_prior(height: int, width: int, weights: Path, exported: Path) -> None:
    images = torch.randint(0, 256, (3, 3, height, width), dtype=torch.uint8)
    model = load_model(weights)
    with torch.no_grad():
        predictions = model(images)
    priors = model.priors(height, width)
    boxes, scores, landmarks = OnnxNetwork(exported, "cpu").outputs(images.numpy())
    assert np.allclose(scores, predictions.logits.softmax(dim=2)[..., 1], atol=1e-5)
    assert np.allclose(boxes, decode(predictions.boxes, priors), atol=1e-3)
    assert np.allclose(landmarks, decode_landmarks(predictions.landmarks, priors), atol=1e-3)


@pytest.mark.parametrize("size", [
    "original",
    pytest.param("x2", marks=pytest.mark.slow),
    pytest.param("long:300", marks=pytest.mark.slow),
])  # fmt: skip
def test_onnx_runtime_finds_the_same_faces(size: str, real_data: Path, tmp_path: Path) -> None:
    weights = real_data / "weights" / "retinaface_mobilenet0.25_published.pth"
    assert main([str(weights), str(tmp_path / "a.onnx")]) == 0
    image = read_image(real_data / "photos" / "astronaut.png", turn=True)
    config = TestConfig(size=size, flip=True, vote=True)
    ours, theirs = (FaceDetector.from_checkpoint(path, "cpu", config=config)(image) for path in (weights, tmp_path / "a.onnx"))
    assert len(ours) == len(theirs) > 0
    assert np.allclose(ours.boxes, theirs.boxes, atol=0.01) and np.allclose(ours.scores, theirs.scores, atol=1e-4)
    assert ours.landmarks is not None and theirs.landmarks is not None
    assert np.allclose(ours.landmarks, theirs.landmarks, atol=0.01)


def test_model_without_landmarks_is_exported_without(tmp_path: Path) -> None:
    path = save(tmp_path / "a.pth", ModelConfig(backbone="mobilenet0.25", channels=64, landmarks=False))
    assert main([str(path), str(tmp_path / "a.onnx")]) == 0
    found = FaceDetector.from_checkpoint(tmp_path / "a.onnx", config=TestConfig(confidence=0.4))(np.zeros((64, 64, 3), np.uint8))
    assert len(found) and found.landmarks is None


def test_onnx_file_scores_as_its_checkpoint_does(drawn_set: Path, weights: Path, exported: Path, tmp_path: Path, run: RunScript) -> None:
    for name, path in (("a", weights), ("b", exported)):
        assert run("test", "--labels", drawn_set, "--weights", path, "--output", tmp_path / name).code == 0
    a, b = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in "ab")
    # Untrained, the network scores many priors nearly alike, and their order hangs on the last digits.
    assert a["ap50"] == pytest.approx(b["ap50"], abs=2e-3) and a["faces"] == b["faces"]
    assert b["settings"]["weights"] == str(exported)


def test_bad_input_is_one_line_and_leaves_nothing(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.onnx").write_text("no model")
    cases = [
        ([str(weights), str(tmp_path / "a.pt")], "a.pt: expected a name that ends in .onnx"),
        (["no.pth", str(tmp_path / "a.onnx")], "no.pth: no such checkpoint"),
    ]
    for arguments, message in cases:
        assert run_script(lambda: main(arguments), "detector.export") == 2    # noqa: B023 (called at once)
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line
    assert [path.name for path in tmp_path.iterdir()] == ["text.onnx"]
    with pytest.raises(ValueError, match=r"text.onnx: not an ONNX file of detector.export"):
        FaceDetector.from_checkpoint(tmp_path / "text.onnx")
    with pytest.raises(ValueError, match="device cuda: this ONNX Runtime has no CUDA"):
        FaceDetector.from_checkpoint(tmp_path / "text.onnx", "cuda")


def test_confidence_that_a_checkpoint_names_travels_along(untrained: Path, tmp_path: Path) -> None:
    checkpoint = torch.load(untrained, weights_only=True)
    torch.save({**checkpoint, "draw_confidence": 0.62}, tmp_path / "a.pth")
    assert main([str(tmp_path / "a.pth"), str(tmp_path / "a.onnx")]) == 0
    for name in ("a.pth", "a.onnx"):
        assert FaceDetector.from_checkpoint(tmp_path / name).draw_confidence == 0.62
    torch.save({**checkpoint, "draw_confidence": 7}, tmp_path / "b.pth")
    with pytest.raises(ValueError, match=r"b.pth: draw_confidence: expected a number from 0 to 1, found 7"):
        load_model(tmp_path / "b.pth")
