"""Read RTMDet's output: boxes and labels, before suppression (our own exports) or after it (MMDeploy's).

Lyu et al., "RTMDet: An Empirical Study of Designing Real-Time Object Detectors" (arXiv:2212.07784).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from engines.codecs.detections import Detections, Reduced, pack
from engines.contracts.contract import Contract
from engines.device.arrays import Array, Outputs, is_tensor, single
from engines.images.boxes import nms

if TYPE_CHECKING:
    from engines.device.streams import Stream


def reduce(
    outputs: Outputs, contract: Contract, min_score: float, nms_iou: float, stream: Stream | None = None
) -> Reduced:
    """The detections of each image as `engines.codecs.detections.finish` wants them.

    Args:
        outputs: `boxes` (B, n, 5) x0 y0 x1 y1 score and `labels` (B, n); arrays or tensors. From our own
            graphs n is the number of cells; MMDeploy's have suppressed at 0.6 already, and rows that fill up
            a batch score 0.
        contract: not needed; all codecs are called alike.
        min_score: of the detection.
        nms_iou: of two boxes of a class that overlap more, the better one stays.
        stream: the current one, if the outputs are tensors.
    """
    rows, labels = single(outputs["boxes"]), outputs["labels"]
    if is_tensor(rows):
        return _reduce_tensors(rows, labels, min_score, nms_iou, stream)
    images = zip(rows, labels, strict=True)
    return pack([_decode_image(*one, min_score, nms_iou) for one in images])


def _decode_image(rows: np.ndarray, labels: np.ndarray, min_score: float, nms_iou: float) -> Detections:
    good = (rows[:, 4] >= min_score) & (rows[:, 4] > 0)
    boxes, scores = rows[good, :4], rows[good, 4]
    classes = labels[good].astype(np.int64)
    kept = nms(boxes, scores, classes, nms_iou)
    return Detections(boxes[kept], scores[kept], classes[kept], None)


def _reduce_tensors(
    rows: Array, labels: Array, min_score: float, nms_iou: float, stream: Stream | None
) -> Reduced:
    from engines.codecs.device_candidates import best, suppressed, take

    scores, found = best(rows[..., 4], min_score)
    boxes, classes = take(rows[..., :4], found), labels.gather(1, found).long()
    return suppressed(boxes, scores, classes, nms_iou, stream)
