"""torchvision's detectors behind the same callables as RetinaFace."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import RunScript, make_target
from torch import nn
from torchvision.models import detection
from torchvision.ops import FrozenBatchNorm2d

from config import Config, ModelConfig, TestConfig, load_config, to_dict
from data.drawn_people import draw_people
from detector.export import export
from detector.face_detector import FaceDetector, View, to_image
from detector.models import build_model, make_objective
from detector.network import Candidates
from detector.torchvision_detectors import EPSILON, KINDS, TorchvisionDetector, box_masks
from detector.weights import load_model, start_from
from utils.coco_eval import NAMES
from utils.listing import Listing, to_json
from utils.structures import Detections, Target


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def people(count: int, *, size: int = 96) -> Target:
    """Some people side by side, with masks."""
    boxes = [[10.0 + 30 * number, 10, 30 + 30 * number, 80] for number in range(count)]
    regions = torch.zeros(size, size, dtype=torch.int16)
    for number, (x1, y1, x2, y2) in enumerate(boxes, start=1):
        regions[int(y1) : int(y2), int(x1) : int(x2)] = number
    return replace(make_target(boxes), regions=regions)


def batch(count: int, *, size: int = 96) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8)


FAST_KINDS = "maskrcnn_mobilenet_v2", "retinanet_resnet50_fpn"


@pytest.fixture(scope="module", params=[
    pytest.param(kind, marks=() if kind in FAST_KINDS else pytest.mark.slow)
    for kind in KINDS
])  # fmt: skip
def model(request: pytest.FixtureRequest) -> TorchvisionDetector:
    torch.manual_seed(0)
    architecture: Any = request.param
    return TorchvisionDetector(ModelConfig(architecture=architecture))


def test_each_learns_detects_on_any_size_and_is_built_again_from_its_file(model: TorchvisionDetector, tmp_path: Path) -> None:
    objective = make_objective(model, model, Config().loss)
    images, targets = batch(3), [people(2), make_target([]), people(1)]
    targets[1] = replace(targets[1], regions=torch.zeros(96, 96, dtype=torch.int16))
    assignment = objective.assign(images, targets)
    losses = objective.losses(images, assignment, assignment.counts)
    assert tuple(losses) == model.kind.losses and all(bool(loss.isfinite()) for loss in losses.values())
    torch.stack(list(losses.values())).sum().backward()
    assert sum(bool(weight.grad is not None and weight.grad.abs().sum() > 0) for weight in model.parameters()) > 20
    model.zero_grad()

    detector = FaceDetector(model, TestConfig(confidence=0.0, max_faces=7))
    photos = [np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in ((70, 97), (33, 130), (1, 1))]
    for found in detector(photos):
        assert len(found) <= 7 and found.landmarks is None
        assert (np.diff(found.scores) <= 0).all()
        if "mask" in model.kind.losses:
            assert found.masks is not None and found.masks.shape == (len(found), 28, 28) and found.masks.dtype == np.uint8
    torch.save({"config": to_dict(Config(model=model.config)), "model": model.state_dict()}, tmp_path / "a.pth")
    again = FaceDetector.from_checkpoint(tmp_path / "a.pth", config=detector.config)(photos[0])
    assert np.array_equal(again.boxes, detector(photos[0]).boxes)
    with pytest.raises(ValueError, match=f"a.pth: only RetinaFace is exported here, found {model.config.architecture}"):
        export(tmp_path / "a.pth", tmp_path / "a.onnx")
    assert not (tmp_path / "a.onnx").exists()


def test_ignored_people_are_left_out() -> None:
    model = TorchvisionDetector(ModelConfig(architecture="maskrcnn_mobilenet_v2"))
    target = replace(people(2), ignore=torch.tensor([True, False]))
    (labels,) = make_objective(model, model, Config().loss).assign(batch(1), [target]).targets
    assert labels["boxes"].tolist() == [[40, 10, 60, 80]] and labels["labels"].tolist() == [1]
    assert labels["masks"].shape == (1, 96, 96) and labels["masks"][0, 10:80, 40:60].all() and labels["masks"].sum() == 20 * 70


def test_losses_of_parts_add_up_to_those_of_the_batch() -> None:
    model = TorchvisionDetector(ModelConfig(architecture="retinanet_resnet50_fpn")).eval()    # batch norms see the images of a part
    model.detector.training = model.detector.head.training = True
    objective = make_objective(model, model, Config().loss)
    images, targets = batch(3), [people(2), people(1), people(2)]
    whole = objective.assign(images, targets)
    expected = objective.losses(images, whole, whole.counts)
    parts = []
    for part in (slice(0, 2), slice(2, 3)):
        assigned = objective.assign(images[part], targets[part])
        parts.append(objective.losses(images[part], assigned, whole.counts))
    for name, loss in expected.items():
        assert sum(part[name].item() for part in parts) == pytest.approx(loss.item(), rel=1e-4)


def as_published(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights by the names that they had in torchvision before 0.13, which its files of COCO weights still have."""
    old = ((r"(inner|layer)_blocks\.(\d)\.0\.", r"\1_blocks.\2."), (r"rpn\.head\.conv\.0\.0\.", "rpn.head.conv."))
    for new_name, old_name in old:
        state = {re.sub(new_name, old_name, name): value for name, value in state.items()}
    return state


