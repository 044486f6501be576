"""Sapiens pose (Khirodkar et al., arXiv:2408.12569): a ViT for 768x1024 px and a wide head.

Numbers from facebookresearch/sapiens (pose/configs/sapiens_pose, VisionTransformer in pretrain/mmpretrain).
Its head is mmpose's with instance normalisation and SiLU. Instance normalisation has no parameters: a head
without it would load the same file and give wrong results; only a comparison of outputs shows the difference.
"""

from __future__ import annotations

from torch import nn

from engines.architectures.heatmap_head import HeatmapHead, HeatmapPose, require_heatmaps
from engines.architectures.vit import PATCH, Size, VisionTransformer
from engines.contracts.contract import Contract

VARIANTS = {
    "0.3b": Size(1024, layers=24, heads=16),
    "0.6b": Size(1280, layers=32, heads=16),
    "1b": Size(1536, layers=40, heads=24),
    "2b": Size(1920, layers=48, heads=32),
}


def build(contract: Contract) -> nn.Module:
    """The network for a contract, see `HeatmapPose`; under `torch.device("meta")` it takes no memory.

    Raises:
        ContractError: an input that is no multiple of 16 px, or heatmaps that are not a quarter of it.
    """
    size = VARIANTS[str(contract.variant)]
    head = HeatmapHead(
        size.channels,
        require_heatmaps(contract, PATCH),
        deconvs=(768, 768),
        convs=(768, 768),
        norm=nn.InstanceNorm2d,
        activation=nn.SiLU,
    )
    return HeatmapPose(VisionTransformer(size, contract.input.size), head)
