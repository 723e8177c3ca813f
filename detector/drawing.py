"""Faces found and drawn in any number of photos, or in a video: reading, detecting and writing go on side by side."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count, takewhile
from pathlib import Path

from detector.face_detector import FaceDetector
from utils.animation import count_frames
from utils.arrays import Image
from utils.files import concerns_one_file
from utils.images import decode_image, read_file, write_image
from utils.predictions import write_predictions
from utils.structures import Detections
from utils.threads import batched, run_ahead
from utils.video import VideoReader, VideoWriter
from utils.visualize import draw_detections

THREADS = max(2, min(8, (os.cpu_count() or 2) // 2))    # that read photos, and as many that draw and write them
AT_A_TIME, PIXELS_AT_A_TIME = 16, 2**25    # that are read ahead and handed to the detector


@dataclass(frozen=True)
class Job:
    """A photo to look at: its file, and those that its drawing and all of its detections go to."""

    photo: Path
    drawing: Path
    predictions: Path


@dataclass(frozen=True)
class Picture:
    """A photo or frame on its way: its number, counted from 0, its pixels, what was found in it and its drawing; or what went wrong."""

    number: int
    image: Image | None
    detections: Detections | None = None
    drawn: Image | None = None
    fault: str | None = None


def draw_photos(
    detector: FaceDetector, jobs: Sequence[Job], *, confidence: float, should_stop: Callable[[], bool]
) -> Iterator[Picture]:
    """Write the drawing and the detections of each photo, in their order; drawn and given are those that reach `confidence`.

    A photo that cannot be read or drawn comes with its fault. Once `should_stop`, those that are on their way are the last ones.
    """

    def read(number: int) -> Picture:
        photo = jobs[number].photo
        try:
            encoded = read_file(photo)
            image = decode_image(encoded, photo, turn=True)
            if (frames := count_frames(encoded)) > 1:
                warnings.warn(f"{photo}: only the first of {frames:,} frames is used", stacklevel=2)
            return Picture(number, image)
        except (FileNotFoundError, ValueError) as error:
            return Picture(number, None, fault=str(error))

    def write(found: Picture) -> Picture:
        picture, job = _draw(found, confidence), jobs[found.number]
        if picture.drawn is None or found.detections is None:
            return picture
        try:
            # These come first, because they mark the drawing as ours if the process is killed.
            write_predictions(job.predictions, found.detections)
            write_image(job.drawing, picture.drawn)
        except (ValueError, OSError) as error:
            if isinstance(error, OSError) and not concerns_one_file(error):
                raise
            job.predictions.unlink(missing_ok=True)
            return Picture(picture.number, None, fault=str(error))
        return picture

    numbers = takewhile(lambda _: not should_stop(), range(len(jobs)))
    photos = run_ahead(read, numbers, threads=THREADS, ahead=AT_A_TIME)
    return run_ahead(write, detect_pictures(detector, photos, size=AT_A_TIME), threads=THREADS, ahead=AT_A_TIME)


def draw_video(
    detector: FaceDetector, reader: VideoReader, writer: VideoWriter, *, confidence: float, should_stop: Callable[[], bool]
) -> Iterator[Picture]:
    """Write the drawing of each frame of a video to another, as `draw_photos` does; of a camera each as soon as it is there."""
    size = 1 if reader.is_live else AT_A_TIME

    def write(found: Picture) -> Picture:
        picture = _draw(found, confidence)
        assert picture.drawn is not None
        writer.write(picture.drawn)
        return picture

    numbers = takewhile(lambda _: not should_stop(), count())
    # One thread reads, another writes: the order is that of the video.
    frames = run_ahead(lambda number: Picture(number, reader.read()), numbers, threads=1, ahead=size)
    frames = takewhile(lambda frame: frame.image is not None, frames)
    return run_ahead(write, detect_pictures(detector, frames, size=size), threads=1, ahead=size)


def detect_pictures(detector: FaceDetector, pictures: Iterable[Picture], *, size: int) -> Iterator[Picture]:
    """Detect faces in pictures, at most `size` at a time; those without pixels come out unchanged."""
    for batch in batched(pictures, size=size, weight=_pixels, heaviest=PIXELS_AT_A_TIME):
        found = iter(detector.detect([picture.image for picture in batch if picture.image is not None]))
        for picture in batch:
            yield picture if picture.image is None else replace(picture, detections=next(found))


def _draw(picture: Picture, confidence: float) -> Picture:
    if picture.image is None or picture.detections is None:
        return picture
    detections = picture.detections.above(confidence)
    return replace(picture, detections=detections, drawn=draw_detections(picture.image, detections))


def _pixels(picture: Picture) -> int:
    return 0 if picture.image is None else picture.image.shape[0] * picture.image.shape[1]
