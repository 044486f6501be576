"""Read the BlazePose landmark model: landmarks in the crop, refined on heatmaps, and in metres.

Steps as in MediaPipe 0.10's TensorsToLandmarksCalculator and RefineLandmarksFromHeatmapCalculator.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
from scipy.special import expit

from engines.contract import BlazePoseLandmarksCodec, Contract


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
        visibility=expit(raw[:, :keypoints, 3]),
        world=outputs["world_landmarks"].reshape(-1, codec.landmarks, 3)[:, :keypoints],
        presence=outputs["presence"][:, 0],
        alignment=points[:, list(codec.auxiliary)],
    )


def refine(points: np.ndarray, heatmaps: np.ndarray, kernel: int, min_score: float) -> np.ndarray:
    """Move points (N, P, 2), in parts of the crop, to the centre of mass of the heatmap around them.

    Points outside the map, and those whose window of kernel x kernel cells has no probability of at least
    `min_score`, stay. Heatmaps (N, h, w, L ≥ P) are logits.
    """
    height, width, landmarks = heatmaps.shape[1:]
    size = np.array([width, height])
    cell = (points * size.astype(np.float32)).astype(np.intp)  # toward 0, as the original
    at = cell[:, :, None] + _window(kernel)  # (N, P, kernel², 2), x and y
    inside = ((at >= 0) & (at < size)).all(axis=-1)  # (N, P, kernel²)
    index = np.ravel(np.arange(len(points)) * height * width * landmarks)[:, None, None]
    index = index + (at[..., 1] * width + at[..., 0]) * landmarks + np.arange(points.shape[1])[:, None]
    # Cells outside read some other cell, and then weigh nothing.
    weights = expit(heatmaps.reshape(-1).take(index, mode="clip")) * inside if heatmaps.size else inside * 1.0
    on_map = inside[..., kernel**2 // 2]
    refined = on_map & (weights.max(axis=-1) >= min_score)  # (N, P)
    centre = (weights[..., None, :] @ at.astype(np.float32))[..., 0, :]  # (N, P, 2)
    centre /= np.maximum(weights.sum(axis=-1), np.finfo(np.float32).tiny)[..., None] * size
    return np.where(refined[..., None], centre, points).astype(np.float32)


@functools.cache
def _window(kernel: int) -> np.ndarray:
    """(kernel², 2): steps in x and y to the cells around one, itself in the middle."""
    steps = np.arange(kernel) - kernel // 2
    return np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)
