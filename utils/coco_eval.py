"""The figures of COCO (cocodataset.org), by pycocotools or faster-coco-eval."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from utils.masks import paste_mask
from utils.structures import Detections, Target

# COCO itself looks at the best 100 detections of an image, which would miss a fifth of all faces of WIDER FACE.
MAX_DETECTIONS = (1, 10, 100, 1000)
AREAS = ("", "s", "m", "l")    # any, under 32 x 32, under 96 x 96, and larger; in pixels of the photo
IOU_50, IOU_75 = 0, 5    # places among the thresholds 0.50, 0.55 ... 0.95
MASK = 128    # of 255: a pixel from here on shows the object
Kind = Literal["bbox", "segm"]


def coco_metrics(detections: Sequence[Detections], targets: Sequence[Target], *, kind: Kind = "bbox") -> dict[str, float]:
    """AP, AP50, AP75, APs, APm, APl, AR, ARs, ARm and ARl with up to 1000 detections an image, and AR1, AR10 and AR100 with fewer.

    AP and AR are means over the IoU thresholds 0.50 to 0.95, of boxes or, as `segm`, of masks, which both sides must have then. A figure
    without objects to take it from is absent. ModuleNotFoundError where neither package is installed.
    """
    with contextlib.redirect_stdout(io.StringIO()):    # they tell what they are doing
        evaluation = _evaluate(detections, targets, kind)
    # summarize() takes AP from the best 100 detections only.
    precision, recall = evaluation["precision"], evaluation["recall"]    # (T, R, 1, areas, limits) and (T, 1, areas, limits)
    figures = {
        **{f"AP{name}": precision[:, :, :, area, -1] for area, name in enumerate(AREAS)},
        "AP50": precision[IOU_50, :, :, 0, -1],
        "AP75": precision[IOU_75, :, :, 0, -1],
        **{f"AR{name}": recall[:, :, area, -1] for area, name in enumerate(AREAS)},
        **{f"AR{limit}": recall[:, :, 0, place] for place, limit in enumerate(MAX_DETECTIONS[:-1])},
    }
    return {name: float(values.mean()) for name, values in figures.items() if (values > -1).all()}    # -1 where there are no objects


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
