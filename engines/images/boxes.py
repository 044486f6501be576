"""Overlap of boxes, and non-maximum suppression."""

from __future__ import annotations

from typing import Any

import numpy as np

TINY = float(np.finfo(np.float32).tiny)


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes (N, 4) and (M, 4), x0 y0 x1 y1: (N, M); 0 where both are empty."""
    return overlap(a[:, None], b)


def overlap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of each box in a (…, 4) with the box at the same place in b (…, 4): (…)."""
    sides = np.maximum(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0)
    common = sides[..., 0] * sides[..., 1]
    return common / np.maximum(_area(a) + _area(b) - common, TINY)


def _area(boxes: np.ndarray) -> np.ndarray:
    sides = np.maximum(boxes[..., 2:] - boxes[..., :2], 0)
    return sides[..., 0] * sides[..., 1]


def nms(boxes: np.ndarray, scores: np.ndarray, classes: np.ndarray, max_iou: float) -> np.ndarray:
    """The rows that greedy non-maximum suppression within each class keeps, best score first.

    Args:
        boxes: (N, 4) x0 y0 x1 y1.
        scores: (N,).
        classes: (N,) int; boxes of different classes never suppress each other.
        max_iou: a box is removed if it overlaps a kept one by more than this.
    """
    if not len(boxes):
        return np.empty(0, np.intp)
    import cv2  # here, since reading a contract imports this file and must not wait for OpenCV

    xywh: Any = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1).astype(np.float64)
    ranks: Any = scores.astype(np.float32)
    groups: Any = classes.astype(np.int32)  # Any: OpenCV's stubs know only lists
    kept = np.array(cv2.dnn.NMSBoxesBatched(xywh, ranks, groups, -1.0, max_iou), np.intp)
    return kept[np.argsort(-scores[kept], kind="stable")]