def test_weights_of_coco_fit_but_for_the_heads_of_their_classes(tmp_path: Path) -> None:
    def frozen(channels: int) -> nn.Module:
        return FrozenBatchNorm2d(channels, eps=0.0)

    coco = detection.fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, norm_layer=frozen).eval()
    for name, values in coco.state_dict().items():
        if name.endswith(("running_mean", "running_var")):
            values.uniform_(0.5, 1.5)
    torch.save(as_published(coco.state_dict()), tmp_path / "coco.pth")
    model = build_model(ModelConfig(architecture="fasterrcnn_resnet50_fpn"))
    (note,) = start_from(model, tmp_path / "coco.pth")
    assert note == "detector.roi_heads.box_predictor did not fit and starts from random weights"
    images = batch(1, size=64)
    ours = model.eval().body(images.float() / 255)    # type: ignore[operator]
    theirs = coco.backbone.body(images.float() / 255)
    assert all(torch.allclose(ours[level], theirs[level], rtol=1e-4, atol=1e-4) for level in theirs)
    assert 0 < EPSILON < 1e-4
    with pytest.raises(ValueError, match="weights of another network"):
        load_model(tmp_path / "coco.pth")    # it tells 91 classes apart


def test_other_weights_than_those_of_the_detector_are_named(tmp_path: Path) -> None:
    torch.save({"backbone.conv.weight": torch.zeros(3), "rpn.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other.pth: weights of another network than torchvision's fasterrcnn_resnet50_fpn: Missing"):
        build_and_start("fasterrcnn_resnet50_fpn", tmp_path / "other.pth")


def build_and_start(architecture: Any, path: Path) -> list[str]:
    return start_from(build_model(ModelConfig(architecture=architecture)), path)


def test_head_that_fits_in_part_starts_anew_as_a_whole(tmp_path: Path) -> None:
    state = detection.maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=3).state_dict()
    torch.save(state, tmp_path / "three.pth")
    model = build_model(ModelConfig(architecture="maskrcnn_resnet50_fpn"))
    before = {name: values.clone() for name, values in model.state_dict().items()}
    (note,) = start_from(model, tmp_path / "three.pth")
    heads = "detector.roi_heads.box_predictor, detector.roi_heads.mask_predictor"
    assert note == f"{heads} did not fit and start from random weights"
    after = model.state_dict()
    kept = "detector.roi_heads.mask_predictor.conv5_mask.weight"
    assert torch.equal(after[kept], before[kept])
    taken = "detector.roi_heads.mask_head.0.0.weight"
    assert torch.equal(after[taken], state[taken.removeprefix("detector.")])


def test_boxes_are_exact_in_bfloat16(model: TorchvisionDetector) -> None:
    objective = make_objective(model, model, Config().loss)
    images, target = batch(1, size=600), make_target([[501.0, 303, 533, 345]])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assignment = objective.assign(images, [target])
        seen: list[torch.Tensor] = []
        priors = getattr(model.detector, "anchor_generator", None) or model.detector.rpn.anchor_generator
        hook = priors.register_forward_hook(lambda module, inputs, output: seen.extend(output))
        losses = objective.losses(images, assignment, assignment.counts)
        hook.remove()
    assert all(loss.dtype == torch.float32 for loss in losses.values())
    assert seen[0].dtype == torch.float32 and bool((seen[0] % 4 != 0).any())    # bfloat16 knows every fourth number from 512 on
    found = FaceDetector(model, TestConfig(confidence=0.0, max_faces=50, precision="bfloat16"))(np.zeros((600, 600, 3), np.uint8))
    assert found.boxes.dtype == np.float32 and (found.boxes % 1 != 0).any()


@pytest.mark.parametrize("proposals", [8, 16])
def test_second_stage_learns_from_so_many_proposals(proposals: int) -> None:
    model = TorchvisionDetector(ModelConfig(architecture="fasterrcnn_mobilenet_v2", proposals=proposals)).train()
    looked_at = []
    model.detector.roi_heads.box_head.register_forward_hook(lambda part, inputs, output: looked_at.append(len(inputs[0])))
    objective = make_objective(model, model, Config().loss)
    images, targets = batch(2, size=256), [people(2, size=256), people(1, size=256)]
    assignment = objective.assign(images, targets)
    objective.losses(images, assignment, assignment.counts)
    assert looked_at == [2 * proposals]


