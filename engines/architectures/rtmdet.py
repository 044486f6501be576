"""RTMDet (Lyu et al., arXiv:2212.07784), a detector of three grids whose head shares its convolutions.

Parameters are named as in mmdet's checkpoints; the numbers are those of its configs/rtmdet and of mmpose's
projects/rtmpose/rtmdet (nano). Suppression is left to the codec, so that every backend can run the graph.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from engines.architectures.blocks import COARSEST, STRIDES, ConvBN, Scaling
from engines.architectures.cspnext import CSPLayer, CSPNeXt, conv3x3
from engines.architectures.requirements import require_codec, require_labels, require_multiple
from engines.codecs.rtmdet import RtmdetCodec
from engines.contracts.contract import Contract


class Variant(NamedTuple):
    """A size and its head: box distances plain or as logarithms; convolutions shared by all scales or not."""

    scaling: Scaling
    log_distances: bool = False
    shared: bool = True


VARIANTS = {
    "nano": Variant(Scaling(0.33, 0.25, depthwise=True), shared=False),
    "tiny": Variant(Scaling(0.167, 0.375)),
    "s": Variant(Scaling(0.33, 0.5)),
    "m": Variant(Scaling(0.67, 0.75), log_distances=True),
    "l": Variant(Scaling(1.0, 1.0), log_distances=True),
    "x": Variant(Scaling(1.33, 1.25), log_distances=True),
}


def build(contract: Contract) -> nn.Module:
    """The network for a contract, see `RTMDet`.

    Raises:
        ContractError: another codec, no labels, or an input that is no multiple of 32 px.
    """
    require_codec(contract, RtmdetCodec)
    require_multiple(contract, COARSEST)
    return RTMDet(VARIANTS[str(contract.variant)], require_labels(contract))


class RTMDet(nn.Module):
    """(B, 3, H, W) to {"boxes": (B, cells, 5), "labels": (B, cells)}, a row for each cell of the three grids.

    Boxes are x0, y0, x1, y1 in px of the input and the score of the best class, 0..1; labels (int64) are
    the index of that class. A cell with two good classes thus counts for the better one only.
    """

    def __init__(self, variant: Variant, classes: int) -> None:
        super().__init__()
        self.backbone = CSPNeXt(variant.scaling)
        self.neck = CSPNeXtPAFPN(variant.scaling)
        self.bbox_head = SepBNHead(variant, classes)

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Candidates before any suppression, for images normalised as the contract says."""
        logits, boxes = self.bbox_head(self.neck(self.backbone(images)))
        best, labels = logits.max(dim=2)
        return {"boxes": torch.cat([boxes, best.sigmoid().unsqueeze(2)], dim=2), "labels": labels}


class CSPNeXtPAFPN(nn.Module):
    """Mix three scales, from coarse to fine and back (PANet, arXiv:1803.01534)."""

    def __init__(self, scaling: Scaling) -> None:
        super().__init__()
        fine, middle, coarse = (scaling.channels(channels) for channels in (256, 512, 1024))
        depthwise = scaling.depthwise

        def csp(channels: int, width: int) -> CSPLayer:
            blocks = scaling.blocks(3)
            return CSPLayer(channels, width, blocks, residual=False, attention=False, depthwise=depthwise)

        self.reduce_layers = nn.ModuleList([ConvBN(coarse, middle), ConvBN(middle, fine)])
        self.top_down_blocks = nn.ModuleList([csp(2 * middle, middle), csp(2 * fine, fine)])
        self.downsamples = nn.ModuleList(
            conv3x3(channels, channels, stride=2, depthwise=depthwise) for channels in (fine, middle)
        )
        self.bottom_up_blocks = nn.ModuleList([csp(2 * fine, middle), csp(2 * middle, coarse)])
        self.out_convs = nn.ModuleList(
            conv3x3(channels, fine, depthwise=depthwise) for channels in (fine, middle, coarse)
        )

    def forward(self, maps: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
        """Maps of 256, 512 and 1024 channels at size l to three maps of 256, finest first."""
        fine, middle, coarse = maps
        from_coarse = self.reduce_layers[0](coarse)
        middle = self.top_down_blocks[0](torch.cat([_doubled(from_coarse), middle], dim=1))
        from_middle = self.reduce_layers[1](middle)
        fine = self.top_down_blocks[1](torch.cat([_doubled(from_middle), fine], dim=1))
        middle = self.bottom_up_blocks[0](torch.cat([self.downsamples[0](fine), from_middle], dim=1))
        coarse = self.bottom_up_blocks[1](torch.cat([self.downsamples[1](middle), from_coarse], dim=1))
        return [conv(it) for conv, it in zip(self.out_convs, (fine, middle, coarse), strict=True)]


class SepBNHead(nn.Module):
    """Class scores and distances to the box's sides; scales share convolutions, but not normalisation."""

    def __init__(self, variant: Variant, classes: int) -> None:
        super().__init__()
        self.log_distances = variant.log_distances
        width = variant.scaling.channels(256)

        self.cls_convs, self.reg_convs = _branches(variant, width), _branches(variant, width)
        self.rtm_cls = nn.ModuleList(nn.Conv2d(width, classes, 1) for _ in STRIDES)
        self.rtm_reg = nn.ModuleList(nn.Conv2d(width, 4, 1) for _ in STRIDES)

    def forward(self, maps: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Class logits (B, cells, classes) and boxes (B, cells, 4), grid by grid, each row by row."""
        logits, boxes = [], []
        for level, (features, stride) in enumerate(zip(maps, STRIDES, strict=True)):
            logits.append(_by_cell(self.rtm_cls[level](self.cls_convs[level](features))))
            # Left, top, right, bottom.
            distances = _by_cell(self.rtm_reg[level](self.reg_convs[level](features)))
            distances = (distances.exp() if self.log_distances else distances) * stride
            corners = _corners(features, stride)
            boxes.append(torch.cat([corners - distances[..., :2], corners + distances[..., 2:]], dim=2))
        return torch.cat(logits, dim=1), torch.cat(boxes, dim=1)


def _branches(variant: Variant, width: int) -> nn.ModuleList:
    """Two convolutions for each scale; if the variant shares them, all scales use the same weights."""
    branches = [
        nn.Sequential(*(conv3x3(width, width, depthwise=variant.scaling.depthwise) for _ in range(2)))
        for _ in STRIDES
    ]
    if variant.shared:
        for branch in branches[1:]:
            for layer, first in zip(branch, branches[0], strict=True):
                layer.conv = first.conv
    return nn.ModuleList(branches)


def _doubled(x: torch.Tensor) -> torch.Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def _by_cell(x: torch.Tensor) -> torch.Tensor:
    return x.flatten(2).transpose(1, 2)  # (B, cells, C)


def _corners(features: torch.Tensor, stride: int) -> torch.Tensor:
    """(cells, 2): the upper left corner of each cell in px; mmdet's distances start there (offset=0)."""
    height, width = features.shape[-2:]
    y, x = torch.meshgrid(
        torch.arange(height, device=features.device) * stride,
        torch.arange(width, device=features.device) * stride,
        indexing="ij",
    )
    return torch.stack([x, y], dim=2).flatten(0, 1).to(features.dtype)
