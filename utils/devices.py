"""The device and the precision to compute with."""

from __future__ import annotations

import torch


def pick_device(name: str) -> torch.device:
    """The device of that name; "auto" is a CUDA GPU where there is one, else the CPU. ValueError for one that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {name}: not available here ({str(error).splitlines()[0]}); expected auto, cpu, cuda or cuda:0") from None
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"device {name}: expected auto, cpu, cuda or cuda:0")
    return device


def pick_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The dtype of a precision setting; "auto" is bfloat16 where the chip computes in it, which halves the time, else float32."""
    if precision != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[precision]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    # Without the instructions oneDNN emulates bfloat16, several times slower than float32.
    return torch.bfloat16 if device.type == "cpu" and torch.cpu._is_avx512_bf16_supported() else torch.float32
