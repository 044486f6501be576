"""Find the peaks of heatmaps that are tensors: all shapes are fixed, and the host never waits for a value.

The results are those of `host_peaks`. There, only the cells near a peak are blurred, and whole maps only
where a limit may clip. Here all maps are blurred, since only the device knows which of them need it.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np
import torch

from engines.codecs.host_peaks import DARK_KERNEL, gaussian
from engines.device.arrays import constant

if TYPE_CHECKING:
    from engines.codecs.heatmap_refinement import Window


def find_peaks(maps: torch.Tensor, window: Window | None) -> dict[str, torch.Tensor]:
    """The peaks of maps (M, h, w) float32.

    Returns:
        `cells` (M, 2) x, y; `scores` (M,), their heights; and, with a window, `near` (M, s, s), the cells
        around each peak. Maps without a value above 0 have no peak; their cells are meaningless.
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
    """(M, s, s): the cells of maps (M, h, w) around cells x, y (M,); beyond an edge, the cell at the edge."""
    _, height, width = maps.shape
    offsets = torch.arange(-window.reach, window.reach + 1, device=maps.device)
    columns = (x[:, None] + offsets).clamp(0, width - 1)  # (M, s)
    rows = (y[:, None] + offsets).clamp(0, height - 1)
    cells = rows[:, :, None] * width + columns[:, None, :]  # (M, s, s)
    return maps.flatten(1).gather(1, cells.flatten(1)).reshape(cells.shape)


def _blurred(
    maps: torch.Tensor, x: torch.Tensor, y: torch.Tensor, heights: torch.Tensor, window: Window
) -> torch.Tensor:
    """(M, s, s): the blurred maps, scaled to their former maxima where a limit of the window may clip."""
    _, height, width = maps.shape
    # Matrix products, since PyTorch's convolutions round to TF32 (ten bits) by default.
    blurred = _blur(height, maps.device) @ (maps @ _blur(width, maps.device))
    near = _near(blurred, x, y, window)
    clipped = (near.amin(dim=(1, 2)) < window.lowest) | (heights > window.highest)
    scales = (heights / blurred.amax(dim=(1, 2))).where(clipped, 1)
    return near * scales[:, None, None]


@functools.cache
def _blur(size: int, device: torch.device) -> torch.Tensor:
    """(size, size), symmetric: the Gaussian around each cell along an axis; zero lies beyond the edges."""
    weights = gaussian()
    steps = range(-(DARK_KERNEL // 2), DARK_KERNEL // 2 + 1)
    matrix = sum(weight * np.eye(size, k=step) for weight, step in zip(weights, steps, strict=True))
    return constant(np.asarray(matrix, np.float32), device)
