"""A run whose data workers fail: one line, exit code 2, and no process left over."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import ROOT, RunScript
from test_distributed import torchrun
from test_train import arguments

from config import DataConfig
from data.dataset import FaceDataset, Sample
from data.loader import FaceLoader
from utils.files import whole_file
from utils.script import run_script
from utils.shortage import find_shortage

LACK = "a data worker was killed, probably for lack of memory; lower data.workers, then --resume"
KILLED = f"train.py: {LACK}\n"
SHARED_MEMORY = (
    "/dev/shm is too small for data.workers=2: use data.workers=0, or docker run --ipc=host"
)
OPEN_FILES = (
    "too many open files for data.workers=2: raise the limit with `ulimit -n`, "
    "or lower data.workers"
)
SEGMENTATION = "a data worker ended with SIGSEGV; use --resume, maybe with data.workers=0"
SECONDS = 60    # 10 on an idle machine
ENDLESS = ["train.epochs=100000", "train.log_every=1", "data.workers=2"]


def children(pid: int) -> list[int]:
    """The processes that one has started."""
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(word) for word in text.split()]


def start(*words: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(ROOT / "train.py"), *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def has_ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="the system has no /proc")
@pytest.mark.parametrize(("number", "said"), [
    (signal.SIGKILL, KILLED),
    pytest.param(signal.SIGBUS, f"train.py: {SHARED_MEMORY}\n", marks=pytest.mark.slow),
    pytest.param(signal.SIGSEGV, f"train.py: {SEGMENTATION}\n", marks=pytest.mark.slow),
])  # fmt: skip
def test_killed_worker_ends_the_run_in_one_line(
    drawn_set: Path, tmp_path: Path, run: RunScript, number: signal.Signals, said: str
) -> None:
    output = tmp_path / "run"
    process = start(*arguments(drawn_set, output, *ENDLESS))
    wait_until((output / "last.pth").exists)
    workers = children(process.pid)
    assert len(workers) == 2
    os.kill(workers[0], number)
    _, err = process.communicate(timeout=SECONDS)
    assert (process.returncode, err) == (2, said)
    wait_until(lambda: all(map(has_ended, workers)))
    assert not list(output.rglob("*partial*"))
    words = ["--resume", "train.max_steps=1", "data.workers=0", "train.epochs=100000"]
    again = run("train", *arguments(drawn_set, output, *words))
    assert (again.code, again.err) == (0, "")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="the system has no /proc")
def test_killed_worker_ends_all_processes_of_a_run(drawn_set: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    process = torchrun(*arguments(drawn_set, output, *ENDLESS))
    wait_until((output / "last.pth").exists)
    ranks = children(process.pid)
    workers = [worker for rank in ranks for worker in children(rank)]
    assert len(ranks) == 2 and len(workers) == 4
    os.kill(workers[-1], signal.SIGKILL)
    _, err = process.communicate(timeout=2 * SECONDS)
    assert process.returncode != 0
    assert err.count(KILLED) == 1
    wait_until(lambda: all(map(has_ended, [*ranks, *workers])))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="the system has no /proc")
def test_workers_end_with_a_training_that_is_killed(drawn_set: Path, tmp_path: Path) -> None:
    process = start(*arguments(drawn_set, tmp_path / "run", *ENDLESS))
    wait_until((tmp_path / "run" / "last.pth").exists)
    workers = children(process.pid)
    assert len(workers) == 2 and not any(map(has_ended, workers))
    process.kill()
    process.communicate(timeout=SECONDS)
    wait_until(lambda: all(map(has_ended, workers)))
    assert all(map(has_ended, workers))


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_image_folder_that_goes_away_ends_the_run_in_one_line(
    drawn_set: Path, tmp_path: Path, workers: int
) -> None:
    shutil.copytree(drawn_set.parent, tmp_path / "set")
    label = tmp_path / "set" / "label.txt"
    process = start(*arguments(label, tmp_path / "run", *ENDLESS, f"data.workers={workers}"))
    wait_until((tmp_path / "run" / "last.pth").exists)
    (tmp_path / "set" / "images").rename(tmp_path / "elsewhere")
    _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 2
    *warned, said = err.splitlines()
    assert all("warning: " in line and ": no such image" in line for line in warned)
    assert said.startswith("train.py: no image readable of 12: ")
    assert ": no such image; tried " in said
    assert said.endswith("data.images names their folder")


def fail_with(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def raise_error(dataset: FaceDataset, key: tuple[int, int]) -> Sample:
        raise error

    monkeypatch.setattr(FaceDataset, "__getitem__", raise_error)


NO_SPACE = RuntimeError(
    "unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)"
)
NO_FILES = RuntimeError(
    "unable to open shared memory object </torch_1> in read-write mode: Too many open files (24)"
)


@pytest.mark.parametrize(("error", "said"), [
    (ValueError("label.txt: no such face"), "label.txt: no such face"),
    (FileNotFoundError("mask.png: no such image"), "mask.png: no such image"),
    (MemoryError(), LACK),
    (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes"), LACK),
    (NO_SPACE, SHARED_MEMORY),
    (NO_FILES, OPEN_FILES),
    (OSError(errno.EMFILE, "Too many open files"), OPEN_FILES),
])  # fmt: skip
def test_what_a_worker_raises_comes_out_as_its_own_line(
    drawn_set: Path,
    tmp_path: Path,
    run: RunScript,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    said: str,
) -> None:
    fail_with(monkeypatch, error)
    result = run("train", *arguments(drawn_set, tmp_path / "run", "data.workers=2"))
    assert result.complaint == f"train.py: {said}"


def test_bug_in_a_worker_shows_its_traceback(
    drawn_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_with(monkeypatch, RuntimeError("CUDA error: an illegal memory access was encountered"))
    loader = FaceLoader(FaceDataset([drawn_set], DataConfig(size=64)), batch_size=4, workers=2)
    with pytest.raises(RuntimeError, match="(?s)Original Traceback.*illegal memory access"):
        next(loader.epoch(0))
    assert not loader._processes


@pytest.mark.slow
@pytest.mark.parametrize("error", [NO_SPACE, NO_FILES, KeyError("a bug")])
def test_batch_that_cannot_be_sent_is_not_waited_for(
    drawn_set: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """The thread that sends batches has no other way to say so than the end of its process."""

    def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr("torch.multiprocessing.reductions.StorageWeakRef", refuse)
    monkeypatch.setattr("multiprocessing.reduction.DupFd", refuse)
    said = {NO_SPACE: SHARED_MEMORY, NO_FILES: OPEN_FILES}.get(
        error, "a data worker ended with exit code 1"
    )    # type: ignore[call-overload]
    loader = FaceLoader(FaceDataset([drawn_set], DataConfig(size=64)), batch_size=4, workers=2)
    with pytest.raises(OSError, match=said.replace("(", r"\(")):
        next(loader.epoch(0))


PROGRAM = """
import os, signal, sys
from config import DataConfig
from data.dataset import FaceDataset
from data.loader import FaceLoader
loader = FaceLoader(FaceDataset([{label!r}], DataConfig(size=64)), batch_size=4, workers=2)
batches = loader.epoch(0)
next(batches)
"""


@pytest.mark.parametrize(("end", "code"), [
    ("sys.exit(2)", 2),
    *(pytest.param(end, code, marks=pytest.mark.slow) for end, code in [
        ("raise ValueError('here')", 1),
        ("raise KeyboardInterrupt", -signal.SIGINT),
        ("del loader", 0),
        ("batches.close()", 0),
        ("os.kill(loader._processes[0].pid, signal.SIGKILL); list(batches)", 1),
        ("os.kill(loader._processes[0].pid, signal.SIGSTOP); sys.exit(2)", 2),
        ("batches.throw(ValueError('here'))", 1),
    ]),
])  # fmt: skip
def test_program_ends_however_an_epoch_ends(drawn_set: Path, end: str, code: int) -> None:
    program = PROGRAM.format(label=str(drawn_set)) + end
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert code > 0 or code == -signal.SIGINT or done.stderr == ""


ACCELERATOR = """
import os, resource, time, warnings
import torch
for module in (torch.cuda, torch.accelerator) if hasattr(torch, "accelerator") else (torch.cuda,):
    module.is_available = lambda: True
    module.current_accelerator = lambda *_, **__: torch.device("cuda")
    module.current_device = module.current_device_index = module.current_device_idx = lambda: 0
    module.set_device = module.set_device_index = module.set_device_idx = lambda _: None
