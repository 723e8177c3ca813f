"""The figures of COCO (cocodataset.org), by pycocotools or faster-coco-eval."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from utils.structures import Detections, Target

# COCO itself looks at the best 100 detections of an image, which would miss a fifth of all faces of WIDER FACE.
MAX_DETECTIONS = (1, 100, 1000)
AREAS = ("all", "s", "m", "l")    # any, under 32 x 32, under 96 x 96, and larger; in pixels of the photo
IOU_50, IOU_75 = 0, 5    # places among the thresholds 0.50, 0.55 ... 0.95


def coco_metrics(detections: Sequence[Detections], targets: Sequence[Target]) -> dict[str, float]:
    """AP, AP50, AP75, APs, APm, APl and AR with up to 1000 detections an image, and AR1 and AR100 with fewer.

    AP and AR are means over the IoU thresholds 0.50 to 0.95. A figure without faces to take it from is absent. ModuleNotFoundError where
    neither package is installed.
    """
    with contextlib.redirect_stdout(io.StringIO()):    # they tell what they are doing
        evaluation = _evaluate(detections, targets)
    # summarize() takes AP from the best 100 detections only.
    precision, recall = evaluation["precision"], evaluation["recall"]    # (T, R, 1, areas, limits) and (T, 1, areas, limits)
    figures = {
        "AP": precision[:, :, :, 0, -1],
        "AP50": precision[IOU_50, :, :, 0, -1],
        "AP75": precision[IOU_75, :, :, 0, -1],
        **{f"AP{name}": precision[:, :, :, area, -1] for area, name in enumerate(AREAS) if area},
        "AR": recall[:, :, 0, -1],
        **{f"AR{limit}": recall[:, :, 0, place] for place, limit in enumerate(MAX_DETECTIONS[:-1])},
    }
    return {name: float(values.mean()) for name, values in figures.items() if (values > -1).all()}    # -1 where there are no faces


def _evaluate(detections: Sequence[Detections], targets: Sequence[Target]) -> dict[str, Any]:
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ModuleNotFoundError:
        from faster_coco_eval import COCO
        from faster_coco_eval import COCOeval_faster as COCOeval
    truth = COCO()
    truth.dataset = {
        "info": {},
        "images": [{"id": image} for image in range(1, len(targets) + 1)],
        "categories": [{"id": 1, "name": "face"}],
        "annotations": _annotations(targets),
    }
    truth.createIndex()
    rows = np.concatenate([_rows(each, image) for image, each in enumerate(detections, start=1)])
    found = truth.loadRes(rows) if len(rows) else COCO()
    evaluation = COCOeval(truth, found, "bbox")
    evaluation.params.maxDets = list(MAX_DETECTIONS)
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation.eval


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
