"""torchvision's own detectors, seen by the engine and by FaceDetector as RetinaFace is: the same images, targets and candidates."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
import torchvision.models.detection as detection
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import MultiScaleRoIAlign

from config import LossConfig, ModelConfig
from detector.backbone import build_layers, first_stages
from detector.network import BATCH_IMAGES, Candidates, fuse
from utils.devices import exact_float32, pick_dtype, works_behind
from utils.memory import keep_freed_memory
from utils.structures import Target

CLASSES = 2    # background and the one that is looked for
OBJECT = 1    # its number
FILL = (104, 116, 124)    # BGR; what torchvision's normalisation makes nearest to zero
# The names that their losses have in the history.
LOSS_NAMES = {
    "loss_classifier": "class", "classification": "class", "loss_box_reg": "box", "bbox_regression": "box", "loss_mask": "mask",
    "loss_objectness": "objectness", "loss_rpn_box_reg": "proposal",
}    # fmt: skip
TWO_STAGES, ONE_STAGE = ("class", "box", "objectness", "proposal"), ("class", "box")
PRIORS = AnchorGenerator(sizes=((32, 64, 128, 256, 512),), aspect_ratios=((0.5, 1.0, 2.0),))    # of the one level of MobileNetV2
CHANNELS = 1280    # of that level
EPSILON = 1e-5    # of batch norms; torchvision's COCO weights were made for 0
COCO_CLASSES = 91
RETINANET_PRIORS = 9    # at each place, each with scores for all classes
MASKS_AT_MOST = 100    # an image, as torchvision has it; COCO's figures look at no more, and each costs half a GMAC
# The parts whose output boxes are made of.
TO_FLOAT32 = ("backbone", "rpn.head", "roi_heads.box_predictor", "roi_heads.mask_predictor", "head")


class Kind(NamedTuple):
    """How to build a detector from its number of classes, the classifier that its backbone is cut from, and its losses."""

    build: Callable[[int], nn.Module]
    backbone: str
    losses: tuple[str, ...]


def _with_fpn(builder: Callable[..., nn.Module]) -> Callable[[int], nn.Module]:
    """One of torchvision's own builders, kept from fetching anything."""
    return lambda classes: builder(weights=None, weights_backbone=None, num_classes=classes)


def _on_mobilenet(kind: Callable[..., nn.Module], **pools: MultiScaleRoIAlign) -> Callable[[int], nn.Module]:
    """A detector of two stages on the features of MobileNetV2, which are its only level, called "0"."""

    def build(classes: int) -> nn.Module:
        features: Any = build_layers("mobilenet_v2")
        features.out_channels = CHANNELS
        return kind(features, classes, rpn_anchor_generator=copy.deepcopy(PRIORS), box_roi_pool=_pool(7), **copy.deepcopy(pools))

    return build


def _pool(size: int) -> MultiScaleRoIAlign:
    return MultiScaleRoIAlign(featmap_names=["0"], output_size=size, sampling_ratio=2)


KINDS = {
    "fasterrcnn_resnet50_fpn": Kind(_with_fpn(detection.fasterrcnn_resnet50_fpn), "resnet50", TWO_STAGES),
    "fasterrcnn_mobilenet_v2": Kind(_on_mobilenet(detection.FasterRCNN), "mobilenet_v2", TWO_STAGES),
    "maskrcnn_resnet50_fpn": Kind(_with_fpn(detection.maskrcnn_resnet50_fpn), "resnet50", (*TWO_STAGES, "mask")),
    "maskrcnn_mobilenet_v2": Kind(_on_mobilenet(detection.MaskRCNN, mask_roi_pool=_pool(14)), "mobilenet_v2", (*TWO_STAGES, "mask")),
    "retinanet_resnet50_fpn": Kind(_with_fpn(detection.retinanet_resnet50_fpn), "resnet50", ONE_STAGE),
}


