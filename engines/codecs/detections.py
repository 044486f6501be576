"""What every detector's codec gives, one for each image, and what their codecs share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from engines.images.boxes import nms

# What a codec's `reduce` gives: by name, fields of `Detections` for each of B images, rows best first, and
# `kept`, what selects those to keep. Of tensors they are tensors (B, M, …), rows of score 0 only fill up, and
# `kept` is (B, M) bool; without it overlapping ones are still among them.
Reduced = dict[str, Any]


class Detections(NamedTuple):
    """The N detections of one image, best score first; px of the model's input until they are mapped back."""

    boxes: np.ndarray  # (N, 4) float32, x0, y0, x1, y1
    scores: np.ndarray  # (N,) float32, 0..1
    classes: np.ndarray  # (N,) int64, index into the contract's labels
    rois: np.ndarray | None = None  # (N, 5) float32, centre x, y, width, height, angle in rad
    keypoints: np.ndarray | None = None  # (N, K, 2) float32, of a one-stage pose model
    keypoint_scores: np.ndarray | None = None  # (N, K) float32, 0..1, if it tells how sure it is of each


def pack(found: Sequence[Detections]) -> Reduced:
    """Detections of B images that are on the host, as `finish` wants them; all rows of each are kept."""
    fields = zip(Detections._fields, *found, strict=True)
    columns = {name: arrays for name, *arrays in fields if arrays and arrays[0] is not None}
    return columns | {"kept": [slice(None)] * len(found)}


def finish(reduced: Reduced, nms_iou: float) -> list[Detections]:
    """Detections of each image in px of the model's input, best first; that of all detectors' codecs.

    Args:
        reduced: what the codec's `reduce` gave, on the host.
        nms_iou: that it was given, for boxes that the device could not suppress.
    """
    fields = {name: rows for name, rows in reduced.items() if name != "kept"}
    if "kept" in reduced:
        kept = reduced["kept"]
    else:
        images = zip(fields["boxes"], fields["scores"], fields["classes"], strict=True)
        kept = [_kept(*image, nms_iou) for image in images]
    return [
        Detections(**{name: rows[image][which] for name, rows in fields.items()})
        for image, which in enumerate(kept)
    ]


def _kept(boxes: np.ndarray, scores: np.ndarray, classes: np.ndarray, nms_iou: float) -> np.ndarray:
    real = np.flatnonzero(scores > 0)
    return real[nms(boxes[real], scores[real], classes[real], nms_iou)]
