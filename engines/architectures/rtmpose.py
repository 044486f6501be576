"""RTMPose (Jiang et al., arXiv:2303.07399) and DWPose, which is the same network trained by distillation.

Parameters are named as in mmpose's checkpoints; the numbers are those of its configs/*/rtmpose: CSPNeXt, a
7x7 convolution to one map a keypoint, and RTMCCHead, in which the keypoints attend to each other.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from engines.architectures.blocks import COARSEST, Scaling
from engines.architectures.cspnext import CSPNeXt
from engines.architectures.requirements import require_codec, require_keypoints, require_multiple
from engines.codecs.simcc import SimccCodec
from engines.contracts.contract import Contract

VARIANTS = {
    "t": Scaling(0.167, 0.375),
    "s": Scaling(0.33, 0.5),
    "m": Scaling(0.67, 0.75),
    "l": Scaling(1.0, 1.0),
    "x": Scaling(1.33, 1.25),
}

HIDDEN = 256  # channels of a keypoint's vector
EXPANDED = 2 * HIDDEN
ATTENDED = 128  # channels of queries and keys


def build(contract: Contract) -> nn.Module:
    """The network for a contract, see `RTMPose`.

    Raises:
        ContractError: another codec, no skeleton, or an input that is no multiple of 32 px.
    """
    codec, keypoints = require_codec(contract, SimccCodec), require_keypoints(contract)
    require_multiple(contract, COARSEST)
    return RTMPose(VARIANTS[str(contract.variant)], keypoints, contract.input.size, codec.split_ratio)


class RTMPose(nn.Module):
    """(B, 3, H, W) to {"simcc_x": (B, K, W * split_ratio), "simcc_y": (B, K, H * split_ratio)}."""

    def __init__(
        self, scaling: Scaling, keypoints: int, input_size: tuple[int, int], split_ratio: float
    ) -> None:
        super().__init__()
        self.backbone = CSPNeXt(scaling)
        self.head = RTMCCHead(scaling.channels(1024), keypoints, input_size, split_ratio)

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Scores of all bins along x and y, for images normalised as the contract says."""
        x, y = self.head(self.backbone(images)[-1])
        return {"simcc_x": x, "simcc_y": y}


class RTMCCHead(nn.Module):
    """A map for each keypoint becomes a vector; attention mixes the vectors; two layers classify x and y."""

    def __init__(
        self, channels: int, keypoints: int, input_size: tuple[int, int], split_ratio: float
    ) -> None:
        super().__init__()
        width, height = input_size
        cells = (width // COARSEST) * (height // COARSEST)
        self.final_layer = nn.Conv2d(channels, keypoints, 7, padding=3)
        self.mlp = nn.Sequential(ScaleNorm(), nn.Linear(cells, HIDDEN, bias=False))
        self.gau = GatedAttention()
        self.cls_x = nn.Linear(HIDDEN, int(width * split_ratio), bias=False)
        self.cls_y = nn.Linear(HIDDEN, int(height * split_ratio), bias=False)

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, channels, h, w) to (B, K, bins along x) and (B, K, bins along y)."""
        vectors = self.gau(self.mlp(self.final_layer(features).flatten(2)))  # (B, K, HIDDEN)
        return self.cls_x(vectors), self.cls_y(vectors)


class GatedAttention(nn.Module):
    """The gated attention unit (arXiv:2202.10447), without a position bias: keypoints have a fixed order."""

    def __init__(self) -> None:
        super().__init__()
        self.ln = ScaleNorm()
        self.uv = nn.Linear(HIDDEN, 2 * EXPANDED + ATTENDED, bias=False)
        self.gamma = nn.Parameter(torch.rand(2, ATTENDED))
        self.beta = nn.Parameter(torch.rand(2, ATTENDED))
        self.o = nn.Linear(EXPANDED, HIDDEN, bias=False)
        self.res_scale = Scale(HIDDEN)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, K, HIDDEN) to the same."""
        u, v, base = F.silu(self.uv(self.ln(x))).split([EXPANDED, EXPANDED, ATTENDED], dim=2)
        q, k = (base.unsqueeze(2) * self.gamma + self.beta).unbind(dim=2)  # (B, K, ATTENDED) each
        attention = F.relu(q @ k.transpose(1, 2) / ATTENDED**0.5).square()  # (B, K, K)
        return self.res_scale(x) + self.o(u * (attention @ v))


class ScaleNorm(nn.Module):
    """Divide a vector by its root mean square and multiply by a learnt factor (arXiv:1910.05895)."""

    def __init__(self) -> None:
        super().__init__()
        self.g = nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(…, channels) to the same."""
        rms = x.square().mean(dim=-1, keepdim=True).sqrt()
        return x / rms.clamp(min=1e-5) * self.g


class Scale(nn.Module):
    """Multiply each channel by a learnt factor."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(…, channels) to the same."""
        return x * self.scale
