"""What a network costs: parameters, and multiply-accumulates (MAC) of a forward pass."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def part_table(model: nn.Module, *, size: int) -> str:
    """A line for each part of a model that takes images (B,3,H,W): its parameters, and its GMAC for one image of size x size pixels."""
    macs = count_macs(model, size=size)
    lines = []
    for name, part in [*model.named_children(), ("all", model)]:
        parameters = sum(weight.numel() for weight in part.parameters())
        lines.append(f"{name:14}{parameters:12,} parameters{macs[name] / 1e9:12.3f} GMAC at {size} x {size}")
    return "\n".join(lines)


def count_macs(model: nn.Module, *, size: int) -> dict[str, int]:
    """The MAC of each part of a model by its name, and of the whole as "all", for one image of size x size pixels."""
    image = torch.zeros(1, 3, size, size, device=next(model.parameters()).device)
    modes = {part: part.training for part in model.modules()}
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(image)
    for part, training in modes.items():
        part.training = training
    flops = {path: sum(by_operator.values()) for path, by_operator in counter.get_flop_counts().items()}

    def macs(part: nn.Module, path: str) -> int:
        # Two operations are counted a MAC; a list of modules is not called itself.
        return flops[path] // 2 if path in flops else sum(macs(child, f"{path}.{name}") for name, child in part.named_children())

    top = type(model).__name__
    return {"all": macs(model, top), **{name: macs(part, f"{top}.{name}") for name, part in model.named_children()}}
