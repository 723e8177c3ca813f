"""The context module of SSH (arXiv 1708.03979)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detector.blocks import conv_bn, slope_for


class SSH(nn.Module):
    """See each place with a 3 x 3, a 5 x 5 and a 7 x 7 field side by side; the larger ones are stacked 3 x 3 convolutions."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        half, quarter, slope = out_channels // 2, out_channels // 4, slope_for(out_channels)
        self.conv3x3 = conv_bn(in_channels, half)
        self.conv5x5_1 = conv_bn(in_channels, quarter, slope=slope)
        self.conv5x5_2 = conv_bn(quarter, quarter)
        self.conv7x7_2 = conv_bn(quarter, quarter, slope=slope)
        self.conv7x7_3 = conv_bn(quarter, quarter)

    def forward(self, level: Tensor) -> Tensor:
        """A level (B,C,H,W) as (B,out_channels,H,W)."""
        shared = self.conv5x5_1(level)
        fields = [self.conv3x3(level), self.conv5x5_2(shared), self.conv7x7_3(self.conv7x7_2(shared))]
        return F.relu(torch.cat(fields, dim=1))
