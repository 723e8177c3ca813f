"""The figures of COCO (cocodataset.org), by pycocotools or faster-coco-eval."""

from __future__ import annotations

import contextlib
import importlib.util
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from utils.masks import MASK, paste_mask
from utils.structures import Detections, Target

# COCO's own limit of 100 detections an image would miss a fifth of all faces of WIDER FACE, so the
# metrics are taken at 1000 as well.
MAX_DETECTIONS = (1, 10, 100, 1000)
LIMITS = {"": 3, "_100": 2}    # ends of the names of the metrics -> which of MAX_DETECTIONS
AREAS = ("", "s", "m", "l")    # any, under 32 x 32, under 96 x 96, and larger; in pixels of the photo
IOU_50, IOU_75 = 0, 5    # places among the thresholds 0.50, 0.55 ... 0.95
Kind = Literal["bbox", "segm"]
GROUPS: dict[Kind, str] = {"bbox": "coco", "segm": "coco_masks"}    # names of the metrics of a kind
NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR", "ARs", "ARm", "ARl", "AR1", "AR10", "AR100")
# The lines of COCO's summary: title, IoU, area, limit.
SUMMARY = {
    "AP": ("Average Precision  (AP)", "0.50:0.95", "all", 100),
    "AP50": ("Average Precision  (AP)", "0.50", "all", 100),
    "AP75": ("Average Precision  (AP)", "0.75", "all", 100),
    "APs": ("Average Precision  (AP)", "0.50:0.95", "small", 100),
    "APm": ("Average Precision  (AP)", "0.50:0.95", "medium", 100),
    "APl": ("Average Precision  (AP)", "0.50:0.95", "large", 100),
    "AR1": ("Average Recall     (AR)", "0.50:0.95", "all", 1),
    "AR10": ("Average Recall     (AR)", "0.50:0.95", "all", 10),
    "AR100": ("Average Recall     (AR)", "0.50:0.95", "all", 100),
    "ARs": ("Average Recall     (AR)", "0.50:0.95", "small", 100),
    "ARm": ("Average Recall     (AR)", "0.50:0.95", "medium", 100),
    "ARl": ("Average Recall     (AR)", "0.50:0.95", "large", 100),
}


def coco_metrics(
    detections: Sequence[Detections], targets: Sequence[Target], *, kind: Kind = "bbox"
) -> dict[str, dict[str, float]]:
    """Compute COCO's metrics of boxes or, as `segm`, of masks, which both sides must have then.

    Returns two groups, `coco` with at most 1000 detections an image and `coco_100` with COCO's own
    limit of 100 (`coco_masks` and `coco_masks_100` for masks). Each has the metrics in `NAMES`: AP
    and AR are means over the IoU thresholds 0.50 to 0.95; small objects have under 32 x 32 pixels of
    the image, medium ones under 96 x 96; AR1, AR10 and AR100 allow so many detections. A metric
    without objects to compute it from is absent. ModuleNotFoundError if no package is installed.
    """
    with contextlib.redirect_stdout(io.StringIO()):    # both packages print their progress
        evaluation = _evaluate(detections, targets, kind)
    # summarize() would take AP at the limit of 100 only.
    precision, recall = evaluation["precision"], evaluation["recall"]
    groups = {}
    for suffix, limit in LIMITS.items():
        at_limit = precision[..., 0, :, limit], recall[:, 0, :, limit]    # (T, R, areas), (T, areas)
        groups[GROUPS[kind] + suffix] = _metrics(*at_limit, recall[:, 0, 0])
    return groups


def _metrics(
    precision: NDArray[np.float64], recall: NDArray[np.float64], recalls: NDArray[np.float64]
) -> dict[str, float]:
    """The metrics at one limit: precision (T,R,areas) and recall (T,areas) there, and the recalls
    (T,limits) of objects of any area."""
    values = {
        "AP50": precision[IOU_50, :, 0],
        "AP75": precision[IOU_75, :, 0],
        **{f"AP{name}": precision[:, :, area] for area, name in enumerate(AREAS)},
        **{f"AR{name}": recall[:, area] for area, name in enumerate(AREAS)},
        **{f"AR{limit}": recalls[:, place] for place, limit in enumerate(MAX_DETECTIONS[:-1])},
    }
    # -1 where there are no objects
    return {name: float(values[name].mean()) for name in NAMES if (values[name] > -1).all()}


