"""One process writes a run folder at a time."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from utils import folder_lock
from utils.folder_lock import LOCK_FILE, lock_folder, sees_lock

HOLD = """
import sys
from pathlib import Path
from utils.folder_lock import lock_folder
with lock_folder(Path(sys.argv[1]), mark="theirs"):
    print("held", flush=True)
    sys.stdin.read()
"""


def hold(folder: Path) -> subprocess.Popen[str]:
    """Start a process that holds a folder until its standard input is closed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_folder_is_held_by_one_process_until_it_ends(tmp_path: Path) -> None:
    process = hold(tmp_path / "run")
    message = rf"run: another process is writing this run \(process {process.pid} on .*\)"
    with pytest.raises(ValueError, match=message), lock_folder(tmp_path / "run", mark="ours"):
        pass
    assert sees_lock(tmp_path / "run", "theirs")
    process.communicate()
    with lock_folder(tmp_path / "run", mark="ours"):
        assert sees_lock(tmp_path / "run", "ours")


def test_killed_process_releases_the_folder(tmp_path: Path) -> None:
    process = hold(tmp_path)
    process.kill()
    process.communicate()
    assert (tmp_path / LOCK_FILE).exists()
    with lock_folder(tmp_path, mark="ours"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_folder_that_stays_empty_is_removed(tmp_path: Path) -> None:
    with lock_folder(tmp_path / "a" / "b", mark="ours"):
        assert (tmp_path / "a" / "b").is_dir()
    assert list(tmp_path.iterdir()) == []
    with lock_folder(tmp_path / "a" / "b", mark="ours"):
        (tmp_path / "a" / "file").touch()
    assert list((tmp_path / "a").iterdir()) == [tmp_path / "a" / "file"]


def test_other_folder_is_not_seen_as_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_lock, "WAIT_SECONDS", 0.2)
    with lock_folder(tmp_path / "run", mark="ours"):
        assert not sees_lock(tmp_path, "ours")
        assert not sees_lock(tmp_path / "run", "our")


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS])
def test_file_system_without_locks_is_written_to_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(handle: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(folder_lock, "_lock", refuse)
    with lock_folder(tmp_path, mark="ours"):
        assert sees_lock(tmp_path, "ours")
    assert list(tmp_path.iterdir()) == []