def test_box_stands_for_the_mask_where_there_is_none() -> None:
    masks = box_masks(torch.tensor([[1.0, 2, 4, 5], [0.6, 0, 2.4, 1], [7, 7, 99, 99]]), 8, 9)
    assert masks.shape == (3, 8, 9)
    assert masks[0, 2:5, 1:4].all() and masks[0].sum() == 9
    assert masks[1, 0, 1] and masks[1].sum() == 1    # centres at 1.5 only
    assert masks[2, 7:, 7:].all() and masks[2].sum() == 2
    model = TorchvisionDetector(ModelConfig(architecture="maskrcnn_mobilenet_v2"))
    (labels,) = make_objective(model, model, Config().loss).assign(batch(1), [make_target([[40.0, 10, 60, 80]])]).targets
    assert torch.equal(labels["masks"][0].bool(), box_masks(labels["boxes"], 96, 96)[0])


def test_first_stages_of_either_backbone_can_be_frozen() -> None:
    resnet = TorchvisionDetector(ModelConfig(architecture="retinanet_resnet50_fpn"))
    assert [type(part).__name__ for part in resnet.first_stages(1)] == ["Conv2d", "BatchNorm2d", "ReLU", "MaxPool2d", "Sequential"]
    mobilenet = TorchvisionDetector(ModelConfig(architecture="fasterrcnn_mobilenet_v2"))
    assert len(mobilenet.first_stages(2)) == 7 and mobilenet.first_stages(0) == []
    with pytest.raises(ValueError, match="expected at most the 4 of mobilenet_v2, found 5"):
        mobilenet.first_stages(5)


def test_backbone_starts_from_a_file_of_its_own_kind(tmp_path: Path) -> None:
    from torchvision.models import mobilenet_v2, resnet18

    source = mobilenet_v2(weights=None)
    torch.save(source.state_dict(), tmp_path / "mobilenet.pth")
    torch.save(resnet18(weights=None).state_dict(), tmp_path / "resnet.pth")
    config = ModelConfig(architecture="fasterrcnn_mobilenet_v2", backbone_weights=str(tmp_path / "mobilenet.pth"))
    first = next(iter(TorchvisionDetector(config).body.parameters()))
    assert torch.equal(first, next(iter(source.features.parameters())))
    with pytest.raises(ValueError, match="resnet.pth: weights of another network"):
        TorchvisionDetector(replace(config, backbone_weights=str(tmp_path / "resnet.pth")))


def test_mask_of_a_mirrored_view_is_mirrored_in_its_box() -> None:
    masks = torch.zeros(1, 4, 4, dtype=torch.uint8)
    masks[0, :, 0] = 200
    candidates = Candidates(torch.tensor([[0.0, 0, 10, 20]]), torch.tensor([0.9]), None, masks)
    mirrored = View(40, 20, (40, 40), True, (0, 1e9))    # of a photo of 80 x 40 pixels, at half its size, below which it is padded
    shown = to_image(candidates, mirrored, width=80, height=40)
    assert shown.boxes.tolist() == [[60, 0, 80, 40]]
    assert shown.masks is not None and shown.masks[0, 0].tolist() == [0, 0, 0, 200]


class Overlapping:
    """A network whose own NMS has left two boxes with an IoU of 0.43."""

    fill, device, precision, batch, light = (0, 0, 0), torch.device("cpu"), "float32", 1, False
    has_nms = True
    class_name: str | None = "person"

    def __call__(self, images: torch.Tensor, *, confidence: float, top_k: int) -> list[Candidates]:
        boxes = torch.tensor([[0.0, 0, 10, 10], [4, 0, 14, 10]])
        return [Candidates(boxes, torch.tensor([0.9, 0.8]), None)] * len(images)


def test_own_nms_is_the_only_one_unless_views_are_merged() -> None:
    image = np.zeros((20, 20, 3), np.uint8)
    (once,) = FaceDetector(Overlapping(), TestConfig()).detect([image])
    assert len(once) == 2 and once.class_name == "person"
    (limited,) = FaceDetector(Overlapping(), TestConfig(max_faces=1)).detect([image])
    assert limited.scores.tolist() == pytest.approx([0.9])
    (merged,) = FaceDetector(Overlapping(), TestConfig(flip=True)).detect([image])
    assert len(merged) < 4
    assert once.above(0.85).class_name == once.scaled(2).class_name == "person"


