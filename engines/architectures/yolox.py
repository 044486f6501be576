"""YOLOX (Ge et al., arXiv:2107.08430), a detector of three grids with separate branches for class and box.

Parameters are named as in the checkpoints of Megvii's repository; the numbers are those of its exps/default.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from engines.architectures.blocks import COARSEST, SPP, STRIDES, ConvBN, Scaling
from engines.architectures.requirements import require_codec, require_labels, require_multiple
from engines.codecs.yolox import YoloxCodec
from engines.contracts.contract import Contract
from engines.errors import ContractError

VARIANTS = {
    "nano": Scaling(0.33, 0.25, depthwise=True),
    "tiny": Scaling(0.33, 0.375),
    "s": Scaling(0.33, 0.5),
    "m": Scaling(0.67, 0.75),
    "l": Scaling(1.0, 1.0),
    "x": Scaling(1.33, 1.25),
}

EPSILON = 1e-3  # of batch normalisation (yolox/exp/yolox_base.py); PyTorch's own default is 1e-5


def build(contract: Contract) -> nn.Module:
    """The network for a contract, see `YOLOX`.

    Raises:
        ContractError: another codec or other strides, no labels, or an input that is no multiple of 32 px.
    """
    codec = require_codec(contract, YoloxCodec)
    if tuple(codec.strides) != STRIDES:
        raise ContractError(
            f"{contract.name} (yolox {contract.variant}): its grids have strides of {[*STRIDES]} px, "
            f"codec.strides is {codec.strides}; set it to those"
        )
    require_multiple(contract, COARSEST)
    network = YOLOX(VARIANTS[str(contract.variant)], require_labels(contract))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = EPSILON
    return network


class YOLOX(nn.Module):
    """(B, 3, H, W) to {"predictions": (B, cells, 5 + C)}, read by engines/codecs/yolox.py."""

    def __init__(self, scaling: Scaling, classes: int) -> None:
        super().__init__()
        self.backbone = PAFPN(scaling)
        self.head = DecoupledHead(scaling, classes)

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Predictions before any suppression, for images normalised as the contract says."""
        return {"predictions": self.head(self.backbone(images))}


