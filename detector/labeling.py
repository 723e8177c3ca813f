"""Label photos with a detector: detections of images become a label file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile
from pathlib import Path

from detector.drawing import AT_A_TIME, THREADS, Picture, detect_pictures
from detector.face_detector import FaceDetector
from utils.arrays import FloatArray
from utils.image_header import UPRIGHT, parse_header
from utils.images import decode_image, read_file
from utils.progress import progress
from utils.pseudo_labels import CocoLabels, combine, near_points
from utils.structures import Detections
from utils.threads import run_ahead


def label_images(
    detector: FaceDetector,
    folder: Path,
    names: Sequence[str],
    labels: CocoLabels,
    *,
    head_points: Mapping[str, FloatArray],
    second: Mapping[str, tuple[tuple[int, int], Detections]],
    should_stop: Callable[[], bool],
) -> list[str]:
    """Detect faces in images below a folder and add them to `labels`.

    A detection that reaches test.draw_confidence is a face, others are ignored. `second` has the
    size (width, height) and the detections of another detector by image name, which are combined
    with these. `head_points` has head centers (P,2) by image name: in these images only detections
    with a center inside are kept. An image that its EXIF tag turns is left out, because training
    does not turn it. Returns a sentence on each image that is left out. ValueError if `second` has
    another size for an image.
    """
    config = detector.config

    def read(number: int) -> Picture:
        path = folder / names[number]
        try:
            encoded = read_file(path)
            header = parse_header(encoded.tobytes())
            if header is not None and header.orientation != UPRIGHT:
                text = "is turned by its EXIF tag, which training ignores: turn its pixels"
                return Picture(number, None, fault=f"{path}: {text}")
            return Picture(number, decode_image(encoded, path, turn=False))
        except (FileNotFoundError, ValueError) as error:
            return Picture(number, None, fault=str(error))

    problems: list[str] = []
    numbers = takewhile(lambda _: not should_stop(), range(len(names)))
    pictures = run_ahead(read, numbers, threads=THREADS, ahead=AT_A_TIME)
    with progress("labeling", total=len(names), unit="photo") as bar:
        for picture in detect_pictures(detector, pictures, size=AT_A_TIME):
            bar.update()
            name = names[picture.number]
            if picture.image is None or picture.detections is None:
                problems.append(str(picture.fault))
                continue
            height, width = picture.image.shape[:2]
            detections = picture.detections
            if name in second:
                size, others = second[name]
                if size != (width, height):
                    raise ValueError(
                        f"--second: {name}: expected {width} x {height} pixels as the image has, "
                        f"found {size[0]} x {size[1]}"
                    )
                detections = combine(detections, others).above(config.confidence)
            if name in head_points:
                detections = detections.where(near_points(detections.boxes, head_points[name]))
            labels.add_image(name, width=width, height=height)
            confidence = config.draw_confidence
            labels.add_detections(detections, confidence=confidence, width=width, height=height)
    return problems
