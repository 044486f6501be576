"""The heatmap head that HRNet, ViTPose and Sapiens share, and its requirements of a contract.

Parameters are named as in mmpose's HeatmapHead (Xiao et al., Simple Baselines, arXiv:1804.06208).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import nn

from engines.architectures.requirements import require_codec, require_keypoints, require_multiple
from engines.codecs.heatmap import HeatmapCodec
from engines.contracts.contract import Contract
from engines.errors import ContractError

STRIDE = 4  # px of the input per cell of a heatmap, in every official configuration of the three

Value = TypeVar("Value")


class HeatmapHead(nn.Module):
    """Transposed convolutions that double the size, 1x1 convolutions, then a map for each keypoint.

    (B, C, h, w) to (B, K, h * 2**n, w * 2**n) with n `deconvs`. `deconvs` and `convs` list the channels of
    each layer; `kernel` is the size of the final convolution.
    """

    def __init__(
        self,
        channels: int,
        keypoints: int,
        deconvs: Sequence[int] = (),
        convs: Sequence[int] = (),
        kernel: int = 1,
        norm: Callable[[int], nn.Module] = nn.BatchNorm2d,
        activation: Callable[[], nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        self.deconv_layers = nn.Sequential()
        self.conv_layers = nn.Sequential()
        for width in deconvs:
            deconv = nn.ConvTranspose2d(channels, width, kernel_size=4, stride=2, padding=1, bias=False)
            self.deconv_layers.extend([deconv, norm(width), activation()])
            channels = width
        for width in convs:
            self.conv_layers.extend([nn.Conv2d(channels, width, kernel_size=1), norm(width), activation()])
            channels = width
        self.final_layer = nn.Conv2d(channels, keypoints, kernel, padding=kernel // 2)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """The raw heatmaps: not normalised, and below 0 in places."""
        return self.final_layer(self.conv_layers(self.deconv_layers(features)))


class HeatmapPose(nn.Module):
    """A backbone and its head: (B, 3, H, W) to {"heatmaps": (B, K, H / 4, W / 4)}."""

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Heatmaps for images normalised as the contract says."""
        return {"heatmaps": self.head(self.backbone(images))}


def require_heatmaps(contract: Contract, multiple: int) -> int:
    """K, the number of heatmaps; the contract's sizes must fit a network of stride 4.

    Args:
        contract: of a pose model.
        multiple: both sides of the input must be a multiple of this, px.

    Raises:
        ContractError: another codec, no skeleton, or sizes that do not belong together (with both).
    """
    codec = require_codec(contract, HeatmapCodec)
    require_multiple(contract, multiple)
    width, height = contract.input.size
    heatmap = (width // STRIDE, height // STRIDE)
    if codec.size != heatmap:
        stated = f"codec.size is {codec.size[0]}x{codec.size[1]}"
        raise ContractError(
            f"{contract.name} ({contract.architecture} {contract.variant}): an input of {width}x{height} px "
            f"gives heatmaps of {heatmap[0]}x{heatmap[1]}, but {stated}; "
            "correct whichever the model was not trained with"
        )
    return require_keypoints(contract)


def current_names(state: dict[str, Value]) -> dict[str, Value]:
    """A state dict of mmpose 0.x, renamed to the names of mmpose 1.x; one of 1.x stays as it is.

    In 0.x the head was called keypoint_head, and its final layer also held the convolutions before it
    (mmpose, models/heads/heatmap_heads/heatmap_head.py).
    """
    state = {re.sub("^keypoint_head", "head", name): value for name, value in state.items()}
    inner = re.compile(r"head\.final_layer\.(\d+)\.(.*)")
    last = max((int(match[1]) for match in map(inner.match, state) if match), default=None)

    def renamed(match: re.Match[str]) -> str:
        if int(match[1]) == last:
            return f"head.final_layer.{match[2]}"
        return f"head.conv_layers.{match[1]}.{match[2]}"

    return {inner.sub(renamed, name): value for name, value in state.items()}
