"""How a run that is told to stop ends, with real signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT
from test_distributed import torchrun, wait_for
from test_train import arguments

from utils.checkpoint import read_checkpoint
from utils.script import INTERRUPT_AFTER, StopRequest

ENDLESS = ["train.epochs=10000", "train.log_every=1", "train.checkpoint_every=100000"]


@pytest.fixture(autouse=True)
def own_handlers() -> Iterator[None]:
    """Leave this process its handlers: they stay with a program that was told to stop."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_second_signal_right_behind_the_first_changes_nothing() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        with StopRequest() as stop:
            assert not stop.requested
            for _ in range(3):
                os.kill(os.getpid(), number)
            assert stop.requested
        os.kill(os.getpid(), signal.SIGTERM)    # the program is still about to end


def test_second_ctrl_c_a_second_later_interrupts_and_a_second_sigterm_never_does() -> None:
    with StopRequest():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(INTERRUPT_AFTER + 0.1)
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_handlers_come_back_where_nobody_asked_to_stop() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with StopRequest():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("gap", [
    pytest.param(0.0, marks=pytest.mark.slow), 0.02, pytest.param(0.2, marks=pytest.mark.slow),
])  # fmt: skip
def test_two_sigterms_still_save(drawn_set: Path, tmp_path: Path, gap: float) -> None:
    words = arguments(drawn_set, tmp_path / "run", *ENDLESS, "data.workers=2")
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    wait_for(tmp_path / "run" / "last.pth")
    os.killpg(process.pid, signal.SIGTERM)
    time.sleep(gap)
    os.killpg(process.pid, signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "")
    step = read_checkpoint(tmp_path / "run" / "last.pth")["step"]
    assert f"stopped after iteration {step:,} of " in out


@pytest.mark.slow
def test_sigterm_to_torchrun_and_to_its_processes_saves(drawn_set: Path, tmp_path: Path) -> None:
    process = torchrun(*arguments(drawn_set, tmp_path / "run", *ENDLESS))
    wait_for(tmp_path / "run" / "last.pth")
    children = subprocess.run(
        ["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True
    ).stdout.split()
    for pid in [process.pid, *map(int, children)]:    # torchrun passes its own on
        os.kill(pid, signal.SIGTERM)
    out, err = process.communicate(timeout=120)
    assert "stopped after iteration " in out, err
    step = read_checkpoint(tmp_path / "run" / "last.pth")["step"]
    assert f"stopped after iteration {step:,} of " in out
