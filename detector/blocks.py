"""The convolution that the parts share."""

from __future__ import annotations

import torch
from torch import Tensor, nn

# FPN and SSH modules this narrow lose too many channels to a plain ReLU, so they leak, as published.
NARROW_CHANNELS = 64


class Conv2d(nn.Conv2d):
    """A convolution, which trains a CPU's strided depthwise ones in float32: there bfloat16 takes ten times as long for the gradient."""

    def forward(self, level: Tensor) -> Tensor:
        if level.is_cpu and self.training and self.groups > 1 and self.stride != (1, 1) and torch.is_autocast_enabled("cpu"):
            with torch.autocast("cpu", enabled=False):
                return super().forward(level.float()).to(level.dtype)
        return super().forward(level)


def conv_bn(
    in_channels: int, out_channels: int, kernel_size: int = 3, *, stride: int = 1, groups: int = 1, slope: float | None = None
) -> nn.Sequential:
    """Convolution without bias, batch norm, and a LeakyReLU of that slope (0 is a ReLU) or, with None, nothing."""
    padding = kernel_size // 2
    convolution = Conv2d(in_channels, out_channels, kernel_size, stride=stride, padding=padding, groups=groups, bias=False)
    block = nn.Sequential(convolution, nn.BatchNorm2d(out_channels))
    return block if slope is None else block.append(nn.LeakyReLU(slope, inplace=True))


def slope_for(channels: int) -> float:
    """The slope that a module of so many channels uses."""
    return 0.1 if channels <= NARROW_CHANNELS else 0.0
