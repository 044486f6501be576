"""Read the BlazePose landmark model: landmarks in the crop, refined on heatmaps, and in metres.

Steps as in MediaPipe 0.10's TensorsToLandmarksCalculator and RefineLandmarksFromHeatmapCalculator.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from engines.codecs.blazepose_alignment import sigmoid
from engines.contracts.contract import BlazePoseLandmarksCodec, Contract


class Landmarks(NamedTuple):
    """What the model says of N crops; K is the skeleton's number of keypoints."""

    points: np.ndarray  # (N, K, 2) px of the crop
    visibility: np.ndarray  # (N, K) 0..1
    world: np.ndarray  # (N, K, 3) m, around the hip centre, axes of the crop
    presence: np.ndarray  # (N,) 0..1
    alignment: np.ndarray  # (N, 2, 2) px of the crop: hip centre, point on the body circle


def decode(outputs: dict[str, np.ndarray], contract: Contract) -> Landmarks:
    """Landmarks of N crops; the keypoints are the rows in front of the auxiliary ones.

    Args:
        outputs: landmarks (N, L·5), presence (N, 1), heatmaps (N, h, w, L), world_landmarks (N, L·3).
        contract: whose codec is `blazepose-landmarks`.
    """
    codec = contract.codec
    assert isinstance(codec, BlazePoseLandmarksCodec)  # the registry dispatches on it
    keypoints = min(codec.auxiliary)
    used = max(codec.auxiliary) + 1  # the rows behind are hands' and of no use here
    raw = outputs["landmarks"].reshape(-1, codec.landmarks, 5)
    points = refine(
        raw[:, :used, :2] / np.array(contract.input.size, np.float32),
        outputs["heatmaps"],
        codec.refine_kernel,
        codec.min_refine_score,
    ) * np.array(contract.input.size, np.float32)
    return Landmarks(
        points=points[:, :keypoints],
        visibility=sigmoid(raw[:, :keypoints, 3]),
        world=outputs["world_landmarks"].reshape(-1, codec.landmarks, 3)[:, :keypoints],
        presence=outputs["presence"][:, 0],
        alignment=points[:, list(codec.auxiliary)],
    )


def refine(points: np.ndarray, heatmaps: np.ndarray, kernel: int, min_score: float) -> np.ndarray:
    """Move points (N, P, 2), in parts of the crop, to the centre of mass of the heatmap around them.

    Points outside the map, and those whose window of kernel x kernel cells has no probability of at least
    `min_score`, stay. Heatmaps (N, h, w, L ≥ P) are logits.
    """
    count, height, width, landmarks = heatmaps.shape
    cell = (points * np.array([width, height], np.float32)).astype(np.intp)  # toward 0, as the original
    reach = np.arange(kernel) - kernel // 2
    columns, rows = cell[..., :1] + reach, cell[..., 1:] + reach  # (N, P, kernel)
    on_column, on_row = (columns >= 0) & (columns < width), (rows >= 0) & (rows < height)
    first = np.arange(count)[:, None, None] * height + rows
    index = (first[..., None] * width + columns[..., None, :]) * landmarks  # (N, P, kernel, kernel)
    index += np.arange(points.shape[1])[:, None, None]
    # Cells outside of the map read some other cell, and then weigh nothing.
    weights = sigmoid(heatmaps.take(index, mode="clip")) if count else np.zeros(index.shape, np.float32)
    weights *= on_row[..., :, None] & on_column[..., None, :]
    by_row = weights.sum(axis=3)  # (N, P, kernel)
    total = by_row.sum(axis=2)
    on_map = on_column[..., kernel // 2] & on_row[..., kernel // 2]
    refined = on_map & (weights.max(axis=(2, 3)) >= min_score)  # (N, P)
    total[~refined] = 1
    x = (weights.sum(axis=2) * columns).sum(axis=2) / (total * width)
    y = (by_row * rows).sum(axis=2) / (total * height)
    return np.where(refined[..., None], np.stack([x, y], axis=-1), points).astype(np.float32)