torch.Tensor.pin_memory = lambda batch, *_: batch.clone()

import data.loader
from utils.script import run_script

data.loader.cores = lambda: 4    # of which this machine may have fewer
warnings.filterwarnings("ignore", message="This DataLoader will create 4 worker processes")

def main():
    loader = data.loader.FaceLoader(
        data.loader.FaceDataset([{label!r}]), batch_size=1, workers=4, device="cuda"
    )
    data.loader.PackedBatch.to = lambda batch, device: batch
    loader.itself = loader    # as in a training, a cycle keeps it up to the exit
    for epoch in range(100):
        for number, _ in enumerate(loader.epoch(epoch)):
            if epoch == 1 and number == 2:
                {end}
    return 0

code = run_script(main, "train.py")
print("ends", time.monotonic(), flush=True)
raise SystemExit(code)
"""
FEW_FILES = (
    "used = len(os.listdir('/proc/self/fd')); "
    "resource.setrlimit(resource.RLIMIT_NOFILE, (used + 1, used + 1))"
)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="the system has no /proc")
@pytest.mark.parametrize(("end", "said"), [
    pytest.param("return 2", "", marks=pytest.mark.slow),
    ("raise ValueError('here')", "train.py: here\n"),
    pytest.param(
        "for worker in loader._processes: os.kill(worker.pid, 9)", KILLED, marks=pytest.mark.slow
    ),
    pytest.param(
        FEW_FILES, f"train.py: {OPEN_FILES}\n".replace("=2", "=4"), marks=pytest.mark.slow
    ),
])  # fmt: skip
def test_workers_of_a_gpu_fail_in_one_line_too(drawn_set: Path, end: str, said: str) -> None:
    """PyTorch pins their batches in a thread, and waits for them in another way."""
    program = ACCELERATOR.format(label=str(drawn_set), end=end)
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    out, err = process.communicate(timeout=SECONDS)
    ended = time.monotonic() - float(out.split()[-1])
    assert (process.returncode, err) == (2, said)
    assert ended < 15    # 1 on an idle machine; PyTorch 2.6 waits for four workers for 20


@pytest.fixture
def small_shared_memory() -> list[str]:
    """The words that run a command with a /dev/shm of 64 MB, as Docker's is."""
    words = [
        "unshare",
        "-m",
        "sh",
        "-c",
        'mount -t tmpfs -o size=64m tmpfs /dev/shm && exec "$@"',
        "sh",
    ]
    if (
        shutil.which("unshare") is None
        or subprocess.run([*words, "true"], capture_output=True, check=False).returncode
    ):
        pytest.skip("unshare -m is not allowed here")
    return words


