"""Find the peaks of heatmaps that are NumPy arrays.

`heatmap` imports this file only when it is used: reading a contract imports every codec, and must not wait
for OpenCV.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import cv2
import numpy as np

from engines.codecs.heatmap_refinement import Window

# MMPose's `blur_kernel_size`, in cells; its published configs leave it at the default for every sigma.
DARK_KERNEL = 11


class Peaks(NamedTuple):
    """The highest cells of P maps, chosen from M maps."""

    maps: np.ndarray  # (M, h, w) float32
    chosen: np.ndarray  # (P,) int, the indices of the P maps
    x: np.ndarray  # (P,) int
    y: np.ndarray  # (P,) int

    def cells(self, columns: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """(P, a, b): cells of each map, rows (P, a) by columns (P, b)."""
        return self.maps[self.chosen[:, None, None], rows[:, :, None], columns[:, None, :]]


def find_peaks(maps: np.ndarray, window: Window | None) -> dict[str, np.ndarray]:
    """The peaks of maps (M, h, w) float32.

    Returns:
        `cells` (M, 2) x, y; `scores` (M,), their heights; and, with a window, `near` (M, s, s), the cells
        around each peak. `near` is 0 for maps without a value above 0, which have no peak.
    """
    count, height, width = maps.shape
    flat = maps.reshape(count, height * width)
    highest = flat.argmax(axis=1)
    scores = flat[np.arange(count), highest]
    y, x = np.divmod(highest, width)
    reduced = {"cells": np.stack([x, y], axis=-1), "scores": scores}
    if window is not None:
        found = np.flatnonzero(scores > 0)
        peaks = Peaks(maps, found, x[found], y[found])
        near = _blurred(peaks, window, scores[found]) if window.blurred else _near(peaks, window.reach)
        reduced["near"] = np.zeros((count, *near.shape[1:]), np.float32)
        reduced["near"][found] = near
    return reduced


@functools.cache
def gaussian() -> np.ndarray:
    """(DARK_KERNEL,) float32: the kernel with which DARK blurs along each axis."""
    return np.asarray(cv2.getGaussianKernel(DARK_KERNEL, 0, cv2.CV_32F)).ravel()


def _near(peaks: Peaks, reach: int) -> np.ndarray:
    """(P, s, s): the cells around peaks; beyond an edge, the cell at the edge."""
    _, height, width = peaks.maps.shape
    offsets = np.arange(-reach, reach + 1)
    columns, rows = peaks.x[:, None] + offsets, peaks.y[:, None] + offsets
    return peaks.cells(columns.clip(0, width - 1), rows.clip(0, height - 1))


def _blurred(peaks: Peaks, window: Window, heights: np.ndarray) -> np.ndarray:
    """(P, s, s): the blurred maps around peaks of heights (P,), scaled where a limit of the window may clip.

    MMPose blurs whole maps and scales each back to its former maximum. Here only the cells around the peaks
    are blurred. The scale cancels out in every difference of logarithms unless a limit clips, so only the
    maps where a limit may clip are blurred as a whole. (The scale is at least 1, and no scaled value exceeds
    the maximum.)
    """
    near = _blurred_near(peaks, window.reach)
    clipped = np.flatnonzero((near.min(axis=(1, 2)) < window.lowest) | (heights > window.highest))
    near[clipped] *= _scales(peaks.maps[peaks.chosen[clipped]])[:, None, None]
    return near


def _blurred_near(peaks: Peaks, reach: int) -> np.ndarray:
    """(P, s, s): the blurred maps around peaks; beyond an edge, the cell at the edge."""
    _, height, width = peaks.maps.shape
    offsets = np.arange(-reach - DARK_KERNEL // 2, reach + DARK_KERNEL // 2 + 1)
    y, x = peaks.y[:, None] + offsets, peaks.x[:, None] + offsets  # (P, side)
    cells = peaks.cells(x.clip(0, width - 1), y.clip(0, height - 1))
    cells *= ((y >= 0) & (y < height))[:, :, None] & ((x >= 0) & (x < width))[:, None, :]
    kernels = _shifted_kernels(reach)
    blurred = kernels @ cells @ kernels.T
    wanted = np.arange(-reach, reach + 1)
    rows, columns = (
        np.clip(at[:, None] + wanted, 0, size - 1) - at[:, None] + reach
        for at, size in ((peaks.y, height), (peaks.x, width))
    )
    every = np.arange(len(blurred))[:, None, None]
    return np.asarray(blurred[every, rows[:, :, None], columns[:, None, :]])


@functools.cache
def _shifted_kernels(reach: int) -> np.ndarray:
    """(2 reach + 1, 2 reach + DARK_KERNEL): the Gaussian, centred on each cell within reach."""
    rows = range(2 * reach + 1)
    return np.stack([np.pad(gaussian(), (row, 2 * reach - row)) for row in rows])


def _scales(maps: np.ndarray) -> np.ndarray:
    """(M,): the factors that give blurred maps (M, h, w) their former maxima; beyond the edges lies 0."""
    count, height, width = maps.shape
    if not count:
        return np.ones(0, np.float32)
    gap = DARK_KERNEL // 2  # zeros below each map, so that all maps can be blurred as one picture
    tall = np.zeros((count, height + gap, width), np.float32)
    tall[:, :height] = maps
    blurred = cv2.GaussianBlur(
        tall.reshape(-1, width), (DARK_KERNEL, DARK_KERNEL), 0, borderType=cv2.BORDER_CONSTANT
    ).reshape(tall.shape)[:, :height]
    return np.asarray(maps.max(axis=(1, 2)) / blurred.max(axis=(1, 2)))
