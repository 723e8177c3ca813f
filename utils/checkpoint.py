"""Reading and writing checkpoints: tensors and plain values only, so that loading one runs no code."""

from __future__ import annotations

import os
import re
import warnings
import zipfile
import zlib
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from utils.files import whole_file

# What a run goes on from.
RUN_KEYS = (
    "config", "preset", "model", "average", "optimizer", "scaler", "random", "step", "seconds", "skipped", "best", "history",
)  # fmt: skip
# Metrics and losses in others' checkpoints are often NumPy scalars or arrays. Each function stands
# under the module that NumPy 1 names in a file and under that of NumPy 2.
_NUMPY_VALUES: list[Any] = [
    *(
        (function, f"numpy.{core}.multiarray.{name}")
        for name, function in (
            ("scalar", np.float64(0).__reduce__()[0]),
            ("_reconstruct", np.zeros(0).__reduce__()[0]),
        )
        for core in ("core", "_core")
    ),
    np.ndarray,
    np.dtype,
    *{type(np.dtype(code)) for code in np.typecodes["All"] if code not in "OV"},
]
_EXPECTED = "expected weights alone, as torch.save(model.state_dict(), path) writes them"
# Where others keep the weights in a checkpoint.
_STATE_KEYS = ("state_dict", "model_state_dict", "model", "net", "ema")
AVERAGED_STEPS = "n_averaged"    # the counter that torch's AveragedModel keeps among its weights


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """The dict in a checkpoint file, on the CPU; FileNotFoundError or ValueError that names the file."""
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(_NUMPY_VALUES):
            warnings.simplefilter("ignore")    # torch.load also warns about files that it refuses
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such checkpoint") from None
    except Exception as error:    # a damaged file makes the unpickler raise almost anything, struct.error and AssertionError included
        raise ValueError(f"{path}: {_explain(path, error)}") from None
    if not isinstance(checkpoint, dict):
        raise ValueError(f"{path}: expected a checkpoint dict, found a {type(checkpoint).__name__}")
    return checkpoint


def _explain(path: str | Path, error: Exception) -> str:
    """Why torch.load refuses a file, judged by the file's first bytes and by torch's message."""
    try:
        with open(path, "rb") as file:
            start = file.read(512)
    except OSError as unreadable:
        return f"not a readable checkpoint: {unreadable.strerror}"
    if not start:
        return "is empty; download or save it again"
    if start.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the weights themselves: run git lfs pull"
    if start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        return "is a web page, not a checkpoint: download it again"
    if start[8:10] == b'{"':
        return "is a safetensors file; expected weights written by torch.save"
    if "TorchScript" in str(error):
        return f"is a TorchScript archive; {_EXPECTED}"
    if refused := re.search(r"GLOBAL (\S+)", str(error)):
        return (
            f"refers to {refused[1]}, which is not loaded because it could run code; "
            + _EXPECTED
        )
    if _is_text(start):
        return "is a text file, not a checkpoint"
    reason = _first_sentence(error)
    if reason == "Weights only load failed":
        reason = "its content is damaged, or of another kind"
    return f"not a readable checkpoint: {reason}"


def _is_text(start: bytes) -> bool:
    text = start.decode("utf-8", errors="ignore")    # the last character may be cut in two
    return len(text.encode()) > len(start) - 4 and "".join(text.split()).isprintable()


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
    """The weights by name in a file, as `state_dict_of` finds them."""
    return state_dict_of(read_checkpoint(path), source=path)


def state_dict_of(checkpoint: Any, *, source: str | Path) -> dict[str, Tensor]:
    """The weights by name in a checkpoint: the dict itself, or the first of its entries state_dict,
    model_state_dict, model, net and ema that holds tensors.

    A prefix that all names share, such as `module.` of DataParallel, `_orig_mod.` of torch.compile
    or Lightning's `model.`, is removed. ValueError that names `source` where there are no tensors.
    """
    state = _find_tensors(checkpoint)
    if state is None:
        found = type(checkpoint).__name__
        if isinstance(checkpoint, Mapping):
            found = ", ".join(map(str, list(checkpoint)[:3]))
        raise ValueError(f"{source}: holds no weights: expected tensors by name, found {found or 'nothing'}")
    weights = {name: value for name, value in state.items() if name != AVERAGED_STEPS}
    return _without_shared_prefix(weights)


def _find_tensors(checkpoint: Any) -> Mapping[str, Tensor] | None:
    if not isinstance(checkpoint, Mapping) or not checkpoint:
        return None
    if all(isinstance(value, Tensor) for value in checkpoint.values()):
        return checkpoint
    inner = (_find_tensors(checkpoint[key]) for key in _STATE_KEYS if key in checkpoint)
    return next((state for state in inner if state is not None), None)


def _without_shared_prefix(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights under names without the leading parts that all of them share.

    `features.` stays: it belongs to torchvision's own names of a backbone without its classifier.
    So does `detector.`, which all weights of torchvision's detectors begin with here.
    """
    names = [str(name).split(".") for name in state]
    shortest = min(map(len, names), default=1)
    shared = 0
    while shared < shortest - 2 and len({name[shared] for name in names}) == 1:
        if names[0][shared] in ("features", "detector"):
            break
        shared += 1
    short = [".".join(name[shared:]) for name in names]
    return dict(zip(short, state.values(), strict=True))


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
