"""Read heatmap models: the peak of each keypoint's map, refined below a cell.

The numbers are those of MMPose's codecs `MSRAHeatmap` and `UDPHeatmap` and of its `refinement.py`.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import cv2
import numpy as np

from engines.codecs.heatmap_refinement import DARK, DARK_KERNEL, DARK_UDP, QUARTER, Window, gaussian
from engines.contracts.contract import Contract, HeatmapCodec
from engines.device.arrays import Array, Outputs, indices, is_tensor, namespace, single


class Peaks(NamedTuple):
    """The highest cells of P maps, of the M there are."""

    maps: np.ndarray  # (M, h, w) float32
    which: np.ndarray  # (P,) int, the maps
    x: np.ndarray  # (P,) int
    y: np.ndarray  # (P,) int

    def cells(self, columns: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """(P, a, b): cells of each map, rows (P, a) by columns (P, b)."""
        return self.maps[self.which[:, None, None], rows[:, :, None], columns[:, None, :]]


def reduce(outputs: Outputs, contract: Contract) -> dict[str, Array]:
    """The highest cells x, y (N, K, 2), their heights (N, K) float32, and what refinement looks at.

    That is `near` (N, K, s, s) float32, cells around each peak, those beyond an edge as those at the edge:
    of the map, or of the blurred map where its logarithm is wanted. It is not there without refinement.

    Args:
        outputs: heatmaps (N, K, h, w), an array or a tensor.
        contract: whose codec is `heatmap`.
    """
    codec = contract.codec
    assert isinstance(codec, HeatmapCodec)  # the registry dispatches on it
    maps, window = single(outputs["heatmaps"]), _window(codec)
    count, keypoints, height, width = maps.shape
    maps = maps.reshape(count * keypoints, height, width)
    reduced: dict[str, Array]
    if is_tensor(maps):
        from engines.codecs.device_peaks import reduce_maps

        reduced = reduce_maps(maps, window)
    else:
        reduced = _reduce_arrays(maps, window)
    return {name: array.reshape(count, keypoints, *array.shape[1:]) for name, array in reduced.items()}


def finish(reduced: dict[str, np.ndarray], contract: Contract) -> tuple[np.ndarray, np.ndarray]:
    """The keypoints (N, K, 2) float32, in px of the input, and their scores (N, K) float32, unclipped.

    A score is the map's maximum. A keypoint whose score is not above 0 is NaN: the model gave none.

    Args:
        reduced: what `reduce` gave, on the host.
        contract: whose codec is `heatmap`.
    """
    codec = contract.codec
    assert isinstance(codec, HeatmapCodec)
    scores, points = reduced["scores"], reduced["cells"].astype(np.float32)  # (N, K), (N, K, 2)
    found = scores > 0
    window = _window(codec)
    if window is not None:
        points[found] += _refine(window, reduced["cells"][found], reduced["near"][found], codec.size)
    points *= np.array(_px_per_cell(contract, codec), np.float32)
    points[~found] = np.nan
    return points, scores


def mirror_back(outputs: Outputs, contract: Contract, pairs: np.ndarray) -> Outputs:
    """What the model said of mirrored crops, as if it were said of the crops: MMPose's `flip_heatmaps`.

    Without UDP a mirrored map lies about a cell too far left, and is shifted (MMPose's `shift_heatmap`).

    Args:
        outputs: as for `reduce`.
        contract: likewise.
        pairs: (K,) which keypoint each is in the mirror.
    """
    assert isinstance(contract.codec, HeatmapCodec)
    heatmaps = outputs["heatmaps"]
    xp = namespace(heatmaps)
    heatmaps = xp.flip(heatmaps[:, indices(pairs, heatmaps)], (-1,))
    if not contract.codec.udp:
        heatmaps = xp.concatenate([heatmaps[..., :1], heatmaps[..., :-1]], -1)
    return {"heatmaps": heatmaps}


def _window(codec: HeatmapCodec) -> Window | None:
    if codec.refine == "quarter":
        return QUARTER
    if codec.refine == "dark":
        return DARK_UDP if codec.udp else DARK
    return None


def _px_per_cell(contract: Contract, codec: HeatmapCodec) -> list[float]:
    """With UDP the first and last cells lie on the first and last px; without, cell 0 lies on px 0."""
    less = 1 if codec.udp else 0
    return [(px - less) / (cells - less) for px, cells in zip(contract.input.size, codec.size, strict=True)]


def _refine(window: Window, cells: np.ndarray, near: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(P, 2) cells, from peaks (P, 2) to what lies between them, by the cells near them (P, s, s)."""
    if window is QUARTER:
        return quarter(cells, near, size)
    logarithms = np.log(np.clip(near, window.lowest, window.highest))
    return dark_udp(logarithms) if window is DARK_UDP else dark(cells, logarithms, size)


def quarter(cells: np.ndarray, near: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(P, 2) cells: a quarter of a cell towards the higher neighbour; none near the map's edge."""
    (x, y), (width, height) = cells.T, size
    # The two axes are unlike the edges' symmetry would have it; the models were measured with this.
    along_x = (x > 1) & (x < width - 1) & (y > 0)
    along_y = (y > 1) & (y < height - 1) & (x > 0)
    slope_x = np.where(along_x, near[:, 1, 2] - near[:, 1, 0], 0)
    slope_y = np.where(along_y, near[:, 2, 1] - near[:, 0, 1], 0)
    return np.sign(np.stack([slope_x, slope_y], axis=-1)) * np.float32(0.25)


def dark(cells: np.ndarray, logs: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(P, 2) cells: a Newton step on the blurred map's logarithm (DARK, arXiv:1910.06278), not at edges."""
    here = logs[:, 2, 2]
    xx = 0.25 * (logs[:, 2, 4] - 2 * here + logs[:, 2, 0])
    yy = 0.25 * (logs[:, 4, 2] - 2 * here + logs[:, 0, 2])
    xy = 0.25 * (logs[:, 3, 3] - logs[:, 1, 3] - logs[:, 3, 1] + logs[:, 1, 1])
    (x, y), (width, height) = cells.T, size
    inside = (x > 1) & (x < width - 2) & (y > 1) & (y < height - 2)
    return np.where(inside[:, None], _newton(logs[:, 1:4, 1:4], xx, xy, yy), 0)


def dark_udp(logs: np.ndarray) -> np.ndarray:
    """(P, 2) cells: the same with the curvature of direct neighbours, as UDP has it (arXiv:1911.07524)."""
    here, tiny = logs[:, 1, 1], np.finfo(np.float32).eps
    left, right, above, below = logs[:, 1, 0], logs[:, 1, 2], logs[:, 0, 1], logs[:, 2, 1]
    xx = right - 2 * here + left + tiny
    yy = below - 2 * here + above + tiny
    xy = 0.5 * (logs[:, 2, 2] - right - below + 2 * here - left - above + logs[:, 0, 0])
    return _newton(logs, xx, xy, yy)


def _newton(logs: np.ndarray, xx: np.ndarray, xy: np.ndarray, yy: np.ndarray) -> np.ndarray:
    """(P, 2): the step to where the slope is zero, by the curvatures (P,); none where they say nothing."""
    xx, xy, yy = (term.astype(np.float64) for term in (xx, xy, yy))
    x, y = 0.5 * (logs[:, 1, 2] - logs[:, 1, 0]), 0.5 * (logs[:, 2, 1] - logs[:, 0, 1])
    determinant = xx * yy - xy**2
    step = np.stack([xy * y - yy * x, xy * x - xx * y], axis=-1)
    nothing = determinant == 0
    return np.where(nothing[:, None], 0, step / np.where(nothing, 1, determinant)[:, None])


def _reduce_arrays(maps: np.ndarray, window: Window | None) -> dict[str, np.ndarray]:
    """Peaks of maps (M, h, w): `cells` (M, 2), `scores` (M,), and `near` (M, s, s), 0 without a peak."""
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


def _near(peaks: Peaks, reach: int) -> np.ndarray:
    """(P, s, s): the cells around peaks; beyond an edge what is at the edge."""
    _, height, width = peaks.maps.shape
    offsets = np.arange(-reach, reach + 1)
    columns, rows = peaks.x[:, None] + offsets, peaks.y[:, None] + offsets
    return peaks.cells(columns.clip(0, width - 1), rows.clip(0, height - 1))


def _blurred(peaks: Peaks, window: Window, heights: np.ndarray) -> np.ndarray:
    """(P, s, s): the blurred maps around peaks, of heights (P,); scaled where the window's limits may cut.

    The original blurs whole maps, and gives each its former maximum by a factor. Here only what is asked for
    is blurred. The factor drops out of all differences of logarithms, unless a limit cuts; so only maps where
    one may are blurred as a whole. (The factor is 1 or more, and what it makes is at most the maximum.)
    """
    near = _blurred_near(peaks, window.reach)
    cut = np.flatnonzero((near.min(axis=(1, 2)) < window.lowest) | (heights > window.highest))
    near[cut] *= _factors(peaks.maps[peaks.which[cut]])[:, None, None]
    return near


def _blurred_near(peaks: Peaks, reach: int) -> np.ndarray:
    """(P, s, s): blurred maps around the peaks; beyond an edge what is at the edge."""
    _, height, width = peaks.maps.shape
    offsets = np.arange(-reach - DARK_KERNEL // 2, reach + DARK_KERNEL // 2 + 1)
    y, x = peaks.y[:, None] + offsets, peaks.x[:, None] + offsets  # (P, side)
    cells = peaks.cells(x.clip(0, width - 1), y.clip(0, height - 1))
    cells *= ((y >= 0) & (y < height))[:, :, None] & ((x >= 0) & (x < width))[:, None, :]
    along = _along(reach)
    blurred = along @ cells @ along.T
    wanted = np.arange(-reach, reach + 1)
    rows, columns = (
        np.clip(at[:, None] + wanted, 0, size - 1) - at[:, None] + reach
        for at, size in ((peaks.y, height), (peaks.x, width))
    )
    every = np.arange(len(blurred))[:, None, None]
    return np.asarray(blurred[every, rows[:, :, None], columns[:, None, :]])


@functools.cache
def _along(reach: int) -> np.ndarray:
    """(2 reach + 1, 2 reach + DARK_KERNEL): the Gaussian at each of the cells that are asked for."""
    rows = range(2 * reach + 1)
    return np.stack([np.pad(gaussian(), (row, 2 * reach - row)) for row in rows])


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
