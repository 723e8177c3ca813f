"""How fast a model is trained: python tests/benchmarks/bench_train.py [--ancestor DIR] [--photos DIR]

On any machine: MobileNet0.25 at 320 pixels with batches of 32, photos read and augmented along the way; with --ancestor and a checkout
of biubug6/Pytorch_Retinaface beside that one's own loader, network and loss in float32, in turn, each in a process of its own. Then what
share of a step matching and losses take with 50 faces an image, and their peak memory with 1,000 faces in one image.

On a CUDA GPU also ResNet50 at 640 and 840 pixels, eager and compiled: images/s, peak memory, time spent waiting for data, and the share
of the roofline. That is what the GPU allows, by its speed of copying and of multiplying matrices as measured here, to a network whose
every layer reads and writes each of its values once in the forward pass and three times in all in the backward pass.
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
from typing import TYPE_CHECKING, Any

from side_by_side import MEAN, ROOT, Party, Pass, make_set, time_in_turn

if TYPE_CHECKING:
    from torch import Tensor, nn

    from detector.trainer import Trainer

SIZE, BATCH, STEPS, ROUNDS = 320, 32, 10, 5
WORKERS = 2
GPU_STEPS, GPU_WARMUP, GPU_WORKERS = 40, 15, 16
FACES, CROWD = 50, 1000


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the training of models.")
    parser.add_argument("--ancestor", metavar="DIR", type=Path, help="a checkout of biubug6/Pytorch_Retinaface, to be timed beside ours")
    parser.add_argument("--photos", metavar="DIR", type=Path, help="photos to use, resized to 1024 x 700 (default: drawn ones)")
    arguments = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    import torch

    with tempfile.TemporaryDirectory() as folder:
        label = make_set(Path(folder) / "set", arguments.photos, images=BATCH * STEPS)
        parties: dict[str, Party] = {"train.py": (ours, ROOT)}
        if arguments.ancestor:
            parties["the ancestor"] = (ancestor, arguments.ancestor.resolve())
        times = time_in_turn(parties, label, rounds=ROUNDS, threads=torch.get_num_threads())
        print(f"MobileNet0.25 at {SIZE} pixels, batches of {BATCH}, end to end, medians of {ROUNDS} rounds of {STEPS} steps")
        for name, seconds in times.items():
            print(f"    {name:16}{BATCH * STEPS / seconds:8.1f} images/s{times[list(times)[-1]] / seconds:8.2f}")
        for size in (SIZE, 640):
            share_of_step(size=size)
        context = multiprocessing.get_context("spawn")
        mine, theirs = context.Pipe()
        process = context.Process(target=memory_of_crowd, args=(theirs,))
        process.start()
        print(f"matching and losses, {CROWD} faces in one of 8 images of 640 pixels: {mine.recv():.0f} MiB at the peak")
        process.join()
        if torch.cuda.is_available():
            on_gpu(label)


def ours(label: Path) -> Pass:
    trainer = make_trainer(label, "mobilenet0.25", size=SIZE, workers=WORKERS)
    return lambda: list(trainer.try_out(trainer.step + STEPS))


def make_trainer(label: Path, preset: str, *, size: int, workers: int, compiled: bool = False) -> Trainer:
    from config import load_config
    from train import make_trainer as make

    words = [f"data.train={label}", f"data.size={size}", f"data.workers={workers}"]
    config = load_config(preset, overrides=[*words, f"train.batch_size={BATCH}", f"train.compile={compiled}"])
    return make(config, label.parent / "run", preset=preset, report=lambda text: None)[0]


def ancestor(label: Path) -> Pass:
    import torch

    from data import WiderFaceDetection, cfg_mnet, detection_collate, preproc

    cfg_mnet.update(gpu_train=False, pretrain=False)    # before its loss is imported, which looks once
    from layers.functions.prior_box import PriorBox
    from layers.modules import MultiBoxLoss
    from models.retinaface import RetinaFace

    torch.Tensor.cuda = lambda self: self    # type: ignore[method-assign,assignment]    # its loss asks for a GPU all the same
    network = RetinaFace(cfg=cfg_mnet).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9, weight_decay=5e-4)
    criterion = MultiBoxLoss(2, 0.35, True, 0, True, 7, 0.35, False)
    priors = PriorBox(cfg_mnet, image_size=(SIZE, SIZE)).forward()
    dataset = WiderFaceDetection(str(label), preproc(SIZE, MEAN))

    def one_pass() -> None:
        loader = torch.utils.data.DataLoader(dataset, BATCH, shuffle=True, num_workers=WORKERS, collate_fn=detection_collate)
        for images, targets in loader:
            output = network(images)
            optimizer.zero_grad()
            box, label_loss, landmark = criterion(output, priors, targets)
            (2.0 * box + label_loss + landmark).backward()
            optimizer.step()

    return one_pass


def random_targets(faces: list[int], *, size: int, device: Any) -> list[Any]:
    """Targets of so many faces each, from 7 to 150 pixels wide, all with points."""
    import torch

    from utils.structures import Target

    generator = torch.Generator().manual_seed(0)
    targets = []
    for count in faces:
        low = torch.rand(count, 2, generator=generator) * size * 0.9
        boxes = torch.cat([low, low + torch.exp(2 + 3 * torch.rand(count, 1, generator=generator))], dim=1)
        points = torch.rand(count, 5, 2, generator=generator) * size
        target = Target(boxes, points, torch.ones(count, 5, dtype=torch.bool), torch.zeros(count, dtype=torch.bool))
        targets.append(target.to(device))
    return targets


def share_of_step(*, size: int) -> None:
    """Print what matching and losses, forward and backward, take of a whole training step."""
    import torch

    from config import load_config
    from detector.objective import FaceObjective
    from detector.retinaface import RetinaFace
    from layers.multibox_loss import MultiBoxLoss
    from utils.devices import pick_device, pick_dtype
    from utils.memory import keep_freed_memory
    from utils.structures import Predictions

    keep_freed_memory()    # as training does
    device = pick_device("auto")
    dtype = pick_dtype("auto", device)
    model = RetinaFace(load_config("mobilenet0.25").model).train()
    model = model.to(device, memory_format=torch.channels_last)    # type: ignore[call-overload]
    objective = FaceObjective(model, model, MultiBoxLoss())
    images = torch.randint(0, 256, (BATCH, 3, size, size), dtype=torch.uint8, device=device).contiguous(memory_format=torch.channels_last)
    targets = random_targets([FACES] * BATCH, size=size, device=device)
    with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
        raw = [part.detach().requires_grad_() for part in model(images)]

    def step() -> None:
        assignment = objective.assign(images, targets)
        with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
            losses = objective.losses(images, assignment, assignment.counts)
        sum(losses.values()).backward()    # type: ignore[union-attr]

    def loss_alone() -> None:
        losses = objective.criterion(Predictions(*raw), model.priors(size, size), targets)
        sum(losses.values()).backward()    # type: ignore[union-attr]

    whole, part = seconds_of(step, device), seconds_of(loss_alone, device)
    print(
        f"matching and losses with {FACES} faces an image, {BATCH} images of {size} pixels on {device}: "
        f"{part * 1000:.1f} of {whole * 1000:.0f} ms a step, {part / whole:.1%}"
    )


def seconds_of(work: Callable[[], None], device: Any, *, times: int = 12) -> float:
    """The median time of some work, after some rounds to warm up."""
    import torch

    seconds = []
    for _ in range(times + 4):
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[4:])


def memory_of_crowd(pipe: Connection) -> None:
    """Send the MiB that matching and losses add at their peak, in this process."""
    import torch

    from config import load_config
    from layers.multibox_loss import MultiBoxLoss
    from layers.prior_box import PriorBox
    from utils.devices import pick_device
    from utils.structures import Predictions

    device = pick_device("auto")
    priors = PriorBox(load_config("mobilenet0.25").model.min_sizes, [8, 16, 32])(640, 640, device=device)
    shapes = [(8, len(priors), 4), (8, len(priors), 2), (8, len(priors), 5, 2)]
    predictions = Predictions(*(torch.randn(shape, device=device, requires_grad=True) for shape in shapes))
    small = random_targets([2] * 8, size=640, device=device)
    targets = random_targets([CROWD, *[FACES] * 7], size=640, device=device)

    def peak() -> float:
        if device.type == "cuda":
            return torch.cuda.max_memory_allocated() / 2**20
        status = Path("/proc/self/status").read_text()    # getrusage gives the parent's peak where that was higher
        return float(status.partition("VmHWM:")[2].split()[0]) / 2**10

    for each in (small, targets):    # the first round loads what PyTorch loads at its first use
        before = peak()
        sum(MultiBoxLoss()(predictions, priors, each).values()).backward()    # type: ignore[union-attr]
    pipe.send(peak() - before)


def on_gpu(label: Path) -> None:
    """Print how ResNet50 trains on a GPU."""
    import torch

    from detector.summary import layers_of

    bandwidth, arithmetic = measure_gpu()
    print(f"{torch.cuda.get_device_name()}: copies {bandwidth / 1e12:.2f} TB/s, multiplies bfloat16 with {arithmetic / 1e12:.0f} TFLOP/s")
    print(f"ResNet50, batches of {BATCH}, end to end, {GPU_STEPS} steps after {GPU_WARMUP}")
    for size in (640, 840):
        for compiled in (False, True):
            torch.cuda.reset_peak_memory_stats()
            trainer = make_trainer(label, "resnet50", size=size, workers=GPU_WORKERS, compiled=compiled)
            run_steps(trainer, GPU_WARMUP)
            torch.cuda.synchronize()
            trainer.pace = type(trainer.pace)()
            started = time.perf_counter()
            run_steps(trainer, GPU_STEPS)
            torch.cuda.synchronize()
            rate = BATCH * GPU_STEPS / (time.perf_counter() - started)
            macs = sum(layer.macs for layer in layers_of(trainer.model, size=size))
            seconds = max(6 * macs / arithmetic, traffic(trainer.model, size=size) / bandwidth)
            print(
                f"    {size} pixels, {'compiled' if compiled else 'eager':9}{rate:7.0f} images/s, {rate * seconds:4.0%} of the roofline of "
                f"{1 / seconds:,.0f}, {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB, "
                f"{trainer.pace.waited / (BATCH * GPU_STEPS / rate):.0%} of the time waiting for data"
            )


def run_steps(trainer: Trainer, steps: int) -> None:
    """Train as train.py does: losses are looked at every 20 steps only."""
    target = trainer.step + steps

    def after_step(step: Any) -> bool:
        trainer.step = step.number
        trainer.guard.add(step, [])
        if trainer.step % trainer.config.train.log_every == 0:
            trainer.guard.collect()
        return trainer.step >= target

    while trainer.step < target:
        trainer._run_steps(after_step)


def measure_gpu() -> tuple[float, float]:
    """Bytes that the GPU reads and writes in a second, and operations of bfloat16 matrices."""
    import torch

    device = torch.device("cuda")
    numbers = torch.empty(2**29, dtype=torch.bfloat16, device=device)
    copy = torch.empty_like(numbers)
    matrix = torch.randn(8192, 8192, dtype=torch.bfloat16, device=device)
    bandwidth = 2 * numbers.nbytes / seconds_of(lambda: copy.copy_(numbers) and None, device)
    return bandwidth, 2 * 8192**3 / seconds_of(lambda: torch.mm(matrix, matrix) and None, device)


def traffic(model: nn.Module, *, size: int) -> float:
    """The bytes that a training step must move for an image: what each layer makes, in bfloat16, five times."""
    import torch

    values = 0

    def count(module: nn.Module, inputs: Any, output: Tensor) -> None:
        nonlocal values
        values += output.numel()

    leaves = [module for module in model.modules() if not list(module.children())]
    hooks = [module.register_forward_hook(count) for module in leaves]
    with torch.no_grad():
        model.eval()(torch.zeros(1, 3, size, size, device=next(model.parameters()).device))
    for hook in hooks:
        hook.remove()
    return 5 * 2 * values


if __name__ == "__main__":
    main()