def format_summary(metrics: Mapping[str, float]) -> str:
    """Format the metrics at COCO's own limits as the 12 lines that COCO's tools print."""
    lines = []
    for name, (title, iou, area, limit) in SUMMARY.items():
        value = metrics.get(name, -1.0)
        columns = f"IoU={iou:<9} | area={area:>6} | maxDets={limit:>3}"
        lines.append(f" {title} @[ {columns} ] = {value:.3f}")
    return "\n".join(lines)


def is_installed() -> bool:
    """Return True if a package that computes COCO's metrics is installed."""
    return any(map(importlib.util.find_spec, ("pycocotools", "faster_coco_eval")))


def have_masks(detections: Sequence[Detections], targets: Sequence[Target]) -> bool:
    """Whether both sides say which pixels show an object."""
    return all(each.masks is not None for each in detections) and all(target.regions is not None for target in targets)


def _evaluate(detections: Sequence[Detections], targets: Sequence[Target], kind: Kind) -> dict[str, Any]:
    try:
        from pycocotools import mask
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ModuleNotFoundError:
        from faster_coco_eval import COCO, mask
        from faster_coco_eval import COCOeval_faster as COCOeval
    truth = COCO()
    annotations = _annotations(targets)
    if kind == "segm":
        encoded = [shape for target in targets for shape in _encode(mask, target.masks().numpy())]
        for annotation, shape in zip(annotations, encoded, strict=True):
            annotation |= {"segmentation": shape, "area": float(mask.area(shape))}
    truth.dataset = {
        "info": {},
        "images": [{"id": image, **_size(target)} for image, target in enumerate(targets, start=1)],
        "categories": [{"id": 1, "name": "face"}],
        "annotations": annotations,
    }
    truth.createIndex()
    results: Any = np.concatenate([_rows(each, image) for image, each in enumerate(detections, start=1)])
    if kind == "segm":
        encoded = [shape for each, target in zip(detections, targets, strict=True) for shape in _encode(mask, _sure(each, target))]
        results = [
            {"image_id": int(row[0]), "category_id": 1, "score": row[5], "segmentation": shape}
            for row, shape in zip(results, encoded, strict=True)
        ]
    found = truth.loadRes(results) if len(results) else COCO()
    evaluation = COCOeval(truth, found, kind)
    evaluation.params.maxDets = list(MAX_DETECTIONS)
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation.eval    # type: ignore[no-any-return]


def _size(target: Target) -> dict[str, int]:
    return {} if target.regions is None else {"height": target.regions.shape[0], "width": target.regions.shape[1]}


def _sure(detections: Detections, target: Target) -> Iterator[NDArray[np.bool_]]:
    """Which pixels (H,W) of the labelled image show each object, as far as the detector says."""
    assert detections.masks is not None and target.regions is not None
    height, width = target.regions.shape
    for mask, box in zip(detections.masks, detections.boxes, strict=True):
        yield paste_mask(mask, box, height=height, width=width) >= MASK


def _encode(mask: Any, masks: Iterable[NDArray[np.bool_]]) -> list[dict[str, Any]]:
    """Masks (H,W) as COCO's run lengths."""
    return [mask.encode(np.asfortranarray(each, dtype=np.uint8)) for each in masks]


def _annotations(targets: Sequence[Target]) -> list[dict[str, Any]]:
    """The faces as COCO has them, numbered from 1; those to be ignored are crowds."""
    annotations: list[dict[str, Any]] = []
    for image, target in enumerate(targets, start=1):
        for (x1, y1, x2, y2), ignore in zip(target.boxes.tolist(), target.ignore.tolist(), strict=True):
            width, height = x2 - x1, y2 - y1
            face = {"bbox": [x1, y1, width, height], "area": width * height, "iscrowd": int(ignore)}
            annotations.append({"id": len(annotations) + 1, "image_id": image, "category_id": 1, **face})
    return annotations


def _rows(detections: Detections, image: int) -> np.ndarray:
    """Detections (N,7) as COCO reads them: image, x, y, w, h, score, category."""
    count = len(detections)
    low, high = detections.boxes[:, :2], detections.boxes[:, 2:]
    return np.column_stack([np.full(count, image), low, high - low, detections.scores, np.ones(count)]).astype(np.float64)
