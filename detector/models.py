"""The detectors there are, and what the engine and FaceDetector need of each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import nn

from config import LossConfig, ModelConfig
from detector.engine import Objective
from detector.network import Network, TorchNetwork
from detector.objective import FaceObjective
from detector.retinaface import RetinaFace
from detector.torchvision_detectors import KINDS, TorchvisionDetector, TorchvisionNetwork, TorchvisionObjective
from layers.multibox_loss import MultiBoxLoss

Model = RetinaFace | TorchvisionDetector


class Architecture(NamedTuple):
    """How to build a model, what it is trained for (by way of what was made of it for several processes), and what it is in use, in a
    precision."""

    build: Callable[[ModelConfig], Any]
    make_objective: Callable[[nn.Module, Any, LossConfig], Objective]
    make_network: Callable[[Any, str], Network]


def _face_objective(network: nn.Module, model: RetinaFace, loss: LossConfig) -> Objective:
    return FaceObjective(network, model, MultiBoxLoss(**vars(loss)))


def _torchvision_objective(network: nn.Module, model: TorchvisionDetector, loss: LossConfig) -> Objective:
    return TorchvisionObjective(network, model)


ARCHITECTURES = {
    "retinaface": Architecture(RetinaFace, _face_objective, TorchNetwork),
    **dict.fromkeys(KINDS, Architecture(TorchvisionDetector, _torchvision_objective, TorchvisionNetwork)),
}


def build_model(config: ModelConfig) -> Model:
    """The model that the settings describe."""
    model: Model = ARCHITECTURES[config.architecture].build(config)
    return model


def make_objective(network: nn.Module, model: Model, loss: LossConfig) -> Objective:
    """What a model is trained for."""
    return ARCHITECTURES[model.config.architecture].make_objective(network, model, loss)


def make_network(model: Model, precision: str) -> Network:
    """A copy of a model, made fast for inference."""
    return ARCHITECTURES[model.config.architecture].make_network(model, precision)
