"""Peaks of heatmaps on a device: tensors of fixed shapes, nothing that the host would have to wait for.

The same numbers as `engines.codecs.heatmap` has for arrays. There only what lies near a peak is blurred, and
whole maps only where their maximum is needed; which ones is known on the device alone, so here all are.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np
import torch

from engines.codecs.heatmap_refinement import DARK_KERNEL, gaussian
from engines.device.arrays import constant

if TYPE_CHECKING:
    from engines.codecs.heatmap_refinement import Window


def reduce_maps(maps: torch.Tensor, window: Window | None) -> dict[str, torch.Tensor]:
    """Peaks of maps (M, h, w) float32.

    Returns:
        cells (M, 2) x, y; scores (M,), their heights; and, with a window, near (M, s, s): what it looks at.
        Maps without anything above 0 have no peak, and numbers there that mean nothing.
    """
    width = maps.shape[2]
    highest = maps.flatten(1).max(dim=1)
    x, y = highest.indices % width, highest.indices // width
    reduced = {"cells": torch.stack([x, y], dim=-1), "scores": highest.values}
    if window is not None:
        near = _blurred(maps, x, y, highest.values, window) if window.blurred else _near(maps, x, y, window)
        reduced["near"] = near
    return reduced


def _near(maps: torch.Tensor, x: torch.Tensor, y: torch.Tensor, window: Window) -> torch.Tensor:
    """(M, s, s): the cells of maps (M, h, w) around cells x, y (M,); beyond an edge what is at the edge."""
    _, height, width = maps.shape
    offsets = torch.arange(-window.reach, window.reach + 1, device=maps.device)
    columns = (x[:, None] + offsets).clamp(0, width - 1)  # (M, s)
    rows = (y[:, None] + offsets).clamp(0, height - 1)
    cells = rows[:, :, None] * width + columns[:, None, :]  # (M, s, s)
    return maps.flatten(1).gather(1, cells.flatten(1)).reshape(cells.shape)


def _blurred(
    maps: torch.Tensor, x: torch.Tensor, y: torch.Tensor, heights: torch.Tensor, window: Window
) -> torch.Tensor:
    """(M, s, s): the blurred maps, with their former maxima where a limit of the window may cut."""
    _, height, width = maps.shape
    # Matrix products, since PyTorch's convolutions round to TF32 (ten bits) unless told not to.
    blurred = _blur(height, maps.device) @ (maps @ _blur(width, maps.device))
    near = _near(blurred, x, y, window)
    cut = (near.amin(dim=(1, 2)) < window.lowest) | (heights > window.highest)
    factors = (heights / blurred.amax(dim=(1, 2))).where(cut, 1)
    return near * factors[:, None, None]


@functools.cache
def _blur(size: int, device: torch.device) -> torch.Tensor:
    """(size, size), symmetric: the Gaussian around each cell along an axis; zero lies beyond the edges."""
    weights = gaussian()
    steps = range(-(DARK_KERNEL // 2), DARK_KERNEL // 2 + 1)
    matrix = sum(weight * np.eye(size, k=step) for weight, step in zip(weights, steps, strict=True))
    return constant(np.asarray(matrix, np.float32), device)
