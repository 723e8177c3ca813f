from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torchvision
from conftest import RunScript
from test_train import arguments
from torch import nn

from config import Config, ModelConfig, TrainConfig, override
from detector.optimizer import WeightAverage, learning_rate, make_optimizer, set_learning
from detector.retinaface import RetinaFace
from train import warn_of_normalization
from utils.distributed import sync_batch_norms


def rate(step: int, config: TrainConfig) -> float:
    return learning_rate(step, config=config, steps_per_epoch=10)


def test_learning_rate_falls_by_ten_at_the_milestones() -> None:
    config = TrainConfig(lr=1.0, milestones=(2, 3))
    assert [rate(step, config) for step in (0, 19, 20, 29, 30)] == pytest.approx([1, 1, 0.1, 0.1, 0.01])


def test_cosine_falls_to_nothing_and_warm_up_rises() -> None:
    config = TrainConfig(lr=1.0, epochs=4, schedule="cosine")
    assert [rate(step, config) for step in (0, 20, 40)] == pytest.approx([1, 0.5, 0])
    rates = [rate(step, replace(config, warmup_steps=4)) for step in range(6)]
    assert rates[:4] == pytest.approx([rate(step, config) * (step + 1) / 5 for step in range(4)])
    assert rates[5] == rate(5, config)


def test_scaled_learning_rate_follows_the_batch() -> None:
    config = TrainConfig(lr=0.01, batch_size=12, lr_batch_size=24)
    assert rate(0, config) == pytest.approx(0.01)
    assert rate(0, replace(config, scale_lr=True)) == pytest.approx(0.005)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_first_step_passed_over_leaves_no_trace(name: str) -> None:
    config = TrainConfig(optimizer=name, lr=0.1)    # type: ignore[arg-type]
    models = [nn.Linear(3, 2), nn.Linear(3, 2)]
    models[1].load_state_dict(models[0].state_dict())
    optimizers = [make_optimizer(model, config) for model in models]
    for model, optimizer, grads in zip(models, optimizers, [(float("nan"), 1.0, 2.0), (1.0, 2.0)], strict=True):
        for grad in grads:
            for weight in model.parameters():
                weight.grad = torch.full_like(weight, grad)
            optimizer.found_inf = torch.tensor(float(grad != grad))    # type: ignore[attr-defined]
            optimizer.step()
    assert torch.equal(models[0].weight, models[1].weight)
    assert bool(models[0].weight.isfinite().all())


def test_adamw_does_not_decay_biases_and_batch_norms() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    decayed, others = make_optimizer(model, TrainConfig(optimizer="adamw", weight_decay=0.05)).param_groups
    assert [weight.ndim for weight in decayed["params"]] == [4] and decayed["weight_decay"] == 0.05
    assert [weight.ndim for weight in others["params"]] == [1, 1, 1] and others["weight_decay"] == 0


def test_average_follows_the_weights_ever_more_slowly() -> None:
    model = nn.BatchNorm1d(1)
    average = WeightAverage(model, 0.5)
    expected = torch.tensor(0.0)
    for step, value in enumerate([4.0, 8.0, 2.0, 6.0]):
        with torch.no_grad():
            model.weight.fill_(value)
            model.running_mean.fill_(-value)    # type: ignore[union-attr]
        average.update_parameters(model)
        decay = min(0.5, (1 + step) / (10 + step)) if step else 0.0
        expected = expected * decay + value * (1 - decay)
    assert average.module.weight.item() == pytest.approx(expected.item())
    assert average.module.running_mean.item() == pytest.approx(-expected.item())


def tiny_model() -> RetinaFace:
    return RetinaFace(ModelConfig(backbone="mobilenet0.25", channels=16))


@pytest.mark.parametrize("count", [0, 1, 3])
def test_frozen_stages_neither_learn_nor_keep_statistics(count: int) -> None:
    model = tiny_model()
    set_learning(model, TrainConfig(), frozen=model.first_stages(count))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = make_optimizer(model, TrainConfig(lr=1.0))
    predictions = model(torch.randint(0, 255, (2, 3, 64, 64), dtype=torch.uint8))
    (predictions.boxes.mean() + predictions.logits.square().mean()).backward()
    optimizer.step()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    stages = {name.split(".")[1] for name in changed if name.startswith("body.")}
    assert stages == set(["stem", "stage1", "stage2", "stage3"][count:])


def test_frozen_stages_stay_frozen_with_synchronized_batch_norms() -> None:
    """Their forward pass needs a GPU, so this looks at the modules only."""
    model = RetinaFace(ModelConfig(backbone="resnet18", channels=16))
    assert sync_batch_norms(model, torch.device("cuda")) is model
    set_learning(model, TrainConfig(), frozen=model.first_stages(1))
    body = dict(model.body.named_children())
    assert isinstance(body["bn1"], nn.SyncBatchNorm)
    for name, layer in body.items():
        frozen = name in ("conv1", "bn1", "relu", "maxpool", "layer1")
        assert all(part.training != frozen for part in layer.modules())
        assert all(weight.requires_grad != frozen for weight in layer.parameters())
    set_learning(model, TrainConfig(freeze_batch_norm=True), frozen=[])
    assert not any(part.training for part in model.modules() if isinstance(part, nn.SyncBatchNorm))
    with pytest.raises(ValueError, match=r"train.sync_batch_norm: works between GPUs only, found cpu"):
        sync_batch_norms(model, torch.device("cpu"))


def test_frozen_batch_norms_keep_their_statistics_and_learn() -> None:
    model = tiny_model()
    set_learning(model, TrainConfig(freeze_batch_norm=True), frozen=[])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model(torch.randint(0, 255, (2, 3, 64, 64), dtype=torch.uint8)).logits.square().mean().backward()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(weight.requires_grad for weight in model.parameters())
    assert model.training


def test_more_stages_than_there_are_cannot_be_frozen() -> None:
    with pytest.raises(ValueError, match=r"train.freeze_stages: expected at most the 4 of mobilenet0.25, found 5"):
        tiny_model().first_stages(5)


def test_frozen_imagenet_layers_ask_for_their_normalization(
    drawn_set: Path, tmp_path: Path, run: RunScript, recwarn: pytest.WarningsRecorder
) -> None:
    torch.save({"state_dict": torchvision.models.resnet18(weights=None).state_dict()}, tmp_path / "imagenet.tar")
    backbone = ["model.backbone=resnet18", f"model.backbone_weights={tmp_path / 'imagenet.tar'}"]
    words = arguments(drawn_set, tmp_path / "run", *backbone, "train.freeze_stages=1", "train.max_steps=1", "train.lr=1e-4")
    result = run("train", *words)
    advice = "model.channel_order=rgb model.mean=[123.675,116.28,103.53] model.std=[58.395,57.12,57.375]"
    assert result.code == 0
    assert result.err.startswith("train.py: warning: train.freeze_stages and train.freeze_batch_norm keep layers and statistics ")
    assert result.err.endswith(f"; set {advice}\n")
    quiet = [["train.freeze_stages=0"], ["train.freeze_stages=1", *advice.split()], ["train.freeze_batch_norm=true", *advice.split()]]
    quiet += [["train.freeze_stages=1", "model.backbone_weights=none"]]
    for changes in quiet:
        config = override(Config(), [*backbone, *changes])
        warn_of_normalization(config.model, config.train)
    assert not recwarn.list
    config = override(Config(), [*backbone, "train.freeze_batch_norm=true"])
    warn_of_normalization(config.model, config.train)
    assert len(recwarn.list) == 1