class PlainTransform(GeneralizedRCNNTransform):
    """Their normalisation without their resizing: sizes are the affair of the loader and of FaceDetector."""

    def __init__(self) -> None:
        super().__init__(min_size=0, max_size=0, image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225])

    def resize(self, image: Tensor, target: dict[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor] | None]:
        return image, target

    def postprocess(self, result: Any, image_shapes: Any, original_image_sizes: Any) -> Any:
        """What was found as it is: it need not be resized, and masks stay the grids over their boxes that the network gives."""
        return result


def _in_float32(module: nn.Module, inputs: object, output: Any) -> Any:
    """A forward hook: a part computes in a low precision, but what is made of its output is float32, for priors and boxes take their type
    from there, and bfloat16 knows no odd pixel beyond 256."""
    if isinstance(output, Tensor):
        return output.float()
    if isinstance(output, dict):
        return {name: _in_float32(module, inputs, each) for name, each in output.items()}
    return [_in_float32(module, inputs, each) for each in output]


class TorchvisionDetector(nn.Module):
    """A detector of torchvision for one class, that takes images (B,3,H,W) uint8 BGR; built without fetching anything unasked.

    Its backbone starts from `backbone_weights`: a file of ImageNet weights, "default" for torchvision's, or none.
    """

    # The parts that COCO's 91 classes do not fit.
    heads = tuple(
        f"detector.{part}" for part in ("roi_heads.box_predictor", "roi_heads.mask_predictor", "head.classification_head.cls_logits")
    )

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.kind = KINDS[config.architecture]
        self.detector: Any = self.kind.build(CLASSES)
        self.detector.transform = PlainTransform()
        second_stage: Any = getattr(self.detector, "roi_heads", None)
        if second_stage is not None:
            second_stage.fg_bg_sampler.batch_size_per_image = config.proposals
        for name, part in self.detector.named_modules():
            if name in TO_FLOAT32:
                part.register_forward_hook(_in_float32)
        if config.backbone_weights is not None:
            state = build_layers(self.kind.backbone, config.backbone_weights).state_dict()
            self.body.load_state_dict({name: state[name] for name in self.body.state_dict()})

    @property
    def body(self) -> nn.Module:
        """The layers of the backbone."""
        backbone = self.detector.backbone
        return cast(nn.Module, getattr(backbone, "body", backbone))

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def first_stages(self, count: int) -> list[nn.Module]:
        """The parts of the backbone up to the end of its first `count` stages; ValueError where it has fewer."""
        return first_stages(self.body, self.kind.backbone, count)

    def idle(self, loss: LossConfig) -> list[nn.Module]:
        """The parts that nothing is learnt through: none, for their losses have weights of their own."""
        return []

    def forward(self, images: Tensor, targets: Sequence[dict[str, Tensor]] | None = None) -> Any:
        """In training the losses of images (B,3,H,W) BGR of 0 to 255 by torchvision's names, else what is found in each image."""
        return self.detector([image.flip(0).float() / 255 for image in images], targets)


def torchvision_state(state: Mapping[str, Tensor], architecture: str, *, source: str | Path) -> dict[str, Tensor]:
    """Weights of one of torchvision's files, of whatever version, by the names they have here; ValueError where they are others.

    The batch norms of its COCO weights add nothing to the variance, ours add EPSILON: so that much is taken off.
    """
    classes = len(state.get("roi_heads.box_predictor.cls_score.bias", ()))
    if not classes:
        classes = len(state.get("head.classification_head.cls_logits.bias", ())) // RETINANET_PRIORS
    detector = KINDS[architecture].build(max(classes, 1))
    try:
        detector.load_state_dict(dict(state))    # torchvision itself knows the names of its older versions
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip()
        raise ValueError(f"{source}: weights of another network than torchvision's {architecture}: {reason[:200]}") from None
    frozen = classes == COCO_CLASSES and not any(name.endswith("num_batches_tracked") for name in state)
    return {
        f"detector.{name}": value - EPSILON if frozen and name.endswith("running_var") else value
        for name, value in detector.state_dict().items()
    }


