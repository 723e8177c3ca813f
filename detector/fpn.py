"""Feature pyramid network (arXiv 1612.03144)."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from detector.blocks import conv_bn, slope_for


class FPN(nn.Module):
    """Give levels of any channels, finest first, the same channels, and each the context of the coarser ones above it."""

    def __init__(self, in_channels: Sequence[int], out_channels: int):
        super().__init__()
        slope = slope_for(out_channels)
        self.lateral = nn.ModuleList(conv_bn(channels, out_channels, 1, slope=slope) for channels in in_channels)
        self.merge = nn.ModuleList(conv_bn(out_channels, out_channels, slope=slope) for _ in in_channels[1:])

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Levels (B,Ci,Hi,Wi), finest first, as (B,C,Hi,Wi)."""
        outputs = [lateral(level) for lateral, level in zip(self.lateral, levels, strict=True)]
        for fine in range(len(outputs) - 2, -1, -1):
            above = F.interpolate(outputs[fine + 1], size=outputs[fine].shape[2:], mode="nearest")
            outputs[fine] = self.merge[fine](outputs[fine] + above)
        return outputs
