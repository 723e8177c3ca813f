from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

import detector.network
from config import ModelConfig
from detector.network import TorchNetwork
from detector.onnx_network import OnnxNetwork
from detector.retinaface import RetinaFace
from utils.devices import exact_float32

CUDA, CPU = torch.device("cuda"), torch.device("cpu")


def test_tf32_is_off_for_float32_on_a_gpu_alone_and_put_back() -> None:
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = True
    try:
        with exact_float32(CUDA, torch.float32):
            assert not torch.backends.cudnn.allow_tf32
        for device, dtype in ((CUDA, torch.bfloat16), (CPU, torch.float32)):
            with exact_float32(device, dtype):
                assert torch.backends.cudnn.allow_tf32
        with pytest.raises(KeyError), exact_float32(CUDA, torch.float32):
            raise KeyError
        assert torch.backends.cudnn.allow_tf32
    finally:
        torch.backends.cudnn.allow_tf32 = before


def test_detection_computes_features_and_heads_in_exact_float32(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inside: list[str] = []

    @contextmanager
    def watch(device: torch.device, dtype: torch.dtype):    # type: ignore[no-untyped-def]
        inside.append(f"{device} {dtype}")
        network.model.body.register_forward_hook(lambda *_: inside.append("body"))
        network.model.class_head[0].register_forward_hook(lambda *_: inside.append("head"))
        yield
        inside.append("end")

    network = TorchNetwork(RetinaFace(ModelConfig(backbone="mobilenet0.25", channels=64)), "float32")
    monkeypatch.setattr(detector.network, "exact_float32", watch)
    network(torch.zeros(1, 3, 64, 64, dtype=torch.uint8), confidence=0.5, top_k=5)
    assert inside == ["cpu torch.float32", "body", "head", "end"]


def test_onnx_runtime_is_asked_for_no_tf32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    asked: list[object] = []

    def session(path: str, providers: list[object]) -> None:
        asked.extend(providers)
        raise RuntimeError("no GPU here")

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    (tmp_path / "w.onnx").write_bytes(b"")
    with pytest.raises(ValueError, match="no GPU here"):
        OnnxNetwork(tmp_path / "w.onnx", "cuda")
    assert asked == [("CUDAExecutionProvider", {"use_tf32": 0}), "CPUExecutionProvider"]