class CSPDarknet(nn.Module):
    """(B, 3, H, W) to the maps of its last three stages, at 1/8, 1/16 and 1/32 of the size."""

    def __init__(self, scaling: Scaling) -> None:
        super().__init__()
        base, blocks = scaling.channels(64), scaling.blocks(3)

        def stage(scale: int, blocks: int) -> nn.Sequential:
            width = base * scale
            conv = conv3x3(width // 2, width, stride=2, depthwise=scaling.depthwise)
            return nn.Sequential(conv, CSPLayer(width, width, blocks, depthwise=scaling.depthwise))

        self.stem = Focus(base)
        self.dark2 = stage(2, blocks)
        self.dark3 = stage(4, 3 * blocks)
        self.dark4 = stage(8, 3 * blocks)
        self.dark5 = nn.Sequential(
            conv3x3(base * 8, base * 16, stride=2, depthwise=scaling.depthwise),
            SPP(base * 16),
            CSPLayer(base * 16, base * 16, blocks, residual=False, depthwise=scaling.depthwise),
        )

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The maps, finest first; their channels are 256, 512 and 1024 at size l."""
        fine = self.dark3(self.dark2(self.stem(images)))
        middle = self.dark4(fine)
        return fine, middle, self.dark5(middle)


class PAFPN(nn.Module):
    """The backbone and a neck that mixes its scales, coarse to fine and back (PANet, arXiv:1803.01534)."""

    def __init__(self, scaling: Scaling) -> None:
        super().__init__()
        fine, middle, coarse = (scaling.channels(channels) for channels in (256, 512, 1024))
        depthwise = scaling.depthwise

        def csp(channels: int, width: int) -> CSPLayer:
            return CSPLayer(channels, width, scaling.blocks(3), residual=False, depthwise=depthwise)

        self.backbone = CSPDarknet(scaling)
        self.lateral_conv0 = ConvBN(coarse, middle)
        self.C3_p4 = csp(2 * middle, middle)
        self.reduce_conv1 = ConvBN(middle, fine)
        self.C3_p3 = csp(2 * fine, fine)
        self.bu_conv2 = conv3x3(fine, fine, stride=2, depthwise=depthwise)
        self.C3_n3 = csp(2 * fine, middle)
        self.bu_conv1 = conv3x3(middle, middle, stride=2, depthwise=depthwise)
        self.C3_n4 = csp(2 * middle, coarse)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Maps of 256, 512 and 1024 channels at size l, finest first."""
        fine, middle, coarse = self.backbone(images)
        from_coarse = self.lateral_conv0(coarse)
        middle = self.C3_p4(torch.cat([_doubled(from_coarse), middle], dim=1))
        from_middle = self.reduce_conv1(middle)
        fine = self.C3_p3(torch.cat([_doubled(from_middle), fine], dim=1))
        middle = self.C3_n3(torch.cat([self.bu_conv2(fine), from_middle], dim=1))
        return fine, middle, self.C3_n4(torch.cat([self.bu_conv1(middle), from_coarse], dim=1))


class DecoupledHead(nn.Module):
    """For each scale: one branch for box and objectness, one for classes."""

    def __init__(self, scaling: Scaling, classes: int) -> None:
        super().__init__()
        width = scaling.channels(256)

        def branch() -> nn.Sequential:
            return nn.Sequential(*(conv3x3(width, width, depthwise=scaling.depthwise) for _ in range(2)))

        self.stems = nn.ModuleList(ConvBN(scaling.channels(it), width) for it in (256, 512, 1024))
        self.cls_convs = nn.ModuleList(branch() for _ in STRIDES)
        self.reg_convs = nn.ModuleList(branch() for _ in STRIDES)
        self.cls_preds = nn.ModuleList(nn.Conv2d(width, classes, 1) for _ in STRIDES)
        self.reg_preds = nn.ModuleList(nn.Conv2d(width, 4, 1) for _ in STRIDES)
        self.obj_preds = nn.ModuleList(nn.Conv2d(width, 1, 1) for _ in STRIDES)

    def forward(self, maps: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """(B, cells, 5 + C), grid by grid, each row by row."""
        found = []
        for level, features in enumerate(maps):
            features = self.stems[level](features)
            by_class = self.cls_convs[level](features)
            by_box = self.reg_convs[level](features)
            scores = torch.cat([self.obj_preds[level](by_box), self.cls_preds[level](by_class)], dim=1)
            found.append(torch.cat([self.reg_preds[level](by_box), scores.sigmoid()], dim=1).flatten(2))
        return torch.cat(found, dim=2).transpose(1, 2)


class Focus(nn.Module):
    """Turn each 2x2 px into one cell of 12 channels, then apply a 3x3 convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = ConvBN(12, width, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) to (B, width, H / 2, W / 2)."""
        quarters = [x[..., row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return self.conv(torch.cat(quarters, dim=1))


class CSPLayer(nn.Module):
    """Cross-stage partial: bottlenecks on half of the channels, a shortcut for half (arXiv:1911.11929)."""

    def __init__(
        self, channels: int, width: int, blocks: int, *, residual: bool = True, depthwise: bool
    ) -> None:
        super().__init__()
        half = width // 2
        self.conv1 = ConvBN(channels, half)
        self.conv2 = ConvBN(channels, half)
        self.conv3 = ConvBN(2 * half, width)
        self.m = nn.Sequential(
            *(Bottleneck(half, residual=residual, depthwise=depthwise) for _ in range(blocks))
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, channels, h, w) to (B, width, h, w)."""
        return self.conv3(torch.cat([self.m(self.conv1(x)), self.conv2(x)], dim=1))


class Bottleneck(nn.Module):
    """A 1x1 and a 3x3 convolution; the shape is unchanged."""

    def __init__(self, channels: int, *, residual: bool, depthwise: bool) -> None:
        super().__init__()
        self.conv1 = ConvBN(channels, channels)
        self.conv2 = conv3x3(channels, channels, depthwise=depthwise)
        self.residual = residual

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, channels, h, w) to the same."""
        y = self.conv2(self.conv1(x))
        return x + y if self.residual else y


class DepthwiseConv(nn.Module):
    """A 3x3 convolution within each channel, then a 1x1 convolution across them; both with BN and SiLU."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.dconv = ConvBN(channels, channels, 3, stride, groups=channels)
        self.pconv = ConvBN(channels, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, channels, h, w) to (B, width, h / stride, w / stride)."""
        return self.pconv(self.dconv(x))


def conv3x3(channels: int, width: int, stride: int = 1, *, depthwise: bool) -> nn.Module:
    """A 3x3 convolution, plain or depthwise separable."""
    return DepthwiseConv(channels, width, stride) if depthwise else ConvBN(channels, width, 3, stride)


def _doubled(x: torch.Tensor) -> torch.Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")
