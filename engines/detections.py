"""What every detector's codec gives, one for each image."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Detections(NamedTuple):
    """The N detections of one image, best score first; px of the model's input until they are mapped back."""

    boxes: np.ndarray  # (N, 4) float32, x0, y0, x1, y1
    scores: np.ndarray  # (N,) float32, 0..1
    classes: np.ndarray  # (N,) int64, index into the contract's labels
    rois: np.ndarray | None = None  # (N, 5) float32, centre x, y, width, height, angle in rad
    keypoints: np.ndarray | None = None  # (N, K, 2) float32, of a one-stage pose model
    keypoint_scores: np.ndarray | None = None  # (N, K) float32, 0..1, if it tells how sure it is of each
