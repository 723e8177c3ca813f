"""The heads: one 1 x 1 convolution a level, that says something of each prior."""

from __future__ import annotations

from torch import Tensor, nn


class Head(nn.Module):
    """`values` numbers for each of the `priors` at each cell of a level: (B,C,H,W) to (B, H*W*priors, values).

    The order is that of the priors: row, column, size. values is 2 for the class, 4 for the box, 10 for the landmarks.
    """

    def __init__(self, in_channels: int, *, priors: int, values: int):
        super().__init__()
        self.values = values
        self.conv = nn.Conv2d(in_channels, priors * values, kernel_size=1)

    def forward(self, level: Tensor) -> Tensor:
        return self.conv(level).permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, self.values))
