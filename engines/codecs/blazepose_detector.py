"""Read the BlazePose detector: an SSD whose boxes carry alignment points, merged by weighted NMS.

Bazarevsky et al., "BlazePose: On-device Real-time Body Pose tracking", 2020; numbers and order of steps as in
MediaPipe 0.10's SsdAnchorsCalculator, TensorsToDetectionsCalculator and NonMaxSuppressionCalculator.
"""

from __future__ import annotations

import functools
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from engines.codecs.base import DetectionRequest, DetectorCodec, ExpectedOutput, ModelSizes
from engines.codecs.blazepose_alignment import rois_from_alignment, sigmoid
from engines.codecs.detections import Detections, Reduced, pack
from engines.device.arrays import Outputs
from engines.images.boxes import iou

BOX_VALUES = 4  # centre x, y, width, height


class BlazePoseDetectorCodec(DetectorCodec):
    """SSD boxes and alignment points of the BlazePose detector."""

    kind: Literal["blazepose-detector"]
    strides: list[int]
    anchors_per_cell: list[int] = Field(description="one number for each entry of strides")
    points: int = Field(description="alignment points behind the box: hip centre, then the body's circle, …")
    roi_scale: float

    # MediaPipe's own thresholds (pose_detection_cpu.pbtxt).
    default_min_score: ClassVar[float] = 0.5
    default_nms_iou: ClassVar[float] = 0.3
    gives_rois: ClassVar[bool] = True
    aligns_pixel_centres: ClassVar[bool] = False

    def expected_outputs(self, model: ModelSizes) -> dict[str, ExpectedOutput]:
        """Nothing: the shapes of this one model are not checked."""
        return {}

    def reduce(self, outputs: Outputs, request: DetectionRequest) -> Reduced:
        """See `DetectorCodec.reduce`. LiteRT runs this model on the host, so there are only arrays.

        `boxes` are the squares around the body circles, not the model's boxes around head and torso. Of
        overlapping detections, the average by score is taken (weighted NMS).

        Args:
            outputs: boxes (B, A, 4 + 2 points) and scores (B, A, 1) as logits, for A anchors.
            request: as for every detector.
        """
        centres = anchors(request.model.input_size, tuple(self.strides), tuple(self.anchors_per_cell))
        scores = sigmoid(outputs["scores"][..., 0])  # (B, A)
        detections = []
        for item, kept in enumerate(scores >= request.min_score):
            raw = outputs["boxes"][item, kept]
            corners, points = _decode_boxes(raw, centres[kept], self.points)
            points, merged_scores = weighted_nms(corners, points, scores[item, kept], request.nms_iou)
            detections.append(_detections(points[:, :2], merged_scores, self.roi_scale))
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
    """Merge overlapping detections: points (N, P, 2) averaged by score, and each group's top score (N,).

    The best detection and all that overlap it by more than `max_iou` form a group. Then the best of the rest
    starts the next group, until none is left. Corners are (M, 4), points (M, P, 2), scores (M,).
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