def box_masks(boxes: Tensor, height: int, width: int) -> Tensor:
    """The pixels (N,H,W) bool whose centres lie in boxes (N,4): what stands for masks where a set has none."""
    x, y = (torch.arange(size, device=boxes.device) + 0.5 for size in (width, height))
    x1, y1, x2, y2 = boxes[:, :, None].unbind(dim=1)    # (N, 1) each
    return ((y1 <= y) & (y < y2))[:, :, None] & ((x1 <= x) & (x < x2))[:, None, :]


class Labelled(NamedTuple):
    """Targets as torchvision has them, and how many images (1,) they are of."""

    targets: list[dict[str, Tensor]]
    counts: Tensor


class TorchvisionObjective:
    """The losses that torchvision's detector gives, as the engine wants them; ignored objects are left out, so they are background.

    `network` is the model, or what DistributedDataParallel or torch.compile made of it.
    """

    def __init__(self, network: nn.Module, model: TorchvisionDetector):
        self.network = network
        self.names = model.kind.losses

    def assign(self, images: Tensor, targets: Sequence[Target]) -> Labelled:
        """What images (B,3,H,W) must teach."""
        height, width = images.shape[2:]
        labels = [self._labels(target, height, width) for target in targets]
        return Labelled(labels, torch.tensor([float(len(images))], device=images.device))

    def _labels(self, target: Target, height: int, width: int) -> dict[str, Tensor]:
        learnt = ~target.ignore
        labels = {"boxes": target.boxes[learnt], "labels": learnt.new_ones(int(learnt.sum()), dtype=torch.int64)}
        if "mask" not in self.names:
            return labels
        masks = box_masks(target.boxes, height, width) if target.regions is None else target.masks()
        return {**labels, "masks": masks[learnt].to(torch.uint8)}

    def losses(self, images: Tensor, assignment: Labelled, counts: Tensor) -> dict[str, Tensor]:
        """The mean losses of images (B,3,H,W), as their share of those of `counts` images."""
        by_name = {LOSS_NAMES[name]: loss for name, loss in self.network(images, assignment.targets).items()}
        share = len(images) / counts[0]
        return {name: by_name[name].float() * share for name in self.names}


class TorchvisionNetwork:
    """A copy of a TorchvisionDetector as FaceDetector uses networks; it has its own NMS, at IoU 0.5."""

    fill = FILL
    light = False
    has_nms = True

    def __init__(self, model: TorchvisionDetector, precision: str):
        self.model = copy.deepcopy(model).eval()
        self.class_name = model.config.class_name
        self.device = model.device
        self.dtype = pick_dtype(precision, model.device)
        if self.dtype == torch.float32:
            fuse(self.model)    # weights of a lower precision would be rounded after that
        self.precision = str(self.dtype).removeprefix("torch.")
        if not works_behind(self.device):
            keep_freed_memory()
        self.batch = BATCH_IMAGES if works_behind(self.device) else 1

    def __call__(self, images: Tensor, *, confidence: float, top_k: int) -> list[Candidates]:
        limited = getattr(self.model.detector, "roi_heads", self.model.detector)
        most = min(top_k, MASKS_AT_MOST) if "mask" in self.model.kind.losses else top_k
        limited.score_thresh, limited.detections_per_img = confidence, most
        autocast = torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32)
        with exact_float32(self.device, self.dtype), autocast:
            found = self.model(images.to(self.device, non_blocking=True))
        return [_candidates(each) for each in found]


def _candidates(found: dict[str, Tensor]) -> Candidates:
    order = found["scores"].argsort(descending=True, stable=True)
    order = order[found["labels"][order] == OBJECT]    # RetinaNet scores the background as well
    masks = (found["masks"][:, 0] * 255).round().to(torch.uint8)[order] if "masks" in found else None
    return Candidates(found["boxes"][order], found["scores"][order], None, masks)
