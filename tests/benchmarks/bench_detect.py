"""How fast faces are found: python tests/benchmarks/bench_detect.py [--ancestor DIR] [--photos DIR] [--weights FILE]

Each part runs the parties in turn, each in a process of its own, several rounds; the ratios are those of the medians.

1. NumPy NMS beside the plain loop, on boxes laid out at random.
2. Photos of 640 x 640 pixels from file to faces, by MobileNet0.25 and by ResNet50, beside the code of a checkout of
   biubug6/Pytorch_Retinaface (--ancestor) with the same weights: those of --weights, or random ones that find some hundred faces.
3. What comes before and after the network for a crowd on 1600 x 1200 pixels: priors, decoding, NMS; beside the same.
4. A folder of 500 photos, read, looked at, drawn and written by test.py's own way, beside a loop that does this one by one.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from side_by_side import MEAN, ROOT, Party, Pass, time_in_turn

if TYPE_CHECKING:
    from torch import Tensor

    from detector.drawing import Job
    from detector.face_detector import FaceDetector

SIDE, CROWD = 640, (1600, 1200)    # pixels
PHOTOS, FOLDER, CROWD_TIMES, ROUNDS = 12, 500, 10, 7
CONFIDENCE, NMS, TOP_K, MAX_FACES = 0.02, 0.4, 5000, 750
RANDOM_FACES = 300    # priors that random weights take for a face
MAKE_THEIRS = (
    "import torch; from data import cfg_mnet, cfg_re50; from models.retinaface import RetinaFace; torch.manual_seed(0); "
    "torch.save(RetinaFace(cfg={{**{config}, 'pretrain': False}}, phase='test').state_dict(), {path!r})"
)


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the finding of faces.")
    parser.add_argument("--ancestor", metavar="DIR", type=Path, help="a checkout of biubug6/Pytorch_Retinaface, to be timed beside ours")
    parser.add_argument("--photos", metavar="DIR", type=Path, help="photos to use (default: drawn ones)")
    parser.add_argument("--weights", metavar="FILE", type=Path, help="published MobileNet0.25 weights (default: random ones)")
    arguments = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    import torch

    theirs = arguments.ancestor.resolve() if arguments.ancestor else None
    compare_nms()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_photos(folder, arguments.photos)
        for backbone in ("mobilenet0.25", "resnet50"):
            make_weights(folder / f"{backbone}.pth", backbone, arguments.weights if backbone == "mobilenet0.25" else None, theirs)
        jobs = [
            (f"{backbone}, photos of {SIDE} x {SIDE} from file to faces, {precision}", partial(ours, backbone, precision), backbone)
            for backbone in ("mobilenet0.25", "resnet50")
            for precision in ("float32", "auto")
        ]
        for title, party, backbone in jobs:
            parties: dict[str, Party] = {"this repo": (party, ROOT)}
            if theirs:
                parties["the ancestor"] = (partial(ancestor, backbone), theirs)
            report(title, time_in_turn(parties, folder, rounds=ROUNDS, threads=torch.get_num_threads()), count=PHOTOS)
        parties = {"this repo": (ours_behind, ROOT)}
        if theirs:
            parties["the ancestor"] = (ancestor_behind, theirs)
        title = f"priors, decoding and NMS of a crowd on {CROWD[0]} x {CROWD[1]}"
        report(title, time_in_turn(parties, folder, rounds=ROUNDS, threads=torch.get_num_threads()), count=CROWD_TIMES)
        for precision in ("float32", "auto"):
            parties = {"test.py": (partial(together, precision), ROOT), "one by one": (partial(one_by_one, precision), ROOT)}
            title = f"a folder of {FOLDER} photos read, looked at, drawn and written, {precision}"
            report(title, time_in_turn(parties, folder, rounds=3, threads=torch.get_num_threads()), count=FOLDER)


def report(title: str, times: dict[str, float], *, count: int) -> None:
    """Print what each party took for an image, and how many times as long as the first."""
    print(title)
    first = next(iter(times.values()))
    for name, seconds in times.items():
        print(f"    {name:16}{seconds / count * 1000:10.2f} ms{seconds / first:8.2f} x")


def compare_nms() -> None:
    """NumPy NMS beside the plain loop, on boxes uniform over 1000 x 1000 pixels."""
    from utils.nms import nms

    print("NumPy NMS, boxes of 8 to 60 pixels on 1000 x 1000, IoU 0.4")
    for count in (500, 5000):
        rng = np.random.default_rng(0)
        low = rng.uniform(0, 1000, (count, 2))
        dets = np.hstack([low, low + rng.uniform(8, 60, (count, 2)), rng.random((count, 1))]).astype(np.float32)
        if nms(dets, 0.4) != plain_nms(dets, 0.4):
            sys.exit("nms and the plain loop keep other boxes")
        ours, plain = median_of(lambda: nms(dets, 0.4)), median_of(lambda: plain_nms(dets, 0.4))    # noqa: B023 (called at once)
        print(f"    {count:5} boxes: {ours * 1000:.2f} ms, the plain loop {plain * 1000:.2f} ms, {plain / ours:.1f} x")


def plain_nms(dets: np.ndarray, threshold: float) -> list[int]:
    """The usual loop: keep the best box, drop all that overlap it, begin again."""
    x1, y1, x2, y2, scores = dets.T.astype(np.float64)
    areas = (x2 - x1) * (y2 - y1)
    order = scores.argsort()[::-1]
    keep = []
    while order.size > 0:
        best, rest = order[0], order[1:]
        keep.append(int(best))
        width = np.maximum(0, np.minimum(x2[best], x2[rest]) - np.maximum(x1[best], x1[rest]))
        height = np.maximum(0, np.minimum(y2[best], y2[rest]) - np.maximum(y1[best], y1[rest]))
        shared = width * height
        order = rest[shared / (areas[best] + areas[rest] - shared) <= threshold]
    return keep


def median_of(work: Callable[[], object], *, times: int = 9) -> float:
    seconds = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return sorted(seconds)[times // 2]


def make_photos(folder: Path, photos: Path | None) -> None:
    """Square photos, a crowd, and a folder of photos of their own sizes."""
    from data.synthetic import draw_image

    paths = sorted(path for path in photos.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png")) if photos else []
    if photos and not paths:
        sys.exit(f"{photos}: has no photos")
    images = [cv2.imread(str(path)) for path in paths[:80]]
    images = images or [draw_image(np.random.default_rng(index), size)[0] for index, size in enumerate([480, 640, 800] * 8)]
    crowd = max(zip(paths, images, strict=False), key=lambda pair: pair[0].stat().st_size)[1] if paths else np.tile(images[0], (4, 4, 1))
    for name in ("square", "folder"):
        (folder / name).mkdir()
    for index in range(PHOTOS):
        cv2.imwrite(str(folder / "square" / f"{index}.jpg"), cv2.resize(images[index % len(images)], (SIDE, SIDE)))
    for index in range(FOLDER):
        cv2.imwrite(str(folder / "folder" / f"{index:03}.jpg"), images[index % len(images)])
    cv2.imwrite(str(folder / "crowd.jpg"), cv2.resize(crowd, CROWD))


def make_weights(path: Path, backbone: str, published: Path | None, theirs: Path | None) -> None:
    """Weights that both sides read: given ones, or random ones that take some hundred priors of a photo for a face."""
    import torch

    from config import Config, ModelConfig, to_dict
    from detector.retinaface import RetinaFace
    from detector.weights import load_model

    if published:
        path.write_bytes(published.read_bytes())
        return
    if theirs:    # as they name them
        config = "cfg_mnet" if backbone == "mobilenet0.25" else "cfg_re50"
        subprocess.run([sys.executable, "-c", MAKE_THEIRS.format(config=config, path=str(path))], cwd=theirs, check=True)
    else:
        torch.manual_seed(0)
        model = RetinaFace(ModelConfig(backbone=backbone, channels=64 if backbone == "mobilenet0.25" else 256))    # type: ignore[arg-type]
        torch.save({"config": to_dict(Config(model=model.config)), "model": model.state_dict()}, path)
    photo = cv2.imread(str(path.parent / "square" / "0.jpg"))
    with torch.no_grad():
        background, face = load_model(path)(torch.from_numpy(photo)[None].permute(0, 3, 1, 2)).logits[0].unbind(-1)
    surplus = float((face - background).topk(RANDOM_FACES).values[-1]) - float(np.log(CONFIDENCE / (1 - CONFIDENCE)))
    checkpoint = torch.load(path, weights_only=True)
    for name, value in checkpoint.get("model", checkpoint).items():
        if name.lower().startswith("class") and name.endswith("bias"):
            value.view(-1, 2)[:, 1] -= surplus
    torch.save(checkpoint, path)


def ours(backbone: str, precision: str, folder: Path) -> Pass:
    from utils.images import read_image

    detector = our_detector(folder / f"{backbone}.pth", precision)
    files = sorted((folder / "square").iterdir())
    return lambda: [detector(read_image(file, turn=True)) for file in files]


def our_detector(weights: Path, precision: str) -> FaceDetector:
    from config import TestConfig
    from detector.face_detector import FaceDetector

    return FaceDetector.from_checkpoint(weights, "cpu", config=TestConfig(precision=precision))    # type: ignore[arg-type]


def ancestor(backbone: str, folder: Path) -> Pass:
    """As their detect.py does it, on the CPU."""
    network = their_network(backbone, folder)
    files = sorted((folder / "square").iterdir())

    def detect(file: Path) -> np.ndarray:
        image = np.float32(cv2.imread(str(file), cv2.IMREAD_COLOR))
        height, width = image.shape[:2]
        image -= MEAN
        return their_tail(backbone, network(to_batch(image)), height=height, width=width)

    return lambda: [detect(file) for file in files]


def to_batch(image: np.ndarray) -> Tensor:
    import torch

    return torch.from_numpy(image.transpose(2, 0, 1)).unsqueeze(0)


def their_network(backbone: str, folder: Path) -> Any:
    import torch
    from models.retinaface import RetinaFace

    from data import cfg_mnet, cfg_re50

    torch.set_grad_enabled(False)
    network = RetinaFace(cfg={**(cfg_mnet if backbone == "mobilenet0.25" else cfg_re50), "pretrain": False}, phase="test")
    state = torch.load(folder / f"{backbone}.pth", map_location="cpu", weights_only=True)
    network.load_state_dict({name.removeprefix("module."): value for name, value in state.items()})
    return network.eval()


def their_tail(backbone: str, outputs: Any, *, height: int, width: int) -> np.ndarray:
    """Priors, decoding, thresholds and NMS, as their detect.py has them."""
    import torch
    from layers.functions.prior_box import PriorBox
    from utils.nms.py_cpu_nms import py_cpu_nms

    from data import cfg_mnet, cfg_re50
    from utils.box_utils import decode, decode_landm

    config = cfg_mnet if backbone == "mobilenet0.25" else cfg_re50
    offsets, confidences, points = outputs
    priors = PriorBox(config, image_size=(height, width)).forward()
    boxes = (decode(offsets.squeeze(0), priors, config["variance"]) * torch.Tensor([width, height] * 2)).numpy()
    scores = confidences.squeeze(0).numpy()[:, 1]
    landmarks = (decode_landm(points.squeeze(0), priors, config["variance"]) * torch.Tensor([width, height] * 5)).numpy()
    candidates = np.where(scores > CONFIDENCE)[0]
    candidates = candidates[scores[candidates].argsort()[::-1][:TOP_K]]
    dets = np.hstack((boxes[candidates], scores[candidates, np.newaxis])).astype(np.float32, copy=False)
    kept = py_cpu_nms(dets, NMS)[:MAX_FACES]
    return np.concatenate((dets[kept], landmarks[candidates][kept]), axis=1)


def ours_behind(folder: Path) -> Pass:
    """What comes after the network, whose outputs are computed once."""
    import torch

    image = cv2.imread(str(folder / "crowd.jpg"))
    detector = our_detector(folder / "mobilenet0.25.pth", "float32")
    model = detector.network.model    # type: ignore[attr-defined]
    with torch.inference_mode():
        predictions = model(to_batch(image))
    model.features = lambda images: []
    model.predict = lambda features: predictions
    return lambda: [detector(image) for _ in range(CROWD_TIMES)]


def ancestor_behind(folder: Path) -> Pass:
    image = np.float32(cv2.imread(str(folder / "crowd.jpg"))) - np.float32(MEAN)
    height, width = image.shape[:2]
    outputs = their_network("mobilenet0.25", folder)(to_batch(image))
    return lambda: [their_tail("mobilenet0.25", outputs, height=height, width=width) for _ in range(CROWD_TIMES)]


def jobs_of(folder: Path, output: str) -> list[Job]:
    from detector.drawing import Job

    photos = sorted((folder / "folder").iterdir())
    return [Job(photo, folder / output / photo.name, folder / output / f"{photo.stem}.txt") for photo in photos]


def together(precision: str, folder: Path) -> Pass:
    """As test.py looks at a folder."""
    from detector.drawing import draw_photos

    detector, jobs = our_detector(folder / "mobilenet0.25.pth", precision), jobs_of(folder, f"together_{precision}")
    return lambda: [found.number for found in draw_photos(detector, jobs, confidence=0.5, should_stop=lambda: False)]


def one_by_one(precision: str, folder: Path) -> Pass:
    """The same with single calls."""
    from utils.images import read_image, write_image
    from utils.predictions import write_predictions
    from utils.visualize import draw_detections

    detector, jobs = our_detector(folder / "mobilenet0.25.pth", precision), jobs_of(folder, f"single_{precision}")

    def one_pass() -> None:
        for job in jobs:
            image = read_image(job.photo, turn=True)
            found = detector(image)
            write_image(job.drawing, draw_detections(image, found.above(0.5)))
            write_predictions(job.predictions, found)

    return one_pass


if __name__ == "__main__":
    main()
