"""Read heatmap models: the peak of each keypoint's map, refined below a cell.

The numbers are those of MMPose's codecs `MSRAHeatmap` and `UDPHeatmap` and of its `refinement.py`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np

from engines.contract import Contract, HeatmapCodec

# MMPose's `blur_kernel_size`, in cells; its published configs leave it at the default, whatever their sigma.
DARK_KERNEL = 11

Cells = Callable[[int, int], np.ndarray]  # (M,) so many cells right of, and below, M peaks


class Peaks(NamedTuple):
    """The highest cells of M maps."""

    maps: np.ndarray  # (M, h, w) float32
    x: np.ndarray  # (M,) int
    y: np.ndarray  # (M,) int

    def at(self, dx: int, dy: int) -> np.ndarray:
        """(M,): the values so many cells beside the peaks; beyond the map's edge those of the edge."""
        _, height, width = self.maps.shape
        rows, columns = np.clip(self.y + dy, 0, height - 1), np.clip(self.x + dx, 0, width - 1)
        return self.maps[np.arange(len(self.maps)), rows, columns]


def decode(outputs: dict[str, np.ndarray], contract: Contract) -> tuple[np.ndarray, np.ndarray]:
    """The keypoints (N, K, 2) float32, in px of the input, and their scores (N, K) float32, unclipped.

    A score is the map's maximum. A keypoint whose score is not above 0 is NaN: the model gave none.

    Args:
        outputs: heatmaps (N, K, h, w).
        contract: whose codec is `heatmap`.
    """
    codec = contract.codec
    assert isinstance(codec, HeatmapCodec)  # the registry dispatches on it
    heatmaps = outputs["heatmaps"].astype(np.float32, copy=False)
    count, keypoints, height, width = heatmaps.shape
    flat = heatmaps.reshape(count * keypoints, height * width)
    highest = flat.argmax(axis=1)
    scores = flat[np.arange(len(flat)), highest]
    y, x = np.divmod(highest, width)
    cells = np.stack([x, y], axis=-1).astype(np.float32)  # (M, 2)
    found = np.flatnonzero(scores > 0)
    peaks = Peaks(flat[found].reshape(-1, height, width), x[found], y[found])
    if codec.refine == "quarter":
        cells[found] += quarter(peaks)
    elif codec.refine == "dark":
        cells[found] += dark_udp(peaks) if codec.udp else dark(peaks)
    points = cells * np.array(_px_per_cell(contract, codec), np.float32)
    points[~(scores > 0)] = np.nan
    return points.reshape(count, keypoints, 2), scores.reshape(count, keypoints)


def mirror_back(
    outputs: dict[str, np.ndarray], contract: Contract, pairs: np.ndarray
) -> dict[str, np.ndarray]:
    """What the model said of mirrored crops, as if it were said of the crops: MMPose's `flip_heatmaps`.

    Without UDP a mirrored map lies about a cell too far left, and is shifted (MMPose's `shift_heatmap`).

    Args:
        outputs: as for `decode`.
        contract: likewise.
        pairs: (K,) which keypoint each is in the mirror.
    """
    assert isinstance(contract.codec, HeatmapCodec)
    heatmaps = outputs["heatmaps"][:, pairs, :, ::-1].copy()
    if not contract.codec.udp:
        heatmaps[..., 1:] = heatmaps[..., :-1].copy()
    return {"heatmaps": heatmaps}


def _px_per_cell(contract: Contract, codec: HeatmapCodec) -> list[float]:
    """With UDP the first and last cells lie on the first and last px; without, cell 0 lies on px 0."""
    less = 1 if codec.udp else 0
    return [(px - less) / (cells - less) for px, cells in zip(contract.input.size, codec.size, strict=True)]


def quarter(peaks: Peaks) -> np.ndarray:
    """(M, 2) cells: a quarter of a cell towards the higher neighbour; none near the map's edge."""
    _, height, width = peaks.maps.shape
    x, y = peaks.x, peaks.y
    # The two axes are unlike the edges' symmetry would have it; the models were measured with this.
    along_x = (x > 1) & (x < width - 1) & (y > 0)
    along_y = (y > 1) & (y < height - 1) & (x > 0)
    slope_x = np.where(along_x, peaks.at(1, 0) - peaks.at(-1, 0), 0)
    slope_y = np.where(along_y, peaks.at(0, 1) - peaks.at(0, -1), 0)
    return np.sign(np.stack([slope_x, slope_y], axis=-1)) * np.float32(0.25)


def dark(peaks: Peaks) -> np.ndarray:
    """(M, 2) cells: a Newton step on the blurred map's logarithm (DARK, arXiv:1910.06278), not at edges."""
    _, height, width = peaks.maps.shape
    log = _logarithms(peaks, 2, lowest=1e-10, highest=np.inf)
    here = log(0, 0)
    xx = 0.25 * (log(2, 0) - 2 * here + log(-2, 0))
    yy = 0.25 * (log(0, 2) - 2 * here + log(0, -2))
    xy = 0.25 * (log(1, 1) - log(1, -1) - log(-1, 1) + log(-1, -1))
    inside = (peaks.x > 1) & (peaks.x < width - 2) & (peaks.y > 1) & (peaks.y < height - 2)
    return np.where(inside[:, None], _newton(log, xx, xy, yy), 0)


