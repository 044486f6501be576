"""Refine a heatmap's peak to a fraction of a cell, from the cells around it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Window(NamedTuple):
    """The cells around a peak that a refinement looks at."""

    reach: int  # cells to each side
    blurred: bool = False  # whether the map is blurred first, and the logarithm taken
    lowest: float = 0.0  # values are clipped to these limits before the logarithm
    highest: float = np.inf


QUARTER = Window(1)
DARK = Window(2, blurred=True, lowest=1e-10)
DARK_UDP = Window(1, blurred=True, lowest=1e-3, highest=50)


def refinement(window: Window, cells: np.ndarray, near: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(P, 2) cells: the offsets from peaks (P, 2) to the refined positions.

    Args:
        window: QUARTER, DARK or DARK_UDP.
        cells: (P, 2) x, y of the peaks.
        near: (P, s, s) the cells around each peak.
        size: width, height of the maps in cells.
    """
    if window is QUARTER:
        return quarter(cells, near, size)
    logarithms = np.log(np.clip(near, window.lowest, window.highest))
    return dark_udp(logarithms) if window is DARK_UDP else dark(cells, logarithms, size)


def quarter(cells: np.ndarray, near: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(P, 2) cells: a quarter of a cell towards the higher neighbour; none near the map's edge."""
    (x, y), (width, height) = cells.T, size
    # Reproduces MMPose's asymmetric edges; do not "fix" this: the models were evaluated with it.
    along_x = (x > 1) & (x < width - 1) & (y > 0)
    along_y = (y > 1) & (y < height - 1) & (x > 0)
    slope_x = np.where(along_x, near[:, 1, 2] - near[:, 1, 0], 0)
    slope_y = np.where(along_y, near[:, 2, 1] - near[:, 0, 1], 0)
    return np.sign(np.stack([slope_x, slope_y], axis=-1)) * np.float32(0.25)


def dark(cells: np.ndarray, logs: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(P, 2) cells: a Newton step on the blurred map's logarithm (DARK, arXiv:1910.06278); none at edges."""
    here = logs[:, 2, 2]
    xx = 0.25 * (logs[:, 2, 4] - 2 * here + logs[:, 2, 0])
    yy = 0.25 * (logs[:, 4, 2] - 2 * here + logs[:, 0, 2])
    xy = 0.25 * (logs[:, 3, 3] - logs[:, 1, 3] - logs[:, 3, 1] + logs[:, 1, 1])
    (x, y), (width, height) = cells.T, size
    inside = (x > 1) & (x < width - 2) & (y > 1) & (y < height - 2)
    return np.where(inside[:, None], _newton(logs[:, 1:4, 1:4], xx, xy, yy), 0)


def dark_udp(logs: np.ndarray) -> np.ndarray:
    """(P, 2) cells: the same with the curvature from direct neighbours, as in UDP (arXiv:1911.07524)."""
    here, tiny = logs[:, 1, 1], np.finfo(np.float32).eps
    left, right, above, below = logs[:, 1, 0], logs[:, 1, 2], logs[:, 0, 1], logs[:, 2, 1]
    xx = right - 2 * here + left + tiny
    yy = below - 2 * here + above + tiny
    xy = 0.5 * (logs[:, 2, 2] - right - below + 2 * here - left - above + logs[:, 0, 0])
    return _newton(logs, xx, xy, yy)


def _newton(logs: np.ndarray, xx: np.ndarray, xy: np.ndarray, yy: np.ndarray) -> np.ndarray:
    """(P, 2): the step to where the slope is zero, from the curvatures (P,); 0 where they are singular."""
    xx, xy, yy = (term.astype(np.float64) for term in (xx, xy, yy))
    x, y = 0.5 * (logs[:, 1, 2] - logs[:, 1, 0]), 0.5 * (logs[:, 2, 1] - logs[:, 0, 1])
    determinant = xx * yy - xy**2
    step = np.stack([xy * y - yy * x, xy * x - xx * y], axis=-1)
    singular = determinant == 0
    return np.where(singular[:, None], 0, step / np.where(singular, 1, determinant)[:, None])
