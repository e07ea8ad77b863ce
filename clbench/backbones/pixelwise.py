"""Compute a convolution of single pixels as the matrix product that it is.

A matrix product gives a row the same bits however many others there are, which caches of features and
learners that are asked again live by; torch's convolution does not, for few images.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class PixelwiseConv2d(nn.Conv2d):
    """A convolution with a kernel of 1 x 1; to what looks at weights it is any other convolution."""

    def __init__(self, channels: int, width: int) -> None:
        """Take the channels of what goes in and of what comes out."""
        super().__init__(channels, width, kernel_size=1)

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps (B, O, H, W) of maps (B, C, H, W)."""
        rows = F.linear(maps.permute(0, 2, 3, 1), self.weight.flatten(1), self.bias)
        return rows.permute(0, 3, 1, 2)
