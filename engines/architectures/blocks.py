"""Building blocks that RTMPose, RTMDet and YOLOX share: they descend from one network, CSPDarknet."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

COARSEST = 32  # px of the input per cell of the last stage; both sides of the input must be multiples of it
STRIDES = (8, 16, 32)  # px of the input per cell, for the three grids of a detector


class Scaling(NamedTuple):
    """A size of a family, as factors on the blocks and channels of its size l."""

    depth: float
    width: float
    depthwise: bool = False  # depthwise separable 3x3 convolutions, as in the nano sizes

    def blocks(self, number: int) -> int:
        """The number of blocks at this size, where size l has `number`."""
        return max(round(number * self.depth), 1)

    def channels(self, number: int) -> int:
        """The number of channels at this size, where size l has `number`."""
        return int(number * self.width)


class ConvBN(nn.Module):
    """A convolution without bias, batch normalisation, SiLU; padded so that stride 1 keeps the size."""

    def __init__(self, channels: int, width: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.act = nn.SiLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, channels, h, w) to (B, width, h / stride, w / stride)."""
        return self.act(self.bn(self.conv(x)))


class SPP(nn.Module):
    """Spatial pyramid pooling (arXiv:1406.4729): the input beside its maxima over 5, 9 and 13 cells."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = ConvBN(channels, channels // 2)
        self.pools = nn.ModuleList(nn.MaxPool2d(side, stride=1, padding=side // 2) for side in (5, 9, 13))
        self.conv2 = ConvBN(channels // 2 * 4, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, channels, h, w) to the same."""
        x = self.conv1(x)
        return self.conv2(torch.cat([x, *(pool(x) for pool in self.pools)], dim=1))
