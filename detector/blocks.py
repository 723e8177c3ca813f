"""The convolution that the parts share."""

from __future__ import annotations

from functools import partial

from torch import nn
from torchvision.ops import Conv2dNormActivation

# FPN and SSH modules this narrow lose too many channels to a plain ReLU, so they leak, as published.
NARROW_CHANNELS = 64


def conv_bn(
    in_channels: int, out_channels: int, kernel_size: int = 3, *, stride: int = 1, groups: int = 1, slope: float | None = None
) -> nn.Sequential:
    """Convolution without bias, batch norm, and a LeakyReLU of that slope (0 is a ReLU) or, with None, nothing."""
    activation = None if slope is None else partial(nn.LeakyReLU, slope)
    return Conv2dNormActivation(
        in_channels, out_channels, kernel_size, stride=stride, groups=groups, activation_layer=activation  # type: ignore[arg-type]
    )


def slope_for(channels: int) -> float:
    """The slope that a module of so many channels uses."""
    return 0.1 if channels <= NARROW_CHANNELS else 0.0
