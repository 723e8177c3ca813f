"""How fast training images are made: python tests/benchmarks/bench_loader.py [--ancestor DIR] [--photos DIR]

Photos of 1024 x 700 pixels are read, augmented by the classic recipe and made into 640 x 640, one at a time in one process on one core.
Beside it stand decoding the same files with OpenCV and nothing else and, with --ancestor and a checkout of biubug6/Pytorch_Retinaface,
that one's own loader; decoding also with the memory of freed pictures kept, as the loader keeps it. Each runs in a process of its own,
in turn, several rounds; the ratios are those of the medians.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import cv2
import numpy as np
from side_by_side import MEAN, PHOTOS, ROOT, Party, Pass, make_set, time_in_turn

SIZE, ROUNDS = 640, 9


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the making of training images.")
    parser.add_argument("--ancestor", metavar="DIR", type=Path, help="a checkout of biubug6/Pytorch_Retinaface, to be timed beside ours")
    parser.add_argument("--photos", metavar="DIR", type=Path, help="photos to use, resized to 1024 x 700 (default: drawn ones)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        label = make_set(Path(folder) / "set", arguments.photos)
        parties: dict[str, Party] = {
            "decoding alone": (decoding, ROOT),
            "decoding alone, memory kept": (decoding_with_memory_kept, ROOT),
            "load + augment": (loading, ROOT),
        }
        if arguments.ancestor:
            parties["load + augment, the ancestor"] = (ancestor, arguments.ancestor.resolve())
        times = time_in_turn(parties, label, rounds=ROUNDS, threads=1)
    print(f"{PHOTOS} of them to {SIZE} x {SIZE}, one core, medians of {ROUNDS} rounds")
    decode = times["decoding alone"]
    for name, seconds in times.items():
        against = f"{times['load + augment, the ancestor'] / seconds:8.2f} x the ancestor" if arguments.ancestor else ""
        print(f"{name:30}{PHOTOS / seconds:8.0f} images/s{decode / seconds:8.2f} of decoding{against}")


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
