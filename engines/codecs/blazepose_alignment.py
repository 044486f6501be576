"""The alignment points that BlazePose's detector and landmark model share: they say where a person is.

Both models give two points: the hip centre, and a point on the circle around the whole body, straight above
the head. The square around that circle, turned so that the person stands upright in it, is the next region of
interest. Formulas of MediaPipe 0.10's AlignmentPointsRectsCalculator and RectTransformationCalculator.
"""

from __future__ import annotations

import numpy as np


def rois_from_alignment(points: np.ndarray, scale: float) -> np.ndarray:
    """(N, 5) float32: centre x, y, width, height in px and angle in rad, from points (N, 2, 2) in px.

    The square's side is the circle's diameter times `scale`; the angle is within [-pi, pi).
    """
    centre, direction = points[:, 0], points[:, 1] - points[:, 0]  # (N, 2)
    side = alignment_diameters(points) * scale
    angle = np.pi / 2 - np.arctan2(-direction[:, 1], direction[:, 0])
    angle -= 2 * np.pi * np.floor((angle + np.pi) / (2 * np.pi))
    return np.stack([centre[:, 0], centre[:, 1], side, side, angle], axis=1).astype(np.float32)


def alignment_diameters(points: np.ndarray) -> np.ndarray:
    """(N,): the diameters of the body circles, in px, from alignment points (N, 2, 2)."""
    return 2 * np.hypot(*(points[:, 1] - points[:, 0]).T)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """1 / (1 + e^-x), element by element. SciPy's takes a quarter of a second to import."""
    return 0.5 + 0.5 * np.tanh(0.5 * logits)
