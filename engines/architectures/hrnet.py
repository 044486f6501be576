"""HRNet (Sun et al., arXiv:1902.09212): branches of 1/4 to 1/32 resolution that exchange features.

Parameters are named as in mmpose's checkpoints. timm's HRNet is a classifier; its last stage has layers that
pose models lack, so that checkpoints of pose models would not load strictly. Hence this implementation.
`v2-w18` is the HRNetV2 of the face and hand landmark models (arXiv:1908.07919): all four resolutions,
concatenated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F

from engines.architectures.heatmap_head import HeatmapHead, HeatmapPose, require_heatmaps
from engines.contracts.contract import Contract

COARSEST = 32  # px of the input per cell of the fourth branch; both sides must be multiples of it


@dataclass(frozen=True)
class Variant:
    """Channels of the finest branch (each next one has twice as many); whether the head sees all four."""

    width: int
    all_scales: bool = False


VARIANTS = {
    "w18": Variant(18),
    "v2-w18": Variant(18, all_scales=True),
    "w32": Variant(32),
    "w48": Variant(48),
}


def build(contract: Contract) -> nn.Module:
    """The network for a contract, see `HeatmapPose`.

    Raises:
        ContractError: an input that is no multiple of 32 px, or heatmaps that are not a quarter of it.
    """
    variant = VARIANTS[str(contract.variant)]
    keypoints = require_heatmaps(contract, COARSEST)
    backbone = HRNet(variant)
    convs = (backbone.channels,) if variant.all_scales else ()
    return HeatmapPose(backbone, HeatmapHead(backbone.channels, keypoints, convs=convs))


class HRNet(nn.Module):
    """(B, 3, H, W) to (B, `channels`, H / 4, W / 4)."""

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        widths = [variant.width << branch for branch in range(4)]
        self.all_scales = variant.all_scales
        self.channels = sum(widths) if variant.all_scales else widths[0]
        upsample: Upsampling = "bilinear" if variant.all_scales else "nearest"

        self.conv1 = nn.Conv2d(3, 64, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.conv2 = nn.Conv2d(64, 64, 3, stride=2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(64)
        self.layer1 = nn.Sequential(Bottleneck(64), *(Bottleneck(256) for _ in range(3)))
        self.transition1 = nn.ModuleList([conv_bn(256, widths[0]), nn.Sequential(conv_bn(256, widths[1], 2))])
        self.stage2 = nn.Sequential(Exchange(widths[:2], 2, upsample))
        self.transition2 = _new_branch(widths[:3])
        self.stage3 = nn.Sequential(*(Exchange(widths[:3], 3, upsample) for _ in range(4)))
        self.transition3 = _new_branch(widths)
        outputs = (4, 4, 4 if variant.all_scales else 1)
        self.stage4 = nn.Sequential(*(Exchange(widths, count, upsample) for count in outputs))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Features at a quarter of the resolution."""
        stem = F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(images))))))
        maps = [self.layer1(stem)]
        for transition, stage in (
            (self.transition1, self.stage2),
            (self.transition2, self.stage3),
            (self.transition3, self.stage4),
        ):
            # The new, coarser branch starts from the coarsest existing one.
            maps = stage([layer(x) for layer, x in zip(transition, [*maps, maps[-1]], strict=True)])
        if not self.all_scales:
            return maps[0]
        size = maps[0].shape[-2:]
        finer = [F.interpolate(x, size=size, mode="bilinear", align_corners=False) for x in maps[1:]]
        return torch.cat([maps[0], *finer], dim=1)


Upsampling = Literal["nearest", "bilinear"]


class Exchange(nn.Module):
    """Four residual blocks in each branch, then each of the first `outputs` branches is the sum over all.

    A list of maps (B, C << branch, h >> branch, w >> branch) to a list of the first `outputs` of them.
    """

    def __init__(self, widths: list[int], outputs: int, upsample: Upsampling) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(*(BasicBlock(width) for _ in range(4))) for width in widths
        )
        self.fuse_layers = nn.ModuleList(
            Fusion(_resample(widths, source, target, upsample) for source in range(len(widths)))
            for target in range(outputs)
        )

    def forward(self, maps: list[torch.Tensor]) -> list[torch.Tensor]:
        """The mixed maps."""
        maps = [branch(x) for branch, x in zip(self.branches, maps, strict=True)]
        return [fuse(maps) for fuse in self.fuse_layers]


class Fusion(nn.ModuleList):
    """One layer for each branch, which resamples it to the target branch; then the sum of all."""

    def forward(self, maps: list[torch.Tensor]) -> torch.Tensor:
        """(B, C, h, w) of the target branch."""
        first, *others = (layer(x) for layer, x in zip(self, maps, strict=True))
        return F.relu(sum(others, start=first))


def _resample(widths: list[int], source: int, target: int, upsample: Upsampling) -> nn.Module:
    """Resample from the resolution and channels of one branch to those of another."""
    if source == target:
        return nn.Identity()
    if source > target:
        scale = nn.Upsample(scale_factor=2 ** (source - target), mode=upsample)
        return nn.Sequential(
            nn.Conv2d(widths[source], widths[target], 1, bias=False), nn.BatchNorm2d(widths[target]), scale
        )
    steps = [conv_bn(widths[source], widths[source], 2) for _ in range(source, target - 1)]
    return nn.Sequential(*steps, conv_bn(widths[source], widths[target], 2, relu=False))


def _new_branch(widths: list[int]) -> nn.ModuleList:
    """Existing branches are passed through; the last one is new."""
    kept = [nn.Identity() for _ in widths[:-1]]
    return nn.ModuleList([*kept, nn.Sequential(conv_bn(widths[-2], widths[-1], 2))])


def conv_bn(channels: int, width: int, stride: int = 1, *, relu: bool = True) -> nn.Sequential:
    """A 3x3 convolution, normalised, with or without ReLU."""
    conv = nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(width), *([nn.ReLU()] if relu else []))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and the identity; the shape is unchanged."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, width, h, w) to the same."""
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + x)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions of 64, 64 and 256 channels; a narrower input is widened to 256."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 64, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.conv2 = nn.Conv2d(64, 64, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(64)
        self.conv3 = nn.Conv2d(64, 256, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(256)
        self.downsample: nn.Module = nn.Identity()
        if channels != 256:
            self.downsample = nn.Sequential(nn.Conv2d(channels, 256, 1, bias=False), nn.BatchNorm2d(256))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, channels, h, w) to (B, 256, h, w)."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv3(y)) + self.downsample(x))
