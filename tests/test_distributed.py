"""Several processes that train as one, over Gloo on this machine."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import torch.distributed as dist
from conftest import ROOT, RunScript
from test_folder_lock import hold
from test_train import arguments, losses, weights

from detector.weights import SHIPPED
from utils.checkpoint import read_checkpoint
from utils.distributed import (
    Job,
    agree_on_attempt,
    any_process,
    from_main,
    gather,
    is_main,
    rank,
    require_same,
    share,
    sum_over_processes,
    unshare,
    world_size,
)

# Batch norms see only the share of their process, so their statistics must not be learnt where one process is to equal two.
EQUAL = ["train.freeze_batch_norm=true", "train.log_every=1", "data.workers=0", "train.validate_every=1"]


def torchrun(
    *words: str, processes: int = 2, restarts: int = 0, rendezvous: Sequence[str] = ("--standalone",)
) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={processes}", *rendezvous]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*command, f"--max-restarts={restarts}", "--monitor_interval=0.1", str(ROOT / "train.py"), *words],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_process_alone_needs_no_group() -> None:
    assert (world_size(), rank(), is_main()) == (1, 0, True)
    assert any_process(True) and not any_process(False)
    assert gather("a") == ["a"] and from_main("a") == "a"
    require_same({"a": 1})
    assert torch.equal(sum_over_processes(torch.ones(2)), torch.ones(2))
    assert list(share(range(3))) == [0, 1, 2]


@pytest.mark.parametrize(("count", "processes"), [(7, 3), (2, 4), (0, 2), (6, 2)])
def test_shares_come_together_in_order(count: int, processes: int) -> None:
    assert unshare([list(range(count))[number::processes] for number in range(processes)]) == list(range(count))


def test_two_processes_train_like_one(drawn_set: Path, tmp_path: Path, run: RunScript) -> None:
    common = [*EQUAL, f"data.val={drawn_set}", "train.epochs=2", "train.batch_size=8", "train.accumulation=2", "train.ema=0.9"]
    assert run("train", *arguments(drawn_set, tmp_path / "one", *common)).code == 0
    process = torchrun(*arguments(drawn_set, tmp_path / "two", *common))
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert out.count("epoch 2/2: ") == 1 and "2 processes" in out
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(one) == len(two) == 4    # the second batch of an epoch has 4 of the 12 images
    for row, other in zip(one, two, strict=True):
        assert row == pytest.approx(other, rel=1e-4)
    first, second = weights(tmp_path / "one" / "last.pth"), weights(tmp_path / "two" / "last.pth")
    assert max(float((first[name] - second[name]).abs().max()) for name in first) < 1e-4
    assert read_checkpoint(tmp_path / "one" / "best.pth")["ap50"] == pytest.approx(read_checkpoint(tmp_path / "two" / "best.pth")["ap50"])


def test_processes_of_an_attempt_find_each_other_whatever_the_attempts_before_left() -> None:
    server = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)

    def join(number: int, count: int, delay: float) -> str:
        store = dist.TCPStore("localhost", server.port, is_master=False, wait_for_workers=False)
        time.sleep(delay)
        return agree_on_attempt(store, number, count)

    names = set()
    # A process of the first attempt asks and is gone before process 0 answers.
    server.set("joining/1", "gone")
    for delays in ([0, 0, 0], [0.3, 0, 0.1], [0, 0.3, 0.1], [0, 0.2]):
        with ThreadPoolExecutor() as pool:
            joined = [pool.submit(join, number, len(delays), delay) for number, delay in enumerate(delays)]
            attempt = {each.result(timeout=300) for each in joined}
        assert len(attempt) == 1
        names |= attempt
    assert len(names) == 4


def test_job_goes_on_only_with_the_run_that_it_started() -> None:
    job = Job(dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False))
    assert not job.has_started()
    job.start()
    assert job.has_started()
    alone = Job()
    alone.start()
    assert not alone.has_started()


@pytest.mark.slow
def test_restarts_do_not_go_on_with_the_run_of_another_job(drawn_set: Path, tmp_path: Path, run: RunScript) -> None:
    output = tmp_path / "run"
    assert run("train", *arguments(drawn_set, output, "train.max_steps=2")).code == 0
    before = {path.name: path.read_bytes() for path in output.iterdir()}
    process = torchrun(*arguments(drawn_set, output, "train.lr=0.001"), restarts=2)
    _, err = process.communicate(timeout=300)
    assert process.returncode != 0
    assert err.count("last.pth: a run is there already; add --resume") == 3    # torchrun tries again, once each
    assert {path.name: path.read_bytes() for path in output.iterdir()} == before


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("localhost", 0))
        return int(server.getsockname()[1])


def run_by_environment(words: Sequence[str], *, more: Sequence[Sequence[str]] = ((), ()), folders: Sequence[Path] = (ROOT, ROOT)) -> Ended:
    """Start two processes as srun or mpirun do that set the variables of torch; `more` words for each."""
    shared = {**os.environ, "OMP_NUM_THREADS": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(free_port())}
    processes = [
        subprocess.Popen(
            [sys.executable, str(ROOT / "train.py"), *words, *more[number]],
            cwd=folders[number], env={**shared, "RANK": str(number)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for number in range(2)
    ]  # fmt: skip
    outputs = [process.communicate(timeout=300) for process in processes]
    return Ended([process.returncode for process in processes], *("".join(texts) for texts in zip(*outputs, strict=True)))


class Ended(NamedTuple):
    """How some processes ended, and what they printed together."""

    codes: list[int]
    out: str
    err: str


@pytest.mark.slow
def test_processes_that_something_else_started_join(drawn_set: Path, tmp_path: Path) -> None:
    ended = run_by_environment(arguments(drawn_set, tmp_path / "run", "train.max_steps=1"))
    assert ended.codes == [0, 0], ended.err
    assert "2 processes" in ended.out and ended.out.count("written to ") == 1
    assert [path.name for path in tmp_path.rglob("run.lock")] == []


@pytest.mark.slow
def test_mistake_ends_all_processes_and_is_printed_once(drawn_set: Path, tmp_path: Path) -> None:
    words = arguments(drawn_set, tmp_path / "run", "train.max_steps=1")
    cases = {
        "no.txt: no such label file": [("data.train=no.txt",)] * 2,
        "no.yaml: no such settings file": [(), ("--config=no.yaml",)],
        "train.lr: process 0 on ": [(), ("train.lr=0.5",)],
    }
    for message, more in cases.items():
        ended = run_by_environment(words, more=more)
        assert ended.codes == [2, 2], ended.err
        assert ended.err.startswith("train.py: ") and message in ended.err
        assert len(ended.err.splitlines()) == 1, ended.err
        assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_processes_that_see_different_folders_are_told_at_once(drawn_set: Path, tmp_path: Path) -> None:
    words = [*arguments(drawn_set, Path("run"), "train.max_steps=1"), "--resume"]
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
    ended = run_by_environment(words, folders=folders)
    assert ended.codes == [2, 2]
    assert ended.err.startswith("train.py: run: process 1 on ") and "does not see the folder that process 0 sees there" in ended.err
    assert len(ended.err.splitlines()) == 1, ended.err
    assert [list(folder.iterdir()) for folder in folders] == [[], []]


def test_variables_of_several_processes_without_a_place_to_meet_are_told(
    drawn_set: Path, tmp_path: Path, run: RunScript, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    complaint = run("train", *arguments(drawn_set, tmp_path / "run")).complaint
    assert "MASTER_ADDR and MASTER_PORT of the first one is not set; start them by torchrun" in complaint
    assert list(tmp_path.iterdir()) == []


def test_second_run_in_a_folder_is_refused_while_the_first_one_writes(drawn_set: Path, tmp_path: Path, run: RunScript) -> None:
    process = hold(tmp_path / "run")
    for more in ([], ["--resume"]):
        complaint = run("train", *arguments(drawn_set, tmp_path / "run", *more)).complaint
        assert f"run: another process is writing this run (process {process.pid} on " in complaint
    process.communicate()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
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
    os.kill(int(workers_of(process)[-1]), signal.SIGKILL)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert "going on from iteration " in out
    assert losses(quiet) == losses(killed)
    first, second = weights(quiet / "last.pth"), weights(killed / "last.pth")
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.slow
def test_two_machines_go_on_after_a_process_that_the_other_one_did_not_miss(drawn_set: Path, tmp_path: Path) -> None:
    """The process of one machine dies while that of the other hangs, as in a kernel of NCCL.

    Then torchrun counts a restart on the first machine only, and waits 30 s for the hanging one.
    """
    output = tmp_path / "run"
    words = ["train.epochs=400", "train.log_every=1", "data.workers=0", "train.checkpoint_every=1"]
    rendezvous = ["--nnodes=2", "--rdzv-backend=c10d", f"--rdzv-endpoint=localhost:{free_port()}", "--rdzv-id=faces"]
    agents = [torchrun(*arguments(drawn_set, output, *words), processes=1, restarts=3, rendezvous=rendezvous) for _ in range(2)]
    try:
        wait_for(output / "previous.pth")
        stopped, killed = (int(workers_of(agent)[0]) for agent in agents)
        os.kill(stopped, signal.SIGSTOP)
        step = read_checkpoint(output / "last.pth")["step"]
        os.kill(killed, signal.SIGKILL)
        deadline = time.monotonic() + 400
        while read_checkpoint(output / "last.pth")["step"] < step + 3:
            assert time.monotonic() < deadline
            time.sleep(1)
    finally:
        for agent in agents:
            agent.send_signal(signal.SIGTERM)
        outputs = [agent.communicate(timeout=120) for agent in agents]
    assert sum(out.count("going on from iteration ") for out, _ in outputs) == 1
    assert not any("is there already" in err for _, err in outputs)


def workers_of(agent: subprocess.Popen[str]) -> list[str]:
    """The processes that torchrun started."""
    return subprocess.run(["pgrep", "-P", str(agent.pid)], capture_output=True, text=True, check=True).stdout.split()


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 120
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
