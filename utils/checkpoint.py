"""Reading and writing checkpoints: tensors and plain values only, so that loading one runs no code."""

from __future__ import annotations

import os
import warnings
import zipfile
import zlib
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from utils.files import whole_file

# What a run goes on from.
RUN_KEYS = (
    "config", "preset", "model", "average", "optimizer", "scaler", "random", "step", "seconds", "skipped", "best", "history",
)  # fmt: skip


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """The dict in a checkpoint file, on the CPU; FileNotFoundError or ValueError that names the file."""
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such checkpoint") from None
    except Exception as error:    # a damaged file makes the unpickler raise almost anything, struct.error and AssertionError included
        raise ValueError(f"{path}: not a readable checkpoint: {_first_sentence(error)}") from None
    if not isinstance(checkpoint, dict):
        raise ValueError(f"{path}: expected a checkpoint dict, found a {type(checkpoint).__name__}")
    return checkpoint


def _first_sentence(error: Exception) -> str:
    """torch.load answers with paragraphs of advice."""
    return (" ".join(str(error).split()) or type(error).__name__).split(". ")[0][:200]


def write_checkpoint(path: Path, checkpoint: Mapping[str, Any], *, keep: Path | None = None) -> None:
    """Write a checkpoint so that, whenever the power fails, `path` or `keep` holds a whole one; `keep` gets the one before.

    OSError that names the file where the disk is full; both are as before then.
    """
    with whole_file(path) as partial:
        try:
            with open(partial, "wb") as file:
                torch.save(dict(checkpoint), file)
                file.flush()
                os.fsync(file.fileno())
        except RuntimeError as error:    # how torch's own writer says that the disk is full
            raise OSError(_first_sentence(error)) from None
        if keep is not None and path.exists():
            path.replace(keep)
    _flush_names(path.parent)


def _flush_names(folder: Path) -> None:
    """Have the names of a folder's files on the disk too, where the system can."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    with suppress(OSError):
        os.fsync(handle)
    os.close(handle)


def random_state() -> dict[str, Tensor]:
    """Where the random numbers of this process stand; those of training samples hang on (seed, epoch, index) alone and need no keeping."""
    state = {"cpu": torch.get_rng_state()}
    return {**state, "cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else state


def restore_random_state(state: Mapping[str, Tensor]) -> None:
    """Go on with the random numbers where `random_state` found them."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def find_run(output: Path, *, resume: bool) -> dict[str, Any] | None:
    """The checkpoint of the run in a folder to go on from, or None to start anew; ValueError where that would write over a run.

    A damaged last.pth is passed over with a warning where previous.pth is there.
    """
    last, previous = output / "last.pth", output / "previous.pth"
    if not resume:
        for path in (last, previous):
            if path.exists():
                raise ValueError(f"{path}: a run is there already; add --resume to go on with it, or name another --output")
        return None
    if last.exists():
        try:
            return read_run(last)
        except ValueError as error:
            if not previous.exists():
                raise
            warnings.warn(f"{error}; going on from {previous}", stacklevel=2)
    return read_run(previous) if previous.exists() else None


def read_run(path: Path) -> dict[str, Any]:
    """The checkpoint of a run; ValueError where the file is none, or one of its bytes has changed."""
    checkpoint = read_checkpoint(path)
    try:
        damaged = zipfile.ZipFile(path).testzip()    # torch.load does not look at the checksums that torch.save writes
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError, zlib.error) as error:
        damaged = str(error)
    if damaged is not None:
        raise ValueError(f"{path}: not a readable checkpoint: {damaged} is damaged")
    if not set(RUN_KEYS) <= set(checkpoint):
        raise ValueError(f"{path}: expected the checkpoint of a run, found {', '.join(map(str, list(checkpoint)[:3]))}")
    return checkpoint


def load_tensors(path: str | Path) -> dict[str, Tensor]:
    """The weights in a file by name: a plain state_dict or one under "state_dict", with or without "module." before each name."""
    return state_dict_of(read_checkpoint(path), source=path)


def state_dict_of(checkpoint: Any, *, source: str | Path) -> dict[str, Tensor]:
    """The weights in a checkpoint dict as `load_tensors` gives them; ValueError that names `source` where it holds none."""
    state = checkpoint.get("state_dict", checkpoint) if isinstance(checkpoint, Mapping) else checkpoint
    if not isinstance(state, Mapping) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        found = ", ".join(map(str, list(state)[:3])) if isinstance(state, Mapping) else type(state).__name__
        raise ValueError(f"{source}: holds no weights: expected tensors by name, found {found or 'nothing'}")
    return {str(name).removeprefix("module."): value for name, value in state.items()}


def match_keys(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], *, source: str | Path) -> None:
    """ValueError that names the first missing key, spare key or wrong shape among weights `found` in `source`."""
    missing = _but_counters(set(expected) - set(found))
    spare = set(found) - set(expected)
    wrong = [name for name in expected if name in found and found[name].shape != expected[name].shape]
    for names, what in ((sorted(missing), "missing"), (sorted(spare), "spare")):
        if names:
            raise ValueError(f"{source}: weights of another network: {what} {names[0]}" + _and_more(names))
    if wrong:
        shapes = f"{tuple(found[wrong[0]].shape)}, expected {tuple(expected[wrong[0]].shape)}"
        raise ValueError(f"{source}: weights of another network: {wrong[0]} is {shapes}" + _and_more(wrong))


def _but_counters(names: set[str]) -> set[str]:
    """Weights saved by PyTorch before 0.4.1 lack batch norm's num_batches_tracked, which nothing here reads."""
    return {name for name in names if not name.endswith("num_batches_tracked")}


def _and_more(names: Collection[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""
