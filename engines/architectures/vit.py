"""The plain Vision Transformer (arXiv:2010.11929) of ViTPose and Sapiens, with mmpretrain's parameter names.

transformers and timm have this network too, but under other names, so that official files would need a
conversion. This implementation loads them as they are and needs only PyTorch. There is no class token: all
tokens are patches.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

PATCH = 16  # px
PADDING = 2  # px around the image: both families were trained with patches that start outside it


@dataclass(frozen=True)
class Size:
    """Channels of a token, number of layers, heads per layer; the MLP's hidden layer is 4 times as wide."""

    channels: int
    layers: int
    heads: int


def trained_input(patches: int, like: tuple[int, int]) -> tuple[int, int]:
    """The input size (width, height) px that has this many patches and an aspect nearest to `like`."""
    columns = [n for n in range(1, patches + 1) if patches % n == 0]
    wanted = math.log(like[0] / like[1])
    nearest = min(columns, key=lambda n: abs(math.log(n * n / patches) - wanted))
    return PATCH * nearest, PATCH * patches // nearest


class VisionTransformer(nn.Module):
    """(B, 3, H, W) of one fixed input size to (B, C, H / 16, W / 16).

    The position embedding holds one vector a patch, so a checkpoint fits only the input size of its training.
    """

    def __init__(self, size: Size, input_size: tuple[int, int]) -> None:
        super().__init__()
        width, height = input_size
        self.grid = (height // PATCH, width // PATCH)
        self.patch_embed = PatchEmbed(size.channels)
        self.pos_embed = nn.Parameter(torch.zeros(1, self.grid[0] * self.grid[1], size.channels))
        self.layers = nn.ModuleList(Layer(size.channels, size.heads) for _ in range(size.layers))
        self.ln1 = layer_norm(size.channels)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Features: one vector for each patch."""
        x = self.patch_embed(images) + self.pos_embed  # (B, patches, C)
        for layer in self.layers:
            x = layer(x)
        return self.ln1(x).transpose(1, 2).unflatten(2, self.grid)


class PatchEmbed(nn.Module):
    """Split images into patches: (B, 3, H, W) to (B, patches, C), row by row."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.projection = nn.Conv2d(3, channels, PATCH, stride=PATCH, padding=PADDING)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """The tokens, without position embedding."""
        return self.projection(images).flatten(2).transpose(1, 2)


class Layer(nn.Module):
    """Attention, then the MLP; each works on normalised tokens and is added to the tokens."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.ln1 = layer_norm(channels)
        self.attn = Attention(channels, heads)
        self.ln2 = layer_norm(channels)
        self.ffn = MLP(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, tokens, C) to the same."""
        x = x + self.attn(self.ln1(x))
        return x + self.ffn(self.ln2(x))


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, tokens, C) to the same."""
        qkv = self.qkv(x).unflatten(2, (3, self.heads, -1))  # (B, tokens, 3, heads, c)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, heads, tokens, c)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """Two linear layers with a GELU between them, nested as in mmcv's FFN."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = nn.Sequential(nn.Linear(channels, 4 * channels), nn.GELU())
        self.layers = nn.Sequential(hidden, nn.Linear(4 * channels, channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, tokens, C) to the same."""
        return self.layers(x)


def layer_norm(channels: int) -> nn.LayerNorm:
    """Layer normalisation with the epsilon of both families' training; PyTorch's default is 1e-5."""
    return nn.LayerNorm(channels, eps=1e-6)
