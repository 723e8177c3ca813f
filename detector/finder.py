"""Go through sources of any kind: draw, list and maybe show the faces of each."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from pathlib import Path

from detector.drawing import Job, Picture, draw_photos, draw_video
from detector.face_detector import FaceDetector
from utils.files import concerns_one_file
from utils.listing import Listing
from utils.predictions import prediction_path
from utils.progress import progress
from utils.script import StopRequest, count_of
from utils.sources import Source
from utils.video import VideoReader, write_video
from utils.window import show

FRAME_SECONDS = 0.001    # that a frame is shown at least; detecting the next one takes longer


class Finder:
    """Goes through sources, shows progress and maybe a window, and reports faces and speed.

    A first Ctrl-C, or q in the window, ends it where everything written is whole.
    """

    def __init__(
        self,
        detector: FaceDetector,
        output: Path,
        listing: Listing,
        stop: StopRequest,
        *,
        window: bool,
        report: Callable[[str], None],
    ):
        self.detector = detector
        self.output = output
        self.listing = listing
        self.stop = stop
        self.window = window
        self.report = report
        self.closed = False    # the window, by its user
        self.last: Source | None = None    # begun

    @property
    def ended(self) -> bool:
        return self.stop.requested or self.closed

    def find(self, sources: Sequence[Source], targets: Sequence[Path]) -> list[str]:
        """Draw each source to its target; returns what is wrong with some of them."""
        faults: list[str] = []
        pairs = zip(sources, targets, strict=True)
        for are_photos, group in groupby(pairs, key=lambda pair: pair[0].is_image):
            of_kind = list(group)
            parts = [of_kind] if are_photos else [[pair] for pair in of_kind]
            for part in parts:
                if self.ended:    # what was not begun is not damaged
                    return faults
                self.last = part[-1][0]
                faults += self._photos(part) if are_photos else self._video(*part[0])
        return faults

    def _photos(self, pairs: Sequence[tuple[Source, Path]]) -> list[str]:
        saved = [
            prediction_path(self.output / "predictions", target.relative_to(self.output))
            for _, target in pairs
        ]
        jobs = [
            Job(Path(str(source)), target, path)
            for (source, target), path in zip(pairs, saved, strict=True)
        ]
        confidence = self.detector.config.draw_confidence
        pictures = draw_photos(
            self.detector, jobs, confidence=confidence, should_stop=lambda: self.ended
        )
        names = [str(source) for source, _ in pairs]
        return self._go_through(pictures, names, what="photo", total=len(pairs), seconds=None)

    def _video(self, source: Source, target: Path) -> list[str]:
        try:
            reader = VideoReader(source.path)
        except ValueError as error:
            return [str(error)]
        confidence = self.detector.config.draw_confidence
        try:
            with write_video(target, rate=reader.rate) as writer:
                frames = draw_video(
                    self.detector,
                    reader,
                    writer,
                    confidence=confidence,
                    should_stop=lambda: self.ended,
                )
                self._go_through(
                    frames, [str(source)], what="frame", total=reader.count, seconds=FRAME_SECONDS
                )
                if not reader.frames:
                    raise ValueError(reader.fault)
        except (ValueError, OSError) as error:
            if isinstance(error, OSError) and not concerns_one_file(error):
                raise
            if not reader.frames:
                return [] if self.ended else [str(reader.fault)]
            return [f"{source}: {error}"]    # the drawing cannot be written
        return [reader.fault] if reader.fault and not self.ended else []

    def _go_through(
        self,
        pictures: Iterable[Picture],
        names: Sequence[str],
        *,
        what: str,
        total: int | None,
        seconds: float | None,
    ) -> list[str]:
        """List and show what was found as it comes; returns what is wrong with some of it."""
        is_photo = what == "photo"
        faults = []
        started, number, faces = time.monotonic(), 0, 0
        title = names[0] if len(names) == 1 else "finding faces"
        with progress(title, total=total, unit=what) as bar:
            for picture in pictures:
                bar.update()
                if picture.image is None or picture.detections is None or picture.drawn is None:
                    faults.append(str(picture.fault))
                    continue
                number += 1
                faces += len(picture.detections)
                self.listing.add(
                    names[picture.number if is_photo else 0],
                    picture.image,
                    picture.detections,
                    frame=None if is_photo else picture.number,
                )
                if self.window and not self.closed:
                    self.closed = not show(
                        picture.drawn,
                        title="faces",
                        seconds=seconds,
                        should_stop=lambda: self.stop.requested,
                    )
        if number:
            where = count_of(number, what) if len(names) > 1 or not is_photo else names[0]
            of_video = "" if is_photo else f" of {names[0]}"
            rate = number / max(time.monotonic() - started, 1e-9)
            detected = count_of(faces, self.detector.network.class_name or "face")
            self.report(f"{detected} in {where}{of_video}, {rate:.1f} {what}s a second")
        return faults
