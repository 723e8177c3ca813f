from __future__ import annotations

import warnings
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import detector.network
from config import ModelConfig
from detector.network import TorchNetwork
from detector.onnx_network import OnnxNetwork
from detector.retinaface import RetinaFace
from utils.devices import exact_float32

CUDA, CPU = torch.device("cuda"), torch.device("cpu")


@pytest.fixture(params=["old", "new"])
def switches(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """TF32 as torch 2.6 switches it, and as torch 2.9 does; a matrix product rounds too."""
    if request.param == "old":
        convolution, matmul = SimpleNamespace(allow_tf32=True), SimpleNamespace(allow_tf32=True)
        cudnn = convolution
    else:
        matmul = SimpleNamespace(fp32_precision="tf32")
        convolution = SimpleNamespace(fp32_precision="tf32")
        cudnn = SimpleNamespace(conv=convolution)
    monkeypatch.setattr(torch.backends, "cudnn", cudnn)
    monkeypatch.setattr(torch.backends.cuda, "matmul", matmul)
    return SimpleNamespace(convolution=convolution, matmul=matmul)


def rounds(operator: SimpleNamespace) -> bool:
    (value,) = vars(operator).values()
    assert value in (True, False, "tf32", "ieee", "none")
    return value in (True, "tf32")


def test_tf32_is_off_for_float32_on_a_gpu_alone_and_put_back(switches: SimpleNamespace) -> None:
    with exact_float32(CUDA, torch.float32):
        assert not rounds(switches.convolution) and not rounds(switches.matmul)
    for device, dtype in ((CUDA, torch.bfloat16), (CPU, torch.float32)):
        with exact_float32(device, dtype):
            assert rounds(switches.convolution) and rounds(switches.matmul)
    with pytest.raises(KeyError), exact_float32(CUDA, torch.float32):
        raise KeyError
    assert rounds(switches.convolution) and rounds(switches.matmul)


def test_tf32_that_is_off_stays_off(switches: SimpleNamespace) -> None:
    ((name, value),) = vars(switches.matmul).items()
    off = {True: False, "tf32": "none"}[value]
    setattr(switches.matmul, name, off)
    with exact_float32(CUDA, torch.float32):
        assert vars(switches.matmul) == {name: off}
    assert vars(switches.matmul) == {name: off} and rounds(switches.convolution)


def test_switches_of_this_torch_are_found_and_put_back_without_a_warning() -> None:
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    if hasattr(cudnn, "conv"):    # torch >= 2.9, where a user may have switched one operator alone
        operators, name = [cudnn.conv, cudnn.rnn, matmul], "fp32_precision"
        states = ["tf32", "ieee", "tf32"], ["ieee", "ieee", "ieee"]
    else:
        operators, name = [cudnn, matmul], "allow_tf32"
        states = [True, True], [False, False]

    def read() -> list[object]:
        return [getattr(operator, name) for operator in operators]

    def write(values: list[object]) -> None:
        for operator, value in zip(operators, values, strict=True):
            setattr(operator, name, value)

    before = read()
    try:
        write(states[0])
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with exact_float32(CUDA, torch.float32):
                assert read() == states[1]
        assert read() == states[0]
    finally:
        write(before)


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
