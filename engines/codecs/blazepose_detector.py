"""Read the BlazePose detector: an SSD whose boxes carry alignment points, merged by weighted NMS.

Bazarevsky et al., "BlazePose: On-device Real-time Body Pose tracking", 2020; numbers and order of steps as in
MediaPipe 0.10's SsdAnchorsCalculator, TensorsToDetectionsCalculator and NonMaxSuppressionCalculator.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np

from engines.codecs.blazepose_alignment import rois_from_alignment, sigmoid
from engines.codecs.detections import Detections, Reduced, pack
from engines.contracts.contract import BlazePoseDetectorCodec, Contract
from engines.device.arrays import Outputs
from engines.images.boxes import iou

if TYPE_CHECKING:
    from engines.device.streams import Stream

BOX_VALUES = 4  # centre x, y, width, height


def reduce(
    outputs: Outputs, contract: Contract, min_score: float, nms_iou: float, stream: Stream | None = None
) -> Reduced:
    """Detections of each of B images as `engines.codecs.detections.finish` wants them.

    `boxes` are the squares around the body circles, not the boxes around head and torso of the raw output.

    Args:
        outputs: boxes (B, A, 4 + 2 points) and scores (B, A, 1) as logits, for A anchors.
        contract: whose codec is `blazepose-detector`.
        min_score: detections below are left out.
        nms_iou: detections that overlap more than this are one.
        stream: not needed, for LiteRT runs on the host; all codecs are called alike.
    """
    codec = contract.codec
    assert isinstance(codec, BlazePoseDetectorCodec)  # the registry dispatches on it
    centres = anchors(contract.input.size, tuple(codec.strides), tuple(codec.anchors_per_cell))
    scores = sigmoid(outputs["scores"][..., 0])  # (B, A)
    detections = []
    for item, kept in enumerate(scores >= min_score):
        raw = outputs["boxes"][item, kept]
        corners, points = _decode_boxes(raw, centres[kept], codec.points)
        points, merged_scores = weighted_nms(corners, points, scores[item, kept], nms_iou)
        detections.append(_detections(points[:, :2], merged_scores, codec.roi_scale))
    return pack(detections)


@functools.cache
def anchors(size: tuple[int, int], strides: tuple[int, ...], per_cell: tuple[int, ...]) -> np.ndarray:
    """(A, 2): the anchors' centres in px of an input of `size`, row by row, the first stride first."""
    grids = []
    for stride, count in zip(strides, per_cell, strict=True):
        columns, rows = -(-size[0] // stride), -(-size[1] // stride)
        x, y = np.meshgrid(np.arange(columns) + 0.5, np.arange(rows) + 0.5)
        cells = np.stack([x.ravel() / columns * size[0], y.ravel() / rows * size[1]], axis=1)
        grids.append(np.repeat(cells, count, axis=0))
    return np.concatenate(grids).astype(np.float32)


def _decode_boxes(raw: np.ndarray, centres: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Corners (M, 4) and points (M, P, 2) of raw values (M, 4 + 2 P) relative to their anchors (M, 2)."""
    centre, half = raw[:, :2] + centres, raw[:, 2:BOX_VALUES] / 2
    corners = np.concatenate([centre - half, centre + half], axis=1)
    points = raw[:, BOX_VALUES : BOX_VALUES + 2 * count].reshape(-1, count, 2) + centres[:, None]
    return corners, points


def weighted_nms(
    corners: np.ndarray, points: np.ndarray, scores: np.ndarray, max_iou: float
) -> tuple[np.ndarray, np.ndarray]:
    """Merge overlapping detections: points (N, P, 2) weighted by score, and each group's top score (N,).

    The best detection and all that overlap it by more than `max_iou` make a group; then the best of the
    rest, until none is left. Corners are (M, 4), points (M, P, 2), scores (M,).
    """
    order = np.argsort(-scores, kind="stable")
    overlaps = iou(corners, corners) > max_iou
    np.fill_diagonal(overlaps, True)  # a box without area is still its own group
    merged, tops = [], []
    while len(order):
        best = order[0]
        group = overlaps[best, order]
        members = order[group]
        merged.append(np.average(points[members], axis=0, weights=scores[members]))
        tops.append(scores[best])
        order = order[~group]
    return np.array(merged, np.float32).reshape(-1, *points.shape[1:]), np.array(tops, np.float32)


def _detections(points: np.ndarray, scores: np.ndarray, roi_scale: float) -> Detections:
    centre = points[:, 0]
    radius = np.hypot(*(points[:, 1] - centre).T)[:, None]
    boxes = np.concatenate([centre - radius, centre + radius], axis=1)
    classes = np.zeros(len(points), np.int64)
    return Detections(boxes, scores, classes, rois_from_alignment(points, roi_scale))
