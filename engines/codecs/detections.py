"""Detections: the result of every detector's codec, and the steps that these codecs share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from engines.images.boxes import nms

# The result of a codec's `reduce`: arrays or tensors by name.
# For a detector the names are fields of `Detections`, the first axis is the image, and rows go from the best
# score down. `kept` selects the rows to keep in each image. Tensors are (B, M, …), padded with rows of score
# 0, and `kept` is (B, M) bool; where `kept` is missing, overlapping boxes have not been suppressed yet.
Reduced = dict[str, Any]


class Detections(NamedTuple):
    """The N detections of one image, best score first; in px of the model's input, later of the frame."""

    boxes: np.ndarray  # (N, 4) float32, x0, y0, x1, y1
    scores: np.ndarray  # (N,) float32, 0..1
    classes: np.ndarray  # (N,) int64, index into the contract's labels
    rois: np.ndarray | None = None  # (N, 5) float32, centre x, y, width, height, angle in rad
    keypoints: np.ndarray | None = None  # (N, K, 2) float32, of a one-stage pose model
    keypoint_scores: np.ndarray | None = None  # (N, K) float32, 0..1, if the model scores keypoints


def pack(found: Sequence[Detections]) -> Reduced:
    """Detections of B images on the host, in the form that `finish` takes; all rows are kept."""
    fields = zip(Detections._fields, *found, strict=True)
    columns = {name: arrays for name, *arrays in fields if arrays and arrays[0] is not None}
    return columns | {"kept": [slice(None)] * len(found)}


def finish(reduced: Mapping[str, Any], nms_iou: float) -> list[Detections]:
    """The detections of each image in px of the model's input, best first.

    Args:
        reduced: the result of a codec's `reduce`, on the host.
        nms_iou: the value that `reduce` was given; used for boxes that the device did not suppress.
    """
    fields = {name: rows for name, rows in reduced.items() if name != "kept"}
    if "kept" in reduced:
        kept = reduced["kept"]
    else:
        images = zip(fields["boxes"], fields["scores"], fields["classes"], strict=True)
        kept = [_suppress(*image, nms_iou) for image in images]
    return [
        Detections(**{name: rows[image][selection] for name, rows in fields.items()})
        for image, selection in enumerate(kept)
    ]


def _suppress(boxes: np.ndarray, scores: np.ndarray, classes: np.ndarray, nms_iou: float) -> np.ndarray:
    """The rows of one image that stay; rows of score 0 are padding."""
    real = np.flatnonzero(scores > 0)
    return real[nms(boxes[real], scores[real], classes[real], nms_iou)]
