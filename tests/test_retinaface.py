from __future__ import annotations

from typing import Any

import pytest
import torch
import torchvision
from conftest import make_target

from config import ModelConfig
from detector.backbone import BACKBONES, build_backbone, levels_of
from detector.retinaface import RetinaFace
from layers.multibox_loss import MultiBoxLoss

SMALL = ModelConfig(backbone="mobilenet0.25", channels=64)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize(
    ("name", "layers", "levels"),
    [
        ("resnet50", ["layer2", "layer3", "layer4"], [(512, 8), (1024, 16), (2048, 32)]),
        ("resnet18", ["layer1", "layer4"], [(64, 4), (512, 32)]),
        ("resnet34", ["layer3"], [(256, 16)]),
        ("mobilenet0.25", ["stem", "stage1", "stage2", "stage3"], [(32, 4), (64, 8), (128, 16), (256, 32)]),
        ("mobilenet1.0", ["stage1", "stage3"], [(256, 8), (1024, 32)]),
        ("mobilenet_v2", ["3", "6", "18"], [(24, 4), (32, 8), (1280, 32)]),
        ("mobilenet_v3_large", ["1", "16"], [(16, 2), (960, 32)]),
        ("vgg16", ["8", "30"], [(128, 2), (512, 32)]),
    ],
)
def test_channels_and_strides_are_read_off_the_backbone(name: str, layers: list[str], levels: list[tuple[int, int]]) -> None:
    assert levels_of(build_backbone(name, return_layers=layers)) == levels


def test_unknown_layer_is_named_with_the_known_ones() -> None:
    for wrong in (["layer2"], ["stage2", "stage1"], ["stage1", "stage1"]):
        with pytest.raises(ValueError, match=r"^model.return_layers: expected some of stem, stage1, stage2, stage3 in this order, found "):
            build_backbone("mobilenet0.25", return_layers=wrong)
    with pytest.raises(ValueError, match=r"model.min_sizes: 5 lists of sizes, but resnet18 has only the levels layer1, .*, layer4"):
        RetinaFace(ModelConfig(backbone="resnet18", min_sizes=((8,), (16,), (32,), (64,), (128,))))


def test_published_models_have_the_published_number_of_parameters() -> None:
    def count(config: ModelConfig) -> int:
        with torch.device("meta"):
            return sum(weight.numel() for weight in RetinaFace(config).parameters())

    assert count(SMALL) == 426_608
    assert count(ModelConfig()) == 27_293_600


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_prior_of_any_image_size_gets_its_predictions(backbone: Any) -> None:
    min_sizes = ((8, 11), (16, 32), (64, 128), (256, 512))
    with torch.device("meta"):    # shapes alone cost no arithmetic
        model = RetinaFace(ModelConfig(backbone=backbone, channels=64, min_sizes=min_sizes)).eval()
    assert model.prior_box.steps == (4, 8, 16, 32)
    for height, width in [(64, 64), (97, 130), (33, 250), (1, 1)]:
        predictions = model(torch.zeros(2, 3, height, width, dtype=torch.uint8, device="meta"))
        count = len(model.priors(height, width))
        assert predictions.boxes.shape == (2, count, 4)
        assert predictions.logits.shape == (2, count, 2)
        assert predictions.landmarks is not None and predictions.landmarks.shape == (2, count, 5, 2)


def test_outputs_are_in_the_order_of_the_priors() -> None:
    model = RetinaFace(SMALL).eval()
    for parameter in model.class_head.parameters():
        torch.nn.init.zeros_(parameter)
    with torch.no_grad():
        for level, head in enumerate(model.class_head):
            head.conv.bias.copy_(torch.tensor([level, 0.0, level, 1.0]))    # [background, face] of the smaller and the larger size
    logits = model(torch.zeros(1, 3, 64, 96, dtype=torch.uint8)).logits[0]
    priors = model.priors(64, 96)
    sizes = torch.tensor([[16.0, 32], [64, 128], [256, 512]])
    for level in range(3):
        for number in range(2):
            here = priors[:, 2] == sizes[level, number]
            assert logits[here].unique(dim=0).tolist() == [[level, number]]


