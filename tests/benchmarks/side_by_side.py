"""What the benchmarks share: a set of photos, and parties that are timed in turn, each in a process of its own."""

from __future__ import annotations

import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parents[2]
WIDTH, HEIGHT = 1024, 700
PHOTOS = 60
QUALITY = 92    # of the JPEG files: about 150 KB for a photo, as in WIDER FACE
MEAN = (104, 117, 123)

Pass = Callable[[], object]
Party = tuple[Callable[[Path], Pass], Path]    # makes what is timed out of a label file, and the folder that it imports from


def make_set(folder: Path, photos: Path | None, *, images: int = PHOTOS) -> Path:
    """A label of so many images with a dozen faces each, whose photos of 1024 x 700 pixels come again and again; its path."""
    sys.path.insert(0, str(ROOT))
    from data.synthetic import draw_image

    paths = sorted(path for path in photos.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png")) if photos else []
    lines = []
    (folder / "images").mkdir(parents=True)
    total = 0
    for index in range(PHOTOS):
        rng = np.random.default_rng(index)
        image = cv2.imread(str(paths[index % len(paths)])) if paths else draw_image(rng, WIDTH)[0]
        if image is None:
            sys.exit(f"{paths[index % len(paths)]}: cannot be read")
        image = cv2.GaussianBlur(cv2.resize(image, (WIDTH, HEIGHT)), (0, 0), 0.8) if not paths else cv2.resize(image, (WIDTH, HEIGHT))
        path = folder / "images" / f"{index}.jpg"
        cv2.imwrite(str(path), image, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
        total += path.stat().st_size
    for index in range(images):
        rng = np.random.default_rng(index)
        lines.append(f"# {index % PHOTOS}.jpg")
        for side in np.exp(rng.uniform(2, 5, 12)):
            x, y = rng.uniform(0, [WIDTH - side, HEIGHT - side])
            lines.append(f"{x:.0f} {y:.0f} {side:.0f} {side:.0f} " + "-1 " * 15 + "1")
    label = folder / "label.txt"
    label.write_text("\n".join(lines) + "\n")
    print(f"photos of {WIDTH} x {HEIGHT} pixels, files of {total / PHOTOS / 1000:.0f} KB, OpenCV {cv2.__version__}")
    return label


def time_in_turn(parties: Mapping[str, Party], label: Path, *, rounds: int, threads: int) -> dict[str, float]:
    """The median seconds of one pass of each party, round by round, each in its own process with so many threads."""
    context = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    processes = []
    for name, (make, root) in parties.items():
        pipes[name], theirs = context.Pipe()
        processes.append(context.Process(target=_serve, args=(make, str(root), str(label), threads, theirs)))
        processes[-1].start()
        theirs.close()    # so that its end is noticed
        try:
            pipes[name].recv()    # it is ready, warmed up by a pass
        except EOFError:
            for process in processes:
                process.terminate()
            sys.exit(f"{name}: could not be timed")
    seconds: dict[str, list[float]] = {name: [] for name in parties}
    for _ in range(rounds):
        for name, pipe in pipes.items():
            pipe.send("go")
            seconds[name].append(pipe.recv())
    for pipe in pipes.values():
        pipe.send("end")
    for process in processes:
        process.join(10)
    return {name: statistics.median(of_party) for name, of_party in seconds.items()}


def _serve(make: Callable[[Path], Pass], root: str, label: str, threads: int, pipe: Connection) -> None:
    """A party's process: run a pass whenever asked, and answer with the seconds it took."""
    # The folders are called data and utils on both sides.
    sys.path[:] = [root, *(path for path in sys.path if Path(path or ".").resolve() != ROOT)]
    import torch

    if threads == 1:
        cv2.setNumThreads(0)
    torch.set_num_threads(threads)
    one_pass = make(Path(label))
    one_pass()
    pipe.send("ready")
    while pipe.recv() == "go":
        started = time.perf_counter()
        one_pass()
        pipe.send(time.perf_counter() - started)
