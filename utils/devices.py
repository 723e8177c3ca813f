"""The device and the precision to compute with."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


def works_behind(device: torch.device) -> bool:
    """Whether a device computes while the host goes on, so that to ask it for a number would make the host wait."""
    return device.type != "cpu"


@contextmanager
def exact_float32(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Multiply float32 in full on a GPU; by default cuDNN rounds the factors to TF32's 11 bits.

    Does nothing for another device or dtype. The switches are global, so they are put back.
    """
    if device.type != "cuda" or dtype != torch.float32:
        yield
        return
    operators: list[Any] = [torch.backends.cuda.matmul, torch.backends.cudnn]
    switch: tuple[str, Any, Any] = "allow_tf32", True, False
    if hasattr(torch.backends.cudnn, "conv"):    # torch >= 2.9, where the old switches warn
        operators[1] = torch.backends.cudnn.conv
        switch = "fp32_precision", "tf32", "ieee"
    name, rounded, exact = switch
    changed = [operator for operator in operators if getattr(operator, name) == rounded]
    for operator in changed:
        setattr(operator, name, exact)
    try:
        yield
    finally:
        for operator in changed:
            setattr(operator, name, rounded)


def pick_device(name: str, *, local_rank: int = 0) -> torch.device:
    """The device of that name; "auto" is a CUDA GPU where there is one, else the CPU. ValueError for one that is not there.

    "auto" and "cuda" are the GPU of this process among those of its machine.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        name = f"cuda:{local_rank}"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {name}: not available here ({str(error).splitlines()[0]}); expected auto, cpu, cuda or cuda:0") from None
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"device {name}: expected auto, cpu, cuda or cuda:0")
    return device


def peak_memory(device: torch.device) -> str:
    """The most memory used so far: of a GPU by tensors, else by the process."""
    if device.type == "cuda":
        return f"peak memory on {device}: {torch.cuda.max_memory_allocated(device) / 2**20:,.0f} MiB"
    try:
        import resource  # not on Windows
    except ImportError:
        return "peak memory: not known on this system"
    unit = 1 if sys.platform == "darwin" else 2**10    # what ru_maxrss counts in
    return f"peak memory of the process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20:,.0f} MiB"


def pick_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The dtype of a precision setting; "auto" is bfloat16 where the chip computes in it, which halves the time, else float32."""
    if precision != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[precision]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    # Without the instructions oneDNN emulates bfloat16, several times slower than float32.
    return torch.bfloat16 if device.type == "cpu" and torch.cpu._is_avx512_bf16_supported() else torch.float32
