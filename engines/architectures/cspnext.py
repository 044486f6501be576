"""CSPNeXt, the backbone of RTMDet and RTMPose (arXiv:2212.07784), named as in mmdet's checkpoints."""

from __future__ import annotations

import torch
from torch import nn

from engines.architectures.blocks import SPP, ConvBN, Scaling

# Each stage at size l: channels in and out, blocks, whether blocks are residual (the last stage has SPP).
STAGES = ((64, 128, 3, True), (128, 256, 6, True), (256, 512, 6, True), (512, 1024, 3, False))


class CSPNeXt(nn.Module):
    """(B, 3, H, W) to the maps of stages 2, 3 and 4, at 1/8, 1/16 and 1/32 of the size."""

    def __init__(self, scaling: Scaling) -> None:
        super().__init__()
        width = scaling.channels(64)
        self.stem = nn.Sequential(
            ConvBN(3, width // 2, 3, stride=2),
            ConvBN(width // 2, width // 2, 3),
            ConvBN(width // 2, width, 3),
        )
        stages = []
        for before, after, blocks, residual in STAGES:
            channels = scaling.channels(after)
            layers = [conv3x3(scaling.channels(before), channels, stride=2, depthwise=scaling.depthwise)]
            if not residual:
                layers.append(SPP(channels))
            csp = CSPLayer(
                channels,
                channels,
                scaling.blocks(blocks),
                residual=residual,
                attention=True,
                depthwise=scaling.depthwise,
            )
            stages.append(nn.Sequential(*layers, csp))
        self.stage1, self.stage2, self.stage3, self.stage4 = stages

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The maps, finest first; their channels are 256, 512 and 1024 at size l."""
        fine = self.stage2(self.stage1(self.stem(images)))
        middle = self.stage3(fine)
        return fine, middle, self.stage4(middle)


class CSPLayer(nn.Module):
    """Cross-stage partial layer: blocks on half of the channels, a shortcut for half (arXiv:1911.11929)."""

    def __init__(
        self,
        channels: int,
        width: int,
        blocks: int,
        *,
        residual: bool,
        attention: bool,
        depthwise: bool,
    ) -> None:
        super().__init__()
        half = width // 2
        self.main_conv = ConvBN(channels, half)
        self.short_conv = ConvBN(channels, half)
        self.final_conv = ConvBN(2 * half, width)
        self.blocks = nn.Sequential(
            *(Block(half, residual=residual, depthwise=depthwise) for _ in range(blocks))
        )
        self.attention = ChannelAttention(2 * half) if attention else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, channels, h, w) to (B, width, h, w)."""
        both = torch.cat([self.blocks(self.main_conv(x)), self.short_conv(x)], dim=1)
        return self.final_conv(self.attention(both))


class Block(nn.Module):
    """A 3x3 and a depthwise 5x5 convolution; the shape is unchanged."""

    def __init__(self, channels: int, *, residual: bool, depthwise: bool) -> None:
        super().__init__()
        self.conv1 = conv3x3(channels, channels, depthwise=depthwise)
        self.conv2 = DepthwiseConv(channels, channels, 5)
        self.residual = residual

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, channels, h, w) to the same."""
        y = self.conv2(self.conv1(x))
        return x + y if self.residual else y


class ChannelAttention(nn.Module):
    """Multiply each channel by a factor between 0 and 1, computed from the means of all channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.global_avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Conv2d(channels, channels, 1)
        self.act = nn.Hardsigmoid()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, channels, h, w) to the same."""
        return x * self.act(self.fc(self.global_avgpool(x)))


class DepthwiseConv(nn.Module):
    """A convolution within each channel, then a 1x1 convolution across them; both with BN and SiLU."""

    def __init__(self, channels: int, width: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.depthwise_conv = ConvBN(channels, channels, kernel, stride, groups=channels)
        self.pointwise_conv = ConvBN(channels, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, channels, h, w) to (B, width, h / stride, w / stride)."""
        return self.pointwise_conv(self.depthwise_conv(x))


def conv3x3(channels: int, width: int, stride: int = 1, *, depthwise: bool) -> nn.Module:
    """A 3x3 convolution, plain or depthwise separable."""
    return (DepthwiseConv if depthwise else ConvBN)(channels, width, 3, stride)
