"""How fast training images are made: python tests/benchmarks/bench_loader.py [--ancestor DIR] [--photos DIR]

Photos of 1024 x 700 pixels are read, augmented by the classic recipe and made into 640 x 640, one at a time in one process on one core.
Beside it stand decoding the same files with OpenCV and nothing else and, with --ancestor and a checkout of biubug6/Pytorch_Retinaface,
that one's own loader; decoding also with the memory of freed pictures kept, as the loader keeps it. Each runs in a process of its own,
in turn, several rounds; the ratios are those of the medians.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parents[2]
WIDTH, HEIGHT, SIZE = 1024, 700, 640
PHOTOS, ROUNDS = 60, 9
QUALITY = 92    # of the JPEG files: about 150 KB for a photo, as in WIDER FACE
MEAN = (104, 117, 123)

Pass = Callable[[], object]


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the making of training images.")
    parser.add_argument("--ancestor", metavar="DIR", type=Path, help="a checkout of biubug6/Pytorch_Retinaface, to be timed beside ours")
    parser.add_argument("--photos", metavar="DIR", type=Path, help="photos to use, resized to 1024 x 700 (default: drawn ones)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        label = make_set(Path(folder), arguments.photos)
        parties: dict[str, tuple[Callable[..., Pass], Path]] = {
            "decoding alone": (decoding, ROOT),
            "decoding alone, memory kept": (decoding_with_memory_kept, ROOT),
            "load + augment": (loading, ROOT),
        }
        if arguments.ancestor:
            parties["load + augment, the ancestor"] = (ancestor, arguments.ancestor.resolve())
        times = time_in_turn(parties, label)
    sizes = f"{WIDTH} x {HEIGHT} to {SIZE} x {SIZE}"
    print(f"{PHOTOS} photos, {sizes}, one core, medians of {ROUNDS} rounds, OpenCV {cv2.__version__}")
    decode = times["decoding alone"]
    for name, seconds in times.items():
        against = f"{times['load + augment, the ancestor'] / seconds:8.2f} x the ancestor" if arguments.ancestor else ""
        print(f"{name:30}{PHOTOS / seconds:8.0f} images/s{decode / seconds:8.2f} of decoding{against}")


def make_set(folder: Path, photos: Path | None) -> Path:
    """Photos and a label with a dozen faces each; its path."""
    sys.path.insert(0, str(ROOT))
    from data.synthetic import draw_image

    paths = sorted(path for path in photos.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png")) if photos else []
    lines = []
    (folder / "images").mkdir()
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
        lines.append(f"# {path.name}")
        for side in np.exp(rng.uniform(2, 5, 12)):
            x, y = rng.uniform(0, [WIDTH - side, HEIGHT - side])
            lines.append(f"{x:.0f} {y:.0f} {side:.0f} {side:.0f} " + "-1 " * 15 + "1")
    label = folder / "label.txt"
    label.write_text("\n".join(lines) + "\n")
    print(f"files of {total / PHOTOS / 1000:.0f} KB")
    return label


def time_in_turn(parties: dict[str, tuple[Callable[..., Pass], Path]], label: Path) -> dict[str, float]:
    """The median seconds of one pass of each party, round by round, each in its own process."""
    context = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    processes = []
    for name, (make, root) in parties.items():
        pipes[name], theirs = context.Pipe()
        processes.append(context.Process(target=serve, args=(make.__name__, str(root), str(label), theirs), daemon=True))
        processes[-1].start()
        pipes[name].recv()    # it is ready, warmed up by a pass
    seconds: dict[str, list[float]] = {name: [] for name in parties}
    for _ in range(ROUNDS):
        for name, pipe in pipes.items():
            pipe.send("go")
            seconds[name].append(pipe.recv())
    for pipe in pipes.values():
        pipe.send("end")
    for process in processes:
        process.join(10)
    return {name: statistics.median(of_party) for name, of_party in seconds.items()}


def serve(name: str, root: str, label: str, pipe: Connection) -> None:
    """A party's process: run a pass whenever asked, and answer with the seconds it took."""
    # The folders are called data and utils on both sides.
    sys.path[:] = [root, *(path for path in sys.path if Path(path or ".").resolve() != ROOT)]
    import torch

    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    one_pass = globals()[name](Path(label))
    one_pass()
    pipe.send("ready")
    while pipe.recv() == "go":
        started = time.perf_counter()
        one_pass()
        pipe.send(time.perf_counter() - started)


def decoding(label: Path) -> Pass:
    files = sorted((label.parent / "images").iterdir())
    return lambda: [cv2.imdecode(np.fromfile(file, np.uint8), cv2.IMREAD_COLOR) for file in files]


def decoding_with_memory_kept(label: Path) -> Pass:
    """As the loader's processes do it."""
    from utils.memory import keep_freed_memory

    keep_freed_memory()
    return decoding(label)


def loading(label: Path) -> Pass:
    from config import DataConfig
    from data.dataset import FaceDataset

    dataset = FaceDataset([label], DataConfig(size=SIZE), fill=MEAN)
    epochs = iter(range(10**9))

    def one_pass() -> None:
        epoch = next(epochs)
        for index in range(len(dataset)):
            dataset[epoch, index]

    return one_pass


def ancestor(label: Path) -> Pass:
    from data.data_augment import preproc
    from data.wider_face import WiderFaceDetection

    dataset = WiderFaceDetection(str(label), preproc(SIZE, MEAN))
    return lambda: [dataset[index] for index in range(len(dataset))]


if __name__ == "__main__":
    main()