def test_prior_sizes_alone_add_a_finer_level() -> None:
    model = RetinaFace(ModelConfig(backbone="mobilenet0.25", channels=64, min_sizes=((8, 11), (16, 32), (64, 128), (256, 512))))
    assert model.prior_box.steps == (4, 8, 16, 32)
    assert len(model.priors(64, 64)) == model(torch.zeros(1, 3, 64, 64)).boxes.shape[1] == 2 * (256 + 64 + 16 + 4)


def test_levels_may_have_different_numbers_of_priors() -> None:
    model = RetinaFace(ModelConfig(backbone="mobilenet0.25", channels=64, min_sizes=((16, 24, 32), (64,), (256, 512))))
    assert model(torch.zeros(1, 3, 64, 64)).logits.shape[1] == len(model.priors(64, 64)) == 64 * 3 + 16 + 4 * 2


def test_model_without_landmarks_has_no_such_head() -> None:
    model = RetinaFace(ModelConfig(backbone="mobilenet0.25", channels=64, landmarks=False)).eval()
    assert model(torch.zeros(1, 3, 64, 64)).landmarks is None
    assert not any("landmark" in name for name in model.state_dict())


def test_image_is_normalised_inside_in_the_channel_order_of_the_model() -> None:
    image = torch.tensor([10, 20, 30], dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    bgr = RetinaFace(ModelConfig(backbone="mobilenet0.25", channels=64)).normalise(image)
    assert bgr[0, :, 0, 0].tolist() == [10 - 104, 20 - 117, 30 - 123]
    config = ModelConfig(backbone="mobilenet0.25", channels=64, channel_order="rgb", mean=(1, 2, 3), std=(1, 2, 9))
    assert RetinaFace(config).normalise(image)[0, :, 0, 0].tolist() == [29, 9, pytest.approx(7 / 9)]
    assert not {"mean", "std"} & set(RetinaFace(config).state_dict())


def test_softmax_of_two_logits_is_the_sigmoid_of_their_difference() -> None:
    logits = torch.randn(100, 2) * 5
    assert torch.allclose(logits.softmax(dim=1)[:, 1], torch.sigmoid(logits[:, 1] - logits[:, 0]), atol=1e-6)


def test_every_weight_is_trained() -> None:
    model = RetinaFace(SMALL)
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    targets = [make_target([[10, 10, 30, 34]]), make_target([])]
    torch.stack(list(MultiBoxLoss()(model(images), model.priors(64, 64), targets).values())).sum().backward()
    assert [name for name, weight in model.named_parameters() if weight.grad is None] == []


@pytest.mark.slow
def test_resnet50_preset_takes_a_training_step_at_840_pixels() -> None:
    model = RetinaFace(ModelConfig()).train()
    priors = model.priors(840, 840)
    by_level = [int((priors[:, 2] == size).sum()) * 2 for size in (16, 64, 256)]
    assert by_level == [22_050, 5_618, 1_458]
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    before = model.class_head[0].conv.weight.clone()
    predictions = model(torch.randint(0, 256, (1, 3, 840, 840), dtype=torch.uint8))
    losses = MultiBoxLoss()(predictions, priors, [make_target([[100, 100, 180, 200]])])
    torch.stack(list(losses.values())).sum().backward()
    optimizer.step()
    assert all(bool(loss.isfinite()) for loss in losses.values())
    assert not torch.equal(before, model.class_head[0].conv.weight)


def test_backbone_is_torchvisions_own() -> None:
    ours, theirs = build_backbone("resnet18", return_layers=["layer4"]), torchvision.models.resnet18(weights=None)
    ours.load_state_dict({name: value for name, value in theirs.state_dict().items() if not name.startswith("fc.")})
    image = torch.rand(1, 3, 64, 64)
    theirs.eval()
    expected = torch.nn.Sequential(*list(theirs.children())[:-2])(image)
    assert torch.equal(ours.eval()(image)["layer4"], expected)


def test_images_given_as_numbers_are_not_changed() -> None:
    model = RetinaFace(ModelConfig(backbone="mobilenet0.25", channels=16)).eval()
    images = torch.rand(1, 3, 64, 64) * 255
    before = images.clone()
    model(images)
    assert torch.equal(images, before)
