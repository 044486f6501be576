"""Regions of interest of many instances, and the search for duplicate poses; functions on arrays.

A region (5,) is the centre x, y, the width and height in px, and the angle in rad.
"""

from __future__ import annotations

import numpy as np

from engines.images.boxes import iou

# Two poses are of one person if the IoU of their boxes is above, and the mean distance of their keypoints, as
# a fraction of the box's long side, is below these.
DUPLICATE_IOU, DUPLICATE_DISTANCE = 0.8, 0.1


def squares_around(boxes: np.ndarray, scale: float) -> np.ndarray:
    """(N, 5) float32: upright squares around boxes (N, 4); side: the box's long side times `scale`."""
    low, high = boxes[:, :2], boxes[:, 2:]
    side = np.maximum((high - low).max(axis=1), 1.0)[:, None] * scale
    return np.concatenate([(low + high) / 2, side, side, np.zeros_like(side)], axis=1, dtype=np.float32)


def upright_ious(rois: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(N,): intersection over union of regions (N, 5), row by row; the angles are ignored."""
    return np.diagonal(iou(_upright(rois), _upright(others)))


def _upright(rois: np.ndarray) -> np.ndarray:
    return np.concatenate([rois[:, :2] - rois[:, 2:4] / 2, rois[:, :2] + rois[:, 2:4] / 2], axis=1)


def enclosing_boxes(keypoints: np.ndarray) -> np.ndarray:
    """(N, 4): x0, y0, x1, y1 around keypoints (N, K, 2)."""
    return np.concatenate([keypoints.min(axis=1), keypoints.max(axis=1)], axis=1)


def duplicates(keypoints: np.ndarray, boxes: np.ndarray, since: np.ndarray) -> np.ndarray:
    """(N,) bool: rows whose pose is also that of an older row; of equally old rows, the first one stays.

    Args:
        keypoints: (N, K, 2) px.
        boxes: (N, 4) around the keypoints.
        since: (N,) when each instance was first seen; smaller is older.
    """
    if len(boxes) < 2:
        return np.zeros(len(boxes), np.bool_)
    similar = iou(boxes, boxes) > DUPLICATE_IOU  # (N, N)
    if similar.sum() <= len(boxes):  # each row is similar to itself only
        return np.zeros(len(boxes), np.bool_)
    distance = np.linalg.norm(keypoints[:, None] - keypoints[None], axis=-1).mean(axis=-1)  # (N, N) px
    size = (boxes[:, 2:] - boxes[:, :2]).max(axis=1)
    age = np.argsort(np.argsort(since, kind="stable"))  # 0 is the oldest
    return (similar & (distance < DUPLICATE_DISTANCE * size) & (age[:, None] < age)).any(axis=0)