def dark_udp(peaks: Peaks) -> np.ndarray:
    """(M, 2) cells: the same with the curvature of direct neighbours, as UDP has it (arXiv:1911.07524)."""
    log = _logarithms(peaks, 1, lowest=1e-3, highest=50)
    here, tiny = log(0, 0), np.finfo(np.float32).eps
    xx = log(1, 0) - 2 * here + log(-1, 0) + tiny
    yy = log(0, 1) - 2 * here + log(0, -1) + tiny
    xy = 0.5 * (log(1, 1) - log(1, 0) - log(0, 1) + 2 * here - log(-1, 0) - log(0, -1) + log(-1, -1))
    return _newton(log, xx, xy, yy)


def _newton(log: Cells, xx: np.ndarray, xy: np.ndarray, yy: np.ndarray) -> np.ndarray:
    """(M, 2): the step to where the slope is zero, by the curvatures (M,); none where they say nothing."""
    xx, xy, yy = (term.astype(np.float64) for term in (xx, xy, yy))
    x, y = 0.5 * (log(1, 0) - log(-1, 0)), 0.5 * (log(0, 1) - log(0, -1))
    determinant = xx * yy - xy**2
    step = np.stack([xy * y - yy * x, xy * x - xx * y], axis=-1)
    nothing = determinant == 0
    return np.where(nothing[:, None], 0, step / np.where(nothing, 1, determinant)[:, None])


def _logarithms(peaks: Peaks, reach: int, *, lowest: float, highest: float) -> Cells:
    """The logarithm (M,) of the blurred maps, within limits, at cells up to `reach` beside the peaks.

    The original blurs whole maps, and gives each its former maximum by a factor. Here only what is asked for
    is blurred. The factor drops out of all differences of logarithms, unless a limit cuts; so only maps where
    one may are blurred as a whole. (The factor is 1 or more, and what it makes is at most the maximum.)
    """
    near = _blurred_near(peaks, reach)
    cut = np.flatnonzero((near.min(axis=(1, 2)) < lowest) | (peaks.at(0, 0) > highest))
    near[cut] *= _factors(peaks.maps[cut])[:, None, None]
    logarithms = np.log(np.clip(near, lowest, highest))
    return lambda dx, dy: logarithms[:, reach + dy, reach + dx]


def _blurred_near(peaks: Peaks, reach: int) -> np.ndarray:
    """(M, 2 reach + 1, 2 reach + 1): blurred maps around the peaks; beyond an edge what is at the edge."""
    _, height, width = peaks.maps.shape
    offsets = np.arange(-reach - DARK_KERNEL // 2, reach + DARK_KERNEL // 2 + 1)
    y, x = peaks.y[:, None] + offsets, peaks.x[:, None] + offsets  # (M, side)
    every = np.arange(len(peaks.maps))[:, None, None]
    cells = peaks.maps[every, y.clip(0, height - 1)[:, :, None], x.clip(0, width - 1)[:, None, :]]
    cells *= ((y >= 0) & (y < height))[:, :, None] & ((x >= 0) & (x < width))[:, None, :]
    along = _along(reach)
    blurred = along @ cells @ along.T
    wanted = np.arange(-reach, reach + 1)
    rows, columns = (
        np.clip(at[:, None] + wanted, 0, size - 1) - at[:, None] + reach
        for at, size in ((peaks.y, height), (peaks.x, width))
    )
    return np.asarray(blurred[every, rows[:, :, None], columns[:, None, :]])


@functools.cache
def _along(reach: int) -> np.ndarray:
    """(2 reach + 1, 2 reach + DARK_KERNEL): the Gaussian at each of the cells that are asked for."""
    kernel = cv2.getGaussianKernel(DARK_KERNEL, 0, cv2.CV_32F).ravel()
    rows = range(2 * reach + 1)
    return np.stack([np.pad(kernel, (row, 2 * reach - row)) for row in rows])


def _factors(maps: np.ndarray) -> np.ndarray:
    """(M,): what gives maps (M, h, w), blurred, their former maxima; zero lies beyond their edges."""
    count, height, width = maps.shape
    if not count:
        return np.ones(0, np.float32)
    gap = DARK_KERNEL // 2  # zeros below each map, so that all of them are blurred as one picture
    tall = np.zeros((count, height + gap, width), np.float32)
    tall[:, :height] = maps
    blurred = cv2.GaussianBlur(
        tall.reshape(-1, width), (DARK_KERNEL, DARK_KERNEL), 0, borderType=cv2.BORDER_CONSTANT
    ).reshape(tall.shape)[:, :height]
    return np.asarray(maps.max(axis=(1, 2)) / blurred.max(axis=(1, 2)))