@pytest.mark.slow
@pytest.mark.parametrize("more", [[], ["train.batch_size=8"]])
def test_docker_s_shared_memory_is_named_or_suffices(
    tmp_path: Path, drawn_set: Path, small_shared_memory: list[str], more: list[str]
) -> None:
    label = tmp_path / "label.txt"
    label.write_text(drawn_set.read_text() * 22)
    words = [
        "--preset", "mobilenet0.25", f"data.train={label}",
        f"data.images={drawn_set.parent / 'images'}",
        "--output", str(tmp_path / "run"), "data.workers=2", "train.max_steps=6", *more,
    ]  # fmt: skip
    command = [*small_shared_memory, sys.executable, str(ROOT / "train.py"), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        assert (done.returncode, done.stderr) == (2, f"train.py: {SHARED_MEMORY}\n")


@pytest.mark.slow
@pytest.mark.parametrize("limit", [18, 24])
def test_too_few_open_files_are_named(drawn_set: Path, tmp_path: Path, limit: int) -> None:
    words = arguments(drawn_set, tmp_path / "run", *ENDLESS, "train.batch_size=1")
    done = subprocess.run(
        ["sh", "-c", f'ulimit -n {limit}; exec "$@"', "", sys.executable, str(ROOT / "train.py"),
         *words],
        capture_output=True, text=True, timeout=3 * SECONDS, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (2, f"train.py: {OPEN_FILES}\n")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="the system has no /proc")
@pytest.mark.parametrize("free", range(4))
def test_worker_that_may_open_a_few_more_files_says_what_is_short(
    drawn_set: Path, monkeypatch: pytest.MonkeyPatch, free: int, capfd: pytest.CaptureFixture[str]
) -> None:
    """It opens one for each tensor, then looks for a folder for the socket that sends them."""
    read = FaceDataset.__getitem__

    def read_with_few_files(dataset: FaceDataset, key: tuple[int, int]) -> Sample:
        sample = read(dataset, key)
        used = {int(name) for name in os.listdir("/proc/self/fd")}
        limit = [number for number in range(1000) if number not in used][free]
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
        return sample

    monkeypatch.setattr(FaceDataset, "__getitem__", read_with_few_files)
    monkeypatch.setattr(tempfile, "tempdir", None)
    loader = FaceLoader(FaceDataset([drawn_set], DataConfig(size=64)), batch_size=1, workers=2)
    with pytest.raises(OSError, match="too many open files for data.workers=2"):
        for _ in loader.epoch(0):
            pass
    assert capfd.readouterr().err == ""


def raises(error: BaseException) -> Callable[[], int]:
    def main() -> int:
        raise error

    return main


@pytest.mark.parametrize("text", [
    "CUDA error: an illegal memory access was encountered",
    "Pin memory thread exited unexpectedly",
    "required rank 4 tensor to use channels_last memory format",
])  # fmt: skip
def test_memory_in_a_message_is_not_out_of_memory(text: str) -> None:
    with pytest.raises(RuntimeError, match=text):
        run_script(raises(RuntimeError(text)), "train.py")


@pytest.mark.parametrize("error", [
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to"),
])  # fmt: skip
def test_out_of_memory_says_what_needs_less(
    error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_script(raises(error), "train.py") == 2
    said = capsys.readouterr().err
    assert said.startswith("train.py: out of memory; ") and said.count("\n") == 1
    assert all(
        key in said for key in ("train.accumulation", "train.batch_size", "data.size", "test.size")
    )


def test_worker_that_dies_while_a_file_is_written_leaves_no_half_of_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def write() -> int:
        with whole_file(tmp_path / "last.pth") as partial:
            partial.write_bytes(b"half")
            raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")

    assert run_script(write, "train.py") == 2
    assert capsys.readouterr().err == KILLED
    assert list(tmp_path.rglob("*.pth")) == []


def test_kinds_of_shortage_are_told_apart() -> None:
    bus = RuntimeError(
        "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that ..."
    )
    kinds = [find_shortage(error) for error in (bus, NO_SPACE, NO_FILES)]
    assert kinds == [errno.ENOSPC, errno.ENOSPC, errno.EMFILE]
    assert find_shortage(RuntimeError("received 0 items of ancdata")) == errno.EMFILE
    no_memory = RuntimeError(
        "unable to mmap 64 bytes from file </torch_1>: Cannot allocate memory (12)"
    )
    assert find_shortage(no_memory) == errno.ENOMEM
    assert find_shortage(OSError(errno.ENOSPC, "No space left on device")) is None    # a full disk
    kinds_of_texts = {
        "unable to open shared memory object </torch_1> in read-write mode": errno.EMFILE,
        "unable to open file </torch_1> in read-write mode: Too many open files (24)": errno.EMFILE,
        "unable to write to file </torch_1>: No space left on device (28)": errno.ENOSPC,
        "unable to resize file </torch_1> to the right size: No space left on device (28)":
            errno.ENOSPC,
        "unable to allocate shared memory(shm) for file </torch_1>: Interrupted system call (4)":
            errno.ENOSPC,
    }  # fmt: skip
    assert {text: find_shortage(RuntimeError(text)) for text in kinds_of_texts} == kinds_of_texts
