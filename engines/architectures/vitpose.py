"""ViTPose (Xu et al., arXiv:2204.12484): a plain ViT with one of two heads, named as in mmpose's checkpoints.

The classic head doubles the resolution twice by transposed convolutions; the simple one (`s-simple`, …)
resizes the features to four times their size and applies one 3x3 convolution.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from engines.architectures.heatmap_head import HeatmapHead, HeatmapPose, require_heatmaps
from engines.architectures.vit import PATCH, Size, VisionTransformer
from engines.contracts.contract import Contract

VARIANTS = {
    f"{name}{head}": size
    for name, size in {
        "s": Size(384, layers=12, heads=12),
        "b": Size(768, layers=12, heads=12),
        "l": Size(1024, layers=24, heads=16),
        "h": Size(1280, layers=32, heads=16),
    }.items()
    for head in ("", "-simple")
}


def build(contract: Contract) -> nn.Module:
    """The network for a contract, see `HeatmapPose`.

    Raises:
        ContractError: an input that is no multiple of 16 px, or heatmaps that are not a quarter of it.
    """
    name = str(contract.variant)
    size = VARIANTS[name]
    keypoints = require_heatmaps(contract, PATCH)
    head: nn.Module
    if name.endswith("-simple"):
        head = SimpleHead(size.channels, keypoints, kernel=3)
    else:
        head = HeatmapHead(size.channels, keypoints, deconvs=(256, 256))
    return HeatmapPose(VisionTransformer(size, contract.input.size), head)


class SimpleHead(HeatmapHead):
    """(B, C, h, w) to (B, K, 4h, 4w) by bilinear resizing."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """The heatmaps."""
        larger = F.interpolate(F.relu(features), scale_factor=4.0, mode="bilinear", align_corners=False)
        return super().forward(larger)
