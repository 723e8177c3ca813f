"""Draws a small labelled sample set, so that everything can be tried without a download: python -m data.synthetic DIR"""

from __future__ import annotations

import utils.import_errors  # noqa: F401 - the first, since it explains the errors of the others

# isort: split
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from data.drawn_people import draw_people
from data.painting import draw_background, skin
from data.penn_fudan import MASKS
from utils.arrays import FloatArray, Image
from utils.files import whole_file
from utils.images import write_image
from utils.script import ArgumentParser, run_script

LABEL_NAME, COCO_NAME = "label.txt", "annotations.json"
IMAGE_SIZE = 320    # pixels
FACE_SIZES = (0.07, 0.6)    # height of a face / side of its image; small ones are as likely as large ones, octave by octave
MOST_FACES = 6
LARGEST_TILT = 30    # degrees
OVERSAMPLING = 4    # a face is drawn this many times too large and shrunk, so that its outline lies where its box says

# Places on an upright face with its centre at (0, 0) and its outline at -1 and 1: left eye, right eye, nose, left and right mouth corner.
FEATURES = np.array([[-0.42, -0.18], [0.42, -0.18], [0.0, 0.2], [-0.32, 0.52], [0.32, 0.52]])


def draw_set(folder: str | Path, *, images: int, size: int = IMAGE_SIZE, seed: int = 0, coco: bool = False) -> Path:
    """Draw images/ and, last, a label file with exact boxes and landmarks into a folder, and return the label's path.

    An equal seed gives equal images; one in ten has no face. The label is label.txt in RetinaFace format, 20 numbers a face, or
    annotations.json in that of COCO.
    """
    folder = Path(folder)
    drawn: list[tuple[str, FloatArray, FloatArray]] = []
    for index in range(images):
        image, boxes, landmarks = draw_image(np.random.default_rng((seed, index)), size)
        drawn.append((f"drawn_{index:04d}.jpg", boxes, landmarks))
        write_image(folder / "images" / drawn[-1][0], image)
    label = folder / (COCO_NAME if coco else LABEL_NAME)
    with whole_file(label) as partial:
        partial.write_text(coco_text(drawn, size) if coco else label_text(drawn), encoding="utf-8")
    return label


def label_text(drawn: Sequence[tuple[str, FloatArray, FloatArray]]) -> str:
    """Images, each with its name, boxes (N,4) xyxy and landmarks (N,5,2), as a RetinaFace label."""
    lines = []
    for name, boxes, landmarks in drawn:
        lines.append(f"# {name}")
        lines += [label_line(box, points) for box, points in zip(boxes, landmarks, strict=True)]
    return "\n".join(lines) + "\n"


