"""Regions of interest of many instances, and the comparison of what was found in them; arrays only.

A region (5,) is the centre x, y, the width and height in px, and the angle in rad.
"""

from __future__ import annotations

import numpy as np

from engines.images.boxes import iou

# Two poses with boxes this alike and keypoints this near, in parts of the box's long side, are one person.
DUPLICATE_IOU, DUPLICATE_DISTANCE = 0.8, 0.1


def squares_round(boxes: np.ndarray, scale: float) -> np.ndarray:
    """(N, 5) float32: upright squares round boxes (N, 4), their side the boxes' long side times `scale`."""
    low, high = boxes[:, :2], boxes[:, 2:]
    side = np.maximum((high - low).max(axis=1), 1.0)[:, None] * scale
    return np.concatenate([(low + high) / 2, side, side, np.zeros_like(side)], axis=1, dtype=np.float32)


def overlaps(rois: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(N,): intersection over union of two regions (N, 5), row by row, as if they stood upright."""
    return np.diagonal(iou(_upright(rois), _upright(others)))


def _upright(rois: np.ndarray) -> np.ndarray:
    return np.concatenate([rois[:, :2] - rois[:, 2:4] / 2, rois[:, :2] + rois[:, 2:4] / 2], axis=1)


def enclosing_boxes(keypoints: np.ndarray) -> np.ndarray:
    """(N, 4): x0, y0, x1, y1 around keypoints (N, K, 2)."""
    return np.concatenate([keypoints.min(axis=1), keypoints.max(axis=1)], axis=1)


def duplicates(keypoints: np.ndarray, boxes: np.ndarray, since: np.ndarray) -> np.ndarray:
    """(N,) bool: rows whose pose is that of an older row, or of an earlier one where both are as old.

    Args:
        keypoints: (N, K, 2) px.
        boxes: (N, 4) around them.
        since: (N,) when each was first seen; smaller is older.
    """
    if len(boxes) < 2:
        return np.zeros(len(boxes), np.bool_)
    alike = iou(boxes, boxes) > DUPLICATE_IOU  # (N, N)
    if alike.sum() <= len(boxes):  # each row is like itself
        return np.zeros(len(boxes), np.bool_)
    distance = np.linalg.norm(keypoints[:, None] - keypoints[None], axis=-1).mean(axis=-1)  # (N, N) px
    size = (boxes[:, 2:] - boxes[:, :2]).max(axis=1)
    age = np.argsort(np.argsort(since, kind="stable"))  # 0 is the oldest
    return (alike & (distance < DUPLICATE_DISTANCE * size) & (age[:, None] < age)).any(axis=0)
