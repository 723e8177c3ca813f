"""Writes each label format by its description, for tests that read them again; shares no code with the readers."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.images import write_image


class Labelled(NamedTuple):
    """An image by name and (width, height), and its faces: x y w h, and the five points or None, each (x, y) or None."""

    name: str
    size: tuple[int, int]
    faces: list[tuple[list[float], list[tuple[float, float] | None] | None]]


def _points(points: list[tuple[float, float] | None] | None) -> str:
    return " ".join("-1 -1 0" if point is None else f"{point[0]} {point[1]} 0" for point in points or [None] * 5)


def write_retinaface(folder: Path, images: Sequence[Labelled]) -> Path:
    lines = []
    for image in images:
        lines.append(f"# {image.name}")
        lines += [f"{x} {y} {w} {h} {_points(points)} 1" for (x, y, w, h), points in image.faces]
    return _write(folder / "label.txt", lines)


def write_labelv2(folder: Path, images: Sequence[Labelled]) -> Path:
    lines = []
    for image in images:
        lines.append(f"# {image.name} {image.size[0]} {image.size[1]}")
        lines += [f"{x} {y} {x + w} {y + h} {_points(points)}" for (x, y, w, h), points in image.faces]
    return _write(folder / "labelv2.txt", lines)


def write_wider(folder: Path, images: Sequence[Labelled]) -> Path:
    lines = []
    for image in images:
        lines += [image.name, str(len(image.faces))]
        lines += [f"{x} {y} {w} {h} 0 0 0 0 0 0 " for (x, y, w, h), _ in image.faces] or ["0 0 0 0 0 0 0 0 0 0 "]
    return _write(folder / "wider_bbx_gt.txt", lines)


def write_coco(folder: Path, images: Sequence[Labelled]) -> Path:
    listed, annotations = [], []
    for index, image in enumerate(images):
        listed.append({"id": index, "file_name": image.name, "width": image.size[0], "height": image.size[1]})
        for box, points in image.faces:
            face = {"id": len(annotations), "image_id": index, "category_id": 3, "iscrowd": 0, "bbox": box}
            if points is not None:
                flat = [[0, 0, 0] if point is None else [*point, 2] for point in points]
                face["keypoints"] = [number for point in flat for number in point]
            annotations.append(face)
    content = {"annotations": annotations, "images": listed, "categories": [{"id": 3, "name": "face"}]}
    return _write(folder / "instances.json", [json.dumps(content, indent=1)])


def write_voc(folder: Path, images: Sequence[Labelled]) -> Path:
    for image in images:
        lines = [f"<annotation><filename>{image.name}</filename>"]
        lines.append(f"<size><width>{image.size[0]}</width><height>{image.size[1]}</height><depth>3</depth></size>")
        for (x, y, w, h), _ in image.faces:
            box = f"<xmin>{x}</xmin><ymin>{y}</ymin><xmax>{x + w}</xmax><ymax>{y + h}</ymax>"
            lines.append(f"<object><name>face</name><difficult>0</difficult>\n<bndbox>{box}</bndbox></object>")
        _write(folder / "Annotations" / Path(image.name).with_suffix(".xml"), [*lines, "</annotation>"])
    return folder


def write_yolo(folder: Path, images: Sequence[Labelled]) -> Path:
    for image in images:
        width, height = image.size
        write_image(folder / "images" / image.name, np.zeros((height, width, 3), np.uint8))
        lines = []
        for (x, y, w, h), points in image.faces:
            numbers = [(x + w / 2) / width, (y + h / 2) / height, w / width, h / height]
            for point in points or []:
                numbers += [-1, -1] if point is None else [point[0] / width, point[1] / height]
            lines.append(" ".join(["0", *map(repr, numbers)]))
        _write(folder / "labels" / Path(image.name).with_suffix(".txt"), lines)
    return folder


def _write(path: Path, lines: list[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


WRITERS: dict[str, Callable[[Path, Sequence[Labelled]], Path]] = {
    "retinaface": write_retinaface,
    "labelv2": write_labelv2,
    "wider": write_wider,
    "coco": write_coco,
    "voc": write_voc,
    "yolo": write_yolo,
}
HOLDS_POINTS = {"retinaface", "labelv2", "coco", "yolo"}
HOLDS_SIZE = {"labelv2", "coco", "voc", "yolo"}
