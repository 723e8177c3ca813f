"""Several processes that train as one, over Gloo on this machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import ROOT, RunScript
from test_train import arguments, losses, weights

from detector.weights import SHIPPED
from utils.checkpoint import read_checkpoint
from utils.distributed import any_process, gather, is_main, rank, share, sum_over_processes, unshare, world_size

# Batch norms see only the share of their process, so their statistics must not be learnt where one process is to equal two.
EQUAL = ["train.freeze_batch_norm=true", "train.log_every=1", "data.workers=0", "train.validate_every=1"]


def torchrun(*words: str, processes: int = 2, restarts: int = 0) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={processes}", "--standalone"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*command, f"--max-restarts={restarts}", "--monitor_interval=0.1", str(ROOT / "train.py"), *words],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_process_alone_needs_no_group() -> None:
    assert (world_size(), rank(), is_main()) == (1, 0, True)
    assert any_process(True) and not any_process(False)
    assert gather("a") == ["a"]
    assert torch.equal(sum_over_processes(torch.ones(2)), torch.ones(2))
    assert list(share(range(3))) == [0, 1, 2]


@pytest.mark.parametrize(("count", "processes"), [(7, 3), (2, 4), (0, 2), (6, 2)])
def test_shares_come_together_in_order(count: int, processes: int) -> None:
    assert unshare([list(range(count))[number::processes] for number in range(processes)]) == list(range(count))


def test_two_processes_train_like_one(drawn_set: Path, tmp_path: Path) -> None:
    common = [*EQUAL, f"data.val={drawn_set}", "train.epochs=2", "train.batch_size=8", "train.accumulation=2", "train.ema=0.9"]
    alone = subprocess.run([sys.executable, str(ROOT / "train.py"), *arguments(drawn_set, tmp_path / "one", *common)], check=False)
    assert alone.returncode == 0
    process = torchrun(*arguments(drawn_set, tmp_path / "two", *common))
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert out.count("epoch 2/2: ") == 1 and "2 processes" in out
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(one) == len(two) == 4    # the second batch of an epoch has 4 of the 12 images
    for row, other in zip(one, two, strict=True):
        assert row == pytest.approx(other, rel=1e-4)
    first, second = weights(tmp_path / "one" / "last.pth"), weights(tmp_path / "two" / "last.pth")
    assert max(float((first[name] - second[name]).abs().max()) for name in first) < 1e-4
    assert read_checkpoint(tmp_path / "one" / "best.pth")["ap50"] == pytest.approx(read_checkpoint(tmp_path / "two" / "best.pth")["ap50"])


@pytest.mark.parametrize("average", [0, 0.9])
def test_best_checkpoint_has_the_ap_that_the_processes_measured(
    drawn_set: Path, tmp_path: Path, run: RunScript, average: float
) -> None:
    output = tmp_path / "run"
    # The shipped detector finds some of the drawn faces, and its batch norms learn from them.
    words = ["train.epochs=1", "train.lr=1e-4", "train.warmup_steps=0", "data.size=128", f"data.val={drawn_set}"]
    words += ["model.channels=48", "model.min_sizes=[[8,11],[16,32],[64,128],[256,512]]", f"model.weights={SHIPPED}"]
    words += [f"train.ema={average}", "data.workers=0"]
    process = torchrun(*arguments(drawn_set, output, *words))
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    best = read_checkpoint(output / "best.pth")
    assert best["ap50"] > 0.2
    assert run("test", "--labels", drawn_set, "--weights", output / "best.pth", "--output", tmp_path / "score").code == 0
    measured = json.loads((tmp_path / "score" / "metrics.json").read_text())["ap50"]
    assert measured == pytest.approx(best["ap50"], abs=1e-6)


@pytest.mark.slow
def test_killed_process_is_restarted_and_the_run_ends_as_if_nothing_had_been(drawn_set: Path, tmp_path: Path) -> None:
    common = ["train.log_every=1", "data.workers=0", "train.epochs=12", "train.batch_size=2", "train.checkpoint_every=1"]
    quiet, killed = tmp_path / "quiet", tmp_path / "killed"
    process = torchrun(*arguments(drawn_set, quiet, *common))
    assert process.wait(timeout=300) == 0
    process = torchrun(*arguments(drawn_set, killed, *common), restarts=3)
    wait_for(killed / "last.pth")
    workers = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True).stdout.split()
    os.kill(int(workers[-1]), signal.SIGKILL)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert "going on from iteration " in out
    assert losses(quiet) == losses(killed)
    first, second = weights(quiet / "last.pth"), weights(killed / "last.pth")
    assert all(torch.equal(first[name], second[name]) for name in first)


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 120
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