def test_class_and_mask_of_each_detection_are_listed(tmp_path: Path) -> None:
    masks = np.full((1, 28, 28), 255, np.uint8)
    box = np.array([[2, 1, 5, 3]], np.float32)
    found = Detections(box, np.array([0.9], np.float32), None, masks, "person")
    with open(tmp_path / "a.jsonl", "w") as file:
        writer = Listing(file, sheet_images=0, side=1)
        writer.add("a.jpg", np.zeros((4, 6, 3), np.uint8), found)
    (listed,) = json.loads((tmp_path / "a.jsonl").read_text())["detections"]
    assert listed["class"] == "person"
    assert listed["mask"] == {"size": [4, 6], "counts": [9, 2, 2, 2, 2, 2, 5]}
    assert set(to_json(Detections.none(), height=4, width=6)) == set()


@pytest.mark.slow
def test_mask_rcnn_trains_and_is_scored_by_the_scripts(tmp_path: Path, run: RunScript) -> None:
    draw_people(tmp_path / "people", images=53, size=96, seed=0)
    common = ["model.architecture=maskrcnn_mobilenet_v2", "train.freeze_batch_norm=false", "train.epochs=1", "train.log_every=1"]
    sets = [f"data.train={tmp_path / 'people'}:train", f"data.val={tmp_path / 'people'}:test", "data.size=64", "data.workers=0"]
    result = run("train", "--preset", "pedestrians", *common, *sets, "--output", tmp_path / "run")
    assert result.code == 0, result.err
    log = [line for line in result.out.splitlines() if line.startswith("epoch 1 [")]
    assert [line.partition("]")[0] for line in log] == ["epoch 1 [1/2", "epoch 1 [2/2"]
    for name in ("lr", "loss", "class", "box", "mask", "objectness", "proposal", "time", "data"):
        assert f" {name} " in log[0]
    assert result.out.count("IoU=0.50:0.95 | area=   all | maxDets=100 ] = ") == 4
    (row,) = csv.DictReader((tmp_path / "run" / "history.csv").read_text().splitlines())
    columns = {f"{group}_100_{name}" for group in ("coco", "coco_masks") for name in NAMES}
    assert columns < set(row) and 0 <= float(row["coco_masks_100_AP"]) <= 1
    weights = tmp_path / "run" / "best.pth"
    score = ["--weights", weights, "--output", tmp_path / "score", "test.confidence=0"]
    result = run("test", "--labels", f"{tmp_path / 'people'}:test", *score, "test.draw_confidence=0")
    assert result.code == 0, result.err
    line = json.loads((tmp_path / "score" / "detections.jsonl").read_text().splitlines()[0])
    assert {each["class"] for each in line["detections"]} == {"person"}
    assert all(each["mask"]["size"] == [line["height"], line["width"]] for each in line["detections"])
    metrics = json.loads((tmp_path / "score" / "metrics.json").read_text())
    for group in ("coco", "coco_100", "coco_masks", "coco_masks_100"):
        assert {"AP", "AR", "AR1", "AR10", "AR100"} <= set(metrics[group])
    assert load_config("pedestrians").model.architecture == "maskrcnn_resnet50_fpn"


@pytest.mark.slow
def test_validation_without_the_packages_of_coco_says_once_what_to_install(
    drawn_set: Path, tmp_path: Path, run: RunScript, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("detector.trainer.is_installed", lambda: False)
    words = [
        "model.architecture=fasterrcnn_mobilenet_v2", f"data.train={drawn_set}", f"data.val={drawn_set}",
        "data.size=64", "data.workers=0", "train.epochs=2", "train.batch_size=12", "train.freeze_batch_norm=false",
        "train.freeze_stages=0",
    ]  # fmt: skip
    result = run("train", "--preset", "pedestrians", *words, "--output", tmp_path / "run")
    assert result.code == 0, result.err
    assert result.out.count('pip install -e ".[eval]"') == 1 and "IoU=" not in result.out
    rows = list(csv.DictReader((tmp_path / "run" / "history.csv").read_text().splitlines()))
    assert len(rows) == 2 and all(row["ap50"] for row in rows)
    assert not any(name.startswith("coco") for name in rows[0])


@pytest.mark.slow
@pytest.mark.parametrize("architecture", KINDS)
def test_each_is_trained_and_scored_on_faces(architecture: str, drawn_set: Path, tmp_path: Path, run: RunScript) -> None:
    # Of 128 pixels, so that RetinaNet's last level is not made of one cell, where oneDNN's gradients in bfloat16 are sometimes no numbers.
    words = [f"model.architecture={architecture}", f"data.train={drawn_set}", "data.size=128", "data.workers=0", "train.batch_size=2"]
    result = run("train", "--preset", "demo", "data.synthetic=0", *words, "train.max_steps=2", "--output", tmp_path / "run")
    assert result.code == 0, result.err
    score = run("test", "--labels", drawn_set, "--weights", tmp_path / "run" / "last.pth", "--output", tmp_path / "score")
    assert score.code == 0 and "ap50" in json.loads((tmp_path / "score" / "metrics.json").read_text())
