"""What the tests share: scripts run in this process, a small drawn set, real photos where there are some."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings

from config import Config, ModelConfig, to_dict
from data.synthetic import draw_set
from detector.retinaface import RetinaFace
from utils.script import run_script
from utils.structures import Target

# A busy machine may take seconds over an example; CI tries the same examples each time.
settings.register_profile("default", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")
ROOT = Path(__file__).parents[1]
RunScript = Callable[..., "Result"]


@dataclass
class Result:
    """How a script ended, and what it printed."""

    code: int
    out: str
    err: str

    @property
    def complaint(self) -> str:
        """The one line that a failed script prints."""
        assert self.code == 2, (self.code, self.out, self.err)
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        return lines[0]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> RunScript:
    """Run a script by name with arguments, in this process: `run("train", "--preset", "demo")`."""

    def run_named(name: str, *arguments: object) -> Result:
        spec = importlib.util.spec_from_file_location(f"script_{name}", ROOT / f"{name}.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module    # where dataclasses and pickling look a class up
        spec.loader.exec_module(module)
        capfd.readouterr()
        code = run_script(lambda: module.main([str(argument) for argument in arguments]), f"{name}.py")
        output = capfd.readouterr()
        return Result(code, output.out, output.err)

    return run_named


@pytest.fixture(scope="session")
def drawn_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The label file of 12 drawn images of 128 pixels; do not write beside it."""
    return draw_set(tmp_path_factory.mktemp("drawn"), images=12, size=128, seed=3)


@pytest.fixture(scope="session")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a model that has learnt nothing, but answers."""
    torch.manual_seed(0)
    config = ModelConfig(backbone="mobilenet0.25", channels=64)
    path = tmp_path_factory.mktemp("weights") / "untrained.pth"
    torch.save({"config": to_dict(Config(model=config)), "model": RetinaFace(config).state_dict()}, path)
    return path


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real photos that FACE_REAL_DATA names."""
    folder = os.environ.get("FACE_REAL_DATA")
    if not folder:
        pytest.skip("FACE_REAL_DATA names no folder of real sets")
    return Path(folder).resolve()


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def make_target(boxes: list[list[float]], *, ignore: list[bool] | None = None) -> Target:
    """A target of some boxes, whose five points all lie at their centre and are known."""
    corners = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    count = len(corners)
    landmarks = ((corners[:, :2] + corners[:, 2:]) / 2)[:, None].repeat(1, 5, 1)
    known = torch.ones(count, 5, dtype=torch.bool)
    return Target(corners, landmarks, known, torch.tensor(ignore or [False] * count, dtype=torch.bool))