def coco_text(drawn: Sequence[tuple[str, FloatArray, FloatArray]], size: int) -> str:
    """Square images, each with its name, boxes (N,4) xyxy and landmarks (N,5,2), as a COCO file."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index, (name, boxes, landmarks) in enumerate(drawn, start=1):
        images.append({"id": index, "file_name": name, "width": size, "height": size})
        for (x1, y1, x2, y2), points in zip(boxes.round(2).tolist(), landmarks.round(2).tolist(), strict=True):
            box = [round(value, 2) for value in (x1, y1, x2 - x1, y2 - y1)]
            face = {"id": len(annotations) + 1, "image_id": index, "category_id": 1, "iscrowd": 0, "area": round(box[2] * box[3], 2)}
            annotations.append({**face, "bbox": box, "num_keypoints": 5, "keypoints": [number for x, y in points for number in (x, y, 2)]})
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "face"}]}
    return json.dumps(content, indent=1) + "\n"


def label_line(box: FloatArray, landmarks: FloatArray) -> str:
    """A face, box (4,) xyxy and landmarks (5,2), as a line of a RetinaFace label."""
    x1, y1, x2, y2 = box
    points = " ".join(f"{x:.2f} {y:.2f} 0.0" for x, y in landmarks)
    return f"{x1:.2f} {y1:.2f} {x2 - x1:.2f} {y2 - y1:.2f} {points} 1.0"


def draw_image(rng: np.random.Generator, size: int = IMAGE_SIZE) -> tuple[Image, FloatArray, FloatArray]:
    """An image (size,size,3) BGR, and the boxes (N,4) xyxy and landmarks (N,5,2) of the faces drawn on it, none of which touch."""
    image = draw_background(rng, size)
    faces = 0 if rng.random() < 0.1 else int(rng.integers(1, MOST_FACES + 1))
    boxes: list[FloatArray] = []
    landmarks: list[FloatArray] = []
    for _ in range(faces):
        height = size * FACE_SIZES[0] * (FACE_SIZES[1] / FACE_SIZES[0]) ** rng.random()
        axes = np.array([height * rng.uniform(0.36, 0.42), height / 2])    # half width, half height of the outline
        angle = np.radians(rng.uniform(-LARGEST_TILT, LARGEST_TILT))
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        half = np.sqrt(((turn * axes) ** 2).sum(axis=1))    # half width, half height of the box around the tilted ellipse
        centre = half + (size - 2 * half) * rng.random(2)
        box = np.concatenate([centre - half, centre + half]).astype(np.float32)
        if any(_touch(box, other) for other in boxes):
            continue
        _draw_face(image, rng, centre, axes, turn)
        boxes.append(box)
        landmarks.append((centre + FEATURES * axes @ turn.T).astype(np.float32))
    noise = rng.normal(0, rng.uniform(0, 8), image.shape)
    noisy = np.clip(image + noise, 0, 255).astype(np.uint8)
    return noisy, np.reshape(boxes, (-1, 4)).astype(np.float32), np.reshape(landmarks, (-1, 5, 2)).astype(np.float32)


def _touch(a: FloatArray, b: FloatArray) -> bool:
    return bool((a[:2] < b[2:]).all() and (b[:2] < a[2:]).all())


def _draw_face(image: Image, rng: np.random.Generator, centre: FloatArray, axes: FloatArray, turn: FloatArray) -> None:
    """Paint a face into an image: an ellipse with those half axes (2,), turned by a rotation (2,2), with hair, eyes, nose, mouth."""
    corner = np.floor(centre - axes.max() - 1).astype(int)
    side = int(np.ceil(2 * axes.max() + 3))
    canvas = np.zeros((side * OVERSAMPLING, side * OVERSAMPLING, 3), dtype=np.uint8)
    painter = _Painter(canvas, (centre - corner) * OVERSAMPLING, axes * OVERSAMPLING, turn)
    painter.face(rng)
    mask = np.zeros(canvas.shape[:2], dtype=np.uint8)
    _Painter(mask, painter.centre, painter.axes, turn).disc((0, 0), (1, 1), (255, 255, 255))

    small = cv2.resize(canvas, (side, side), interpolation=cv2.INTER_AREA).astype(np.float32)
    alpha = cv2.resize(mask, (side, side), interpolation=cv2.INTER_AREA)[..., None] / 255
    light = 1 + rng.uniform(-0.3, 0.3) * np.linspace(-1, 1, side)[None, :, None]    # a lamp to the left or right
    # The square around a face near the border reaches beyond the image, the face does not.
    low, high = np.maximum(corner, 0), np.minimum(corner + side, [image.shape[1], image.shape[0]])
    part = np.s_[low[1] - corner[1] : high[1] - corner[1], low[0] - corner[0] : high[0] - corner[0]]
    below = image[low[1] : high[1], low[0] : high[0]]
    below[:] = np.clip(np.where(alpha > 0, small * light, 0)[part] * alpha[part] + below * (1 - alpha[part]), 0, 255)


class _Painter:
    """Paints in the coordinates of an upright face, whose outline is the unit circle."""

    def __init__(self, canvas: Image, centre: FloatArray, axes: FloatArray, turn: FloatArray):
        self.canvas, self.centre, self.axes, self.turn = canvas, centre, axes, turn

    def outline(self, place: Sequence[float], radii: Sequence[float]) -> np.ndarray:
        """64 points around an ellipse, as integers with 4 fractional bits."""
        angle = np.linspace(0, 2 * np.pi, 64, endpoint=False)
        points = np.array(place) + np.array(radii) * np.column_stack([np.cos(angle), np.sin(angle)])
        # A pixel's centre has whole coordinates for OpenCV and .5 for boxes.
        return np.rint((self.centre + points * self.axes @ self.turn.T - 0.5) * 16).astype(np.int32)

    def disc(self, place: Sequence[float], radii: Sequence[float], color: tuple[int, int, int]) -> None:
        cv2.fillPoly(self.canvas, [self.outline(place, radii)], color, cv2.LINE_AA, shift=4)

    def face(self, rng: np.random.Generator) -> None:
        """Skin over the whole canvas, and on it hair, brows, eyes, nose, mouth, sometimes glasses or a beard."""
        tone = skin(rng)
        shade = tuple(int(value * 0.6) for value in tone)
        hair, iris, lips = _dark(rng), _dark(rng), (60, 50, int(rng.integers(110, 200)))
        eye_opening, mouth_opening = rng.uniform(0.06, 0.11), rng.uniform(0.04, 0.14)
        self.canvas[:] = tone
        hairline = rng.uniform(0.55, 0.85)
        self.disc((rng.uniform(-0.2, 0.2), -1 - hairline + 0.45), (1.3, hairline), hair)
        for x, y in FEATURES[:2]:
            self.disc((x, y - 0.2), (0.22, 0.035), hair)
            self.disc((x, y), (0.19, eye_opening), (240, 240, 240))
            self.disc((x, y), (0.08, eye_opening * 0.9), iris)
        nose = FEATURES[2]
        self.disc((nose[0], nose[1] - 0.12), (0.05, 0.2), (shade[0], shade[1], shade[2]))
        self.disc(nose, (0.13, 0.07), (shade[0], shade[1], shade[2]))
        mouth = FEATURES[3:].mean(axis=0)
        self.disc(mouth, (FEATURES[4][0], mouth_opening), lips)
        if rng.random() < 0.3:
            self.glasses(_dark(rng))
        if rng.random() < 0.2:
            self.disc((mouth[0], mouth[1] + 0.33), (0.4, 0.14), hair)

    def glasses(self, color: tuple[int, int, int]) -> None:
        thickness = max(1, int(self.axes[0] * 0.06))
        frames = [self.outline(eye, (0.28, 0.2)) for eye in FEATURES[:2]]
        cv2.polylines(self.canvas, frames, isClosed=True, color=color, thickness=thickness, lineType=cv2.LINE_AA, shift=4)


def _dark(rng: np.random.Generator) -> tuple[int, int, int]:
    blue, green, red = rng.integers(0, 90, 3)
    return int(blue), int(green), int(red)


def main(argv: Sequence[str] | None = None) -> int:
    """The command; its exit code."""
    parser = ArgumentParser(
        prog="python -m data.synthetic", description="Draw images of faces with exact boxes and landmarks: DIR/label.txt and DIR/images/."
    )
    parser.add_argument("folder", metavar="DIR", type=Path, help="where to draw; must not hold a label yet")
    parser.add_argument("--images", metavar="N", type=int, default=200, help="how many (default: %(default)s)")
    parser.add_argument("--size", metavar="PIXELS", type=int, default=IMAGE_SIZE, help="side of an image (default: %(default)s)")
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="equal seeds draw equal images (default: %(default)s)")
    parser.add_argument("--coco", action="store_true", help="write the labels as COCO JSON, annotations.json, instead of label.txt")
    parser.add_argument("--people", action="store_true", help="draw people with masks, laid out like Penn-Fudan's PNGImages/ and PedMasks/")
    arguments = parser.parse_args(argv)
    for name in (LABEL_NAME, COCO_NAME, MASKS):
        if (arguments.folder / name).exists():
            raise ValueError(f"{arguments.folder}: holds a {name} already; name another folder")
    if arguments.images < 1 or arguments.size < 32 or arguments.seed < 0:
        raise ValueError("expected --images of at least 1, --size of at least 32 and --seed of at least 0")
    if arguments.people:
        draw_people(arguments.folder, images=arguments.images, size=arguments.size, seed=arguments.seed)
        print(f"{arguments.folder}: {arguments.images} images")
        return 0
    label = draw_set(arguments.folder, images=arguments.images, size=arguments.size, seed=arguments.seed, coco=arguments.coco)
    print(f"{label}: {arguments.images} images")
    return 0


if __name__ == "__main__":
    sys.exit(run_script(main, "data.synthetic"))
