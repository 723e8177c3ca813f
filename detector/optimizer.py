"""What a step of training follows: the weights that learn, the optimiser, the learning rate, and the average of the weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from config import TrainConfig


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """The optimiser of all weights of a model, in one kernel a step; those without a gradient, such as frozen ones, stay as they are."""
    weights = list(model.parameters())
    if config.optimizer == "adamw":
        decayed, others = [weight for weight in weights if weight.ndim > 1], [weight for weight in weights if weight.ndim <= 1]
        groups: list[dict[str, Any]] = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, lr=config.lr, weight_decay=config.weight_decay, fused=True)
    sgd = torch.optim.SGD(weights, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay, fused=True)
    if config.momentum:
        # Left to the first step they would hold whatever was in memory, should that step be passed over.
        for weight in weights:
            sgd.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
    return sgd


def full_rate(config: TrainConfig) -> float:
    """The learning rate that warm-up rises to, scaled with the batch where `scale_lr` is on."""
    return config.lr * (config.batch_size / config.lr_batch_size if config.scale_lr else 1)


def learning_rate(step: int, *, config: TrainConfig, steps_per_epoch: int) -> float:
    """The learning rate of a step, counted from 0: a linear warm-up, then falls by 10 at the milestones or along half a cosine."""
    rate = full_rate(config)
    if config.schedule == "cosine":
        rate *= (1 + math.cos(math.pi * step / (config.epochs * steps_per_epoch))) / 2
    else:
        rate /= 10 ** sum(step >= epoch * steps_per_epoch for epoch in config.milestones)
    return rate * min(1.0, (step + 1) / (config.warmup_steps + 1))


class WeightAverage(AveragedModel):
    """The exponential moving average of a model's weights and batch-norm statistics; `update_parameters(model)` after each step.

    The decay rises with the number of steps t as (1 + t) / (10 + t) up to `decay`, so that the first weights, which know nothing, are
    soon forgotten.
    """

    def __init__(self, model: nn.Module, decay: float):
        super().__init__(model, use_buffers=True)
        self.decay = decay

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Take a step's weights in. Unlike the one of PyTorch this does not wait for a GPU: the number of steps stays on the host."""
        taken = int(self.n_averaged)
        decay = min(self.decay, (1 + taken) / (10 + taken)) if taken else 0.0
        pairs = list(zip(_floating(self.module), _floating(model), strict=True))
        get_ema_multi_avg_fn(decay)([average for average, _ in pairs], [weight for _, weight in pairs], self.n_averaged)
        self.n_averaged += 1


def _floating(model: nn.Module) -> list[Tensor]:
    """Weights and statistics, without the counters that nothing reads."""
    return [values.detach() for values in [*model.parameters(), *model.buffers()] if values.is_floating_point()]


def set_learning(model: nn.Module, config: TrainConfig, *, frozen: Sequence[nn.Module]) -> None:
    """Put a model into training mode, all but `frozen` parts of it, and where `freeze_batch_norm` is on all but its batch norms.

    Parts that do not learn have no gradient, and their batch norms keep their statistics.
    """
    model.train()
    for part in frozen:
        part.eval().requires_grad_(False)
    if config.freeze_batch_norm:
        for part in model.modules():
            if isinstance(part, _BatchNorm):
                part.eval()
