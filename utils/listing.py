"""detections.jsonl, line by line, and the first images of it drawn side by side."""

from __future__ import annotations

import json
from typing import Any, TextIO

from utils.arrays import Image
from utils.masks import MASK, encode_mask, paste_mask
from utils.structures import Detections, Target
from utils.visualize import draw_cell


class Listing:
    """Writes a line for each image or frame to a file, and keeps drawings, `side` pixels large, of the first `sheet_images` images."""

    def __init__(self, file: TextIO, *, sheet_images: int, side: int):
        self.file = file
        self.sheet_images = sheet_images
        self.side = side
        self.sheet: list[Image] = []
        self.lines = 0

    def add(
        self, source: str, image: Image, detections: Detections, *, frame: int | None = None, target: Target | None = None
    ) -> None:
        """Write a line for an image (H,W,3), or for the frame of that number, counted from 0; with the labelled faces where there are."""
        height, width = image.shape[:2]
        listed = to_json(detections, height=height, width=width)
        line = {"source": source, "frame": frame, "width": width, "height": height, "detections": listed}
        if target is not None:
            pairs = zip(target.boxes.tolist(), target.ignore.tolist(), strict=True)
            line["faces"] = [{"box": box, "ignore": ignore} for box, ignore in pairs]
        self.file.write(json.dumps(line) + "\n")
        self.lines += 1
        if frame is None and len(self.sheet) < self.sheet_images:
            self.sheet.append(draw_cell(image, detections, side=self.side))


def to_json(detections: Detections, *, height: int, width: int) -> list[dict[str, Any]]:
    """Return the detections of an image of height x width pixels as detections.jsonl has them."""
    landmarks = [None] * len(detections) if detections.landmarks is None else detections.landmarks.tolist()
    listed: list[dict[str, Any]] = [
        {"box": box, "score": score, "landmarks": points}
        for box, score, points in zip(detections.boxes.tolist(), detections.scores.tolist(), landmarks, strict=True)
    ]
    if detections.class_name is not None:
        listed = [{**each, "class": detections.class_name} for each in listed]
    if detections.masks is not None:
        for each, mask, box in zip(listed, detections.masks, detections.boxes, strict=True):
            each["mask"] = encode_mask(paste_mask(mask, box, height=height, width=width) >= MASK)
    return listed
